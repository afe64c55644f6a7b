"""A training on 2, 3 and 4 processes, whole and split: equal bits after kill and resume, sums that overlap."""

import importlib
import json
import multiprocessing
import os
import signal
import socket
import traceback

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import nn

from mar.data.tokens import TokenSet
from mar.runtime import distributed, runlog
from mar.runtime.files import read_json, sha256
from mar.training.trainer import Trainer

# What splits a training is imported once, before the processes are forked.
for module in ("torch._dynamo", "mar.training.sharding"):
    importlib.import_module(module)

WAYS = {"whole": "none", "split": "full"}
STEPS = 3  # of a training, with a checkpoint after each


def study(way, size):
    """Two micro-batches of two images a step and process."""
    batch = 4 * size
    recipe = tiny.STUDY["recipes"]["short"] | {"images": STEPS * batch, "batch": batch, "micro_batch": 2}
    recipe |= dict.fromkeys(("checkpoint_images", "log_images", "warmup_images"), batch)
    resources = {"nodes": 1, "gpus_per_node": 1, "hours": 1, "sharding": WAYS[way]}
    variant = tiny.STUDY["variants"]["mar-diff"] | {"resources": resources}
    return tiny.study(
        recipes={"short": recipe | {"evaluate_at": [2 / 3, 1.0]}}, variants={"mar-diff": variant}, tradeoff=[]
    )


def trainer(root, way, world, size=None):
    tokens = TokenSet.open(root / "tokens" / "kl" / "train")
    return Trainer(study(way, size or world.size), "mar-diff", 0, tokens, root / way, world=world)


def together(size, work):
    """Let so many processes, joined to one training, do `work(world)`; returns their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def process(rank):
        torch.set_num_threads(1)
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        try:
            with distributed.join() as world:
                work(world)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    fork = multiprocessing.get_context("fork")  # spares the import of torch
    processes = [fork.Process(target=process, args=(rank,)) for rank in range(size)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(600)
        each.kill()
    return [each.exitcode for each in processes]


class Abandoned(Exception):
    """Leaves the files of a training as a kill leaves them, but not the process."""


def dying(world, root):
    """Abandon the split training in its third step, and be killed in that of the whole one."""

    def step(self, rate):
        if self.images == 8 * world.size:
            self.writer.wait()
            if self.sharding == "full":
                raise Abandoned
            os.kill(os.getpid(), signal.SIGKILL)
        return STEP(self, rate)

    Trainer.step = step
    with pytest.raises(Abandoned):
        trainer(root, "split", world).run()
    trainer(root, "whole", world).run()


STEP = Trainer.step


def sums(world, folder):
    """Gradients of a pass over three layers, in buckets of one layer, beside the plain sum of the same buckets."""
    distributed.BUCKET = 300
    torch.manual_seed(world.rank)
    inputs = torch.randn(5, 16)
    torch.manual_seed(7)
    net = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    parameters = list(net.parameters())
    net(inputs).square().sum().backward()  # an earlier micro-batch, whose gradients stay on this process
    numbers, early = torch.tensor([float(world.rank), 0.0]), []
    sent, send = [], distributed._send
    distributed._send = lambda bucket: sent.append(len(bucket)) or send(bucket)
    with world.summing(numbers, parameters):
        net(inputs + 1).square().sum().backward()
        early.append(len(sent))
        numbers[1] = 1.0
    distributed._send = send
    got = [numbers, *(p.grad.clone() for p in parameters)]
    net.zero_grad()
    for more in (0, 1):
        net(inputs + more).square().sum().backward()
    want = [torch.tensor([float(world.rank), 1.0]), *(p.grad for p in parameters)]
    world.sum(want)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert (early, len(sent)) == ([2], 3)  # all buckets but the first go while the pass is under way
    assert numbers[1] == world.size and not any(p._post_accumulate_grad_hooks for p in parameters)
    distributed.BUCKET = 16_000_000
    net.zero_grad()
    for rank in range(world.size):  # what all processes computed, here by one
        torch.manual_seed(rank)
        inputs = torch.randn(5, 16)
        for more in (0, 1):
            net(inputs + more).square().sum().backward()
    torch.testing.assert_close(got[1:], [p.grad for p in parameters], rtol=1e-5, atol=1e-5)
    (folder / f"summed-{world.rank}").touch()


@pytest.mark.parametrize("size", [2, 3, 4])
def test_kill_and_resume_give_equal_bits(tmp_path, size):
    """At an equal number of processes to the bit; split and whole agree within 1e-5 relative, 1e-6 absolute."""
    whole, killed = (tiny.make_root(tmp_path / name) for name in ("whole", "killed"))

    def undisturbed(world):
        sums(world, tmp_path)
        for way in WAYS:
            trainer(whole, way, world).run()

    assert together(size, undisturbed) == [0] * size
    assert sorted(path.name for path in tmp_path.glob("summed-*")) == [f"summed-{rank}" for rank in range(size)]
    assert together(size, lambda world: dying(world, killed)) == [-signal.SIGKILL] * size
    assert together(size, lambda world: [trainer(killed, way, world).run() for way in WAYS]) == [0] * size
    averages = {}
    for way, split in WAYS.items():
        for name in ("ema.safetensors", f"ema-{8 * size:010d}.safetensors"):
            assert sha256(killed / way / name) == sha256(whole / way / name)
        lines = [runlog.read(root / way / "metrics.jsonl") for root in (killed, whole)]
        losses = [[(line["images"], line["loss"], line["grad_norm"]) for line in each] for each in lines]
        assert losses[0] == losses[1] and len(losses[0]) == STEPS
        record = read_json(killed / way / "run.json")
        assert (record["processes"], record["sharding"], record["restarts"]) == (size, split, 1)
        averages[way] = load_file(whole / way / "ema.safetensors")
    for name, tensor in averages["whole"].items():
        torch.testing.assert_close(averages["split"][name], tensor, rtol=1e-5, atol=1e-6)


def test_one_process_goes_on_with_a_split_training(tmp_path, capsys):
    """Checkpoints hold whole tensors; what follows from them is a training on one process."""
    root = tiny.make_root(tmp_path)
    assert together(2, lambda world: trainer(root, "split", world).run()) == [0, 0]
    want = load_file(root / "split" / "ema.safetensors")
    index = root / "split" / "checkpoints" / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text())[:-1]))
    run = trainer(root, "split", distributed.ALONE, 2)
    assert "sharding full, and one process: it keeps everything" in capsys.readouterr().out
    assert run.images == 16 and all(type(tensor) is torch.Tensor for tensor in run.ema.values())
    run.run()
    got = load_file(root / "split" / "ema.safetensors")
    for name, tensor in want.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-5, atol=1e-6)
    assert read_json(root / "split" / "run.json")["sharding"] == "none"


def test_a_split_training_is_compiled(tmp_path, monkeypatch):
    """Blocks are collected around what torch traces of them; without making code the result is the same to the bit."""
    traced, compile_, study_ = [], nn.Module.compile, study
    root = tiny.make_root(tmp_path)
    assert together(2, lambda world: trainer(root, "split", world).run()) == [0, 0]
    plain = load_file(root / "split" / "ema.safetensors")
    (root / "split").rename(root / "plain")

    def compiled(way, size):
        recipes = {"short": study_(way, size).recipes["short"].model_copy(update={"compile": True})}
        return study_(way, size).model_copy(update={"recipes": recipes})

    def backend(graph, _):
        traced.append(graph)
        return graph.forward

    def training(world):
        trainer(root, "split", world).run()
        assert traced

    monkeypatch.setattr(importlib.import_module(__name__), "study", compiled)
    monkeypatch.setattr(nn.Module, "compile", lambda module: compile_(module, backend=backend))
    monkeypatch.setattr("shutil.which", lambda name: name)  # no code is made, so no compiler is needed
    assert together(2, training) == [0, 0]
    for name, tensor in load_file(root / "split" / "ema.safetensors").items():
        assert torch.equal(tensor, plain[name]), name


def test_a_request_to_one_process_is_heard_by_all(tmp_path, monkeypatch):
    """All leave after the same step, with a checkpoint of it on disk."""
    root = tiny.make_root(tmp_path)

    def asked():
        return os.environ["RANK"] == "1"

    def leaves(world):
        with pytest.raises(SystemExit) as left:
            trainer(root, "whole", world).run()
        assert left.value.code == 75

    monkeypatch.setattr("mar.runtime.stop_signals.asked", asked)
    assert together(2, leaves) == [0, 0]
    (entry,) = read_json(root / "whole" / "checkpoints" / "index.json")
    assert entry["images"] == 8


def test_an_error_in_one_process_ends_the_others(tmp_path, monkeypatch):
    root = tiny.make_root(tmp_path)

    def failing(self, rate):
        if self.images == 12 and self.world.rank == 1:
            raise ValueError("disk on fire")
        return STEP(self, rate)

    monkeypatch.setattr(Trainer, "step", failing)
    assert together(3, lambda world: trainer(root, "whole", world).run()) == [1, 1, 1]
    assert not (root / "whole" / "run.json").exists()
