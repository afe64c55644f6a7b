"""A training that a signal asks to leave saves, leaves with a status of its own, and goes on to the same weights."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from mar.runtime import runlog, stop_signals
from mar.runtime.files import sha256
from mar.training.trainer import Trainer, train


@pytest.fixture
def listening() -> Iterator[None]:
    """Signals as a job of Slurm has them, and as they were afterwards."""
    numbers = (*stop_signals.WARNINGS, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    stop_signals.listen(at_once=False)
    yield
    stop_signals._received.clear()
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("listening")
def test_a_training_in_three_slots_is_bitwise_equal_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parted = (tiny.make_root(tmp_path / name) for name in ("whole", "parted"))
    train(tiny.study(), whole, "mar-diff", 0)
    asked = {40: signal.SIGUSR2, 64: signal.SIGTERM}  # between two checkpoints, and where a line is logged
    step = Trainer.step

    def signalled(self: Trainer, rate: float) -> Any:
        done = step(self, rate)
        if number := asked.pop(self.images + self.recipe.batch, None):
            os.kill(os.getpid(), number)
        return done

    monkeypatch.setattr(Trainer, "step", signalled)
    folder = parted / "runs" / "mar-diff" / "seed0"
    for images, warned in ((40, True), (64, False)):
        with pytest.raises(SystemExit) as left:
            train(tiny.study(), parted, "mar-diff", 0)
        assert left.value.code == stop_signals.LEFT and stop_signals.warned() == warned
        index = json.loads((folder / "checkpoints" / "index.json").read_text())
        assert index[-1]["images"] == images and not (folder / "run.json").exists()
        stop_signals._received.clear()
    train(tiny.study(), parted, "mar-diff", 0)
    theirs = whole / "runs" / "mar-diff" / "seed0"
    assert sha256(folder / "ema.safetensors") == sha256(theirs / "ema.safetensors")
    losses = [[(line["images"], line["loss"]) for line in runlog.read(f / "metrics.jsonl")] for f in (folder, theirs)]
    assert losses[0] == losses[1]


def test_work_that_is_not_a_training_is_left_at_once(listening: None, capsys: pytest.CaptureFixture[str]) -> None:
    stop_signals.listen(at_once=True)
    with pytest.raises(SystemExit) as left:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.getpid()
    assert left.value.code == stop_signals.LEFT and stop_signals.asked()
    os.kill(os.getpid(), signal.SIGTERM)  # while it leaves: noted only
    assert capsys.readouterr().out == "SIGUSR1: leaving, to go on later\n"


@pytest.mark.usefixtures("listening")
def test_a_forked_worker_passes_over_warnings_and_ends_at_sigterm() -> None:
    child = os.fork()
    if not child:
        signal.alarm(20)  # whatever happens, it does not stay
        while True:
            time.sleep(0.05)
    os.kill(child, signal.SIGUSR2)
    time.sleep(0.3)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not stop_signals.asked()
