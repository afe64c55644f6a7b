"""Trainings of `mar` itself on the test cluster: in several slots, on several nodes, on fewer of them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from training import Training, stop_until_warned

pytestmark = pytest.mark.long


@pytest.fixture
def training(slurm: Callable[..., str], tmp_path: Path) -> Training:
    return Training(tmp_path / "results")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """The same without Slurm, in one process and without a stop."""
    training = Training(tmp_path_factory.mktemp("whole"))
    training.alone()
    return training


def weights(training: Training) -> bytes:
    return (training.run_folder / "ema.safetensors").read_bytes()


def test_slots_a_requeue_and_a_dead_head_leave_the_weights_bitwise_equal(training: Training, whole: Training) -> None:
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
    out, err = head.communicate(timeout=400)
    assert head.returncode == 0, out + err
    assert "following it" in out and "SIGUSR2: leaving" in out and "SIGTERM: leaving" in out
    assert training.starts() == 3
    assert weights(training) == weights(whole)


def test_a_training_longer_than_its_time_limit_goes_on_in_the_next_slot(training: Training, whole: Training) -> None:
    head = training.launch("--slurm-gpus-per-node=1", "--slurm-time=2", "--slurm-signal=30")
    training.wait_for(lambda: training.logged() >= 1)
    stop_until_warned(training.rank(), training.wait_for)
    out, err = head.communicate(timeout=600)
    assert head.returncode == 0, out + err
    assert "SIGUSR2: leaving" in out and training.starts() >= 2
    assert training.record()["restarts"] == training.starts() - 1
    assert weights(training) == weights(whole)


def test_two_nodes_with_two_tasks_each_have_the_losses_of_one_process(training: Training, whole: Training) -> None:
    head = training.launch("--slurm-gpus-per-node=2", "--slurm-nodes=2")
    out, err = head.communicate(timeout=600)
    assert head.returncode == 0, out + err
    assert training.record()["processes"] == 4
    compare(training, whole)


def test_a_training_of_four_tasks_goes_on_with_two(training: Training, whole: Training) -> None:
    head = training.launch("--slurm-gpus-per-node=2", "--slurm-nodes=2", "--slurm-extra=--no-requeue")
    training.wait_for(lambda: training.logged() >= 3)
    os.killpg(head.pid, signal.SIGKILL)
    head.wait()
    subprocess.run(["scancel", "--signal=USR2", training.job_id()], check=True)
    head = training.launch("--slurm-gpus-per-node=2")
    out, err = head.communicate(timeout=600)
    assert head.returncode == 0, out + err
    assert "ended before: LEFT; submitting again" in out
    run = training.record()
    assert (run["processes"], run["images"], run["restarts"]) == (2, whole.record()["images"], 1)
    # not one image twice or left out: steps, data and random numbers are named by the count of images
    assert [line["images"] for line in training.log()] == [line["images"] for line in whole.log()]
    assert [line["learning_rate"] for line in training.log()] == [line["learning_rate"] for line in whole.log()]
    compare(training, whole)


def compare(ours: Training, theirs: Training) -> None:
    """Not equal to the bit: float32 sums in another order, over hundreds of steps."""
    losses = [[line["loss"] for line in t.log()] for t in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    a, b = (load_file(t.run_folder / "ema.safetensors") for t in (ours, theirs))
    worst = max(((a[k] - b[k]).norm() / b[k].norm().clamp(min=1e-6)).item() for k in b)
    print(f"largest relative difference of a tensor of weights: {worst:.1e}")
    assert worst < 1e-2
