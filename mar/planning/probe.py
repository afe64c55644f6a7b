"""How fast this machine is: operations a second of a study's own networks, each tried for a moment.

A network of the paper's size would take minutes for one step on a CPU. What has more than LARGE parameters, or needs
more than TRY operations for one image, is not tried and counts as being as fast as the largest of its kind that was.

A batch that takes longer than a try may is told from two smaller ones. Many small calls of functions, as the diffusion
steps of a small head are, take the same time for a few images as for many: the rate of a few is not that of the batch.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from mar.features.networks import dinov2, inception
from mar.features.networks.classifier import Classifier
from mar.models.model import build
from mar.models.multiscale import MultiScaleQuantizer
from mar.models.order import draw_order, mask_ratio, num_masked
from mar.planning import costs
from mar.runtime.noise import Noise
from mar.runtime.precision import autocast
from mar.sampling.generate import generate
from mar.study import at_once
from mar.study.records import PlanRecord, Rates
from mar.study.study import Study
from mar.tokenizers import autoencoder

TRY = 1e10  # operations of one try, about half a second of one core
LARGE = 50_000_000  # parameters
UNTRIED = 2e10  # operations a second where no network of a kind is tried
SECONDS = 0.2  # that a try takes at least
LONG = 3 * SECONDS  # of a call on a CPU that needs no other to warm up
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Tried = tuple[str, float, float | None]  # name of a network, its operations for an image, and operations a second


def rates(study: Study, classes: int, counts: PlanRecord) -> Rates:
    """Operations a second of the networks of a study, by one thread as in the jobs of the workflow, or by the GPU.

    Args:
        study: the study.
        classes: number of classes of its images.
        counts: operations of its networks.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        names = list(counts.variants)
        return Rates(
            start=start(),
            tokenizers=_fill(_tokenizer(study, name, counts) for name in counts.tokenizers),
            judges=_fill(_judge(study, name, counts, classes) for name in counts.judges),
            training=_fill(_training(study, name, counts, classes) for name in names),
            sampling=_fill(_sampling(study, name, counts, classes) for name in names),
        )
    finally:
        torch.set_num_threads(threads)


def start() -> float:
    """CPU seconds in which a new process imports torch."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _fill(tried: Iterable[Tried]) -> dict[str, float]:
    """The rate of each network; of those that were not tried that of the largest that was."""
    found = sorted(tried, key=lambda one: one[1])
    largest = next((rate for _, _, rate in reversed(found) if rate), UNTRIED)
    return {name: rate or largest for name, _, rate in found}


def _rate(call: Callable[[], object], operations: float, warm: bool = False) -> float:
    """Operations a second of a call that takes so many.

    Args:
        call: the work.
        operations: of one call.
        warm: whether the same has been called with fewer images. Else a first call warms up, unless it takes so long
            that warming up is a small part of it. On a GPU one always does, which loads other kernels for each size.
    """
    on_gpu = DEVICE.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time  # whatever else runs here takes no CPU seconds of ours

    def seconds() -> float:
        start = clock()
        call()
        if on_gpu:
            torch.cuda.synchronize()
        return clock() - start

    if on_gpu or not warm:
        first = seconds()
        if first > LONG and not on_gpu:
            return operations / first
    calls, spent = 0, 0.0
    while calls == 0 or spent < SECONDS:
        spent, calls = spent + seconds(), calls + 1
    return operations * calls / spent


def _batch(operations: float, most: int) -> int:
    """How many images of so many operations each one try takes."""
    return max(1, min(most, int(TRY / operations)))


def _rate_of_batch(call: Callable[[int], Callable[[], object]], operations: float, most: int) -> float:
    """Operations a second of a batch of `most` images, by a line through the times of two batches where it is large.

    Args:
        call: makes the work for so many images.
        operations: of one image.
        most: images of the batch.
    """
    few = _batch(operations, most)
    rate = _rate(call(few), few * operations)
    if few == most:
        return rate
    more = min(most, 4 * few)
    seconds = few * operations / rate, more * operations / _rate(call(more), more * operations, warm=True)
    each = (seconds[1] - seconds[0]) / (more - few)
    return most * operations / (seconds[1] + max(each, 0.0) * (most - more))


def _tokenizer(study: Study, name: str, counts: PlanRecord) -> Tried:
    """Encoding and decoding. A training has the same convolutions, three times."""
    cost, size = counts.tokenizers[name], study.data.image_size
    operations = cost.encode + cost.decode
    if not 0 < operations < TRY or cost.parameters > LARGE:
        return name, operations, None
    config = study.tokenizers[name]
    net, batch = autoencoder.build(config, size).eval().to(DEVICE), _batch(operations, config.batch)
    images = torch.rand(batch, 3, size, size, device=DEVICE)
    with torch.no_grad():
        return name, operations, _rate(lambda: net.decode(net.encode(images)), batch * operations)


def _judge(study: Study, name: str, counts: PlanRecord, classes: int) -> Tried:
    cost = counts.judges[name]
    if cost.forward > TRY or cost.parameters > LARGE:
        return name, cost.forward, None
    if name == "classifier":
        assert study.classifier is not None  # checked where the study is read
        network: torch.nn.Module = Classifier(study.classifier, classes)
        side = study.data.image_size
    else:
        network, side = (dinov2.build(), dinov2.SIDE) if name == "dinov2" else (inception.Inception(), inception.SIDE)
    network, batch = network.eval().to(DEVICE), _batch(cost.forward, 64)
    images = torch.rand(batch, 3, side, side, device=DEVICE)
    with torch.no_grad():
        return name, cost.forward, _rate(lambda: network(images), batch * cost.forward)


def _model(study: Study, name: str, classes: int) -> tuple[Any, costs.Tokens]:
    backbone, head, _, tokens = costs.parts(study, name, classes)
    quantizer = None
    if tokens.scales:
        quantizer = MultiScaleQuantizer(tokens.codebook_size, tokens.token_dim, tokens.scales)
    return build(backbone, head, tokens, quantizer).to(DEVICE), tokens


def _inputs(
    study: Study, name: str, tokens: costs.Tokens, batch: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Blank tokens of one image (L, D) or (L,), labels (B,) and orders (B, L) of a batch."""
    shape = (tokens.tokens,) if tokens.kind == "ids" else (tokens.tokens, tokens.token_dim)
    blank = torch.zeros(shape, device=DEVICE, dtype=torch.long if tokens.kind == "ids" else torch.float32)
    order = draw_order(study.variants[name].order, batch, tokens.tokens, Noise("probe", device=DEVICE))
    return blank, torch.zeros(batch, dtype=torch.long, device=DEVICE), order


def _training(study: Study, name: str, counts: PlanRecord, classes: int) -> Tried:
    """Steps of a training in its precision, those of a masked backbone at the median of the mask ratio."""
    cost, recipe = counts.variants[name], study.recipes[study.variants[name].recipe]
    operations = cost.training / recipe.masks_per_image
    if not 0 < operations < TRY or cost.parameters > LARGE:
        return name, operations, None
    model, tokens = _model(study, name, classes)
    known = 0
    if study.backbones[study.variants[name].backbone].masks:
        known = tokens.tokens - num_masked(mask_ratio(0.5, recipe.mask_ratio_min, recipe.mask_ratio), tokens.tokens)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    if not model.joint:
        model.head_dtype = recipe.head_dtype

    def steps(batch: int) -> Callable[[], None]:
        blank, labels, order = _inputs(study, name, tokens, batch)
        tokens_of_all = blank.expand(batch, *blank.shape)

        def step() -> None:
            with autocast(DEVICE, recipe.dtype):
                loss = model.loss(tokens_of_all, labels, order, known, Noise("probe", device=DEVICE))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return name, operations, _rate_of_batch(steps, operations, recipe.micro_batch or recipe.batch)


def _sampling(study: Study, name: str, counts: PlanRecord, classes: int) -> Tried:
    """Drawing of tokens, at the setting that takes most operations."""
    cost = counts.variants[name]
    setting = max(cost.sampling, key=lambda s: cost.sampling[s], default="")
    operations = cost.sampling.get(setting, 0.0)
    if not 0 < operations < TRY or cost.parameters > LARGE:
        return name, operations, None
    model, tokens = _model(study, name, classes)
    settings = study.sampling[setting].points[-1]
    model.eval()

    def draws(batch: int) -> Callable[[], None]:
        blank, labels, order = _inputs(study, name, tokens, batch)

        def draw() -> None:
            with autocast(DEVICE, settings.dtype):
                generate(model, labels, order, blank, settings, Noise("probe", device=DEVICE))

        return draw

    return (
        name,
        operations,
        _rate_of_batch(draws, operations, at_once.drawn(study, name, settings, study.metrics.chunk)),
    )
