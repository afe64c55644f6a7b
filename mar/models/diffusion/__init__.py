"""Gaussian diffusion: schedule, losses, reverse steps and solvers.

gaussian: noise schedule, respacing, one reverse step, losses. solvers: DDIM and DPM-Solver++.

May import: as `mar.models`.
"""
