"""Heads: the distribution of one token given its condition z.

head: builds the head of a variant. diffusion_loss: the paper's. categorical: cross-entropy. mean_squared_error,
mixture: comparators. Every head has the methods draw (random numbers of the loss), loss and sample.

May import: as `mar.models`.
"""
