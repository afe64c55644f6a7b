"""What each stage writes down for those after it: one frozen record for every such file.

A file is read by `mar.runtime.files.read(path, Record)` and by nothing else. A key that is added later has a default,
so that finished results stay readable; of a file that a newer version wrote, keys that this one does not know are
passed over.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import FiniteFloat, NonNegativeInt, PositiveInt, StringConstraints

from mar.runtime.files import FileName, Part, Record, Sha256
from mar.runtime.provenance import Provenance
from mar.study.parts import Sampling

# Of a network: the checksum of its file, or `random` where its numbers only prove that the machinery runs.
Weights = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64}|random)$")]


class Piece(Part):
    """One of the files that a set is cut into."""

    file: FileName
    count: PositiveInt
    sha256: Sha256


class Metric(Part):
    """A number with its 95% interval: from how many images, by how many resamples with which seed."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
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


class TokenizerRecord(Record):
    """tokenizers/<name>/config.json: a finished tokenizer."""

    kind: str
    parameters: NonNegativeInt
    net: dict[str, Any]  # diffusers' configuration
    pretrained: dict[str, Any] | None = None
    provenance: Provenance


class ClassifierRecord(Record):
    """classifier/classifier.json: the study's own network that judges."""

    accuracy: FiniteFloat
    split: str
    count: PositiveInt
    classes: tuple[str, ...]
    parameters: PositiveInt
    provenance: Provenance


class TokenManifest(Record):
    """tokens/<tokenizer>/<split>/manifest.json: what the tokens of a split are.

    Attributes:
        kind: moments of a posterior, latents, or ids.
        views: 2 where mirror images are encoded too.
        grid: positions of an image's latents on a side, after grouping.
        tokens: length L of the sequence.
        token_dim: numbers D in a continuous token.
        scale: factor on latents, so that they have unit variance.
        scales: sides of the scales of a multi-scale tokenizer, with `code_width`.
    """

    kind: str
    count: PositiveInt
    classes: PositiveInt
    class_names: tuple[str, ...]
    views: PositiveInt
    grid: PositiveInt
    tokens: PositiveInt
    group: PositiveInt
    tokenizer: Sha256
    data: Sha256
    token_dim: PositiveInt | None = None
    scale: FiniteFloat | None = None
    codebook_size: PositiveInt | None = None
    scales: tuple[PositiveInt, ...] | None = None
    code_width: PositiveInt | None = None
    quantizer_sha256: Sha256 | None = None
    labels_sha256: Sha256
    shards: tuple[Piece, ...]


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
    pretrained: dict[str, Any] | None = None
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
    role: str  # generated or real
    source: ImageSource | None  # None: statistics alone
    count: NonNegativeInt
    keys: tuple[str, ...]
    parts: tuple[Piece, ...]
    provenance: Provenance


class JudgedBy(Part):
    """One of the networks that judged a set, and the real side of its numbers."""

    weights: Weights
    note: str
    reference: RealSide


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
    recipe: dict[str, Any]
    provenance: Provenance


class SweepPoint(Part):
    """A point of a grid: its numbers, or the error that kept it from having any."""

    guidance: FiniteFloat
    temperature: FiniteFloat
    round: NonNegativeInt  # 0: the grid; 1, 2, ...: refinements around the best point
    fid: Metric | None = None
    inception_score: Metric | None = None
    error: str | None = None


class SweepPlace(Part):
    """Guidance scale and temperature."""

    guidance: FiniteFloat
    temperature: FiniteFloat


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
    recipe: dict[str, Any]
    provenance: Provenance


class Range(Part):
    """The median of timed batches, the fastest and the slowest."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class Timing(Part):
    """One timed setting."""

    seconds_per_image: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    head_share: Range | None = None  # None: of before it was measured
    steps: PositiveInt


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


class SpeedRecord(Record):
    """speed/<variant>.json: seconds per image of a variant at each timed setting."""

    variant: str
    protocol: TimingProtocol
    points: dict[str, Timing]
    checkpoint: Sha256
    recipe: dict[str, Any]
    provenance: Provenance


class Rebuilt(Part):
    """What a tokenizer loses on one split."""

    metrics: dict[str, Metric]
    split: str
    count: PositiveInt


class RfidRecord(Record):
    """tokenizers/<name>/rfid.json: what a tokenizer loses on the held-out split, and on the train split."""

    metrics: dict[str, Metric]  # of the held-out split, as `split` and `count`
    split: str
    count: PositiveInt
    train: Rebuilt | None = None  # None: of before it was measured
    extractor: str
    reference: RealSide
    inputs: dict[str, str]
    provenance: Provenance


class JudgeCosts(Part):
    """A network that judges: operations for one image, and how many numbers of each kind it keeps of it."""

    parameters: NonNegativeInt
    forward: FiniteFloat
    features: PositiveInt
    logits: NonNegativeInt = 0
    spatial: NonNegativeInt = 0


class TokenizerCosts(Part):
    """Operations of a tokenizer for one image: to encode it, to decode it, and with it in training."""

    parameters: NonNegativeInt
    encode: FiniteFloat
    decode: FiniteFloat
    training: FiniteFloat


class VariantCosts(Part):
    """Operations of a variant for one image: in training, and to draw its tokens at each setting."""

    parameters: PositiveInt
    training: FiniteFloat
    sampling: dict[str, FiniteFloat]


class PlanRecord(Record):
    """plan.json: what `mar plan` has counted; `key` is a checksum of the study's parts and of the code behind it."""

    key: Sha256
    judges: dict[str, JudgeCosts]
    tokenizers: dict[str, TokenizerCosts]
    variants: dict[str, VariantCosts]


class TrackedRuns(Record):
    """mlflow.json: which run of MLflow is which folder, by its path below the results."""

    experiment: str
    runs: dict[str, str]
    server: str = ""  # URI; none where a file holds the runs
