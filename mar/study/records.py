"""What each stage writes for the stages after it: one frozen record for each such file.

The records stand in the order in which the stages run, after what several of them share, each after its own parts.
These files are read by `mar.runtime.files.read(path, Record)` and by nothing else. A key that is added later has a
default, so that finished results stay readable; unknown keys, which a newer version may have written, are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    RootModel,
    StringConstraints,
    model_validator,
)

from mar.runtime.files import FileName, Manifest, Part, Record, Sha256
from mar.runtime.provenance import Provenance
from mar.study.parts import Sampling

# The weights of a network: the checksum of their file, or `random`, which serves tests of the program alone.
Weights = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64}|random)$")]

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # finite, not negative
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]  # of what was timed
Fraction = Annotated[float, Field(ge=0, le=1)]

# Whether images are generated ones or the real ones that they are compared with.
Role = Annotated[str, StringConstraints(pattern=r"^(generated|real)$")]

# The verdict on a claim.
Ruling = Annotated[
    str, StringConstraints(pattern=r"^(replicated|not replicated|undecided|not run|not decidable here)$")
]


# What an undecided claim lacks (see Missing).
Lack = Literal["interval", "one seed", "recites", "trained unequally", "still learning", "protocol"]


class Piece(Part):
    """One of the files that hold a set: its name, how many items it has, and its checksum."""

    file: FileName
    count: PositiveInt
    sha256: Sha256


def _check_count(count: int, pieces: tuple[Piece, ...]) -> None:
    if count != (held := sum(piece.count for piece in pieces)):
        raise ValueError(f"count: found {count}; accepted: {held}, as its pieces hold together")


class Range(Part):
    """A number and the ends of its interval; of timed batches: the median, the fastest and the slowest."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        slack = 1e-9 * max(abs(self.low), abs(self.high), abs(self.value))  # sums in another order differ by rounding
        if not self.low - slack <= self.value <= self.high + slack:
            raise ValueError(f"value {self.value:g} is outside of its interval, low {self.low:g} to high {self.high:g}")
        return self


class Metric(Range):
    """A metric with its 95% interval.

    Attributes:
        n: number of images that it was computed from.
        bootstrap: number of resamples behind the interval.
        seed: seed of the resamples.
        higher_is_better: None where neither is better.
    """

    n: NonNegativeInt
    bootstrap: NonNegativeInt
    seed: int
    higher_is_better: bool | None


# The least and the largest value of a metric that images can have, by its name, and how far rounding may miss them.
_SHARE, _FROM_ONE, _DISTANCE, _ANY = (0.0, 1.0, 1e-6), (1.0, 1e9, 1e-6), (0.0, 1e9, 0.1), (-1e9, 1e9, 0.0)
_POSSIBLE = {
    **dict.fromkeys(("precision", "recall", "agreement", "codebook_usage"), _SHARE),
    **dict.fromkeys(("inception_score", "perplexity"), _FROM_ONE),
    **dict.fromkeys(("rfid", "floor", "sfid"), _DISTANCE),
    **dict.fromkeys(("kid", "fid_infinity"), _ANY),  # unbiased estimates, which may be below 0
}


def _check_possible(metrics: Mapping[str, Metric | None], within: str = "") -> None:
    """Refuse values that no images can have, such as a share above 1 or a Frechet distance below 0.

    `within` is the beginning of the key that a message names.
    """
    for name, metric in metrics.items():
        least, largest, slack = _POSSIBLE.get(name, _DISTANCE if name.startswith("fid") else _ANY)
        if metric is not None and not least - slack <= metric.value <= largest + slack:
            raise ValueError(f"{within}{name}: found {metric.value:g}; accepted: {least:g} to {largest:g}")


class RealSide(Part):
    """The real images that a metric compares with: name and checksum of the set, and a note for readers."""

    name: str
    sha256: Sha256
    note: str = ""


class Judge(Part):
    """An extractor: name and weights of the network, and a note for readers."""

    name: str
    weights: Weights
    note: str


class ImageSource(Part):
    """A set of images: kind and name of where it is from, and its checksum."""

    kind: str
    name: str
    sha256: Sha256


class LockedFile(Part):
    """A published file at its first download, which later ones must equal: for files without a published checksum."""

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
    """Where imported weights are from.

    Attributes:
        format: format of the published file, as `mar import` names it.
        source: the published file.
        asset: its row in config/assets.csv; None for a user's own file.
        licence: its licence, where config/assets.csv has one.
    """

    format: str
    source: ImportedFile
    asset: str | None
    licence: str | None


class ImportCounts(Part):
    """How many tensors of a published file an import took (`mapped`) and left out (`dropped`)."""

    mapped: NonNegativeInt
    dropped: NonNegativeInt


class ImportRecord(Origin):
    """assets/<name>.json: describes the imported weights in assets/<name>.safetensors.

    Attributes:
        sha256: checksum of the safetensors file.
        architecture: values of the sections of a study that fit these weights.
        parameters: number of parameters.
        counts: number of tensors that were taken and left out.
        tensors: published name, shape and number type of each tensor, by our name.
        dropped: why a tensor was left out, by its published name.
        beside: what else the published file holds.
    """

    sha256: Sha256
    architecture: dict[str, str | bool | int | float | list[int] | None]
    parameters: NonNegativeInt
    counts: ImportCounts
    tensors: dict[str, str]
    dropped: dict[str, str]
    beside: dict[str, str]
    provenance: Provenance

    @property
    def origin(self) -> Origin:
        """The part of this record that a tokenizer or run with these weights keeps."""
        return Origin(format=self.format, source=self.source, asset=self.asset, licence=self.licence)


class Split(Part):
    """How many images a split has in all and of each class."""

    count: NonNegativeInt
    per_class: tuple[NonNegativeInt, ...]


class Skipped(Part):
    """A file that is no readable image."""

    file: str
    reason: str


class DataManifest(Manifest):
    """data/manifest.json: the images that `mar prepare` found.

    Attributes:
        kind: `data.kind` of the study.
        classes: names of the classes; the index of a name is the label.
        splits: counts of `train` and `heldout`.
        files: checksum of the list of readable files.
        skipped: files that are no readable images.
        image_size: side of an image in pixels.
        flip: whether mirror images are encoded too.
        listing: checksum of the names, classes and sizes of all files; `sklearn` for digits.
        pixels: checksum of the pixels of all images with their classes and splits, wherever they lie and whatever they
            are called; none of digits and Fashion-MNIST, which are known.
    """

    kind: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    files: Sha256
    skipped: tuple[Skipped, ...]
    image_size: PositiveInt
    flip: bool
    listing: str
    pixels: Sha256 | None = None


Entry = tuple[str, int, int]  # an image file: path relative to the root of the data, label of the class, size in bytes
# Where an image lies in an archive: number of the archive, first byte, number of bytes, 1 if they are deflated, else 0.
Place = tuple[int, int, int, int]


class FileLists(Record):
    """data/files.json: the readable image files of each split.

    Attributes:
        train: files of the train split.
        heldout: files of the held-out split.
        crc: CRC-32 of each file, by split.
        archives: names of the archive files below data.path.
        places: where each file lies in them, by split; none for a folder of files.
    """

    train: tuple[Entry, ...]
    heldout: tuple[Entry, ...]
    crc: dict[str, tuple[NonNegativeInt, ...]] = Field({})
    archives: tuple[str, ...] = ()
    places: dict[str, tuple[Place, ...]] = Field({})


class ArraysRecord(Record):
    """data/arrays.json: the checksum of digits.npz or idx.npz; missing in folders of older versions."""

    sha256: Sha256


class ClassifierRecord(Record):
    """classifier/classifier.json: the finished classifier, whose accuracy is that on `count` images of `split`."""

    accuracy: Fraction
    split: str
    count: PositiveInt
    classes: tuple[str, ...]
    parameters: PositiveInt
    provenance: Provenance


class RejecterRecord(Record):
    """rejecter/classifier.json: the network that rejects drawn images; its accuracy is that on `count` of `split`.

    Attributes:
        learned_from: the held-out images that it is trained on.
    """

    accuracy: Fraction
    split: str
    count: PositiveInt
    learned_from: str
    classes: tuple[str, ...]
    parameters: PositiveInt
    provenance: Provenance


class TokenizerRecord(Record):
    """tokenizers/<name>/config.json: a finished tokenizer."""

    kind: str
    parameters: NonNegativeInt
    net: dict[str, Any]  # configuration of the network for diffusers
    pretrained: Origin | None = None
    provenance: Provenance


class Tokens(Manifest):
    """The tokens of a split, in whichever files they are.

    Attributes:
        kind: mean and log variance of a posterior (`moments`), latents, or ids.
        count: number of images, mirror images not counted.
        classes: number of classes.
        views: 2 where mirror images are encoded too, else 1.
        grid: side of the square grid of tokens of an image.
        tokens: length L of the sequence.
        group: group x group latent positions make one token.
        tokenizer: checksum of the weights of the tokenizer.
        data: checksum of the manifest of the data.
        scales: sides of the scales of a multi-scale tokenizer.
        code_width: length of a code of a multi-scale tokenizer.
        codebook_size: number of ids; 0 with continuous tokens.
        token_dim: length D of a continuous token; 0 with ids.
        encoded_at_once: images that were encoded at once; None for as many as the tokenizer takes by default.
    """

    kind: Literal["moments", "latents", "ids"]
    count: NonNegativeInt
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
    encoded_at_once: PositiveInt | None = None


class TokenManifest(Tokens):
    """tokens/<tokenizer>/<split>/manifest.json: the tokens of a split and their files.

    Attributes:
        quantizer_sha256: checksum of the quantiser in the same folder, with ids of a multi-scale tokenizer.
        labels_sha256: checksum of the labels.
        shards: the files of the tokens.
        scale: factor on latents that gives them unit variance; 0 with ids.
    """

    quantizer_sha256: Sha256 | None = None
    labels_sha256: Sha256
    shards: tuple[Piece, ...]
    scale: Amount = 0.0

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> TokenManifest:
        needed = ["codebook_size"] if self.kind == "ids" else ["token_dim", "scale"]
        needed += ["code_width", "quantizer_sha256"] if self.scales else []
        if missing := [key for key in needed if not getattr(self, key)]:
            raise ValueError(f"found kind {self.kind} without {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _numbers_agree(self) -> Self:
        length = sum(side**2 for side in self.scales or (self.grid,))
        channels, rest = divmod(self.token_dim, self.group**2)
        if self.tokens != length:
            raise ValueError(f"tokens: found {self.tokens}; accepted: {length}, as its grid or its scales have")
        if self.scales and self.scales[-1] != self.grid:
            raise ValueError(f"grid: found {self.grid}; accepted: {self.scales[-1]}, the last of its scales")
        if self.kind != "ids" and (rest or not channels):
            raise ValueError(
                f"token_dim: found {self.token_dim}; accepted: a multiple of {self.group**2}, group squared"
            )
        if self.views > 2:
            raise ValueError(f"views: found {self.views}; accepted: 1, or 2 with mirror images")
        if len(self.class_names) != self.classes:
            raise ValueError(f"classes: found {self.classes}; accepted: {len(self.class_names)}, as class_names has")
        if len(set(piece.file for piece in self.shards)) != len(self.shards):
            raise ValueError("shards: found a file twice; accepted: each once")
        _check_count(self.count, self.shards)
        return self


class RunRecord(Record):
    """runs/<variant>/seed<k>/run.json: a finished training, or imported weights in its place (`pretrained`).

    Attributes:
        seed: training seed.
        parameters: number of parameters, those of the head included.
        head_parameters: number of parameters of the head; None in files from before they were counted.
        images: images seen in training.
        seconds: time of the training in all.
        restarts: how often it was resumed.
        final_loss: training loss at its end.
        processes: number of processes that shared a batch.
        sharding: full where its state was split among them, when it ended.
        checkpoint: checksum of the averaged weights.
        averages: checksum of the average after so many images, for each that was kept on the way.
        tokens: checksum of the manifest of its tokens.
    """

    place: ClassVar[str] = r"runs/(?P<variant>[^/]+)/seed(?P<seed>\d+)/run\.json"
    variant: str
    seed: int
    parameters: PositiveInt
    head_parameters: NonNegativeInt | None = None
    images: NonNegativeInt
    seconds: Amount
    restarts: NonNegativeInt
    final_loss: FiniteFloat | None = None
    processes: PositiveInt = 1
    sharding: Literal["none", "full"] = "none"
    checkpoint: Sha256
    averages: dict[str, Sha256] = Field(default_factory=dict)
    tokens: Sha256
    pretrained: Origin | None = None
    provenance: Provenance


class LearningPoint(Part):
    """A training after some images, by the weight average that it kept there.

    Attributes:
        checkpoint: checksum of the average.
        heldout: the training's loss on held-out images, by the share of tokens that is masked, as in `0.25`, or `all`.
        train: the same on as many training images.
        fid: FID of images drawn with the average against held-out ones; None where none were asked, or see `error`.
        error: why the images have no FID.
        scales: of VAR, on held-out images: `loss last` and `loss all`, the cross-entropy in nats a token of the last
            scale and of all, and `error last` and `error all`, the share of tokens that are not the likeliest.
    """

    images: PositiveInt
    checkpoint: Sha256
    heldout: dict[str, Metric]
    train: dict[str, Metric]
    fid: Metric | None = None
    inception_score: Metric | None = None
    error: str = ""
    scales: dict[str, Metric] = Field({})

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _check_possible({"fid": self.fid, "inception_score": self.inception_score})
        return self


class Fall(Part):
    """How FID changed in the last quarter of a training: log(FID at the end / FID after `since` images).

    Attributes:
        effect: the log ratio; below 0 where FID fell.
        error: its standard error by the images, which both points draw with the same random numbers.
    """

    since: PositiveInt
    effect: FiniteFloat
    error: Amount


class LearningRecipe(Part):
    """What the curves of a training depend on; when any of it changes, they are measured again."""

    slice: str  # stage key
    inputs: dict[str, str]  # checksum of each input, by its name


class LearningRecord(Record):
    """runs/<variant>/seed<k>/learning.json: losses, and where asked FID, along a training.

    Attributes:
        seed: training seed.
        split: the held-out images.
        operations: operations of one image in training, backward included, without what checkpointing does again.
        setting: sampling setting of the images that were drawn; None where none were asked.
        sampling: the setting, with the guidance scale and temperature that were used.
        samples: number of images drawn at each point.
        extractor: network whose features FID compares.
        drawn_at_once: images of a chunk whose tokens were drawn at once; None in older files, where it is all of them.
        fall: change of FID in the last quarter; None without samples there.
        pictures: checksum of the picture beside it, with a row of images for each point; None where none was asked.
    """

    place: ClassVar[str] = r"runs/(?P<variant>[^/]+)/seed(?P<seed>\d+)/learning\.json"
    variant: str
    seed: int
    split: str
    operations: Amount
    setting: str | None = None
    sampling: Sampling | None = None
    samples: NonNegativeInt = 0
    extractor: str = ""
    drawn_at_once: PositiveInt | None = None
    points: Annotated[tuple[LearningPoint, ...], Field(min_length=1)]
    fall: Fall | None = None
    pictures: Sha256 | None = None
    recipe: LearningRecipe
    provenance: Provenance


class Change(Part):
    """A log ratio of two FIDs of as many images, and its standard error by the images."""

    effect: FiniteFloat
    error: Amount


class TaskDone(Part):
    """One zero-shot task on held-out images, by one model (`mar/sampling/tasks.py` says what is measured).

    Attributes:
        drawn: share of the tokens, of VAR those of its last scale, that are drawn.
        fits: log(FID / FID with what was drawn for other images); below 0 where the drawn part fits its surroundings.
    """

    task: str
    drawn: Fraction
    metrics: dict[str, Metric]
    fits: Change

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _check_possible(self.metrics, "metrics.")
        return self


class TasksRecord(Record):
    """tasks/<variant>/seed<k>/tasks.json: what a model did in the zero-shot tasks, and how well.

    Attributes:
        seed: training seed.
        setting: sampling setting.
        sampling: the setting, with the guidance scale and temperature that were used.
        protocol: which tokens stay (`mar/sampling/editing.py`).
        split: the held-out images.
        count: number of images, the same of each task.
        box: x0, y0, x1, y1 in shares of width and height.
        extractor: network that judges.
        reference: the real images that FID compares with.
        files: the pictures.
        measures: checksum of the numbers of each image.
        slice: stage key.
        inputs: checksums of real images and judge.
    """

    place: ClassVar[str] = r"tasks/(?P<variant>[^/]+)/seed(?P<seed>\d+)/tasks\.json"
    variant: str
    seed: int
    setting: str
    sampling: Sampling
    protocol: str
    split: str
    count: PositiveInt
    box: tuple[Fraction, Fraction, Fraction, Fraction]
    extractor: Judge
    reference: RealSide
    tasks: tuple[TaskDone, ...]
    files: tuple[Piece, ...]
    measures: Sha256
    slice: str
    inputs: dict[str, str]
    provenance: Provenance


class FeaturesManifest(Manifest):
    """features/<extractor>/<set>/manifest.json: the features of a set of images by one network.

    Attributes:
        extractor: the network.
        role: whether the images are generated or real.
        source: the images; None where only the statistics of their features are known.
        count: number of images.
        keys: names of the arrays in each file.
        judged_at_once: images that the network was shown at once; None in older files.
        parts: the files of the features.
    """

    extractor: Judge
    role: Role
    source: ImageSource | None
    count: NonNegativeInt
    keys: tuple[str, ...]
    judged_at_once: PositiveInt | None = None
    parts: tuple[Piece, ...]
    provenance: Provenance

    @model_validator(mode="after")
    def _counted(self) -> Self:
        _check_count(self.count, self.parts)
        return self


class StatisticsRecord(Record):
    """The text `about` in statistics/<extractor>/<set>.npz: the features of which it has mean and covariance.

    Attributes:
        n: number of images; 0 where a published reference does not tell.
        features: checksum of the manifest of the features.
        arrays: checksum of mean and covariance; None in files from before it was recorded.
    """

    extractor: Judge
    role: Role
    source: ImageSource
    n: NonNegativeInt
    note: str = ""
    features: Sha256
    arrays: Sha256 | None = None


class Rebuilt(Part):
    """Reconstruction metrics of a tokenizer on `count` images of one split."""

    metrics: dict[str, Metric]
    split: str
    count: PositiveInt

    @model_validator(mode="after")
    def _has_rfid(self) -> Self:
        if "rfid" not in self.metrics:
            raise ValueError(f"metrics: rfid is missing; found {', '.join(self.metrics) or 'none'}")
        _check_possible(self.metrics, "metrics.")
        return self


class FirstScales(Part):
    """What is lost where an image is rebuilt from the first `scales` scales of a multi-scale tokenizer alone."""

    scales: PositiveInt
    metrics: dict[str, Metric]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _check_possible(self.metrics, "metrics.")
        return self


class RfidInputs(Part):
    """What the reconstruction metrics of a tokenizer depend on; when it changes, they are computed again."""

    reference: str  # checksum of the real images
    extractor: Weights
    tokenizer: Sha256
    slice: str  # stage key


class RfidRecord(Record, Rebuilt):
    """tokenizers/<name>/rfid.json: reconstruction metrics on the held-out split, and on the train split (`train`).

    Attributes:
        encoded_at_once: images that were encoded at once; None in older files, as of the next one.
        decoded_at_once: images that were decoded at once.
        by_scale: of a multi-scale tokenizer, the same held-out images from its first scales; empty in older files.
    """

    train: Rebuilt | None = None  # None in files from before it was measured
    by_scale: tuple[FirstScales, ...] = ()
    encoded_at_once: PositiveInt | None = None
    decoded_at_once: PositiveInt | None = None
    extractor: str
    reference: RealSide
    inputs: RfidInputs
    provenance: Provenance


class Share(Part):
    """What a tokenizer loses (rFID less its floor) as a share of the FID of a pilot less its floor."""

    tokenizer: str
    lost: Range
    fid: FiniteFloat
    share: FiniteFloat


class GateRecord(Record):
    """gate.json: the tokenizers of a study passed its gate.

    Attributes:
        floor: the pilot's FID of real images.
        source: where the pilot's numbers are from.
    """

    crossent: Share
    diffloss: Share
    floor: FiniteFloat
    source: str
    provenance: Provenance


class ShippedRecord(Record):
    """shipped.json: a finished tokenizer or classifier that ships, in the store and where a study has taken it.

    Attributes:
        store: its folder in the store, relative to the project.
        files: checksum of each file.
        quality: `rfid` of a tokenizer on held-out images, by the judge of the study that trained it, or `accuracy`.
    """

    store: str
    files: dict[FileName, Sha256]
    quality: dict[str, FiniteFloat]


class SweepPlace(Part):
    """Where a point lies in a sweep: guidance scale and temperature."""

    guidance: Annotated[float, Field(ge=1.0, allow_inf_nan=False)]
    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class SweepNumbers(Part):
    """The metrics of one point of a sweep, or the error because of which it has none."""

    fid: Metric | None = None
    inception_score: Metric | None = None
    precision: Metric | None = None  # None in files from before they were measured, or without real images
    recall: Metric | None = None
    error: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.fid is None) == (self.error is None):
            raise ValueError("found neither fid nor error, or both; accepted: one of them")
        names = ("fid", "inception_score", "precision", "recall")
        _check_possible({name: getattr(self, name) for name in names})
        return self


class SweepPointRecord(Record, SweepNumbers):
    """sweeps/<variant>/<setting>/guidance<g>-temperature<t>.json: one finished point."""


class SweepPoint(SweepPlace, SweepNumbers):
    """A point of a sweep. Round 0 is its grid; rounds 1, 2, ... are refinements around the best point."""

    round: NonNegativeInt

    @property
    def place(self) -> SweepPlace:
        """Guidance scale and temperature alone."""
        return SweepPlace(guidance=self.guidance, temperature=self.temperature)


class SweepRecipe(Part):
    """What the points of a sweep depend on; when any of it changes, their metrics are computed again."""

    slice: str  # stage key
    checkpoint: Sha256  # checksum of the weights that drew the images
    tokens: Sha256  # checksum of the manifest of the tokens
    weights: Weights  # weights of the extractor
    real: Sha256  # checksum of the statistics of the real images


class SweepRecord(Record):
    """sweeps/<variant>/<setting>.json: all points of the grid, and the chosen one.

    Attributes:
        seed: training seed.
        samples: number of images at each point.
        best: the chosen point.
        edge: axes (`guidance`, `temperature`) at whose end the point of lowest FID lies.
        rule: by what the point was chosen; older sweeps took the lowest FID.
        lowest: the point of lowest FID; None in older files, where it is `best`.
        within: points whose FID is at most one standard error above it, among which the rule chooses.
    """

    place: ClassVar[str] = r"sweeps/(?P<variant>[^/]+)/(?P<setting>[^/]+)\.json"
    variant: str
    setting: str
    seed: int
    samples: PositiveInt
    extractor: str
    reference: RealSide
    grid: tuple[SweepPoint, ...]
    best: SweepPlace
    edge: tuple[str, ...]
    rule: Literal["lowest", "one standard error"] = "lowest"
    lowest: SweepPlace | None = None
    within: tuple[SweepPlace, ...] = ()
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


class Rejection(Part):
    """What a sample set cost that accepts images (`mar/sampling/rejection.py`).

    Attributes:
        rejecter: name of the network.
        weights: checksum of its weights.
        drawn: images drawn in all.
        accepted: images of the set that were accepted; the others are the best of their tries.
    """

    rejecter: str
    weights: Weights
    drawn: PositiveInt
    accepted: NonNegativeInt

    @property
    def rate(self) -> float:
        """Share of the drawn images that were accepted."""
        return self.accepted / self.drawn


class SampleManifest(Manifest):
    """samples/<variant>/seed<k>/<setting>/manifest.json: a complete sample set.

    Attributes:
        seed: training seed.
        count: number of images.
        chunks: the files of the images.
        labels_sha256: checksum of the labels; None in older files.
        checkpoint: checksum of the weights that drew the images.
        tokenizer: checksum of the weights that decoded them.
        sampling: the setting, with the guidance scale and temperature that were used.
        drawn_at_once: images of a chunk whose tokens were drawn at once; None in older files, where it is all of them.
        decoded_at_once: the same for decoding.
        seconds: time of drawing in all.
        rejection: what was drawn and accepted; None where the setting accepts all.
    """

    place: ClassVar[str] = r"samples/(?P<variant>[^/]+)/seed(?P<seed>\d+)/(?P<setting>[^/]+)/manifest\.json"
    variant: str
    seed: int
    setting: str
    count: PositiveInt
    drawn_at_once: PositiveInt | None = None
    decoded_at_once: PositiveInt | None = None
    chunks: tuple[Piece, ...]
    labels_sha256: Sha256 | None = None
    checkpoint: Sha256
    tokenizer: Sha256
    sampling: Sampling
    seconds: Amount
    rejection: Rejection | None = None
    provenance: Provenance

    @model_validator(mode="after")
    def _counted(self) -> Self:
        _check_count(self.count, self.chunks)
        return self


class JudgedBy(Part):
    """The weights of one extractor, a note for readers, and the real images that it was compared with."""

    weights: Weights
    note: str
    reference: RealSide


class FeatureSpread(Part):
    """How the features of the real images spread, by one extractor.

    Attributes:
        features: number of features F.
        effective: effective dimension of their covariance S, (tr S)^2 / tr S^2: F if all features vary equally and
            independently, 1 if they vary together.
        dead: number of features whose standard deviation is below a thousandth of the root mean square of all.
    """

    features: PositiveInt
    effective: Amount
    dead: NonNegativeInt


class MetricsRecipe(Part):
    """What the numbers of a metric file depend on; when it changes, they are computed again."""

    slice: str  # stage key
    inputs: dict[str, str]  # checksum of each input, by its name


# The note of a metric file whose set has no labels.
ONE_CLASS = "the classes of the images are not known: they are resampled as one class, and agreement is left out"


class MetricsFile(Record):
    """metrics/<set>.json: all metrics of a sample set, of ours or given, or of `reference`, the held-out images.

    Attributes:
        seed: training seed.
        given: the file of a set that others drew, by its name in the study, and its checksum; None of all other sets.
        samples: number of images.
        extractor: name of the first extractor, whose metrics tables, figures and claims show.
        extractors: every extractor, by its name.
        reference: the real images that the first extractor compares with.
        notes: what readers should know of the numbers.
        spread: in the file of the held-out images, how the features of the real side spread, by the name of the
            extractor; empty in files from before it was measured, and in those of sample sets.
        metrics: each metric by its name.
        copied: share of copies of training images (`mar/metrics/copies.py`); None if not measured.
        inputs: checksum of each input, by its name.
        recipe: what the numbers depend on.
    """

    place: ClassVar[str] = r"metrics/(?P<variant>[^/]+)/seed(?P<seed>\d+)/(?P<setting>[^/]+)\.json"
    variant: str = ""
    seed: int = 0
    setting: str = ""
    given: ImageSource | None = None
    samples: PositiveInt
    extractor: str
    extractors: dict[str, JudgedBy]
    reference: RealSide
    notes: tuple[str, ...] = ()
    spread: dict[str, FeatureSpread] = Field({})
    metrics: dict[str, Metric]
    copied: Metric | None = None
    inputs: dict[str, str]
    recipe: MetricsRecipe
    provenance: Provenance

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _check_possible(self.metrics, "metrics.")
        if self.extractor not in self.extractors:
            raise ValueError(f"extractor: found {self.extractor!r}; accepted: one of `extractors`")
        return self


class Timing(Part):
    """One timed setting: the median of the seconds per image of its batches, with its interval from `low` to `high`.

    Attributes:
        batches: seconds per image of each batch; empty in older files, whose interval is their range.
        head_share: share of the seconds that the head took; None in files from before it was measured.
        steps: autoregressive steps.
        drawn_at_once: images of a batch whose tokens are drawn at once; None in older files, where it is all of them.
    """

    seconds_per_image: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    head_share: Range | None = None
    steps: PositiveInt
    drawn_at_once: PositiveInt | None = None
    batches: tuple[Seconds, ...] = ()

    @property
    def seconds(self) -> Range:
        """Seconds per image: the median and its interval."""
        return Range(value=self.seconds_per_image, low=self.low, high=self.high)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0 < self.low <= self.seconds_per_image <= self.high:
            found = f"{self.seconds_per_image:g} with low {self.low:g} and high {self.high:g}"
            raise ValueError(f"found seconds {found}; accepted: positive ones, low <= seconds <= high")
        return self


class TimingProtocol(Part):
    """How and on what a variant was timed.

    Attributes:
        batch: images in one batch.
        batches: number of timed batches.
        warmup_batches: number of batches before those, which are not counted.
        threads: threads of torch.
        dtype: number type of the model.
        device: GPU, or `cpu`.
        machine: name of the processor.
        torch: version of torch.
        decode: whether decoding is counted.
    """

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
        """Device, machine, threads and batch: timings are comparable only where these are equal."""
        return self.device, self.machine, self.threads, self.batch


class SpeedRecipe(Part):
    """What the timings of a variant depend on; when it changes, they are measured again."""

    speed: str  # stage key
    threads: PositiveInt
    checkpoint: Sha256
    # Guidance scale and temperature of each swept setting, by its name.
    chosen: dict[str, tuple[float, float]] = Field(default_factory=dict)


class SpeedRecord(Record):
    """speed/<variant>.json: seconds per image of a variant at each timed setting.

    Attributes:
        yardsticks: seconds of a fixed piece of work that was timed in each round of batches; empty in older files.
    """

    place: ClassVar[str] = r"speed/(?P<variant>[^/]+)\.json"
    variant: str
    protocol: TimingProtocol
    yardsticks: tuple[Seconds, ...] = ()
    points: dict[str, Timing]
    checkpoint: Sha256
    recipe: SpeedRecipe
    provenance: Provenance


class Evidence(Part):
    """Where one number behind a verdict is from. Numbers of a training have no setting."""

    variant: str
    setting: str | None
    metric: str
    seeds: tuple[int, ...]
    files: tuple[str, ...]  # paths below the results folder


class Missing(Part):
    """What an undecided claim lacks: its kind, by which verdicts are counted, and a sentence with the numbers.

    Kinds: `interval`: its interval reaches both sides; `one seed`; `recites`: a side recites its training images;
    `trained unequally`: the side that wins trained on more images; `still learning`: a side still improved when its
    training ended; `protocol`: the sides were timed differently. `seeds` a side and `images` a sample set are the
    numbers with either of which an interval of this effect would decide; None where no number would. `variants` are
    those that were still learning.
    """

    kind: Lack
    text: str
    variants: tuple[str, ...] = ()
    seeds: PositiveInt | None = None
    images: PositiveInt | None = None


class UnderExtractor(Part):
    """The verdict on a claim by the features of a further extractor."""

    extractor: str
    verdict: Ruling
    effect: FiniteFloat | None
    low: FiniteFloat | None
    high: FiniteFloat | None


class Verdict(Part):
    """One claim of the paper and whether the study replicates it.

    Attributes:
        text: the claim.
        source: where the paper makes it.
        decides: which studies can decide it: `any` or `imagenet`.
        because: why others cannot.
        verdict: the outcome.
        effect: the difference that was measured, a log ratio or a difference by `scale`, between `low` and `high`; None
            where nothing was compared.
        reason: why the verdict is as it is.
        seeds: number of training seeds on each side of the comparison.
        missing: what an undecided claim lacks; None for every other verdict.
        extractors: its verdict by each further extractor, where it is about FID.
        evidence: the numbers behind the verdict.
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
    missing: Missing | None = None
    extractors: tuple[UnderExtractor, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self

    @property
    def shown(self) -> str:
        """The verdict as it is printed: what is missing where it is undecided, and who disagrees."""
        lack = f": {self.missing.kind}" if self.missing else ""
        others = ", ".join(f"{e.extractor}: {e.verdict}" for e in self.disagreeing)
        return self.verdict + lack + (f" ({others})" if others else "")

    @property
    def decided(self) -> bool:
        """Whether the study decides the claim, one way or the other."""
        return self.verdict in ("replicated", "not replicated")

    @property
    def tested(self) -> bool:
        """Whether an interval was held against the claim, which then had a chance to be decided wrongly."""
        return self.decided or (self.missing is not None and self.missing.kind == "interval")

    @property
    def disagreeing(self) -> tuple[UnderExtractor, ...]:
        """The further extractors under which the verdict is another one."""
        return tuple(e for e in self.extractors if e.verdict != self.verdict)


class Verdicts(RootModel[tuple[Verdict, ...]]):
    """claims.json: one verdict for each claim."""

    model_config = ConfigDict(frozen=True, strict=True)


class Peak(Part):
    """Memory of a GPU in bytes, at its peak, with so many images at once; and what each image adds to it."""

    images: PositiveInt
    bytes: PositiveInt
    image: Amount

    def at(self, images: int) -> float:
        """Bytes with so many images at once: memory is linear in them."""
        return self.bytes + (images - self.images) * self.image


class TrainingPeak(Peak):
    """Memory of a training on one GPU, and what `sharding: full` changes of it.

    Attributes:
        split: bytes of weights, average, moments and gradients, of which each of several GPUs keeps its share.
        whole: bytes that each of them collects at once all the same.
    """

    split: NonNegativeInt = 0
    whole: NonNegativeInt = 0

    def among(self, gpus: int) -> Peak:
        """The peak of each of so many GPUs."""
        taken = self.split - self.split // gpus - self.whole
        return Peak(images=self.images, bytes=self.bytes - taken, image=self.image)


class Peaks(Part):
    """Memory of all that a study does on a GPU.

    Attributes:
        judges: of each network that judges.
        classifier: of the classifier's training; None without one.
        encoding: of each tokenizer, by its section.
        decoding: of each tokenizer, by the precision in which it decodes.
        tokenizers: of the training of each tokenizer that is trained.
        trainings: of a micro-batch of each training, by its variant.
        drawing: of the tokens of each variant at each setting.
    """

    judges: dict[str, Peak]
    classifier: Peak | None
    encoding: dict[str, Peak]
    decoding: dict[str, dict[str, Peak]]
    tokenizers: dict[str, Peak]
    trainings: dict[str, TrainingPeak]
    drawing: dict[str, dict[str, Peak]]


class JudgeCosts(Part):
    """A network that judges: operations for one image, and how many numbers of each kind it keeps of it."""

    parameters: NonNegativeInt
    forward: Amount
    features: NonNegativeInt
    logits: NonNegativeInt = 0
    spatial: NonNegativeInt = 0


class TokenizerCosts(Part):
    """Operations of a tokenizer for one image: to encode it, to decode it, and with it in training."""

    parameters: NonNegativeInt
    encode: Amount
    decode: Amount
    training: Amount


class VariantCosts(Part):
    """Operations of a variant for one image: in training, and to draw its tokens at each setting."""

    parameters: PositiveInt
    training: Amount
    sampling: dict[str, Amount]


class GpuCheckRecord(Record):
    """What `python -m benchmarks.gpu_check --json` measured: images a second of the training of a variant, by its name.

    Attributes:
        versions: of the device and of the software, by name.
        training: images a second on one GPU.
    """

    versions: dict[str, str]
    training: dict[str, PositiveFloat]


class PlanRecord(Record):
    """plan.json: what `mar plan` has counted; `key` is a checksum of the study's parts and of the code behind it."""

    key: Sha256
    judges: dict[str, JudgeCosts]
    rejecter: JudgeCosts | None = None
    tokenizers: dict[str, TokenizerCosts]
    variants: dict[str, VariantCosts]
    memory: Peaks | None = None


class Rates(Part):
    """How fast a machine computes the networks of a study, one thread of it or its GPU.

    Attributes:
        start: CPU seconds in which torch is imported.
        tokenizers: operations a second of each tokenizer.
        judges: the same of each network that judges.
        training: the same of each variant in training.
        sampling: the same of each variant in sampling.
    """

    start: PositiveFloat
    tokenizers: dict[str, PositiveFloat]
    judges: dict[str, PositiveFloat]
    training: dict[str, PositiveFloat]
    sampling: dict[str, PositiveFloat]


class TimesRecord(Record):
    """times.json: what `mar plan` expects each job to take on a machine.

    Attributes:
        key: that of the counts (PlanRecord) to which the rates belong.
        host: the machine.
        rates: how fast it is.
        seconds: seconds of one core for each job, by stage and name, before finished jobs correct them.
    """

    key: Sha256
    host: str
    rates: Rates
    seconds: dict[str, Amount]


class StepsRecord(Record):
    """steps.json: what a run of the workflow has to make.

    Attributes:
        started: time in seconds since 1970.
        outputs: a file of each of its jobs, by stage and name.
    """

    started: FiniteFloat
    outputs: dict[str, str]


def without_password(text: str) -> str:
    """A text without user and password in its addresses: `http://user:word@host` becomes `http://host`."""
    return re.sub(r"(?<=://)\S*@", "", text)


def without_secrets(server: str) -> str:
    """The address of a server without user and password, nor a query, in which a token may stand."""
    return re.sub(r"(?s)[?#].*", "", without_password(server))


class TrackedRuns(Record):
    """mlflow.json: the id of the run of MLflow for each result, by its path below the results folder."""

    experiment: str  # its id in MLflow; empty where MLflow failed before there was one
    runs: dict[str, str]  # ids by folder; without those that MLflow failed to take
    server: Annotated[str, AfterValidator(without_secrets)] = ""  # URI; empty where a file holds the runs


class StageCost(Part):
    """What one stage of a shape needed; gigabytes are 10^9 bytes.

    Attributes:
        memory_gb: peak of the memory that the process allocated.
        resident_gb: peak of its memory with the files that it had mapped.
        disk_gb: size of the files that it wrote.
    """

    stage: str
    seconds: Amount
    cpu_seconds: Amount
    memory_gb: Amount
    resident_gb: Amount
    disk_gb: Amount
    note: str


class ShapeRecord(Record):
    """drill/shapes/<shape>.json: one shape of a study, run once at its true size."""

    place: ClassVar[str] = r"drill/shapes/(?P<shape>[^/]+)\.json"
    shape: str
    covers: tuple[str, ...]  # names of the tokenizers or variants of this shape
    parameters: NonNegativeInt
    stages: tuple[StageCost, ...]
    machine: str
    provenance: Provenance


class DrillRecord(Record):
    """drill/drill.json: all shapes of a study."""

    study: str
    notes: tuple[str, ...]
    shapes: tuple[ShapeRecord, ...]


class GpuHours(Part):
    """GPU hours of a stage: had from Slurm, by its accounting, and A100 hours planned; None where that is not known."""

    spent: NonNegativeFloat | None = None
    planned: NonNegativeFloat | None = None


class GpuHoursRecord(Record):
    """gpu_hours.json: GPU hours of each stage.

    Attributes:
        accounted: whether the accounting answered when this was written; what it told before stays.
        stages: by stage.
    """

    accounted: bool
    stages: dict[str, GpuHours]
