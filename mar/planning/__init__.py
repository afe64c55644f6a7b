"""What a study will cost, and the drill that shows that it fits.

plan: every job with its operations, hours and disk. costs: operations and parameters, counted by torch. memory: peak
memory of the networks on a GPU, counted without one. kept_costs: both, in plan.json. gpus: what a GPU must have for
each job, and what would fit. slots: what does not fit its slot. status: what is done, runs, waits and failed, and its
GPU hours. machine: what `mar` needs of this machine. doctor: drift. drill_shapes: the shapes of a study. drill: runs
one.

May import: all of the stages.
"""
