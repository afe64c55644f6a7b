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

from mar.config import Study
from mar.estimates import Results
from mar.factors import Sampling
from mar.figures import sample_grid
from mar.files import read_json, sha256
from mar.results import short

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


def file(root: Path, path: str | Path, text: str = "") -> File:
    """A file by its path from the results folder, in which the page lies."""
    return File(text or Path(path).name, Path(path).as_posix(), (root / path).exists())


def set_id(variant: str, setting: str) -> str:
    """Where the page tells about the sample sets of a variant and setting. No name contains a slash."""
    return f"set:{variant}/{setting}"


def variants(study: Study, root: Path, results: Results) -> list[dict[str, Any]]:
    """Every trained variant with its runs, and every sample set of it with all that its numbers came from."""
    tracked = read_json(root / "mlflow.json") if (root / "mlflow.json").exists() else {}
    found = []
    for name, variant in study.variants.items():
        if not variant.seeds:
            continue
        runs = {seed: read_json(root / "runs" / name / f"seed{seed}" / "run.json") for seed in variant.seeds}
        factors = ("tokenizer", "order", "backbone", "head", "recipe")
        settings = [
            {
                "name": setting,
                "id": set_id(name, setting),
                "sampling": sampling_text(results.sampling(name, setting)),
                "sweep": file(root, f"sweeps/{name}/{setting}.json") if study.sampling[setting].sweep else None,
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


def _run(study: Study, root: Path, run: dict[str, Any], tracked: dict[str, Any]) -> dict[str, Any]:
    """One training: its record, weights, recipe and curve, tokens and tokenizer, commit and MLflow run."""
    folder = f"runs/{run['variant']}/seed{run['seed']}"
    tokenizer = study.variants[run["variant"]].tokenizer
    number = tracked.get("runs", {}).get(folder)
    return {
        **run,
        "record": file(root, f"{folder}/run.json"),
        "recipe": file(root, f"{folder}/recipe.json"),
        "curve": None if "pretrained" in run else file(root, f"{folder}/metrics.jsonl"),
        "weights": file(root, f"{folder}/ema.safetensors"),
        "tokens_manifest": file(root, f"tokens/{tokenizer}/train/manifest.json"),
        "tokenizer": tokenizer,
        "tokenizer_weights": file(root, f"tokenizers/{tokenizer}/model.safetensors"),
        "commit": commit(run["provenance"]),
        "mlflow": {"id": number, "experiment": tracked["experiment"]} if number else None,
    }


def _set(root: Path, results: Results, run: dict[str, Any], setting: str, tracked: dict[str, Any]) -> dict[str, Any]:
    """One sample set: files from the metrics back to the images, and whether their hashes agree link by link."""
    variant, seed = run["variant"], run["seed"]
    key = f"{variant}/seed{seed}/{setting}"
    values, samples = results.metrics(variant, seed, setting), root / "samples" / key
    inputs, manifest = values["inputs"], samples / "manifest.json"
    made = read_json(manifest) if manifest.exists() else None
    # manifests stay when sample chunks of large studies are deleted; what is not there is not checked
    features = {name: f"features/{name}/{key}/manifest.json" for name in values["extractors"]}
    links = {"samples": manifest, **{f"features {name}": root / path for name, path in features.items()}}
    broken = [link for link, path in links.items() if path.exists() and inputs.get(link, "") not in ("", sha256(path))]
    logged = tracked.get("runs", {}).get(f"runs/{variant}/seed{seed}", "none")
    grid = root.parent / "mlflow-artifacts" / results.study.study / logged / "artifacts" / "samples" / f"{setting}.png"
    whole = made is not None and all((samples / c["file"]).exists() for c in made["chunks"])
    return {
        "seed": seed,
        "id": f"{set_id(variant, setting)}/{seed}",
        "fid": interval(values["metrics"]["fid"]),
        "metrics": file(root, f"metrics/{key}.json"),
        "features": [file(root, path, name) for name, path in features.items()],
        "statistics": [file(root, f"statistics/{name}/{key}.npz", name) for name in values["extractors"]],
        "manifest": file(root, f"samples/{key}/manifest.json"),
        "samples": inputs["samples"],
        "images": whole,
        "strip": strip(root, variant, seed, setting) if whole else None,
        "grid": relative(root, grid, "grid") if grid.exists() else None,
        "sampled": commit(made["provenance"]) if made else None,
        "evaluated": commit(values["provenance"]),
        "seconds": made["seconds"] if made else None,
        "agree": not broken and inputs["checkpoint"] == run["checkpoint"],
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
    study_file, seeds = f"results/{root.name}/study.json", study.variants[variant].seeds
    targets = [f"results/{root.name}/metrics/{variant}/seed{seed}/{setting}.json" for seed in seeds]
    lines = [f"snakemake {' '.join(targets)} --configfile {study_file}"]
    sweep = [f"sweep --variant {variant} --setting {setting}"] if study.sampling[setting].sweep else []
    for seed in seeds:
        one = f"--variant {variant} --seed {seed}"
        judged = [f"--extractor {name} --set {variant}/seed{seed}/{setting}" for name in study.metrics.extractors]
        stages = [f"train {one}", *sweep, f"sample {one} --setting {setting}"]
        stages += [f"{stage} {options}" for options in judged for stage in ("features", "statistics")]
        stages.append(f"evaluate {one} --setting {setting}")
        for stage in stages:
            verb, options = stage.split(" ", 1)
            lines.append(f"mar --threads 1 {verb} --study {study_file} {options}")
    return list(dict.fromkeys(lines))  # one sweep serves all seeds


def strip(root: Path, variant: str, seed: int, setting: str) -> str | None:
    """The first image of each of the first classes, side by side, as the address of an embedded picture.

    None where a set has too few images to show one of each.
    """
    from PIL import Image

    folder = root / "samples" / variant / f"seed{seed}" / setting
    labels = np.load(folder / "labels.npy")
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


def relative(root: Path, path: Path, text: str = "") -> File:
    """A file anywhere, by its path from the folder of the page."""
    return File(text or path.name, Path(os.path.relpath(path, root)).as_posix(), path.exists())
