"""Tokens -> weights: one loop, resumable to the bit.

trainer: the loop. schedule: the learning rate. sharding: a state split among processes. meter: how well the machine is
used. trained: the model of a finished run, read back from its files.

May import: runtime, study, data, models.
"""
