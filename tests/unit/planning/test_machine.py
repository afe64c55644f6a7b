"""`mar doctor` on set-ups that are broken in one place each: what it says, and what to do about it."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from mar.cli.__main__ import main
from mar.planning import machine
from mar.planning.machine import BAD, NOTE, OK


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, only light packages to import, and no server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "IMPORTED", ("numpy",))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def told(what: str) -> tuple[str, str]:
    """State and text of one line; of several, the worst."""
    lines = [line for line in machine.look() if line.what == what]
    _, state, text = max(lines, key=lambda line: [OK, NOTE, BAD].index(line.state))
    return state, text


def command(folder: Path, name: str, lines: str) -> None:
    """A program that stands for one of Slurm's or NVIDIA's."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def well(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room, memory and open files enough, and no program of a cluster or a GPU, whatever this machine has."""
    usage, room = shutil.disk_usage(here), os.statvfs(here)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**11))
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((*room[:5], 10**6, 10**6, 10**6, *room[8:])))
    monkeypatch.setattr(machine, "_read", lambda path: "MemAvailable: 64000000 kB\n" if "meminfo" in path else "")
    monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (1024, 4096))
    (here / "bin").mkdir()
    monkeypatch.setenv("PATH", str(here / "bin"))


@pytest.mark.usefixtures("well")
def test_where_all_is_well_nothing_stands_in_the_way() -> None:
    lines = list(machine.look())
    assert [line for line in lines if line.state == BAD] == []
    names = {line.what for line in lines}
    assert {"mar", "python", "packages", "memory", "gpu", "results/", "database", "scratch", "slurm"} <= names


def no_numpy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "lib").mkdir()
    (folder / "lib" / "numpy.py").write_text("raise ImportError('libcuda.so.1: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(folder / "lib"))


def other_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LOCK", folder / "requirements.lock")
    machine.LOCK.write_text("# pins\nnumpy==1.0 \\\n    --hash=sha256:0\nclick==0.1\nno-such-package==1\n")


def no_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")


def driver_too_old(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(folder / "bin", "nvidia-smi", "echo 'NVIDIA H100, 450.80, 81559 MiB'")
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


def full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**8))


def results_are_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "results").write_text("")


def damaged_database(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "results").mkdir()
    (folder / "results" / "mlflow.db").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 20)


def no_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # a port that is free again when it is asked
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")


def dead_controller(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sbatch", "srun", "squeue", "scancel"):
        command(folder / "bin", name, "echo slurm 23.11.4")
    command(folder / "bin", "sinfo", "exit 1")
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


def half_of_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(folder / "bin", "sbatch", "echo slurm 23.11.4")
    command(folder / "bin", "sinfo", "echo 'gpu* up 2'")
    monkeypatch.setenv("PATH", str(folder / "bin"))


def few_open_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (64, 64))


def little_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: "MemAvailable:  900000 kB\n" if "meminfo" in path else "")


def old_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.sys, "version_info", (3, 10, 2))


@pytest.mark.parametrize(
    ("broken", "what", "state", "message"),
    [
        (no_numpy, "packages", BAD, "numpy cannot be imported: ImportError: libcuda.so.1: cannot open shared"),
        (other_version, "versions", NOTE, "(lock: 1.0), click"),
        (no_compiler, "compiler", NOTE, "no no-such-compiler: studies with `compile: true`"),
        (driver_too_old, "gpu", BAD, "NVIDIA H100, 450.80, 81559 MiB; torch"),
        (full_disk, "results/", BAD, "0.1 GB free; accepted: 2 GB"),
        (results_are_a_file, "results/", BAD, "Not a directory; accepted: a folder that takes files and locks"),
        (damaged_database, "database", BAD, "move it away, and `mar track` fills another"),
        (no_server, "mlflow", BAD, "refused; accepted: a server"),
        (dead_controller, "slurm", BAD, "slurm 23.11.4, and `sinfo` gets no answer"),
        (half_of_slurm, "slurm", BAD, "no srun, by which jobs start"),
        (few_open_files, "open files", BAD, "at most 64; accepted: 256"),
        (little_memory, "memory", BAD, "0.9 GB free: trainings may be killed; accepted: 4 GB"),
        (old_python, "python", BAD, "accepted: Python 3.11 or newer"),
    ],
)
def test_what_is_broken_is_told_with_what_to_do(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[Path, pytest.MonkeyPatch], None],
    what: str,
    state: str,
    message: str,
) -> None:
    broken(here, monkeypatch)
    found = told(what)
    assert found[0] == state and message in found[1], found
    assert "secret" not in found[1]


def test_a_database_is_counted_and_not_written(here: Path) -> None:
    (here / "results").mkdir()
    path = here / "results" / "mlflow.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table runs (id text)")
        connection.execute("insert into runs values ('a')")
    before = path.read_bytes()
    assert told("database") == (OK, "results/mlflow.db: 1 runs of MLflow")
    assert path.read_bytes() == before


def test_a_listening_server_and_partitions_are_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sbatch", "srun", "squeue", "scancel", "sacct"):
        command(here / "bin", name, "echo slurm 23.11.4")
    command(here / "bin", "sinfo", "echo 'gpu*    up  2'")
    monkeypatch.setenv("PATH", f"{here / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert told("mlflow")[0] == OK
    assert told("slurm") == (OK, "slurm 23.11.4; partitions (state, nodes): gpu* up 2")


def test_the_command_ends_with_status_1_and_computes_nothing_then(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(here, monkeypatch)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "NOT OK  results/" in result.output and result.output.endswith("then the numbers are looked at too\n")
    assert "recorded under" not in result.output and not (here / "results").exists()
