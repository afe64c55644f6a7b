"""Kill -9 at every moment of writing: after the same command again the results are those of an undisturbed one.

Moments: before and after each rename by which `atomic` writes a file. Encode, train and sample are killed on a real
Slurm (tests/cluster/chaos.py) and between their files in their own tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import judged
import numpy as np
import pipeline
import pytest
import tiny
import torch
from tiny_models import PixelsOfTokens, SixNumbers

from mar.features import features
from mar.features.networks import extractors
from mar.metrics import evaluate, moments, real_images, statistics
from mar.runtime.files import sha256
from mar.sampling import sampler, sweep
from mar.study.records import Judge, RealSide
from mar.study.study import Study
from mar.training.trainer import train

SET = "mar/seed0/plain"
ELAPSED = ("provenance", "seconds", "time")  # what no two runs have alike
Work = Callable[[Path], object]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """OpenMP's threads do not survive a fork, and numbers of threads give numbers of their own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def killed(work: Callable[[], object], moment: int) -> bool:
    """Whether work, in a process of its own, was killed before (even) or after (odd) its rename number moment // 2."""
    if not (pid := os.fork()):
        rename, count = os.replace, iter(range(10**6))

        def replace(source: Any, target: Any, **options: Any) -> None:
            number = next(count)
            if moment == 2 * number:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target, **options)
            if moment == 2 * number + 1:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = replace
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), f"moment {moment}: the work itself failed"
    return status != 0


def content(root: Path) -> dict[str, Any]:
    """Every file that stages write below a folder, by its path: its checksum, or its JSON without times."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
        if path.suffix == ".json":
            value = json.loads(path.read_text())
            if isinstance(value, dict):
                value = {k: v for k, v in value.items() if k not in ELAPSED}
            found[str(path.relative_to(root))] = value
        elif path.name != ".lock":
            found[str(path.relative_to(root))] = sha256(path)
    return found


def survives(start: Path, scratch: Path, work: Work, least: int) -> None:
    """Kill at every moment of writing, work again, and compare with a run that nothing disturbed."""
    place, expected = scratch / "place", None  # one place, as records name the folders of their inputs
    for moment in range(-1, 10**6):  # nothing is killed at moment -1
        shutil.copytree(start, place, symlinks=True)
        was_killed = killed(lambda: work(place), moment)
        if moment >= 0 and not was_killed:
            break
        work(place)
        expected = expected or content(place)
        assert len(expected) > len(content(start))
        assert content(place) == expected, f"moment {moment}"
        shutil.rmtree(place)
    assert moment >= least  # so many moments there are at least


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """A study with a classifier and a sample set, of which nothing is judged yet."""
    study = pipeline.study(metrics={"samples": 60, "chunk": 30, "bootstrap": 5})
    root = pipeline.with_classifier(tmp_path_factory.mktemp("samples"), study)
    judged.write_samples(root, judged.images(study, root))
    return study, root


def test_features(samples: tuple[Study, Path], tmp_path: Path) -> None:
    study, root = samples
    survives(root, tmp_path, lambda place: features.features(study, place, "classifier", SET), least=8)


def test_statistics_and_metrics(samples: tuple[Study, Path], tmp_path: Path) -> None:
    study, root = samples
    start = shutil.copytree(root, tmp_path / "start")
    for where in ("train", "heldout", SET):
        features.features(study, start, "classifier", where)
    statistics.statistics(study, start, "classifier", "train")

    def work(place: Path) -> None:
        statistics.statistics(study, place, "classifier", SET)
        evaluate.evaluate(study, place, "mar", 0, "plain")
        evaluate.reference(study, place)

    survives(start, tmp_path, work, least=6)


def test_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = {"steps": 2, "diffusion_steps": 2, "sweep": {"samples": 12, "guidance": [1.0, 2.0], "refine": 1}}
    variant = tiny.STUDY["variants"]["mar-diff"] | {"sampling": ["best"]}
    study = tiny.study(sampling={**tiny.STUDY["sampling"], "best": swept}, variants={"mar-diff": variant}, tradeoff=[])
    start = tiny.make_root(tmp_path / "start")
    train(study, start, "mar-diff", 0)
    file = start / "statistics" / "classifier" / "train.npz"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"statistics")
    rows = np.random.default_rng(0).normal(0.5, 0.1, (40, 6))
    judge = Judge(name="classifier", weights=SixNumbers.weights, note="")
    real = real_images.Real(RealSide(name="train split", sha256="5" * 64), judge, moments.of(rows), None, None)
    monkeypatch.setattr(real_images, "real", lambda *_, **__: real)
    monkeypatch.setattr(extractors, "load", lambda *_: SixNumbers())
    monkeypatch.setattr(sampler.autoencoder, "load", lambda *_: PixelsOfTokens())
    survives(start, tmp_path, lambda place: sweep.sweep(study, place, "mar-diff", "best"), least=6)
