"""The counts of a study in its plan.json, made where they are missing or of another study or other code; no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mar.runtime.files import read, write
from mar.study import layout
from mar.study.canonical import canonical
from mar.study.records import PlanRecord
from mar.study.study import Study

# The code that is counted and that counts, below mar/.
COUNTED = (
    *("features/networks", "models", "planning/costs.py", "planning/memory.py", "planning/shapes.py"),
    *("runtime/precision.py", "sampling", "study/annealing.py", "study/at_once.py", "study/parts.py", "tokenizers"),
)


def key(study: Study, classes: int) -> str:
    """Checksum of what the counts depend on: the parts of the study, and the code that is counted and counts."""
    trained = {name: v for name, v in study.variants.items() if v.seeds}
    factors = {
        name: [study.backbones[v.backbone], study.heads[v.head], study.recipes[v.recipe], v.tokenizer, v.pretrained]
        for name, v in trained.items()
    }
    parts = {
        "variants": factors,
        "tokenizers": {v.tokenizer: study.tokenizers[v.tokenizer] for v in trained.values()},
        "sampling": {name: {s: study.sampling[s] for s in v.sampling} for name, v in trained.items()},
        "judges": [study.metrics.extractors, study.classifier],
        "images": [study.data.image_size, classes, study.metrics.chunk],
        "at once": study.memory.model_copy(update={"gpu_gib": None}),
    }
    parts |= {"rejecter": study.rejecter} if study.rejecter else {}
    digest, package = hashlib.sha256(canonical(parts).encode()), Path(__file__).parents[1]
    for path in (package / name for name in COUNTED):
        for file in sorted(path.rglob("*.py")) or [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def find(study: Study, root: Path, classes: int, memory: bool = False) -> PlanRecord | None:
    """The counts in plan.json; none where there are none, or those of another study or other code.

    Args:
        study: the study.
        root: its results.
        classes: number of classes of its images.
        memory: with the memory that the networks need on a GPU, or none.
    """
    path = layout.plan(root)
    record = read(path, PlanRecord) if path.exists() else None
    found = record if record and record.key == key(study, classes) else None
    return None if found and memory and not found.memory else found


def count(study: Study, root: Path, classes: int, memory: bool = False) -> PlanRecord:
    """The same; counted and written before where it is not there."""
    record = find(study, root, classes)
    if record and (record.memory or not memory):
        return record
    if record is None:
        from mar.planning import costs

        record = costs.count(study, classes, key(study, classes))
    if memory:
        from mar.planning import memory as peaks

        record = record.model_copy(update={"memory": peaks.count(study, classes)})
    write(layout.plan(root), record)
    return record
