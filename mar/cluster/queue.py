"""What Slurm says of jobs: the queue, seen by one shared look of many launchers, the accounting, and the end of jobs.

Slurm prints lines for people: a note of the site, a comment with a line break or a name in another encoding may stand
anywhere between them. A line that is none of a job is passed over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mar.runtime.files import Record, read, write

# States in which a job is over (squeue(1)); in every other it waits, runs, or is about to do either again.
OVER = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
# Reasons of waiting that no time ends: the job asks for more than it will ever get.
NEVER = re.compile(
    r"DependencyNeverSatisfied|PartitionTimeLimit|PartitionNodeLimit|BadConstraints|InvalidAccount|InvalidQOS"
    r"|(Assoc|QOS)(Max|Min)\w*Per(Job|Node)\w*|AssocMaxWallDurationPerJobLimit|QOSMinGRES"
)
# The clients of Slurm read their options from variables too: filters, formats, questions to the user.
CLIENT = re.compile(r"^(SQUEUE|SACCT|SCANCEL|SBATCH)_|^SLURM_(TIME_FORMAT|CLUSTERS|JOB_ID|ARRAY_\w+|STEP_\w+)$")

# Array, task, state, reason, nodes, user, start, submission, script; then the comment, which may hold anything.
FORMAT = "%F|%K|%T|%r|%N|%u|%S|%V|%o|%k"
LINE = re.compile(r"(\d+)\|([^|]*)\|([A-Z_]+)\|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|(.*)", re.DOTALL)
FIELDS = "JobID,State,NodeList,User,Start,Submit,JobName"
HISTORY = re.compile(r"(\d+)(?:_(\d+|\[[^]|]*\]))?\|([A-Z_]+)[^|]*\|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|(.*)")


@dataclass(frozen=True)
class State:
    """What Slurm says of a job.

    Attributes:
        state: one of Slurm's states, or one of mar/cluster/failures.py.
        where: its nodes, or why it waits.
        user: whose it is.
        since: when it started, or will, in Slurm's words; empty where that is not known.
        submitted: when it was submitted.
        origin: the script and the comment of its submission as `script|comment`, or its name in the accounting.
    """

    state: str
    where: str = ""
    user: str = ""
    since: str = ""
    submitted: str = ""
    origin: str = ""

    def __str__(self) -> str:
        """The state with its place or reason, as RUNNING (node1)."""
        return f"{self.state} ({self.where})" if self.where else self.state

    @property
    def over(self) -> bool:
        """Whether the job has ended."""
        return self.state in OVER

    @property
    def waits(self) -> bool:
        """Whether it waits for a node."""
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")


States = Mapping[str, State]


def environment() -> dict[str, str]:
    """The environment of this process without what changes the answers of Slurm's clients."""
    return {name: value for name, value in os.environ.items() if not CLIENT.match(name)}


def ask(command: Sequence[str], timeout: float = 30.0) -> str | None:
    """What a client of Slurm prints; None when it fails, as it does when the controller is away for a while."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, env=environment())
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def me() -> str:
    """Name of this user, as Slurm knows it: not what the shell says, which `su` may leave as it was."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # no such user in the machine's table, as in a container
        return str(os.getuid())


def _tasks(text: str) -> list[str]:
    """The tasks of an array that one line stands for: 3, or of `[0-1,4%2]` 0, 1 and 4; none where it is no array."""
    found = []
    for part in text.strip("[]").partition("%")[0].split(","):
        if match := re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part):
            last = int(match[2] or match[1])
            found += [str(task) for task in range(int(match[1]), last + 1, int(match[3] or 1))]
    return found


def queue(*others: str) -> dict[str, State] | None:
    """Jobs in the queue by id, those that ended lately too; None: no answer.

    An id is 12, or 12_3 in an array. Of an array whose tasks were all ended while it waited, only a line of the whole
    is left: `find` takes it for each of them.

    Args:
        others: users whose jobs are wanted beside those of this user.
    """
    users = ["--user", ",".join([me(), *others])] if others else ["--me"]
    answer = ask(["squeue", *users, "--noheader", "--array", "--states=all", f"--format={FORMAT}"])
    if answer is None:
        return None
    states = {}
    for line in answer.splitlines():
        if not (match := LINE.fullmatch(line.strip())):
            continue
        number, tasks, state, reason, nodes, user, start, submit, origin = (part.strip() for part in match.groups())
        where = nodes or ("" if reason == "None" else reason)
        said = State(state, where, user, "" if start == "N/A" else start, submit, origin)
        for task in _tasks(tasks) or [""]:
            states[f"{number}_{task}" if task else number] = said
    return states


def find(states: States, job: str, script: str = "", token: str = "") -> State | None:
    """What is known of a job, or of its array as a whole; None if that is nothing.

    Args:
        states: what Slurm says.
        job: its id. A controller that was set up anew, or another cluster, counts ids from 1 again.
        script: beginning of the path of its script, and
        token: its comment, by one of which the job is ours and not a stranger's. A site may overwrite comments.
    """
    state = states.get(job) or states.get(job.partition("_")[0])
    if state is None or not script or ours(state, script, token):
        return state
    return None


def strange(states: States, job: str, script: str, token: str) -> bool:
    """Whether an id of ours belongs to somebody else's job, or to another of ours, which must not be ended for it."""
    return find(states, job) is not None and find(states, job, script, token) is None


def ours(state: State, script: str, token: str = "") -> bool:
    """Whether a job of the queue was submitted with a script whose path begins so, or with this comment."""
    return state.origin.startswith(script) or (bool(token) and f"|{token}|" in f"{state.origin}|")


def history(jobs: Sequence[str], names: Sequence[str] = ()) -> dict[str, State] | None:
    """What the accounting knows of jobs, of any user; None: no answer, as where there is no accounting.

    Args:
        jobs: their ids.
        names: names that they may have; a job of another name is a stranger's.
    """
    answer = ask(["sacct", "-a", "-X", "-n", "-P", "-o", FIELDS, "-j", ",".join(jobs)], timeout=10)
    return None if answer is None else dict(_history(answer, names))


def _history(answer: str, names: Sequence[str]) -> Iterator[tuple[str, State]]:
    for line in answer.splitlines():
        if not (match := HISTORY.fullmatch(line.strip())):
            continue
        number, tasks, state, nodes, user, start, submit, name = match.groups()
        if names and name not in names:
            continue
        said = State(state, "" if nodes == "None assigned" else nodes, user, start, submit, name)
        for task in _tasks(tasks or "") or [""]:
            yield (f"{number}_{task}" if task else number), said


def accounted(token: str, since: float) -> list[str]:
    """Ids of the jobs of a submission that left the queue, by the comment, which the accounting keeps where it may."""
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 60))
    fields = ["-X", "-n", "-P", "-o", "JobID,Comment", "-S", start, "-u", me()]
    lines = (ask(["sacct", *fields], timeout=10) or "").splitlines()
    found = [match for line in lines if (match := re.fullmatch(rf"(\d+(?:_\d+)?)\|{re.escape(token)}", line.strip()))]
    return [match[1] for match in found]


class Look(Record):
    """queue.json: the last look at the queue of any launcher of a study, which serves all of them.

    Attributes:
        time: when it was begun, in seconds since 1970.
        users: whose jobs were asked for.
        jobs: the fields of each job by its id; None where Slurm gave no answer.
    """

    time: float
    users: tuple[str, ...]
    jobs: dict[str, tuple[str, str, str, str, str, str]] | None


def look(place: Path, age: float, others: Sequence[str] = ()) -> tuple[float, States | None]:
    """The queue as somebody saw it at most `age` seconds ago, else as it is now; with the time of that look.

    The controller of Slurm serves all users: of the launchers of one study, which wait for many jobs, one asks and the
    others read what it was told.

    Args:
        place: folder that the launchers share, for queue.json. Where it cannot be written, each asks for itself.
        age: in seconds.
        others: users whose jobs are wanted beside those of this user.
    """
    users, file = tuple(sorted({me(), *others})), place / f"queue-{me()}.json"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            gate = stack.enter_context(open(place / f".queue-{me()}.lock", "w", encoding="utf-8"))
            fcntl.flock(gate, fcntl.LOCK_EX)
        with contextlib.suppress(OSError, ValueError):
            last = read(file, Look)
            if set(users) <= set(last.users) and -1.0 < time.time() - last.time <= age:
                jobs = None if last.jobs is None else {job: State(*fields) for job, fields in last.jobs.items()}
                return last.time, jobs
        begun, states = time.time(), queue(*(user for user in users if user != me()))
        fields = None
        if states is not None:
            fields = {k: (s.state, s.where, s.user, s.since, s.submitted, s.origin) for k, s in states.items()}
        with contextlib.suppress(OSError):
            write(file, Look(time=begun, users=users, jobs=fields))
        return begun, states


def cancel(jobs: Sequence[str], patience: float = 180.0) -> None:
    """End jobs and wait for their end.

    Raises:
        ValueError: they do not end.
    """
    refused = ""
    deadline = time.monotonic() + patience
    if not jobs:
        return
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):  # the controller is away for a while
            done = subprocess.run(["scancel", *jobs], capture_output=True, env=environment(), timeout=60)
            refused = done.stderr.decode(errors="replace").strip()
        if "denied" in refused:
            break  # a job of another user
        for _ in range(5):
            states = queue()
            if states is not None and all((said := find(states, job)) is None or said.over for job in jobs):
                return
            time.sleep(1.0)
    raise ValueError(f"launch: jobs {' '.join(jobs)} do not end{': ' + refused if refused else ''}; see `squeue --me`")
