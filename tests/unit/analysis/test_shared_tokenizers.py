"""Variants that share the tokenizers of their seeds are compared seed by seed (mar/analysis/estimates.py)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from fabricate import fabricate, small

from mar.analysis.estimates import Results, Sets
from mar.study.reading import resolve
from mar.study.study import Study

IMAGES = 0.02  # bootstrap standard error of log FID


def seeded(per_seed: bool, seeds: tuple[int, ...] = (0, 1)) -> Study:
    """The small study, in which `ar` and `ce` have one tokenizer, with a tokenizer for each seed or without."""
    study = small({name: seeds for name in ("ar", "ce", "diff")})
    values = json.loads(study.model_dump_json(exclude_defaults=True))
    for section in values["tokenizers"].values():
        section["per_seed"] = per_seed
    return resolve(values, "seeded.yaml")


def log_fids(study: Study, rng: np.random.Generator, tokenizer: float, training: float) -> dict[tuple[str, int], float]:
    """log FID of each run: 2, what its tokenizer and what its training add. The truth of every difference is 0."""
    shared = {(v.tokenizer, k): rng.normal(0, tokenizer) for v in study.variants.values() for k in v.seeds}
    return {
        (name, k): 2.0 + shared[v.tokenizer, k] + rng.normal(0, training)
        for name, v in study.variants.items()
        for k in v.seeds
    }


def compared(study: Study, rng: np.random.Generator, tokenizer: float, training: float) -> tuple[float, float]:
    """Effect of ar against ce, and the half-width of its interval, in one repetition of the study."""
    runs, drawn = log_fids(study, rng, tokenizer, training), dict[tuple[str, str], Sets]()
    for name, variant in study.variants.items():
        for setting in variant.sampling:
            y = tuple(runs[name, k] + rng.normal(0, IMAGES) for k in variant.seeds)
            drawn[name, setting] = Sets(variant.seeds, y, (IMAGES**2,) * len(y), 40, 1.0, ("",) * len(y))
    results = Results(study, Path())
    results.sets = lambda variant, setting, metric: drawn[variant, setting]  # type: ignore[method-assign]
    results.distinct = lambda variant, seeds=True: list(study.variants[variant].sampling)  # type: ignore[method-assign]
    found = results.compare(("ar", study.variants["ar"].sampling[0]), ("ce", study.variants["ce"].sampling[0]), "fid")
    assert found is not None
    return found.effect, (found.high - found.low) / 2


@pytest.mark.parametrize(("seeds", "ratio"), [((0, 1), 0.0), ((0, 1), 4.0), ((0, 1, 2), 4.0)])
def test_coverage_of_pairs(seeds: tuple[int, ...], ratio: float) -> None:
    """95% of the intervals contain the truth, however much tokenizers scatter beside trainings."""
    study, rng, repeats = seeded(True, seeds), np.random.default_rng(0), 600
    found = [compared(study, rng, ratio * 0.03, 0.03) for _ in range(repeats)]
    covered = np.mean([abs(effect) <= half for effect, half in found])
    assert covered >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / repeats)


def test_pairs_find_what_tokenizers_hide() -> None:
    """With three seeds and tokenizers that scatter four times as much as trainings, intervals shrink to a half."""
    halves = {}
    for per_seed in (True, False):  # without per_seed the same numbers are taken as independent
        study, rng = seeded(per_seed, (0, 1, 2)), np.random.default_rng(1)
        halves[per_seed] = np.median([compared(study, rng, 0.12, 0.03)[1] for _ in range(100)])
    assert halves[True] < 0.5 * halves[False]


def test_a_tokenizer_that_moves_both_sides_leaves_their_difference(tmp_path: Path) -> None:
    study = seeded(True)
    move = {0: 0.3, 1: -0.3}
    fabricate(study, tmp_path, lambda v, s, seed: math.exp(3.0 + 0.1 * (v == "ar") + move[seed]), noise=0.0)
    results = Results(study, tmp_path)
    a, b = (("ar", study.variants["ar"].sampling[0]), ("ce", study.variants["ce"].sampling[0]))
    found = results.compare(a, b, "fid")
    assert found is not None and found.effect == pytest.approx(0.1) and found.low == pytest.approx(0.1)
    assert results.spread("fid", "variants").dofs == {study.variants["ar"].tokenizer: 1}
    across = results.compare(a, ("diff", study.variants["diff"].sampling[0]), "fid")
    assert across is not None and across.low < -0.3, "another tokenizer: not paired"
