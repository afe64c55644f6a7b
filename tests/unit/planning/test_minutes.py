"""Minutes of a study on this machine: from rates of its networks, corrected by what finished jobs took."""

import json
import socket

import pytest
import torch
from click.testing import CliRunner
from tiny import STUDY, study

from mar.cli.__main__ import main
from mar.cluster.records import LocalJob, write_job
from mar.models.heads.diffusion_loss import DiffusionLoss
from mar.models.masked import Masked
from mar.planning import kept_costs, minutes, plan, probe
from mar.runtime.files import read, write
from mar.study import layout, stage_keys
from mar.study.records import PlanRecord, Rates, TimesRecord
from mar.weights import shipped

TWO = {name: STUDY["variants"][name] for name in ("ar-ce", "mar-diff")}
OF = study(variants=TWO)
IMAGES = plan.count_images(OF)
RATES = Rates(
    start=2.0,
    tokenizers={"kl": 1e9, "vq": 2e9},
    judges={"classifier": 3e9},
    training={"ar-ce": 4e9, "mar-diff": 5e9},
    sampling={"ar-ce": 6e9, "mar-diff": 7e9},
)


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    return kept_costs.count(OF, tmp_path_factory.mktemp("counts"), IMAGES.classes)


@pytest.fixture
def planned(tmp_path, monkeypatch, counts):
    """The steps of a study in results/tiny, by rates that were tried before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(minutes, "cores", lambda: 4)
    monkeypatch.setattr(minutes, "visible", lambda: [])
    root = tmp_path / "results" / "tiny"

    def steps(of=OF, folder=root):
        if not layout.times(folder).exists():
            kept = TimesRecord(key=counts.key, host=socket.gethostname(), rates=RATES, seconds={})
            write(layout.times(folder), kept)
        return {step.key: step for step in minutes.steps(of, folder, plan.jobs(of, IMAGES, counts), IMAGES, counts)}

    return root, steps


def finished(root, key, cpu_seconds, state="finished"):
    folder = layout.job(root, key)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"command": "mar", "hash": 16 * "0", "host": "here", "pid": 1, "submitted": "2026-11-28T19:57:11+0000"}
    about |= {"cluster": "local", "output": None, "job": "1", "started": 1, "state": state}
    write_job(folder, LocalJob(**about, cpu_seconds=cpu_seconds))


@pytest.mark.parametrize(("gpus", "starts"), [([], minutes.FORKED), (["0"], minutes.START)])
def test_a_job_takes_its_start_and_its_operations_at_the_rate_of_its_network(
    planned, counts, gpus, starts, monkeypatch
):
    """Its start is that of a forked job, but where there is a GPU."""
    _, steps = planned
    monkeypatch.setattr(minutes, "visible", lambda: gpus)
    found, jobs = steps(), {minutes.key(job.stage, job.name): job for job in plan.jobs(OF, IMAGES, counts)}

    def work(key):
        stage = key.partition("/")[0]
        return found[key].seconds - 2.0 * starts[stage] - minutes.LAUNCHER

    for key, rate in (
        ("tokenizer/kl", 1e9),
        ("encode/vq", 2e9),
        ("rfid/vq", 2e9),
        ("features/classifier/ar-ce/seed0/ce", 3e9),
        ("train/ar-ce/seed0", 4e9),
        ("sample/mar-diff/seed0/diff", 7e9),
    ):
        assert jobs[key].flops > 0 and work(key) == pytest.approx(jobs[key].flops / rate)
    speed = next(key for key in found if key.startswith("speed/"))  # nothing runs beside a timing
    alone = 2.0 * starts["speed"] + minutes.LAUNCHER + jobs[speed].flops / RATES.sampling[speed[6:]]
    assert found[speed].seconds == pytest.approx(4 * alone)
    assert {"table/metrics", "figure/samples", "claims", "report", "track"} <= set(found)


def test_what_is_there_is_done_and_only_the_rest_remains(planned, counts):
    root, steps = planned
    assert not any(step.done for step in steps().values())
    for path in (
        layout.run_record(root, "ar-ce", 0),
        layout.sample_manifest(root, "ar-ce/seed0/ce"),
        layout.claims(root),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    found = steps()
    assert {key for key, step in found.items() if step.done} == {"train/ar-ce/seed0", "sample/ar-ce/seed0/ce", "claims"}
    text = minutes.text(OF, [], IMAGES, list(found.values()), counts, 0.23)
    assert text.splitlines()[0].startswith(f"tiny: {len(found)} jobs, about ")
    assert "on 4 cores of this machine; 3 are done, about " in text.splitlines()[0]
    total = next(line.split() for line in text.splitlines() if line.startswith("total"))
    assert total[1:3] == [str(len(found)), "3"] and float(total[3]) >= float(total[4]) > 0


def test_finished_jobs_correct_their_stage(planned):
    root, steps = planned
    before = steps()
    expected = {key: step.seconds for key, step in before.items()}
    for key, times in (("train/ar-ce/seed0", 2.0), ("train/mar-diff/seed0", 4.0), ("encode/kl", 1000.0)):
        finished(root, key, times * expected[key] - minutes.LAUNCHER)
    finished(root, "rfid/kl", 7 * expected["rfid/kl"], state="failed")
    finished(root, "tokenizer/kl", None)  # of before there were CPU seconds
    after = steps()
    ratios = {key: step.seconds / expected[key] for key, step in after.items()}
    for key in ("train/ar-ce/seed0", "train/mar-diff/seed0"):
        assert ratios[key] == pytest.approx(3.0)  # the median
    assert ratios["encode/vq"] == pytest.approx(minutes.BOUNDS[1])
    assert ratios["rfid/vq"] == ratios["tokenizer/vq"] == ratios["sample/ar-ce/seed0/ce"] == 1.0
    assert steps()["train/ar-ce/seed0"].seconds == after["train/ar-ce/seed0"].seconds  # corrected once


def test_a_new_study_is_corrected_by_the_others_on_this_machine(planned):
    root, steps = planned
    expected = steps()["train/ar-ce/seed0"].seconds
    finished(root, "train/ar-ce/seed0", 2 * expected - minutes.LAUNCHER)
    other = root.with_name("other")
    assert steps(folder=other)["train/mar-diff/seed0"].seconds == pytest.approx(
        2 * read(layout.times(other), TimesRecord).seconds["train/mar-diff/seed0"]
    )
    there = read(layout.times(root), TimesRecord)
    write(layout.times(root), there.model_copy(update={"host": "another"}))
    assert minutes.corrections(other) == {}


def test_what_ships_or_is_reused_is_not_computed(planned, tmp_path, monkeypatch):
    root, steps = planned
    key, start = stage_keys.tokenizer_key(OF, "kl"), 2.0 * minutes.FORKED["tokenizer"] + minutes.LAUNCHER
    assert steps()["tokenizer/kl"].seconds > start
    monkeypatch.setattr(shipped, "STORE", tmp_path / "store")
    there = tmp_path / "store" / "a"
    there.mkdir(parents=True)
    (there / "recipe.json").write_text(json.dumps({"slice": key, "data": 64 * "0"}))
    (there / layout.SHIPPED).write_text("{}")
    assert steps()["tokenizer/kl"].seconds == pytest.approx(start)
    assert steps()["tokenizer/vq"].seconds > start
    assert steps(study(variants=TWO, shipped=False))["tokenizer/kl"].seconds > start
    twin = layout.run_record(root.with_name("first"), "ar-ce", 0)
    twin.parent.mkdir(parents=True)
    twin.write_text("{}")
    again = steps(study(variants=TWO, reuse="first"))
    assert again["train/ar-ce/seed0"].seconds < steps()["train/ar-ce/seed0"].seconds
    assert again["train/mar-diff/seed0"].seconds == steps()["train/mar-diff/seed0"].seconds


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (99, "99 s"), (100, "2 min"), (52 * 60, "52 min"), (3 * 3600, "3.0 h"), (86400, "24 h")]
    + [(10 * 86400, "10 days")],
)
def test_a_span_has_the_unit_that_one_says_it_in(seconds, said):
    assert minutes.span(seconds) == said


def test_a_study_for_gpus_has_its_hours_there(monkeypatch, counts):
    monkeypatch.setattr(minutes, "cores", lambda: 2)
    jobs = [plan.Job("train", f"v{i}/seed0", 1, flops=1e21, arithmetic="bf16", weights=1e9) for i in range(2)]
    steps = [minutes.Step("train", job.name, 1e9, False) for job in jobs]
    lines = minutes.text(OF, jobs, IMAGES, steps, counts, 0.5).splitlines()
    hours = 2 * 1e21 / (312e12 * 0.5) / 3600
    assert lines[0] == f"tiny: 2 jobs, about {hours:,.0f} A100 hours"
    assert f"{hours:,.1f}" in next(line for line in lines if line.startswith("train"))
    assert "disk: 2.0 GB" in lines and not any("minutes" in line for line in lines)


def test_networks_are_tried_and_large_ones_are_not(counts, monkeypatch):
    large = counts.tokenizers["kl"].model_copy(update={"decode": 1e15})
    some = counts.model_copy(update={"tokenizers": counts.tokenizers | {"large": large}})
    monkeypatch.setattr(probe, "SECONDS", 0.01)
    rates = probe.rates(OF, IMAGES.classes, some)
    monkeypatch.setattr(probe, "start", lambda: 2.0)
    sizes = {name: counts.tokenizers[name].encode + counts.tokenizers[name].decode for name in ("kl", "vq")}
    assert rates.tokenizers["large"] == rates.tokenizers[max(sizes, key=lambda name: sizes[name])]
    assert set(rates.training) == set(rates.sampling) == set(TWO) and set(rates.judges) == {"classifier"}
    every = [*rates.training.values(), *rates.sampling.values(), *rates.tokenizers.values(), rates.judges["classifier"]]
    assert all(1e5 < rate < 1e15 for rate in every) and 0.1 < rates.start < 300
    only = PlanRecord(key=counts.key, judges={}, tokenizers={"large": large}, variants={})
    assert probe.rates(OF, IMAGES.classes, only).tokenizers == {"large": probe.UNTRIED}


@pytest.mark.parametrize(
    ("device", "overhead", "operations", "most", "tried"),
    [("cpu", 3.0, 5e9, 250, [2, 8]), ("cpu", 3.0, 5e9, 3, [2, 3]), ("cpu", 3.0, 1e6, 250, [250])]
    # a short call warms up, and one on a GPU does however long it takes
    + [("cpu", 0.3, 5e9, 250, [2, 2, 8]), ("cuda", 3.0, 5e9, 250, [2, 2, 8, 8])],
)
def test_calls_that_take_as_long_for_few_images_do_not_slow_the_batch(
    device, overhead, operations, most, tried, monkeypatch
):
    """A call of some seconds and 0.01 s an image, by a clock that this alone moves."""
    now, seen = [0.0], []

    def call(images):
        def work():
            seen.append(images)
            now[0] += overhead + 0.01 * images

        return work

    monkeypatch.setattr(probe, "DEVICE", torch.device(device))
    monkeypatch.setattr(probe.torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(probe.time, "process_time" if device == "cpu" else "perf_counter", lambda: now[0])
    rate = probe._rate_of_batch(call, operations, most)
    assert most * operations / rate == pytest.approx(overhead + 0.01 * most) and seen == tried


def test_networks_are_tried_in_the_precision_of_recipe_and_setting(counts, monkeypatch):
    """Training with the head in fp32 where the recipe says so, drawing as the setting says."""
    seen = []
    monkeypatch.setattr(probe, "SECONDS", 0.0)

    def watched(name, call):
        return lambda *args: seen.append((name, torch.is_autocast_enabled("cpu"))) or call(*args)

    for owner, name in ((DiffusionLoss, "loss"), (DiffusionLoss, "sample"), (Masked, "predict"), (Masked, "forward")):
        monkeypatch.setattr(owner, name, watched(name, getattr(owner, name)))
    recipes = {"short": STUDY["recipes"]["short"] | {"dtype": "bf16", "head_dtype": "fp32"}}
    sampling = STUDY["sampling"] | {"diff": STUDY["sampling"]["diff"] | {"dtype": "bf16"}}
    variants = {"mar-diff": STUDY["variants"]["mar-diff"]}
    half = study(variants=variants, recipes=recipes, sampling=sampling)
    probe._training(half, "mar-diff", counts, IMAGES.classes)
    probe._sampling(half, "mar-diff", counts, IMAGES.classes)
    assert set(seen) == {("forward", True), ("loss", False), ("predict", True), ("sample", False)}
    seen.clear()
    probe._training(OF, "mar-diff", counts, IMAGES.classes)
    assert {on for _, on in seen} == {False}


def test_the_command_leads_with_stages_and_minutes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "SECONDS", 0.01)
    monkeypatch.setattr(probe, "start", lambda: 2.0)
    (tmp_path / "tiny.yaml").write_text(json.dumps(STUDY | {"variants": TWO}))
    first = CliRunner().invoke(main, ["plan", "--study", "tiny.yaml"])
    assert first.exit_code == 0, first.output
    assert first.output.startswith("tiny: ") and len(first.output.splitlines()) < 30
    assert "each job, with operations, A100 hours and disk: the same command with --jobs" in first.output
    monkeypatch.setattr(probe, "rates", None)  # they are kept
    again = CliRunner().invoke(main, ["plan", "--study", "tiny.yaml"])
    assert again.output == first.output
    each = CliRunner().invoke(main, ["plan", "--study", "tiny.yaml", "--jobs"])
    assert "train mar-diff/seed0" in each.output and "train mar-diff/seed0" not in first.output
    assert "GPU GiB: peak" in each.output and "GPU GiB" not in first.output
    # of a study for GPUs the plan has memory without being asked
    layout.plan(tmp_path / "results" / "tiny").unlink()
    monkeypatch.setattr(minutes, "GPU_HOURS", 0.0)
    dear = CliRunner().invoke(main, ["plan", "--study", "tiny.yaml"])
    assert "A100 hours" in dear.output and "GPU GiB: peak" in dear.output
