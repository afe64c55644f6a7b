"""Tables as CSV, Markdown and LaTeX.

paper_tables: the paper's, ours beside. all_metrics: every sample set. variance: sources of error. fast_modes: accepted
or refused. inputs: what a table reads. formats: Markdown and LaTeX.

May import: as `mar.report`.
"""
