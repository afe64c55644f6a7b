"""The script of a job, what sbatch is given, and what is made of its answers: with a stand-in for sbatch."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mar.cluster.job_process import Command
from mar.cluster.slurm import Busy, Slurm, snapshot, submit

TOKEN = "mar-0123456789abcdef-00000001"
BATCH = "sbatch: error: Batch job submission failed: "
POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Submits a job, or an array, with settings; sbatch answers with a text. Returns the ids, the script, variables."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    monkeypatch.setenv("PATH", f"{bin_}:/usr/bin:/bin")
    folder = tmp_path / "results" / "demo" / "jobs" / "train" / "mar-diff" / "seed0"
    folder.mkdir(parents=True)

    def told(answer: str = "echo Submitted batch job 7", numbers: tuple[int, ...] = (0,), **settings: Any) -> Any:
        for name, text in {"sbatch": f"env > {tmp_path}/env\n{answer}", "srun": ""}.items():
            (bin_ / name).write_text(f"#!/bin/sh\n{text}\n")
            (bin_ / name).chmod(0o755)
        commands = [Command(("train",), "slurm", None, str(folder), TOKEN) for _ in numbers]
        jobs = submit(commands, folder, Slurm(**settings), numbers)
        return jobs, (folder / f"{TOKEN}.sh").read_text(), (tmp_path / "env").read_text()

    return told


def options(script: str) -> dict[str, str]:
    """The options of sbatch in a script."""
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, re.MULTILINE)
    return {name: "".join(shlex.split(value)) for name, value in found}


def test_nothing_is_asked_that_nobody_said(told: Any) -> None:
    jobs, script, _ = told()
    asked = options(script)
    assert jobs == ["7"] and asked.pop("output").endswith("/jobs/train/mar-diff/seed0/%j_0_log.out")
    assert asked == {
        "nodes": "1",
        "signal": "USR2@90",
        "job-name": "demo.train.mar-diff.seed0",
        "comment": TOKEN,
        "open-mode": "append",
    }


def test_a_site_with_lines_of_its_own_and_a_container(told: Any) -> None:
    _, script, _ = told(
        setup="module load apptainer\nexport NCCL_SOCKET_IFNAME=ib0",
        python="apptainer exec --nv --bind /scratch /images/mar.sif python",
        srun_args="--mpi=none --cpu-bind=cores",
        gres="gpu:a100",
        gpus_per_node=4,
        cpus_per_task=8,
        extra="--mem=0 --exclusive",
    )
    lines = script.splitlines()
    asked = options(script)
    assert (asked["gres"], asked["ntasks-per-node"], asked["mem"], asked["exclusive"]) == ("gpu:a100:4", "4", "0", "")
    assert "gpus-per-node" not in asked
    setup = lines.index("module load apptainer")
    assert lines[setup + 1] == "export NCCL_SOCKET_IFNAME=ib0"
    (srun,) = [line for line in lines if line.startswith("srun ")]
    assert " --mpi=none --cpu-bind=cores apptainer exec --nv --bind /scratch /images/mar.sif python -P -u -m" in srun
    exports = [line for line in lines[setup + 2 : lines.index(srun)] if line.startswith("export ")]
    assert [line.split()[1].split("=")[0] for line in exports] == [
        "SUBMITIT_EXECUTOR",
        "PYTHONPATH",
        "MAR_GIT_COMMIT",
        "SLURM_EXPORT_ENV",
        "SRUN_CPUS_PER_TASK",
    ]


def test_the_number_of_gpus_is_added_to_their_kind(told: Any) -> None:
    assert options(told(gres="gpu:a100,lscratch:50", gpus_per_node=2)[1])["gres"] == "gpu:a100:2,lscratch:50"
    assert options(told(gres="gpu", gpus_per_node=1)[1])["gres"] == "gpu:1"
    assert options(told(gres="gpu:2", gpus_per_node=2)[1])["gres"] == "gpu:2"
    assert "gres" not in options(told(gres="gpu:a100")[1])  # a stage without a GPU
    with pytest.raises(ValueError, match=r"slurm gres: found 'gpu:4' with gpus_per_node 2; accepted: gpu"):
        told(gres="gpu:4", gpus_per_node=2)


def test_tasks_of_an_array_have_the_numbers_of_their_shards(told: Any, tmp_path: Path) -> None:
    jobs, script, _ = told("echo Submitted batch job 9", (1, 3), shards=4)
    assert jobs == ["9_1", "9_3"] and options(script)["array"] == "1,3"
    assert options(script)["output"].endswith("/%A_%a_0_log.out") and "%A_%a_%t_log.out" in script
    place = tmp_path / "results/demo/jobs/train/mar-diff/seed0"
    assert {f"{TOKEN}-1.pkl", f"{TOKEN}-3.pkl"} <= {path.name for path in place.iterdir()}
    assert told("echo Submitted batch job 9", (2,), shards=4)[0] == ["9_2"]  # the last one that is left


@pytest.mark.parametrize(
    ("printed", "job"),
    [
        ("Submitted batch job 12", "12"),
        ("note: job 7 of yours waits since Monday\nSubmitted batch job 12\nhave a nice day", "12"),
        ("Submitted batch job 12 on cluster big", "12"),
        ("12;big", "12"),
    ],
)
def test_the_id_is_read_from_the_line_of_sbatch(told: Any, printed: str, job: str) -> None:
    assert told(f"cat <<END\n{printed}\nEND")[0] == [job]


def test_an_answer_without_an_id_is_no_submission(told: Any) -> None:
    with pytest.raises(Busy, match="told no id: note: job 7 waits"):
        told("echo 'note: job 7 waits'")


@pytest.mark.parametrize(
    ("said", "refused", "limit"),
    [
        ("Unable to contact slurm controller (connect failure)", False, False),
        ("Socket timed out on send/recv operation", False, False),
        ("Slurm temporarily unable to accept job, sleeping and retrying", False, False),
        ("Resource temporarily unavailable", False, False),
        ("Zero Bytes were transmitted or received", False, False),
        ("Slurm backup controller in standby mode", False, False),
        ("Invalid authentication credential", False, False),
        (f"QOSMaxSubmitJobPerUserLimit {BATCH}{POLICY}", False, True),
        (f"AssocMaxSubmitJobLimit {BATCH}{POLICY}", False, True),
        (f"AssocGrpSubmitJobsLimit {BATCH}{POLICY}", False, True),
        (POLICY, False, True),
        (f"QOSMaxWallDurationPerJobLimit {BATCH}{POLICY}", True, False),
        (f"QOSMaxGRESPerJob {BATCH}{POLICY}", True, False),
        ("invalid partition specified: nothing", True, False),
        ("Requested node configuration is not available", True, False),
        ("Invalid account or account/partition combination specified", True, False),
        ("Requested time limit is invalid (missing or exceeds some limit)", True, False),
        ("unrecognized option '--nothing=1'", True, False),
        ("something that nobody has seen", False, False),
    ],
)
def test_mistakes_are_refused_and_all_else_is_tried_again(told: Any, said: str, refused: bool, limit: bool) -> None:
    with pytest.raises(ValueError if refused else Busy) as raised:
        told(f"echo {shlex.quote(BATCH + said)} >&2; exit 1")
    assert said.split("(")[0].strip() in str(raised.value)
    if isinstance(raised.value, Busy):
        assert raised.value.limit == limit
        assert (raised.value.patience < 1000) == (said == "something that nobody has seen")


def test_variables_of_sbatch_hold_where_the_settings_say_nothing(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ACCOUNT": "mine",
        "PARTITION": "debug",
        "WAIT": "1",
        "ARRAY_INX": "0-9",
        "EXPORT": "NONE",
    }.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # the head is a job itself
    monkeypatch.setenv("SLURM_CONF", "/etc/here.conf")
    _, script, variables = told(partition="gpu")
    found = {line.partition("=")[0]: line.partition("=")[2] for line in variables.splitlines()}
    assert {name: found[name] for name in found if name.startswith(("SBATCH_", "SLURM_"))} == {
        "SBATCH_ACCOUNT": "mine",
        "SLURM_CONF": "/etc/here.conf",
    }
    assert options(script)["partition"] == "gpu"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extra": "--parsable"}, "slurm extra: found --parsable, which the launcher sets"),
        ({"extra": "--test-only"}, "slurm extra: found --test-only, which the launcher sets"),
        ({"extra": "--wait"}, "slurm extra: found --wait,"),
        ({"extra": "--arr=0-3"}, r"slurm extra: found --arr \(a beginning of --array\)"),
        ({"extra": "--part=x"}, r"found --part \(a beginning of --partition\)"),
        ({"extra": "--chdir=/"}, "found --chdir"),
        ({"extra": "--mem=4G"}, "found --mem,"),
        ({"extra": "--mem=0", "mem": 100}, "found --mem,"),
        ({"extra": "--comment='a\nb'"}, "slurm extra: found '--comment=a"),
        ({"srun_args": "--output=x"}, "slurm srun_args: found --output, which the launcher sets"),
        ({"srun_args": "--unbuf"}, r"found --unbuf \(a beginning of --unbuffered\)"),
        ({"srun_args": "-n 4"}, "slurm srun_args: found '-n'; accepted: options as --name or --name=value"),
    ],
)
def test_options_that_would_hide_the_job_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Slurm(**settings).parameters()


def test_the_copy_of_a_job_has_the_files_of_config_that_stages_read(tmp_path: Path) -> None:
    copy = snapshot(tmp_path / "results" / "demo" / "jobs" / "features")
    ask = (
        "from mar.data import published; from mar.weights import shipped;"
        "from mar.runtime.provenance import git_commit;"
        "print(published.find('inception', published.TABLE).name, shipped.STORE.is_dir(), shipped.STORE, git_commit())"
    )
    environment = {**os.environ, "PYTHONPATH": str(copy), "MAR_GIT_COMMIT": "0123"}
    command = [sys.executable, "-c", ask]
    told = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert told.stdout.split() == ["inception", "True", str(copy / "mar/project/config/shipped"), "0123"], told.stderr
    assert snapshot(tmp_path / "results" / "demo" / "jobs" / "train") == copy
