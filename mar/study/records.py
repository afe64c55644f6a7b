"""What each stage writes down for those after it: one frozen record for every such file.

A file is read by `mar.runtime.files.read(path, Record)` and by nothing else. A key that is added later has a default,
so that finished results stay readable; of a file that a newer version wrote, keys that this one does not know are
passed over.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    RootModel,
    StringConstraints,
    model_validator,
)

from mar.runtime.files import FileName, Part, Record, Sha256
from mar.runtime.provenance import Provenance
from mar.study.parts import Sampling

# Of a network: the checksum of its file, or `random` where its numbers only prove that the machinery runs.
Weights = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64}|random)$")]


# Side of a comparison that images belong to.
Role = Annotated[str, StringConstraints(pattern=r"^(generated|real)$")]

Ruling = Annotated[
    str, StringConstraints(pattern=r"^(replicated|not replicated|inconclusive|not run|not decidable here)$")
]


class Piece(Part):
    """One of the files that a set is cut into."""

    file: FileName
    count: PositiveInt
    sha256: Sha256


def _check_count(count: int, pieces: tuple[Piece, ...]) -> None:
    if count != (held := sum(piece.count for piece in pieces)):
        raise ValueError(f"count: found {count}; accepted: {held}, as its pieces hold together")


class Range(Part):
    """A number between the ends of its interval; of timed batches the median, the fastest and the slowest."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self


class Metric(Range):
    """A number with its 95% interval: from how many images, by how many resamples with which seed."""

    n: NonNegativeInt
    bootstrap: NonNegativeInt
    seed: int
    higher_is_better: bool | None


class RealSide(Part):
    """The real images that a number compares with."""

    name: str
    sha256: Sha256
    note: str = ""


class Split(Part):
    """How many images a split has, and how many of each class."""

    count: NonNegativeInt
    per_class: tuple[NonNegativeInt, ...]


class Skipped(Part):
    """A file that is no readable image."""

    file: str
    reason: str


class DataManifest(Record):
    """data/manifest.json: what `mar prepare` found."""

    kind: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    files: Sha256  # of the list of readable files
    skipped: tuple[Skipped, ...]
    image_size: PositiveInt
    flip: bool
    listing: str  # checksum of all names, classes and sizes; `sklearn` of digits


Entry = tuple[str, int, int]  # an image file: path relative to the root of the data, class, bytes


class FileLists(Record):
    """data/files.json: the readable image files of each split."""

    train: tuple[Entry, ...]
    heldout: tuple[Entry, ...]


class LockedFile(Part):
    """What a published file without a published checksum was at its first fetch."""

    sha256: Sha256
    size: NonNegativeInt
    url: str


class LockedFiles(RootModel[dict[str, LockedFile]]):
    """assets/lock.json: fetched files by name."""

    model_config = ConfigDict(frozen=True, strict=True)


class ImportedFile(Part):
    """The file that weights were imported from."""

    file: str
    sha256: Sha256
    size: NonNegativeInt


class Origin(Part):
    """Where imported weights are from: format, file, row of config/assets.csv (none of a file of one's own)."""

    format: str
    source: ImportedFile
    asset: str | None
    licence: str | None


class ImportCounts(Part):
    """How many tensors an import took and left."""

    mapped: NonNegativeInt
    dropped: NonNegativeInt


class ImportRecord(Part):
    """assets/<name>.json: imported weights, beside them as safetensors. Its `format` is that of the published file."""

    format: str
    source: ImportedFile
    asset: str | None
    licence: str | None
    sha256: Sha256
    architecture: dict[str, str | bool | int | float | list[int] | None]
    parameters: NonNegativeInt
    counts: ImportCounts
    tensors: dict[str, str]  # by our names: published name, shape and number type
    dropped: dict[str, str]  # by published names: why
    beside: dict[str, str]  # what else the file holds
    provenance: Provenance

    @property
    def origin(self) -> Origin:
        """What the record of a study's own network keeps of it."""
        return Origin(format=self.format, source=self.source, asset=self.asset, licence=self.licence)


class TokenizerRecord(Record):
    """tokenizers/<name>/config.json: a finished tokenizer."""

    kind: str
    parameters: NonNegativeInt
    net: dict[str, Any]  # diffusers' configuration
    pretrained: Origin | None = None
    provenance: Provenance


class ClassifierRecord(Record):
    """classifier/classifier.json: the study's own network that judges."""

    accuracy: FiniteFloat
    split: str
    count: PositiveInt
    classes: tuple[str, ...]
    parameters: PositiveInt
    provenance: Provenance


class Tokens(Record):
    """What the tokens of a split are, whichever files hold them.

    Attributes:
        kind: moments of a posterior, latents, or ids.
        views: 2 where mirror images are encoded too.
        grid: positions of an image's latents on a side, after grouping.
        tokens: length L of the sequence.
        scales: sides of the scales of a multi-scale tokenizer, with `code_width`.
        codebook_size: number of ids; 0 with continuous tokens.
        token_dim: numbers D in a continuous token; 0 with ids.
    """

    kind: Literal["moments", "latents", "ids"]
    count: PositiveInt
    classes: PositiveInt
    class_names: tuple[str, ...]
    views: PositiveInt
    grid: PositiveInt
    tokens: PositiveInt
    group: PositiveInt
    tokenizer: Sha256
    data: Sha256
    scales: tuple[PositiveInt, ...] = ()
    code_width: NonNegativeInt = 0
    codebook_size: NonNegativeInt = 0
    token_dim: NonNegativeInt = 0


class TokenManifest(Tokens):
    """tokens/<tokenizer>/<split>/manifest.json: the tokens of a split and their files.

    Attributes:
        quantizer_sha256: of the quantiser that lies beside the ids of a multi-scale tokenizer.
        scale: factor on latents, so that they have unit variance; 0 with ids.
    """

    quantizer_sha256: Sha256 | None = None
    labels_sha256: Sha256
    shards: tuple[Piece, ...]
    scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> TokenManifest:
        needed = ["codebook_size"] if self.kind == "ids" else ["token_dim", "scale"]
        needed += ["code_width", "quantizer_sha256"] if self.scales else []
        if missing := [key for key in needed if not getattr(self, key)]:
            raise ValueError(f"found kind {self.kind} without {', '.join(missing)}")
        return self


class RunRecord(Record):
    """runs/<variant>/seed<k>/run.json: a finished training, or imported weights in its place (`pretrained`)."""

    variant: str
    seed: int
    parameters: PositiveInt
    head_parameters: NonNegativeInt | None = None  # None: of before they were counted
    images: NonNegativeInt
    seconds: FiniteFloat
    restarts: NonNegativeInt
    final_loss: FiniteFloat | None = None
    processes: PositiveInt = 1
    checkpoint: Sha256  # of the averaged weights
    tokens: Sha256  # of the manifest of its tokens
    pretrained: Origin | None = None
    provenance: Provenance


class SampleManifest(Record):
    """samples/<variant>/seed<k>/<setting>/manifest.json: a whole sample set."""

    variant: str
    seed: int
    setting: str
    count: PositiveInt
    chunks: tuple[Piece, ...]
    labels_sha256: Sha256 | None = None
    checkpoint: Sha256
    tokenizer: Sha256
    sampling: Sampling  # with the guidance scale and temperature used
    seconds: FiniteFloat
    provenance: Provenance

    @model_validator(mode="after")
    def _counted(self) -> Self:
        _check_count(self.count, self.chunks)
        return self


class Judge(Part):
    """A network whose features judge."""

    name: str
    weights: Weights
    note: str


class ImageSource(Part):
    """A set of images: which kind of place, and its checksum."""

    kind: str
    name: str
    sha256: Sha256


class FeaturesManifest(Record):
    """features/<extractor>/<set>/manifest.json: the features of a set of images by one network."""

    extractor: Judge
    role: Role
    source: ImageSource | None  # None: statistics alone
    count: NonNegativeInt
    keys: tuple[str, ...]
    parts: tuple[Piece, ...]
    provenance: Provenance

    @model_validator(mode="after")
    def _counted(self) -> Self:
        _check_count(self.count, self.parts)
        return self


class JudgedBy(Part):
    """One of the networks that judged a set, and the real side of its numbers."""

    weights: Weights
    note: str
    reference: RealSide


class StatisticsRecord(Record):
    """The text `about` inside statistics/<extractor>/<set>.npz: what its mean and covariance are of."""

    extractor: Judge
    role: Role
    source: ImageSource
    n: NonNegativeInt  # images; 0 where a reference does not say
    note: str = ""
    features: Sha256  # of the manifest of the features
    arrays: Sha256 | None = None  # of mean and covariance themselves; None: of before it was recorded


class MetricsRecipe(Part):
    """What the numbers of a metric file depend on: where it is another one, they are measured again."""

    slice: str
    inputs: dict[str, str]


class MetricsFile(Record):
    """metrics/<set>.json: every number of a sample set, or of `reference`, the held-out images."""

    variant: str = ""
    seed: int = 0
    setting: str = ""
    samples: PositiveInt
    extractor: str  # the main one
    extractors: dict[str, JudgedBy]
    reference: RealSide
    notes: tuple[str, ...] = ()
    metrics: dict[str, Metric]
    inputs: dict[str, str]  # checksums
    recipe: MetricsRecipe
    provenance: Provenance


class SweepPlace(Part):
    """Guidance scale and temperature."""

    guidance: FiniteFloat
    temperature: FiniteFloat


class SweepNumbers(Part):
    """The numbers of one point, or the error that kept it from having any."""

    fid: Metric | None = None
    inception_score: Metric | None = None
    error: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.fid is None) == (self.error is None):
            raise ValueError("found neither fid nor error, or both; accepted: one of them")
        return self


class SweepPointRecord(Record, SweepNumbers):
    """sweeps/<variant>/<setting>/guidance<g>-temperature<t>.json: one point, as soon as it is judged."""


class SweepPoint(SweepPlace, SweepNumbers):
    """A point of a grid. Round 0 is the grid; 1, 2, ... are refinements around the best point."""

    round: NonNegativeInt


class SweepRecipe(Part):
    """What the points of a sweep depend on, and where one of it is another, they are judged again."""

    slice: str
    checkpoint: Sha256  # of the weights that drew the images
    tokens: Sha256  # of the manifest of the tokens
    weights: Weights  # of the network that judged
    real: Sha256  # of the statistics of the real side


class SweepRecord(Record):
    """sweeps/<variant>/<setting>.json: the whole grid, and the point that was chosen."""

    variant: str
    setting: str
    seed: int
    samples: PositiveInt
    extractor: str
    reference: RealSide
    grid: tuple[SweepPoint, ...]
    best: SweepPlace
    edge: tuple[str, ...]  # axes at whose end the best point lies
    recipe: SweepRecipe
    provenance: Provenance

    @model_validator(mode="after")
    def _best_is_judged(self) -> Self:
        judged = {(point.guidance, point.temperature) for point in self.grid if point.fid is not None}
        if (self.best.guidance, self.best.temperature) not in judged:
            raise ValueError(
                f"best: guidance {self.best.guidance:g}, temperature {self.best.temperature:g} is no point of `grid` "
                "that has a FID"
            )
        return self


class Timing(Part):
    """One timed setting. Low and high are of the seconds per image."""

    seconds_per_image: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    head_share: Range | None = None  # None: of before it was measured
    steps: PositiveInt

    @property
    def seconds(self) -> Range:
        """Seconds per image with the measured range."""
        return Range(value=self.seconds_per_image, low=self.low, high=self.high)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0 < self.low <= self.high or self.seconds_per_image <= 0:
            raise ValueError("found seconds that are not positive, or low above high")
        return self


class TimingProtocol(Part):
    """What timings must share to be compared."""

    batch: PositiveInt
    batches: PositiveInt
    warmup_batches: NonNegativeInt
    threads: PositiveInt | None
    dtype: str
    device: str
    machine: str
    torch: str
    decode: bool

    @property
    def compared(self) -> tuple[str, str, int | None, int]:
        """What two protocols must share, so that their timings decide about each other."""
        return self.device, self.machine, self.threads, self.batch


class SpeedRecipe(Part):
    """What the timings of a variant depend on: where it is another one, they are measured again."""

    speed: str  # of the study
    threads: PositiveInt
    checkpoint: Sha256
    chosen: dict[str, tuple[float, float]] = Field(
        default_factory=dict
    )  # guidance scale and temperature of each swept setting


class SpeedRecord(Record):
    """speed/<variant>.json: seconds per image of a variant at each timed setting."""

    variant: str
    protocol: TimingProtocol
    points: dict[str, Timing]
    checkpoint: Sha256
    recipe: SpeedRecipe
    provenance: Provenance


class Rebuilt(Part):
    """What a tokenizer loses on one split."""

    metrics: dict[str, Metric]
    split: str
    count: PositiveInt

    @model_validator(mode="after")
    def _has_rfid(self) -> Self:
        if "rfid" not in self.metrics:
            raise ValueError(f"metrics: rfid is missing; found {', '.join(self.metrics) or 'none'}")
        return self


class RfidInputs(Part):
    """What the numbers of a tokenizer depend on: where it is another one, they are measured again."""

    reference: str  # checksum of the real images
    extractor: Weights
    tokenizer: Sha256
    slice: str


class RfidRecord(Record, Rebuilt):
    """tokenizers/<name>/rfid.json: what a tokenizer loses on the held-out split, and on the train split."""

    train: Rebuilt | None = None  # None: of before it was measured
    extractor: str
    reference: RealSide
    inputs: RfidInputs
    provenance: Provenance


class Evidence(Part):
    """One number that a verdict rests on: where it is from. A training has no setting."""

    variant: str
    setting: str | None
    metric: str
    seeds: tuple[int, ...]
    files: tuple[str, ...]  # below the results folder


class Verdict(Part):
    """One claim of the paper, judged.

    Attributes:
        decides: which studies can decide it, `any` or `imagenet`, `because` of what.
        effect: of the comparison that shows it with its interval, log ratio or difference by `scale`; None where
            nothing was compared.
        seeds: how many training seeds each side of that comparison has.
        one_seed: a comparison with one training seed on a side was left open; None of before it was recorded.
    """

    id: str
    text: str
    source: str
    decides: str
    because: str
    verdict: Ruling
    effect: FiniteFloat | None
    low: FiniteFloat | None
    high: FiniteFloat | None
    scale: str | None
    reason: str
    seeds: tuple[NonNegativeInt, ...]
    one_seed: bool | None = None
    evidence: tuple[Evidence, ...] = ()

    @property
    def shown(self) -> str:
        """The verdict as it is printed, one seed said."""
        one = 1 in self.seeds if self.one_seed is None else self.one_seed
        return self.verdict + " (1 seed)" * (one and self.verdict == "inconclusive")


class Verdicts(RootModel[tuple[Verdict, ...]]):
    """claims.json: a list, an entry for each claim."""

    model_config = ConfigDict(frozen=True, strict=True)


def without_password(text: str) -> str:
    """A text without user and password in its addresses: `http://user:word@host` becomes `http://host`."""
    return re.sub(r"(?<=://)\S*@", "", text)


class TrackedRuns(Record):
    """mlflow.json: which run of MLflow is which folder, by its path below the results."""

    experiment: str  # its id in MLflow; empty where MLflow failed before there was one
    runs: dict[str, str]  # ids by folder; without those that MLflow failed to take
    server: Annotated[str, AfterValidator(without_password)] = ""  # URI; empty where a file holds the runs


Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class StageCost(Part):
    """What one stage of a shape took; gigabytes are 10^9 bytes."""

    stage: str
    seconds: Cost
    cpu_seconds: Cost
    memory_gb: Cost  # that the process held itself
    resident_gb: Cost  # with the files that it had mapped
    disk_gb: Cost
    note: str


class ShapeRecord(Record):
    """drill/shapes/<shape>.json: one shape of a study, run once at its true size."""

    shape: str
    covers: tuple[str, ...]  # tokenizers or variants of this shape
    parameters: NonNegativeInt
    stages: tuple[StageCost, ...]
    machine: str
    provenance: Provenance


class DrillRecord(Record):
    """drill/drill.json: all shapes of a study."""

    study: str
    notes: tuple[str, ...]
    shapes: tuple[ShapeRecord, ...]
