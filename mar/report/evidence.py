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
from mar.report.figures.samples import sample_grid
from mar.runtime.files import read, read_json, sha256
from mar.runtime.folders import RECIPE
from mar.study import layout
from mar.study.commands import command
from mar.study.parts import Sampling
from mar.study.records import RunRecord
from mar.study.study import Study

CLASSES = 10  # of a strip of samples: one image each


@dataclass(frozen=True)
class File:
    """A file as the page shows it: a link where it exists, its name alone where it was deleted or never made."""

    text: str
    path: str  # from the folder of the page
    exists: bool

    @property
    def href(self) -> str:
        """The path as an address, relative to the page."""
        return quote(self.path)


def file(root: Path, path: Path, text: str = "") -> File:
    """A file anywhere, by its path from the results folder, in which the page lies."""
    return File(text or path.name, Path(os.path.relpath(path, root)).as_posix(), path.exists())


def set_id(variant: str, setting: str) -> str:
    """Where the page tells about the sample sets of a variant and setting. No name contains a slash."""
    return f"set:{variant}/{setting}"


def variants(study: Study, root: Path, results: Results) -> list[dict[str, Any]]:
    """Every trained variant with its runs, and every sample set of it with all that its numbers came from."""
    tracked = read_json(layout.tracked(root)) if layout.tracked(root).exists() else {}
    found = []
    for name, variant in study.variants.items():
        if not variant.seeds:
            continue
        runs = {seed: read(layout.run_record(root, name, seed), RunRecord) for seed in variant.seeds}
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
        found.append(
            {
                "name": name,
                "factors": [
                    (key, getattr(variant, key)) for key in factors if key != "recipe" or not variant.pretrained
                ],
                "runs": [_run(study, root, run, tracked) for run in runs.values()],
                "settings": settings,
            }
        )
    return found


def _run(study: Study, root: Path, run: RunRecord, tracked: dict[str, Any]) -> dict[str, Any]:
    """One training: its record, weights, recipe and curve, tokens and tokenizer, commit and MLflow run."""
    folder = layout.run(root, run.variant, run.seed)
    tokenizer = study.variants[run.variant].tokenizer
    number = tracked.get("runs", {}).get(folder.relative_to(root).as_posix())
    return {
        **run.model_dump(exclude_unset=True),
        "record": file(root, folder / layout.RECORD),
        "recipe": file(root, folder / RECIPE),
        "curve": None if run.pretrained else file(root, folder / layout.LOG),
        "weights": file(root, folder / layout.AVERAGE),
        "tokens_manifest": file(root, layout.token_manifest(root, tokenizer)),
        "tokenizer": tokenizer,
        "tokenizer_weights": file(root, layout.tokenizer_weights(root, tokenizer)),
        "commit": commit(run.provenance.model_dump()),
        "mlflow": {"id": number, "experiment": tracked["experiment"]} if number else None,
    }


def _set(root: Path, results: Results, run: RunRecord, setting: str, tracked: dict[str, Any]) -> dict[str, Any]:
    """One sample set: files from the metrics back to the images, and whether their hashes agree link by link."""
    variant, seed = run.variant, run.seed
    key = layout.sample_set(variant, seed, setting)
    values, samples = results.metrics(variant, seed, setting), layout.samples(root, key)
    inputs, manifest = values["inputs"], layout.sample_manifest(root, key)
    made = read_json(manifest) if manifest.exists() else None
    # manifests stay when sample chunks of large studies are deleted; what is not there is not checked
    features = {name: layout.features_manifest(root, name, key) for name in values["extractors"]}
    links = {"samples": manifest, **{f"features {name}": path for name, path in features.items()}}
    broken = [link for link, path in links.items() if path.exists() and inputs.get(link, "") not in ("", sha256(path))]
    logged = tracked.get("runs", {}).get(layout.run(root, variant, seed).relative_to(root).as_posix(), "none")
    grid = (
        layout.mlflow_artifacts(layout.mlflow_database(root))
        / results.study.study
        / logged
        / "artifacts"
        / "samples"
        / f"{setting}.png"
    )
    whole = made is not None and all((samples / c["file"]).exists() for c in made["chunks"])
    return {
        "seed": seed,
        "id": f"{set_id(variant, setting)}/{seed}",
        "fid": interval(values["metrics"]["fid"]),
        "metrics": file(root, layout.metrics(root, key)),
        "features": [file(root, path, name) for name, path in features.items()],
        "statistics": [file(root, layout.statistics(root, name, key), name) for name in values["extractors"]],
        "manifest": file(root, manifest),
        "samples": inputs["samples"],
        "images": whole,
        "strip": strip(root, variant, seed, setting) if whole else None,
        "grid": file(root, grid, "grid") if grid.exists() else None,
        "sampled": commit(made["provenance"]) if made else None,
        "evaluated": commit(values["provenance"]),
        "seconds": made["seconds"] if made else None,
        "agree": not broken and inputs["checkpoint"] == run.checkpoint,
    }


def interval(metric: dict[str, Any]) -> str:
    """A metric of a file as `value [low, high]`, or the value alone where its interval is empty."""
    value, low, high = (short(metric[key]) for key in ("value", "low", "high"))
    return value if metric["low"] == metric["high"] else f"{value} [{low}, {high}]"


def commit(provenance: dict[str, Any]) -> dict[str, Any]:
    """A git commit: its first letters, and whether the checkout had changes that are not in it."""
    name = provenance["git_commit"]
    return {"name": name.removesuffix("-dirty")[:12], "dirty": name.endswith("-dirty")}


def sampling_text(sampling: Sampling) -> str:
    """What a sampling setting says, as `steps 4, guidance 2, temperature 0.95, clamp 5`."""
    values = sampling.model_dump(exclude_defaults=True, exclude={"sweep", "steps", "guidance", "temperature"})
    said = [f"steps {sampling.steps}", f"guidance {sampling.guidance:g}", f"temperature {sampling.temperature:g}"]
    for key, value in values.items():
        name = key.replace("_", " ")
        said.append(name if value is True else f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(said)


def commands(study: Study, root: Path, variant: str, setting: str) -> list[str]:
    """What makes the numbers of a sample set again: the workflow's target, then the stages of each seed."""
    home = layout.RESULTS / root.name  # as the workflow calls the root, from the checkout
    study_file, seeds = str(layout.study(home)), study.variants[variant].seeds
    sets = {seed: layout.sample_set(variant, seed, setting) for seed in seeds}
    targets = " ".join(str(layout.metrics(home, name)) for name in sets.values())
    lines = [f"snakemake {targets} --configfile {study_file}"]
    for seed, name in sets.items():
        one: dict[str, str | int] = {"variant": variant, "seed": seed, "setting": setting}
        stages = [command("train", study_file, variant=variant, seed=seed)]
        if study.sampling[setting].sweep:
            stages.append(command("sweep", study_file, variant=variant, setting=setting))
        stages.append(command("sample", study_file, **one))
        for extractor in study.metrics.extractors:
            judged = {"extractor": extractor, "set": name}
            stages += [command(stage, study_file, **judged) for stage in ("features", "statistics")]
        stages.append(command("evaluate", study_file, **one))
        lines += [f"mar --threads 1 {stage}" for stage in stages]
    return list(dict.fromkeys(lines))  # one sweep serves all seeds


def strip(root: Path, variant: str, seed: int, setting: str) -> str | None:
    """The first image of each of the first classes, side by side, as the address of an embedded picture.

    None where a set has too few images to show one of each.
    """
    from PIL import Image

    folder = layout.samples(root, layout.sample_set(variant, seed, setting))
    labels = np.load(folder / layout.LABELS)
    classes = min(int(labels.max()) + 1, CLASSES)
    if len(np.unique(labels[labels < classes])) < classes:
        return None
    grid, _ = sample_grid(root, variant, seed, setting, classes)  # a row a class
    rows = np.split(grid, classes)
    side = rows[0].shape[0]
    return embed(Image.fromarray(np.hstack([row[:, :side] for row in rows])), "WEBP", quality=85)


def embed(image: Any, format: str, **options: Any) -> str:
    """A picture as a data: address."""
    out = io.BytesIO()
    image.save(out, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def server_of(root: Path) -> str:
    """URI of the tracking server that holds the runs of a study; nothing where a file does."""
    record = layout.tracked(root)
    return str(read_json(record).get("server", "")) if record.exists() else ""
