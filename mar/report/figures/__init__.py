"""Figures as PDF, PNG and CSV.

draw: `mar figure`. claims: what was measured of each claim, beside the paper's. curves: trade-off, diffusion steps,
temperature. guidance, learning, losses, samples, sweeps. style: colours, sizes and fonts of all, where labels stand.

May import: as `mar.report`.
"""
