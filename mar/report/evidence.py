"""From a number of the report to what it was made of: files and their hashes, commands, commits, MLflow runs."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from mar.analysis.estimates import Results
from mar.analysis.result_files import short
from mar.features.image_sets import labels_of
from mar.report.figures.samples import sample_grid
from mar.runtime.files import read, sha256
from mar.runtime.folders import RECIPE
from mar.runtime.provenance import Provenance
from mar.study import layout
from mar.study.commands import command
from mar.study.labels import label
from mar.study.parts import Sampling
from mar.study.records import Range, RunRecord, SampleManifest, TrackedRuns
from mar.study.study import Study

CLASSES = 10  # a strip of samples shows one image of each of the first 10 classes


@dataclass(frozen=True)
class File:
    """A file as the page shows it: a link where it exists, its name alone where it was deleted or never made."""

    text: str
    path: str  # relative to the folder of the page
    exists: bool

    @property
    def href(self) -> str:
        """The path as an address, relative to the page."""
        return quote(self.path)


def file(root: Path, path: Path, text: str = "") -> File:
    """A file anywhere on disk, with its path made relative to the results folder, in which the page lies."""
    return File(text or path.name, Path(os.path.relpath(path, root)).as_posix(), path.exists())


def set_id(variant: str, setting: str) -> str:
    """HTML id of the rows of the page that list the sample sets of a variant and setting. No name contains a slash."""
    return f"set:{variant}/{setting}"


def given_id(name: str) -> str:
    """HTML id of the row of the page that has the numbers of a sample set that others drew."""
    return f"given:{name}"


def variants(study: Study, root: Path, results: Results) -> list[dict[str, Any]]:
    """Every trained variant with its runs and sample sets, and the files that their numbers were computed from."""
    tracked = tracked_runs(root)
    sections = []
    for name, variant in study.variants.items():
        if not variant.seeds:
            continue
        runs = {seed: results.run(name, seed) for seed in variant.seeds}
        factors = ("tokenizer", "order", "backbone", "head", "recipe")
        settings = [
            {
                "name": setting,
                "id": set_id(name, setting),
                "sampling": sampling_text(results.sampling(name, setting)),
                "sweep": file(root, layout.sweep(root, name, setting)) if study.sampling[setting].sweep else None,
                "seeds": [_set(root, results, runs[seed], setting, tracked) for seed in variant.seeds],
                "commands": commands(study, root, name, setting),
            }
            for setting in variant.sampling
        ]
        sections.append(
            {
                "name": name,
                "label": label(study, name),
                "factors": [
                    (key, getattr(variant, key)) for key in factors if key != "recipe" or not variant.pretrained
                ],
                "runs": [_run(study, root, run, tracked) for run in runs.values()],
                "settings": settings,
            }
        )
    return sections


def _run(study: Study, root: Path, run: RunRecord, tracked: TrackedRuns | None) -> dict[str, Any]:
    """One training: its record, weights, recipe and curve, tokens and tokenizer, commit and MLflow run."""
    folder = layout.run(root, run.variant, run.seed)
    tokenizer = study.tokenizer_of(run.variant, run.seed)
    run_id = tracked.runs.get(folder.relative_to(root).as_posix()) if tracked else None
    return {
        **dict(run),
        "record": file(root, folder / layout.RECORD),
        "recipe": file(root, folder / RECIPE),
        "curve": None if run.pretrained is not None else file(root, folder / layout.LOG),
        "weights": file(root, folder / layout.AVERAGE),
        "tokens_manifest": file(root, layout.token_manifest(root, tokenizer)),
        "tokenizer": tokenizer,
        "tokenizer_weights": file(root, layout.tokenizer_weights(root, tokenizer)),
        "commit": commit(run.provenance),
        "mlflow": {"id": run_id, "experiment": tracked.experiment} if tracked and run_id else None,
    }


def _set(root: Path, results: Results, run: RunRecord, setting: str, tracked: TrackedRuns | None) -> dict[str, Any]:
    """One sample set: its files from the metrics back to the images, and whether their checksums agree."""
    variant, seed = run.variant, run.seed
    key = layout.sample_set(variant, seed, setting)
    metrics, samples = results.metrics(variant, seed, setting), layout.samples(root, key)
    manifest_file = layout.sample_manifest(root, key)
    manifest = read(manifest_file, SampleManifest) if manifest_file.exists() else None
    # The sample chunks of large studies may be deleted while manifests stay: only files that exist are checked.
    features = {name: layout.features_manifest(root, name, key) for name in metrics.extractors}
    links = {"samples": manifest_file, **{f"features {name}": path for name, path in features.items()}}
    checksums = {link: metrics.inputs.get(link, "") for link in links}
    broken = [link for link, path in links.items() if path.exists() and checksums[link] not in ("", sha256(path))]
    run_id = tracked.runs.get(layout.run(root, variant, seed).relative_to(root).as_posix()) if tracked else None
    grid = (
        layout.mlflow_artifacts(layout.mlflow_database(root))
        / results.study.study
        / (run_id or "none")
        / "artifacts"
        / "samples"
        / f"{setting}.png"
    )
    complete = manifest is not None and all((samples / chunk.file).exists() for chunk in manifest.chunks)
    return {
        "seed": seed,
        "id": f"{set_id(variant, setting)}/{seed}",
        "fid": interval(metrics.metrics["fid"]),
        "metrics": file(root, layout.metrics(root, key)),
        "features": [file(root, path, name) for name, path in features.items()],
        "statistics": [file(root, layout.statistics(root, name, key), name) for name in metrics.extractors],
        "manifest": file(root, manifest_file),
        "samples": checksums["samples"],
        "images": complete,
        "strip": strip(root, variant, seed, setting) if complete else None,
        "grid": file(root, grid, "grid") if grid.exists() else None,
        "sampled": commit(manifest.provenance) if manifest else None,
        "evaluated": commit(metrics.provenance),
        "seconds": manifest.seconds if manifest else None,
        "agree": not broken and metrics.inputs.get("checkpoint") == run.checkpoint,
    }


def interval(number: Range) -> str:
    """A measured number as `value [low, high]`, or the value alone where low equals high."""
    value, low, high = map(short, (number.value, number.low, number.high))
    return value if number.low == number.high else f"{value} [{low}, {high}]"


def commit(provenance: Provenance) -> dict[str, Any]:
    """A git commit: its first 12 digits, and whether the checkout had changes that are not in it."""
    name = provenance.git_commit
    return {"name": name.removesuffix("-dirty")[:12], "dirty": name.endswith("-dirty")}


def sampling_text(sampling: Sampling) -> str:
    """The values of a sampling setting, as `steps 4, guidance 2, temperature 0.95, clamp 5`."""
    values = sampling.model_dump(exclude_defaults=True, exclude={"sweep", "steps", "guidance", "temperature"})
    values |= {key: str(said) for key, said in sampling.annealed.items() if key in values}
    words = [f"steps {sampling.steps}", f"guidance {sampling.guidance:g}", f"temperature {sampling.temperature:g}"]
    for key, value in values.items():
        name = key.replace("_", " ")
        words.append(name if value is True else f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(words)


def commands(study: Study, root: Path, variant: str, setting: str) -> list[str]:
    """The commands that compute a sample set's numbers again: the workflow's target, then the stages of each seed."""
    home = layout.RESULTS / root.name  # the workflow names the results folder relative to the checkout
    study_file, seeds = str(layout.study(home)), study.variants[variant].seeds
    sets = {seed: layout.sample_set(variant, seed, setting) for seed in seeds}
    targets = " ".join(str(layout.metrics(home, name)) for name in sets.values())
    lines = [f"snakemake {targets} --configfile {study_file}"]
    for seed, name in sets.items():
        names: dict[str, str | int] = {"variant": variant, "seed": seed, "setting": setting}
        stages = [command("train", study_file, variant=variant, seed=seed)]
        if study.sampling[setting].sweep:
            stages.append(command("sweep", study_file, variant=variant, setting=setting))
        stages.append(command("sample", study_file, **names))
        for extractor in study.metrics.extractors:
            judged_set = {"extractor": extractor, "set": name}
            stages += [command(stage, study_file, **judged_set) for stage in ("features", "statistics")]
        stages.append(command("evaluate", study_file, **names))
        lines += [f"mar --threads 1 {stage}" for stage in stages]
    return list(dict.fromkeys(lines))  # one sweep serves all seeds


def strip(root: Path, variant: str, seed: int, setting: str) -> str | None:
    """The first image of each of the first classes, side by side, as the address of an embedded picture.

    None where some of these classes have no image in the set.
    """
    from PIL import Image

    folder = layout.samples(root, layout.sample_set(variant, seed, setting))
    labels = labels_of(folder, read(folder / layout.MANIFEST, SampleManifest))
    classes = min(int(labels.max()) + 1, CLASSES)
    if len(np.unique(labels[labels < classes])) < classes:
        return None
    grid, _ = sample_grid(root, variant, seed, setting, classes)  # one row per class
    rows = np.split(grid, classes)
    side = rows[0].shape[0]
    return embed(Image.fromarray(np.hstack([row[:, :side] for row in rows])), "WEBP", quality=85)


def embed(image: Any, format: str, **options: Any) -> str:
    """A picture as a data: address."""
    out = io.BytesIO()
    image.save(out, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def tracked_runs(root: Path) -> TrackedRuns | None:
    """The MLflow run of each result; None where `mar track` has not run."""
    return read(layout.tracked(root), TrackedRuns) if layout.tracked(root).exists() else None


def runs_address(root: Path) -> str:
    """Address of the study's runs in the browser of MLflow 3, lowest FID first.

    Without `workflowType` it opens on another page; sorted by date it hides the trainings inside the study's run, also
    from the charts.
    """
    tracked = tracked_runs(root)
    server = server_of(root) or "http://localhost:5000"
    if tracked is None or not tracked.experiment or not server.startswith("http"):
        return server
    shown = "workflowType=machine_learning&orderByKey=metrics.%60fid%60&orderByAsc=true"
    return f"{server}/#/experiments/{tracked.experiment}/runs?{shown}"


def server_of(root: Path) -> str:
    """URI of the tracking server that holds the runs of a study; empty where a file of this machine holds them."""
    tracked = tracked_runs(root)
    return tracked.server if tracked else ""
