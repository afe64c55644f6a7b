"""The two stages that judge: `reference` once for the real images, `evaluate` for every sample set.

Both read features (step 1) and statistics (step 2) and look at no image. The study's first extractor has all metrics; a
further one has the Frechet distance of its features. Beside every number stands the same of real images: the held-out
split, or as many of its images as a sample set has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mar.features import features, image_sets
from mar.features.features import Features
from mar.metrics import formulas, moments, statistics
from mar.metrics.bootstrap import Bootstrap
from mar.metrics.moments import Statistics
from mar.runtime.files import read, sha256, write
from mar.runtime.provenance import provenance
from mar.runtime.shards import stage
from mar.study import layout
from mar.study.limits import REAL
from mar.study.records import Judge, JudgedBy, Metric, MetricsFile, MetricsRecipe, RealSide, SampleManifest
from mar.study.stage_keys import metrics_key, real_side, reference_key
from mar.study.study import Study

DRAWS = 20  # of the held-out images, for the floor
SHUFFLED = f"inception_score is the mean over ten splits of the images, shuffled with seed {formulas.SEED}"
NO_IMAGES = "precision, recall and kid are left out: the reference has statistics and no images"


@dataclass(frozen=True)
class Real:
    """The real side of a comparison: what is compared with, by one extractor."""

    identity: RealSide
    extractor: Judge
    statistics: Statistics
    spatial: Statistics | None
    features: np.ndarray | None  # at most REAL images, for precision, recall and KID


def real(study: Study, root: Path, extractor: str, images: bool = True) -> Real:
    """What an extractor's numbers compare with.

    Raises:
        ValueError: `mar features` or `mar statistics` has not run for it, or the statistics are not those of the
            features.
    """
    where = real_side(study, extractor)
    found = features.read(root, extractor, where, "real")
    arrays, about = statistics.of_real(study, root, extractor, where, found)
    rows = None
    if images and found.count:
        chosen = np.random.default_rng(study.seed).choice(found.count, min(REAL, found.count), replace=False)
        rows = found.rows("features", np.sort(chosen))
    spatial = {key[:-2]: arrays[key] for key in ("mu_s", "sigma_s")} if "mu_s" in arrays else None
    name = "train split" if where == "train" else about.source.name
    main = {"mu": arrays["mu"], "sigma": arrays["sigma"]}
    identity = RealSide(name=name, sha256=about.source.sha256, **({"note": about.note} if about.note else {}))
    return Real(identity, about.extractor, main, spatial, rows)


def reference(study: Study, root: str | Path) -> None:
    """Write metrics/reference.json: every metric of held-out real images (the real-versus-real floor).

    Raises:
        ValueError: `mar features` or `mar statistics` has not run for the real images.
    """
    root = Path(root)
    report = layout.reference_metrics(root)
    heldout: dict[str, Features] = {
        name: features.read(root, name, "heldout", "real") for name in study.metrics.extractors
    }
    against = _against(study, root, heldout)
    inputs = {name: found.sha256 for name, found in heldout.items()} | _sides(study, root)
    recipe = MetricsRecipe(slice=reference_key(study), inputs=inputs)
    place = report.with_name(".reference")
    with stage(report, lambda: read(report, MetricsFile).recipe == recipe, folder=place) as left:
        if not left:
            return
        main = study.metrics.extractors[0]
        labels = heldout[main].array("labels")
        chosen = balanced(labels, study.metrics.samples, seed=0)
        against[main] = real(study, root, main)
        values, notes = judge(study, heldout, against, chosen)
        if len(chosen) < study.metrics.samples:
            notes.append(
                f"real versus real is of {len(chosen)} images, all that are held out: its FID is rather too high"
            )
        if len(chosen) < len(labels):
            for name, found in heldout.items():
                key = "fid" if name == main else f"fid_{name}"
                values[key] = floor(study, values[key], found.array("features"), labels, against[name].statistics)
            if "sfid" in values and (target := against[main].spatial) is not None:
                values["sfid"] = floor(study, values["sfid"], heldout[main].array("spatial"), labels, target)
        write(report, _result(study, against, values, notes, recipe))
        print(f"{report}: {_shown(values)}", flush=True)


def evaluate(study: Study, root: str | Path, variant: str, seed: int, setting: str) -> None:
    """Judge one sample set: writes metrics/V/seedK/S.json.

    Raises:
        ValueError: a stage before has not run; the features are of other weights than those of the real images, of
            images of a checkpoint that is not the present one, or of the wrong side.
    """
    root = Path(root)
    where = f"{variant}/seed{seed}/{setting}"
    report = layout.metrics(root, where)
    found: dict[str, Features] = {
        name: features.read(root, name, where, "generated") for name in study.metrics.extractors
    }
    for name, kept in found.items():
        _, about = statistics.read(root, name, where)
        if about.features != kept.sha256:
            raise ValueError(f"{root / 'statistics' / name / where}.npz: of other features; run `mar statistics` again")
    samples = image_sets.of_samples(study, root, variant, seed, setting)
    for kept in found.values():
        if kept.manifest.source is None or kept.manifest.source.sha256 != samples.sha256:
            raise ValueError(f"{kept.folder}: of other samples than {samples.source}; run `mar features` again")
    against = _against(study, root, found)
    inputs = {
        "samples": samples.sha256,
        "checkpoint": read(layout.sample_manifest(root, where), SampleManifest).checkpoint,
        **{f"features {name}": kept.sha256 for name, kept in found.items()},
        **_sides(study, root),
    }
    recipe = MetricsRecipe(slice=metrics_key(study), inputs=inputs)
    place = report.with_name(f".{setting}")
    with stage(report, lambda: read(report, MetricsFile).recipe == recipe, folder=place) as left:
        if not left:
            return
        main = study.metrics.extractors[0]
        against[main] = real(study, root, main)
        values, notes = judge(study, found, against)
        write(report, _result(study, against, values, notes, recipe, variant, seed, setting))
        print(f"{report}: {_shown(values)}", flush=True)


def judge(
    study: Study, found: dict[str, Features], against: dict[str, Real], chosen: np.ndarray | None = None
) -> tuple[dict[str, Metric], list[str]]:
    """All metrics of one set of images, and what is to be said of them.

    Args:
        study: the study.
        found: features by extractor, the main one first.
        against: the real side by extractor.
        chosen: rows of the features that are judged, ascending; default: all.
    """
    names = list(found)
    main = found[names[0]]
    chosen = np.arange(main.count) if chosen is None else chosen
    arrays = {key: main.rows(key, chosen) for key in main.keys}
    labels = arrays.get("labels")
    assert labels is not None  # samples and splits of a study always have them
    draw, there, notes = Bootstrap(labels, study.metrics.bootstrap, study.seed), against[names[0]], []
    _check_width(main, arrays["features"], there)
    values: dict[str, Metric] = {"fid": draw.fid(arrays["features"], there.statistics)}
    if (endless := draw.fid_infinity(arrays["features"], there.statistics)) is not None:
        values["fid_infinity"] = endless
    if "spatial" in arrays and there.spatial is not None:
        values["sfid"] = draw.fid(arrays["spatial"], there.spatial)
    if "logits" in arrays:
        values["inception_score"] = draw.inception_score(arrays["logits"])
        notes.append(SHUFFLED)
    if there.features is None:
        notes.append(NO_IMAGES)
    else:
        precision, recall = draw.precision_recall(arrays["features"], there.features, study.metrics.neighbours)
        values |= {"precision": precision, "recall": recall, "kid": draw.kid(arrays["features"], there.features)}
    if names[0] == "classifier":  # its classes are those of the study; Inception's are others
        values["agreement"] = draw.share(arrays["logits"].argmax(1) == labels, higher_is_better=True)
    if "nearest" in arrays:
        values["nearest"] = draw.mean(arrays["nearest"], higher_is_better=None)
    for name in names[1:]:
        rows = found[name].rows("features", chosen)
        _check_width(found[name], rows, against[name])
        values[f"fid_{name}"] = draw.fid(rows, against[name].statistics)
    return values, notes


def floor(study: Study, first: Metric, rows: np.ndarray, labels: np.ndarray, target: Statistics) -> Metric:
    """Real-versus-real Frechet distance: the mean over DRAWS of as many held-out images as a sample set has.

    Args:
        study: the study.
        first: the metric of the first of these draws, whose interval is kept around the mean.
        rows: features of the held-out split, (N, F).
        labels: its classes, (N,).
        target: statistics of the real side.
    """
    root = formulas.symmetric_root(target["sigma"])
    draws = [rows[balanced(labels, study.metrics.samples, seed)] for seed in range(DRAWS)]
    value = float(np.mean([formulas.frechet(moments.of(drawn), target, root) for drawn in draws]))
    low, high = (value + end - first.value for end in (first.low, first.high))
    return first.model_copy(update={"value": value, "low": low, "high": high})


def balanced(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Ascending indices of at most `count` images with equal classes, as in a sample set, each image once.

    Of a class with fewer images all are taken. An image drawn twice would be its own neighbour, and would feign a
    narrower interval.
    """
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    wanted = np.bincount(np.arange(count) % len(classes), minlength=len(classes))
    members = [np.flatnonzero(labels == c) for c in classes]
    rows = [rng.choice(have, min(n, len(have)), replace=False) for have, n in zip(members, wanted, strict=True)]
    return np.sort(np.concatenate(rows))


def _against(study: Study, root: Path, found: dict[str, Features]) -> dict[str, Real]:
    """The real side of each extractor, without its images, if it is of the same weights as the features found."""
    against: dict[str, Real] = {name: real(study, root, name, images=False) for name in found}
    for name, kept in found.items():
        _check_weights(kept, against[name])
    return against


def _sides(study: Study, root: Path) -> dict[str, str]:
    """Checksums of the statistics that the numbers compare with."""
    files = {name: layout.statistics(root, name, real_side(study, name)) for name in study.metrics.extractors}
    return {f"real {name}": sha256(file) for name, file in files.items()}


def _check_weights(found: Features, there: Real) -> None:
    """Refuse features that are not of the network which made the real side."""
    here, other = found.manifest.extractor, there.extractor
    if here.weights != other.weights:
        raise ValueError(
            f"{found.folder}: features by {here.name} with weights {here.weights[:12]}, those of "
            f"{there.identity.name} with {other.weights[:12]}; accepted: the same; run `mar features` again"
        )


def _check_width(found: Features, rows: np.ndarray, there: Real) -> None:
    """Refuse rows (n, F) of features that are of another width than the real side."""
    if rows.shape[1] != (width := len(there.statistics["mu"])):
        raise ValueError(
            f"{found.folder}: {rows.shape[1]} features an image, those of {there.identity.name} have {width}; "
            "accepted: the same; run `mar features` and `mar statistics` again"
        )


def _result(
    study: Study,
    against: dict[str, Real],
    values: dict[str, Metric],
    notes: list[str],
    recipe: MetricsRecipe,
    variant: str = "",
    seed: int = 0,
    setting: str = "",
) -> MetricsFile:
    main = study.metrics.extractors[0]
    return MetricsFile(
        variant=variant,
        seed=seed,
        setting=setting,
        samples=study.metrics.samples,
        extractor=main,
        extractors={
            name: JudgedBy(weights=there.extractor.weights, note=there.extractor.note, reference=there.identity)
            for name, there in against.items()
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
