"""Trainings of `mar` itself on the test cluster: in several slots, on several nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

UNIT = Path(__file__).parents[1] / "unit"
IMAGES = 8000


class Training:
    """A tiny study, and launchers of its training."""

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(UNIT))
        import tiny

        self.recipe = {**tiny.STUDY["recipes"]["short"], "images": IMAGES, "micro_batch": 2, "log_images": 400}
        self.recipe["checkpoint_images"] = 4000
        root: Path = tiny.make_root(folder)
        file = root / "study.json"
        study = json.loads(file.read_text())
        study["recipes"]["short"] |= self.recipe
        file.write_text(json.dumps(study))
        self.root, self.job = root, root / "jobs" / "train"
        self.run_folder = root / "runs" / "mar-diff" / "seed0"
        self.command = ["--threads", "1", "train", "--study", str(file), "--variant", "mar-diff", "--seed", "0"]

    def launch(self, *options: str) -> subprocess.Popen[str]:
        """Start a launcher."""
        return subprocess.Popen(
            [
                sys.executable, "-m", "mar.cli", "launch", "--cluster", "slurm", "--folder", str(self.job),
                "--outputs", f"{self.run_folder}/ema.safetensors {self.run_folder}/run.json", *options, "--",
                *self.command,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )  # fmt: skip

    def alone(self) -> None:
        """Train without Slurm."""
        subprocess.run([sys.executable, "-m", "mar.cli", *self.command], check=True, capture_output=True)

    def job_id(self) -> str:
        record: dict[str, Any] = json.loads((self.job / "job.json").read_text())
        return str(record["job"])

    def wait_for(self, condition: Callable[[], Any], seconds: float = 120.0) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def logged(self) -> int:
        """Lines of the log of the run."""
        file = self.run_folder / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def starts(self) -> int:
        """How often the job started and went on."""
        log = self.job / f"{self.job_id()}_0_log.out"
        return log.read_text().count("going on after") + 1


@pytest.fixture
def training(slurm: Callable[..., str], tmp_path: Path) -> Training:
    return Training(tmp_path / "results")


def test_slots_a_requeue_and_a_dead_head_leave_the_weights_bitwise_equal(training: Training, tmp_path: Path) -> None:
    head = training.launch("--slurm-gpus-per-node=1")
    training.wait_for(lambda: training.logged() >= 1)
    subprocess.run(["scancel", "--signal=USR2", training.job_id()], check=True)
    os.killpg(head.pid, signal.SIGKILL)
    head.wait()
    head = training.launch("--slurm-gpus-per-node=1")
    training.wait_for(lambda: training.starts() == 2)
    lines = training.logged()
    training.wait_for(lambda: training.logged() > lines)
    subprocess.run(["scontrol", "requeue", training.job_id()], check=True)
    out, err = head.communicate(timeout=180)
    assert head.returncode == 0, out + err
    assert "following it" in out and "SIGUSR2: leaving" in out and "SIGTERM: leaving" in out
    assert training.starts() == 3
    whole = Training(tmp_path / "whole")
    whole.alone()
    ours, theirs = ((t.run_folder / "ema.safetensors").read_bytes() for t in (training, whole))
    assert ours == theirs


def test_two_nodes_with_two_tasks_each_have_the_losses_of_one_process(training: Training, tmp_path: Path) -> None:
    head = training.launch("--slurm-gpus-per-node=2", "--slurm-nodes=2")
    whole = Training(tmp_path / "whole")
    whole.alone()
    out, err = head.communicate(timeout=300)
    assert head.returncode == 0, out + err
    assert json.loads((training.run_folder / "run.json").read_text())["processes"] == 4
    ours, theirs = (
        [json.loads(line)["loss"] for line in (t.run_folder / "metrics.jsonl").read_text().splitlines()]
        for t in (training, whole)
    )
    # float32 sums in another order, over 1000 steps
    assert ours == pytest.approx(theirs, rel=1e-3)
    a, b = (load_file(t.run_folder / "ema.safetensors") for t in (training, whole))
    worst = max(((a[k] - b[k]).norm() / b[k].norm().clamp(min=1e-6)).item() for k in b)
    print(f"largest relative difference of a tensor of weights: {worst:.1e}")
    assert worst < 1e-2
