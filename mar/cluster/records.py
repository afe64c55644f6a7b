"""What the folder of a job keeps: job.json, the record of its last job, and how each task of the job ended."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, NonNegativeFloat, NonNegativeInt, PositiveInt, StringConstraints, model_validator

from mar.runtime.files import FileName, Record, read, write

JOB = "job.json"


def _is_a_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Time = Annotated[str, AfterValidator(_is_a_time)]
SlurmId = Annotated[str, StringConstraints(pattern=r"^[0-9]+(_[0-9]+)?$")]  # 12, or 12_3 in an array


class Job(Record):
    """job.json: the last job of its folder.

    Attributes:
        state: where the launcher left the job; `left` is a job of Slurm that has to be submitted again.
        cluster: where the job runs: in a process of its own, in the launcher's, or on Slurm.
        command: the command of `mar` as it is typed.
        hash: names the command and what its result depends on.
        host: the machine of the process `pid`, which is the job itself or, on Slurm, the launcher.
        submitted: time of the submission, in ISO 8601.
        output: file beside job.json into which the job prints; None before Slurm gave an id, and in the launcher's own
            process.
        cpu_seconds: what the job's process and its children have computed; None where it ended without telling, and on
            Slurm.
    """

    state: Literal["submitting", "running", "finished", "failed", "stopped", "left"]
    cluster: Literal["local", "debug", "slurm"]
    command: str
    hash: Digest
    host: str
    pid: PositiveInt
    submitted: Time
    output: FileName | None
    cpu_seconds: NonNegativeFloat | None = None


class LocalJob(Job):
    """A job of this machine. `started` is the start of its process in clock ticks since boot, None if it was gone."""

    state: Literal["running", "finished", "failed", "stopped"]
    cluster: Literal["local", "debug"]
    job: FileName
    started: NonNegativeInt | None


class SlurmJob(Job):
    """A submission to Slurm: one job, or an array of jobs that each do a share of the command.

    Attributes:
        job: id of the job or of the array; None until Slurm gave it.
        token: comment of the submission, by which its jobs are found when their ids were never written.
        jobs: ids of the jobs, one for each of `shards`.
        shards: which shares of the command the jobs do.
        left: shares that were not done when the submission ended.
        user: who submitted; empty in records of before there was this key.
    """

    cluster: Literal["slurm"]
    job: SlurmId | None
    token: Annotated[str, StringConstraints(pattern=r"^mar-[0-9a-f]{16}-[0-9a-f]{8}$")]
    jobs: tuple[SlurmId, ...]
    shards: tuple[NonNegativeInt, ...]
    left: tuple[NonNegativeInt, ...] = ()
    user: str = ""

    @model_validator(mode="after")
    def _one_job_for_each_shard(self) -> Self:
        if len(self.jobs) != len(self.shards) and (self.jobs or self.state == "running"):
            raise ValueError(f"jobs: found {len(self.jobs)} for {len(self.shards)} shards; accepted: one for each")
        return self


class Outcome(Record):
    """How a task of a job ended.

    Attributes:
        status: exit status of its command.
        traceback: that of what the command raised.
        cpu_seconds: what its process and the children of it have computed.
        token: of its submission. Ids of jobs are counted anew when a cluster is, and an outcome of before is not ours.
    """

    status: int
    traceback: str = ""
    cpu_seconds: NonNegativeFloat | None = None
    token: str = ""


def read_job(folder: Path) -> LocalJob | SlurmJob | None:
    """The record of the folder's last job, None where there was none; an empty file is what a dead machine leaves.

    Raises:
        ValueError: the file is not such a record.
    """
    path = folder / JOB
    if not path.exists() or not path.stat().st_size:
        return None
    if read(path, Job).cluster == "slurm":
        return read(path, SlurmJob)
    return read(path, LocalJob)


def write_job(folder: Path, job: LocalJob | SlurmJob) -> None:
    """Put a job on record in its folder."""
    write(folder / JOB, job)


def outcome_file(folder: Path, job: str, task: int = 0) -> Path:
    """File that a task of a job writes when its command ends, beside what the task printed."""
    return folder / f"{job}_{task}_outcome.json"


def read_outcome(folder: Path, job: str, task: int = 0, of: SlurmJob | None = None) -> Outcome | None:
    """How a task of a job ended, None while it has not told.

    Args:
        folder: the job's folder.
        job: its id.
        task: rank of the task.
        of: the submission. An outcome of another one with the same id is passed over.

    Raises:
        ValueError: the file is not such a record.
    """
    path = outcome_file(folder, job, task)
    if not path.exists() or not path.stat().st_size:
        return None
    outcome = read(path, Outcome)
    return None if of and outcome.token not in ("", of.token) else outcome
