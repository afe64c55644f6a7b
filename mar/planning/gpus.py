"""What each job needs of a GPU's memory, and what would fit where it is too much; no torch.

The peaks are counted without a GPU (`mar/planning/memory.py`) and kept in plan.json. A GPU must have more:
`HEADROOM` for the context of CUDA and what its libraries take while a kernel runs, and `FRAGMENTS` of the peak for
memory that torch's allocator has and cannot use.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from mar.study import at_once
from mar.study.parts import Sampling
from mar.study.products import learning_setting, speed_settings, used_tokenizers
from mar.study.records import Peak, Peaks, TrainingPeak
from mar.study.sections import Resources
from mar.study.study import Study

GIB = 2**30
HEADROOM = 3 * GIB
FRAGMENTS = 0.05
SIZES = (40.0, 80.0)  # GiB of GPUs in the plan


class Need(NamedTuple):
    """What one network of a job needs.

    Attributes:
        stage: the stage.
        name: the job.
        peak: its memory.
        images: images at once.
        beside: bytes of weights of other networks that lie beside it.
        key: key of the study by which fewer images go through it at once.
        divides: what the number of images must divide; 0 for nothing.
        split: the same with `sharding: full` on the GPUs that a training asks for; None where it has that, or one GPU.
    """

    stage: str
    name: str
    peak: Peak
    images: int
    beside: float
    key: str
    divides: int = 0
    split: Peak | None = None

    def bytes(self, images: int) -> float:
        """Bytes that a GPU must have for so many images at once."""
        return HEADROOM + (1 + FRAGMENTS) * (self.peak.at(images) + self.beside)

    @property
    def gib(self) -> float:
        """GiB that a GPU must have."""
        return self.bytes(self.images) / GIB

    def fitting(self, gib: float) -> int:
        """The largest number of images at once that fits a GPU; 0 if not even one does."""
        numbers = (n for n in range(self.images, 0, -1) if not (self.divides and self.divides % n))
        return next((n for n in numbers if self.bytes(n) <= gib * GIB), 0)


def needs(study: Study, peaks: Peaks) -> list[Need]:
    """What every network of every job needs that runs on a GPU."""
    return [*_of_judges(study, peaks), *_of_tokenizers(study, peaks), *_of_variants(study, peaks)]


def _of_judges(study: Study, peaks: Peaks) -> Iterator[Need]:
    if peaks.classifier and study.classifier and "classifier" in study.metrics.extractors:
        yield Need("classifier", "", peaks.classifier, study.classifier.batch, 0.0, "classifier.batch")
    for name in study.metrics.extractors:
        yield Need("features", name, peaks.judges[name], at_once.judged(study, name), 0.0, "memory.features")


def _of_tokenizers(study: Study, peaks: Peaks) -> Iterator[Need]:
    main = study.metrics.extractors[0]
    judge = peaks.judges[main]
    for name in used_tokenizers(study):
        section, config, _ = study.instances[name]
        if section in peaks.tokenizers:
            yield Need("tokenizer", name, peaks.tokenizers[section], config.batch, 0.0, f"tokenizers.{section}.batch")
        encoding, decoding = peaks.encoding[section], peaks.decoding[section]["fp32"]
        images = at_once.encoded(study, section, at_once.BATCH)
        rebuilt = at_once.decoded(study, section, at_once.BATCH)
        yield Need("encode", name, encoding, images, 0.0, "memory.encode")
        beside = _weights(judge)
        yield Need("rfid", name, encoding, images, beside, "memory.encode")
        yield Need("rfid", name, decoding, rebuilt, beside, "memory.decode")
        yield Need("rfid", name, judge, at_once.judged(study, main), _weights(encoding), "memory.features")


def _of_variants(study: Study, peaks: Peaks) -> Iterator[Need]:
    judge, chunk = peaks.judges[study.metrics.extractors[0]], study.metrics.chunk
    for name, v in study.variants.items():
        if not v.seeds:
            continue
        recipe = study.recipes[v.recipe]
        if name in peaks.trainings:
            key, images = f"recipes.{v.recipe}.micro_batch", recipe.micro_batch or recipe.batch
            yield _of_training(name, peaks.trainings[name], v.resources, key, images, recipe.batch)
        for setting in v.sampling:
            swept = study.sampling[setting].sweep is not None
            for stage, beside in (("sample", 0.0), *((("sweep", _weights(judge)),) if swept else ())):
                yield from _of_setting(study, peaks, stage, name, setting, chunk, beside)
        if recipe.points and not v.pretrained and (along := learning_setting(study, name)):
            yield from _of_setting(study, peaks, "learning", name, along, chunk, _weights(judge))
        if study.tasks and name in study.tasks.models:
            yield from _of_setting(study, peaks, "tasks", name, study.tasks.models[name], chunk, _weights(judge))
        for setting in speed_settings(study, name):
            yield from _of_setting(study, peaks, "speed", name, setting, study.speed.batch, 0.0)


def _of_training(name: str, peak: TrainingPeak, resources: Resources | None, key: str, images: int, batch: int) -> Need:
    gpus = resources.nodes * resources.gpus_per_node if resources else 1
    if resources and resources.sharding == "full":
        return Need("train", name, peak.among(gpus), images, 0.0, key, batch)
    return Need("train", name, peak, images, 0.0, key, batch, peak.among(gpus) if gpus > 1 else None)


def _of_setting(
    study: Study, peaks: Peaks, stage: str, variant: str, setting: str, count: int, beside: float
) -> Iterator[Need]:
    """Drawing and decoding of `count` images at a setting; the weights of model and tokenizer are there in both."""
    section, settings = study.variants[variant].tokenizer, study.sampling[setting].points[-1]
    drawing, decoding = peaks.drawing[variant][setting], peaks.decoding[section][_decoded_in(settings)]
    job = stage, f"{variant}/{setting}"
    images = at_once.drawn(study, variant, settings, count)
    yield Need(*job, drawing, images, beside + _weights(decoding), "memory.sampling")
    images = at_once.decoded(study, section, count)
    yield Need(*job, decoding, images, beside + _weights(drawing), "memory.decode")


def _decoded_in(settings: Sampling) -> str:
    return settings.head_dtype or settings.dtype


def _weights(peak: Peak) -> float:
    """Bytes of a peak that no image adds to: of a network's weights, or a little more."""
    return max(0.0, peak.at(0))


def of_job(needs: list[Need], stage: str, name: str) -> float:
    """GiB that a GPU of a job must have, by the name that `mar plan` gives it; 0 where it needs none."""
    short = re.sub(r"/seed\d+", "", name)  # seeds of a variant need the same
    first = short.partition("/")[0]
    of = (n for n in needs if n.stage == stage and (n.name in (short, first) or n.name.partition("/")[0] == short))
    return max((need.gib for need in of), default=0.0)


def text(study: Study, peaks: Peaks) -> str:
    """What the column of memory rests on, and what does not fit GPUs of usual sizes."""
    lines = [f"GPU GiB: peak of a job, {FRAGMENTS:.0%} for fragments, {HEADROOM / GIB:g} for CUDA and its libraries"]
    for gib in sorted({*SIZES, study.memory.gpu_gib or SIZES[0]}):
        named = " (memory.gpu_gib)" if gib == study.memory.gpu_gib else ""
        too = too_large(study, peaks, gib)
        lines.append(f"a GPU of {gib:g} GiB{named}: {'fits' if not too else 'too small:'}")
        lines += [f"  {line}" for line in too.splitlines()]
    return "\n".join(lines)


def too_large(study: Study, peaks: Peaks, gib: float) -> str:
    """What does not fit a GPU, and what would, a line for each key of the study; empty if all fits."""
    by_key: dict[str, list[Need]] = {}
    for need in needs(study, peaks):
        if need.gib > gib:
            by_key.setdefault(need.key, []).append(need)
    lines = []
    for key, of in by_key.items():
        worst, fits = max(of, key=lambda need: need.gib), min(need.fitting(gib) for need in of)
        more = f" and {len(of) - 1} more" if len(of) > 1 else ""
        accepted = [f"{key} {fits} or less"] if fits else []
        section, _, rest = key.partition(".")
        if section == "recipes" and not study.recipes[name := rest.rpartition(".")[0]].gradient_checkpointing:
            accepted.append(f"recipes.{name}.gradient_checkpointing, which needs less")
        if all(need.split and need._replace(peak=need.split).gib <= gib for need in of):
            accepted.append("resources.sharding full")
        accepted.append(f"a GPU of {math.ceil(worst.gib)} GiB")
        needed = f"{worst.gib:.1f} GiB with {worst.images} images at once"
        lines.append(f"{worst.stage} {worst.name}{more}: {needed}; accepted: {', or '.join(accepted)}")
    return "\n".join(lines)
