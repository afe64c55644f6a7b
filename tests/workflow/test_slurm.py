"""What the workflow asks of Slurm, up to the job scripts that a stand-in for sbatch records: no job runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from mar.cli.__main__ import main
from mar.cluster import resources
from mar.cluster.job_process import Command
from mar.cluster.slurm import Slurm, submit
from mar.study.reading import load

CPU_ONLY = {"reference", "evaluate"}
SBATCH = '#!/bin/sh\ncp "$1" "$SCRIPTS/$(ls "$SCRIPTS" | wc -l).sh"\necho "Submitted batch job 7"\n'
ONE_SET = "results/free/samples/mar-b/seed0/mar-diff-256/manifest.json"


def launches(output: str) -> list[tuple[str, str, Slurm]]:
    """Of every `mar launch` that a dry run prints: the stage, its job's folder below jobs/, and the settings."""
    found = []
    for line in output.splitlines():
        if "mar launch " in line:
            words = shlex.split(line.partition("mar launch ")[2].partition(" 2>&1")[0])
            values = main.commands["launch"].make_context("launch", words).params
            assert values["cluster"] == "slurm"
            verb = next(word for word in values["command"] if word in resources.STAGES or word == "tokenizer")
            site = {k.removeprefix("slurm_"): v for k, v in values.items() if k.startswith("slurm_")}
            found.append((verb, str(values["folder"]).partition("/jobs/")[2], Slurm(**site)))
    return found


@pytest.fixture(scope="module")
def paper(fresh: Any) -> Any:
    """The project with imagenet256 without budget and GPU, since counting needs torch, which it lacks."""
    free = "extends: imagenet256.yaml\nstudy: free\nbudget: null\nmemory: null\n"
    (fresh.folder / "config" / "free.yaml").write_text(free)
    return fresh


@pytest.fixture
def plan(paper: Any, tmp_path: Path) -> Any:
    """Dry-runs a target with the slurm profile and the settings of a site; what it prints, or how it fails."""

    def plan(site: dict[str, Any], target: str, *more: str, fails: bool = False) -> str:
        file = tmp_path / "site.yaml"
        file.write_text(yaml.safe_dump(site))
        profiles = ("--profile", "slurm", *(("--profile", str(file)) if site else ()))
        call = paper.fails if fails else paper.snakemake
        printed: str = call("-n", "-p", target, *profiles, "--configfile", "config/free.yaml", *more)
        return printed

    return plan


def test_every_stage_of_the_paper_asks_for_what_it_needs(
    plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = launches(plan({}, "all"))
    study = load(Path("config/imagenet256.yaml"))
    assert {verb for verb, _, _ in found} == set(resources.STAGES) - {
        "classifier",
        "rejecter",
        "tokenizer",
        "features_real",
        "learning",
        "tasks",
    }
    for verb, folder, asked in found:
        rule = "features_real" if re.fullmatch(r"features/\w+/[\w-]+", folder) else verb
        needs = resources.STAGES[rule]
        own = study.variants[folder.split("/")[1]].resources if verb == "train" else None
        gpus = own.gpus_per_node if own else needs.gpus
        assert (asked.nodes, asked.gpus_per_node) == ((own.nodes if own else 0), gpus), folder
        assert asked.time == 60 * (own.hours if own else needs.hours) and asked.mem == 1000 * needs.memory * max(
            1, gpus
        )
        assert asked.cpus_per_task == needs.cores
        assert asked.options() == (() if verb in CPU_ONLY else ("--device", "cuda"))
    trained = [folder.split("/")[1] for verb, folder, _ in found if verb == "train"]
    assert trained and not any(study.variants[name].pretrained for name in trained)  # these are copied here

    scripts = tmp_path / "scripts"
    for name, text in {"sbatch": SBATCH, "srun": "#!/bin/sh\n"}.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    scripts.mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("SCRIPTS", str(scripts))
    for verb, asked in sorted({(verb, asked) for verb, _, asked in found}, key=str):
        job = tmp_path / "jobs" / verb
        job.mkdir(parents=True, exist_ok=True)
        submit([Command((verb,), "slurm", None, str(job), f"mar-{verb}", (), asked.options())], job, asked)
        script = scripts / f"{len(list(scripts.iterdir())) - 1}.sh"
        said = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", script.read_text(), re.MULTILINE))
        assert (said["time"], said["mem"]) == (str(asked.time), f"{asked.mem}MB"), verb
        assert int(said["cpus-per-task"]) == asked.cpus_per_task >= 8
        if verb in CPU_ONLY:
            assert "gpus-per-node" not in said
        else:
            assert int(said["gpus-per-node"]) == int(said["ntasks-per-node"]) == asked.gpus_per_node >= 1, verb


def test_a_site_that_names_one_rule_leaves_the_others_as_they_are(plan: Any) -> None:
    site = {"default-resources": {"launcher": "slurm", "slurm_partition": "gpu", "runtime": 240, "gpus_per_node": 1}}
    site |= {"set-resources": {"sample": {"shards": 8, "runtime": 60}}}
    metrics = ONE_SET.replace("samples", "metrics").replace("/manifest", "")
    asked = {verb: asked for verb, _, asked in launches(plan(site, metrics))}
    assert all(slurm.partition == "gpu" for slurm in asked.values())
    assert (asked["sample"].shards, asked["sample"].time, asked["sample"].gpus_per_node) == (8, 60, 1)
    assert (asked["train"].nodes, asked["train"].gpus_per_node, asked["train"].time) == (4, 8, 1440)  # the study's
    assert (asked["encode"].time, asked["encode"].mem, asked["encode"].shards) == (240, 64_000, 0)  # site and table
    assert (asked["evaluate"].gpus_per_node, asked["evaluate"].time) == (0, 240)
    # of the command line too, which is stronger than the profile's and replaces it
    asked = {verb: asked for verb, _, asked in launches(plan(site, metrics, "--set-resources", "train:runtime=120"))}
    assert (asked["train"].time, asked["train"].nodes, asked["sample"].time) == (120, 4, 240)


def test_no_time_or_no_gpu_is_refused_in_one_message_before_anything_is_queued(plan: Any) -> None:
    site = {"default-resources": {"launcher": "slurm", "runtime": 0, "gpus_per_node": 0}}
    output = plan(site, ONE_SET, fails=True)
    assert "launcher slurm: classifier, rejecter, features_real" in output
    assert "no time limit; accepted: `runtime`" in output
    assert re.search(r"classifier, rejecter, features_real, [\w, ]+speed: no GPU; accepted: `gpus_per_node`", output)
    assert "evaluate" not in output.partition("no time limit")[2] and "Traceback" not in output
    site["default-resources"] |= {"runtime": 60, "device": "cpu"}
    asked = {verb: asked for verb, _, asked in launches(plan(site, ONE_SET))}
    assert asked["sample"].options() == ("--device", "cpu") and asked["sample"].gpus_per_node == 0
    output = plan({"default-resources": {"launcher": "slurm", "nodes": 2}}, ONE_SET, fails=True)
    assert "more than one GPU, and only `train` uses more" in output


@pytest.mark.parametrize(
    ("site", "line", "found"),
    [
        ({"set-resources": {"train": {"nodes": 3, "gpus_per_node": 8}}}, (), "24 GPUs"),
        ({}, ("train:nodes=16", "train:gpus_per_node=16"), "256 GPUs"),
        ({}, ("train:gpus_per_node=2*attempt",), "an expression for nodes or gpus_per_node"),
    ],
)
def test_gpus_that_cannot_share_a_step_are_refused_when_the_workflow_is_read(
    plan: Any, site: dict[str, Any], line: tuple[str, ...], found: str
) -> None:
    output = plan(site, ONE_SET, *(("--set-resources", *line) if line else ()), fails=True)
    assert f": {found}, and a step has 128 micro-batches (recipes." in output
    assert "accepted: nodes x gpus_per_node = 1, 2, 4, 8, 16, 32, 64, 128;" in output and "Traceback" not in output


def test_sixteen_nodes_of_eight_gpus_share_a_step(plan: Any) -> None:
    found = launches(plan({}, ONE_SET, "--set-resources", "train:nodes=16", "train:gpus_per_node=8"))
    assert {(asked.nodes, asked.gpus_per_node) for verb, _, asked in found if verb == "train"} == {(16, 8)}


def test_a_rule_of_a_site_can_run_here(plan: Any) -> None:
    site = {"set-resources": {"encode": {"launcher": "local"}}}
    output = plan(site, ONE_SET)
    (line,) = [line for line in output.splitlines() if "mar launch " in line and " encode " in line]
    assert "--cluster=local" in line and "--slurm-time=0" in line and "-- --threads 1 encode" in line


def test_the_readme_has_the_table() -> None:
    assert resources.table() in Path("slurm/README.md").read_text()


def wrap(project: Any, lines: str) -> None:
    """Let `mar` do something before it does what it always does here."""
    stub = project.folder / "bin" / "mar"
    stub.rename(stub.with_name("stub"))
    stub.write_text(f'#!/bin/sh\n{lines}\nexec {stub.with_name("stub")} "$@"\n')
    stub.chmod(0o755)


def test_one_failure_stops_nothing_else_and_is_told_at_the_end(project: Any) -> None:
    wrap(project, 'case "$*" in *" classifier "*) echo "no GPU"; exit 1;; esac')
    output = project.fails("all", "--profile", "slurm", "--configfile", "config/smoke.yaml")
    assert output.count("no GPU") >= 1 and any(" train " in f" {call} " for call in project.calls())
    closing = output[output.index("1 failed; the same command goes on with it:") :]
    assert re.search(r"\n  classifier: results/smoke/logs/classifier\.log\n", closing)


def test_as_many_stages_wait_at_once_as_the_profile_says(project: Any) -> None:
    seeds = list(range(10))
    many = {"extends": "smoke.yaml", "study": "many", "variants": {"mar-diffloss": {"seeds": seeds}}}
    (project.folder / "config" / "many.yaml").write_text(yaml.safe_dump(many))
    # each training waits until all of them have begun, which takes more than the 5 + 1 commands of one core
    begun = "echo >> begun; until [ $(wc -l < begun) -ge 10 ] || [ $((n += 1)) -gt 900 ]; do sleep 0.1; done"
    wrap(project, f'case "$*" in *" train "*) {begun}; [ $(wc -l < begun) -ge 10 ] || exit 1;; esac')
    runs = [f"results/many/runs/mar-diffloss/seed{seed}/run.json" for seed in seeds]
    project.snakemake(*runs, "--profile", "slurm", "--cores", "1", "--configfile", "config/many.yaml")
    # a site that limits all jobs in one number limits trainings with it
    (project.folder / "site.yaml").write_text("resources: {cluster_jobs: 3}\n")
    output = project.snakemake("-n", runs[0], "-F", "--profile", "slurm", "--profile", "site.yaml", "--configfile",
                               "config/many.yaml")  # fmt: skip
    assert re.search(r"rule train:.*?resources: [^\n]*cluster_jobs=1", output, re.DOTALL)
    assert "cluster_trainings" not in output


def test_what_comes_of_published_weights_is_first(plan: Any) -> None:
    first = {}
    for target in ("results/free/samples/mar-b-official/seed0/released/manifest.json", ONE_SET):
        rules = plan({}, target).split("\nrule ")
        for block in rules:
            if block.startswith(("sample:", "train:", "install_run:")):
                first[block.split(":")[0], "variant=mar-b-official" in block] = "priority: 10" in block
    expected = {("install_run", True): True, ("sample", True): True, ("train", False): False, ("sample", False): False}
    assert first == expected
