"""Room on the disk: what takes it, what nothing needs, and that nothing in use is removed."""

import os
import subprocess
import sys
import time

import pytest
import tiny
from click.testing import CliRunner

from mar.cli.__main__ import main
from mar.planning import disk
from mar.runtime import folders
from mar.runtime.files import HOST, sha256, write
from mar.study import layout
from mar.study.records import RunRecord
from mar.training.trainer import train


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A finished training, a stopped one, and what is left of others."""
    monkeypatch.chdir(tmp_path)
    root = tiny.make_root(layout.RESULTS)
    train(tiny.study(), root, "ar-ce", 0)
    stopped = layout.run(root, "dit", 0) / layout.CHECKPOINTS
    stopped.mkdir(parents=True)
    (stopped / "0000000016.pt").write_bytes(b"x" * 5000)
    aside = root / "samples/dit/seed0/dit.old-20260101-010203-77"
    aside.mkdir(parents=True)
    (aside / "chunk-00000.npy").write_bytes(b"x" * 9000)
    copy = root / "jobs/code/0123456789abcdef/mar"
    copy.mkdir(parents=True)
    (copy / "x.py").write_text("x")
    (root / f".claims.json.{HOST}.{2**22 + 1}.tmp").write_text("left")  # no process has such a number
    (root / f".plan.json.{HOST}.{os.getpid()}.tmp").write_text("in use")
    return root


def found(root):
    return {one.path.relative_to(root).as_posix() for one in disk.removable(tiny.study(), root)}


GONE = {
    "runs/ar-ce/seed0/checkpoints",
    "samples/dit/seed0/dit.old-20260101-010203-77",
    "jobs/code/0123456789abcdef",
    f".claims.json.{HOST}.{2**22 + 1}.tmp",
}


def test_what_nothing_needs_is_shown_and_removed_and_nothing_else(root):
    assert found(root) == GONE
    before = {path for path in root.rglob("*") if path.is_file()}
    weights = sha256(layout.run(root, "ar-ce", 0) / layout.AVERAGE)
    said = CliRunner().invoke(main, ["clean", "--study", str(layout.study(root))], input="n\n")
    assert "was moved aside: nothing reads it" in said.output and found(root) == GONE  # shown, and not agreed to
    folders._HELD.pop().close()  # what the command holds until its process ends
    said = CliRunner().invoke(main, ["clean", "--study", str(layout.study(root)), "--yes"])
    folders._HELD.pop().close()
    assert said.exit_code == 0 and found(root) == set()
    gone = before - {path for path in root.rglob("*") if path.is_file()}
    assert all(any(path.relative_to(root).as_posix().startswith(name) for name in GONE) for path in gone) and gone
    assert (root / f".plan.json.{HOST}.{os.getpid()}.tmp").exists()
    assert (layout.run(root, "dit", 0) / layout.CHECKPOINTS / "0000000016.pt").exists()
    train(tiny.study(), root, "ar-ce", 0)
    assert sha256(layout.run(root, "ar-ce", 0) / layout.AVERAGE) == weights


def test_what_someone_works_on_stays(root):
    folder = layout.run(root, "ar-ce", 0)
    script = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True)"
    worker = subprocess.Popen(
        [sys.executable, "-c", f"{script}; time.sleep(60)", str(folder / ".lock")], stdout=subprocess.PIPE
    )
    try:
        listed = disk.removable(tiny.study(), root)
        worker.stdout.readline()
        assert found(root) == GONE - {"runs/ar-ce/seed0/checkpoints"}
        assert disk.clean(listed) == [f"{folder / layout.CHECKPOINTS}: someone works there now; left"]
        assert (folder / layout.CHECKPOINTS).is_dir()
    finally:
        worker.kill()
        worker.wait()


def test_checkpoints_of_a_training_with_damaged_weights_stay(root):
    weights = layout.run(root, "ar-ce", 0) / layout.AVERAGE
    weights.write_bytes(weights.read_bytes()[:-1])
    assert found(root) == GONE - {"runs/ar-ce/seed0/checkpoints"}


def test_a_running_workflow_is_left_alone(root):
    folders.hold(layout.workflow_lock(root), "snakemake")
    said = CliRunner().invoke(main, ["clean", "--study", str(layout.study(root)), "--yes"])
    folders._HELD.pop().close()
    assert said.exit_code == 1 and "works here already" in said.output and found(root) == GONE


def test_room_is_counted_by_kind_and_links_once(root):
    chunk = layout.samples(root, "ar-ce/seed0/ce") / "chunk-00000.npy"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(b"x" * 100_000)
    os.link(chunk, chunk.with_name("chunk-00001.npy"))
    uses = disk.uses(root)
    assert uses["samples"].files == 2 and 100_000 <= uses["samples"].size < 110_000
    assert uses[disk.MOVED] == disk.Use(1, 12288) and uses[disk.CODE].files == 1 and uses[disk.LEFT].files == 2
    everything = sum(path.lstat().st_blocks * 512 for path in root.rglob("*") if path.is_file()) - uses["samples"].size
    assert sum(use.size for use in uses.values()) == everything
    assert "`mar clean --study tiny` would free " in disk.text(tiny.study(), root)


def test_a_record_of_another_training_frees_nothing(root):
    record = layout.run_record(root, "ar-ce", 0)
    values = {"variant": "ar-ce", "seed": 0, "parameters": 1, "images": 1, "seconds": 1.0, "restarts": 0}
    made = {"git_commit": "x", "time": time.ctime(), "python": "3", "torch": "2", "machine": "m", "device": "cpu"}
    made |= {"cores": 1, "threads": 1}
    write(record, RunRecord(**values, checkpoint="0" * 64, tokens="0" * 64, provenance=made))
    assert "runs/ar-ce/seed0/checkpoints" not in found(root)
