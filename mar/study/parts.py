"""The factors of the paper as pydantic models: data, tokenizer, backbone, head, recipe, sampling.

Each is one section of a study file and checks its own values; whether the parts of a variant fit together is checked
in `mar/study/study.py`.
"""

from __future__ import annotations

import difflib
import itertools
import os
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from mar.runtime.text import printable
from mar.study.mistakes import MISSING, Mistake, MistakesError, of_validation

Text = Annotated[str, AfterValidator(printable)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=100)]  # names files and folders
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]  # what both numpy and torch take
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
# What no machine has is refused when the study is read, not by torch after hours.
Size = Annotated[int, Field(gt=0, le=100_000)]  # of a network: widths, channels, sides
Depth = Annotated[int, Field(gt=0, le=1000)]  # of a network: layers
Images = Annotated[int, Field(gt=0, le=10**12)]  # numbers of images, and of other things
Epochs = Annotated[float, Field(gt=0.0, le=1e9)]
Temperature = Annotated[float, Field(ge=1e-3, le=1e3)]
Rate = Annotated[float, Field(gt=0.0, le=100.0)]  # learning rates
POINTS = 10_000  # of the grid of one sweep, at most
IMAGES = "images seen in training"
EPOCHS = "passes over the train split; beside images: the shorter of both counts"


class Section(BaseModel):
    """A part of a study. Unknown keys are refused, and values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse unknown keys, together with the mistakes of the others."""
        mistakes, said = list[Mistake](), dict[str, Any]()
        for key, value in values.items() if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                text = f"unknown key {key!r}{hint}; accepted: {', '.join(sorted(cls.model_fields))}"
                mistakes.append(Mistake((), text, (key,)))
                said |= dict.fromkeys(near)
            elif isinstance(value, bool) and cls.model_fields[key].annotation is not bool:
                # Python counts True as 1, and so would pydantic.
                text = f"found {str(value).lower()}; accepted: anything but true and false"
                mistakes.append(Mistake((key,), text, (key,)))
                said[key] = None
        if not mistakes:
            return validate(values)
        wrong = {mistake.place[0] for mistake in mistakes}
        try:
            validate({key: value for key, value in values.items() if key not in wrong})
        except ValidationError as error:
            mistakes += [m for m in of_validation(error, values) if m.text != MISSING or m.place[0] not in said]
        raise MistakesError(mistakes)

    def _belongs(self, key: str, kinds: str, needed: bool = True) -> None:
        """Refuse `key` where `kind` is none of `kinds` (separated by spaces), or its absence where it is one."""
        kind, present = self.kind, getattr(self, key) is not None  # type: ignore[attr-defined]
        if kind in kinds.split() and needed and not present:
            raise ValueError(f"{key} belongs to kind {kinds.replace(' ', ', ')} and is needed there: kind {kind}")
        if kind not in kinds.split() and present:
            raise ValueError(f"{key} belongs to kind {kinds.replace(' ', ', ')}: kind {kind}")

    def _has_length(self) -> None:
        """Refuse a training without a length."""
        if not (self.images or self.epochs):  # type: ignore[attr-defined]
            raise ValueError("images: is missing; accepted: images, epochs, or both, of which the shorter counts")


class Data(Section):
    """The images of the study and how they become square RGB arrays."""

    kind: Literal["digits", "fashion-mnist", "idx", "imagefolder", "none"] = Field(
        description="digits: shipped with scikit-learn; fashion-mnist: 70,000 photographs, from Debian's package or "
        "fetched; idx: MNIST's format, yours; imagefolder: yours; none: no images, published weights are sampled alone"
    )
    path: Annotated[str, AfterValidator(os.path.expanduser)] | None = Field(
        None,
        description="imagefolder: root of <class>/<image>, or of train/ and val/ with those; idx and fashion-mnist: "
        "folder of train-images-idx3-ubyte[.gz] and its labels",
    )
    image_size: Size = Field(
        description="side in pixels after the ADM centre crop (digits: after resizing; idx: padded, not resized)"
    )
    num_classes: Images | None = Field(None, description="none: classes of the published weights")
    flip: bool = Field(False, description="encode mirror images too and pick one of both in training")
    holdout: float = Field(
        0.2, gt=0.0, lt=1.0, description="share of each class held out where the data have no val/ or test set"
    )
    set_aside: Images | None = Field(
        None, description="images of the train split, equally of each class, that are held out too"
    )
    expect: Literal["imagenet"] | None = Field(
        None, description="imagefolder: totals to check, ImageNet-1k's 1,000 classes, 1,281,167 and 50,000 images"
    )

    @model_validator(mode="after")
    def _check(self) -> Data:
        needed, accepted = self.kind in ("imagefolder", "idx"), self.kind not in ("digits", "none")
        if (needed and self.path is None) or (self.path is not None and not accepted):
            raise ValueError(
                "path belongs to kind imagefolder and idx and is needed there, and accepted by fashion-mnist: kind "
                f"{self.kind}, path {self.path}"
            )
        if self.kind == "digits" and self.flip:
            raise ValueError("flip: true with kind digits: a mirrored 2 is no 2; accepted: false")
        self._belongs("expect", "imagefolder", needed=False)
        self._belongs("num_classes", "none")
        return self

    @property
    def classes(self) -> int | None:
        """Number of classes where the study knows it; None for folders and files of the user."""
        return 10 if self.kind in ("digits", "fashion-mnist") else self.num_classes

    @property
    def title(self) -> str:
        """Name of the images for texts."""
        known = {"digits": "scikit-learn's handwritten digits", "fashion-mnist": "Fashion-MNIST", "none": "no images"}
        return known.get(self.kind, f"the images of {self.path}")


class Tokenizer(Section):
    """What turns images into tokens and back: an autoencoder, trained or imported, or none for pixels (Table 2)."""

    kind: Literal["kl", "vq", "msvq", "consistency", "pixels"] = Field(
        description="msvq: ids of several scales, of which each adds to those before (VAR); "
        "consistency: Stable Diffusion's KL-8 encoder with the consistency decoder; pixels: patches"
    )
    stride: Size = Field(description="pixels per latent position and axis, a power of two; pixels: 1")
    stem: Size = Field(1, description="stem x stem pixels become channels in front of the first level")
    channels: tuple[Size, ...] = Field((), description="width of each resolution level: log2(stride / stem) + 1")
    layers: Depth = Field(1, description="residual blocks per level")
    attention: Literal["middle", "encoder", "both"] = Field(
        "middle", description="self-attention: in the middle blocks; also at the encoder's last level (MAR's KL-16); "
        "or at that of the decoder too (LDM's KL-16 and VQ-16)"
    )  # fmt: skip
    latent_channels: Size = Field(description="kl: numbers per latent position; vq, msvq: width of a code; pixels: 3")
    group: Size = Field(1, description="group x group latent positions make one token (2: Table 2's KL-8)")
    codebook_size: Annotated[int, Field(gt=0, le=10**7)] | None = Field(
        None, description="vq and msvq: number of codes"
    )
    scales: tuple[Size, ...] | None = Field(
        None, min_length=2, description="msvq only: sides of the scales, ascending to that of the latents"
    )
    continuous: bool = Field(False, description="vq only: tokens are the latents before the quantiser, not ids")
    scale: PositiveFloat | None = Field(None, description="factor on latents; default: 1/std over the train split")
    pretrained: bool = Field(False, description="weights are imported (`mar import`), not trained")
    weights: Name | None = Field(None, description="pretrained: name of the import; default: the tokenizer's")
    kl_weight: PositiveFloat | None = Field(None, description="kl only: weight of the KL term (LDM: 1e-6)")
    perceptual_weight: float = Field(0.0, ge=0.0, description="weight of the perceptual term (LDM: 1); 0 leaves it out")
    perceptual: Literal["lpips", "own"] = Field(
        "lpips",
        description="network of the perceptual term: LPIPS with VGG-16, fetched (LDM); or three small classifiers, "
        "none of them the judge, which first learn from every second image of the study",
    )
    perceptual_images: Images | None = Field(None, description="perceptual own: images that each classifier sees")
    adversarial_weight: float = Field(0.0, ge=0.0, description="weight of the patch discriminator (LDM: 0.5)")
    adversarial_start: int = Field(0, ge=0, description="images before the discriminator counts (LDM: 50,001 steps)")
    images: Images | None = Field(None, description=IMAGES)
    epochs: Epochs | None = Field(None, description=EPOCHS)
    batch: Images = 64
    learning_rate: Rate | None = Field(None, description="Adam, cosine to zero")
    per_seed: bool = Field(
        False, description="train one for each training seed of its variants, with seed `seed` + training seed"
    )

    @model_validator(mode="after")
    def _check(self) -> Tokenizer:
        if self.stride & (self.stride - 1):
            raise ValueError(f"stride {self.stride}: a power of two is accepted")
        if self.stem & (self.stem - 1) or self.stem > self.stride:
            raise ValueError(f"stem {self.stem}: a power of two up to the stride, {self.stride}, is accepted")
        if self.stem > 1 and not self.trained:
            raise ValueError(f"stem {self.stem}: belongs to tokenizers that are trained here; accepted: 1")
        levels = 0 if self.kind in ("pixels", "consistency") else (self.stride // self.stem).bit_length()
        if len(self.channels) != levels:
            stem = f", stem {self.stem}" if self.stem > 1 else ""
            raise ValueError(
                f"channels {list(self.channels)}: kind {self.kind} with stride {self.stride}{stem} has {levels} levels"
            )
        own = self.perceptual == "own"
        if own and not (self.trained and self.perceptual_weight):
            raise ValueError("perceptual own: belongs to a tokenizer that is trained, with a perceptual_weight above 0")
        if own != (self.perceptual_images is not None):
            raise ValueError(f"perceptual_images belongs to perceptual own and is needed there: {self.perceptual}")
        self._belongs("codebook_size", "vq msvq")
        self._belongs("scales", "msvq")
        if self.scales and list(self.scales) != sorted(set(self.scales)):
            raise ValueError(f"scales {list(self.scales)}: accepted: ascending, each once")
        self._belongs("kl_weight", "kl", needed=self.trained)
        if self.kind == "pixels" and (self.stride, self.latent_channels) != (1, 3):
            raise ValueError(f"stride {self.stride}, latent_channels {self.latent_channels}: pixels have 1 and 3")
        if self.kind == "consistency" and (self.stride, self.latent_channels) != (8, 4):
            raise ValueError(
                f"stride {self.stride}, latent_channels {self.latent_channels}: the consistency decoder has 8 and 4"
            )
        if self.kind == "consistency" and not self.pretrained:
            raise ValueError("pretrained: false with kind consistency: it is not trained here; accepted: true")
        if self.pretrained and self.kind == "pixels":
            raise ValueError("pretrained: true with kind pixels: there are no weights; accepted: false")
        if self.weights and not self.pretrained:
            raise ValueError(f"weights {self.weights}: belongs to pretrained: true")
        if self.continuous and self.kind != "vq":
            raise ValueError(f"continuous: true with kind {self.kind}: accepted with vq; the others always are")
        if self.ids and self.group != 1:
            raise ValueError(f"group {self.group} with kind {self.kind}: an id cannot be grouped; accepted: 1")
        lengths = {"images or epochs": self.images or self.epochs, "learning_rate": self.learning_rate}
        for key, value in lengths.items():
            if (value is not None) != self.trained:
                why = "is needed to train" if self.trained else "has no meaning: nothing is trained"
                raise ValueError(f"{key} {why}: kind {self.kind}, pretrained {str(self.pretrained).lower()}")
        if self.per_seed and not self.trained:
            raise ValueError(
                f"per_seed: true with kind {self.kind}, pretrained {str(self.pretrained).lower()}: nothing is trained; "
                "accepted: false"
            )
        return self

    @property
    def trained(self) -> bool:
        """Whether this project trains it."""
        return not self.pretrained and self.kind != "pixels"

    @property
    def ids(self) -> bool:
        """Whether its tokens are ids of a codebook, for cross-entropy; otherwise they are vectors."""
        return self.kind == "msvq" or (self.kind == "vq" and not self.continuous)

    @property
    def token_dim(self) -> int:
        """Length D of the vector of one continuous token."""
        return self.latent_channels * self.group**2


class Backbone(Section):
    """The transformer that turns the known tokens into a condition z for each token to be generated; or a DiT."""

    kind: Literal["causal", "masked", "scales", "dit"]
    width: Size
    depth: Depth = Field(
        description="masked: blocks of the encoder and again of the decoder; causal: twice this; scales: blocks"
    )
    heads: Size
    mlp_ratio: Annotated[float, Field(gt=0.0, le=100.0)] = 4.0
    buffer: Size = Field(64, description="masked: copies of the class token in front of the sequence")
    dropout: Decay = Field(
        0.1, description="attention and projection dropout; scales: stochastic depth of the last block; DiT has none"
    )
    patch: Size | None = Field(None, description="dit only: patch x patch latent positions make one token")
    gate_init: PositiveFloat | None = Field(
        None, description="scales only: factor on the first gates of the blocks (VAR: 1e-3 to 5e-6, less for deeper)"
    )
    shared_aln: bool = Field(False, description="scales only: one layer makes the modulations of all blocks (VAR-d36)")
    adaln: bool = Field(
        True, description="scales only: the class modulates each block; false: it is the first token alone"
    )
    attention_norm: bool = Field(
        True, description="scales only: queries and keys are unit vectors; false: plain attention"
    )

    @model_validator(mode="after")
    def _check(self) -> Backbone:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}; accepted: one")
        self._belongs("patch", "dit")
        self._belongs("gate_init", "scales", needed=False)
        if self.kind != "scales":
            for key, usual in (("shared_aln", False), ("adaln", True), ("attention_norm", True)):
                if (value := getattr(self, key)) != usual:
                    said, accepted = str(value).lower(), str(usual).lower()
                    raise ValueError(f"{key}: {said} with kind {self.kind}: belongs to scales; accepted: {accepted}")
        elif not self.adaln:
            if self.gate_init is not None or self.shared_aln:
                said = "shared_aln: true" if self.shared_aln else f"gate_init {self.gate_init:g}"
                raise ValueError(f"{said} with adaln: false: belongs to AdaLN; accepted: none")
        elif self.gate_init is None:
            raise ValueError("gate_init belongs to kind scales and is needed there: kind scales")
        return self


class Head(Section):
    """The distribution p(x | z) of one token x; `joint` is DiT's diffusion process over all tokens of an image."""

    kind: Literal["categorical", "diffusion", "mse", "mixture", "joint"]
    width: Size | None = Field(None, description="diffusion only: width of the denoising MLP")
    depth: Depth | None = Field(None, description="diffusion only: residual blocks of the denoising MLP")
    noise_draws: Size | None = Field(None, description="diffusion only: (t, noise) draws per token and step")
    components: Size | None = Field(None, description="mixture only: normal distributions per token (GIVT: 16)")

    @model_validator(mode="after")
    def _check(self) -> Head:
        for key in ("width", "depth", "noise_draws"):
            self._belongs(key, "diffusion")
        self._belongs("components", "mixture")
        return self


class Recipe(Section):
    """How a variant is trained. Lengths are in images, the training's own also in epochs, none in steps or devices."""

    images: int = Field(0, ge=0, le=10**12, description=IMAGES)
    epochs: Epochs | None = Field(None, description=EPOCHS)
    batch: Images = Field(description="global batch in images")
    micro_batch: Images | None = Field(None, description="images per forward pass, never split; default: batch")
    base_learning_rate: Rate = Field(1e-4, description="per 256 images of global batch")
    warmup_images: int = Field(0, ge=0, description="linear warm-up from warmup_from to the learning rate")
    warmup_from: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of the learning rate at which the warm-up starts (VAR: 0.005)"
    )
    schedule: Literal["constant", "cosine", "linear"] = Field(
        "constant", description="after the warm-up; linear: constant for 5% of the rest, then down to final_rate (VAR)"
    )
    final_rate: Fraction | None = Field(None, description="linear only: share of the learning rate at the end")
    weight_decay: float = Field(0.02, ge=0.0, le=1000.0)
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    clip: PositiveFloat | None = Field(3.0, description="global gradient norm; null: not clipped (DiT)")
    ema: Decay = Field(0.9999, description="decay of the weight average, per optimiser step")
    label_drop: Fraction = Field(0.1, description="share of images trained without their class")
    mask_ratio: Literal["normal", "uniform"] = Field(
        "normal",
        description="masked backbones: law of the mask ratio. normal: of mean 1 and deviation 0.25, cut off at "
        "mask_ratio_min and 1 (published); uniform: every ratio between these equally often",
    )
    mask_ratio_min: Fraction = Field(0.7, description="masked backbones: lower end of the law of the mask ratio")
    masks_per_image: Size = Field(
        1, description="masked backbones: masks that each image is trained with when it is seen; published: 1"
    )
    dtype: Literal["fp32", "bf16"] = "fp32"
    tf32: bool = Field(False, description="fp32 products in TF32, on GPUs that have it (DiT, as published)")
    gradient_checkpointing: bool = Field(False, description="keep no activations inside blocks: less memory, slower")
    compile: bool = Field(False, description="torch.compile the model; needs a C++ compiler on the CPU")
    checkpoint_images: Images = Field(description="images between checkpoints")
    log_images: Images = Field(description="images between lines of metrics.jsonl")
    evaluate_at: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field(
        (), description="shares of the training at which the weight average is kept and measured (curves of learning)"
    )

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        self._has_length()
        for key in ("images", "checkpoint_images", "log_images", "warmup_images"):
            if getattr(self, key) % self.batch:
                raise ValueError(f"{key} {getattr(self, key)} is not a multiple of batch {self.batch}; accepted: one")
        if self.images and self.warmup_images > self.images:
            raise ValueError(f"warmup_images {self.warmup_images} of images {self.images}; accepted: at most as many")
        if self.warmup_from and not self.warmup_images:
            raise ValueError(f"warmup_from {self.warmup_from} belongs to a warm-up, and warmup_images is 0")
        if self.batch % (self.micro_batch or self.batch):
            raise ValueError(f"batch {self.batch} is not a multiple of micro_batch {self.micro_batch}; accepted: one")
        if (self.schedule == "linear") != (self.final_rate is not None):
            raise ValueError(f"final_rate belongs to schedule linear and is needed there; schedule {self.schedule}")
        shares = self._shares if self.images else list(self.evaluate_at)
        if shares != sorted(set(shares)):
            raise ValueError(
                f"evaluate_at {list(self.evaluate_at)} of {self.images} images in batches of {self.batch}; accepted: "
                "ascending shares, no two in one batch"
            )
        return self

    @property
    def points(self) -> tuple[int, ...]:
        """Images seen where learning is measured: the shares in whole batches, and the end; none without shares."""
        return tuple(dict.fromkeys([*self._shares, self.images])) if self.evaluate_at else ()

    @property
    def _shares(self) -> list[int]:
        batches = self.images // self.batch
        return [max(1, round(share * batches)) * self.batch for share in self.evaluate_at]

    @property
    def learning_rate(self) -> float:
        """Peak learning rate: the base rate scaled linearly with the global batch."""
        return self.base_learning_rate * self.batch / 256


class Sweep(Section):
    """The grid of guidance scales and temperatures; for each variant the point with the lowest FID is chosen.

    The images at the points are not those of the sample sets.
    """

    samples: Images = Field(description="images at each point of the grid")
    guidance: tuple[Annotated[float, Field(ge=1.0, le=1000.0)], ...] = Field((1.0,), min_length=1)
    temperature: tuple[Temperature, ...] = Field((1.0,), min_length=1)
    refine: int = Field(
        0, ge=0, le=20, description="times that the best point's surroundings are searched at half the step"
    )

    @model_validator(mode="after")
    def _check(self) -> Sweep:
        for key in ("guidance", "temperature"):
            values = getattr(self, key)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{key} {list(values)}: accepted: ascending, each once")
        if (points := len(self.guidance) * len(self.temperature)) > POINTS:
            raise ValueError(
                f"{len(self.guidance)} values of guidance x {len(self.temperature)} of temperature = {points} points; "
                f"accepted: at most {POINTS}"
            )
        return self


class Sampling(Section):
    """One way to draw images from a trained variant. Defaults are the published ones."""

    steps: PositiveInt = Field(
        description="autoregressive steps; as many as tokens: one token a step; scales: one a scale; dit: 1"
    )
    order: Literal["confidence", "checkerboard"] | None = Field(
        None,
        description="masked backbones. confidence: the surest tokens first (MAGE, Table 5), categorical heads only; "
        "checkerboard: every other position first, then the rest, each in a random order (GtR)",
    )
    confidence_noise: float | None = Field(
        None, ge=0.0, description="order confidence: scale of the Gumbel noise on log p, falling to 0 (MaskGIT: 4.5)"
    )
    late_steps: PositiveInt | None = Field(
        None, description="masked backbones: as many of the steps draw the second half of the tokens (GtR); "
        "default: the cosine schedule over all tokens"
    )  # fmt: skip
    guidance: float = Field(1.0, ge=1.0, le=1000.0, description="classifier-free guidance scale; 1 is none")
    guidance_schedule: Literal["linear", "constant"] = "linear"
    guidance_channels: PositiveInt | None = Field(None, description="dit only: guided channels (published: 3 of 4)")
    temperature: Temperature = Field(1.0, description="scales the noise (diffusion) or divides the logits")
    top_k: PositiveInt | None = Field(
        None, description="categorical heads: only as many of the likeliest ids are drawn"
    )
    top_p: Fraction | None = Field(
        None, gt=0.0, description="categorical heads: of these, only the likeliest that have this probability together"
    )
    diffusion_steps: PositiveInt | None = Field(
        None, le=1000, description="diffusion and joint heads, respaced from 1000"
    )
    solver: Literal["ancestral", "ddim", "dpm"] = Field(
        "ancestral", description="diffusion heads: the published sampler, DDIM, or DPM-Solver++ of order 2"
    )
    eta: Fraction = Field(0.0, description="ddim only: share of the ancestral noise in each step")
    clamp: PositiveFloat | None = Field(
        None,
        description="diffusion heads only: predicted x0 is held within this many standard deviations; not published",
    )
    kv_cache: bool = Field(False, description="causal and scales backbones only")
    token_cache: int | None = Field(
        None, ge=2, description="masked backbones: all tokens anew in each n-th step only (LazyMAR); not published"
    )
    condition_cache: int | None = Field(
        None, ge=2, description="masked backbones: the null condition in each n-th step only (LazyMAR); not published"
    )
    dtype: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="fp16, bf16: autocast of the backbone")
    head_dtype: Literal["fp32", "fp16", "bf16"] | None = Field(
        None, description="the same of the head and of the tokenizer's decoder; default with fp16 and bf16: fp32"
    )
    tf32: bool = Field(False, description="fp32 products in TF32, on GPUs that have it (DiT, as published)")
    compile: bool = Field(False, description="torch.compile the blocks and the denoiser; needs a C++ compiler")
    seed: Seed = Field(0, description="sampling seed: another one draws other images with the same weights")
    sweep: Sweep | None = Field(None, description="guidance and temperature are the best of this grid, for each model")

    @model_validator(mode="before")
    @classmethod
    def _say_the_precision_of_the_head(cls, values: Any) -> Any:
        """Say it aloud, so that keys of stages tell these images from those of before it could be said."""
        if isinstance(values, dict) and values.get("dtype", "fp32") != "fp32" and values.get("head_dtype") is None:
            return {**values, "head_dtype": "fp32"}
        return values

    @model_validator(mode="after")
    def _check(self) -> Sampling:
        if self.dtype == "fp32" and self.head_dtype is not None:
            raise ValueError(f"head_dtype {self.head_dtype} with dtype fp32: belongs to fp16 and bf16; accepted: none")
        if self.sweep:
            for key in ("guidance", "temperature"):
                if key in self.model_fields_set and getattr(self, key) != 1.0:
                    raise ValueError(
                        f"{key} {getattr(self, key)} with a sweep, which chooses it; accepted: one of both"
                    )
        if (self.order == "confidence") != (self.confidence_noise is not None):
            raise ValueError("confidence_noise belongs to order confidence and is needed there")
        self._check_fast()
        return self

    def _check_fast(self) -> None:
        """Refuse fast modes that would have no effect or do not work together."""
        if self.eta and self.solver != "ddim":
            raise ValueError(f"eta {self.eta:g} with solver {self.solver}: belongs to ddim; accepted: 0")
        if self.order == "confidence":
            for key in ("late_steps", "token_cache", "condition_cache"):
                if getattr(self, key) is not None:
                    raise ValueError(
                        f"{key} {getattr(self, key)} with order confidence, found out on the way; accepted: none"
                    )
        if self.late_steps and self.late_steps >= self.steps:
            raise ValueError(f"late_steps {self.late_steps} of steps {self.steps}; accepted: fewer")
        for key in ("token_cache", "condition_cache"):
            if (every := getattr(self, key)) and every > self.steps:
                raise ValueError(f"{key} {every}, steps {self.steps}; accepted: 2 to {self.steps}")
        if self.condition_cache and self.condition_cache % (self.token_cache or 1):
            raise ValueError(
                f"condition_cache {self.condition_cache} with token_cache {self.token_cache}: the null condition is "
                "computed where all tokens are; accepted: a multiple"
            )

    @property
    def points(self) -> list[Sampling]:
        """The setting itself, or the settings at the points of its sweep, the largest scale and temperature last."""
        if not self.sweep:
            return [self]
        return [self.at(g, t) for g, t in itertools.product(self.sweep.guidance, self.sweep.temperature)]

    def at(self, guidance: float, temperature: float) -> Sampling:
        """This setting at one point of its sweep."""
        return self.model_copy(update={"guidance": guidance, "temperature": temperature, "sweep": None})
