"""What a study needs of a GPU's memory: what is refused, and what would fit."""

import re
import subprocess

import pytest
from click.testing import CliRunner
from tiny import STUDY, study

from mar.cli.__main__ import main
from mar.planning import gpus, kept_costs, memory, plan, probe
from mar.planning.gpus import FRAGMENTS, GIB, HEADROOM, Need
from mar.study import reading
from mar.study.reading import load, write_resolved
from mar.study.records import Peak, Rates, TrainingPeak

PEAK = Peak(images=8, bytes=10 * GIB, image=GIB)  # 2 GiB of weights
ONE = {"mar-diff": STUDY["variants"]["mar-diff"]}


def test_a_gpu_needs_more_than_the_peak():
    need = Need("sample", "a/b", PEAK, 4, GIB, "memory.sampling")
    assert need.gib == pytest.approx(3 + 1.05 * (2 + 4 + 1)) and (HEADROOM, FRAGMENTS) == (3 * GIB, 0.05)


@pytest.mark.parametrize(("gib", "fits"), [(100, 8), (3 + 1.05 * 8, 6), (3 + 1.05 * 7.99, 5), (5.2, 0)])
def test_the_largest_number_that_fits(gib, fits):
    assert Need("sample", "a/b", PEAK, 8, 0.0, "memory.sampling").fitting(gib) == fits
    micro = Need("train", "a", PEAK, 8, 0.0, "recipes.r.micro_batch", divides=24).fitting(gib)
    assert micro == {5: 4}.get(fits, fits)  # what divides the batch


def test_what_sharding_takes_off_a_training():
    peak = TrainingPeak(images=8, bytes=40 * GIB, image=GIB, split=20 * GIB, whole=2 * GIB)
    assert peak.among(4) == Peak(images=8, bytes=(40 - 20 + 5 + 2) * GIB, image=GIB)


def test_counts_without_memory_do_not_say_that_a_gpu_is_large_enough(tmp_path, monkeypatch):
    """They are what `mar plan` left when the study named no GPU; its budget is judged by them."""
    folder, gpu = tmp_path / "tiny", {"gpu_gib": 1.5 * HEADROOM / GIB}
    kept_costs.count(study(variants=ONE), folder, 10)
    with pytest.raises(ValueError, match=r"budget\.disk_gb"):
        plan.check(study(variants=ONE, memory=gpu, budget={"disk_gb": 1e-9}), folder, count=False)
    write_resolved(of := study(variants=ONE, memory=gpu), tmp_path)
    plans = []

    def run(command, **_):
        plans.append(CliRunner().invoke(main, command[3:]))
        return subprocess.CompletedProcess(command, plans[-1].exit_code)

    monkeypatch.setattr(plan.subprocess, "run", run)
    each = {"mar-diff": 1e9}
    rates = Rates(start=2.0, tokenizers={"kl": 1e9}, judges={"classifier": 1e9}, training=each, sampling=each)
    monkeypatch.setattr(probe, "rates", lambda *_: rates)
    assert plan.check(of, folder, count=False) is False and not plans
    assert plan.check(of, folder) and len(plans) == 1
    assert plan.check(of, folder, count=False) and plan.check(of, folder) and len(plans) == 1


def test_a_study_that_does_not_fit_is_refused_with_what_would(tmp_path):
    recipes = {"short": STUDY["recipes"]["short"] | {"batch": 64, "images": 64, "micro_batch": 32, "log_images": 64}}
    recipes["short"] |= {"checkpoint_images": 64, "warmup_images": 0}
    backbones = {**STUDY["backbones"], "masked": STUDY["backbones"]["masked"] | {"width": 512, "depth": 8, "heads": 8}}

    def check(gib):
        of = study(variants=ONE, backbones=backbones, recipes=recipes, memory={"gpu_gib": gib})
        write_resolved(of, tmp_path)
        kept = kept_costs.count(of, tmp_path / "tiny", 10, memory=True)
        plan.check(of, tmp_path / "tiny")
        return of, kept

    of, kept = check(80)
    need = next(n for n in gpus.needs(of, kept.memory) if n.stage == "train")
    fewer = (need.bytes(16) + need.bytes(8)) / 2 / GIB  # room for 8, not for 16
    with pytest.raises(ValueError, match=r"memory.gpu_gib [\d.]+: some jobs do not fit\n") as refused:
        check(fewer)
    said = (
        f"train mar-diff: {need.gib:.1f} GiB with 32 images at once; accepted: recipes.short.micro_batch 8 or less, or "
    )
    assert said in str(refused.value)
    with pytest.raises(
        ValueError, match=r"accepted: recipes.short.gradient_checkpointing, which needs less, or a GPU of \d+ GiB"
    ):
        check(HEADROOM / GIB)
    text = gpus.text(of, kept.memory)
    assert "a GPU of 40 GiB: fits\na GPU of 80 GiB (memory.gpu_gib): fits" in text
    jobs = plan.jobs(of, plan.count_images(of), kept)
    by_stage = {
        stage: {round(job.gpu_gib, 6) for job in jobs if job.stage == stage} for stage in {j.stage for j in jobs}
    }
    assert by_stage["train"] == {round(need.gib, 6)}
    assert all(value > 3 for stage in ("sample", "encode", "rfid", "features", "speed") for value in by_stage[stage])
    assert by_stage["evaluate"] == by_stage["statistics"] == by_stage["prepare"] == {0.0}


def peaks_of(of, *variants):
    """A study with these variants alone, and its peaks."""
    rest = {"variants": {name: of.variants[name] for name in variants}, "tables": {}, "tradeoff": ()}
    of = of.model_copy(update={**rest, "diffusion_steps": (), "temperature": ()})
    return of, memory.count(of, 1000)


def over(name, overlay, folder):
    """A shipped study with another file over it, as `--configfile` takes both."""
    values = reading._merge(reading.read(folder / name), reading.read(folder / overlay))
    return reading.resolve(values, folder / name)


@pytest.fixture
def config():
    from mar.study import layout

    return layout.shipped()


def test_var_fits_80_gib_as_shipped_and_40_with_its_overlay(config):
    of, peaks = peaks_of(load(config / "var256.yaml"), "var-d24", "var-d30")
    assert of.memory.gpu_gib == 80 and gpus.too_large(of, peaks, 80) == ""
    said = gpus.too_large(of, peaks, 40)
    assert "recipes.d24.micro_batch 8 or less" in said
    assert "train var-d30" not in said  # its state is split among 32 GPUs; unsplit it is 37 GiB before the first image
    alone = of.variants["var-d30"]
    alone = alone.model_copy(update={"resources": alone.resources.model_copy(update={"sharding": "none"})})
    said = gpus.too_large(of.model_copy(update={"variants": {"var-d30": alone}}), peaks, 40)
    assert re.search(r"train var-d30: .* GiB .*; accepted: resources.sharding full, or a GPU of \d+ GiB", said)
    small, peaks = peaks_of(over("var256.yaml", "gpus/40gib-var256.yaml", config), "var-d24", "var-d30")
    assert small.memory.gpu_gib == 40 and gpus.too_large(small, peaks, 40) == ""


def test_mar_fits_80_gib_as_shipped_and_40_with_the_overlay(config):
    largest = ("mar-h", "mar-consistency")
    of, peaks = peaks_of(load(config / "imagenet256.yaml"), *largest)
    assert of.memory.gpu_gib == 80 and gpus.too_large(of, peaks, 80) == ""
    assert "memory.decode" in gpus.too_large(of, peaks, 40)
    small, peaks = peaks_of(over("imagenet256.yaml", "gpus/40gib.yaml", config), *largest)
    assert small.memory.gpu_gib == 40 and gpus.too_large(small, peaks, 40) == ""
