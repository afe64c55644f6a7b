"""The two stages that compute metrics: `reference` once for held-out real images, `evaluate` for every sample set.

A sample set is one of the study's, or one that others drew (`given`).

Both read features (step 1) and statistics (step 2) and open no image. All metrics are computed with the features of the
study's first extractor, and the Frechet distance with those of each further one. The real-versus-real floor, which is
reported beside every metric, is the same metric of held-out real images, as many as a sample set has if there are so
many.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mar.features import features, given, image_sets
from mar.features.features import Features
from mar.features.image_sets import Images
from mar.metrics import copies, formulas, moments, statistics
from mar.metrics.bootstrap import Bootstrap
from mar.metrics.moments import Statistics
from mar.metrics.real_images import Real, real, with_kept
from mar.runtime.files import read, sha256, write
from mar.runtime.provenance import provenance
from mar.runtime.shards import stage
from mar.study import layout
from mar.study.real_sets import real_side, scored
from mar.study.records import (
    ONE_CLASS,
    JudgedBy,
    Metric,
    MetricsFile,
    MetricsRecipe,
    SampleManifest,
)
from mar.study.stage_keys import metrics_key, reference_key
from mar.study.study import Study

DRAWS = 20  # number of random draws of held-out images that the floor of a Frechet distance is the mean of
SHUFFLED = f"inception_score is the mean over ten splits of the images, shuffled with seed {formulas.SEED}"
NO_IMAGES = "precision, recall and kid are left out: the reference has statistics and no images"


def reference(study: Study, root: str | Path) -> None:
    """Write metrics/reference.json: every metric of held-out real images, the real-versus-real floor.

    Raises:
        ValueError: `mar features` or `mar statistics` has not run for the real images.
    """
    root = Path(root)
    report = layout.reference_metrics(root)
    heldout: dict[str, Features] = {
        name: features.read(root, name, scored(study), "real") for name in study.metrics.extractors
    }
    against = _against(study, root, heldout)
    inputs = {name: found.sha256 for name, found in heldout.items()} | _sides(study, root)
    recipe = MetricsRecipe(slice=reference_key(study), inputs=inputs)
    place = report.with_name(".reference")
    with stage(report, lambda: read(report, MetricsFile).recipe == recipe, folder=place) as unfinished:
        if not unfinished:
            return
        main = study.metrics.extractors[0]
        against[main] = real(study, root, main)
        values, notes, chosen = measure_reference(study, heldout, against)
        spread = {name: moments.spread(side.statistics) for name, side in against.items()}
        found = _result(study, against, values, notes, recipe)
        write(report, found.model_copy(update={"copied": copies.of(heldout[main], chosen), "spread": spread}))
        print(f"{report}: {_shown(values)}", flush=True)


def measure_reference(
    study: Study, heldout: dict[str, Features], against: dict[str, Real]
) -> tuple[dict[str, Metric], list[str], np.ndarray]:
    """Every metric of held-out real images, notes that a reader of them needs, and which images they are of.

    Args:
        study: the study.
        heldout: features of the held-out images by each extractor, the main extractor first.
        against: the real side of each extractor.
    """
    main = study.metrics.extractors[0]
    labels = heldout[main].array("labels")
    chosen = balanced(labels, study.metrics.samples, seed=0)
    values, notes = compute(study, heldout, against, chosen)
    if len(chosen) < study.metrics.samples:
        notes.append(
            f"real versus real is of {len(chosen)} images, all that are held out for it: its FID is rather too high"
        )
    if len(chosen) < len(labels):
        for name, stored in heldout.items():
            key = "fid" if name == main else f"fid_{name}"
            values[key] = floor(study, values[key], stored.array("features"), labels, against[name].statistics)
        if "sfid" in values and (target := against[main].spatial) is not None:
            values["sfid"] = floor(study, values["sfid"], heldout[main].array("spatial"), labels, target)
    return values, notes, chosen


def again(study: Study, root: Path, set_name: str, images: bool) -> tuple[dict[str, Metric], Metric | None]:
    """Every metric of a sample set, or of `reference`, and its share of copies, as they are computed now from features.

    Args:
        study: the study.
        root: its results folder.
        set_name: name of the sample set, or `reference` for the held-out images.
        images: whether the features of the real images are there; else metrics that need them are left out.

    Raises:
        ValueError: features or statistics are missing, damaged, or of other weights than those of the real side.
    """
    held = set_name == "reference"
    place, role = (scored(study), "real") if held else (set_name, "generated")
    evaluated: dict[str, Features] = {name: features.read(root, name, place, role) for name in study.metrics.extractors}
    against = _against(study, root, evaluated)
    main = study.metrics.extractors[0]
    if images:
        against[main] = real(study, root, main)
    if held:
        values, _, chosen = measure_reference(study, evaluated, against)
        return values, copies.of(evaluated[main], chosen)
    return compute(study, evaluated, against)[0], copies.of(evaluated[main])


def evaluate(study: Study, root: str | Path, variant: str, seed: int, setting: str) -> None:
    """Write metrics/<variant>/seed<k>/<setting>.json: every metric of a sample set.

    Raises:
        ValueError: an earlier stage has not run; the features were computed by other weights than those of the real
            images, are of real images, or are of samples from another checkpoint than the present one.
    """
    root = Path(root)
    set_name = layout.sample_set(variant, seed, setting)
    samples = image_sets.of_samples(study, root, variant, seed, setting)
    checkpoint = read(layout.sample_manifest(root, set_name), SampleManifest).checkpoint
    about = {"variant": variant, "seed": seed, "setting": setting}
    _evaluate(study, root, set_name, samples, {"samples": samples.sha256, "checkpoint": checkpoint}, about)


def evaluate_given(study: Study, root: str | Path, name: str) -> None:
    """Write metrics/given/<name>.json: every metric of a sample set that others drew.

    Raises:
        ValueError: as `evaluate`; or the file is another one than the features are of.
    """
    root = Path(root)
    samples = given.opened(study, root, name)
    _evaluate(study, root, layout.given_set(name), samples, {"samples": samples.sha256}, {"given": samples.identity})


def _evaluate(
    study: Study, root: Path, set_name: str, samples: Images, inputs: dict[str, str], about: dict[str, Any]
) -> None:
    """Write metrics/<set>.json.

    Args:
        study: the study.
        root: its results folder.
        set_name: name of the set.
        samples: its images.
        inputs: checksum of each of its own inputs, by name.
        about: what a MetricsFile says of the set itself.
    """
    report = layout.metrics(root, set_name)
    generated: dict[str, Features] = {
        name: features.read(root, name, set_name, "generated") for name in study.metrics.extractors
    }
    for name, stored in generated.items():
        if statistics.read(root, name, set_name)[1].features != stored.sha256:
            raise ValueError(
                f"{layout.statistics(root, name, set_name)}: of other features; run `mar statistics` again"
            )
    for stored in generated.values():
        if stored.manifest.source is None or stored.manifest.source.sha256 != samples.sha256:
            raise ValueError(f"{stored.folder}: of other samples than {samples.source}; run `mar features` again")
    against = _against(study, root, generated)
    inputs |= {f"features {name}": stored.sha256 for name, stored in generated.items()} | _sides(study, root)
    recipe = MetricsRecipe(slice=metrics_key(study), inputs=inputs)
    place = report.with_name(f".{report.stem}")
    with stage(report, lambda: read(report, MetricsFile).recipe == recipe, folder=place) as unfinished:
        if not unfinished:
            return
        main = study.metrics.extractors[0]
        against[main] = with_kept(study, root, real(study, root, main), generated[main].count)
        values, notes = compute(study, generated, against)
        found = _result(study, against, values, notes, recipe, **about)
        write(report, found.model_copy(update={"copied": copies.of(generated[main])}))
        print(f"{report}: {_shown(values)}", flush=True)


def compute(
    study: Study, evaluated: dict[str, Features], against: dict[str, Real], chosen: np.ndarray | None = None
) -> tuple[dict[str, Metric], list[str]]:
    """All metrics of one set of images, by name, and notes that a reader of them needs.

    Args:
        study: the study.
        evaluated: features of the set by each extractor, the main extractor first.
        against: the real side of each extractor.
        chosen: ascending indices of the images that are evaluated, (n,); default: all.
    """
    names = list(evaluated)
    main = evaluated[names[0]]
    chosen = np.arange(main.count) if chosen is None else chosen
    arrays = {key: main.rows(key, chosen) for key in main.keys}
    labels, notes = arrays.get("labels"), []
    if labels is None:  # only of a set that others drew
        notes.append(ONE_CLASS)
    strata = np.zeros(len(chosen), dtype=np.int64) if labels is None else labels
    draw, target = Bootstrap(strata, study.metrics.bootstrap, study.seed), against[names[0]]
    _check_width(main, arrays["features"], target)
    values: dict[str, Metric] = {"fid": draw.fid(arrays["features"], target.statistics)}
    if (extrapolated := draw.fid_infinity(arrays["features"], target.statistics)) is not None:
        values["fid_infinity"] = extrapolated
    if "spatial" in arrays and target.spatial is not None:
        values["sfid"] = draw.fid(arrays["spatial"], target.spatial)
    if "logits" in arrays:
        values["inception_score"] = draw.inception_score(arrays["logits"])
        notes.append(SHUFFLED)
    if target.features is None:
        notes.append(NO_IMAGES)
    else:
        if study.metrics.real == "heldout":
            notes.append(f"precision and recall of {len(chosen)} images are against {len(target.features)} real ones")
        precision, recall = draw.precision_recall(
            arrays["features"], target.features, study.metrics.neighbours, target.nearest
        )
        values |= {
            "precision": precision,
            "recall": recall,
            "kid": draw.kid(arrays["features"], target.features, target.class_bias, target.kernels),
        }
    if names[0] == "classifier" and labels is not None:  # only its logits are for the classes of the study
        values["agreement"] = draw.share(arrays["logits"].argmax(1) == labels, higher_is_better=True)
    if "nearest" in arrays:
        values["nearest"] = draw.mean(arrays["nearest"], higher_is_better=None)
    for name in names[1:]:
        rows = evaluated[name].rows("features", chosen)
        _check_width(evaluated[name], rows, against[name])
        values[f"fid_{name}"] = draw.fid(rows, against[name].statistics)
    return values, notes


def floor(study: Study, first: Metric, rows: np.ndarray, labels: np.ndarray, target: Statistics) -> Metric:
    """Real-versus-real Frechet distance: the mean over DRAWS random draws of held-out images.

    Each draw has as many images as a sample set, equally many of each class.

    Args:
        study: the study.
        first: the metric of the first draw; its interval is moved to the mean.
        rows: features of the held-out split, (N, F).
        labels: classes of its images, (N,).
        target: statistics of the real side.
    """
    root = formulas.symmetric_root(target["sigma"])
    draws = [rows[balanced(labels, study.metrics.samples, seed)] for seed in range(DRAWS)]
    value = float(np.mean([formulas.frechet(moments.of(drawn), target, root) for drawn in draws]))
    low, high = (value + end - first.value for end in (first.low, first.high))
    return first.model_copy(update={"value": value, "low": low, "high": high})


def balanced(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Ascending indices of at most `count` random images, equally many of each class as in a sample set, each once.

    A class with fewer images contributes all it has. No image is drawn twice: it would be its own nearest neighbour and
    would make intervals too narrow.
    """
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    sizes = np.bincount(np.arange(count) % len(classes), minlength=len(classes))
    members = [np.flatnonzero(labels == c) for c in classes]
    rows = [rng.choice(pool, min(n, len(pool)), replace=False) for pool, n in zip(members, sizes, strict=True)]
    return np.sort(np.concatenate(rows))


def _against(study: Study, root: Path, evaluated: dict[str, Features]) -> dict[str, Real]:
    """The real side of each extractor, without features, checked to be by the weights of the evaluated features."""
    against: dict[str, Real] = {name: real(study, root, name, images=False) for name in evaluated}
    for name, stored in evaluated.items():
        _check_weights(stored, against[name])
    return against


def _sides(study: Study, root: Path) -> dict[str, str]:
    """Checksums of the files of statistics of the real images, by `real <extractor>`."""
    files = {name: layout.statistics(root, name, real_side(study, name)) for name in study.metrics.extractors}
    return {f"real {name}": sha256(file) for name, file in files.items()}


def _check_weights(evaluated: Features, against: Real) -> None:
    """Refuse features by other weights than those of the real side."""
    network, other = evaluated.manifest.extractor, against.extractor
    if network.weights != other.weights:
        raise ValueError(
            f"{evaluated.folder}: features by {network.name} with weights {network.weights[:12]}, those of "
            f"{against.identity.name} with {other.weights[:12]}; accepted: the same; run `mar features` again"
        )


def _check_width(evaluated: Features, rows: np.ndarray, against: Real) -> None:
    """Refuse features (n, F) with another F than those of the real side."""
    if rows.shape[1] != (width := len(against.statistics["mu"])):
        raise ValueError(
            f"{evaluated.folder}: {rows.shape[1]} features an image, those of {against.identity.name} have {width}; "
            "accepted: the same; run `mar features` and `mar statistics` again"
        )


def _result(
    study: Study,
    against: dict[str, Real],
    values: dict[str, Metric],
    notes: list[str],
    recipe: MetricsRecipe,
    **about: Any,
) -> MetricsFile:
    main = study.metrics.extractors[0]
    return MetricsFile(
        **about,
        samples=study.metrics.samples,
        extractor=main,
        extractors={
            name: JudgedBy(weights=side.extractor.weights, note=side.extractor.note, reference=side.identity)
            for name, side in against.items()
        },
        reference=against[main].identity,
        notes=tuple(notes),
        metrics=values,
        inputs=recipe.inputs,
        recipe=recipe,
        provenance=provenance(),
    )


def _shown(values: dict[str, Metric]) -> str:
    return ", ".join(f"{key} {m.value:.4g} ({m.low:.4g} to {m.high:.4g})" for key, m in values.items())
