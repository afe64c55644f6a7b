"""Figures as PDF, PNG and CSV.

draw: `mar figure`. claims: what was measured of each claim, beside the paper's. curves: trade-off, diffusion steps,
temperature. guidance, laws, learning, losses, rejection, samples, sweeps, tasks, tokenizers. style: colours, sizes
and fonts, places of labels.

May import: as `mar.report`.
"""
