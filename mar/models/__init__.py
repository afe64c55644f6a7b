"""Backbones, heads and the diffusion between them; order of generation; VAR's quantiser.

model: a backbone and a head together. masked, causal, scales: backbones, built from blocks. dit: the comparator of
Figure 6. heads/: the distribution of one token. diffusion/: noise schedule, reverse step, solvers. order: the order of
generation. multiscale: VAR's quantiser.

May import: runtime, study, data.
"""
