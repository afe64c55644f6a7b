"""`python -m benchmarks published` beside a stand-in for the published code, which has its interface and its names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import published
from benchmarks.tables import Row

# The restated algorithm of benchmarks/baseline.py under the published names of module, class, methods and weights.
STAND_IN = """
import torch
from torch import nn
from benchmarks import baseline, models
from mar.data.latents import patchify, unpatchify
from mar.study.parts import Sampling

class MAR(nn.Module):
    def __init__(self, img_size, vae_stride, vae_embed_dim, encoder_embed_dim, encoder_depth, encoder_num_heads,
                 decoder_embed_dim, decoder_depth, decoder_num_heads, norm_layer, class_num, label_drop_prob,
                 attn_dropout, proj_dropout, buffer_size, diffloss_d, diffloss_w, num_sampling_steps,
                 diffusion_batch_mul):
        super().__init__()
        self.steps, self.ours = int(num_sampling_steps), models.build("masked")
        self.mask_ratio_generator = None

    def state_dict(self):
        names = {name: name.removeprefix("backbone.").replace("head.", "diffloss.", 1) if name.startswith("backbone.")
                 else "diffloss." + name.removeprefix("head.") for name in self.ours.state_dict()}
        state = {names[name]: tensor for name, tensor in self.ours.state_dict().items()}
        table = state["class_emb.weight"]
        state["class_emb.weight"] = torch.cat([table, torch.zeros(1000 - len(table), table.shape[1])])
        return state

    def sample_orders(self, bsz):
        raise AssertionError

    def sample_tokens(self, bsz, num_iter, cfg, cfg_schedule, labels, temperature):
        settings = Sampling(steps=num_iter, diffusion_steps=self.steps, guidance=cfg, guidance_schedule=cfg_schedule)
        order = self.sample_orders(bsz).flip(1).cuda()
        noise = Calls(cfg != 1.0, self.steps)
        tokens = baseline.generate(self.ours, labels, order, torch.zeros(256, 16), settings, noise)
        return SCALE * unpatchify(tokens, 1, 16)

    def forward(self, imgs, labels):
        tokens, order = patchify(imgs, 1), self.sample_orders(len(imgs)).flip(1)
        known = 256 - round(256 * self.mask_ratio_generator.rvs(1)[0])
        return baseline.loss(self.ours, tokens, labels, order, known, Learning())

class Calls:
    # The first noise of a token's diffusion is drawn once, that of each step for both branches of guidance.
    def __init__(self, doubled, steps):
        self.doubled, self.steps, self.call = doubled, steps, 0
    def normal(self, rows, dim):
        first = self.call % (self.steps + 1) == 0
        self.call += 1
        if first:
            return torch.randn(rows, dim).cuda()
        return torch.randn_like(torch.empty(rows * (2 if self.doubled else 1), dim))[:rows]

class Learning:
    def integers(self, high, *shape):
        return torch.randint(0, high, (shape[0] * shape[1],)).reshape(shape)
    def normal(self, *shape):
        return torch.randn_like(torch.empty(shape[0] * shape[1], shape[2])).reshape(shape)
"""


def once(name: str, baseline: Callable[[], object], ours: Callable[[], object], pairs: int) -> Row:
    """Call both; how fast they are is no matter here."""
    baseline(), ours()
    return Row(name=name, cpu=[(2.0, 1.0)], wall=[(2.0, 1.0)])


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with models/mar.py, named by MAR_PUBLISHED; draws few and short batches."""
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("MAR_PUBLISHED", str(tmp_path))
    monkeypatch.setattr(published, "SETTINGS", published.SETTINGS.model_copy(update={"steps": 2, "diffusion_steps": 3}))
    monkeypatch.setattr(published, "paired", once)
    small = published.BACKBONES["masked"].model_copy(update={"width": 32, "depth": 1})
    monkeypatch.setitem(published.BACKBONES, "masked", small)
    for module in (published, published.models):
        monkeypatch.setattr(module, "WIDTH", 32)
        monkeypatch.setattr(module, "HEAD", module.HEAD.model_copy(update={"width": 32, "depth": 1}))
    monkeypatch.setattr(published.training, "BATCH", 1)
    for name in ("models", "models.mar"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in ("models", "models.mar"):
        sys.modules.pop(name, None)


def test_both_draw_and_learn_the_same(checkout: Path):
    (checkout / "models" / "mar.py").write_text(f"SCALE = 1.0\n{STAND_IN}")
    cuda = torch.Tensor.cuda
    pairs, apart = published.report()
    assert [row.name for row in pairs.rows] == [
        "sampling, guidance 3.0",
        "sampling, guidance 1.0",
        "training step: loss, gradients, AdamW, weight average",
    ]
    assert apart.count(" by ") == 3
    assert torch.Tensor.cuda is cuda and str(checkout) not in sys.path


def test_no_time_is_compared_where_outputs_differ(checkout: Path):
    (checkout / "models" / "mar.py").write_text(f"SCALE = 1.01\n{STAND_IN}")
    with pytest.raises(ValueError, match=r"MAR_PUBLISHED: tokens differ by .*; accepted: at most 0.001"):
        published.report()


def test_what_is_missing_is_said(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(
        ValueError, match=r"which has no models/mar.py; accepted: a checkout of https://github.com/LTH14"
    ):
        published.report()
    (checkout / "models" / "mar.py").write_text("import no_such_library_as_timm\n")
    with pytest.raises(ValueError, match=r"needs no_such_library_as_timm, which is not installed; `pip install"):
        published.report()
    (checkout / "models" / "mar.py").write_text("from models.diffloss import DiffLoss\n")
    with pytest.raises(ValueError, match=r"which has no models.diffloss; accepted: a checkout"):
        published.report()
    monkeypatch.delenv("MAR_PUBLISHED")
    with pytest.raises(ValueError, match="MAR_PUBLISHED: not set; accepted: a checkout"):
        published.report()
