"""Files that survive a crash: atomic writes, locks that die with their process, folders of one recipe."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mar.runtime import files, folders


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestAtomic:
    def test_writes_and_makes_folders(self, tmp_path: Path) -> None:
        files.write_text(tmp_path / "a" / "b" / "c.txt", "new")
        assert (tmp_path / "a" / "b" / "c.txt").read_text() == "new"
        assert kept(tmp_path / "a" / "b") == ["c.txt"]

    def test_an_exception_leaves_the_old_file_and_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "c.txt"
        path.write_text("old")
        with pytest.raises(RuntimeError, match="disk"), files.atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("disk")
        assert path.read_text() == "old"
        assert kept(tmp_path) == ["c.txt"]

    def test_an_exception_before_the_first_byte_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match="early"), files.atomic(tmp_path / "c.txt"):
            raise RuntimeError("early")
        assert kept(tmp_path) == []

    def test_a_full_disk_is_told_whatever_the_writer_raises(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=0))
        told = rf"No space left on device: '{tmp_path}/c.pt'"
        with pytest.raises(OSError, match=told), files.atomic(tmp_path / "c.pt"):
            raise RuntimeError("unexpected pos 93248 vs 93136")  # as torch.save does
        assert kept(tmp_path) == []

    def test_the_name_holds_the_old_content_until_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "c.txt"
        path.write_text("old")
        with files.atomic(path) as temporary:
            temporary.write_text("new")
            assert temporary.parent == path.parent  # a rename is atomic within one file system only
            assert path.read_text() == "old"
        assert path.read_text() == "new"

    def test_write_if_changed_keeps_an_equal_file(self, tmp_path: Path) -> None:
        path = tmp_path / "c.txt"
        files.write_if_changed(path, "same")
        os.utime(path, (1, 1))
        files.write_if_changed(path, "same")
        assert path.stat().st_mtime == 1
        files.write_if_changed(path, "other")
        assert path.stat().st_mtime > 1


@pytest.mark.parametrize("raised", [RuntimeError("unexpected pos 64 vs 0"), OSError("92160 requested and 100 written")])
def test_why_a_file_was_not_written_is_told_where_torch_and_numpy_do_not(tmp_path: Path, raised: Exception) -> None:
    code = f"""
import resource
from mar.runtime.files import atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic("weights") as temporary:
        open(temporary, "wb", buffering=0).write(bytes(2000))
        raise {raised!r}
except OSError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout == "[Errno 27] File too large: 'weights'\n"
    with pytest.raises(type(raised), match=str(raised)), files.atomic(tmp_path / "weights") as temporary:
        temporary.write_bytes(b"x")  # there is room: the error is another one
        raise raised


class TestJson:
    def test_round_trip_keeps_the_order_of_keys(self, tmp_path: Path) -> None:
        files.write_json(tmp_path / "a.json", {"b": [1, 2.5, None], "a": "é"})
        assert list(files.read_json(tmp_path / "a.json").items()) == [("b", [1, 2.5, None]), ("a", "é")]

    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no\.json: missing; the stage that writes it has not run"):
            files.read_json(tmp_path / "no.json")

    def test_broken_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text('{"a": 1')
        with pytest.raises(ValueError, match=r"a\.json: no valid JSON \(.*line 1.*\); delete it and run the same"):
            files.read_json(tmp_path / "a.json")

    def test_no_number_is_refused_and_nothing_written(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="JSON compliant"):
            files.write_json(tmp_path / "a.json", {"loss": float("nan")})
        assert kept(tmp_path) == []


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 1000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_a_pipe_has_no_checksum(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe: found a pipe or device; accepted: a file"):
        files.sha256(tmp_path / "pipe")


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until it is killed; returns once it has it."""
    code = f"""
import time
from mar.runtime.folders import lock
with lock({str(folder)!r}):
    print("mine", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


class TestLock:
    def test_another_process_is_kept_out_until_the_first_is_killed(self, tmp_path: Path) -> None:
        first = holder(tmp_path)
        try:
            with pytest.raises(BlockingIOError), folders.lock(tmp_path, wait=False):
                pass
            first.send_signal(signal.SIGKILL)
            first.wait()
            with folders.lock(tmp_path, wait=False):
                pass  # the kernel freed it: no stale lock file stands in the way
        finally:
            first.kill()
            first.wait()

    def test_the_second_waits_says_so_and_goes_on(self, tmp_path: Path) -> None:
        first = holder(tmp_path)
        code = f"from mar.runtime.folders import lock\nwith lock({str(tmp_path)!r}):\n    print('done')"
        second = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        try:
            assert second.stdout is not None
            assert second.stdout.readline() == f"{tmp_path}: another process works here; waiting for it\n"
            time.sleep(0.2)
            assert second.poll() is None
            first.kill()
            assert second.stdout.read() == "done\n"
            assert second.wait(timeout=20) == 0
        finally:
            for process in (first, second):
                process.kill()
                process.wait()

    def test_free_again_after_use(self, tmp_path: Path) -> None:
        for _ in range(2):
            with folders.lock(tmp_path / "new", wait=False):
                pass

    def test_free_again_after_an_exception(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match="stage"), folders.lock(tmp_path, wait=False):
            raise RuntimeError("stage")
        with folders.lock(tmp_path, wait=False):
            pass

    def test_folders_are_independent(self, tmp_path: Path) -> None:
        with folders.lock(tmp_path / "a", wait=False), folders.lock(tmp_path / "b", wait=False):
            pass


class TestClaim:
    def test_the_same_recipe_goes_on_in_the_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "seed0"
        folders.claim(folder, {"train": "x", "shard": 10})
        (folder / "checkpoint").write_text("half done")
        folders.claim(folder, {"shard": 10, "train": "x"})
        assert (folder / "checkpoint").read_text() == "half done"
        assert kept(tmp_path) == ["seed0"]

    def test_another_recipe_moves_everything_aside(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "seed0"
        with folders.lock(folder):
            folders.claim(folder, {"train": "x"})
            (folder / "checkpoints").mkdir()
            (folder / "checkpoints" / "1").write_text("old")
            folders.claim(folder, {"train": "y"})
        assert kept(folder) == [".lock", "recipe.json"]
        assert files.read_json(folder / "recipe.json") == {"train": "y"}
        (aside,) = (path for path in tmp_path.iterdir() if path != folder)
        assert aside.name.startswith("seed0.old-")
        assert kept(aside) == ["checkpoints", "recipe.json"]
        assert (aside / "checkpoints" / "1").read_text() == "old"
        assert files.read_json(aside / "recipe.json") == {"train": "x"}
        assert f"{folder}: was made by another recipe; moved to {aside}" in capsys.readouterr().out

    def test_killed_while_moving_the_old_content_is_never_adopted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "seed0"
        folders.claim(folder, {"train": "x"})
        for name in ("a", "z"):  # on both sides of recipe.json in any sorted order
            (folder / name).write_text("old")
        moved = []

        def replace(source: Path, target: Path) -> None:
            moved.append(source)
            if len(moved) == 2:
                raise KeyboardInterrupt
            os.rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", replace)
            with pytest.raises(KeyboardInterrupt):
                folders.claim(folder, {"train": "y"})
        assert files.read_json(folder / "recipe.json") == {"train": "x"}
        monkeypatch.setattr(folders.time, "strftime", lambda _: "later")
        folders.claim(folder, {"train": "y"})
        assert kept(folder) == ["recipe.json"]

    def test_a_broken_recipe_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "recipe.json").write_text("{")
        with pytest.raises(ValueError, match=r"recipe\.json: Invalid JSON"):
            folders.claim(tmp_path, {"train": "x"})


class TestTakeOver:
    """A study that reuses another takes the finished folders of equal recipe, and nothing else."""

    def twin(self, tmp_path: Path, recipe: dict[str, int], finished: bool = True) -> Path:
        twin = tmp_path / "other"
        (twin / "checkpoints").mkdir(parents=True)
        (twin / "weights.safetensors").write_bytes(b"weights")
        (twin / "chunk.npy").write_bytes(b"chunk")
        (twin / "log.jsonl").write_text("line\n")
        files.write_json(twin / "recipe.json", recipe)
        if finished:
            files.write_json(twin / "run.json", {"done": True})
        return twin

    def test_a_finished_folder_of_equal_recipe(self, tmp_path: Path) -> None:
        twin, folder = self.twin(tmp_path, {"a": 1}), tmp_path / "mine"
        with folders.lock(folder):
            folders.claim(folder, {"a": 1}, "run.json", twin)
        assert kept(folder) == [".lock", "chunk.npy", "log.jsonl", "recipe.json", "run.json", "weights.safetensors"]
        assert (folder / "chunk.npy").samefile(twin / "chunk.npy")  # no second copy on disk
        before = (twin / "weights.safetensors").stat().st_mtime_ns
        os.utime(folder / "weights.safetensors", ns=(0, 0))  # as the workflow does with its outputs
        assert (twin / "weights.safetensors").stat().st_mtime_ns == before
        with open(folder / "log.jsonl", "a") as log:
            log.write("mine\n")
        assert (twin / "log.jsonl").read_text() == "line\n"  # what is appended to is no link

    @pytest.mark.parametrize(("recipe", "finished"), [({"a": 2}, True), ({"a": 1}, False)])
    def test_not_another_recipe_nor_an_unfinished_one(
        self, tmp_path: Path, recipe: dict[str, int], finished: bool
    ) -> None:
        folder = tmp_path / "mine"
        with folders.lock(folder):
            folders.claim(folder, {"a": 1}, "run.json", self.twin(tmp_path, recipe, finished))
        assert kept(folder) == [".lock", "recipe.json"]

    def test_what_is_there_is_kept_or_moved_aside_first(self, tmp_path: Path) -> None:
        twin, folder = self.twin(tmp_path, {"a": 1}), tmp_path / "mine"
        folder.mkdir()
        (folder / "old.txt").write_text("old")
        files.write_json(folder / "recipe.json", {"a": 0})
        with folders.lock(folder):
            folders.claim(folder, {"a": 1}, "run.json", twin)
        assert "old.txt" not in kept(folder) and "run.json" in kept(folder)
        (folder / "weights.safetensors").unlink()
        (folder / "weights.safetensors").write_bytes(b"ours")
        with folders.lock(folder):
            folders.claim(folder, {"a": 1}, "run.json", twin)
        assert (folder / "weights.safetensors").read_bytes() == b"ours"  # finished: nothing is taken again
