"""The sections of a study that are not factors of the paper: metrics, speed, tables, curves, fast modes, budget."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, model_validator

from mar.study.kinds import Section
from mar.study.limits import REBUILT
from mar.study.mistakes import SHA256
from mar.study.parts import EPOCHS, IMAGES, Epochs, Images, Name, Rate, Size, Text


class Resources(Section):
    """What one training asks of a cluster, in place of the site's defaults. No result depends on it."""

    nodes: Size = 1
    gpus_per_node: Size = 1
    hours: float = Field(gt=0.0, le=1e5, description="time limit of a job; a longer training goes on in the next one")
    sharding: Literal["none", "full"] = Field(
        "none", description="full: each GPU keeps a share of weights, gradients and moments, where they do not fit one"
    )


class Classifier(Section):
    """The small network, trained on the study's own real images, whose features and logits the metrics use."""

    channels: tuple[Size, ...] = Field((32, 64, 64), min_length=1)
    features: Size = Field(64, description="width of the layer before the logits")
    layer: Literal["before-logits", "stages"] = Field(
        "before-logits",
        description="features that judge: before-logits, or stages: the second and third stage, pooled to 2x2",
    )
    images: int = Field(0, ge=0, le=10**12, description=IMAGES)
    epochs: Epochs | None = Field(None, description=EPOCHS)
    batch: Images = 64
    learning_rate: Rate = 2e-3

    @model_validator(mode="after")
    def _check(self) -> Classifier:
        self._has_length()
        if self.layer == "stages" and len(self.channels) < 3:
            raise ValueError(
                f"layer stages with channels {list(self.channels)}: takes the second and the third stage; accepted: "
                "three channels or more, or before-logits"
            )
        return self


class Rejecter(Section):
    """The network by which settings with `reject` accept drawn images: never the one that judges.

    One of the study's own is a second classifier, of another seed and trained on held-out images.
    """

    channels: tuple[Size, ...] = Field((24, 48, 96), min_length=1)
    features: Size = Field(64, description="width of the layer before the logits")
    images: int = Field(0, ge=0, le=10**12, description=IMAGES)
    batch: Images = 64
    learning_rate: Rate = 2e-3
    weights: Literal["resnet50"] | None = Field(
        None, description="in place of a training: published weights of config/assets.csv, for ImageNet's 1,000 classes"
    )

    @model_validator(mode="after")
    def _check(self) -> Rejecter:
        if bool(self.images) == bool(self.weights):
            raise ValueError(f"found images {self.images} and weights {self.weights}; accepted: one of both")
        return self

    @property
    def classifier(self) -> Classifier:
        """The network and its training."""
        return Classifier(**self.model_dump(exclude={"weights"}))


Extractor = Literal["classifier", "inception", "dinov2", "clean"]
EXTRACTORS: tuple[str, ...] = get_args(Extractor)


class Reference(Section):
    """Real images, or their statistics, that Inception's metrics compare with in place of the study's train split."""

    file: str = Field(description="name in config/assets.csv, or path of an .npz (ADM batch, mu and sigma) or a folder")
    sha256: str | None = Field(None, pattern=SHA256, description="needed for a path, unless `unknown_hash`")
    unknown_hash: bool = Field(False, description="use a file of whatever hash; the hash is recorded and shown")


class Metrics(Section):
    """How many images a sample set has, and which metrics are computed from it."""

    samples: Images = Field(description="images per sample set")
    chunk: Images = Field(description="images per chunk: the unit of random numbers, files and restarts")
    neighbours: Images = Field(3, description="k of precision and recall")
    bootstrap: int = Field(200, ge=2, le=10**6, description="resamples of the images for the intervals")
    rebuilt: Images = Field(REBUILT, description="at most as many images of a split are rebuilt for rFID")
    extractors: tuple[Extractor, ...] = Field(
        ("classifier",),
        min_length=1,
        description="networks whose features judge; the first one's numbers are those of tables, figures and claims",
    )
    real: Literal["train", "heldout"] = Field(
        "train", description="real images that all metrics compare with: the train split, or half of the held-out ones"
    )
    reference: Reference | None = Field(None, description="what Inception's numbers compare with in place of `real`")

    @model_validator(mode="after")
    def _check(self) -> Metrics:
        if len(set(self.extractors)) != len(self.extractors):
            raise ValueError(f"extractors {list(self.extractors)}: each once is accepted")
        if self.reference and "inception" not in self.extractors:
            raise ValueError(
                f"reference {self.reference.file}: belongs to inception; extractors has {', '.join(self.extractors)}"
            )
        if self.neighbours >= self.samples:
            raise ValueError(f"neighbours {self.neighbours} of samples {self.samples}; accepted: fewer than samples")
        if self.samples % self.chunk:
            raise ValueError(f"samples {self.samples} is not a multiple of chunk {self.chunk}; accepted: one")
        return self


class Speed(Section):
    """How seconds per image are measured: a first batch warms up and is not counted, decoding is counted."""

    batch: Size
    batches: Size = Field(10, description="timed batches after the warm-up batch; the median counts")


class Learning(Section):
    """Samples along each training whose recipe has `evaluate_at`, and their FID against held-out images: a diagnosis.

    The losses on held-out images are measured without this section too.
    """

    samples: Images = Field(description="images drawn with each average that a training kept")
    setting: dict[Name, Name] = Field({}, description="sampling setting by variant; default: the first of the variant")


class Laws(Section):
    """VAR at growing sizes: loss and token error over parameters and over training compute, fitted by power laws."""

    variants: tuple[Name, ...] = Field(min_length=3, description="of one tokenizer, each of another size")

    @model_validator(mode="after")
    def _check(self) -> Laws:
        if len(set(self.variants)) != len(self.variants):
            raise ValueError(f"variants {list(self.variants)}: each entry once is accepted")
        return self


Share = Annotated[float, Field(ge=0.0, le=1.0)]
INPAINTING, OUTPAINTING, CLASS_CHANGE = TASKS = ("in-painting", "out-painting", "class-change")


class Tasks(Section):
    """Zero-shot tasks on held-out images, the same for each of several models (`mar/sampling/tasks.py`)."""

    samples: Images = Field(description="held-out images, equally of each class, on which each task is done once")
    box: tuple[Share, Share, Share, Share] = Field(
        (0.25, 0.25, 0.75, 0.75),
        description="x0, y0, x1, y1 in shares of width and height: what in-painting and class change draw, and "
        "out-painting keeps",
    )
    models: dict[Name, Name] = Field(min_length=1, description="sampling setting by variant")

    @model_validator(mode="after")
    def _check(self) -> Tasks:
        x0, y0, x1, y1 = self.box
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"box {list(self.box)}; accepted: x0 < x1 and y0 < y1")
        return self

    def pixels(self, side: int) -> tuple[int, int, int, int]:
        """The box in pixels of an image of this height and width: left, top, right, bottom."""
        x0, y0, x1, y1 = (round(share * side) for share in self.box)
        return x0, y0, x1, y1

    def drawn(self, tokens: int, side: int, outside: bool) -> int:
        """How many of tokens x tokens are drawn under the protocol `fair`.

        Those with a masked pixel in them or in one of their eight neighbours (`mar.sampling.editing.staying`).

        Args:
            tokens: tokens along one axis.
            side: height and width of the images in pixels.
            outside: whether the box is kept, as for out-painting.
        """
        left, top, right, bottom = self.pixels(side)
        spans = [(i * side // tokens, -(-(i + 1) * side // tokens)) for i in range(tokens)]

        def touched(row: int, column: int) -> bool:
            (a, b), (c, d) = spans[row], spans[column]
            if outside:
                return not (top <= a and b <= bottom and left <= c and d <= right)
            return max(a, top) < min(b, bottom) and max(c, left) < min(d, right)

        masked = {(i, j) for i in range(tokens) for j in range(tokens) if touched(i, j)}
        near = {(i + di, j + dj) for i, j in masked for di in (-1, 0, 1) for dj in (-1, 0, 1)}
        return sum(0 <= i < tokens and 0 <= j < tokens for i, j in near)


class Given(Section):
    """A sample set that others drew, judged as the study's own: as many images of the same size."""

    file: Annotated[str, AfterValidator(os.path.expanduser)] = Field(
        min_length=1,
        description="an .npz (images arr_0, uint8 (N, H, W, 3); classes arr_1, if known), a folder of images, or a "
        "folder of `mar sample`",
    )
    label: Text = Field("", description="what tables and report call it; default: its name")
    sha256: str | None = Field(
        None, pattern=SHA256, description="checksum that the file has to have; without it any is recorded"
    )


class Memory(Section):
    """Memory of the GPU that a study is for, and how many images go through a network at once where it is short.

    By default a model says how many, whatever the GPU (`mar/study/at_once.py`). Another number gives equal images up to
    rounding; it is recorded, and a set that is begun keeps the number that it has.
    """

    gpu_gib: PositiveFloat | None = Field(None, description="GiB of a GPU; a study that does not fit is refused")
    sampling: Size | None = Field(None, description="images whose tokens are drawn at once, at most")
    decode: Size | None = Field(None, description="images that a tokenizer decodes at once, at most")
    encode: Size | None = Field(None, description="images that a tokenizer encodes at once, at most")
    features: Size | None = Field(None, description="images that a network judges at once")


class TableRow(Section):
    """One row of a table: the paper's row and the sets that replicate it, if any, or a row of the study's own."""

    paper: Name | None = Field(None, description="key of the row in config/paper/<table>.csv")
    row: Name | None = Field(None, description="in place of paper: key of a row that the paper does not have")
    label: Text = Field("", description="with row: what the row is called; default: its key")
    variant: Name | None = Field(
        None, description="ours; without one the row shows sets of `given`, or the paper's numbers alone"
    )
    without: Name | None = Field(
        None, description="sampling setting of the columns without guidance; without a variant a set of `given`"
    )
    guided: Name | None = Field(
        None, description="sampling setting of the columns with guidance; without a variant a set of `given`"
    )

    @model_validator(mode="after")
    def _check(self) -> TableRow:
        if (self.paper is None) == (self.row is None):
            found = "both" if self.row else "neither"
            raise ValueError(f"found {found} of paper and row; accepted: one, paper for a row of the paper's table")
        if self.label and not self.row:
            raise ValueError(f"label {self.label!r}: belongs to row; accepted: none, the paper describes its rows")
        if self.row and not self.variant and not self.sets:
            raise ValueError(f"row {self.row}: shows nothing; accepted: a variant, or a set of `given`")
        if self.variant and not self.sets:
            raise ValueError(f"row {self.key}: variant and one of without and guided belong together")
        return self

    @property
    def key(self) -> str:
        """Its key in the paper's table or in the study's own."""
        return str(self.paper or self.row)

    @property
    def sets(self) -> tuple[str, ...]:
        """The settings of the variant that the row shows, or without a variant the sets of `given`."""
        return tuple(dict.fromkeys(name for name in (self.without, self.guided) if name))


class Table(Section):
    """A table of the paper and our rows for it, or a table of the study's own."""

    paper: Name | None = Field(None, description="config/paper/<paper>.csv; none: a table of the study's own rows")
    title: Text
    timed: bool = Field(False, description="measure the seconds per image of its rows, as of the trade-off's points")
    rows: tuple[TableRow, ...]

    @model_validator(mode="after")
    def _check(self) -> Table:
        for row in self.rows:
            if row.paper and self.paper is None:
                raise ValueError(f"row {row.paper}: paper, in a table without paper; accepted: row, a key of your own")
        own = [row.row for row in self.rows if row.row]
        if len(set(own)) < len(own):
            raise ValueError(f"rows {', '.join(own)}: accepted: each key once")
        return self


class OwnClaim(Section):
    """A claim of the study's own, decided like the paper's."""

    id: Name
    text: Text
    source: Text = Field("this study", description="who says so")
    check: dict[str, Any] = Field(
        description="the predicate, as in config/claims.yaml; `table` is one of the paper, or of this study"
    )


class Curve(Section):
    """One curve of a figure: a variant at several sampling settings."""

    label: Text
    variant: Name
    sampling: tuple[Name, ...]


class Modes(Section):
    """Fast sampling modes of one variant, and the setting that each is compared with."""

    variant: Name
    default: Name = Field(description="sampling setting with which each mode is compared")
    modes: tuple[Name, ...] = Field(min_length=1, description="sampling settings: accepted or refused (table fast)")


class GateSide(Section):
    """A tokenizer, and the FID that a model on its tokens has in a pilot."""

    tokenizer: Name
    fid: PositiveFloat


class Gate(Section):
    """What has to hold of the tokenizers before anything is trained on them (`mar/analysis/gate.py`)."""

    crossent: GateSide = Field(description="the tokenizer of ids, and the pilot's FID with cross-entropy")
    diffloss: GateSide = Field(
        description="the tokenizer of continuous tokens, and the pilot's FID with Diffusion Loss"
    )
    floor: NonNegativeFloat = Field(description="the pilot's FID of real images")
    source: Text = Field(description="where the pilot's numbers are from")

    @model_validator(mode="after")
    def _check(self) -> Gate:
        for key in ("crossent", "diffloss"):
            if (fid := getattr(self, key).fid) <= self.floor:
                raise ValueError(f"{key}.fid {fid:g}; accepted: above floor {self.floor:g}")
        return self


class Budget(Section):
    """What a whole study may cost by `mar plan`'s estimate; the workflow refuses to start above it."""

    gpu_hours: PositiveFloat | None = Field(None, description="A100 hours")
    disk_gb: PositiveFloat | None = Field(None, description="results on disk, 1e9 bytes")
