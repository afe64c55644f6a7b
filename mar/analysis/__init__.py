"""Metric files -> estimates, comparisons, verdicts. Draws nothing; imports no torch by itself.

result_files: each file read once. estimates: numbers with intervals, comparisons. metric_kinds: names and scales.
paper_columns: columns of the paper's tables. curve_points: points of a figure. verdicts: the claims judged. confounds:
what keeps a comparison from deciding. seed_variance: what a metric moves with. acceptance: of fast modes.

May import: runtime, study, data, paper, metrics, features.
"""
