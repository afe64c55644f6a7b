"""Study files as pydantic models: what a study may say, and what is refused when it is read.

A study is one YAML file. It names the data set, tokenizers, backbones, heads, recipes and sampling settings,
and then *variants*, each of which picks one of each by name: the factors of the paper are independent here as
they are in the code. `mar/study.py` reads the file; the JSON schema in `workflow/schemas/` is generated from
these classes.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A part of a study: unknown keys are refused with the accepted ones, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key, value in values.items():
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                    hint = f" (did you mean {near[0]!r}?)" if near else ""
                    raise ValueError(f"unknown key {key!r}{hint}; accepted: {', '.join(sorted(cls.model_fields))}")
                if isinstance(value, bool) and cls.model_fields[key].annotation is not bool:
                    # Python counts True as 1, and so would pydantic
                    raise ValueError(f"{key}: found {str(value).lower()}; accepted: anything but true and false")
        return values


class Data(Section):
    """The images of the study and how they become square RGB arrays."""

    kind: Literal["digits", "imagefolder"] = Field(description="digits: shipped with scikit-learn; imagefolder: yours")
    path: str | None = Field(None, description="imagefolder: root of <class>/<image>, or of train/ and val/ with those")
    image_size: PositiveInt = Field(description="side in pixels after the ADM centre crop (digits: after resizing)")
    flip: bool = Field(False, description="encode mirror images too and pick one of both in training")
    holdout: float = Field(0.2, gt=0.0, lt=1.0, description="share of each class held out where the tree has no val/")

    @model_validator(mode="after")
    def _check(self) -> Data:
        if (self.kind == "imagefolder") != (self.path is not None):
            raise ValueError(
                f"path belongs to kind imagefolder and is needed there: kind {self.kind}, path {self.path}"
            )
        if self.kind == "digits" and self.flip:
            raise ValueError("flip: true with kind digits: a mirrored 2 is no 2; accepted: false")
        return self


class Tokenizer(Section):
    """A convolutional autoencoder, KL-regularised or vector-quantised, on the same body."""

    kind: Literal["kl", "vq"]
    stride: PositiveInt = Field(description="pixels per latent position and axis, a power of two")
    channels: tuple[PositiveInt, ...] = Field(description="width of each resolution level: log2(stride) + 1 of them")
    layers: PositiveInt = Field(1, description="residual blocks per level")
    latent_channels: PositiveInt = Field(description="kl: numbers per latent position; vq: width of a code")
    group: PositiveInt = Field(1, description="group x group latent positions make one token (2: Table 2's KL-8)")
    codebook_size: PositiveInt | None = Field(None, description="vq only: number of codes")
    kl_weight: PositiveFloat | None = Field(None, description="kl only: weight of the KL term (LDM: 1e-6)")
    images: PositiveInt = Field(description="images seen in training")
    batch: PositiveInt = 64
    learning_rate: PositiveFloat = Field(description="Adam, cosine to zero")

    @model_validator(mode="after")
    def _check(self) -> Tokenizer:
        if self.stride & (self.stride - 1):
            raise ValueError(f"stride {self.stride}: a power of two is accepted")
        if len(self.channels) != self.stride.bit_length():
            raise ValueError(
                f"channels {list(self.channels)}: stride {self.stride} has {self.stride.bit_length()} levels"
            )
        if (self.kind == "vq") != (self.codebook_size is not None):
            raise ValueError(f"codebook_size belongs to kind vq and is needed there: kind {self.kind}")
        if (self.kind == "kl") != (self.kl_weight is not None):
            raise ValueError(f"kl_weight belongs to kind kl and is needed there: kind {self.kind}")
        if self.kind == "vq" and self.group != 1:
            raise ValueError(f"group {self.group} with kind vq: an id cannot be grouped; accepted: 1")
        return self

    @property
    def token_dim(self) -> int:
        """Numbers in one continuous token."""
        return self.latent_channels * self.group**2


class Backbone(Section):
    """The transformer that turns the tokens so far into a condition z for each token to come."""

    kind: Literal["causal", "masked"]
    width: PositiveInt
    depth: PositiveInt = Field(description="masked: blocks of the encoder and again of the decoder; causal: twice this")
    heads: PositiveInt
    mlp_ratio: PositiveFloat = 4.0
    buffer: PositiveInt = Field(64, description="copies of the class token in front of a masked sequence")
    dropout: Fraction = Field(0.1, description="attention and projection dropout")

    @model_validator(mode="after")
    def _check(self) -> Backbone:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class Head(Section):
    """The per-token distribution p(x given z)."""

    kind: Literal["categorical", "diffusion"]
    width: PositiveInt | None = Field(None, description="diffusion only: width of the denoising MLP")
    depth: PositiveInt | None = Field(None, description="diffusion only: residual blocks of the denoising MLP")
    noise_draws: PositiveInt | None = Field(None, description="diffusion only: (t, noise) draws per token and step")

    @model_validator(mode="after")
    def _check(self) -> Head:
        for key in ("width", "depth", "noise_draws"):
            if (self.kind == "diffusion") != (getattr(self, key) is not None):
                raise ValueError(f"{key} belongs to kind diffusion and is needed there: kind {self.kind}")
        return self


class Recipe(Section):
    """How a variant is trained. Everything counts in images, nothing in steps, epochs or devices."""

    images: PositiveInt = Field(description="images seen in training")
    batch: PositiveInt = Field(description="global batch in images")
    micro_batch: PositiveInt | None = Field(None, description="images per forward pass, never split; default: batch")
    base_learning_rate: PositiveFloat = Field(1e-4, description="per 256 images of global batch")
    warmup_images: int = Field(0, ge=0, description="linear warm-up from zero")
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(0.02, ge=0.0)
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    clip: PositiveFloat = Field(3.0, description="global gradient norm")
    ema: Fraction = Field(0.9999, description="decay of the weight average, per optimiser step")
    label_drop: Fraction = Field(0.1, description="share of images trained without their class")
    mask_ratio_min: Fraction = Field(0.7, description="masked backbones: lower end of the truncated normal")
    dtype: Literal["fp32", "bf16"] = "fp32"
    checkpoint_images: PositiveInt = Field(description="images between checkpoints")
    log_images: PositiveInt = Field(description="images between lines of metrics.jsonl")

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        for key in ("images", "checkpoint_images", "log_images", "warmup_images"):
            if getattr(self, key) % self.batch:
                raise ValueError(f"{key} {getattr(self, key)} is not a multiple of batch {self.batch}")
        if self.batch % (self.micro_batch or self.batch):
            raise ValueError(f"batch {self.batch} is not a multiple of micro_batch {self.micro_batch}")
        return self

    @property
    def learning_rate(self) -> float:
        """Peak learning rate: the base rate scaled linearly with the global batch."""
        return self.base_learning_rate * self.batch / 256


class Sampling(Section):
    """One way to draw images from a trained variant. Defaults are the published ones."""

    steps: PositiveInt = Field(description="autoregressive steps; as many as tokens means one token a step")
    guidance: float = Field(1.0, ge=1.0, description="classifier-free guidance scale; 1 is none")
    guidance_schedule: Literal["linear", "constant"] = "linear"
    temperature: PositiveFloat = Field(1.0, description="scales the noise (diffusion) or divides the logits")
    diffusion_steps: PositiveInt | None = Field(None, description="diffusion heads only, respaced from 1000")
    clamp: PositiveFloat | None = Field(
        None,
        description="diffusion heads only: predicted x0 is held within this many standard deviations; not published",
    )
    kv_cache: bool = Field(False, description="causal backbones only")


class Variant(Section):
    """One choice of each factor of the paper, by name."""

    tokenizer: Name
    order: Literal["raster", "random"]
    backbone: Name
    head: Name
    recipe: Name
    sampling: tuple[Name, ...] = Field(description="sampling settings to draw samples with, for every seed")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,), description="training seeds; an empty list declares the variant, untrained"
    )

    @model_validator(mode="after")
    def _check(self) -> Variant:
        for key in ("sampling", "seeds"):
            values = getattr(self, key)
            if len(set(values)) != len(values):
                raise ValueError(f"{key} {list(values)}: each entry once is accepted")
        return self


class Classifier(Section):
    """The small network, trained on the study's own real images, whose features and logits the metrics use."""

    channels: tuple[PositiveInt, ...] = (32, 64, 64)
    features: PositiveInt = Field(64, description="width of the feature layer")
    images: PositiveInt
    batch: PositiveInt = 64
    learning_rate: PositiveFloat = 2e-3


class Metrics(Section):
    """How sample sets are drawn and judged."""

    samples: PositiveInt = Field(description="images per sample set")
    chunk: PositiveInt = Field(description="images per chunk: the unit of random numbers, files and restarts")
    neighbours: PositiveInt = Field(3, description="k of precision and recall")
    bootstrap: PositiveInt = Field(200, description="resamples of the images for the intervals")

    @model_validator(mode="after")
    def _check(self) -> Metrics:
        if self.samples % self.chunk:
            raise ValueError(f"samples {self.samples} is not a multiple of chunk {self.chunk}")
        return self


class Speed(Section):
    """Protocol of the seconds per image: a warm-up batch is dropped, decoding is included."""

    batch: PositiveInt
    batches: PositiveInt = Field(3, description="timed batches after the warm-up batch; the median counts")


class TableRow(Section):
    """One row of a table: the paper's row and the sample sets that answer it."""

    paper: Name = Field(description="key of the row in config/paper/<table>.csv")
    variant: Name
    without: Name = Field(description="sampling setting of the columns without guidance")
    guided: Name = Field(description="sampling setting of the columns with guidance")


class Table(Section):
    """A table of the paper and our rows for it."""

    paper: Name = Field(description="config/paper/<paper>.csv")
    title: str
    rows: tuple[TableRow, ...]


class Curve(Section):
    """One curve of the trade-off figure: a variant at several sampling settings."""

    label: str
    variant: Name
    sampling: tuple[Name, ...]


class Study(Section):
    """A whole study: the root of a study file."""

    study: Name
    title: str = ""
    seed: int = 0
    data: Data
    tokenizers: dict[Name, Tokenizer]
    backbones: dict[Name, Backbone]
    heads: dict[Name, Head]
    recipes: dict[Name, Recipe]
    sampling: dict[Name, Sampling]
    variants: dict[Name, Variant]
    classifier: Classifier
    metrics: Metrics
    speed: Speed
    tables: dict[Name, Table] = {}
    tradeoff: tuple[Curve, ...] = Field((), description="curves of figures/tradeoff")

    def tokens(self, tokenizer: str) -> int:
        """Number of tokens of one image under a tokenizer."""
        tok = self.tokenizers[tokenizer]
        return (self.data.image_size // (tok.stride * tok.group)) ** 2

    @model_validator(mode="after")
    def _check(self) -> Study:
        for name, tok in self.tokenizers.items():
            step = tok.stride * tok.group
            if self.data.image_size % step:
                raise ValueError(
                    f"tokenizers.{name}: stride {tok.stride} x group {tok.group} = {step} does not divide "
                    f"data.image_size {self.data.image_size}"
                )
        for name, variant in self.variants.items():
            self._check_variant(name, variant)
        for table_name, table in self.tables.items():
            for i, row in enumerate(table.rows):
                where = f"tables.{table_name}.rows[{i}]"
                self._check_settings(where, row.variant, (row.without, row.guided))
        for i, curve in enumerate(self.tradeoff):
            self._check_settings(f"tradeoff[{i}]", curve.variant, curve.sampling)
        return self

    def _check_settings(self, where: str, variant: str, settings: tuple[str, ...]) -> None:
        known(where + ".variant", variant, self.variants)
        for setting in settings:
            known(f"{where}: sampling of variant {variant}", setting, self.variants[variant].sampling)

    def _check_variant(self, name: str, variant: Variant) -> None:
        where = f"variants.{name}"
        tok = known(f"{where}.tokenizer", variant.tokenizer, self.tokenizers)
        backbone = known(f"{where}.backbone", variant.backbone, self.backbones)
        head = known(f"{where}.head", variant.head, self.heads)
        known(f"{where}.recipe", variant.recipe, self.recipes)
        accepted = {"categorical": "vq", "diffusion": "kl"}[head.kind]
        if tok.kind != accepted:
            raise ValueError(
                f"{where}: head {variant.head} ({head.kind}) on tokenizer {variant.tokenizer} ({tok.kind}): "
                f"{head.kind} takes {'ids' if accepted == 'vq' else 'continuous tokens'}; accepted: kind {accepted}"
            )
        for setting in variant.sampling:
            sampling = known(f"{where}.sampling", setting, self.sampling)
            at, tokens = f"{where}: sampling.{setting}", self.tokens(variant.tokenizer)
            if sampling.kv_cache and backbone.kind == "masked":
                raise ValueError(
                    f"{at}.kv_cache true with a masked backbone: attention is bidirectional; accepted: false"
                )
            if backbone.kind == "causal" and sampling.steps != tokens:
                raise ValueError(
                    f"{at}.steps {sampling.steps}: a causal backbone takes one token a step; accepted: {tokens}"
                )
            if sampling.steps > tokens:
                raise ValueError(f"{at}.steps {sampling.steps}: {tokens} tokens; accepted: 1 to {tokens}")
            for key in ("diffusion_steps", "clamp"):
                if head.kind == "categorical" and getattr(sampling, key) is not None:
                    raise ValueError(f"{at}.{key} {getattr(sampling, key)} with a categorical head; accepted: none")
            if head.kind == "diffusion" and sampling.diffusion_steps is None:
                raise ValueError(f"{at}.diffusion_steps is needed by head {variant.head}; published: 100")


def known(where: str, name: str, accepted: Any) -> Any:
    """The entry of that name, or a ValueError that says where it was asked for and what is accepted."""
    if name not in accepted:
        raise ValueError(f"{where}: found {name!r}; accepted: {', '.join(accepted) or 'none'}")
    return accepted[name] if isinstance(accepted, dict) else name
