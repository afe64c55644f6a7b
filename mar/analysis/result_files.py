"""The numbers of a study as its files have them: each file read once, and only such that belong in one table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from mar.data import published
from mar.paper.numbers import paper_samples
from mar.runtime.files import read, read_json
from mar.study import layout
from mar.study.parts import Sampling
from mar.study.products import speed_settings
from mar.study.records import RunRecord
from mar.study.study import Study


@dataclass(frozen=True)
class Source:
    """Where a number is from: variant, sampling setting (none of a training), metric, files below the results."""

    variant: str
    setting: str | None
    metric: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval, the images in each sample set and the training seeds that it is the mean of."""

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


class Files:
    """The files of a study. One that is missing or unfit is a ValueError that names it.

    All metric files must be of one kind: what they compare with, and the weights of the networks that judge.
    """

    def __init__(self, study: Study, root: Path) -> None:
        self.study, self.root = study, Path(root)
        self._files: dict[Path, dict[str, Any]] = {}
        self._runs: dict[Path, RunRecord] = {}
        self._settings: dict[tuple[str, str], Sampling] = {}
        self._first: tuple[Path, dict[str, Any]] | None = None  # of the metric files, with which the others must agree

    def metric_file(self, variant: str, seed: int, setting: str) -> Path:
        """Where the metrics of one sample set are."""
        return layout.metrics(self.root, layout.sample_set(variant, seed, setting))

    def metrics(self, variant: str, seed: int, setting: str) -> dict[str, Any]:
        """Content of one metric file.

        Raises:
            ValueError: it is missing, or was made with another number of samples or extractor than the study asks
                for, or with another reference or other weights of an extractor than a file read before.
        """
        return self._read(self.metric_file(variant, seed, setting))

    def sampling(self, variant: str, setting: str) -> Sampling:
        """A sampling setting with the guidance scale and temperature used, those that its sweep chose if it has one."""
        if (variant, setting) not in self._settings:
            from mar.study.chosen_settings import resolved

            self._settings[variant, setting] = resolved(self.study, self.root, variant, setting)
        return self._settings[variant, setting]

    def seconds(self, variant: str, setting: str) -> Estimate | None:
        """Seconds per image with the measured range; None where none is trained or timed."""
        return self._timing(variant, setting, "seconds_per_image")

    def head_share(self, variant: str, setting: str) -> Estimate | None:
        """Part of the sampling time in which the head draws tokens, with the measured range; None as for seconds."""
        return self._timing(variant, setting, "head_share")

    def protocol(self, variant: str) -> dict[str, Any]:
        """What timings of a variant must share with others to be compared: device, machine, threads, batch."""
        said = self._json(layout.speed(self.root, variant))["protocol"]
        return {key: said.get(key) for key in ("device", "machine", "threads", "batch")}

    def timed_as_published(self, variant: str) -> bool:
        """Whether the seconds of a variant are of the paper's device and batch: one A100, 256 images."""
        said = self.protocol(variant)
        return "A100" in str(said["device"]) + str(said["machine"]) and said["batch"] == 256

    def training(self, variant: str) -> Estimate | None:
        """Device seconds of a training: mean over seeds, least and most; None if there was none, as for imports."""
        files = [layout.run_record(self.root, variant, seed) for seed in self.study.variants[variant].seeds]
        runs = [self._run(file) for file in files]
        if not runs or any(run.pretrained for run in runs):
            return None
        found, seeds = [run.seconds * run.processes for run in runs], self.study.variants[variant].seeds
        source = Source(variant, None, "training_seconds", self._below(*files))
        return Estimate(fmean(found), min(found), max(found), 0, seeds, source)

    def parameters(self, variant: str) -> Estimate:
        """Parameters of a trained variant, as its training counted them: a number without scatter."""
        seeds = self.study.variants[variant].seeds[:1]
        file = layout.run_record(self.root, variant, seeds[0])
        count = self._run(file).parameters
        return Estimate(count, count, count, 0, seeds, Source(variant, None, "parameters", self._below(file)))

    def head_parameters(self, variant: str) -> Estimate | None:
        """Parameters of a variant's head alone; None for DiT, which has none."""
        v = self.study.variants[variant]
        if self.study.heads[v.head].kind == "joint":
            return None
        file = layout.run_record(self.root, variant, v.seeds[0])
        count = self._run(file).head_parameters or _head_in(file.with_name(layout.AVERAGE))
        return Estimate(count, count, count, 0, v.seeds[:1])

    def rfid(self, variant: str, split: str = "train") -> Estimate | None:
        """FID of the images of a split as the variant's tokenizer reconstructs them; None if not measured on it.

        Raises:
            ValueError: it was measured against another reference, or by other weights, than the sample sets.
        """
        file = layout.rfid(self.root, self.study.variants[variant].tokenizer)
        values = self._json(file)
        judge, floor = self.extractors[self.extractor], layout.reference_metrics(self.root)
        pairs = [("references", values["inputs"]["reference"], judge["reference"]["sha256"])]
        pairs.append((f"weights of {self.extractor}", values["inputs"]["extractor"], judge["weights"]))
        _one_kind(file, floor, pairs, "run `mar rfid` again")
        measured = values if values.get("split") == split else values.get(split)
        if measured is None:
            return None
        found = measured["metrics"]["rfid"]
        source = Source(variant, None, "rfid", self._below(file))
        return Estimate(found["value"], found["low"], found["high"], found["n"], (), source)

    def each(self, variant: str, setting: str, metric: str) -> list[Estimate]:
        """A metric of each sample set, one a training seed, as its file has it: the interval is of its images alone."""
        found = []
        for seed in self.study.variants[variant].seeds:
            path = self.metric_file(variant, seed, setting)
            m = entry(self.metrics(variant, seed, setting), path, metric)
            source = Source(variant, setting, metric, self._below(path))
            found.append(Estimate(m["value"], m["low"], m["high"], m["n"], (seed,), source))
        return found

    @property
    def extractor(self) -> str:
        """Whose features the main metrics are made of, as `classifier`, the study's own, or `inception`."""
        return str(self._reference["extractor"])

    @property
    def extractors(self) -> dict[str, dict[str, Any]]:
        """Every extractor that judged: the checksum of its `weights`, or "random", its `note`, and its `reference`."""
        found: dict[str, dict[str, Any]] = self._reference["extractors"]
        return found

    @property
    def notes(self) -> list[str]:
        """What is to be said of the metrics of the sample sets and of real images."""
        return list(dict.fromkeys([*self._any.get("notes", []), *self._reference.get("notes", [])]))

    @property
    def reference(self) -> dict[str, str]:
        """`name` and `sha256` of the real side that the main extractor's metrics compare with."""
        found: dict[str, str] = self._reference["reference"]
        return found

    @property
    def random(self) -> tuple[str, ...]:
        """Extractors of random weights: their numbers prove that the machinery runs, and mean nothing else."""
        return tuple(name for name, values in self.extractors.items() if values["weights"] == "random")

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Every trained variant with each of its settings."""
        trained = ((name, variant) for name, variant in self.study.variants.items() if variant.seeds)
        return [(name, setting) for name, variant in trained for setting in variant.sampling]

    @property
    def names(self) -> list[str]:
        """Metrics of every sample set, in the order of their files."""
        return list(self._any["metrics"])

    @property
    def measured(self) -> list[str]:
        """Metrics of the held-out real images, in the order of the file."""
        return list(self._reference["metrics"])

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
        study, found = self.study, []
        if study.data.expect != "imagenet":
            found.append("other images than ImageNet's")
        if self.extractor != "inception":
            found.append("features of " + ("its own classifier" if self.extractor == "classifier" else self.extractor))
        elif "inception" in self.random:
            found.append("Inception with random weights")
        if (asked := study.metrics.reference) and (
            asked.unknown_hash or asked.file not in published.table(published.TABLE)
        ):
            found.append(f"a reference of its own, {asked.file}")
        if study.metrics.samples < (needed := paper_samples()):
            found.append(f"{study.metrics.samples} images a sample set, not {needed}")
        return ", ".join(found)

    def higher_is_better(self, metric: str) -> bool | None:
        """As the metric files say; None where neither is, as of the distance to the nearest training image."""
        value: bool | None = self._any["metrics"][metric]["higher_is_better"]
        return value

    def floor_entry(self, metric: str) -> dict[str, Any]:
        """A metric of the held-out real images, as its file has it."""
        return entry(self._reference, layout.reference_metrics(self.root), metric)

    @cached_property
    def _any(self) -> dict[str, Any]:
        """The metrics of one sample set: all have the same. Of real images where nothing is trained."""
        seeds = {name: variant.seeds for name, variant in self.study.variants.items()}
        sets = (self.metrics(variant, seeds[variant][0], setting) for variant, setting in self.cells)
        return next(sets, self._reference)

    @cached_property
    def _reference(self) -> dict[str, Any]:
        return self._read(layout.reference_metrics(self.root))

    def _timing(self, variant: str, setting: str, key: str) -> Estimate | None:
        """A number of a timed setting; None where none is trained or timed, or this was not measured yet then."""
        seeds = self.study.variants[variant].seeds[:1]
        if not seeds or setting not in speed_settings(self.study, variant):
            return None
        file = layout.speed(self.root, variant)
        values = self._json(file)
        if setting not in values["points"]:
            raise ValueError(f"{file}: points: {setting!r} is missing; found {', '.join(values['points'])}")
        if key not in (point := values["points"][setting]):
            return None
        # seconds and their range stand in the point itself, a share is a part of it
        found = point[key] if isinstance(point[key], dict) else {**point, "value": point[key]}
        n = values["protocol"]["batch"] * values["protocol"]["batches"]
        return Estimate(
            found["value"], found["low"], found["high"], n, seeds, Source(variant, setting, key, self._below(file))
        )

    def _below(self, *files: Path) -> tuple[str, ...]:
        """Files by their paths from the results folder."""
        return tuple(file.relative_to(self.root).as_posix() for file in files)

    def _json(self, path: Path) -> dict[str, Any]:
        if path not in self._files:
            self._files[path] = read_json(path)
        return self._files[path]

    def _run(self, path: Path) -> RunRecord:
        if path not in self._runs:
            self._runs[path] = read(path, RunRecord)
        return self._runs[path]

    def _read(self, path: Path) -> dict[str, Any]:
        """A metric file that is of this study and of one kind with those read before."""
        if path in self._files:
            return self._files[path]
        values = read_json(path)
        again = "run its sample and evaluate stages again"
        if values["samples"] != (asked := self.study.metrics.samples):
            raise ValueError(f"{path}: samples: found {values['samples']}; the study asks for {asked}: {again}")
        missing = [key for key in ("extractor", "extractors", "reference") if key not in values]
        missing += [
            f"extractors.{name}.reference" for name, v in values.get("extractors", {}).items() if "reference" not in v
        ]
        if missing:
            raise ValueError(f"{path}: {missing[0]} is missing, so it was measured before they were recorded: {again}")
        if values["extractor"] != (main := self.study.metrics.extractors[0]):
            raise ValueError(f"{path}: extractor: found {values['extractor']!r}; the study asks for {main!r}: {again}")
        first, there = self._first or (path, values)
        self._first = first, there
        pairs = [("references", values["reference"]["sha256"], there["reference"]["sha256"])]
        for name, theirs in there["extractors"].items():
            ours = values["extractors"].get(name, {"weights": "none", "reference": {"sha256": "none"}})
            pairs.append((f"weights of {name}", ours["weights"], theirs["weights"]))
            pairs.append((f"references of {name}", ours["reference"]["sha256"], theirs["reference"]["sha256"]))
        _one_kind(path, first, pairs, "run `mar reference` and `mar evaluate` again")
        self._files[path] = values
        return values


def _head_in(weights: Path) -> int:
    """Parameters of the head in a file of weights: records of before they were counted there do not say."""
    from safetensors import safe_open

    with safe_open(weights, framework="np") as tensors:
        names = [name for name in tensors.keys() if name.startswith("head.")]  # noqa: SIM118
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)


def _one_kind(path: Path, first: Path, pairs: list[tuple[str, str, str]], again: str) -> None:
    """Refuse a file whose checksums (of what, its own, those of the file read first) are others."""
    for what, here, other in pairs:
        if here != other:
            raise ValueError(
                f"mixed {what} in one table: {path} has {here[:12]}, {first} has {other[:12]}; accepted: one for all; "
                f"{again}"
            )


def entry(values: dict[str, Any], path: Path, metric: str) -> dict[str, Any]:
    """A metric of a metric file.

    Raises:
        ValueError: the file lacks it.
    """
    if metric not in values["metrics"]:
        raise ValueError(f"{path}: metrics: {metric!r} is missing; found {', '.join(values['metrics'])}")
    found: dict[str, Any] = values["metrics"][metric]
    return found
