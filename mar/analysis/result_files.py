"""The numbers of a study as its files have them. Each file is read once; files that must not be mixed are refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from mar.analysis.metric_kinds import by_ratio
from mar.data import published
from mar.paper.numbers import paper_samples
from mar.runtime.files import Record, read
from mar.study import layout
from mar.study.parts import Sampling
from mar.study.products import speed_settings
from mar.study.records import (
    FeatureSpread,
    JudgedBy,
    LearningRecord,
    Metric,
    MetricsFile,
    RealSide,
    Rejection,
    RfidRecord,
    RunRecord,
    SampleManifest,
    SpeedRecord,
    TasksRecord,
    TimingProtocol,
)
from mar.study.study import Study

R = TypeVar("R", bound=Record)
LEAST = -1e-3  # lowest accepted Frechet distance: rounding makes it negative if both sides are the same images


@dataclass(frozen=True)
class Source:
    """Where a number is from.

    Attributes:
        variant: the variant, or given/<name> of a sample set that others drew.
        setting: the sampling setting; None for a number of the training or the tokenizer.
        metric: name of the metric.
        files: the files it was read from, by paths below the results folder.
    """

    variant: str
    setting: str | None
    metric: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the number.
        low: lower end of its 95% interval; for seconds, of the range that was measured.
        high: upper end.
        n: number of images that it was measured with, in each sample set; 0 if with none.
        seeds: training seeds that it is the mean of.
        source: where it is from; None for a number of real images.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: tuple[int, ...] = ()
    source: Source | None = None

    def __str__(self) -> str:
        return f"{short(self.value)} [{short(self.low)}, {short(self.high)}]"


def short(x: float) -> str:
    """Three significant digits without exponents: 0.0123, 1.98, 20.0, 1234."""
    if x != 0 and not 1e-4 <= abs(x) < 1000:
        return f"{x:.0f}" if abs(x) >= 1000 else f"{x:.2g}"
    return f"{x:#.3g}".rstrip(".") if x else "0"


def duration(seconds: Estimate) -> str:
    """Seconds with their interval, as `0.286 s [0.28, 0.29]`; in milliseconds below a tenth of a second."""
    unit, factor = ("s", 1.0) if seconds.value >= 0.1 else ("ms", 1e3)
    value, low, high = (short(factor * x) for x in (seconds.value, seconds.low, seconds.high))
    return f"{value} {unit} [{low}, {high}]"


class Files:
    """The files of a study; a file that is missing or does not belong here is a ValueError that names it.

    All metric files must agree on the real images that they compare with and on the weights of the extractors.
    """

    def __init__(self, study: Study, root: Path) -> None:
        self.study, self.root = study, Path(root)
        self._files: dict[Path, Record] = {}
        self._settings: dict[tuple[str, str], Sampling] = {}
        self._first: tuple[Path, MetricsFile] | None = None  # the metric file that was read first

    def metric_file(self, variant: str, seed: int, setting: str) -> Path:
        """Path of the metrics of a sample set."""
        return layout.metrics(self.root, layout.sample_set(variant, seed, setting))

    def metrics(self, variant: str, seed: int, setting: str) -> MetricsFile:
        """Content of one metric file.

        Raises:
            ValueError: the file is missing or damaged; it is of another number of samples or another extractor than the
                study says; or of another reference or other weights of an extractor than the file that was read first.
        """
        return self._metrics(self.metric_file(variant, seed, setting))

    def given(self, name: str) -> MetricsFile:
        """Content of the metric file of a sample set that others drew.

        Raises:
            ValueError: as `metrics`, or the study names another file now.
        """
        path, section = layout.metrics(self.root, layout.given_set(name)), self.study.given[name]
        record, again = self._metrics(path), f"run `mar features --set {layout.given_set(name)}` and what follows again"
        if record.given is None or record.given.name != section.file:
            found = record.given.name if record.given else "none"
            raise ValueError(f"{path}: given.name: found {found}; the study says {section.file}: {again}")
        if section.sha256 and record.given.sha256 != section.sha256:
            found = record.given.sha256
            raise ValueError(f"{path}: given.sha256: found {found}; the study says {section.sha256}: {again}")
        return record

    def sampling(self, variant: str, setting: str) -> Sampling:
        """A sampling setting with the guidance scale and temperature that were used, from its sweep if it has one."""
        if (variant, setting) not in self._settings:
            from mar.study.chosen_settings import resolved

            self._settings[variant, setting] = resolved(self.study, self.root, variant, setting)
        return self._settings[variant, setting]

    def run(self, variant: str, seed: int) -> RunRecord:
        """Record of a training."""
        return self._record(layout.run_record(self.root, variant, seed), RunRecord)

    def learning(self, variant: str, seed: int) -> LearningRecord:
        """Losses, and where asked FID, along a training."""
        return self._record(layout.learning(self.root, variant, seed), LearningRecord)

    def accepted(self, variant: str, setting: str) -> float:
        """Share of the drawn images that were accepted, mean over the seeds; 1 where a setting accepts all."""
        rates = [found.rate for found in self._rejections(variant, setting)]
        return math.fsum(rates) / len(rates) if rates else 1.0

    def draws(self, variant: str, setting: str) -> float:
        """How often an image of a set was drawn, mean over the seeds; 1 where a setting accepts all."""
        found = [one.drawn / self.study.metrics.samples for one in self._rejections(variant, setting)]
        return math.fsum(found) / len(found) if found else 1.0

    def _rejections(self, variant: str, setting: str) -> list[Rejection]:
        if not self.study.sampling[setting].reject:
            return []
        names = [layout.sample_set(variant, seed, setting) for seed in self.study.variants[variant].seeds]
        records = [self._record(layout.sample_manifest(self.root, name), SampleManifest) for name in names]
        return [record.rejection for record in records if record.rejection]

    def tasks(self, variant: str, seed: int) -> TasksRecord:
        """What a model did in the zero-shot tasks."""
        return self._record(layout.tasks(self.root, variant, seed), TasksRecord)

    def speed(self, variant: str) -> SpeedRecord:
        """Timings of a variant."""
        return self._record(layout.speed(self.root, variant), SpeedRecord)

    def seconds(self, variant: str, setting: str) -> Estimate | None:
        """Seconds per image with the measured range; None if the variant is not trained or the setting not timed."""
        return self._timing(variant, setting, "seconds_per_image")

    def head_share(self, variant: str, setting: str) -> Estimate | None:
        """Share of the sampling time in which the head draws tokens, with the measured range; None as for seconds."""
        return self._timing(variant, setting, "head_share")

    def protocol(self, variant: str) -> TimingProtocol:
        """How a variant was timed."""
        return self.speed(variant).protocol

    def timed_as_published(self, variant: str) -> bool:
        """Whether a variant was timed on the paper's device with its batch size: one A100, 256 images."""
        protocol = self.protocol(variant)
        return "A100" in protocol.device + protocol.machine and protocol.batch == 256

    def training(self, variant: str) -> Estimate | None:
        """Device seconds of a training: mean, least and most of the seeds; None without a training, as for imports."""
        seeds = self.study.variants[variant].seeds
        files, runs = [layout.run_record(self.root, variant, k) for k in seeds], [self.run(variant, k) for k in seeds]
        if not runs or any(run.pretrained is not None for run in runs):
            return None
        seconds = [run.seconds * run.processes for run in runs]
        source = Source(variant, None, "training_seconds", self._below(*files))
        return Estimate(fmean(seconds), min(seconds), max(seconds), 0, seeds, source)

    def parameters(self, variant: str) -> Estimate:
        """Number of parameters of a trained variant, as its training counted them; low and high equal it."""
        seeds = self.study.variants[variant].seeds[:1]
        file = layout.run_record(self.root, variant, seeds[0])
        count = self.run(variant, seeds[0]).parameters
        return Estimate(count, count, count, 0, seeds, Source(variant, None, "parameters", self._below(file)))

    def head_parameters(self, variant: str) -> Estimate | None:
        """Number of parameters of a variant's head; None for DiT, which has no head."""
        v = self.study.variants[variant]
        if self.study.heads[v.head].joint:
            return None
        weights = layout.run(self.root, variant, v.seeds[0]) / layout.AVERAGE
        count = self.run(variant, v.seeds[0]).head_parameters or _head_in(weights)
        return Estimate(count, count, count, 0, v.seeds[:1])

    def rfids(self, variant: str, split: str = "train", metric: str = "rfid") -> list[Estimate]:
        """rFID: FID of a split's images, reconstructed by the variant's tokenizer; of each seed's with `per_seed`.

        The list is empty where it was not measured on that split.

        `metric` names another number of rfid.json, such as `floor`.

        Raises:
            ValueError: it was measured against another reference, or by other weights, than the sample sets.
        """
        seeds, name = self.study.variants[variant].seeds, self.study.variants[variant].tokenizer
        if not self.study.tokenizers[name].per_seed:
            return self._rfid(variant, name, (), split, metric)
        return [e for k in seeds for e in self._rfid(variant, self.study.tokenizer_of(variant, k), (k,), split, metric)]

    def _rfid(self, variant: str, name: str, seeds: tuple[int, ...], split: str, metric: str) -> list[Estimate]:
        """rFID, or another metric of rfid.json, of one tokenizer on disk, if it was measured on that split."""
        file = layout.rfid(self.root, name)
        record = self._record(file, RfidRecord)
        main, floor = self.extractors[self.extractor], layout.reference_metrics(self.root)
        pairs = [("references", record.inputs.reference, main.reference.sha256)]
        pairs.append((f"weights of {self.extractor}", record.inputs.extractor, main.weights))
        _one_kind(file, floor, pairs, "run `mar rfid` again")
        source = Source(variant, None, metric, self._below(file))
        found = [part.metrics.get(metric) for part in (record, record.train) if part and part.split == split]
        return [Estimate(m.value, m.low, m.high, m.n, seeds, source) for m in found[:1] if m]

    def each(self, variant: str, setting: str, metric: str) -> list[Estimate]:
        """A metric of each training seed's sample set, as its file has it: the interval is over its images alone."""
        estimates = []
        for seed in self.study.variants[variant].seeds:
            path = self.metric_file(variant, seed, setting)
            m = entry(self.metrics(variant, seed, setting), path, metric)
            source = Source(variant, setting, metric, self._below(path))
            estimates.append(Estimate(m.value, m.low, m.high, m.n, (seed,), source))
        return estimates

    def copied(self, variant: str, setting: str) -> list[Metric]:
        """Share of copies of training images in each training seed's sample set; empty if it is not measured in all."""
        seeds = self.study.variants[variant].seeds
        shares = [self.metrics(variant, seed, setting).copied for seed in seeds]
        return [share for share in shares if share is not None] if None not in shares else []

    @property
    def floor_copied(self) -> Metric | None:
        """Share of copies among the held-out real images, which is about 0; None if it is not measured."""
        return self._reference.copied if self._reference else None

    @property
    def extractor(self) -> str:
        """Name of the main extractor, whose features the metrics are of, such as `inception` or `classifier`."""
        return self._judged.extractor

    @property
    def extractors(self) -> dict[str, JudgedBy]:
        """The extractors by name, each with its weights, its note and its real side."""
        return self._judged.extractors

    @property
    def notes(self) -> list[str]:
        """Notes on the metrics of the sample sets and of the real images, each once."""
        return list(dict.fromkeys([*self._any.notes, *(self._reference.notes if self._reference else ())]))

    @property
    def feature_spread(self) -> dict[str, FeatureSpread]:
        """How the features of the real images spread, by extractor; empty in a study of an older version."""
        return self._reference.spread if self._reference else {}

    @property
    def reference(self) -> RealSide:
        """The real side that the main extractor's metrics compare with."""
        return self._judged.reference

    @property
    def random(self) -> tuple[str, ...]:
        """Extractors with random weights: their numbers prove that the machinery runs, and mean nothing else."""
        return tuple(name for name, extractor in self.extractors.items() if extractor.weights == "random")

    @property
    def cells(self) -> list[tuple[str, str]]:
        """All cells: each trained variant with each of its settings."""
        trained = ((name, variant) for name, variant in self.study.variants.items() if variant.seeds)
        return [(name, setting) for name, variant in trained for setting in variant.sampling]

    @property
    def names(self) -> list[str]:
        """Metrics of every sample set, in the order of their files."""
        return list(self._any.metrics)

    @property
    def measured(self) -> list[str]:
        """Metrics of the held-out real images, in the order of the file; none in a study without images."""
        return list(self._reference.metrics) if self._reference else []

    @property
    def comparable(self) -> bool:
        """Whether our numbers are on the paper's scale: its images, its features and as many images as its sample sets.

        Elsewhere a difference to the paper's number says nothing, so none is printed, and no point of the paper is
        drawn among ours.
        """
        return not self.incomparable

    @property
    def incomparable(self) -> str:
        """What keeps our numbers off the paper's scale, in words; empty where nothing does."""
        study, reasons = self.study, []
        if study.data.totals != "imagenet" and not study.data.unread:  # of the latter the reference tells
            reasons.append("other images than ImageNet's")
        if self.extractor != "inception":
            reasons.append(
                "features of " + ("its own classifier" if self.extractor == "classifier" else self.extractor)
            )
        elif "inception" in self.random:
            reasons.append("Inception with random weights")
        if (reference := study.metrics.reference) and (
            reference.unknown_hash or reference.file not in published.table(published.TABLE)
        ):
            reasons.append(f"a reference of its own, {reference.file}")
        if study.metrics.samples < (needed := paper_samples()):
            reasons.append(f"{study.metrics.samples} images a sample set, not {needed}")
        return ", ".join(reasons)

    def higher_is_better(self, metric: str) -> bool | None:
        """As the metric files say; None if neither is better, as for the distance to the nearest training image."""
        return self._any.metrics[metric].higher_is_better

    def floor_entry(self, metric: str) -> Metric:
        """A metric of the held-out real images, as its file has it.

        Raises:
            ValueError: the file does not have it, or the study has no images.
        """
        path = layout.reference_metrics(self.root)
        if self._reference is None:
            raise ValueError(f"{path}: the study has no images (data.kind none); accepted: a study that has")
        return entry(self._reference, path, metric)

    @cached_property
    def _any(self) -> MetricsFile:
        """The metrics of one sample set, whose names all of the study share.

        Those of the real images if nothing is trained; those of a given set if there are no real images either.
        """
        seeds = {name: variant.seeds for name, variant in self.study.variants.items()}
        for variant, setting in self.cells:
            return self.metrics(variant, seeds[variant][0], setting)
        if self._reference is not None:
            return self._reference
        for name in self.study.given:
            return self.given(name)
        raise ValueError(f"study {self.study.study}: judges nothing; accepted: images, a trained variant, a given set")

    @property
    def _judged(self) -> MetricsFile:
        """The file that says by which networks the study is judged: that of the floor, if there are real images."""
        return self._reference or self._any

    @cached_property
    def _reference(self) -> MetricsFile | None:
        """The metrics of the held-out real images; None in a study without images."""
        if self.study.data.unread:
            return None
        record = self._metrics(path := layout.reference_metrics(self.root))
        if record.variant or record.given is not None:
            raise ValueError(f"{path}: found metrics of a sample set; accepted: those of `mar reference`; run it again")
        return record

    def _timing(self, variant: str, setting: str, key: str) -> Estimate | None:
        """A number of a timed setting; None if the variant is not trained, or setting or number not measured."""
        seeds = self.study.variants[variant].seeds[:1]
        if not seeds or setting not in speed_settings(self.study, variant):
            return None
        file, record = layout.speed(self.root, variant), self.speed(variant)
        if setting not in record.points:
            raise ValueError(f"{file}: points: {setting!r} is missing; found {', '.join(record.points)}")
        point, n = record.points[setting], record.protocol.batch * record.protocol.batches
        measured = point.seconds if key == "seconds_per_image" else point.head_share
        if measured is None:
            return None
        return Estimate(
            measured.value, measured.low, measured.high, n, seeds, Source(variant, setting, key, self._below(file))
        )

    def _below(self, *files: Path) -> tuple[str, ...]:
        """Paths of files below the results folder."""
        return tuple(file.relative_to(self.root).as_posix() for file in files)

    def _record(self, path: Path, kind: type[R]) -> R:
        """The record in a file, which is read once."""
        if path not in self._files:
            self._files[path] = read(path, kind)
        record = self._files[path]
        assert isinstance(record, kind)  # a path has one kind of record
        return record

    def _metrics(self, path: Path) -> MetricsFile:
        """A metric file, checked to be of this study and to agree with the file that was read first."""
        if path in self._files:
            return self._record(path, MetricsFile)
        record, again = read(path, MetricsFile), "run its sample and evaluate stages again"
        if record.samples != (samples := self.study.metrics.samples):
            raise ValueError(f"{path}: samples: found {record.samples}; the study asks for {samples}: {again}")
        if record.extractor != (main := self.study.metrics.extractors[0]):
            raise ValueError(f"{path}: extractor: found {record.extractor!r}; the study asks for {main!r}: {again}")
        for name, metric in record.metrics.items():
            if by_ratio(name) and metric.value < LEAST:
                raise ValueError(f"{path}: metrics.{name}: found {metric.value:g}; accepted: at least 0: {again}")
        first, other = self._first or (path, record)
        self._first = first, other
        pairs = [("references", record.reference.sha256, other.reference.sha256)]
        for name, expected in other.extractors.items():
            extractor = record.extractors.get(name)
            pairs.append((f"weights of {name}", extractor.weights if extractor else "none", expected.weights))
            real = extractor.reference.sha256 if extractor else "none"
            pairs.append((f"references of {name}", real, expected.reference.sha256))
        _one_kind(path, first, pairs, "run `mar reference` and `mar evaluate` again")
        self._files[path] = record
        return record


def _head_in(weights: Path) -> int:
    """Number of the head's parameters in a file of weights, for records of versions that did not count them."""
    from safetensors import safe_open

    with safe_open(weights, framework="np") as tensors:
        names = [name for name in tensors.keys() if name.startswith("head.")]  # noqa: SIM118
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)


def _one_kind(path: Path, first: Path, pairs: list[tuple[str, str, str]], again: str) -> None:
    """Refuse a file that differs from the first one in a checksum.

    Args:
        path: the file.
        first: the file that it must agree with.
        pairs: what the checksum is of, the file's checksum, and that of the first file.
        again: what to run, for the message.
    """
    for what, checksum, other in pairs:
        if checksum != other:
            raise ValueError(
                f"mixed {what} in one table: {path} has {checksum[:12]}, {first} has {other[:12]}; accepted: "
                f"one for all; {again}"
            )


def entry(record: MetricsFile, path: Path, metric: str) -> Metric:
    """A metric of a metric file.

    Raises:
        ValueError: the file has no such metric.
    """
    if metric not in record.metrics:
        raise ValueError(f"{path}: metrics: {metric!r} is missing; found {', '.join(record.metrics)}")
    return record.metrics[metric]
