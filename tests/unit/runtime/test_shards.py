"""The guard of a stage, and files that several workers make: shares, resuming, who ends, what a killed process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mar.runtime import files, folders, shards

RECIPE = {"slice": "a"}
WRITER = """
import sys, time
from pathlib import Path
from mar.runtime.files import atomic
with atomic(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def writing(path: Path) -> subprocess.Popen[str]:
    """A process that is in the middle of an atomic write."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    return process


def temporaries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.tmp"))


def made(folder: Path, share: shards.Share, count: int = 5) -> list[int]:
    """Fill and finish a folder as worker i of n; the numbers that it made."""
    paths, numbers = [folder / f"{number}.txt" for number in range(count)], list[int]()

    def make(missing: list[int]) -> Iterator[tuple[int, Callable[[Path], None]]]:
        for number in missing:
            yield number, lambda path: files.write_text(path, "whole")
            numbers.append(number)

    def whole(number: int) -> bool:
        return paths[number].exists()

    report = folder / "report.json"
    with shards.stage(report, lambda: all(map(whole, range(count))), RECIPE) as left:
        if not left:
            return []
    shards.fill(folder, RECIPE, paths, share, whole, make)
    shards.finish(report, RECIPE, paths, whole, lambda: files.write_text(report, f"by {share}"))
    return numbers


class TestShares:
    def test_who_completes_the_set_writes_the_report(self, tmp_path: Path) -> None:
        assert made(tmp_path, (1, 3)) == [1, 4] and made(tmp_path, (2, 3)) == [2]
        assert not (tmp_path / "report.json").exists()
        assert made(tmp_path, (0, 3)) == [0, 3]
        assert (tmp_path / "report.json").read_text() == "by (0, 3)"

    def test_what_is_there_is_not_made_again(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        made(tmp_path, (0, 2))
        (tmp_path / "2.txt").unlink()
        assert made(tmp_path, (0, 1)) == [1, 2, 3]
        assert made(tmp_path, (0, 1)) == []
        assert capsys.readouterr().out == f"{tmp_path / 'report.json'}: complete\n"

    def test_a_folder_that_was_claimed_meanwhile_is_left_alone(self, tmp_path: Path) -> None:
        folders.claim(tmp_path, RECIPE)

        def make(missing: list[int]) -> Iterator[tuple[int, Callable[[Path], None]]]:
            folders.claim(tmp_path, {"slice": "b"})
            yield missing[0], lambda path: files.write_text(path, "old")

        with pytest.raises(ValueError, match="another recipe took this folder over"):
            shards.fill(tmp_path, RECIPE, [tmp_path / "0.txt"], (0, 1), lambda number: False, make)
        with pytest.raises(ValueError, match="another recipe took this folder over"):
            shards.finish(tmp_path / "report.json", RECIPE, [], lambda number: True, lambda: None)
        assert not (tmp_path / "0.txt").exists() and not temporaries(tmp_path)


class TestStage:
    def test_a_report_that_is_not_sound_leaves_work_to_do(self, tmp_path: Path) -> None:
        report = tmp_path / "report.json"
        with shards.stage(report, lambda: True) as left:
            assert left
        report.write_text("{}")
        for sound in (True, False):
            with shards.stage(report, lambda sound=sound: sound) as left:
                assert left is not sound

    def test_another_recipe_moves_the_report_aside(self, tmp_path: Path) -> None:
        folder = tmp_path / "a"
        made(folder, (0, 1))
        with shards.stage(folder / "report.json", lambda: True, {"slice": "b"}) as left:
            assert left
        assert len(list(tmp_path.glob("a.old-*/report.json"))) == 1

    def test_the_folder_is_locked_inside(self, tmp_path: Path) -> None:
        with shards.stage(tmp_path / "a.json", lambda: True, folder=tmp_path / ".a"):
            with pytest.raises(BlockingIOError), folders.lock(tmp_path / ".a", wait=False):
                pass
            with folders.lock(tmp_path, wait=False):
                pass


class TestTemporaryFiles:
    def test_of_a_killed_process_are_removed_and_of_a_live_one_kept(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "checkpoints").mkdir()
        places = [tmp_path / "0.txt", tmp_path / "checkpoints" / "1.txt"]
        killed, alive = [writing(path) for path in places], writing(tmp_path / "2.txt")
        try:
            assert len(temporaries(tmp_path)) == 3
            for process in killed:
                process.send_signal(signal.SIGKILL)
                process.wait()
            assert made(tmp_path, (0, 1), count=2) == [0, 1]
            (kept,) = temporaries(tmp_path)
            assert kept.read_text() == "half" and f".{alive.pid}." in kept.name
            assert capsys.readouterr().out.count("left by a process that was killed; removed") == 2
        finally:
            for process in (*killed, alive):
                process.kill()
                process.wait()

    def test_of_another_machine_are_removed_after_a_day_without_a_write(self, tmp_path: Path) -> None:
        names = (".a.npy.elsewhere.1.tmp", ".b.npy.1.tmp")  # the second as versions before wrote them
        for name in names:
            for age, prefix in ((0, ".new"), (2 * files.DAY, ".old")):
                path = tmp_path / f"{prefix}{name}"
                path.touch()
                os.utime(path, (path.stat().st_mtime - age,) * 2)
        (tmp_path / ".notes.tmp").touch()  # nothing of ours
        os.utime(tmp_path / ".notes.tmp", (0, 0))
        files.remove_abandoned(tmp_path)
        kept = [path.name for path in temporaries(tmp_path)]
        assert kept == [".new.a.npy.elsewhere.1.tmp", ".new.b.npy.1.tmp", ".notes.tmp"]

    def test_of_a_report_are_removed_too(self, tmp_path: Path) -> None:
        process = writing(tmp_path / "a.json")
        process.kill()
        process.wait()
        with shards.stage(tmp_path / "a.json", lambda: True, folder=tmp_path / ".a"):
            assert not temporaries(tmp_path)
