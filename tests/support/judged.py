"""A study with a trained classifier and a sample set that looks like one: held-out digits, a little changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pipeline

from mar.data.images import open_split
from mar.runtime.files import sha256, write
from mar.runtime.provenance import provenance
from mar.study.records import RunRecord
from mar.study.study import Study

COUNT, CHUNK = 60, 30
RUN = RunRecord(
    variant="mar",
    seed=0,
    parameters=1,
    images=64,
    seconds=1.0,
    restarts=0,
    checkpoint=64 * "c",
    tokens=64 * "7",
    provenance=provenance(),
)


def make(folder: Path) -> tuple[Study, Path]:
    """The study and its results, up to the sample set mar/seed0/plain."""
    study = pipeline.study(classifier={"channels": [16, 32], "features": 16, "images": 6400})
    root = pipeline.with_classifier(folder, study)
    write_samples(root, images(study, root))
    return study, root


def images(study: Study, root: Path) -> np.ndarray:
    """Image i is a held-out one of class i mod 10 with noise of one grey value, uint8 (60, 16, 16, 3)."""
    heldout = open_split(study, root, "heldout")
    rows = [np.flatnonzero(heldout.labels == i % 10)[i // 10] for i in range(COUNT)]
    noise = np.random.default_rng(0).integers(0, 2, (COUNT, 16, 16, 3))
    return (heldout.arrays(rows).astype(int) + noise).clip(0, 255).astype(np.uint8)


def write_samples(root: Path, rows: np.ndarray, **over: Any) -> Path:
    """A finished sample set of two chunks and the run that it is of."""
    run = root / "runs" / "mar" / "seed0" / "run.json"
    run.parent.mkdir(parents=True, exist_ok=True)
    write(run, RUN)
    folder = root / "samples" / "mar" / "seed0" / "plain"
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "labels.npy", np.arange(len(rows)) % 10)
    chunks = []
    for number, start in enumerate(range(0, len(rows), CHUNK)):
        path = folder / f"chunk-{number:05d}.npy"
        np.save(path, rows[start : start + CHUNK])
        chunks.append({"file": path.name, "count": len(rows[start : start + CHUNK]), "sha256": sha256(path)})
    manifest = {"variant": "mar", "seed": 0, "setting": "plain", "count": len(rows), "chunks": chunks}
    manifest |= {"checkpoint": RUN.checkpoint, "tokenizer": "1" * 64, "sampling": {"steps": 1}, "seconds": 1.0}
    manifest |= {"provenance": RUN.provenance.model_dump(), **over}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
