"""Locks that follow no link, and the one that a workflow holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mar.runtime import folders


class TestHold:
    """Of a workflow: one process at a time, until it ends."""

    HOLD = "import sys; from mar.runtime.folders import hold; hold(sys.argv[1], 'snakemake'); print('held', flush=True)"

    def test_a_second_process_is_told_who_works_there(self, tmp_path: Path) -> None:
        file = tmp_path / "study" / ".workflow"
        waiting = [sys.executable, "-c", self.HOLD + "; sys.stdin.read()", str(file)]
        with subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
            assert first.stdout is not None and first.stdout.readline() == b"held\n"
            with pytest.raises(
                ValueError, match=f"snakemake works here already: process {first.pid} of user .*accepted"
            ):
                folders.hold(file, "snakemake")
            first.kill()
        done = subprocess.run([sys.executable, "-c", self.HOLD, str(file)], capture_output=True, check=True)
        assert done.stdout == b"held\n"

    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("kept")
        (tmp_path / ".workflow").symlink_to("precious")
        with pytest.raises(OSError, match="symbolic links"):
            folders.hold(tmp_path / ".workflow", "snakemake")
        assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.parametrize("kind", ["link", "link to nothing", "folder", "pipe"])
def test_a_lock_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "precious").write_text("kept")
    path = tmp_path / "folder" / ".lock"
    path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("../precious" if kind == "link" else "../nothing")
    with pytest.raises(ValueError, match=r"\.lock: found a .*; accepted: a file"), folders.lock(path.parent):
        pass
    assert (tmp_path / "precious").read_text() == "kept" and not (tmp_path / "nothing").exists()
