"""Model card and data card of a bundle: what was trained on what, and what is allowed with it."""

from __future__ import annotations

from pathlib import Path

from mar.bundle.record import BundleRecord
from mar.runtime.files import read
from mar.study import labels, layout
from mar.study.records import DataManifest, MetricsFile, RunRecord
from mar.study.study import Study


def model(study: Study, root: Path) -> str:
    """The model card: each trained variant with its size, training, and FID without any claim about other images.

    Args:
        study: the study.
        root: folder of its results in the bundle.
    """
    lines = [f"# Models of the study {study.study}", "", study.title, ""]
    lines += [
        "| model | seed | parameters | images seen | weights (SHA-256) | from | FID |",
        "|---|---|---|---|---|---|---|",
    ]
    licences = {}
    for name, variant in study.variants.items():
        for seed in variant.seeds:
            path = layout.run_record(root, name, seed)
            if not path.exists():
                lines.append(f"| {labels.label(study, name)} | {seed} | not trained yet | | | | |")
                continue
            run = read(path, RunRecord)
            source = "trained here"
            if run.pretrained:
                source = run.pretrained.asset or run.pretrained.source.file
                licences[source] = run.pretrained.licence or "not stated"
            fids = [
                read(file, MetricsFile).metrics["fid"].value
                for setting in variant.sampling
                if (file := layout.metrics(root, layout.sample_set(name, seed, setting))).exists()
            ]
            best = " to ".join(dict.fromkeys(f"{value:.4g}" for value in (min(fids), max(fids)))) if fids else ""
            lines.append(
                f"| {labels.label(study, name)} | {seed} | {run.parameters:,} | {run.images:,} | "
                f"{run.checkpoint[:16]} | {source} | {best} |"
            )
    lines += [
        "",
        "The weights themselves are not in the bundle. FID is over all sampling settings of the model, by "
        f"{', '.join(study.metrics.extractors)}: `tables/metrics.md` has every number with its interval.",
        "",
        "Meant for comparing methods of image generation; not for making pictures that are taken for photographs. The "
        "models repeat what their images show, with its gaps and its bias.",
    ]
    if licences:
        lines += ["", "Licences of published weights:", ""]
        lines += [f"- {source}: {licence}" for source, licence in licences.items()]
    return "\n".join(lines) + "\n"


def data(study: Study, root: Path, record: BundleRecord) -> str:
    """The data card: which images, how many of each class, their licence, and what of them is in the bundle."""
    kind = study.data.kind
    lines = [f"# Data of the study {study.study}", ""]
    path = layout.data_manifest(root)
    if path.exists():
        found = read(path, DataManifest)
        lines += [f"- kind: {kind}, {found.image_size} x {found.image_size} pixels, {len(found.classes)} classes"]
        lines += [f"- {name}: {split.count:,} images" for name, split in found.splits.items()]
        lines += [f"- checksum of the list of files: {found.files}"]
        lines += [f"- checksum of all pixels: {found.pixels}"] if found.pixels else []
        lines += [f"- {len(found.skipped)} files were no readable images and are left out"] if found.skipped else []
    else:
        lines += [f"- kind: {kind}; no list of images is in the bundle"]
    if study.data.licence:
        licence, source = study.data.licence
        lines += [f"- licence of the images: {licence} ({source}); some of them are shown in the figure of samples"]
    else:
        lines += ["- licence of the images: not known here, so the bundle shows none of them"]
    lines += ["- the images are not in the bundle; features of them are, from which no image can be read back exactly"]
    if record.cut:
        lines += ["", "Left out:", ""]
        lines += [f"- {cut.what} ({cut.size:,} bytes): {cut.why}" for cut in record.cut]
    if record.missing:
        lines += ["", "Not made when the bundle was:", "", *(f"- {name}" for name in record.missing)]
    return "\n".join(lines) + "\n"
