"""The GPUs of one machine, each taken by one job at a time. The GPUs here are names; nothing computes on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mar.cluster import gpus, resources
from mar.cluster.job_process import Command

HOLD = """
import sys, time
from mar.cluster import gpus
with gpus.taken(int(sys.argv[1])) as names:
    print(*names, flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with GPUs 4, 7 and 9, and locks of its own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv(gpus.VISIBLE, "4,7,9")


def hold(number: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(number), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_each_job_has_gpus_of_its_own_and_waits_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    two, one = hold(2, 60), None
    try:
        assert line(two) == "4 7"
        one = hold(1, 2.0)
        assert line(one) == "9"
        with gpus.taken(1) as names:  # the first that is free again
            assert names == ["9"]
        assert capsys.readouterr().out.count("waiting for 1 of the GPUs 4, 7, 9") == 1
        two.send_signal(signal.SIGKILL)  # the kernel frees its locks
        with gpus.taken(3) as names:
            assert names == ["4", "7", "9"]
    finally:
        for process in (two, one):
            if process:
                process.kill()
                process.communicate()


def test_a_job_that_asks_for_none_takes_no_lock(tmp_path: Path) -> None:
    with gpus.taken(3), gpus.taken(0) as names:
        assert names == []


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"gpu=4: found 3 GPUs on this machine \(4, 7, 9;.*accepted: up to gpu=3,"):
        gpus.taken(4).__enter__()
    monkeypatch.setenv(gpus.VISIBLE, "")
    with pytest.raises(ValueError, match=r"found 0 GPUs on this machine \(none; .*accepted: no limit on gpu$"):
        gpus.taken(1).__enter__()
    monkeypatch.setenv(gpus.VISIBLE, "0,0")
    with pytest.raises(ValueError, match="names a GPU twice"):
        gpus.taken(1).__enter__()


def test_which_gpus_a_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.VISIBLE, "GPU-ab12, 3 ,-1,5")
    assert gpus.visible() == ["GPU-ab12", "3"]  # as CUDA reads it
    monkeypatch.delenv(gpus.VISIBLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.visible() == []
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 0\necho 1\n")
    driver.chmod(0o755)
    assert gpus.visible() == ["0", "1"]
    driver.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert gpus.visible() == []


def test_locks_in_a_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ValueError, match=r"mar-gpus-12345: is not this user's"), gpus.taken(1):
        pass


def test_a_command_sees_the_gpu_that_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(
        "mar.cluster.job_process.run", lambda arguments: ran.append((arguments, os.environ[gpus.VISIBLE])) or 0
    )
    blocker = hold(1, 60)
    try:
        assert line(blocker) == "4"
        assert Command(("sample", "--study", "s"), "debug", options=("--device", "cuda"), gpus=1)() == 0
    finally:
        blocker.kill()
        blocker.communicate()
    assert ran == [(("--device", "cuda", "sample", "--study", "s"), "7")]


def test_a_training_on_two_gpus_is_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says = tmp_path / "mar" / "cli" / "__main__.py"  # stands for the commands: says which process of how many it is
    says.parent.mkdir(parents=True)
    (says.parent / "__init__.py").touch()
    (says.parents[1] / "__init__.py").touch()
    says.write_text(
        "import os, sys\nfrom pathlib import Path\n"
        "keys = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'CUDA_VISIBLE_DEVICES')\n"
        "said = [os.environ[key] for key in keys] + [str('MASTER_PORT' in os.environ)] + sys.argv[1:]\n"
        "Path(sys.argv[-1], os.environ['RANK']).write_text(' '.join(said))\n"
    )
    monkeypatch.chdir(tmp_path)  # `python -m` looks here first
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert Command(("train", str(tmp_path)), "debug", options=("--device", "cpu"), gpus=2)() == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    for rank in "01":
        assert (tmp_path / rank).read_text() == f"{rank} 2 {rank} 4,7 True --device cpu train {tmp_path}"


def test_a_limit_on_gpu_gives_each_job_of_this_machine_what_its_rule_needs() -> None:
    asked = resources.asked
    assert asked("sample", {}, {}, {})["gpu"] == 0  # without a limit all jobs see all GPUs
    assert asked("sample", {}, {}, {}, ["gpu"])["gpu"] == 1
    assert asked("evaluate", {}, {}, {}, ["gpu"])["gpu"] == 0
    train = asked("train", {"device": "cpu"}, {"train": {"gpu": 4}}, {}, ["gpu"])
    assert (train["gpu"], train["device"], resources.number_of_gpus(train)) == (4, "cpu", 4)
    assert asked("sample", {"launcher": "slurm"}, {}, {}, ["gpu"])["gpu"] == 0  # Slurm gives out its own
    with pytest.raises(ValueError, match=r"set-resources: sample: gpu=2, and only `train`.*accepted: 0, 1"):
        resources.check_jobs({"sample": asked("sample", {}, {"sample": {"gpu": 2}}, {}), "train": train})
    with pytest.raises(ValueError, match=r"default-resources: gpu: .*accepted: `resources: \{gpu: N\}`"):
        resources.check({"gpu": 2}, {})
    with pytest.raises(ValueError, match=r"train x: 3 GPUs.*= 1, 2, 4; on one machine gpu of these"):
        resources.check_shares("train x", 3, 4, "recipes.r")


def test_a_lock_is_waited_for_at_most_as_long_as_it_is_held() -> None:
    other = hold(3, 1.5)
    assert line(other) == "4 7 9"
    begin = time.monotonic()
    with gpus.taken(1) as names:
        assert names == ["4"] and time.monotonic() - begin < 60
    assert other.wait() == 0
