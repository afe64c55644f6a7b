"""What a study costs before it runs: images, parameters, operations, A100 hours and disk of every job.

`mar plan` counts operations (`mar/planning/costs.py`) and keeps them in plan.json, so that an unchanged study is not
counted again. The workflow asks `check` when it is read, so nothing here imports torch: a study with a budget whose
counts are not there is counted once, in a process of its own.

GPU hours are operations / (peak x utilisation). The peaks are those of an A100 for the arithmetic that a stage uses.
The utilisation is one number for all stages, by default that of the authors' fastest reported training; a probe of
the reader's own machine replaces it (`utilisation_of`).
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mar.data import image_files, imagenet, sources
from mar.planning import gpus, kept_costs
from mar.runtime.files import read
from mar.sampling.sweep import most
from mar.study import layout, lengths
from mar.study.compatibility import known
from mar.study.limits import AXES, LEARNED, LOOKED_AT, REAL
from mar.study.parts import Recipe, Sampling
from mar.study.products import learning_setting, speed_settings, used_tokenizers
from mar.study.real_sets import COMPARED, FLOOR, real_side, scored
from mar.study.records import DataManifest, GpuCheckRecord, PlanRecord, VariantCosts
from mar.study.sections import TASKS, Budget
from mar.study.study import Study

# A100 SXM, dense, operations a second: tensor cores in bf16; convolutions in fp32 (TF32, torch's default for them);
# matrix products in fp32, which torch leaves without TF32.
PEAK = {"bf16": 312e12, "fp16": 312e12, "tf32": 156e12, "fp32": 19.5e12}

# Authors' README: MAR-L (denoiser 8x1280), 400 epochs on cached latents, 16 H100 for 1 day and 11 hours: 0.467e21
# operations / (560 h x 989e12 a second). On images, tokenizer included, 32 H100 for 31 hours are 0.15, and the paper's
# 128 V100 (125e12 a second) for 2.6 days 0.15 as well.
UTILISATION = 0.23

CHECKPOINTS = 2  # kept of a training, each with weights, average and Adam's two moments: 16 bytes a parameter
HOURS = 3600.0
TITLES = ("job", "images", "parameters", "operations", "A100 hours", "GPU GiB", "tokens GB", "weights GB", "samples GB")


@dataclass(frozen=True)
class Job:
    """One job of the workflow. `flops` are operations, sizes are bytes on disk when it is done.

    `gpu_gib` is what its GPU must have, 0 where it needs none.
    """

    stage: str
    name: str
    images: int
    parameters: int = 0
    flops: float = 0.0
    arithmetic: str = "fp32"
    tokens: float = 0.0
    weights: float = 0.0
    samples: float = 0.0
    gpu_gib: float = 0.0

    def hours(self, utilisation: float) -> float:
        """A100 hours."""
        return self.flops / (PEAK[self.arithmetic] * utilisation) / HOURS

    @property
    def disk(self) -> float:
        """Bytes on disk."""
        return self.tokens + self.weights + self.samples


@dataclass(frozen=True)
class Images:
    """How many there are: told by `prepare`, by `expect`, or by what digits are."""

    train: int
    heldout: int
    classes: int
    known: bool = True


def count_images(study: Study, root: Path | None = None) -> Images:
    """Images of a study.

    Of a user's images that `prepare` has not counted yet, those count that are images by their names. Where they are
    not on this machine, nothing is known: no images. Without `root` nothing is looked for.
    """
    manifest = layout.data_manifest(root) if root else None
    if manifest and manifest.exists():
        found = read(manifest, DataManifest)
        return Images(found.splits["train"].count, found.splits["heldout"].count, classes=len(found.classes))
    aside = study.data.set_aside or 0
    if study.data.totals == "imagenet":
        return Images(imagenet.TOTALS["train"][0] - aside, imagenet.TOTALS["val"][0] + aside, imagenet.CLASSES)
    if study.data.unread:
        return Images(0, 0, study.data.classes or 0)
    if study.data.counted:
        train, heldout = study.data.counted
        return Images(train - aside, heldout + aside, study.data.classes or 0)
    if root and study.data.decoded and (listed := _listed(study)):
        return listed
    return Images(0, 0, study.data.classes or imagenet.CLASSES, known=False)


def _listed(study: Study) -> Images | None:
    """Images of a user by their names; None where they are not there, or not as `prepare` takes them."""
    try:
        found = sources.scan(Path(str(study.data.folder))).found
    except ValueError:
        return None
    share = 0.0 if "val" in found else study.data.holdout
    train, heldout = 0, study.data.set_aside or 0
    for half, listed in found.items():
        labels = Counter(label for path, label, _ in listed["files"] if not image_files.why_no_image_name(path))
        for count in labels.values():
            out = count if half == "val" else round(share * count)
            train, heldout = train + count - out, heldout + out
    return Images(train - (study.data.set_aside or 0), heldout, len(found["train"]["classes"]))


def jobs(study: Study, images: Images, costs: PlanRecord) -> list[Job]:
    """Every job of the study that computes, in the order of the stages; figures and tables cost nothing.

    Variants without seeds, and tokenizers that no other variant uses, are declared and not run. Files that a study
    takes over from another one (`reuse`) count as if they were made here.
    """
    trained = {name: v for name, v in study.variants.items() if v.seeds}
    found = list(_judge_jobs(study, images, costs))
    for name in sorted(used_tokenizers(study)):
        found += _tokenizer_jobs(study, name, images, costs)
    order = (
        *("prepare", "classifier", "rejecter", "tokenizer", "encode", "train", "sweep", "sample", "features"),
        *("statistics", "reference", "rfid", "evaluate", "learning", "tasks", "speed"),
    )
    for name in trained:
        found += _variant_jobs(study, name, images, costs)
    needs = gpus.needs(study, costs.memory) if costs.memory else []
    found = [replace(job, gpu_gib=gpus.of_job(needs, job.stage, job.name)) for job in found]
    return sorted(found, key=lambda job: order.index(job.stage))


def _judge_jobs(study: Study, images: Images, costs: PlanRecord) -> Iterator[Job]:
    yield Job("prepare", "", images.train + images.heldout)
    floor = images.heldout // (4 if scored(study) == FLOOR else 1)
    main = study.metrics.extractors[0]
    if "classifier" in study.metrics.extractors and study.classifier:
        judge, seen = costs.judges["classifier"], study.classifier.images
        flops = 3 * seen * judge.forward  # backward included
        yield Job("classifier", "", seen, judge.parameters, flops, weights=4.0 * judge.parameters)
    if study.rejecter and costs.rejecter and study.rejecter.images:
        own, seen = costs.rejecter, study.rejecter.images
        yield Job("rejecter", "", seen, own.parameters, 3 * seen * own.forward, weights=4.0 * own.parameters)
    for name in study.metrics.extractors:
        side = real_side(study, name)
        real = {"train": images.train, "reference": REAL}.get(side, images.heldout // 2)  # ADM's batch has as many
        yield from _features_jobs(study, name, side, real, images, costs)
        if not study.data.unread:
            yield _features_job(study, name, scored(study), floor, images, costs)  # whose statistics nobody asks for
    if not study.data.unread:
        judged = min(study.metrics.samples, floor)
        yield Job("reference", "", judged, flops=_distances(judged, costs.judges[main].features))
    n = study.metrics.samples
    for given in map(layout.given_set, study.given):
        for extractor in study.metrics.extractors:
            yield from _features_jobs(study, extractor, given, n, images, costs)
        yield Job("evaluate", given, n, flops=_distances(n, costs.judges[main].features))


def _features_jobs(study: Study, extractor: str, name: str, n: int, images: Images, costs: PlanRecord) -> Iterator[Job]:
    """Features and statistics of one set of images by one network."""
    yield _features_job(study, extractor, name, n, images, costs)
    judge = costs.judges[extractor]
    squares = judge.features**2 + judge.spatial**2
    yield Job("statistics", f"{extractor}/{name}", n, flops=2.0 * n * squares, samples=8.0 * squares)


def _features_job(study: Study, extractor: str, name: str, n: int, images: Images, costs: PlanRecord) -> Job:
    judge = costs.judges[extractor]
    nearest = extractor == study.metrics.extractors[0] and name not in COMPARED
    flops = n * (judge.forward + (_nearest(study, images) if nearest else 0.0))
    stored = 4.0 * n * (judge.features + judge.logits + judge.spatial)
    return Job("features", f"{extractor}/{name}", n, judge.parameters, flops, samples=stored)


def _distances(n: int, features: int) -> float:
    """Operations of precision and recall: distances of n images to each other and, twice, to the real ones."""
    return 2.0 * features * n * (n + 2 * REAL)


def _nearest(study: Study, images: Images) -> float:
    """Operations of the search of the nearest among all real images for one image, where it is looked for.

    That is the bound by AXES axes of `mar/features/neighbours.py`; the few exact comparisons are left out.
    """
    size = 3 * study.data.image_size**2
    found = 2.0 * AXES * (size + images.train + images.heldout)
    return found if size * images.train <= LOOKED_AT else 0.0


def _tokenizer_jobs(study: Study, name: str, images: Images, costs: PlanRecord) -> Iterator[Job]:
    section, config, _ = study.instances[name]
    cost = costs.tokenizers[section]
    count, seen = cost.parameters, config.images or 0
    # an import lies in results/assets, and installed in the study
    weights = 4.0 * count * (2 if config.pretrained else 1)
    yield Job("tokenizer", name, seen, count, seen * cost.training, "tf32", weights=weights)
    rebuilt = min(images.train, study.metrics.rebuilt) + min(images.heldout, study.metrics.rebuilt)
    judge = costs.judges[study.metrics.extractors[0]].forward
    flops = rebuilt * (cost.encode + cost.decode + 2 * judge)  # the images themselves are judged too
    if config.sides:  # held-out images are rebuilt from each number of first scales too
        heldout = min(images.heldout, study.metrics.rebuilt)
        flops += heldout * (cost.encode + (len(config.sides) - 1) * (cost.decode + judge))
    yield Job("rfid", name, rebuilt, count, flops, "tf32")
    views = (images.train + images.heldout) * (2 if study.data.flip else 1)
    numbers = config.token_dim * (2 if config.stored == "moments" else 1)  # mean and log variance
    stored = views * 4.0 * study.tokens(section) * (1 if config.ids else numbers)
    yield Job("encode", name, views, count, views * cost.encode, "tf32", tokens=stored)


def _variant_jobs(study: Study, name: str, images: Images, costs: PlanRecord) -> Iterator[Job]:
    v, metrics, cost = study.variants[name], study.metrics, costs.variants[name]
    recipe, count, drawn = study.recipes[v.recipe], cost.parameters, cost.sampling
    decode = costs.tokenizers[v.tokenizer].decode
    judge = costs.judges[metrics.extractors[0]]
    for setting in v.sampling if v.seeds else ():
        if (sweep := study.sampling[setting].sweep) is None:
            continue
        n = sweep.samples * most(sweep)
        flops, dtype = n * (drawn[setting] + decode + judge.forward), _arithmetic(study.sampling[setting])
        yield Job("sweep", f"{name}/{setting}", n, count, flops, dtype)
    for seed in v.seeds:
        run = f"{name}/seed{seed}"
        if v.pretrained:
            yield Job("train", run, 0, count, weights=8.0 * count)
        else:
            flops = recipe.images * cost.training
            weights = (4.0 * max(1, len(recipe.points)) + 16.0 * CHECKPOINTS) * count
            yield Job("train", run, recipe.images, count, flops, _arithmetic(recipe), weights=weights)
        if recipe.points and not v.pretrained:
            yield _learning_job(study, name, run, images, cost, decode + judge.forward)
        for setting in v.sampling:
            n = metrics.samples
            stored = 3.0 * n * study.data.image_size**2
            flops = n * _kept(study, setting, drawn[setting] + decode, costs)
            dtype = _arithmetic(study.sampling[setting])
            yield Job("sample", f"{run}/{setting}", n, count, flops, dtype, samples=stored)
            for extractor in metrics.extractors:
                yield from _features_jobs(study, extractor, f"{run}/{setting}", n, images, costs)
            yield Job("evaluate", f"{run}/{setting}", n, flops=_distances(n, judge.features))
    if (section := study.tasks) and v.seeds and name in section.models:
        tok, stored = costs.tokenizers[v.tokenizer], 3.0 * study.data.image_size**2
        each = tok.encode + drawn[section.models[name]] + decode + 3 * judge.forward  # the drawn, exchanged and rebuilt
        n, dtype = len(TASKS) * section.samples, _arithmetic(study.sampling[section.models[name]])
        yield Job("tasks", f"{name}/seed{v.seeds[0]}", n, count, n * each, dtype, samples=n * stored)
    if v.seeds and (timed := speed_settings(study, name)):
        n = study.speed.batch * (study.speed.batches + 1)
        flops = n * sum(_kept(study, s, drawn[s] + decode, costs) for s in timed)
        yield Job("speed", name, n * len(timed), count, flops, _arithmetic(study.sampling[timed[0]]))


def _kept(study: Study, setting: str, drawn: float, costs: PlanRecord) -> float:
    """Operations of an image of a sample set, where an image that is drawn once takes `drawn`.

    A setting that rejects counts with all its tries, since nobody knows before how many images are accepted.
    """
    reject = study.sampling[setting].reject
    if reject is None or costs.rejecter is None:
        return drawn
    return reject.tries * (drawn + costs.rejecter.forward)


def _learning_job(study: Study, name: str, run: str, images: Images, cost: VariantCosts, judged: float) -> Job:
    """Losses of a training at its points, a third of training's operations, and images drawn and judged there.

    A masked backbone is measured at four mask ratios. The ten images of a picture are not counted.
    """
    v = study.variants[name]
    recipe = study.recipes[v.recipe]
    ratios = 4 if study.backbones[v.backbone].masks else 1
    looked = ratios * (min(images.train, LEARNED) + min(images.heldout, LEARNED))
    flops = looked * cost.training / recipe.masks_per_image / 3
    samples = 0
    if study.learning and (setting := learning_setting(study, name)):
        samples = study.learning.samples
        flops += samples * (cost.sampling[setting] + judged)
    times = len(recipe.points)
    return Job("learning", run, times * (looked + samples), cost.parameters, times * flops)


def _arithmetic(part: Recipe | Sampling) -> str:
    """The key of PEAK for a training or a sampling; what a head or decoder computes more exactly is not told apart."""
    return "tf32" if part.dtype == "fp32" and part.tf32 else part.dtype


def total(found: list[Job], name: str = "total") -> Job:
    """The sum of jobs, of memory the most; `hours` of it has no meaning, as their arithmetic differs: add theirs up."""
    sums = {key: sum(getattr(job, key) for job in found) for key in ("images", "flops", "tokens", "weights", "samples")}
    return replace(Job("", name, 0, gpu_gib=max((job.gpu_gib for job in found), default=0.0)), **sums)


def utilisation_of(study: Study, probe: str) -> float:
    """Utilisation from a measured training.

    On another GPU than an A100 it is a share of an A100's peak all the same, and the hours of the plan are its own.

    Args:
        study: the study.
        probe: `VARIANT=IMAGES_PER_SECOND` on one GPU, or the path of a file of `python -m benchmarks.gpu_check`, of
            which the first variant counts that the study has.

    Raises:
        ValueError: the probe is not of that form, or the study has no such variant.
    """
    if probe.endswith(".json"):
        measured = read(Path(probe), GpuCheckRecord)
        if measured.versions.get("device") == "cpu":
            raise ValueError(f"--measured {probe}: measured on a CPU; accepted: a file of a GPU")
        names = [name for name in measured.training if name in study.variants]
        if not names:
            found = ", ".join(measured.training) or "none"
            raise ValueError(f"--measured {probe}: found {found}; accepted: one of {', '.join(study.variants)}")
        probe = f"{names[0]}={measured.training[names[0]]}"
    name, _, rate = probe.partition("=")
    try:
        per_second = float(rate)
    except ValueError:
        per_second = 0.0
    if not 0.0 < per_second < float("inf"):
        raise ValueError(f"--measured {probe}: accepted: VARIANT=IMAGES_PER_SECOND, in training on one GPU")
    known("--measured", name, study.variants)
    from mar.planning import costs

    backbone, head, recipe, tokens = costs.parts(study, name, count_images(study).classes)
    return per_second * costs.training(backbone, head, tokens, recipe) / PEAK[_arithmetic(recipe)]


def check(study: Study, root: Path, utilisation: float = UTILISATION, count: bool = True) -> bool:
    """Refuse a study that costs more than its budget, or that does not fit the GPU that it names.

    Args:
        study: the study.
        root: its results.
        utilisation: share of a GPU's peak that its work reaches.
        count: count what it needs where no counts are kept, which takes a minute at the sizes of ImageNet.

    Returns:
        Whether that is known: False where no counts are kept and none are to be made.

    Raises:
        ValueError: with the estimate, the cap and its key, and of a GPU with what would fit; or `mar plan` failed.
    """
    budget, gib = study.budget or Budget(), study.memory.gpu_gib
    if study.budget is None and gib is None:
        return True
    images = count_images(study, root)
    study = lengths.count(study, images.train) if images.known else study
    costs = whole = kept_costs.find(study, root, images.classes, gib is not None)
    if costs is None and not count:
        costs = kept_costs.find(study, root, images.classes)  # the budget needs no memory
    if costs is None and not count:
        return False
    if costs is None:
        command = [sys.executable, "-m", "mar.cli", "plan", "--study", str(layout.study(root))]
        told = subprocess.run(command, capture_output=True, text=True)
        costs = whole = kept_costs.find(study, root, images.classes, gib is not None)
        if told.returncode or costs is None:
            raise ValueError(
                f"{layout.plan(root)}: `mar {' '.join(command[3:])}` wrote no counts: {told.stderr.strip()}"
            )
    if gib and costs.memory and (too := gpus.too_large(study, costs.memory, gib)):
        raise ValueError(f"study {study.study}: memory.gpu_gib {gib:g}: some jobs do not fit\n{too}")
    found = jobs(study, images, costs)
    hours, disk = sum(job.hours(utilisation) for job in found), total(found).disk / 1e9
    for key, cap, need, unit in (
        ("gpu_hours", budget.gpu_hours, hours, "A100 hours"),
        ("disk_gb", budget.disk_gb, disk, "GB"),
    ):
        if cap is not None and need > cap:
            raise ValueError(
                f"study {study.study}: budget.{key} {cap:,g}: the estimate is {need:,.0f} {unit} (`mar plan --study "
                f"{study.study}` shows each job); accepted: a budget above it, or a smaller study"
            )
    return whole is not None


def rows(found: list[Job], utilisation: float) -> list[dict[str, float | int | str]]:
    """The jobs with their hours, as a CSV file has them."""
    return [
        {**asdict(job), "gpu_hours": job.hours(utilisation), "disk": job.disk, "utilisation": utilisation}
        for job in found
    ]


def text(study: Study, found: list[Job], images: Images, costs: PlanRecord, utilisation: float) -> str:
    """The table: every job, the sum of each stage, the total, and what the hours rest on."""
    lines = [_line(f"{job.stage} {job.name}".strip(), job, job.hours(utilisation)) for job in found]
    sums = []
    for stage in dict.fromkeys(job.stage for job in found):
        of_stage = [job for job in found if job.stage == stage]
        label = f"{stage}: {len(of_stage)} {'job' if len(of_stage) == 1 else 'jobs'}"
        sums.append(_line(label, total(of_stage), sum(job.hours(utilisation) for job in of_stage)))
    hours, everything = sum(job.hours(utilisation) for job in found), total(found)
    last = _line("total", everything, hours)
    widths = [max(len(row[i]) for row in (*lines, *sums, last, TITLES)) for i in range(len(TITLES))]

    def show(row: tuple[str, ...]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    out = [show(TITLES), rule, *map(show, lines), rule, *map(show, sums), rule, show(last), ""]
    out.append(
        f"disk: {everything.disk / 1e9:,.1f} GB (weights: {CHECKPOINTS} checkpoints of each training and its average)"
    )
    out.append(
        f"A100 hours: operations / (peak x utilisation {utilisation:.3g}); peaks {PEAK['bf16'] / 1e12:g} (bf16), "
        f"{PEAK['tf32'] / 1e12:g} (convolutions in fp32) and {PEAK['fp32'] / 1e12:g} TFLOP/s (fp32)"
    )
    if costs.memory:
        out.append(gpus.text(study, costs.memory))
    if not images.known:
        out.append("images: `mar prepare` has not counted them yet; tokens and their encoding are left out")
    if lengths.has_epochs(study):
        out.append("epochs: the images are not counted, so trainings with a length in epochs show the most, or 0")
    if study.reuse:
        out.append(f"reuse {study.reuse}: finished files of equal recipe are taken over, and still counted here")
    out.append(f"budget: {budget_of(study)}")
    return "\n".join(out)


def budget_of(study: Study) -> str:
    """The caps of a study, as text."""
    budget = study.budget
    caps = [] if budget is None else [("gpu_hours", budget.gpu_hours), ("disk_gb", budget.disk_gb)]
    return ", ".join(f"{key} {cap:,g}" for key, cap in caps if cap is not None) or "none"


def _line(label: str, job: Job, hours: float) -> tuple[str, ...]:
    sizes = [_number(value / 1e9) for value in (job.tokens, job.weights, job.samples)]
    counts = f"{job.images:,}", _big(job.parameters), _big(job.flops)
    return label, *counts, _number(hours), _number(job.gpu_gib), *sizes


def _number(value: float) -> str:
    return "" if value == 0 else f"{value:,.1f}" if value >= 0.1 else "<0.1"


def _big(value: float) -> str:
    """A number with a unit: 942.4M, 1.87Z."""
    if value == 0:
        return ""
    for unit, size in (("Z", 1e21), ("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:,.4g}{unit}"
    return f"{value:g}"
