"""The same images by other evaluators, and why they differ: `mar court`.

run: the command. inputs: which sets of images are judged, and which are refused. evaluators: ours and the others.
reasons: why another evaluator gives another number. table: the tables that are shown. adm: the formulas of the ADM
suite. export_adm: an .npz for the ADM suite.

May import: runtime, study, data, features, metrics.
"""
