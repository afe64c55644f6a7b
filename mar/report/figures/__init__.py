"""Figures as PDF, PNG and CSV.

draw: `mar figure`. curves: trade-off, diffusion steps, temperature. sweeps, samples, losses. style: their colours,
sizes and fonts.

May import: as `mar.report`.
"""
