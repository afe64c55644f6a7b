"""Jobs: submit, follow, stop. The only package that knows submitit; no torch.

launch: `mar launch`, and jobs of this machine. slurm, slurm_launch: what Slurm is asked, and jobs of it. job_process:
what a job runs. processes: of this machine. records: what the folder of a job keeps. jobs: `mar jobs` and `mar cancel`.
resources: settings of a machine as resources of the workflow.

May import: runtime.
"""
