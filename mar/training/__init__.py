"""Tokens -> weights: one loop, resumable to the bit.

trainer: the loop. schedule: the learning rate. trained: a finished run, read back.

May import: runtime, study, data, models.
"""
