"""What an evaluation costs at its true size: time and memory of every step, on stand-in pictures.

    python benchmarks/evaluation.py                    # 2,000 images of 256x256 on either side, Inception
    python benchmarks/evaluation.py --images 50000     # as many as a sample set of the paper

Where the published weights are not on disk, random ones are used: time and memory are the same, metrics mean nothing.
The steps are those of `mar features`, `mar statistics` and `mar evaluate`, on files that are deleted afterwards.
"""

from __future__ import annotations

import platform
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mar.features import features, image_sets
from mar.features.features import Features
from mar.features.networks import extractors
from mar.features.networks.extractors import Extractor
from mar.metrics import fid_infinity, jackknife, statistics
from mar.metrics.bootstrap import Bootstrap, dealt
from mar.planning.drill import Stages
from mar.runtime.folders import claim
from mar.study.records import Metric
from mar.study.sections import EXTRACTORS

CLASSES = 10
SEED = 0


@click.command()
@click.option("--images", default=2000, type=click.IntRange(min=8), show_default=True, help="On either side.")
@click.option("--side", default=256, type=click.IntRange(min=8), show_default=True, help="Pixels.")
@click.option("--extractor", default="inception", type=click.Choice(EXTRACTORS[1:]), show_default=True)
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), help="Where the files go meanwhile.")
def main(images: int, side: int, extractor: str, work: Path | None) -> None:
    """Draw stand-in pictures, evaluate them and print the table of steps."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        stages = Stages(Path(folder))
        numbers = run(Path(folder), stages, images, side, extractor)
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    machine += f", {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"\n{images} images of {side}x{side} on either side, {extractor}; {machine}\n")
    print("| step | seconds | CPU seconds | peak memory GB | files GB | result |\n|---|---|---|---|---|---|")
    for row in stages.rows:
        cells = (row.stage, row.seconds, row.cpu_seconds, row.memory_gb, row.disk_gb)
        print("| " + " | ".join(map(str, (*cells, numbers.get(row.stage, row.note)))) + " |")


def run(folder: Path, stages: Stages, count: int, side: int, name: str) -> dict[str, str]:
    """Run every step of an evaluation; its results by the name of the step."""
    with stages.stage("draw"):
        for seed, role in enumerate(("generated", "real")):
            draw(folder / f"{role}.npz", count, side, seed)
    network, note = load(name)
    features_of = {}
    for role in ("generated", "real"):
        with stages.stage(f"features of the {role}", note):
            features_of[role] = extract(folder, role, network)
    with stages.stage("statistics of both"):
        moments = {role: statistics.streamed(files) for role, files in features_of.items()}
    bootstrap = Bootstrap(np.arange(count) % CLASSES, 200, SEED)
    generated_features, real_features = (features_of[role].array("features") for role in ("generated", "real"))
    reference, results = {"mu": moments["real"]["mu"], "sigma": moments["real"]["sigma"]}, {}
    with stages.stage("FID"):
        results["FID"] = bootstrap.fid(generated_features, reference)
    if "spatial" in features_of["real"].keys:
        spatial = {"mu": moments["real"]["mu_s"], "sigma": moments["real"]["sigma_s"]}
        with stages.stage("sFID"):
            results["sFID"] = bootstrap.fid(features_of["generated"].array("spatial"), spatial)
    if "logits" in features_of["real"].keys:
        with stages.stage("Inception score"):
            results["Inception score"] = bootstrap.inception_score(features_of["generated"].array("logits"))
    with stages.stage("precision and recall"):
        precision, recall = bootstrap.precision_recall(generated_features, real_features, 3)
    with stages.stage("KID"):
        results["KID"] = bootstrap.kid(generated_features, real_features)
    texts = {step: shown(metric) for step, metric in results.items()}
    texts["precision and recall"] = f"{shown(precision)}; {shown(recall)}"
    step, least = "FID at infinitely many images", fid_infinity.LEAST * generated_features.shape[1]
    with stages.stage(step):
        if count >= least:
            texts[step] = shown(bootstrap.fid_infinity(generated_features, reference))
        else:
            order = dealt(bootstrap.labels, np.random.default_rng(SEED))
            value, error = fid_infinity.fid(
                generated_features, order, reference, jackknife.fid(generated_features, reference)[1]
            )
            texts[step] = f"{value:.4g} +- {error:.2g} by the fit; an evaluation gives none below {least:,} images"
    return texts


def draw(path: Path, count: int, side: int, seed: int) -> None:
    """Write an .npz of smooth random pictures, a few at a time; the seed also sets their contrast."""
    generator = torch.Generator().manual_seed(seed)
    with zipfile.ZipFile(path, "w") as archive, archive.open("arr_0.npy", "w", force_zip64=True) as member:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, side, side, 3)}
        np.lib.format.write_array_header_1_0(member, header)
        for start in range(0, count, image_sets.PIECE):
            pixels: Tensor = torch.zeros(1)
            for scale in (2, 8, 32):
                coarse = torch.randn((min(image_sets.PIECE, count - start), 3, scale, scale), generator=generator)
                pixels = pixels + functional.interpolate(coarse, size=side, mode="bicubic")
            levels = (127.5 + (40.0 + 4.0 * seed) * pixels).clamp(0, 255).byte()
            member.write(levels.permute(0, 2, 3, 1).contiguous().numpy().tobytes())


def load(name: str) -> tuple[Extractor, str]:
    """The extractor, and a note where its weights are random because the published ones are not on disk."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return extractors.load(name, None, None, device), ""
    except ValueError as error:
        print(f"{error}\nrandom weights instead", flush=True)
        return extractors.load(name, None, None, device, random=True), "random weights"


def extract(folder: Path, role: str, network: Extractor) -> Features:
    """Features of a set of images, written part by part as by `mar features`."""
    images = replace(image_sets.open_set(folder / f"{role}.npz"), role=role)
    recipe = {"source": images.sha256}
    claim(folder / role, recipe)
    features.extract(images, network, folder / role, recipe)
    return Features(folder / role, features.manifest_of(images, network, folder / role, network.chunk))


def shown(metric: Metric | None) -> str:
    """A metric with its interval as text; empty where there is none."""
    return f"{metric.value:.4g} ({metric.low:.4g} to {metric.high:.4g})" if metric else ""


if __name__ == "__main__":
    main()
