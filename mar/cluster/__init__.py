"""Jobs: submit, follow, stop. The only package that knows submitit; no torch.

launch: `mar launch`, and jobs on this machine. slurm: what Slurm is told. queue: what it says. failures: why a job
ended. slurm_launch: jobs on Slurm. job_process: what a job runs. fork_server: a process that has imported what jobs
import, and forks those of this machine. processes: whether a process of this machine runs, and how it is ended.
records: what the folder of a job keeps. jobs: `mar jobs` and `mar cancel`. spent: GPU hours by the accounting.
resources: settings of a machine as resources of the workflow. site: the script of a rule at a site.

May import: runtime.
"""
