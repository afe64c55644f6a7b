"""What a job runs: one command of `mar`, in a process that submitit has started, or a fork server forked."""

from __future__ import annotations

import hashlib
import os
import pkgutil
import resource
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import submitit
from pydantic import NonNegativeInt

from mar.cluster import gpus
from mar.cluster.records import Outcome, SlurmJob, outcome_file, read_job
from mar.runtime import stop_signals
from mar.runtime.environment import THREADS
from mar.runtime.files import Record, atomic, read, write, written
from mar.runtime.folders import RECIPE

ENTRY = "mar.cli.__main__:main"  # the commands of `mar`
SUPERSEDED = 76  # exit status of a job in whose place another was submitted
STUCK = 77  # exit status of a job that two slots in a row brought no further
SLOTS = 2  # slots in a row without anything kept, after which a job goes into the queue no more


@dataclass(frozen=True)
class Command:
    """One command of `mar`, handed to the job's process; called there, it returns the exit status of the command.

    Attributes:
        arguments: the command and its options, as after `mar`.
        cluster: where the job runs: local, debug or slurm.
        devices: CUDA_VISIBLE_DEVICES of the launcher, for a local job.
        gpus: GPUs that a local job takes from other jobs; 0 leaves it all that `devices` shows.
        folder: the job's folder.
        token: names the submission to Slurm.
        outputs: files that are linked into the folder when the command is done.
        options: options of `mar` itself, before the command.
    """

    arguments: tuple[str, ...]
    cluster: str
    devices: str | None = None
    folder: str = ""
    token: str = ""
    outputs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    gpus: int = 0

    def __call__(self) -> int:
        """Run the command in this process and put on record how it ended.

        In the launcher's own process (`debug`) nothing is put on record, and what the command raises passes through.
        """
        if self.cluster == "debug":
            return self.here()
        environment = submitit.JobEnvironment()
        file = outcome_file(Path(self.folder), environment.job_id, environment.global_rank)
        file.unlink(missing_ok=True)  # an outcome from before a requeue
        try:
            status = self._slurm(environment) if self.cluster == "slurm" else self._local()
        except Exception as error:
            raised = str(error) if isinstance(error, Stuck) else traceback.format_exc()
            print(raised.rstrip(), file=sys.stderr, flush=True)  # first: whoever reads the outcome shows the log's end
            status = STUCK if isinstance(error, Stuck) else 1
            write(file, Outcome(status=status, traceback=raised, token=self.token))
            sys.exit(status)  # a status other than 0 lets Slurm end the other tasks
        write(file, Outcome(status=status, cpu_seconds=cpu_seconds(), token=self.token))
        return status

    def _local(self) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit ignores SIGTERM
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # submitit hides the GPUs that were not asked for
        if self.devices is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.devices
        return self.here()

    def here(self) -> int:
        """Exit status of the command on this machine, with GPUs of its own where it asks for them.

        With several a training runs in one process for each; any other command uses one.
        """
        arguments = (*self.options, *self.arguments)
        if not self.gpus:
            return run(arguments)
        with gpus.taken(self.gpus) as names:
            os.environ[gpus.VISIBLE] = ",".join(names)
            print(f"launch: computes on GPU {', '.join(names)}", flush=True)
            if len(names) == 1:
                return run(arguments)
            with subprocess.Popen(gpus.torchrun(len(names), arguments)) as ranks:
                signal.signal(signal.SIGTERM, lambda *_: ranks.terminate())
                return ranks.wait()

    def _slurm(self, environment: submitit.JobEnvironment) -> int:
        record = read_job(Path(self.folder))
        if not isinstance(record, SlurmJob) or record.token != self.token:
            print("another job was submitted in the place of this one; nothing to do", flush=True)
            return SUPERSEDED
        rank, training = environment.global_rank, verb(self.arguments) == "train"
        stop_signals.listen(at_once=not training)
        cores_of_task()
        if environment.num_tasks > 1:
            # One task per GPU. A training shares its batches among them (mar/runtime/distributed.py); any other command
            # is the first task's work.
            if rank and not training:
                return 0
            distributed = submitit.helpers.TorchDistributedEnvironment()
            distributed.export(set_cuda_visible_devices=False, overwrite=True)
        try:
            status = run((*self.options, *self.arguments))
        except Exception:
            # The request to leave is raised wherever the command is, and code that it passes may turn it into an error
            # of its own, as an import does that is cut off.
            if training or not stop_signals.asked():
                raise
            traceback.print_exc()
            status = stop_signals.LEFT
        if status and stop_signals.asked() and (status == stop_signals.LEFT or not training):
            return self._leave(rank, environment.raw_job_id)
        if status == 0 and rank == 0:
            keep(Path(self.folder), self.outputs)
        return status

    def _leave(self, rank: int, job: str) -> int:
        """Put the job back into the queue. Where that is forbidden, the launcher sees the status and submits again."""
        if not stop_signals.warned():
            sys.exit(stop_signals.LEFT)  # after SIGTERM Slurm itself decides whether the job goes back into the queue
        if rank:
            return stop_signals.LEFT
        self._count_slot()
        try:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        except FileNotFoundError:  # in a container: the job's script, which runs outside, puts it back
            (Path(self.folder) / requeue_mark(job)).touch()
            return stop_signals.LEFT
        if done.returncode:
            print(f"scontrol requeue {job}: {done.stderr.strip()}", flush=True)
            return stop_signals.LEFT
        print(f"job {job} goes back into the queue", flush=True)
        sys.exit(stop_signals.LEFT)

    def _count_slot(self) -> None:
        """Put on record what this slot kept.

        Raises:
            Stuck: it kept nothing new, nor did the slot before, so that the next would end as they did.
        """
        file = Path(self.folder) / slots_file(self.arguments)
        last = read(file, Slots) if file.exists() else Slots()
        kept = {str(path) for path in written if path.name != RECIPE and Path(self.folder) not in path.parents}
        idle = 0 if kept - set(last.kept) else last.idle + 1
        if idle < SLOTS:
            write(file, Slots(idle=idle, kept=tuple(sorted(kept | set(last.kept)))))
            return
        file.unlink()  # whoever asks again, with more time, begins anew
        raise Stuck(
            f"{verb(self.arguments)} kept nothing in {SLOTS} slots, and would in no other: it is not put into the "
            "queue again; ask for more time (`runtime`), or, where preemption cut the slots short, for a partition "
            "without it, then run the same command"
        )


class Stuck(Exception):
    """A job that goes on for ever and never gets further."""


class Slots(Record):
    """slots-*.json: what the slots of a job kept so far.

    Attributes:
        idle: how many of the last ones kept nothing new.
        kept: files that they wrote.
    """

    idle: NonNegativeInt = 0
    kept: tuple[str, ...] = ()


def slots_file(arguments: Sequence[str]) -> str:
    """Name of the record of the slots of a command, beside job.json: each shard of a stage has its own."""
    return f"slots-{hashlib.sha256(text(arguments).encode()).hexdigest()[:8]}.json"


def requeue_mark(job: str) -> str:
    """Name of the file by which a job in a container asks its script to put it back into the queue."""
    return f"{job}.requeue"


def cpu_seconds() -> float:
    """Seconds that this process and its finished children have computed, on all cores together."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return round(sum(usage.ru_utime + usage.ru_stime for usage in used), 2)


def cores_of_task() -> None:
    """Let torch, imported later, use as many threads as the task has cores; by default it uses all of the machine.

    sbatch passes on the variables of the shell in which the workflow was started, and those that Snakemake exports for
    a rule that only waits. They are meant for that machine, so the cores that were asked for are stronger.
    """
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    for name in THREADS:
        if cores:
            os.environ[name] = cores
        elif os.environ.get(name) == "0":
            del os.environ[name]


def run(arguments: Sequence[str]) -> int:
    """Exit status of a command of `mar`, run in this process."""
    try:  # a request to leave may come during the import too
        main = pkgutil.resolve_name(ENTRY)  # by name: the commands import this package
        main(list(arguments), prog_name="mar")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def keep(folder: Path, outputs: Sequence[str]) -> None:
    """Hard links to the outputs of a finished command, beside its job.

    When no launcher saw the end of the job, the workflow takes its outputs for incomplete and deletes them before it
    asks again. The launcher then puts them back, instead of waiting in the queue for a job that has nothing to do.
    """
    if not all(Path(output).exists() for output in outputs):
        return  # other shards of the array are not done
    for number, output in enumerate(outputs):
        try:
            with atomic(folder / f"kept-{number}") as temporary:
                os.link(output, temporary)
        except OSError:  # a file system without links
            return


def put_back(folder: Path, outputs: Sequence[str]) -> bool:
    """Put outputs that are missing back from their links; returns whether all outputs exist now."""
    for number, output in enumerate(outputs):
        if not Path(output).exists():
            link = folder / f"kept-{number}"
            if not link.exists():
                return False
            with atomic(output) as temporary:
                os.link(link, temporary)
    return True


def forget(folder: Path) -> None:
    """Remove the links that `keep` made: outputs that are deleted later are made again."""
    for link in folder.glob("kept-*"):
        link.unlink(missing_ok=True)


def verb(arguments: Sequence[str]) -> str:
    """The name of a command of `mar`: the first argument after options of `mar` itself, as --threads N."""
    arguments = list(arguments)
    while len(arguments) > 2 and arguments[0].startswith("--"):
        arguments = arguments[2:]
    return arguments[0]


def text(arguments: Sequence[str]) -> str:
    """A command as it is typed."""
    return shlex.join(["mar", *arguments])
