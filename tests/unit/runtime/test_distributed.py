"""One training on several processes: the same weights as on one, and what the environment may say."""

import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import tiny
import torch
from safetensors.torch import load_file

from mar.data.tokens import TokenSet
from mar.runtime import distributed, runlog
from mar.runtime.distributed import BUCKET, World, _buckets, from_environment
from mar.runtime.files import read_json, write_json
from mar.training.trainer import Trainer, train

# What each of the processes does.
SCRIPT = """
import sys, pathlib
sys.path.insert(0, sys.argv[2])
import torch, tiny
from mar.training import trainer
torch.set_num_threads(1)
trainer.train(tiny.study(), pathlib.Path(sys.argv[1]), "mar-diff", 0)
"""


def train_on_two(root):
    """A training on two processes of this machine: their exit codes and what they said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", SCRIPT, str(root), os.path.dirname(tiny.__file__)]
    ranks = [
        subprocess.Popen(command, env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)}, stdout=subprocess.PIPE)
        for r in range(2)
    ]
    said = [rank.communicate(timeout=300)[0].decode() for rank in ranks]
    return [rank.returncode for rank in ranks], said


def close(root, alone):
    """Losses and averaged weights of two runs agree but for the order of summation."""
    lines, wanted = (runlog.read(r / "runs/mar-diff/seed0/metrics.jsonl") for r in (root, alone))
    assert [line["images"] for line in lines] == [16, 32, 48, 64, 80, 96]
    for line, want in zip(lines, wanted, strict=True):
        assert line["loss"] == pytest.approx(want["loss"], rel=1e-6)
    weights, want = (load_file(r / "runs/mar-diff/seed0/ema.safetensors") for r in (root, alone))
    for name in want:
        torch.testing.assert_close(weights[name], want[name], rtol=1e-5, atol=1e-6)


def test_two_processes_see_what_one_sees(tmp_path):
    """Two processes train as one does, and one finishes what two began."""
    alone, shared = (tiny.make_root(tmp_path / name) for name in ("alone", "shared"))
    train(tiny.study(), alone, "mar-diff", 0)
    codes, said = train_on_two(shared)
    assert codes == [0, 0] and "96/96 images" in said[0] and not said[1]
    folder = shared / "runs" / "mar-diff" / "seed0"
    assert read_json(folder / "run.json")["processes"] == 2
    close(shared, alone)
    for name in ("run.json", "ema.safetensors"):
        (folder / name).unlink()
    index = read_json(folder / "checkpoints" / "index.json")
    write_json(folder / "checkpoints" / "index.json", index[:-1])  # as if they had died before their last checkpoint
    train(tiny.study(), shared, "mar-diff", 0)
    run = read_json(folder / "run.json")
    assert (run["restarts"], run["images"], run["processes"]) == (1, 96, 1)
    close(shared, alone)


class Fake:
    """Stands for torch.distributed, and notes what is asked of it."""

    def __init__(self):
        self.calls = []
        self.group = SimpleNamespace(WORLD=SimpleNamespace(abort=lambda: self.calls.append("abort all")))

    def init_process_group(self, backend, *_, timeout, **__):
        self.calls.append(f"join by {backend}, {timeout}")

    def new_group(self, backend, timeout):
        self.calls.append(f"group by {backend}, {timeout}")

        def stuck():
            self.calls.append("abort patient")
            raise RuntimeError("no such thing with this backend")

        return SimpleNamespace(abort=stuck)

    def destroy_process_group(self):
        self.calls.append("destroy")


JOINED = ["join by gloo, 0:10:00", "group by gloo, 6:00:00"]


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (None, ["destroy"]),
        (SystemExit(75), ["destroy"]),  # all of them leave together
        (ValueError("disk on fire"), ["abort all", "abort patient"]),
        (KeyboardInterrupt(), ["abort all", "abort patient"]),
    ],
)
def test_groups_are_taken_down_when_all_is_well_and_cut_otherwise(monkeypatch, error, end):
    """To take them down after an error would wait for the others, who wait for this process."""
    fake = Fake()
    monkeypatch.setattr(distributed, "dist", fake)
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "MASTER_ADDR": "a", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(type(error)) if error else nullcontext() as raised, distributed.join() as world:
        assert fake.calls == JOINED and (world.rank, world.size) == (1, 2) and world.patient
        if error:
            raise error
    assert fake.calls == JOINED + end
    assert error is None or raised.value is error


def test_environment():
    assert from_environment({}) == World(0, 1, 0)
    there = {"MASTER_ADDR": "a", "MASTER_PORT": "1"}
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", **there}
    assert from_environment(torchrun) == World(5, 8, 1)
    slurm = {"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}
    assert from_environment({**slurm, **there}) == World()  # a batch script, no step of it
    step = {**slurm, "SLURM_STEP_NUM_TASKS": "4", **there}
    assert from_environment(step) == World(2, 4, 0)
    assert from_environment({**step, **torchrun}) == World(5, 8, 1)
    assert from_environment({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}) == World()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "1"}, r"'WORLD_SIZE': None.*accepted: a number for each, or none"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "accepted: 0 <= LOCAL_RANK <= RANK < WORLD_SIZE"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "MASTER_ADDR and MASTER_PORT not set, with WORLD_SIZE 2"),
    ],
)
def test_half_an_environment_is_refused(variables, message):
    with pytest.raises(ValueError, match=message):
        from_environment(variables)


def test_micro_batches_must_be_shared_equally(tmp_path):
    root, study = tiny.make_root(tmp_path), tiny.study()
    tokens = TokenSet.open(root / "tokens/vq/train")
    with pytest.raises(ValueError, match=r"recipes\.short: batch 8 / micro_batch 4 = 2 on 3 processes"):
        Trainer(study, "ar-ce", 0, tokens, root / "runs/ar-ce/seed0", world=World(0, 3, 0))


def test_buckets():
    tensors = [torch.zeros(n, device="meta") for n in (BUCKET, 5, BUCKET - 5, 1, BUCKET + 7)]
    assert [[t.numel() for t in b] for b in _buckets(tensors)] == [[BUCKET], [5, BUCKET - 5], [1], [BUCKET + 7]]
    assert list(_buckets([])) == []
