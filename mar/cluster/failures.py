"""Why a job of Slurm ended, what to change, and where its output is."""

from __future__ import annotations

import re
from pathlib import Path

import submitit

from mar.cluster.job_process import STUCK
from mar.cluster.queue import State
from mar.cluster.records import read_outcome
from mar.runtime.stop_signals import LEFT

# States that Slurm does not have.
VANISHED = "VANISHED"  # neither the queue nor the accounting knows the job
EARLY = "WARNED_EARLY"  # a warning ended the job before it could listen, while Python was starting
NEVER = "CANNOT_START"  # it waits for what will not come
AGAIN = {"PREEMPTED", VANISHED, EARLY, "LEFT"}  # after these the launcher submits the job again by itself

ADVICE = {
    "BOOT_FAIL": "the node did not start; run the same command again",
    "CANCELLED": "somebody cancelled it (scancel, mar cancel); run the same command to go on from the last checkpoint",
    "COMPLETED": "it ended without a result, so something ended its process; see the log",
    "DEADLINE": "its deadline passed; see --deadline in the site's extra lines",
    "FAILED": "see the log; the same command goes on from the last checkpoint",
    "NODE_FAIL": "its node died; run the same command to go on elsewhere (exclude a bad node with `slurm_extra`)",
    "OUT_OF_MEMORY": "ask for more memory (`mem_mb`), or make `micro_batch` of the recipe or `memory.sampling` smaller",
    "REVOKED": "another cluster of the federation runs it",
    EARLY: "a warning (preemption, or time running out) came while Python was starting; if it comes each time, ask for "
    "more time (`runtime`) or a later warning (`slurm_signal`)",
    NEVER: "Slurm would never start it, so it was ended; ask for what the partition, the account and the QOS allow "
    "(`runtime`, `nodes`, `gpus_per_node`, `mem_mb`, `slurm_extra`)",
    "TIMEOUT": "its time limit came before it could save; ask for more time (`runtime`), or for an earlier warning "
    "(`slurm_signal`), then run the same command to go on from the last checkpoint",
}


def log(folder: Path, job: str, task: int = 0) -> Path:
    """File of what a task prints."""
    return Path(submitit.core.utils.JobPaths(folder.absolute(), job, task).stdout)


def warned_early(folder: Path, job: str) -> bool:
    """Whether the log says that a warning ended a task, which it does until the task listens."""
    return bool(re.search(r"error: \S+: tasks? [\d,-]+: User defined signal [12]\b", _tail(log(folder, job))))


def why(folder: Path, job: str, state: State, lines: int = 12) -> str:
    """Why a job failed, what to change, and the last lines of the log that says most."""
    task, reason = 0, f"{state}: {ADVICE.get(state.state, 'see the log')}"
    ranks = sorted(int(path.name.split("_")[-2]) for path in folder.glob(f"{job}_*_outcome.json"))
    for rank in ranks:
        outcome = read_outcome(folder, job, rank)
        if outcome and outcome.traceback:
            last = outcome.traceback.strip().splitlines()[-1]
            task, reason = rank, last if outcome.status == STUCK else f"rank {rank} raised {last}"
            if "No space left on device" in outcome.traceback:
                reason += "; make space, then run the same command to go on"
            break
    else:
        text = _tail(log(folder, job))
        ended = [e for e in re.findall(r"error: (\S+): tasks? ([\d,-]+): (.*)", text) if not e[2].endswith(f" {LEFT}")]
        if re.search(r"[Ee]xceeded job memory limit|oom.kill", text):
            reason = f"OUT_OF_MEMORY ({state.where}): {ADVICE['OUT_OF_MEMORY']}"
        elif ended and state.state in ("FAILED", "COMPLETED"):  # srun ends the other tasks because of the first
            node, tasks, how = ended[0]
            task = int(re.split(r"[,-]", tasks)[0])
            reason = f"rank {tasks} on {node}: {how}; {ADVICE['FAILED']}"
    file = log(folder, job, task)
    shown = [line for line in _tail(file).splitlines() if line.strip() and not line.startswith("submitit ")][-lines:]
    return "\n".join([reason, f"last lines of {file}:", *(f"  {line}" for line in shown)])


def _tail(path: Path, size: int = 100_000) -> str:
    """The end of a file, or nothing."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors="replace")
