"""The published code itself beside ours: the same weights, threads and outputs, and the ratio of their times.

    MAR_PUBLISHED=folder python -m benchmarks published     folder: a checkout of https://github.com/LTH14/mar

Nothing of that code is part of this project; it is imported from the folder, and so runs with your rights. The model
is that of the benchmarks `sampling` and `training`. Its weights become ours by the names of `mar import official-mar`.
Both first draw a batch and compute a loss with the same random numbers: the command ends where they differ by more than
rounding. Where torch sees no GPU, `.cuda()` does nothing. A step of training is the same for both but for the model:
loss, gradients, clipping, AdamW and the average of the weights, in ours as `mar train` does them.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import models, training
from benchmarks.models import BACKBONES, CLASSES, HEAD, TOKEN_DIM, TOKENS, WIDTH
from benchmarks.paired import paired
from benchmarks.tables import Pairs, Parts
from mar.data.latents import patchify, unpatchify
from mar.models.model import Model
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.study.parts import Sampling
from mar.weights.names import from_mar

FOLDER = "MAR_PUBLISHED"
WHERE = "accepted: a checkout of https://github.com/LTH14/mar"
BATCH, PAIRS, ROUNDING = 2, 5, 1e-3
SETTINGS = Sampling(steps=16, diffusion_steps=25, guidance=3.0)


def report() -> Parts:
    """The ratios, and by how much the outputs differ."""
    mar = published()
    with contextlib.nullcontext() if torch.cuda.is_available() else on_cpu():
        rows, apart = [], []
        for guidance in (3.0, 1.0):
            theirs, ours, differ = drawing(mar, guidance)
            apart.append(f"tokens at guidance {guidance:g} by {same('tokens', differ):.1e}")
            rows.append(paired(f"sampling, guidance {guidance}", theirs, ours, PAIRS))
        theirs, ours, differ = learning(mar)
        apart.append(f"the loss by {same('loss', differ):.1e}")
        rows.append(paired("training step: loss, gradients, AdamW, weight average", theirs, ours, PAIRS))
    return [Pairs(rows=rows), f"Relative differences of outputs at equal random numbers: {', '.join(apart)}."]


def published() -> Any:
    """The published class `MAR`.

    Raises:
        ValueError: the folder is not named, is none of the published code, or what that needs is not installed.
    """
    if not (named := os.environ.get(FOLDER)):
        raise ValueError(f"{FOLDER}: not set; {WHERE}: {FOLDER}=folder python -m benchmarks published")
    folder = Path(named).expanduser().resolve()
    if not (folder / "models" / "mar.py").is_file():
        raise ValueError(f"{FOLDER}: found {named!r}, which has no models/mar.py; {WHERE}")
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("models.mar").MAR
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("models", "diffusion"):
            raise ValueError(f"{FOLDER}: found {named!r}, which has no {error.name}; {WHERE}") from None
        install = f"`pip install --no-deps {error.name}` leaves all others as they are"
        raise ValueError(
            f"{FOLDER}: the published code needs {error.name}, which is not installed; {install}"
        ) from None
    finally:
        sys.path.remove(str(folder))


def built(mar: Any) -> tuple[Any, Model]:
    """The published model at the benchmarks' size, layers that begin at zero drawn too, and ours of equal weights."""
    backbone = BACKBONES["masked"]
    torch.manual_seed(0)
    theirs: nn.Module = mar(
        img_size=math.isqrt(TOKENS),
        vae_stride=1,
        vae_embed_dim=TOKEN_DIM,
        encoder_embed_dim=WIDTH,
        encoder_depth=backbone.depth,
        encoder_num_heads=backbone.heads,
        decoder_embed_dim=WIDTH,
        decoder_depth=backbone.depth,
        decoder_num_heads=backbone.heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        class_num=CLASSES,
        label_drop_prob=0.0,
        attn_dropout=0.0,
        proj_dropout=0.0,
        buffer_size=backbone.buffer,
        diffloss_d=HEAD.depth,
        diffloss_w=HEAD.width,
        num_sampling_steps=str(SETTINGS.diffusion_steps),
        diffusion_batch_mul=HEAD.noise_draws,
    )
    for name, parameter in theirs.named_parameters():
        if "adaLN" in name or "final_layer.linear" in name:
            nn.init.normal_(parameter, std=0.02)
    weights = from_mar({name: tensor.detach().clone() for name, tensor in theirs.state_dict().items()}).tensors
    # The published table of classes has 1,000 rows, whatever their number.
    weights["backbone.class_emb.weight"] = weights["backbone.class_emb.weight"][:CLASSES].clone()
    ours = models.build("masked")
    ours.load_state_dict(weights, strict=True)
    return theirs, ours


def drawing(mar: Any, guidance: float) -> tuple[Callable[[], object], Callable[[], object], float]:
    """Drawing a batch by either, and how far their tokens are apart at equal random numbers."""
    theirs, ours = built(mar)
    theirs.eval(), ours.eval()
    (_, labels, order), blank = models.inputs(BATCH), torch.zeros(TOKENS, TOKEN_DIM)
    settings = SETTINGS.model_copy(update={"guidance": guidance})
    theirs.sample_orders = lambda bsz: order.flip(1)  # they list the token that is generated last first

    @torch.no_grad()
    def draw() -> Tensor:
        images: Tensor = theirs.sample_tokens(
            bsz=BATCH, num_iter=settings.steps, cfg=guidance, cfg_schedule="linear", labels=labels, temperature=1.0
        )
        return patchify(images, 1)

    with recorded() as numbers:
        expected = draw()
    got = generate(ours, labels, order, blank, settings, Replayed(numbers))
    return draw, lambda: generate(ours, labels, order, blank, settings, Noise("draw")), difference(got, expected)


def learning(mar: Any) -> tuple[Callable[[], object], Callable[[], object], float]:
    """A step of training by either, and how far their losses are apart at equal random numbers."""
    theirs, ours = built(mar)
    theirs.train(), ours.train()
    tokens, labels, order = models.inputs(training.BATCH)
    images = unpatchify(tokens, 1, TOKEN_DIM)
    theirs.sample_orders = lambda bsz: order.flip(1)
    theirs.mask_ratio_generator = Always((TOKENS - training.KNOWN) / TOKENS)
    with recorded() as numbers:
        expected = theirs(images, labels).detach()
    got = ours.loss(tokens, labels, order, training.KNOWN, Replayed(numbers)).detach()
    their_step = training.step_by_parameter(theirs, lambda: theirs(images, labels))
    batch = (tokens, labels, order)
    our_step = training.step_at_once(ours, lambda: ours.loss(*batch, training.KNOWN, Noise("loss")))
    return their_step, our_step, difference(got, expected)


class Always:
    """A mask ratio that is always the same, with the method of scipy's distributions that is called."""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    def rvs(self, size: int) -> list[float]:
        """That many ratios."""
        return [self.ratio] * size


class Replayed(Noise):
    """Gives the random numbers that others drew, in their order; of noise of both branches that of the first."""

    def __init__(self, numbers: list[Tensor]) -> None:
        super().__init__("replayed")
        self.numbers = list(numbers)

    def normal(self, *shape: int) -> Tensor:
        """The next numbers, of which as many rows as are asked for."""
        return self.numbers.pop(0).reshape(-1, shape[-1])[: math.prod(shape[:-1])].reshape(shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """The next numbers."""
        return self.numbers.pop(0).reshape(shape)


@contextlib.contextmanager
def recorded() -> Iterator[list[Tensor]]:
    """Keep what torch's functions of random numbers give meanwhile, but for those of dropped labels."""
    numbers, names = list[Tensor](), ("randn", "randn_like", "randint")
    before = {name: getattr(torch, name) for name in names}

    def keeping(name: str) -> Callable[..., Tensor]:
        def draw(*arguments: Any, **options: Any) -> Tensor:
            numbers.append(found := before[name](*arguments, **options))
            return found.clone()

        return draw

    try:
        for name in names:
            setattr(torch, name, keeping(name))
        yield numbers
    finally:
        for name in names:
            setattr(torch, name, before[name])


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Let `.cuda()` do nothing meanwhile: the published code calls it wherever it runs."""
    before = torch.Tensor.cuda
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.cuda = before  # type: ignore[method-assign]


def difference(got: Tensor, expected: Tensor) -> float:
    """Relative difference of two tensors."""
    return float((got - expected).norm() / expected.norm())


def same(what: str, apart: float) -> float:
    """The difference, if it is rounding.

    Raises:
        ValueError: it is not, so that a ratio of times would say nothing.
    """
    if not apart < ROUNDING:
        raise ValueError(
            f"{FOLDER}: {what} differ by {apart:.2g}; accepted: at most {ROUNDING:g}, else no time is compared"
        )
    return apart
