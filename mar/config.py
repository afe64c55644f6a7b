"""Study files as pydantic models: what a study may say, and what is refused when it is read.

A study is one YAML file. It names the data set, tokenizers, backbones, heads, recipes and sampling settings
(`mar/factors.py`), and then *variants*, each of which picks one of each by name: the factors of the paper are
independent here as they are in the code. `mar/study.py` reads the file; the JSON schema in `workflow/schemas/` is
generated from these classes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from mar.factors import Backbone, Data, Head, Name, Recipe, Sampling, Section, Sweep, Tokenizer

__all__ = [
    "Backbone",
    "Data",
    "Head",
    "Name",
    "Recipe",
    "Sampling",
    "Section",
    "Study",
    "Sweep",
    "Tokenizer",
    "Variant",
]

FACTORS = ("tokenizer", "order", "backbone", "head")  # of a variant, that `matrix` crosses


class Resources(Section):
    """What one training asks of a cluster, above the site's defaults. Science does not depend on it."""

    nodes: PositiveInt = 1
    gpus_per_node: PositiveInt = 1
    hours: PositiveFloat = Field(description="time limit of a job; a longer training goes on in the next one")


class Variant(Section):
    """One choice of each factor of the paper, by name."""

    tokenizer: Name
    order: Literal["raster", "random", "scales", "joint"] = Field(
        description="scales: from coarse to fine, VAR only; joint: all tokens at once, DiT only"
    )
    backbone: Name
    head: Name
    recipe: Name
    sampling: tuple[Name, ...] = Field(description="sampling settings to draw samples with, for every seed")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,), description="training seeds; an empty list declares the variant, untrained"
    )
    pretrained: bool = Field(False, description="weights are imported (`mar import`), not trained")
    weights: Name | None = Field(None, description="pretrained: name of the import; default: the variant's")
    resources: Resources | None = Field(None, description="nodes, GPUs and hours of the training on a cluster")

    @model_validator(mode="after")
    def _check(self) -> Variant:
        for key in ("sampling", "seeds"):
            values = getattr(self, key)
            if len(set(values)) != len(values):
                raise ValueError(f"{key} {list(values)}: each entry once is accepted")
        if self.weights and not self.pretrained:
            raise ValueError(f"weights {self.weights}: belongs to pretrained: true")
        if self.pretrained and self.seeds not in ((), (0,)):
            raise ValueError(f"seeds {list(self.seeds)} with pretrained: true: one set of weights; accepted: [0]")
        return self


class Classifier(Section):
    """The small network, trained on the study's own real images, whose features and logits the metrics use."""

    channels: tuple[PositiveInt, ...] = (32, 64, 64)
    features: PositiveInt = Field(64, description="width of the feature layer")
    images: PositiveInt
    batch: PositiveInt = 64
    learning_rate: PositiveFloat = 2e-3


Extractor = Literal["classifier", "inception", "dinov2", "clean"]

EXTRACTORS: tuple[str, ...] = get_args(Extractor)


class Reference(Section):
    """Real images, or their statistics, that stand in for the study's train split when `inception` judges."""

    file: str = Field(description="name in config/assets.csv, or path of an .npz (ADM batch, mu and sigma) or a folder")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="needed for a path, unless `unknown_hash`")
    unknown_hash: bool = Field(False, description="use a file of whatever hash; the hash is recorded and shown")


class Metrics(Section):
    """How sample sets are drawn and judged."""

    samples: PositiveInt = Field(description="images per sample set")
    chunk: PositiveInt = Field(description="images per chunk: the unit of random numbers, files and restarts")
    neighbours: PositiveInt = Field(3, description="k of precision and recall")
    bootstrap: PositiveInt = Field(200, description="resamples of the images for the intervals")
    extractors: tuple[Extractor, ...] = Field(
        ("classifier",),
        min_length=1,
        description="networks whose features judge; the first one's numbers are those of tables, figures and claims",
    )
    reference: Reference | None = Field(None, description="what Inception's numbers compare with; default: train split")

    @model_validator(mode="after")
    def _check(self) -> Metrics:
        if len(set(self.extractors)) != len(self.extractors):
            raise ValueError(f"extractors {list(self.extractors)}: each once is accepted")
        if self.reference and "inception" not in self.extractors:
            raise ValueError(
                f"reference {self.reference.file}: belongs to inception; extractors has {', '.join(self.extractors)}"
            )
        if self.samples % self.chunk:
            raise ValueError(f"samples {self.samples} is not a multiple of chunk {self.chunk}")
        return self


class Speed(Section):
    """Protocol of the seconds per image: a warm-up batch is dropped, decoding is included."""

    batch: PositiveInt
    batches: PositiveInt = Field(3, description="timed batches after the warm-up batch; the median counts")


class TableRow(Section):
    """One row of a table: the paper's row and the sample sets that answer it, if the study has any."""

    paper: Name = Field(description="key of the row in config/paper/<table>.csv")
    variant: Name | None = Field(None, description="ours; without one the row shows the paper's numbers alone")
    without: Name | None = Field(None, description="sampling setting of the columns without guidance")
    guided: Name | None = Field(None, description="sampling setting of the columns with guidance")

    @model_validator(mode="after")
    def _check(self) -> TableRow:
        if (self.variant is None) != (self.without is None and self.guided is None):
            raise ValueError(f"row {self.paper}: variant and one of without and guided belong together")
        return self


class Table(Section):
    """A table of the paper and our rows for it."""

    paper: Name = Field(description="config/paper/<paper>.csv")
    title: str
    timed: bool = Field(False, description="measure the seconds per image of its rows, as of the trade-off's points")
    rows: tuple[TableRow, ...]


class Curve(Section):
    """One curve of a figure: a variant at several sampling settings."""

    label: str
    variant: Name
    sampling: tuple[Name, ...]


class Modes(Section):
    """Fast sampling modes of one variant, and the setting that they are held against."""

    variant: Name
    default: Name = Field(description="sampling setting with which each mode is compared")
    modes: tuple[Name, ...] = Field(min_length=1, description="sampling settings: accepted or refused (table fast)")


class Budget(Section):
    """What a whole study may cost by `mar plan`'s estimate; the workflow refuses to start above it."""

    gpu_hours: PositiveFloat | None = Field(None, description="A100 hours")
    disk_gb: PositiveFloat | None = Field(None, description="results on disk, 1e9 bytes")


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
    classifier: Classifier | None = Field(None, description="needed where metrics.extractors has `classifier`")
    metrics: Metrics
    speed: Speed
    tables: dict[Name, Table] = Field({}, description="tables of the paper and our rows for them")
    tradeoff: tuple[Curve, ...] = Field((), description="curves of figures/tradeoff (Figure 6)")
    diffusion_steps: tuple[Curve, ...] = Field((), description="curves of figures/diffusion_steps (Figure 4)")
    temperature: tuple[Curve, ...] = Field((), description="curves of figures/temperature (Figure 5)")
    fast: Modes | None = Field(None, description="fast sampling modes to accept or refuse: the table `fast`")
    reuse: Name | None = Field(None, description="study whose finished files of equal recipe are taken over")
    budget: Budget | None = Field(None, description="caps on the estimate of `mar plan`")

    def tokens(self, tokenizer: str) -> int:
        """Number of tokens of one image under a tokenizer."""
        tok = self.tokenizers[tokenizer]
        if tok.scales:
            return sum(side**2 for side in tok.scales)
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
            side = self.data.image_size // step
            if tok.scales and tok.scales[-1] != side:
                raise ValueError(
                    f"tokenizers.{name}: scales {list(tok.scales)} end at {tok.scales[-1]}, and image_size "
                    f"{self.data.image_size} with stride {tok.stride} has {side} x {side} latents; accepted: {side}"
                )
        for name, variant in self.variants.items():
            self._check_variant(name, variant)
        for table_name, table in self.tables.items():
            if table_name in ("metrics", "variance", "fast"):
                raise ValueError(f"tables.{table_name}: every study has a table of this name; accepted: another")
            for i, row in enumerate(table.rows):
                if row.variant is not None:
                    settings = tuple(s for s in (row.without, row.guided) if s is not None)
                    self._check_settings(f"tables.{table_name}.rows[{i}]", row.variant, settings)
        for figure in ("tradeoff", "diffusion_steps", "temperature"):
            for i, curve in enumerate(getattr(self, figure)):
                self._check_settings(f"{figure}[{i}]", curve.variant, curve.sampling)
                for setting in curve.sampling if figure == "temperature" else ():
                    if self.sampling[setting].sweep:
                        raise ValueError(
                            f"{figure}[{i}]: sampling.{setting} has a sweep, which chooses what this figure varies; "
                            "accepted: settings with a temperature of their own"
                        )
        if self.fast:
            self._check_settings("fast", self.fast.variant, (self.fast.default, *self.fast.modes))
            if self.fast.default in self.fast.modes:
                raise ValueError(f"fast.modes: {self.fast.default} is fast.default; accepted: other settings")
        if self.classifier is None and "classifier" in self.metrics.extractors:
            raise ValueError("classifier: is needed by metrics.extractors, which has classifier")
        if self.reuse == self.study:
            raise ValueError(f"reuse {self.reuse}: accepted: another study")
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
        if tok.ids != (head.kind == "categorical"):
            raise ValueError(
                f"{where}: head {variant.head} ({head.kind}) on tokenizer {variant.tokenizer} ({tok.kind}): "
                f"{head.kind} takes {'ids' if head.kind == 'categorical' else 'continuous tokens'}; accepted: "
                + (
                    "kind vq, not continuous, or msvq"
                    if head.kind == "categorical"
                    else "kl, pixels, consistency, continuous vq"
                )
            )
        joint = {f"backbone {variant.backbone} dit": backbone.kind == "dit"}
        joint |= {f"head {variant.head} joint": head.kind == "joint", "order joint": variant.order == "joint"}
        if len(set(joint.values())) > 1:
            said = ", ".join(f"{what}: {'yes' if value else 'no'}" for what, value in joint.items())
            raise ValueError(f"{where}: DiT is backbone, head and order together; found {said}; accepted: all or none")
        scales = {f"tokenizer {variant.tokenizer} msvq": tok.kind == "msvq", "order scales": variant.order == "scales"}
        scales |= {f"backbone {variant.backbone} scales": backbone.kind == "scales"}
        if len(set(scales.values())) > 1:
            said = ", ".join(f"{what}: {'yes' if value else 'no'}" for what, value in scales.items())
            raise ValueError(
                f"{where}: VAR is tokenizer, order and backbone together; found {said}; accepted: all or none"
            )
        recipe, asked = self.recipes[variant.recipe], variant.resources
        parts = recipe.batch // (recipe.micro_batch or recipe.batch)
        if asked and parts % (asked.nodes * asked.gpus_per_node):
            raise ValueError(
                f"{where}.resources: {asked.nodes} x {asked.gpus_per_node} GPUs share the {parts} micro-batches of a "
                f"step (recipe {variant.recipe}: batch {recipe.batch}); accepted: a number of GPUs that divides {parts}"
            )
        if backbone.kind == "dit":
            side = self.data.image_size // tok.stride
            if tok.group != 1 or side % (backbone.patch or 1):
                raise ValueError(
                    f"{where}: dit groups by its own patch {backbone.patch}, on {side} x {side} latents; accepted: a "
                    f"tokenizer with group 1 and a patch that divides {side}; found group {tok.group}"
                )
        for setting in variant.sampling:
            sampling = known(f"{where}.sampling", setting, self.sampling)
            at, tokens = f"{where}: sampling.{setting}", self.tokens(variant.tokenizer)
            if sampling.order and variant.order == "raster":
                raise ValueError(f"{at}.order {sampling.order} with order raster of the variant; accepted: none")
            if tok.scales and sampling.steps != len(tok.scales):
                raise ValueError(
                    f"{at}.steps {sampling.steps}: a step draws a scale, and tokenizer {variant.tokenizer} has "
                    f"{len(tok.scales)}; accepted: {len(tok.scales)}"
                )
            for point in sampling.points:
                _check_sampling(at, point, backbone, head, variant.head, 1 if backbone.kind == "dit" else tokens)
            if sampling.sweep and sampling.sweep.samples % self.metrics.chunk:
                raise ValueError(
                    f"{at}.sweep.samples {sampling.sweep.samples} is not a multiple of metrics.chunk "
                    f"{self.metrics.chunk}"
                )


def _check_sampling(at: str, sampling: Sampling, backbone: Backbone, head: Head, name: str, tokens: int) -> None:
    """Refuse what this backbone or head cannot honour: a setting without effect would be a wrong label on a number."""
    if sampling.kv_cache and backbone.kind not in ("causal", "scales"):
        raise ValueError(f"{at}.kv_cache true with a {backbone.kind} backbone: attends both ways; accepted: false")
    if backbone.kind == "causal" and sampling.steps != tokens:
        raise ValueError(f"{at}.steps {sampling.steps}: a causal backbone takes one token a step; accepted: {tokens}")
    if sampling.steps > tokens:
        raise ValueError(f"{at}.steps {sampling.steps}: {tokens} tokens; accepted: 1 to {tokens}")
    if sampling.order == "confidence" and (head.kind, backbone.kind) != ("categorical", "masked"):
        raise ValueError(
            f"{at}.order confidence with a {head.kind} head on a {backbone.kind} backbone: only a categorical head "
            "says how sure it is, and only a masked backbone takes any order; accepted: none"
        )
    for key in ("order", "late_steps", "token_cache", "condition_cache"):
        if backbone.kind != "masked" and (value := getattr(sampling, key)) is not None:
            raise ValueError(f"{at}.{key} {value} with a {backbone.kind} backbone: belongs to masked; accepted: none")
    if sampling.condition_cache and sampling.guidance == 1.0:
        raise ValueError(
            f"{at}.condition_cache {sampling.condition_cache} without guidance: there is no null condition; "
            "accepted: none, or a guidance above 1"
        )
    if sampling.late_steps and max(sampling.late_steps, sampling.steps - sampling.late_steps) > tokens // 2:
        raise ValueError(
            f"{at}.late_steps {sampling.late_steps} of steps {sampling.steps}: each half of {tokens} tokens has "
            f"{tokens // 2}; accepted: at most as many steps for each"
        )
    if sampling.solver != "ancestral" and head.kind != "diffusion":
        raise ValueError(
            f"{at}.solver {sampling.solver} with a {head.kind} head: belongs to diffusion; accepted: ancestral"
        )
    for key, kinds in (
        ("diffusion_steps", ("diffusion", "joint")),
        ("clamp", ("diffusion",)),
        ("top_k", ("categorical",)),
        ("top_p", ("categorical",)),
        ("guidance_channels", ("joint",)),
    ):
        if head.kind not in kinds and getattr(sampling, key) is not None:
            raise ValueError(f"{at}.{key} {getattr(sampling, key)} with a {head.kind} head; accepted: none")
    if head.kind in ("diffusion", "joint") and sampling.diffusion_steps is None:
        raise ValueError(f"{at}.diffusion_steps is needed by head {name}; published: 100, DiT 250")
    if head.kind == "mse" and sampling.temperature != 1.0:
        raise ValueError(f"{at}.temperature {sampling.temperature} with a mse head: it draws nothing; accepted: 1.0")
    if head.kind == "joint" and sampling.guidance_schedule != "constant" and sampling.guidance != 1.0:
        raise ValueError(f"{at}.guidance_schedule {sampling.guidance_schedule} with DiT: one step; accepted: constant")


def known(where: str, name: str, accepted: Any) -> Any:
    """The entry of that name, or a ValueError that says where it was asked for and what is accepted."""
    if name not in accepted:
        raise ValueError(f"{where}: found {name!r}; accepted: {', '.join(accepted) or 'none'}")
    return accepted[name] if isinstance(accepted, dict) else name
