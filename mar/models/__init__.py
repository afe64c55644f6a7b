"""Backbones, heads and the diffusion between them; order of generation; VAR's quantiser.

model: a backbone and a head together. masked, causal, scales: backbones, of blocks. dit: the comparator. heads/: the
distribution of one token. diffusion/: schedule and reverse step, solvers. order: which token comes when. multiscale:
VAR's quantiser.

May import: runtime, study, data.
"""
