"""Tokens -> weights: one loop, resumable to the bit.

trainer: the loop. schedule: the learning rate. trained: the model of a finished run, read back from its files.

May import: runtime, study, data, models.
"""
