"""Figures as PDF, PNG and CSV.

draw: `mar figure`. curves: trade-off, diffusion steps, temperature. sweeps, samples, losses. style: how all look.

May import: as `mar.report`.
"""
