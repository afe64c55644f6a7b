"""The description of a bundle as an RO-Crate: Workflow RO-Crate 1.0 with the Workflow Run profile 0.5.

Sources: https://w3id.org/ro/crate/1.1 and https://w3id.org/ro/wfrun/workflow/0.5.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mar import __version__
from mar.bundle.record import BUNDLE, BundleRecord
from mar.runtime.files import read_json, sha256, write_json
from mar.study import layout
from mar.study.study import Study

METADATA = "ro-crate-metadata.json"
PROFILES = [
    "https://w3id.org/ro/wfrun/process/0.5",
    "https://w3id.org/ro/wfrun/workflow/0.5",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0",
]
CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
WORKFLOW = "workflow/Snakefile"
TYPES = {".smk": "text/plain", ".jsonl": "application/jsonl", ".npz": "application/x-npz", ".md": "text/markdown"}


def write(study: Study, folder: Path, record: BundleRecord, kinds: dict[str, str]) -> None:
    """Write ro-crate-metadata.json.

    Args:
        study: the study.
        folder: the bundle.
        record: what it says of itself.
        kinds: kind of each file that it holds, by its path.
    """
    study_file = (layout.study(layout.RESULTS / study.study)).as_posix()
    products = [name for name, kind in sorted(kinds.items()) if kind in ("product", "metrics")]
    began, ended = _span(folder, kinds)
    graph: list[dict[str, Any]] = [
        {
            "@id": METADATA,
            "@type": "CreativeWork",
            "conformsTo": [{"@id": "https://w3id.org/ro/crate/1.1"}, {"@id": PROFILES[-1]}],
            "about": {"@id": "./"},
        },
        {
            "@id": "./",
            "@type": "Dataset",
            "name": f"{study.study}: {study.title}" if study.title else study.study,
            "description": "Results of a study of autoregressive image generation: what its numbers were computed "
            "from, so that `mar verify` computes them again without GPU and data.",
            "datePublished": record.time,
            "license": {"@id": "#rights"},
            "conformsTo": [{"@id": profile} for profile in PROFILES],
            "hasPart": [{"@id": name} for name in (*sorted(kinds), BUNDLE)],
            "mainEntity": {"@id": WORKFLOW},
            "mentions": [{"@id": "#run"}],
        },
        *({"@id": p, "@type": "CreativeWork", "name": p.split("/ro/")[-1], "version": p[-3:]} for p in PROFILES),
        {
            "@id": "#rights",
            "@type": "CreativeWork",
            "name": "Rights",
            "description": "The workflow is under the MIT licence. For images and what follows from them see "
            "DATA_CARD.md, for published weights MODEL_CARD.md.",
        },
        {
            "@id": "#snakemake",
            "@type": "ComputerLanguage",
            "name": "Snakemake",
            "url": {"@id": "https://snakemake.readthedocs.io"},
            "identifier": {"@id": "https://doi.org/10.1093/bioinformatics/bts480"},
        },
        {
            "@id": "#mar",
            "@type": "SoftwareApplication",
            "name": "mar",
            "version": record.versions.get("mar", __version__),
            "softwareRequirements": ", ".join(f"{name} {text}" for name, text in record.versions.items()),
        },
        {
            "@id": "#run",
            "@type": "CreateAction",
            "name": f"The workflow of the study {study.study}",
            "instrument": {"@id": WORKFLOW},
            "object": [{"@id": study_file}],
            "result": [{"@id": name} for name in products],
            "actionStatus": {"@id": f"http://schema.org/{'Active' if record.missing else 'Completed'}ActionStatus"},
            **({"startTime": began, "endTime": ended} if began else {}),
        },
    ]
    for name in sorted(kinds):
        path = folder / name
        entity: dict[str, Any] = {"@id": name, "@type": "File", "name": Path(name).name}
        entity |= {"contentSize": str(path.stat().st_size), "sha256": sha256(path)}
        if encoding := TYPES.get(path.suffix) or mimetypes.guess_type(name)[0]:
            entity["encodingFormat"] = encoding
        if name == WORKFLOW:
            entity |= {
                "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
                "name": "From a study file to every table, figure and verdict",
                "programmingLanguage": {"@id": "#snakemake"},
                "softwareRequirements": {"@id": "#mar"},
            }
        graph.append(entity)
    graph.append({"@id": BUNDLE, "@type": "File", "name": BUNDLE, "encodingFormat": "application/json"})
    write_json(folder / METADATA, {"@context": CONTEXT, "@graph": graph})


def _span(folder: Path, kinds: dict[str, str]) -> tuple[str, str]:
    """When the first and the last record of a bundle were written; empty where none says."""
    times = sorted(_times(folder, kinds))
    return (times[0], times[-1]) if times else ("", "")


def _times(folder: Path, kinds: dict[str, str]) -> Iterator[str]:
    for name, kind in kinds.items():
        if kind in ("record", "metrics") and name.endswith(".json"):
            values = read_json(folder / name)
            made = values.get("provenance") if isinstance(values, dict) else None
            if isinstance(made, dict) and isinstance(made.get("time"), str):
                yield made["time"]
