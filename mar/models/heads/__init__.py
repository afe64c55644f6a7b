"""Heads: the distribution of one token given its condition z.

head: builds one. diffusion_loss: the paper's. categorical: cross-entropy. mean_squared_error, mixture: comparators.
A head has draw, loss and sample.

May import: as `mar.models`.
"""
