"""Tables as CSV, Markdown and LaTeX.

paper_tables: tables of the paper with our numbers beside. all_metrics: every metric of every sample set. variance:
sources of error. learning, laws: curves of learning, VAR's power laws. fast_modes: fast sampling, accepted or refused.
inputs: files that a table reads. formats: Markdown and LaTeX.

May import: as `mar.report`.
"""
