"""Failures that a user can mend end in one message; a fault of ours keeps its traceback and asks for a report."""

from __future__ import annotations

import ast
import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mar.cli import group
from mar.cli.__main__ import main
from mar.runtime import files
from mar.study import reading

SOURCE = Path(__file__).parents[3]


@pytest.fixture
def resolved(study_file: Path, tmp_path: Path) -> str:
    return str(reading.write_resolved(reading.load(study_file), tmp_path / "results"))


def fails_with(error: BaseException, resolved: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("mar.data.prepare.prepare", fail)
    return CliRunner().invoke(main, ["prepare", "--study", resolved])


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "No space left on device; make room on this disk, then run the same command again"),
        (errno.EDQUOT, "Disk quota exceeded; make room within your quota"),
        (errno.EFBIG, "File too large; raise the limit on the size of a file (ulimit -f)"),
        (errno.EIO, "Input/output error; check the disk or the network file system"),
        (errno.EACCES, "Permission denied; accepted: a file or folder that you may read and write"),
        (errno.EROFS, "Read-only file system; accepted: a file or folder that you may read and write"),
        (errno.EISDIR, "Is a directory; accepted: a file"),
    ],
)
def test_a_disk_that_fails_is_one_message(
    number: int, remedy: str, resolved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = fails_with(OSError(number, os.strerror(number), "results/x.npy"), resolved, monkeypatch)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: results/x.npy: {remedy}") and result.stderr.count("\n") == 1


def test_an_error_that_names_no_file_names_the_command(resolved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = fails_with(OSError(errno.EIO, os.strerror(errno.EIO)), resolved, monkeypatch)
    assert result.stderr.startswith("Error: mar prepare: Input/output error; check the disk")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 32000000000 bytes"
        ),
        RuntimeError("unable to mmap 4096 bytes from file <x>: Cannot allocate memory (12)"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_too_little_memory_is_one_message(error: Exception, resolved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = fails_with(error, resolved, monkeypatch)
    assert result.exit_code == 1 and result.stderr.startswith("Error: mar prepare: out of memory (")
    assert result.stderr.endswith("; accepted: smaller networks or batches, or more memory\n")


@pytest.mark.parametrize("error", [RuntimeError("shapes"), OSError("no number"), KeyError("x"), RecursionError("deep")])
def test_a_fault_of_ours_keeps_its_traceback_and_asks_for_a_report(
    error: Exception, resolved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = fails_with(error, resolved, monkeypatch)
    assert result.exception is error and error.__notes__ == [group.BUG]
    assert "Error: " not in result.stderr


def test_text_that_is_no_utf8(resolved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnicodeError) as caught:
        "caf\udce9.png".encode()
    result = fails_with(caught.value, resolved, monkeypatch)
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: mar prepare: 'caf\\udce9.png': surrogates not allowed; accepted: files and names in UTF-8\n"
    )


def test_a_json_file_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"a": "caf\xe9"}')
    with pytest.raises(ValueError, match=r"a\.json: byte 10 is no UTF-8 \(.*\); accepted: UTF-8 text$"):
        files.read_json(tmp_path / "a.json")


def mar(*arguments: str, folder: Path, limit: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which may write files of at most `limit` bytes."""
    return subprocess.run(
        [sys.executable, "-m", "mar.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE), **environment},
        preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_a_file_that_may_not_grow_is_named(resolved: str, tmp_path: Path) -> None:
    done = mar("prepare", "--study", resolved, folder=tmp_path, limit=100_000)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "/data/digits.npz: File too large; raise the limit on the size of a file (ulimit -f)" in done.stderr
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("digits.npz"))


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_text_files_are_utf8_in_any_locale(study_file: Path, tmp_path: Path) -> None:
    text = study_file.read_text(encoding="utf-8") + 'title: "Étude ≥ 1"\n'
    study_file.write_text(text, encoding="utf-8")
    resolved = reading.write_resolved(reading.load(study_file), tmp_path / "results")
    assert "Étude ≥ 1" in resolved.read_text(encoding="utf-8")
    for path in (study_file, resolved):
        done = mar("plan", "--study", str(path), "--csv", "plan.csv", folder=tmp_path, **ASCII)
        assert done.returncode == 0, done.stderr


def test_a_terminal_that_lacks_a_letter_shows_its_number(study_file: Path, tmp_path: Path) -> None:
    study_file.write_text(study_file.read_text(encoding="utf-8") + "ł: 1\n", encoding="utf-8")
    done = mar("plan", "--study", study_file.name, folder=tmp_path, PYTHONIOENCODING="latin-1")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: tiny.yaml:32: unknown key '\\u0142'; accepted: ")


def test_no_text_file_is_read_in_the_encoding_of_the_locale() -> None:
    """Ruff's PLW1514 sees this only where it knows the type of a path."""
    bare = []
    for path in sorted((SOURCE / "mar").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.args:
                continue
            if call.func.attr == "read_text" and not any(keyword.arg == "encoding" for keyword in call.keywords):
                bare.append(f"{path.relative_to(SOURCE)}:{call.lineno}")
    assert not bare
