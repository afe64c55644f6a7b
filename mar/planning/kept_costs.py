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


def find(study: Study, root: Path, classes: int) -> PlanRecord | None:
    """The counts in plan.json; none where there are none, or those of another study or other code."""
    path = layout.plan(root)
    record = read(path, PlanRecord) if path.exists() else None
    return record if record and record.key == key(study, classes) else None


def count(study: Study, root: Path, classes: int) -> PlanRecord:
    """The counts in plan.json; written before where it has none of this study and code."""
    record = find(study, root, classes)
    if record is None:
        from mar.planning import costs, memory

        record = costs.count(study, classes, key(study, classes))
        record = record.model_copy(update={"memory": memory.count(study, classes)})
        write(layout.plan(root), record)
    return record
