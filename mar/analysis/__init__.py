"""Metric files -> estimates, comparisons, verdicts. Draws nothing; imports no torch by itself.

result_files: the files of a study, each read once. estimates: numbers with intervals, comparisons. metric_kinds: names
and scales of metrics. paper_columns: columns of the paper's tables. curve_points: points of a figure's curve.
findings, verdicts: claims of the paper, decided. contrasts: sums and differences of estimates. quantising, targets:
claims on what tokenizers lose, and on absolute numbers. gate: the check of the tokenizers before a training. confounds:
why a clear comparison may decide no claim. seed_variance: how far metrics move with images and seeds. acceptance: which
fast sampling modes are as good as the default.

May import: runtime, study, data, paper, metrics, features.
"""
