"""Parameters and operations of a study's networks, counted by torch on the real models.

The models stand on the meta device, where tensors have shapes and no numbers: a forward pass of the largest takes half
a second and no memory. Torch's formulas count products of matrices, convolutions and attention; a multiplication and
its addition are two operations. Norms, activations, softmax, tables and the distances of cdist count as none.

Large models are not run whole. Blocks are alike, and so are the steps of a diffusion process and the rows of a head:
two tell what each more adds. A step of a masked or causal backbone is quadratic in the tokens that are known: three
lengths tell the others. This is exact; only the mask ratio of a training is averaged over a grid of its law.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mar.features.networks import dinov2, inception
from mar.features.networks.classifier import Classifier
from mar.features.networks.rejecter import CROP as REJECTED
from mar.models.heads.head import build_head, check_drawn
from mar.models.model import build
from mar.models.multiscale import MultiScaleQuantizer
from mar.models.order import mask_ratio, num_masked
from mar.planning.shapes import Shapes
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.study.parts import Backbone, CategoricalHead, Head, MseHead, Options, Recipe, Sampling, Tokenizer
from mar.study.records import JudgeCosts, PlanRecord, TokenizerCosts, VariantCosts
from mar.study.sections import Classifier as ClassifierConfig
from mar.study.study import Study
from mar.tokenizers import autoencoder
from mar.tokenizers.discriminator import adaptive_weight, discriminator, hinge
from mar.tokenizers.perceptual import OwnNetworks

META = torch.device("meta")
GUIDED = 2.0  # stands for every guidance scale: all cost the same
QUANTILES = 1000  # of the mask ratio, over which a training is averaged
VGG = 30  # layers of VGG-16 that LPIPS looks through
# Settings of sampling that change no number of operations, and one value of each. Mixtures of `more_smooth` are left
# out: a sum of codes has as many operations as the logits times the width of a code over that of the backbone.
IDLE: dict[str, Any] = {
    **{"temperature": 1.0, "top_k": None, "top_p": None, "clamp": None},
    **{"guidance_schedule": "linear", "guidance_channels": None, "seed": 0, "more_smooth": False, "reject": None},
    **{"dtype": "fp32", "head_dtype": None, "tf32": False, "compile": False},
}


class Tokens(NamedTuple):
    """The tokens of an image: what a model needs to know of them (`mar.models.model.TokenShape`)."""

    kind: str
    tokens: int
    token_dim: int
    grid: int
    classes: int
    group: int = 1
    codebook_size: int = 0
    scales: tuple[int, ...] = ()
    code_width: int = 0

    @classmethod
    def of(cls, study: Study, tokenizer: str, classes: int) -> Tokens:
        """The tokens of a tokenizer of the study."""
        config, count = study.tokenizers[tokenizer], study.tokens(tokenizer)
        scales = config.sides
        return cls(
            kind="ids" if config.ids else "latents",
            tokens=count,
            token_dim=config.token_dim,
            grid=scales[-1] if scales else math.isqrt(count),
            classes=classes,
            group=config.group,
            codebook_size=config.codes if config.ids else 0,
            scales=scales,
            code_width=config.latent_channels if scales else 0,
        )

    def blank(self, *shape: int) -> Tensor:
        """Tokens of so many images, (..., L, D) or ids (..., L), without numbers."""
        ids = self.kind == "ids"
        size = (self.tokens,) if ids else (self.tokens, self.token_dim)
        return torch.empty(*shape, *size, device=META, dtype=torch.long if ids else torch.float32)


class _Counter(TorchDispatchMode):
    """Counts by the formulas of torch's FlopCounterMode, which takes longer for an operation than the operation."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and _composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=out)
        return out


@cache
def _composite(func: Any) -> bool:
    """Whether torch knows an operation by smaller ones alone."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def operations(call: Callable[[], object]) -> int:
    """Operations that torch counts in a call; attention by plain products, since meta tensors have no fused kernel."""
    with sdpa_kernel(SDPBackend.MATH), Shapes(), _Counter() as counter:
        call()
    return counter.total


def linear(n: int, count: Callable[[int], float]) -> float:
    """count(n) where each block, row or diffusion step after the first adds as many operations as the second."""
    return count(n) if n <= 2 else count(1) + (n - 1) * (count(2) - count(1))


def quadratic(lengths: list[int], count: Callable[[int], float]) -> np.polynomial.Polynomial:
    """The parabola through count at three lengths; where there are fewer, what passes through those."""
    return np.polynomial.Polynomial.fit(lengths, [count(n) for n in lengths], len(lengths) - 1)


def model_of(backbone: Backbone, head: Head, tokens: Tokens, depth: int | None = None) -> Any:
    """The model of a variant on the meta device, `Model` or `DiT`; or the same with so many blocks."""
    if depth is not None:
        backbone = backbone.model_copy(update={"depth": depth})
    with META:
        quantizer = None
        if tokens.scales:
            quantizer = MultiScaleQuantizer(tokens.codebook_size, tokens.token_dim, tokens.scales)
        model: Any = build(backbone, head, tokens, quantizer)
    return model.to(META)  # with the tables that are made on the CPU


def count_parameters(model: nn.Module) -> int:
    """Numbers in the parameters of a network."""
    return sum(parameter.numel() for parameter in model.parameters())


@cache
def training(backbone: Backbone, head: Head, tokens: Tokens, recipe: Recipe) -> float:
    """Operations of one image in training, backward and all its masks included: the mean over the mask ratios."""
    batch = recipe.micro_batch or recipe.batch

    def at(known: int) -> float:
        return _learned(backbone, head, tokens, batch, recipe.gradient_checkpointing, known) / batch

    if not backbone.masks:
        return at(0)
    quantiles = [(i + 0.5) / QUANTILES for i in range(QUANTILES)]
    ratios = [mask_ratio(u, recipe.mask_ratio_min, recipe.mask_ratio) for u in quantiles]
    law = [tokens.tokens - num_masked(ratio, tokens.tokens) for ratio in ratios]
    mean = float(quadratic(sorted({0, max(law) // 2, max(law)}), at)(np.array(law)).mean())
    return mean * recipe.masks_per_image


@cache
def _learned(backbone: Backbone, head: Head, tokens: Tokens, batch: int, checkpointing: bool, known: int) -> float:
    """Operations of a batch in training where so many tokens are known."""
    labels, order = _labels_and_orders(tokens, batch)

    def run(depth: int) -> int:
        model, noise = model_of(backbone, head, tokens, depth), Noise("costs", device=META)
        if checkpointing:
            model.checkpoint_blocks()
        return operations(lambda: model.loss(tokens.blank(batch), labels, order, known, noise).backward())

    return linear(backbone.depth, run)


def compute(study: Study, variant: str, classes: int) -> float:
    """Operations of one image in the training of a variant, each counted once.

    What gradient checkpointing does again saves memory and teaches nothing, so models are compared without it.
    """
    backbone, head, recipe, tokens = parts(study, variant, classes)
    return training(backbone, head, tokens, recipe.model_copy(update={"gradient_checkpointing": False}))


def sampling(backbone: Backbone, head: Head, tokens: Tokens, settings: Sampling, batch: int) -> tuple[float, float]:
    """Operations of one image's tokens where `batch` are drawn together: in the backbone, and in the head."""
    guidance = 1.0 if settings.guidance == 1.0 else GUIDED
    alike = settings.model_copy(update={**IDLE, "guidance": guidance})
    if backbone.joint:
        steps, one = _diffusion_steps(alike)
        return linear(steps, partial(_dit, backbone, head, tokens, one, batch)) / batch, 0.0
    loop, rows = _loop(backbone, tokens, alike.model_copy(update={"diffusion_steps": 1, "head": Options()}), batch)
    # one setting for each autoregressive step, over which the number of denoising steps may fall
    calls = Counter((n, alike.at_step(k, len(rows))) for k, n in enumerate(rows))

    def drawn(setting: Sampling, rows: int) -> float:
        steps, one = _diffusion_steps(setting)
        return linear(steps, partial(_drawn, head, backbone.width, tokens, one, rows))

    counted = sum(often * linear(n, partial(drawn, setting)) for (n, setting), often in calls.items())
    return loop / batch, counted / batch


def _diffusion_steps(settings: Sampling) -> tuple[int, Sampling]:
    """The diffusion steps of a setting, and the setting with one; a head without any counts as one."""
    steps = settings.diffusion_steps or 1
    assert isinstance(steps, int)  # that of an autoregressive step, where it falls
    return steps, settings.model_copy(update={"diffusion_steps": 1})


def _plain_head(tokens: Tokens) -> Head:
    """The smallest head of tokens of this kind, where the backbone alone is counted."""
    return CategoricalHead(kind="categorical") if tokens.kind == "ids" else MseHead(kind="mse")


@cache
def _dit(backbone: Backbone, head: Head, tokens: Tokens, settings: Sampling, batch: int, steps: int) -> float:
    """Operations of DiT for a batch in so many diffusion steps."""
    few, noise = settings.model_copy(update={"diffusion_steps": steps}), Noise("costs", device=META)
    inputs = *_labels_and_orders(tokens, batch), tokens.blank(), few, noise

    def run(depth: int) -> int:
        model = model_of(backbone, head, tokens, depth).eval()
        return operations(lambda: generate(model, *inputs))

    return linear(backbone.depth, run)


@cache
def _loop(backbone: Backbone, tokens: Tokens, settings: Sampling, batch: int) -> tuple[float, tuple[int, ...]]:
    """Operations of a backbone in the real loop of a batch; for how many rows it calls the head in each step."""
    head, noise = _plain_head(tokens), Noise("costs", device=META)
    inputs = *_labels_and_orders(tokens, batch), tokens.blank(), settings, noise
    rows, known = list[int](), list[int]()

    def draw(z: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        rows.append(len(z))
        return tokens.blank(len(z))[:, 0], z[:, 0]

    def counted(x: Tensor, labels: Tensor, order: Tensor, start: int, stop: int, cache: Any = None) -> Tensor:
        known.append(len(order) * step(backbone, tokens, start, stop, cache is not None))
        return torch.empty(len(order), stop - start, backbone.width, device=META)

    def run(depth: int) -> int:
        rows.clear()
        model: Any = model_of(backbone, head, tokens, depth).eval()
        model.head.sample = draw
        if settings.token_cache:  # what a step needs depends on those before
            return operations(lambda: generate(model, *inputs))
        model.backbone.predict = counted
        generate(model, *inputs)
        return sum(known)  # nothing around `predict` is counted

    return linear(backbone.depth, run) if settings.token_cache else run(1), tuple(rows)


def step(backbone: Backbone, tokens: Tokens, start: int, stop: int, cached: bool = False) -> int:
    """Operations for one image of an autoregressive step, `cached` with a kv-cache.

    Those of a masked or causal backbone are, after the first step, quadratic in the tokens that are known and linear in
    those that are predicted.
    """
    if start == 0 or backbone.by_scale:
        return predict(backbone, tokens, start, stop, cached)
    more = predict(backbone, tokens, 1, 3, cached) - predict(backbone, tokens, 1, 2, cached) if stop > start + 1 else 0
    return round(_one(backbone, tokens, cached)(start)) + (stop - start - 1) * more


@cache
def _one(backbone: Backbone, tokens: Tokens, cached: bool) -> np.polynomial.Polynomial:
    """Operations of a step that predicts one token, by the number of known ones."""
    lengths = sorted({1, tokens.tokens // 2, tokens.tokens - 1})
    return quadratic(lengths, lambda start: predict(backbone, tokens, start, start + 1, cached))


@cache
def predict(backbone: Backbone, tokens: Tokens, start: int, stop: int, cached: bool = False) -> int:
    """Operations of one image's forward pass that predicts the tokens from `start` to `stop` of the order."""

    def run(depth: int) -> int:
        part: Any = model_of(backbone, _plain_head(tokens), tokens, depth).backbone.eval()
        cache = part.start(1) if cached else None
        if cache is not None:
            cache.length = start
        with torch.no_grad():
            return operations(lambda: part.predict(tokens.blank(1), *_labels_and_orders(tokens, 1), start, stop, cache))

    return round(linear(backbone.depth, run))


@cache
def _drawn(head: Head, width: int, tokens: Tokens, settings: Sampling, rows: int, steps: int) -> int:
    """Operations of a head that draws so many tokens in so many diffusion steps."""
    with META:
        network: Any = build_head(head, width, tokens.token_dim, tokens.codebook_size).eval()
        z = torch.empty(rows, width)
    few, scale = settings.model_copy(update={"diffusion_steps": steps}), settings.guidance
    null, shape = None if scale == 1.0 else z, tokens.blank(rows).shape

    def draw() -> None:
        drawn, _ = network.sample(z, null, few, scale, Noise("costs", device=META))
        check_drawn(network, drawn, (rows, *shape[2:]))

    with torch.no_grad():
        return operations(draw)


def _labels_and_orders(tokens: Tokens, batch: int) -> tuple[Tensor, Tensor]:
    labels, order = torch.empty(batch, tokens.tokens + 1, dtype=torch.long, device=META).split([1, tokens.tokens], 1)
    return labels[:, 0], order


@cache
def tokenizer(config: Tokenizer, image_size: int) -> TokenizerCosts:
    """Parameters of a tokenizer, and operations to encode and to decode one image, and of one in its training."""
    with META:
        net, images = autoencoder.build(config, image_size).eval(), torch.empty(1, 3, image_size, image_size)
    with torch.no_grad():
        tokens = net.encode(images)
        encode = operations(lambda: net.encode(images))
        if isinstance(
            net, autoencoder.Consistency
        ):  # its schedule asks for numbers: the network of its two steps alone
            noisy = torch.empty(1, 3 + config.latent_channels, image_size, image_size, device=META)
            decode = 2 * operations(lambda: net.net.decoder_unet(noisy, torch.empty(1, dtype=torch.long, device=META)))
        else:
            decode = operations(lambda: net.decode(tokens))
    training = _tokenizer_training(net.train(), config, image_size) if config.trained else 0.0
    return TokenizerCosts(parameters=count_parameters(net), encode=encode, decode=decode, training=training)


def _tokenizer_training(net: autoencoder.Tokenizer, config: Tokenizer, image_size: int) -> float:
    """One image in the training of a tokenizer, with perceptual network and discriminator where they take part."""
    with META:
        images, critic = torch.empty(2, 3, image_size, image_size), discriminator()
        # the weights of VGG-16 would have to be fetched
        lpips = torchvision.models.vgg16().features[:VGG].requires_grad_(False)
        own = OwnNetworks(1, 10)

    def step() -> None:
        rebuilt = net.rebuilt(images)
        loss = (rebuilt - images).abs().mean()
        if config.perceptual_weight:
            network = own if config.perceptual == "own" else lambda a, b: lpips(a) - lpips(b)
            loss = loss + network(rebuilt, images).square().mean()
        if config.adversarial_weight:
            adversarial = critic.requires_grad_(False)(rebuilt).mean()
            loss = loss + adaptive_weight(loss, adversarial, net.last_layer()) * adversarial
        loss.backward()
        if config.adversarial_weight:
            critic.requires_grad_(True)
            hinge(critic(images), critic(rebuilt.detach())).backward()

    # the own networks' training: forward, and twice as much backward
    learning = operations(lambda: [network(images) for network in own.classifiers])
    learn = 3 * learning * (config.perceptual_images or 0) / (config.images or 1)
    return (operations(step) + learn) / len(images)


@cache
def judge(name: str, config: ClassifierConfig | None, image_size: int, classes: int) -> JudgeCosts:
    """Parameters of a network that judges, operations for one image, and how many numbers of each kind it gives."""
    with META:
        if name == "classifier":
            assert config is not None  # checked where the study is read
            network: Any = Classifier(config, classes).eval()
            images = torch.empty(1, 3, image_size, image_size)
        else:
            network = dinov2.build() if name == "dinov2" else inception.Inception()
            images = torch.empty(1, 3, *[dinov2.SIDE if name == "dinov2" else inception.SIDE] * 2)
    network.to(META)
    looks: dict[str, Callable[[], dict[str, Tensor]]] = {
        "classifier": lambda: dict(zip(("features", "logits"), network(images), strict=True)),
        "dinov2": lambda: {"features": network(images)},
    }
    look = looks.get(name, lambda: inception.extract(network, images))
    with torch.no_grad():
        kept = {key: values.shape[1] for key, values in look().items()}
        return JudgeCosts(parameters=count_parameters(network), forward=operations(look), **kept)


def rejecter(study: Study, classes: int) -> JudgeCosts | None:
    """The same of the network that rejects drawn images; None where the study has none."""
    if study.rejecter is None:
        return None
    if not study.rejecter.weights:
        return judge("classifier", study.rejecter.classifier, study.data.image_size, classes)
    with META:
        network, images = torchvision.models.resnet50().eval(), torch.empty(1, 3, REJECTED, REJECTED)
    with torch.no_grad():
        forward = operations(lambda: network(images))
    return JudgeCosts(parameters=count_parameters(network), forward=forward, features=0)


def count(study: Study, classes: int, key: str) -> PlanRecord:
    """Count what the jobs of a study need; `key` says what the counts depend on."""
    size, variants = study.data.image_size, dict[str, VariantCosts]()
    trained = {name: v for name, v in study.variants.items() if v.seeds}
    for name, v in trained.items():
        backbone, head, recipe, tokens = parts(study, name, classes)
        drawn = {
            s: sampling(backbone, head, tokens, study.sampling[s].points[-1], study.metrics.chunk) for s in v.sampling
        }
        variants[name] = VariantCosts(
            parameters=count_parameters(model_of(backbone, head, tokens)),
            training=0.0 if v.pretrained else training(backbone, head, tokens, recipe),
            sampling={setting: sum(both) for setting, both in drawn.items()},
        )
    names = sorted({v.tokenizer for v in trained.values()})
    return PlanRecord(
        key=key,
        rejecter=rejecter(study, classes),
        judges={name: judge(name, study.classifier, size, classes) for name in study.metrics.extractors},
        tokenizers={name: tokenizer(study.tokenizers[name], size) for name in names},
        variants=variants,
    )


def parts(study: Study, variant: str, classes: int) -> tuple[Backbone, Head, Recipe, Tokens]:
    """Backbone, head, recipe and tokens of a variant."""
    v = study.variants[variant]
    tokens = Tokens.of(study, v.tokenizer, classes)
    return study.backbones[v.backbone], study.heads[v.head], study.recipes[v.recipe], tokens
