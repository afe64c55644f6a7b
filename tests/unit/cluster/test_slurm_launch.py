"""What the launcher makes of a Slurm that lies, forgets, refuses and is late, on a clock that needs no waiting."""

from __future__ import annotations

import itertools
import json
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mar.cluster import jobs, queue, slurm, slurm_launch
from mar.cluster.queue import State
from mar.cluster.records import Outcome, SlurmJob, outcome_file, read_job, write_job
from mar.cluster.slurm import Busy, Slurm
from mar.cluster.slurm_launch import launch_slurm
from mar.runtime.files import write

DIGEST = "0123456789abcdef"
COMMAND = ("train", "--study", "x")


class Cluster:
    """A Slurm whose answers are functions of the seconds that have passed; jobs get the ids 1, 2, ...

    Attributes:
        seconds: that have passed, by the launcher's sleeping.
        submissions: when each was made, with its token.
        ran: calls of sbatch, of which some were refused.
        listed: what squeue says of a submission, by its age in seconds; None is no answer, "" is not there.
        known: the same of sacct.
        refusals: what sbatch raises, in order; None is a submission that succeeds.
        cancelled: ids that were ended.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.seconds, self.begun = folder, 0.0, time.time()
        self.submissions: list[tuple[float, str, tuple[int, ...]]] = []
        self.listed: Callable[[float], str | None] = lambda age: "RUNNING"
        self.known: Callable[[float], str | None] = lambda age: None
        self.refusals: list[Exception | None] = []
        self.cancelled: list[str] = []
        self.events: list[tuple[float, Callable[[], object]]] = []
        self.reason, self.user = "", queue.me()
        self.extra: dict[str, State] = {}
        self.looks = self.ran = 0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        assert self.seconds < 20_000, "the launcher waits for ever"
        for event in [event for event in self.events if event[0] <= self.seconds]:
            self.events.remove(event)
            event[1]()

    def ids(self, number: int) -> list[str]:
        shards = self.submissions[number][2]
        return [f"{number + 1}_{shard}" for shard in shards] if len(shards) > 1 else [str(number + 1)]

    def states(self, says: Callable[[float], str | None], origin: bool) -> dict[str, State] | None:
        found = {}
        for number, (since, token, _) in enumerate(self.submissions):
            state = says(self.seconds - since)
            if state is None:
                return None
            for job in self.ids(number) if state else ():
                ended = "CANCELLED" if job in self.cancelled else state
                where = self.reason if ended == "PENDING" else ""
                name = f"{self.folder}/{token}.sh|{token}" if origin else slurm.job_name(self.folder)
                found[job] = State(ended, where, self.user, origin=name)
        return found

    def queue(self, *others: str) -> dict[str, State] | None:
        self.looks += 1
        found = self.states(self.listed, True)
        if found is not None and self.user != queue.me() and self.user not in others:
            found = {}
        return None if found is None else found | self.extra

    def history(self, asked: Any, names: Any = ()) -> dict[str, State] | None:
        return self.states(self.known, False)

    def submit(self, commands: Any, folder: Path, site: Slurm, shards: Any) -> list[str]:
        self.ran += 1
        refusal = self.refusals.pop(0) if self.refusals else None
        took = refusal is None or getattr(refusal, "took", False)
        if took:
            self.submissions.append((self.seconds, commands[0].token, tuple(shards)))
            (folder / f"{commands[0].token}.sh").touch()
        if refusal:
            raise refusal
        return self.ids(len(self.submissions) - 1)

    def cancel(self, ended: Any, patience: float = 0.0) -> None:
        self.cancelled += ended

    def at(self, seconds: float, event: Callable[[], object]) -> None:
        self.events.append((seconds, event))

    def ends(self, seconds: float, number: int = 0, status: int = 0) -> None:
        """Let all jobs of a submission write their outcome at a time."""

        def end() -> None:
            for job in self.ids(number):
                token = self.submissions[number][1]
                write(outcome_file(self.folder, job), Outcome(status=status, token=token))

        self.at(seconds, end)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    folder = tmp_path / "results" / "demo" / "jobs" / "train"
    folder.mkdir(parents=True)
    cluster = Cluster(folder)
    clock = types.SimpleNamespace(
        monotonic=lambda: cluster.seconds,
        time=lambda: cluster.begun + cluster.seconds,
        sleep=cluster.sleep,
        strftime=time.strftime,
        localtime=time.localtime,
    )
    for module in (slurm_launch, queue):
        monkeypatch.setattr(module, "time", clock)
    for name in ("queue", "history", "cancel"):
        monkeypatch.setattr(queue, name, getattr(cluster, name))
    monkeypatch.setattr(queue, "accounted", lambda token, since: [])
    monkeypatch.setattr(slurm, "submit", cluster.submit)
    monkeypatch.setattr(slurm, "installed", lambda: True)
    return cluster


def launch(cluster: Cluster, command: tuple[str, ...] = COMMAND, **more: Any) -> int:
    site = Slurm(shards=more.pop("shards", 0))
    return launch_slurm(command, cluster.folder, DIGEST, site, **more)


def record(cluster: Cluster) -> SlurmJob:
    found = read_job(cluster.folder)
    assert isinstance(found, SlurmJob)
    return found


def test_a_running_job_that_the_queue_forgets_is_not_submitted_again(cluster: Cluster) -> None:
    cluster.listed = lambda age: "" if 20 < age < 45 else "RUNNING"  # without accounting
    cluster.ends(100)
    assert launch(cluster) == 0 and len(cluster.submissions) == 1


def test_the_accounting_is_believed_when_the_queue_is_empty(cluster: Cluster) -> None:
    cluster.listed = lambda age: "" if age > 20 else "RUNNING"
    cluster.known = lambda age: "RUNNING"
    cluster.ends(900)
    assert launch(cluster) == 0 and len(cluster.submissions) == 1
    assert cluster.looks < 100  # the controller is not asked every two seconds for ever


def test_three_launchers_of_one_study_submit_no_job_twice(cluster: Cluster) -> None:
    cluster.listed = lambda age: "" if age < 12 else "RUNNING"
    cluster.ends(60)
    assert launch(cluster) == 0 and len(cluster.submissions) == 1


def test_a_job_that_nobody_knows_is_submitted_again_and_at_last_given_up(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.listed = lambda age: ""
    assert launch(cluster) == 1
    out = capsys.readouterr().out
    assert len(cluster.submissions) == slurm_launch.LOSSES + 1
    assert out.count("ended before: VANISHED; submitting again") == slurm_launch.LOSSES
    times = [since for since, *_ in cluster.submissions]
    assert all(later - earlier > slurm_launch.PATIENCE for earlier, later in itertools.pairwise(times))


def test_a_submission_that_timed_out_and_was_taken_is_found(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = Busy("Socket timed out on send/recv operation")
    refusal.took = True  # type: ignore[attr-defined]
    cluster.refusals = [refusal]
    cluster.listed = lambda age: "" if age < 4 else "RUNNING"
    cluster.ends(60)
    assert launch(cluster) == 0 and len(cluster.submissions) == 1 and cluster.ran == 1
    assert "Slurm takes no job now, trying again: Socket timed out" in capsys.readouterr().out


def test_a_busy_controller_is_asked_again_with_a_new_token(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.refusals = [Busy("Unable to contact slurm controller (connect failure)")] * 5
    cluster.ends(1000)
    tokens = []
    submit = slurm.submit

    def noting(commands: Any, *rest: Any) -> list[str]:
        tokens.append(commands[0].token)
        return submit(commands, *rest)

    monkeypatch.setattr(slurm, "submit", noting)
    assert launch(cluster) == 0 and len(cluster.submissions) == 1
    assert len(set(tokens)) == 6  # the job of an earlier call, if it comes after all, does nothing
    assert capsys.readouterr().out.count("Slurm takes no job now") == 1


def test_a_limit_on_jobs_is_waited_out(cluster: Cluster) -> None:
    cluster.extra = {"99": State("RUNNING", user=queue.me())}
    cluster.refusals = [Busy("QOSMaxSubmitJobPerUserLimit", limit=True)] * 30
    cluster.ends(5000)
    assert launch(cluster) == 0 and cluster.submissions[0][0] > 600


def test_an_array_that_no_limit_will_ever_allow_is_refused(cluster: Cluster) -> None:
    cluster.refusals = [Busy("QOSMaxSubmitJobPerUserLimit", limit=True)] * 99
    with pytest.raises(ValueError, match=r"an array of 8 counts as 8 jobs against the limit: make `shards` smaller"):
        launch(cluster, ("sample",), shards=8)
    assert record(cluster).state == "failed" and 600 < cluster.seconds < 700


def test_a_failure_that_nobody_knows_is_tried_for_a_while(cluster: Cluster) -> None:
    cluster.refusals = [Busy("odd", patience=120.0)] * 99
    with pytest.raises(ValueError, match=r"sbatch fails: odd"):
        launch(cluster)
    assert 120 < cluster.seconds < 400 and not cluster.submissions


def test_a_job_without_a_record_is_followed(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    token = f"mar-{DIGEST}-00000001"
    cluster.submissions.append((0.0, token, (0, 1)))
    (cluster.folder / "job.json").touch()  # zero bytes: the machine died before the file was on its disk
    cluster.ends(30)
    assert launch(cluster, ("sample",), shards=2) == 0 and cluster.ran == 0
    assert "job 1_0 of this command lives; following it" in capsys.readouterr().out
    assert record(cluster).jobs == ("1_0", "1_1") and record(cluster).token == token


def test_a_job_of_another_folder_is_not_followed(cluster: Cluster) -> None:
    token = f"mar-{DIGEST}-00000001"  # another checkout, with the same command and recipe
    cluster.extra = {"99": State("RUNNING", origin=f"/elsewhere/jobs/train/{token}.sh|{token}")}
    cluster.ends(10)
    assert launch(cluster) == 0 and len(cluster.submissions) == 1


def running(cluster: Cluster, **changes: Any) -> SlurmJob:
    """Put a running job on record, whose launcher is gone."""
    token = f"mar-{DIGEST}-00000001"
    values = {
        "state": "running", "cluster": "slurm", "command": "mar train", "hash": DIGEST, "host": "login1", "pid": 1,
        "submitted": "2026-01-01T00:00:00+00:00", "output": "1_0_log.out", "job": "1", "token": token, "jobs": ["1"],
        "shards": [0], "user": queue.me(), **changes,
    }  # fmt: skip
    job = SlurmJob.model_validate_json(json.dumps(values))
    write_job(cluster.folder, job)
    return job


def test_a_stranger_with_our_id_is_not_followed(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    running(cluster)  # of another cluster, or of this one before its ids were counted anew
    cluster.extra = {"1": State("RUNNING", "node1", "bob", origin="/home/bob/run.sh|")}
    cluster.submissions.append((0.0, "", (0,)))  # the stranger's
    cluster.ends(200, 1)
    assert launch(cluster) == 0
    assert "job 1 ended before: VANISHED; submitting again" in capsys.readouterr().out
    assert cluster.ran == 1 and not cluster.cancelled


def test_the_job_of_another_user_is_followed(cluster: Cluster) -> None:
    job = running(cluster, user="ann")
    cluster.user = "ann"
    cluster.submissions.append((0.0, job.token, (0,)))
    cluster.ends(300)
    assert launch(cluster) == 0 and cluster.ran == 0


def test_the_job_of_another_user_that_the_site_hides_is_not_submitted_again(cluster: Cluster) -> None:
    job = running(cluster, user="ann")
    cluster.at(5000, lambda: write(outcome_file(cluster.folder, "1"), Outcome(status=0, token=job.token)))
    assert launch(cluster) == 0 and cluster.ran == 0


def test_an_outcome_from_before_ids_were_counted_anew_ends_nothing(cluster: Cluster) -> None:
    write(outcome_file(cluster.folder, "1"), Outcome(status=0))
    cluster.ends(50)
    assert launch(cluster) == 0 and cluster.seconds >= 50
    write(outcome_file(cluster.folder, "2"), Outcome(status=0, token=f"mar-{DIGEST}-ffffffff"))
    cluster.ends(150, 1)
    assert launch(cluster) == 0 and cluster.seconds >= 150


def test_what_waits_for_ever_is_ended_with_its_reason(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.listed, cluster.reason = lambda age: "PENDING", "PartitionTimeLimit"
    assert launch(cluster) == 1 and cluster.cancelled == ["1"] and cluster.seconds < 60
    err = capsys.readouterr().err
    assert "CANNOT_START (PartitionTimeLimit)" in err and "`runtime`" in err


@pytest.mark.parametrize(
    "reason", ["Priority", "Resources", "QOSMaxJobsPerUserLimit", "AssocGrpGRES", "ReqNodeNotAvail"]
)
def test_what_waits_for_its_turn_waits_on(cluster: Cluster, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.listed, cluster.reason = lambda age: "PENDING" if age < 4000 else "RUNNING", reason
    cluster.ends(4100)
    assert launch(cluster) == 0 and not cluster.cancelled
    assert capsys.readouterr().out.count(f"PENDING ({reason})") == 3  # again every half hour


def test_a_held_job_says_how_it_goes_on(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.listed, cluster.reason = lambda age: "PENDING", "JobHeldUser"
    cluster.ends(100)
    assert launch(cluster) == 0
    assert "job 1: PENDING (JobHeldUser); `scontrol release 1` lets it go" in capsys.readouterr().out


@pytest.mark.parametrize("listed", ["", "CANCELLED"])
def test_a_cancelled_array_is_not_submitted_again_by_a_live_head(
    cluster: Cluster, listed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.listed = lambda age: "PENDING" if age < 30 else listed
    cluster.at(30, lambda: jobs.cancel(cluster.folder.parents[1]))
    assert launch(cluster, ("sample",), shards=3) == 1
    assert cluster.ran == 1 and sorted(cluster.cancelled) == ["1_0", "1_1", "1_2"]
    assert "ended by `mar cancel`" in capsys.readouterr().err and record(cluster).state == "stopped"


def test_cancel_ends_a_submission_that_is_still_tried(cluster: Cluster) -> None:
    cluster.refusals = [Busy("Unable to contact slurm controller")] * 999
    cluster.at(30, lambda: jobs.cancel(cluster.folder.parents[1]))
    with pytest.raises(ValueError, match="ended by `mar cancel`"):
        launch(cluster)
    assert cluster.seconds < 100 and record(cluster).state == "stopped"


def test_cancel_and_the_list_pass_over_a_damaged_record(cluster: Cluster) -> None:
    root = cluster.folder.parents[1]
    other = cluster.folder.parent / "sample"
    other.mkdir()
    (other / "job.json").touch()
    job = running(cluster)
    cluster.submissions.append((0.0, job.token, (0,)))
    cluster.extra = {"99": State("RUNNING", origin=f"{other}/mar-{DIGEST}-00000002.sh|")}
    assert [(row[0], row[1]) for row in jobs.table(root)] == [("running", "1"), ("damaged", "-")]
    assert sorted(jobs.cancel(root)) == ["1", "99"]


def test_an_outcome_that_comes_late_over_the_network_is_waited_for(cluster: Cluster) -> None:
    cluster.listed = lambda age: "RUNNING" if age < 30 else "COMPLETED"
    cluster.ends(80)
    assert launch(cluster) == 0 and len(cluster.submissions) == 1


def test_a_job_that_ended_without_a_result_is_told(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.listed = lambda age: "COMPLETED"
    assert launch(cluster) == 1
    assert "it ended without a result" in capsys.readouterr().err


def test_an_output_that_comes_late_is_waited_for_and_nothing_submitted_again(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results" / "out" / "manifest.json"
    output.parent.mkdir()
    job = running(cluster)
    cluster.submissions.append((0.0, job.token, (0,)))
    cluster.ends(20)
    cluster.at(50, output.touch)
    assert launch(cluster, outputs=[str(output)]) == 0 and cluster.ran == 0
    assert f"waiting for {output}, which the job has written" in capsys.readouterr().out


def test_only_our_own_jobs_are_ended(cluster: Cluster) -> None:
    running(cluster)
    cluster.extra = {"1": State("RUNNING", "node1", queue.me(), origin="/elsewhere/jobs/x/mar-1-2.sh|c")}  # ids anew
    assert jobs.cancel(cluster.folder.parents[1]) == [] and not cluster.cancelled
    running(cluster, hash="f" * 16, token=f"mar-{'f' * 16}-00000001")  # of another recipe
    cluster.submissions.append((0.0, "", (0,)))
    cluster.ends(50, 1)
    assert launch(cluster) == 0 and not cluster.cancelled


def test_a_job_that_arrives_while_it_is_cancelled_is_ended(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = slurm.submit

    def cancelled_meanwhile(*arguments: Any) -> list[str]:
        jobs.cancel(cluster.folder.parents[1])
        return submit(*arguments)

    monkeypatch.setattr(slurm, "submit", cancelled_meanwhile)
    with pytest.raises(ValueError, match="ended by `mar cancel`"):
        launch(cluster)
    assert cluster.cancelled == ["1"] and record(cluster).state == "stopped"


def test_a_job_that_left_and_waits_again_is_not_submitted_again_by_an_empty_queue(cluster: Cluster) -> None:
    # as in a container, where the script puts the job back after its outcome said that it left
    cluster.at(10, lambda: write(outcome_file(cluster.folder, "1"), Outcome(status=75)))
    cluster.listed = lambda age: "" if 20 < age < 40 else "PENDING"
    cluster.ends(100)
    assert launch(cluster) == 0 and len(cluster.submissions) == 1


def test_slots_of_a_job_that_is_submitted_again_are_counted_on(cluster: Cluster) -> None:
    # where requeues are forbidden each slot is a submission
    file = cluster.folder / "slots-01234567.json"
    file.touch()
    seen = []

    def left() -> None:
        seen.append(file.exists())
        file.touch()
        write(outcome_file(cluster.folder, "1"), Outcome(status=75))

    cluster.at(10, left)
    cluster.at(22, lambda: seen.append(file.exists()))
    cluster.listed = lambda age: "RUNNING" if age < 10 else "FAILED"
    cluster.ends(23, 1)
    assert launch(cluster) == 0 and len(cluster.submissions) == 2
    assert seen == [False, True]
