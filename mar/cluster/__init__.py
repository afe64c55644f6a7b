"""Jobs: submit, follow, stop. The only package that knows submitit; no torch.

launch: `mar launch`, and jobs on this machine. slurm: what Slurm is asked and told. slurm_launch: jobs on Slurm.
job_process: what a job runs. processes: whether a process of this machine runs, and how it is ended. records: what the
folder of a job keeps. jobs: `mar jobs` and `mar cancel`. resources: settings of a machine as resources of the workflow.

May import: runtime.
"""
