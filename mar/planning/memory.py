"""Peak memory of a study's networks on a GPU, counted on the real models without one.

The models stand on the meta device, where tensors have shapes, types and storages, and no numbers. Every operation's
results are added when their storage is new, and taken off when it is freed: the peak of that sum is what torch's
allocator would have to hand out. Attention is counted as the fused kernels of a GPU, which keep no matrix of weights.
What kernels need inside, the context of CUDA and fragments are not seen: `mar.planning.gpus.HEADROOM` stands for them.

Each is counted with the number of images that go through it at once and with half as many, since memory is linear in
it. Of the steps of a loop only the first, the last and the widest are run, and of a diffusion process two steps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import vgg16

from mar.data.images import to_uint8
from mar.data.latents import unpatchify
from mar.features.networks import dinov2, inception
from mar.features.networks.classifier import Classifier
from mar.models.order import by_scale, schedule
from mar.planning.costs import GUIDED, IDLE, META, VGG, Tokens, model_of, parts
from mar.planning.shapes import Shapes
from mar.runtime.noise import Noise
from mar.runtime.precision import autocast
from mar.sampling.generate import generate
from mar.study import at_once
from mar.study.parts import Backbone, Head, Recipe, Sampling, Tokenizer
from mar.study.records import Peak, Peaks, TrainingPeak
from mar.study.sections import Classifier as ClassifierConfig
from mar.study.study import Study
from mar.tokenizers import autoencoder
from mar.tokenizers.discriminator import discriminator, hinge
from mar.tokenizers.perceptual import OwnNetworks

FEW = 8  # steps of a masked backbone
BLOCK = 512  # bytes: torch's allocator rounds up to multiples of it


class Live(TorchDispatchMode):
    """Counts the bytes of all storages that were made inside and are not freed yet.

    Attributes:
        bytes: of the storages that live now.
        peak: most that there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.sizes: dict[int, int] = {}  # of each storage that lives

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def hold(self, network: nn.Module) -> None:
        """Count the weights of a network that was made outside."""
        for tensor in (*network.parameters(), *network.buffers()):
            self._add(tensor.untyped_storage())

    def _add(self, storage: torch.UntypedStorage) -> None:
        if (key := storage._cdata) not in self.sizes:
            self.sizes[key] = -(-storage.nbytes() // BLOCK) * BLOCK
            weakref.finalize(storage, self._free, key)
            self.bytes += self.sizes[key]
            self.peak = max(self.peak, self.bytes)

    def _free(self, key: int) -> None:
        self.bytes -= self.sizes.pop(key)


class _Fused(TorchFunctionMode):
    """Attention and dropout by one kernel each, as on a GPU; the meta device takes plain operations."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        if func is F.dropout:
            return _dropout(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p else x  # keeps a byte for each number


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **_: Any,
) -> Tensor:
    bias = None
    if attn_mask is not None:  # (n, m); the kernel adds a number where ours is True or False
        bias = torch.empty(attn_mask.shape, dtype=q.dtype, device=META).expand(*q.shape[:-1], k.shape[-2])
    attend: Any = torch.ops.aten._scaled_dot_product_efficient_attention
    out: Tensor = attend(q, k, v, bias, q.requires_grad, dropout_p, is_causal)[0]
    return out


Prepare = Callable[[int], Callable[[], object]]


def peak(images: int, network: nn.Module, prepare: Prepare) -> Peak:
    """Peak of a call with so many images at once.

    Args:
        images: their number.
        network: made before; its weights count.
        prepare: makes what the call needs, which counts too, for a number of images; returns the call.
    """
    return _peak(images, lambda number: _count(network, prepare, number))


def deep(images: int, depth: int, make: Callable[[int], tuple[nn.Module, Prepare]]) -> Peak:
    """The same of a network of so many blocks, each of which after the third adds as much as the third."""
    made = {blocks: make(blocks) for blocks in ([depth] if depth <= 3 else [2, 3])}

    def count(number: int) -> int:
        counts = [_count(network, prepare, number) for network, prepare in made.values()]
        return counts[-1] + (depth - 3) * (counts[1] - counts[0]) if len(counts) > 1 else counts[0]

    return _peak(images, count)


def _peak(images: int, count: Callable[[int], int]) -> Peak:
    most, half = count(images), images // 2
    return Peak(images=images, bytes=most, image=max(0.0, (most - count(half)) / (images - half)) if half else 0.0)


def _count(network: nn.Module, prepare: Prepare, images: int) -> int:
    with Shapes(), Live() as live, _Fused():
        live.hold(network)
        call = prepare(images)
        call()
        del call
    return live.peak


@cache
def training(backbone: Backbone, head: Head, tokens: Tokens, recipe: Recipe) -> TrainingPeak:
    """A micro-batch in the midst of a step: beside the weights lie their average, Adam's moments and the gradients.

    A masked backbone is at its lowest mask ratio or at its highest, whichever takes more. Split among GPUs, a training
    still collects weights and has gradients of two blocks, the one that computes and the one before or after it, and
    of all that is in no block (`mar/training/sharding.py`).
    """
    lowest = tokens.tokens - max(1, round(tokens.tokens * recipe.mask_ratio_min)) if backbone.masks else 0

    def make(blocks: int, known: int) -> tuple[nn.Module, Prepare]:
        model = model_of(backbone, head, tokens, blocks).train()
        if not model.joint:
            model.head_dtype = recipe.head_dtype
        if recipe.gradient_checkpointing:
            model.checkpoint_blocks()

        def prepare(images: int) -> Callable[[], object]:
            kept = [[torch.empty_like(p, requires_grad=False) for p in model.parameters()] for _ in range(3)]
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter, requires_grad=False)
            labels, order = _labels_and_orders(tokens, images)

            def step() -> object:
                noise = Noise("memory", device=META)
                with autocast(META, recipe.dtype):
                    loss = model.loss(tokens.blank(images), labels, order, known, noise)
                    _backward(loss)
                for parameter in model.parameters():
                    parameter.grad = None
                return kept

            return step

        return model, prepare

    images = recipe.micro_batch or recipe.batch
    found = [deep(images, backbone.depth, partial(make, known=known)) for known in sorted({0, lowest})]
    most = max(found, key=lambda one: one.bytes)
    model = model_of(backbone, head, tokens, backbone.depth)
    blocks = [_bytes(block) for block in model.blocks()]
    whole = 2 * (_bytes(model) - sum(blocks) + 2 * max(blocks))
    return TrainingPeak(**most.model_dump(), split=5 * _bytes(model), whole=whole)


def _bytes(network: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in network.parameters())


def drawing(backbone: Backbone, head: Head, tokens: Tokens, settings: Sampling, images: int) -> Peak:
    """Tokens drawn at a setting, so many images at once: weights, keys and values, and one step."""
    guidance = 1.0 if settings.guidance == 1.0 else GUIDED
    kept = {key: getattr(settings, key) for key in ("dtype", "head_dtype", "top_k", "top_p")}
    first = settings.at_step(0, settings.steps)  # where the number of denoising steps falls: the most of them
    few = min(first.diffusion_steps, 2) if isinstance(first.diffusion_steps, int) else None
    alike = first.model_copy(update={**IDLE, **kept, "guidance": guidance, "diffusion_steps": few})
    if backbone.masks and not (settings.token_cache or settings.condition_cache):
        # Fewer steps draw more tokens at once, which are a small share: all that have more count as so many.
        alike = alike.model_copy(update={"steps": min(settings.steps, FEW), "late_steps": None})
    return _drawing(backbone, head, tokens, alike, images)


@cache
def _drawing(backbone: Backbone, head: Head, tokens: Tokens, settings: Sampling, images: int) -> Peak:
    def make(blocks: int) -> tuple[nn.Module, Prepare]:
        model = model_of(backbone, head, tokens, blocks).eval()
        if not (model.joint or settings.token_cache or settings.condition_cache):
            _run_few_steps(model, tokens, settings)

        def prepare(number: int) -> Callable[[], object]:
            labels, order = _labels_and_orders(tokens, number)

            def draw() -> object:
                with autocast(META, settings.dtype):
                    return generate(model, labels, order, tokens.blank(), settings, Noise("memory", device=META))

            return draw

        return model, prepare

    return deep(images, backbone.depth, make)


def _run_few_steps(model: Any, tokens: Tokens, settings: Sampling) -> None:
    """Let a model compute the first, the last and the widest step alone; the others give tensors of the right shape."""
    sizes = model.backbone.sizes
    steps = list(by_scale(sizes) if sizes else schedule(tokens.tokens, settings.steps))
    if settings.order == "confidence":
        steps = [(start, tokens.tokens) for start, _ in steps]
    widest = max(steps, key=lambda step: step[1] - step[0])
    chosen, predict, draw = {steps[0], steps[-1], widest}, model.backbone.predict, model.head.sample
    now, width = [steps[0]], [0]

    def predicted(x: Tensor, labels: Tensor, order: Tensor, start: int, stop: int, *cache: Any) -> Tensor:
        now[0] = (start, stop)
        if (start, stop) in chosen:
            out: Tensor = predict(x, labels, order, start, stop, *cache)
            width[0] = out.shape[-1]  # the first step is computed
            return out
        if cache and cache[0] is not None:
            cache[0].length += stop - start
        return torch.empty(len(order), stop - start, width[0], device=META)

    def drawn(z: Tensor, *rest: Any) -> tuple[Tensor, Tensor | None]:
        if now[0] in chosen:
            out: tuple[Tensor, Tensor | None] = draw(z, *rest)
            return out
        return tokens.blank(len(z))[:, 0], z[:, 0]

    model.backbone.predict, model.head.sample = predicted, drawn


def _backward(loss: Tensor) -> None:
    """The backward pass by torch's engine itself: `loss.backward()` switches off what stands for autocast and kernels.

    Blocks that are computed again then would have other types than in the forward pass.
    """
    gradient: Any = torch.ones_like(loss)
    _engine_run_backward((loss,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True)


def _labels_and_orders(tokens: Tokens, images: int) -> tuple[Tensor, Tensor]:
    labels, order = torch.empty(images, tokens.tokens + 1, dtype=torch.long, device=META).split([1, tokens.tokens], 1)
    return labels[:, 0], order


@cache
def encoding(config: Tokenizer, image_size: int, images: int) -> Peak:
    """Images that a tokenizer encodes, so many at once."""
    net = _tokenizer(config, image_size)

    def prepare(number: int) -> Callable[[], object]:
        batch = torch.empty(number, 3, image_size, image_size, device=META)

        def encode() -> object:
            with torch.no_grad():
                return net.encode(batch)

        return encode

    return peak(images, net, prepare)


@cache
def decoding(config: Tokenizer, tokens: Tokens, image_size: int, dtype: str, images: int) -> Peak:
    """Images that a tokenizer decodes, so many at once."""
    net = _tokenizer(config, image_size)

    def prepare(number: int) -> Callable[[], object]:
        drawn = tokens.blank(number)

        def decode() -> object:
            with torch.no_grad(), autocast(META, dtype):
                if tokens.kind == "ids":
                    return to_uint8(net.decode_ids(drawn).float())
                latents = unpatchify(drawn, config.group, config.latent_channels)
                if isinstance(net, autoencoder.Consistency):  # the network of each of its two steps, beside x_t
                    noisy = torch.empty(number, 3 + config.latent_channels, image_size, image_size, device=META)
                    return net.net.decoder_unet(noisy, torch.empty(1, dtype=torch.long, device=META)).sample
                return to_uint8(net.decode_latents(latents).float())

        return decode

    return peak(images, net, prepare)


def _tokenizer(config: Tokenizer, image_size: int) -> Any:
    with META:
        net = autoencoder.build(config, image_size).eval().requires_grad_(False)
    return net.to(META)


@cache
def judging(name: str, config: ClassifierConfig | None, image_size: int, classes: int, images: int) -> Peak:
    """Images that a network judges, so many at once."""
    network: Any
    size = {"classifier": image_size, "dinov2": dinov2.SIDE}.get(name, inception.SIDE)
    with META:
        if name == "classifier":
            assert config is not None  # checked where the study is read
            network = Classifier(config, classes)
        else:
            network = dinov2.build() if name == "dinov2" else inception.Inception()
    network.to(META).eval().requires_grad_(False)

    def prepare(number: int) -> Callable[[], object]:
        batch = torch.empty(number, 3, size, size, device=META)

        def look() -> object:
            with torch.no_grad():
                return inception.extract(network, batch) if name in ("inception", "clean") else network(batch)

        return look

    return peak(images, network, prepare)


@cache
def classifier(config: ClassifierConfig, image_size: int, classes: int) -> Peak:
    """A batch of the training of the classifier."""
    with META:
        network = Classifier(config, classes).train()
    network.to(META)

    def prepare(number: int) -> Callable[[], object]:
        kept, batch = _moments(network), torch.empty(number, 3, image_size, image_size, device=META)

        def step() -> object:
            _backward(network(batch)[1].mean())
            return kept

        return step

    return peak(config.batch, network, prepare)


@cache
def learning(config: Tokenizer, image_size: int) -> Peak:
    """A batch of the training of a tokenizer, with the networks of its loss where they take part."""
    with META:
        net, critic = autoencoder.build(config, image_size).train(), discriminator()
        judges = vgg16().features[:VGG] if config.perceptual == "lpips" else OwnNetworks(1, 10)
        all_of = nn.ModuleList(
            [net, *[critic] * bool(config.adversarial_weight), *[judges] * bool(config.perceptual_weight)]
        )
    judges.requires_grad_(False)

    def prepare(number: int) -> Callable[[], object]:
        kept, batch = _moments(all_of), torch.empty(number, 3, image_size, image_size, device=META)

        def step() -> object:
            rebuilt = net.rebuilt(batch)
            loss = (rebuilt - batch).abs().mean()
            if config.perceptual_weight:
                apart = judges(rebuilt, batch) if config.perceptual == "own" else judges(rebuilt) - judges(batch)
                loss = loss + apart.square().mean()
            if config.adversarial_weight:
                loss = loss + critic(rebuilt).mean() + hinge(critic(batch), critic(rebuilt.detach()))
            _backward(loss)
            return kept

        return step

    return peak(config.batch, all_of, prepare)


def _moments(network: nn.Module) -> list[list[Tensor]]:
    """Adam's moments of the weights that are trained."""
    return [
        [torch.empty_like(p, requires_grad=False) for p in network.parameters() if p.requires_grad] for _ in range(2)
    ]


def count(study: Study, classes: int) -> Peaks:
    """Count the memory of all that a study does on a GPU, with as many images at once as it says or its models do."""
    size, trained = study.data.image_size, {name: v for name, v in study.variants.items() if v.seeds}
    extractors, sections = study.metrics.extractors, sorted({v.tokenizer for v in trained.values()})
    found = {name: parts(study, name, classes) for name in trained}
    drawn, decoded = dict[str, dict[str, Peak]](), dict[str, dict[str, Peak]]()
    for name, v in trained.items():
        backbone, head, _, tokens = found[name]
        drawn[name] = {}
        for setting in v.sampling:
            settings = study.sampling[setting].points[-1]
            images = at_once.drawn(study, name, settings, study.metrics.chunk)
            drawn[name][setting] = drawing(backbone, head, tokens, settings, images)
            dtype = settings.head_dtype or settings.dtype
            images = at_once.decoded(study, v.tokenizer, study.metrics.chunk)
            decoded.setdefault(v.tokenizer, {})[dtype] = decoding(
                study.tokenizers[v.tokenizer], tokens, size, dtype, images
            )
        # rFID rebuilds in float32
        images = at_once.decoded(study, v.tokenizer, at_once.BATCH)
        decoded.setdefault(v.tokenizer, {}).setdefault(
            "fp32", decoding(study.tokenizers[v.tokenizer], tokens, size, "fp32", images)
        )
    return Peaks(
        judges={
            name: judging(name, study.classifier, size, classes, at_once.judged(study, name)) for name in extractors
        },
        classifier=classifier(study.classifier, size, classes) if study.classifier else None,
        encoding={
            name: encoding(study.tokenizers[name], size, at_once.encoded(study, name, at_once.BATCH))
            for name in sections
        },
        decoding=decoded,
        tokenizers={
            name: learning(study.tokenizers[name], size) for name in sections if study.tokenizers[name].trained
        },
        trainings={
            name: training(backbone, head, tokens, recipe)
            for name, (backbone, head, recipe, tokens) in found.items()
            if not trained[name].pretrained
        },
        drawing=drawn,
    )
