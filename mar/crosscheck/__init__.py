"""The same images by other evaluators, and why they differ: `mar court`.

run: the command. inputs: what is judged, and what is wrong with it. evaluators: ours and the others. reasons: from one
number to the other. table: what is shown. adm: the ADM suite's rules. export_adm: its .npz.

May import: runtime, study, data, features, metrics.
"""
