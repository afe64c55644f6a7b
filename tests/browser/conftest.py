"""One browser for all tests here, and the page of a fabricated study as the workflow would leave it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "support"))

from chromium import Chromium, find
from fabricate import fabricate, large, write

from mar.analysis.verdicts import decide
from mar.report.page import report
from mar.study.products import figure_names, table_names
from mar.study.reading import resolve
from mar.study.study import Study

CLAIMS = Path(__file__).parents[2] / "config" / "claims.yaml"
DELETED = Path("samples/diff/seed1/s4")  # a sample set of which the manifest alone is kept


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find()
    if program is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    running = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A study with every section of the page: its results folder and the page."""
    folder = tmp_path_factory.mktemp("project")
    study = everything()
    root, figures = folder / "results" / "small", folder / "figures" / "small"
    fabricate(study, root, lambda v, s, k: (20.0 if v == "diff" else 40.0) + k, noise=0.05)
    finish(study, root, figures)
    decide(study, root, CLAIMS)
    report(study, root, figures)
    return SimpleNamespace(study=study, root=root, page=root / "report.html", deleted=root / DELETED)


def everything() -> Study:
    """All tables and figures, a swept setting, several judges."""
    values = large().model_dump(mode="json", exclude_defaults=True)
    del values["sampling"]["s4-cfg"]["guidance"]
    values["sampling"]["s4-cfg"]["sweep"] = {"samples": 20, "guidance": [2.0, 3.0], "temperature": [0.95, 1.0]}
    values["metrics"]["extractors"] = ["classifier", "inception"]
    return resolve(values, "everything.yaml")


def finish(study: Study, root: Path, figures: Path) -> None:
    """The files of a study that no number is read from: the page links to them."""
    figures.mkdir(parents=True)
    for name in figure_names(study):
        Image.new("RGB", (2000, 700), "white").save(figures / f"{name}.png", dpi=(150, 150))
        for suffix in ("pdf", "csv"):
            (figures / f"{name}.{suffix}").touch()
    for name in table_names(study):
        for suffix in ("csv", "md", "tex"):
            write(root / "tables" / f"{name}.{suffix}", "")
    for name in study.tokenizers:
        for path in ("model.safetensors", "config.json"):
            write(root / "tokenizers" / name / path, {})
        write(root / "tokens" / name / "train" / "manifest.json", {})
    runs = [f"{name}/seed{seed}" for name, variant in study.variants.items() for seed in variant.seeds]
    for run in runs:
        (root / "runs" / run / "ema.safetensors").touch()
        for setting in study.variants[run.split("/")[0]].sampling:
            for judge_ in study.metrics.extractors:
                write(root / "features" / judge_ / run / setting / "manifest.json", {})
                write(root / "statistics" / judge_ / run / f"{setting}.npz", {})
    write(root / "mlflow.json", {"experiment": "1", "runs": {f"runs/{run}": 32 * "8" for run in runs}})
    for chunk in (root / DELETED).glob("chunk-*.npy"):
        chunk.unlink()
    shutil.rmtree(root / "statistics" / "inception" / "ar")
