#!/bin/bash
# The head of the workflow as a job of its own, where nothing may live for days on a login node:
#   sbatch slurm/head.sh all --profile slurm --profile site.yaml
# Its arguments are those of snakemake. Before its time is up it puts itself back into the queue, and then follows the
# jobs that it left. It asks for no GPU; give it the longest partition without one: sbatch --partition=cpu slurm/head.sh ...
#SBATCH --job-name=mar-head
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=1-00:00:00
#SBATCH --signal=B:USR2@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=mar-head-%j.log

again() {
    echo "head: time is up; back into the queue, the jobs go on"
    scontrol requeue "$SLURM_JOB_ID"
}
trap again USR2
snakemake "$@" &
head=$!
while kill -0 "$head" 2>/dev/null; do wait "$head"; status=$?; done # a trapped signal ends `wait` before the head ends
exit "$status"
