"""`mar replicate`: from published weights to a verdict. The files are tiny, in the published formats, served here."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import published
import pytest
import torch

from mar.cluster import fork_server
from mar.features.networks import inception
from mar.planning import replicate
from mar.runtime.files import read
from mar.study import layout
from mar.study.reading import load
from mar.study.records import ImportRecord, MetricsFile

STUDY = """
study: tiny-official
data: {kind: none, image_size: 32, num_classes: 10}
tokenizers:
  kl:
    {kind: kl, stride: 4, channels: [32, 64, 32], layers: 2, attention: encoder, latent_channels: 4, scale: 0.5,
     pretrained: true, weights: mar-kl16}
backbones: {masked: {kind: masked, width: 32, depth: 2, heads: 4, buffer: 8}}
heads: {diffloss: {kind: diffusion, width: 32, depth: 2, noise_draws: 4}}
recipes: {published: {images: 64, batch: 64, checkpoint_images: 64, log_images: 64}}
sampling:
  plain: {steps: 2, diffusion_steps: 2, clamp: 3.0}
  guided: {steps: 2, diffusion_steps: 2, guidance: 2.0, clamp: 3.0}
variants:
  ours: &ours
    {tokenizer: kl, order: random, backbone: masked, head: diffloss, recipe: published, sampling: [plain, guided],
     seeds: []}
  theirs: {<<: *ours, pretrained: true, weights: mar-b, seeds: [0]}
metrics:
  {samples: 10, chunk: 5, bootstrap: 10, extractors: [inception],
   reference: {file: adm-imagenet256, unknown_hash: true}}
speed: {batch: 2}
tables:
  table4:
    {paper: mar_table4, title: Table 4, rows: [{paper: mar-b, variant: ours, without: plain, guided: guided}]}
  official:
    {paper: mar_table4, title: with published weights,
     rows: [{paper: mar-b, variant: theirs, without: plain, guided: guided}]}
"""

GIVEN = """
study: theirs
data: {kind: none, image_size: 32, num_classes: 10}
given: {theirs: {file: theirs.npz, label: Theirs}}
metrics:
  {samples: 10, chunk: 5, bootstrap: 10, extractors: [inception],
   reference: {file: adm-imagenet256, unknown_hash: true}}
tables: {table4: {paper: mar_table4, title: Table 4, rows: [{paper: adm, guided: theirs}]}}
"""


@pytest.fixture(scope="module")
def place(fresh: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A copy of the project with the real `mar` and torch; its config/assets.csv leads to small files served here."""
    project = type(fresh)(tmp_path_factory.mktemp("replicate"))
    shutil.rmtree(project.folder / "torch")  # what keeps torch out of the reading of the workflow
    files = tmp_path_factory.mktemp("published")
    published.mar_checkpoint(files / "mar.pth")
    torch.save({"model": published.kl_weights()}, files / "kl16.ckpt")
    torch.save(inception.random(0).state_dict(), files / "inception.pth")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)
    np.savez(files / "reference.npz", arr_0=images, mu=np.zeros(2048), sigma=np.eye(2048))
    handler = partial(SimpleHTTPRequestHandler, directory=str(files))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    project.environment |= {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    del project.environment[fork_server.ADDRESS]  # its jobs do import torch
    rows = [
        ("mar-b", "official-mar", "mar.pth", "CC-BY-NC-4.0"),
        ("mar-kl16", "ldm-kl", "kl16.ckpt", "MIT"),
        ("inception", "reference", "inception.pth", "Apache-2.0"),
        ("adm-imagenet256", "reference", "reference.npz", "not stated"),
        ("dit-xl-2-256", "dit", "nowhere.pt", "CC-BY-NC-4.0"),
    ]
    with open(project.folder / "config" / "assets.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "format", "url", "sha256", "size", "licence", "source", "note"])
        for name, kind, path, licence in rows:
            writer.writerow([name, kind, f"{address}/{path}", "", "", licence, "this test", "small"])
    (project.folder / "config" / "tiny.yaml").write_text(STUDY)
    (project.folder / "bin" / "mar").write_text(f'#!/bin/sh\nexec {sys.executable} -m mar.cli "$@"\n')
    yield project
    server.shutdown()


def call(place: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mar.cli", "replicate", *arguments, "--study", "config/tiny.yaml"]
    environment = place.environment | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return subprocess.run(
        command, cwd=place.folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def test_from_a_checkpoint_in_the_published_format_to_the_verdict(place: Any) -> None:
    asked = call(place, "table4:mar-b:fid_cfg")
    assert asked.returncode == 1 and "mar-b is for non-commercial use only (CC-BY-NC-4.0)" in asked.stdout
    assert not (place.folder / "results" / "assets" / "mar-b.json").exists()
    done = call(place, "table4:mar-b:fid_cfg", "--yes", "--quiet", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "price: about" in done.stdout and "mar-kl16: http:" in done.stdout and "licence: Apache-2.0" in done.stdout
    root = place.folder / "results" / "replicate-mar-table4-mar-b"
    command = next(line for line in done.stdout.splitlines() if line.startswith("snakemake "))
    assert command.startswith("snakemake results/replicate-mar-table4-mar-b/metrics/theirs/seed0/guided.json ")
    assert command.endswith("--configfile results/replicate-mar-table4-mar-b/replicate.yaml --quiet all")
    fid = read(root / "metrics" / "theirs" / "seed0" / "guided.json", MetricsFile).metrics["fid"]
    line = next(line for line in done.stdout.splitlines() if line.startswith("| fid, guidance |"))
    assert f"| {fid.value:.0f} [" in line and "| 2.31 | not decidable here | " in line
    assert "10 images a sample set, not 50000" in line
    fetched = sorted(path.name for path in (place.folder / "results" / "assets" / "downloads").iterdir())
    assert [name for name in fetched if not name.startswith(".")] == [
        "adm-imagenet256.npz", "inception.pth", "mar-b.pth", "mar-kl16.ckpt",
    ]  # fmt: skip
    assert (
        read(layout.import_record(place.folder / "results" / "assets", "mar-b"), ImportRecord).licence == "CC-BY-NC-4.0"
    )
    study = load(root / "study.json")
    assert list(study.variants) == ["theirs"] and study.metrics.extractors == ("inception",)
    assert not (root / "jobs" / "train").exists()  # imports are copied by one process, without a launcher


def test_a_dry_run_stops_after_the_price(place: Any) -> None:
    done = call(place, "mar_table4:mar-b", "--dry-run")
    assert (
        done.returncode == 0
        and "20 images are drawn" in done.stdout
        and done.stdout.count("licence:") == 4
        and "snakemake" not in done.stdout
    )


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("table9:mar-b", "accepted: TABLE:ROW or TABLE:ROW:COLUMN with one of the tables mar_table1"),
        ("table4", "accepted: TABLE:ROW"),
        ("table4:mar-x", "mar_table4 has no row 'mar-x'; accepted: adm, "),
        ("table4:mar-b:fid", "mar_table4 prints no 'fid' for mar-b; accepted: fid_nocfg, fid_cfg, "),
        ("table4:adm", "the paper prints numbers of this system; no shipped study on ImageNet describes it"),
    ],
)
def test_a_cell_that_there_is_not_is_refused(cell: str, message: str) -> None:
    with pytest.raises(ValueError, match=cell.partition(":")[0]) as error:
        replicate.find(cell, None)
    assert message in str(error.value)


def test_every_row_with_published_weights_needs_no_image() -> None:
    found = {}
    for cell in (
        "table4:mar-b",
        "table4:mar-l",
        "table4:mar-h",
        "table4:dit-xl",
        "var-table1:var-d16-released",
        "var-table1:var-d30-released",
    ):
        wanted = replicate.find(cell, None)
        study = replicate.resolve(replicate.reduced(wanted), "replicate.yaml")
        (variant,) = study.variants.values()
        assert variant.pretrained and study.data.kind == "none" and study.data.num_classes == 1000
        found[cell] = {asset.name for asset in replicate.assets(study)}
        assert {"inception", "adm-imagenet256"} < found[cell] and len(found[cell]) == 4
    assert "dit-xl-2-256" in found["table4:dit-xl"] and "dinov2-vitl14" not in set().union(*found.values())
    assert not replicate.find("table1:mar-one-diffloss", None).study.variants["mar-diffloss"].pretrained


def test_a_study_of_given_sets_alone_has_its_tables(place: Any) -> None:
    """Judged against a published reference, without any image of the study's own."""
    rows = np.random.default_rng(1).integers(0, 256, (10, 32, 32, 3)).astype(np.uint8)
    np.savez(place.folder / "theirs.npz", arr_0=rows, arr_1=np.arange(10))
    (place.folder / "config" / "theirs.yaml").write_text(GIVEN)
    place.snakemake("all", "--configfile", "config/theirs.yaml", "--quiet", "all", "--cores", "2")
    root = place.folder / "results" / "theirs"
    fid = read(root / "metrics" / "given" / "theirs.json", MetricsFile).metrics["fid"]
    with open(root / "tables" / "table4.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["row"], row["ours"], row["n"]) == ("adm", "given", "10")
    assert float(row["fid_guided"]) == pytest.approx(fid.value, rel=1e-12)  # tables average logarithms
    assert "| given: Theirs |" in " ".join((root / "tables" / "table4.md").read_text().split())
    assert (root / "tables" / "metrics.tex").exists() and not (root / "report.html").exists()
