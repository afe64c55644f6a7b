"""Sweeps: which points are judged and which wins, restarts, paired noise, and settings that take their numbers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny_models import PixelsOfTokens, SixNumbers

from benchmarks import sweeping
from mar.features.networks import extractors
from mar.metrics import moments, real_images
from mar.report.figures.sweeps import sweep as heatmaps
from mar.runtime.files import sha256
from mar.runtime.noise import Noise
from mar.sampling import sample_sets, sampler, sweep
from mar.sampling.sampler import Sampler
from mar.study import chosen_settings
from mar.study.parts import Sweep
from mar.study.records import Judge, Metric, RealSide, SweepNumbers, SweepPoint
from mar.study.stage_keys import sample_key, sweep_key
from mar.training.trainer import train

GRID = {"samples": 12, "guidance": [1.0, 2.0, 4.0], "temperature": [0.9, 1.1], "refine": 1}


def study(grid=GRID, **setting):
    """The tiny study, whose only variant that is swept has 12 images a point in chunks of 6."""
    swept = {"steps": 4, "diffusion_steps": 3, "clamp": 4.0, "sweep": grid, **setting}
    variant = tiny.STUDY["variants"]["mar-diff"] | {"sampling": ["diff", "best"]}
    return tiny.study(
        sampling=tiny.STUDY["sampling"] | {"best": swept}, variants=tiny.STUDY["variants"] | {"mar-diff": variant}
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tiny.make_root(tmp_path_factory.mktemp("trained"))
    train(study(), root, "mar-diff", 0)
    return root


@pytest.fixture
def root(trained, tmp_path, monkeypatch):
    for name in ("runs", "tokens"):
        (tmp_path / name).symlink_to(trained / name)
    file = tmp_path / "statistics" / "classifier" / "train.npz"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"statistics")
    rows = np.random.default_rng(0).normal(0.5, 0.1, (40, 6))
    extractor = Judge(name="classifier", weights=SixNumbers.weights, note="")
    real = real_images.Real(RealSide(name="train split", sha256="5" * 64), extractor, moments.of(rows), None, None)
    monkeypatch.setattr(real_images, "real", lambda *args, **options: real)
    monkeypatch.setattr(extractors, "load", lambda *args: SixNumbers())
    monkeypatch.setattr(sampler.autoencoder, "load", lambda root, name, study: PixelsOfTokens())
    return tmp_path


def result(root):
    return json.loads((root / "sweeps" / "mar-diff" / "best.json").read_text())


def points(root):
    folder = root / "sweeps" / "mar-diff" / "best"
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("guidance*.json")}


def valley(guidance, temperature):
    """A judge whose FID is least at one place."""
    return lambda point: SweepNumbers(
        fid=metric(1 + (np.log(point[0]) - np.log(guidance)) ** 2 + 100 * (point[1] - temperature) ** 2)
    )


def metric(value):
    return Metric(
        value=float(value),
        low=float(value),
        high=float(value),
        n=1,
        bootstrap=0,
        seed=0,
        higher_is_better=False,
    )


def pairs(points, number):
    return {(point.guidance, point.temperature) for point in points if point.round == number}


def test_grid_then_halfway_to_the_neighbours_of_the_best():
    grid = Sweep(samples=1, guidance=(1.5, 2.0, 3.0, 5.0), temperature=(0.9, 1.0, 1.1), refine=2)
    found = sweep.search(grid, valley(2.6, 0.96))
    assert pairs(found, 0) == {(g, t) for g in grid.guidance for t in grid.temperature}
    assert pairs(found, 1) == {(2.5, 1.0), (4.0, 1.0), (3.0, 0.95), (3.0, 1.05)}, "around 3.0, 1.0"
    # then 3.0, 0.95 is the best: its neighbours are 2.5 and 4.0, 0.9 and 1.0
    assert pairs(found, 2) == {(2.75, 0.95), (3.5, 0.95), (3.0, 0.925), (3.0, 0.975)}
    assert len(found) == sweep.most(grid) == 20
    best = sweep.winner(found)
    assert (best.guidance, best.temperature) == (2.75, 0.95) and sweep.edge(found, best) == ()


def test_one_axis_has_two_neighbours_and_an_end_has_one():
    line = Sweep(samples=1, temperature=(0.8, 0.9, 1.0), refine=1)
    assert pairs(sweep.search(line, valley(1.0, 0.9)), 1) == {(1.0, 0.85), (1.0, 0.95)}
    assert sweep.most(line) == 5
    found = sweep.search(line, valley(1.0, 0.5))
    assert pairs(found, 1) == {(1.0, 0.85)}
    assert sweep.edge(found, sweep.winner(found)) == ("temperature",)


def test_a_scale_of_one_is_no_edge():
    grid = Sweep(samples=1, guidance=(1.0, 2.0), temperature=(0.9, 1.0, 1.1))
    found = sweep.search(grid, valley(1.0, 1.0))
    assert sweep.edge(found, sweep.winner(found)) == ()
    found = sweep.search(grid, valley(9.0, 1.2))
    assert sweep.edge(found, sweep.winner(found)) == ("guidance", "temperature")


def test_the_lowest_fid_wins_and_an_error_never():
    entries = [
        SweepPoint(guidance=3.0, temperature=1.0, round=0, fid=metric(2.0)),
        SweepPoint(guidance=1.5, temperature=1.0, round=0, error="not finite"),
        SweepPoint(guidance=2.0, temperature=1.1, round=0, fid=metric(2.0)),
        SweepPoint(guidance=2.0, temperature=0.9, round=0, fid=metric(2.0)),
    ]
    assert sweep.winner(entries) is entries[3], "of equals the least guidance, then temperature"
    assert sweep.winner(entries[1:2]) is None


def noisy(guidance, temperature, value, error=0.1):
    fid = metric(value).model_copy(update={"low": value - sweep.Z * error, "high": value + sweep.Z * error})
    return SweepPoint(guidance=guidance, temperature=temperature, round=0, fid=fid)


def test_within_one_standard_error_the_least_guided_is_chosen_then_the_temperature_nearest_to_one():
    entries = [
        noisy(3.0, 1.05, 7.13),
        noisy(2.0, 1.05, 7.14),
        noisy(2.0, 0.9, 7.2, error=9.0),  # the error of the lowest counts
        noisy(2.0, 1.0, 7.22),
        noisy(1.5, 1.0, 7.24),
        SweepPoint(guidance=1.0, temperature=1.0, round=0, error="not finite"),
    ]
    lowest = sweep.winner(entries)
    among = sweep.within(entries, lowest)
    assert lowest is entries[0] and among == entries[:4]
    assert sweep.plainest(among) is entries[3]
    assert sweep.plainest(entries[:3]) is entries[1], "0.05 is nearer to 1 than 0.1"
    assert sweep.plainest([noisy(2.0, 0.9, 7.2), noisy(2.0, 1.1, 7.1)]).temperature == 1.1, "then the lowest FID"


def test_how_far_the_choice_depends_on_chance():
    for error in (0.03, 0.08):
        found = {rule: sweeping.summary(places) for rule, places in sweeping.chosen(error, 200).items()}
        before, after = found["lowest"], found["one standard error"]
        assert after[0] < before[0] and after[1] < 0.85 * before[1]
        assert before[2] < after[2] < error, "FID that is given up is less than its standard error"


def test_a_sweep_judges_and_chooses(root):
    sweep.sweep(study(), root, "mar-diff", "best")
    found = result(root)
    assert [(p["guidance"], p["temperature"]) for p in found["grid"]][:6] == [
        (g, t) for g in GRID["guidance"] for t in GRID["temperature"]
    ]
    lowest = min(found["grid"], key=lambda p: p["fid"]["value"])
    limit = lowest["fid"]["value"] + (lowest["fid"]["high"] - lowest["fid"]["low"]) / (2 * sweep.Z)
    among = [p for p in found["grid"] if p["fid"]["value"] <= limit]
    best = min(among, key=lambda p: (p["guidance"], round(abs(p["temperature"] - 1), 9)))
    places = [{key: p[key] for key in ("guidance", "temperature")} for p in (best, lowest, *among)]
    assert [found["best"], found["lowest"], *found["within"]] == places and len(among) > 1
    assert found["rule"] == "one standard error"
    assert {p["fid"]["n"] for p in found["grid"]} == {12}
    assert len({p["fid"]["value"] for p in found["grid"]}) >= 3, (
        "one a temperature: so short a training knows no classes"
    )
    assert all(p["fid"]["low"] < p["fid"]["value"] < p["fid"]["high"] for p in found["grid"])
    assert (found["samples"], found["seed"], found["extractor"]) == (12, 0, "classifier")
    assert found["reference"] == {"name": "train split", "sha256": "5" * 64}
    assert found["recipe"]["slice"] == sweep_key(study(), "mar-diff", "best")
    used = chosen_settings.resolved(study(), root, "mar-diff", "best")
    assert used.model_dump(include={"guidance", "temperature"}) == found["best"] and used.sweep is None
    assert (used.steps, used.clamp) == (4, 4.0)
    _, rows = heatmaps(study(), root)
    assert len(rows) == len(found["grid"]) and sum(row["best"] for row in rows) == 1


def test_a_stopped_sweep_goes_on(root, monkeypatch, tmp_path_factory):
    measure, calls = sweep.measure, []

    def stopped(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(*args)

    monkeypatch.setattr(sweep, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(study(), root, "mar-diff", "best")
    before = points(root)
    assert len(before) == 3 and not (root / "sweeps" / "mar-diff" / "best.json").exists()
    sweep.sweep(study(), root, "mar-diff", "best")
    after = points(root)
    assert {name: after[name] for name in before} == before and len(after) == len(calls) - 1
    once = result(root)
    (root / "sweeps" / "mar-diff" / "best.json").unlink()  # as Snakemake does before it runs a job again
    for name in after:
        (root / "sweeps" / "mar-diff" / "best" / name).unlink()
    sweep.sweep(study(), root, "mar-diff", "best")
    assert result(root)["grid"] == once["grid"] and result(root)["best"] == once["best"]
    done = len(calls)
    sweep.sweep(study(), root, "mar-diff", "best")
    assert len(calls) == done, "complete"


def test_chunks_of_a_point_survive_a_stop(root, monkeypatch):
    """A slot that ends within a point loses one chunk; a damaged chunk is drawn again; the numbers are the same."""
    draw, drawn = Sampler.draw, []

    def stopped(self, settings, labels, noise):
        drawn.append((settings.guidance, settings.temperature))
        if len(drawn) == 6:
            raise KeyboardInterrupt
        return draw(self, settings, labels, noise)

    grid = GRID | {"refine": 0}
    monkeypatch.setattr(Sampler, "draw", stopped)
    with pytest.raises(KeyboardInterrupt):  # in the second chunk of the third point
        sweep.sweep(study(grid), root, "mar-diff", "best")
    folder = root / "sweeps" / "mar-diff" / "best"
    (chunk,) = folder.glob("*/chunk-*")
    assert chunk.name == "chunk-00000.safetensors" and chunk.parent.name == "guidance2.0-temperature0.9"
    sweep.sweep(study(grid), root, "mar-diff", "best")
    assert drawn[4:8] == [(2.0, 0.9), (2.0, 0.9), (2.0, 0.9), (2.0, 1.1)], "not the first chunk again"
    assert len(drawn) == 13 and not list(folder.glob("*/chunk-*"))
    once = result(root)
    for file in [root / "sweeps" / "mar-diff" / "best.json", *folder.glob("guidance2.0*.json")]:
        file.unlink()
    chunk.parent.mkdir(exist_ok=True)
    chunk.write_bytes(b"cut off")
    sweep.sweep(study(grid), root, "mar-diff", "best")
    assert result(root)["grid"] == once["grid"] and len(drawn) == 17


def test_an_array_shares_the_points(root, capsys):
    """Each worker measures its points of the grid; whoever completes it refines and writes what one alone writes."""
    for worker in (2, 0):
        sweep.sweep(study(), root, "mar-diff", "best", (worker, 3))
        assert len(points(root)) == {2: 2, 0: 4}[worker]
        assert f"{4 if worker == 2 else 2} points are left to other workers" in capsys.readouterr().out
    sweep.sweep(study(), root, "mar-diff", "best", (1, 3))
    shared = result(root)
    assert len(points(root)) == len(shared["grid"]) > 6
    sweep.sweep(study(), root, "mar-diff", "best", (0, 3))
    assert "complete" in capsys.readouterr().out
    for file in [root / "sweeps" / "mar-diff" / "best.json", *(root / "sweeps/mar-diff/best").glob("guidance*.json")]:
        file.unlink()
    sweep.sweep(study(), root, "mar-diff", "best")
    assert result(root)["grid"] == shared["grid"] and result(root)["best"] == shared["best"]


def test_an_extended_grid_keeps_its_points_and_other_samples_do_not(root):
    sweep.sweep(study(GRID | {"refine": 0}), root, "mar-diff", "best")
    before = points(root)
    wider = study(GRID | {"refine": 0, "guidance": [1.0, 2.0, 4.0, 6.0]})
    with pytest.raises(ValueError, match=r"best\.json: sampling\.best or metrics have changed"):
        chosen_settings.resolved(wider, root, "mar-diff", "best")
    sweep.sweep(wider, root, "mar-diff", "best")
    after = points(root)
    assert {name: after[name] for name in before} == before and len(after) == 8
    sweep.sweep(study(GRID | {"refine": 0, "samples": 18}), root, "mar-diff", "best")
    assert len(points(root)) == 6 and not set(points(root).values()) & set(before.values())


def test_points_share_noise_that_no_sample_set_has(root, monkeypatch):
    draw, seen = Sampler.draw, []

    def recorded(self, settings, labels, noise):
        state = noise.generator.get_state()
        first = tuple(noise.normal(3).tolist())
        noise.generator.set_state(state)
        seen.append((settings.guidance, settings.temperature, first, tuple(labels.tolist())))
        return draw(self, settings, labels, noise)

    monkeypatch.setattr(Sampler, "draw", recorded)
    sweep.sweep(study(GRID | {"refine": 0}), root, "mar-diff", "best")
    streams = {}
    for guidance, temperature, *drawn in seen:
        streams.setdefault((guidance, temperature), []).append(drawn)
    assert len(streams) == 6 and len({json.dumps(value) for value in streams.values()}) == 1
    (a, _), (b, labels) = next(iter(streams.values()))
    assert a != b and labels == (6, 7, 8, 9, 0, 1)
    reported = [tuple(Noise("sample", 0, 0, number).normal(3).tolist()) for number in range(4)]
    assert not {a, b} & set(reported)


def test_a_point_that_is_not_finite_is_recorded_and_cannot_win(root, monkeypatch):
    generate = sampler.generate

    def broken(model, labels, order, blank, settings, noise, kept):
        tokens = generate(model, labels, order, blank, settings, noise, kept)
        return tokens * float("nan") if settings.guidance == 4.0 else tokens

    monkeypatch.setattr(sampler, "generate", broken)
    sweep.sweep(study(), root, "mar-diff", "best")
    found = result(root)
    failed = [p for p in found["grid"] if "error" in p]
    assert {p["guidance"] for p in failed} == {4.0} and "6 of 6 images are not finite" in failed[0]["error"]
    assert found["best"]["guidance"] != 4.0
    _, rows = heatmaps(study(), root)
    assert {row["fid"] for row in rows if row["guidance"] == 4.0} == {""}
    only = study({"samples": 12, "guidance": [4.0], "temperature": [1.0]})
    with pytest.raises(ValueError, match=r"best\.json: no point of the grid has a FID; the first says: .*not finite"):
        sweep.sweep(only, root, "mar-diff", "best")


def test_samples_are_drawn_at_the_chosen_point(root):
    with pytest.raises(ValueError, match=r"best\.json: missing: sampling\.best is chosen by a sweep.*--setting best"):
        sample_sets.sample(study(), root, "mar-diff", 0, "best")
    sweep.sweep(study(), root, "mar-diff", "best")
    best = result(root)["best"]
    sample_sets.sample(study(), root, "mar-diff", 0, "best")
    folder = root / "samples" / "mar-diff" / "seed0" / "best"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {key: manifest["sampling"][key] for key in best} == best and manifest["sampling"]["sweep"] is None
    fixed = study(None, **best)  # by hand
    first = sha256(folder / "chunk-00000.npy")
    assert json.loads((folder / "recipe.json").read_text())["sample"] == sample_key(fixed, "mar-diff", "best")
    images, _ = Sampler(fixed, root, "mar-diff", 0).chunk("best", 0)
    assert np.array_equal(np.load(folder / "chunk-00000.npy"), images)
    file = root / "sweeps" / "mar-diff" / "best.json"
    place = next(p for p in result(root)["grid"] if p["guidance"] != best["guidance"])
    file.write_text(json.dumps(result(root) | {"best": {key: place[key] for key in best}}))
    sample_sets.sample(study(), root, "mar-diff", 0, "best")
    assert sha256(folder / "chunk-00000.npy") != first and len(list(folder.parent.glob("best.old-*"))) == 1


def test_a_sampling_seed_draws_other_images_at_the_same_point(root):
    drawing = Sampler(study(None), root, "mar-diff", 0)
    images, labels = drawing.chunk("best", 1)
    again = drawing.draw(study(None).sampling["best"], torch.from_numpy(labels), Noise("sample", 0, 0, 1))
    assert np.array_equal(images, again.permute(0, 2, 3, 1).numpy()), "seed 0 is the stream from before seeds"
    other, same = Sampler(study(None, seed=1), root, "mar-diff", 0).chunk("best", 1)
    assert not np.array_equal(images, other) and np.array_equal(labels, same)
    assert sweep_key(study(seed=1), "mar-diff", "best") == sweep_key(study(), "mar-diff", "best")


def test_refusals(root, monkeypatch):
    with pytest.raises(ValueError, match=r"--setting diff: sampling\.diff has no sweep; accepted: a setting with one"):
        sweep.sweep(study(), root, "mar-diff", "diff")
    assert chosen_settings.resolved(study(), root, "mar-diff", "diff") == study().sampling["diff"]
    monkeypatch.setattr(SixNumbers, "weights", "f" * 64)
    with pytest.raises(ValueError, match="classifier: weights ffffffffffff, train split was judged with eeeeeeeeeeee"):
        sweep.sweep(study(), root, "mar-diff", "best")
    (root / "runs").unlink()
    with pytest.raises(ValueError, match=r"run\.json: missing"):
        sweep.sweep(study(), root, "mar-diff", "best")


def test_resolving_needs_no_torch():
    code = "import sys, mar.study.chosen_settings; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
