"""How many graphs torch.compile makes of a model: a few at the first lengths, none later."""

import shutil
from dataclasses import dataclass, field

import pytest
import tiny
import torch
from torch import nn

from mar.data.tokens import TokenSet
from mar.models.order import draw_order
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.study.parts import Sampling
from mar.training.trainer import Trainer


@dataclass
class Graphs:
    """Counts graphs in place of making code of them."""

    found: list[int] = field(default_factory=list)

    def __call__(self, graph, inputs):
        self.found.append(len(inputs))
        return graph.forward


@pytest.fixture
def graphs(monkeypatch):
    counted, compile_ = Graphs(), nn.Module.compile
    torch._dynamo.reset()
    monkeypatch.setattr(nn.Module, "compile", lambda module: compile_(module, backend=counted))
    monkeypatch.setattr(shutil, "which", lambda name: name)  # no code is made, so no compiler is needed
    yield counted
    torch._dynamo.reset()


def trainer(tmp_path, variant):
    recipe = tiny.STUDY["recipes"]["short"] | {"compile": True, "mask_ratio_min": 0.1}
    backbones = tiny.STUDY["backbones"] | {"masked": tiny.STUDY["backbones"]["masked"] | {"depth": 3}}
    study = tiny.study(recipes={"short": recipe}, backbones=backbones)
    root = tiny.make_root(tmp_path)
    tokens = TokenSet.open(root / "tokens" / study.variants[variant].tokenizer / "train")
    return Trainer(study, variant, 0, tokens, root / "runs" / variant / "seed0")


def test_training(tmp_path, graphs):
    """Micro-batches of 14 mask ratios: blocks of equal shape share a graph, and lengths become symbols."""
    run, counts, lengths = trainer(tmp_path, "mar-diff"), [], set()
    run.model.train()
    for number in range(14):
        lengths.add(run.prepare(4 * number, 4).known)
        run.micro_batch_loss(4 * number, 4).backward()
        counts.append(len(graphs.found))
    assert counts[-1] == counts[2] <= 6 and len(lengths) > 5


SETTINGS = {
    "mar-diff": Sampling(steps=5, diffusion_steps=3, guidance=2.0),
    "var": Sampling(steps=3, guidance=2.0, kv_cache=True),
}


@pytest.mark.parametrize(("variant", "most"), [("mar-diff", 8), ("var", 4)])
def test_sampling(tmp_path, graphs, variant, most):
    """All steps of a batch share a few graphs; the batch after it needs none, and draws what a plain model draws."""
    run = trainer(tmp_path, variant)
    run.step(1e-2)
    model, manifest = run.model.eval(), run.tokens.manifest
    graphs.found.clear()
    torch._dynamo.reset()
    drawn, counts = [], []
    for stance in ("default", "default", "force_eager"):
        noise = Noise("test", int(stance == "default" and len(drawn) == 1))
        ids = manifest.kind == "ids"
        shape = (manifest.tokens,) if ids else (manifest.tokens, manifest.token_dim)
        blank = torch.zeros(shape, dtype=torch.long if ids else torch.float32)
        order = draw_order(run.order, 4, manifest.tokens, noise)
        with torch.no_grad(), torch.compiler.set_stance(stance):
            drawn.append(generate(model, torch.arange(4), order, blank, SETTINGS[variant], noise))
        counts.append(len(graphs.found))
    assert 0 < counts[0] <= most and counts[2] == counts[1] == counts[0]
    torch.testing.assert_close(drawn[0], drawn[2])
