"""The commands: what they refuse, and that help needs no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mar import __version__
from mar.cli.__main__ import main
from mar.cli.group import find_study, open_study
from mar.runtime.provenance import git_commit
from mar.study import layout, stage_keys
from mar.study import reading as studies

VERBS = {
    "prepare",
    "classifier",
    "rejecter",
    "reference",
    "tokenizer",
    "rfid",
    "encode",
    "gate",
    "train",
    "learning",
    "tasks",
    "sample",
}
VERBS |= {
    "init",
    "features",
    "statistics",
    "sweep",
    "evaluate",
    "speed",
    "table",
    "figure",
    "claims",
    "replicate",
    "report",
    "summary",
}
VERBS |= {
    "track",
    "watch",
    "launch",
    "jobs",
    "cancel",
    "plan",
    "drill",
    "import",
    "fetch",
    "ship",
    "court",
    "status",
    "edit",
    "draw",
    "export",
}
VERBS |= {"export-adm", "schema"}
VERBS |= {"accept-code", "restart", "bundle", "verify", "adopt", "disk", "clean", "compare", "doctor"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def resolved(study_file: Path, tmp_path: Path) -> str:
    return str(studies.write_resolved(studies.load(study_file), tmp_path / "results"))


def test_every_stage_has_a_command_with_help() -> None:
    assert set(main.commands) == VERBS
    for verb in VERBS:
        assert run(verb, "--help").exit_code == 0


HEAVY = ("torch", "numpy", "pandas", "scipy", "PIL", "sklearn", "matplotlib", "diffusers", "mlflow", "snakemake")
STUDY = str(Path(__file__).parents[3] / "config" / "smoke.yaml")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["launch", "--help"], ["plan", "--study", STUDY], ["schema"], ["jobs"]],
    ids=lambda arguments: " ".join(arguments[:1]),
)
def test_what_needs_no_torch_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    if arguments[0] == "plan":  # what has been counted is read
        assert run_in(tmp_path, arguments).returncode == 0
    blocked = (*HEAVY, *(() if arguments == ["jobs"] else ("submitit",)))
    if "--help" in arguments:  # as every job asks for `mar launch`, whose own parts are imported when it has work
        blocked += ("pydantic", "yaml")
    for name in blocked:
        (tmp_path / f"{name}.py").write_text(f"raise AssertionError('{name} was imported')")
    done = run_in(tmp_path, arguments)
    assert done.returncode == 0, done.stderr


def run_in(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parents[3]}"}
    command = [sys.executable, "-m", "mar.cli", *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--variant", "nobody", "--seed", "0"), "--variant: found 'nobody'; accepted: ar, mar"),
        (("sample", "--variant", "mar", "--seed", "0", "--setting", "ar"), "--setting: found 'ar'; accepted: mar"),
        (("encode", "--tokenizer", "x"), "--tokenizer: found 'x'; accepted: kl, vq"),
        (("train", "--variant", "mar", "--seed", "7"), "--seed: found 7; accepted: 0"),
        (("sample", "--variant", "mar", "--seed", "7", "--setting", "mar"), "--seed: found 7; accepted: 0"),
        (("evaluate", "--variant", "mar", "--seed", "-1", "--setting", "mar"), "--seed: found -1; accepted: 0"),
        (
            ("export-adm", "--variant", "mar", "--seed", "7", "--setting", "mar", "--out", "x.npz"),
            "--seed: found 7; accepted: 0",
        ),
    ],
)
def test_a_name_that_the_study_lacks_is_refused(resolved: str, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments, "--study", resolved)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {message}\n"


def test_a_variant_without_seeds_has_none_to_train(values: dict[str, Any], tmp_path: Path) -> None:
    values["variants"]["ar"]["seeds"] = []
    resolved = studies.write_resolved(studies.resolve(values, "tiny.yaml"), tmp_path / "results")
    result = run("train", "--study", str(resolved), "--variant", "ar", "--seed", "0")
    assert result.stderr == "Error: --seed: found 0; accepted: none: variants.ar.seeds is empty\n"


@pytest.mark.parametrize("share", [("0", "0"), ("1", "1"), ("-1", "2"), ("0", "-1")], ids="/".join)
@pytest.mark.parametrize(
    "command",
    [
        ("sample", "--variant", "mar", "--seed", "0", "--setting", "mar"),
        ("encode", "--tokenizer", "kl"),
        ("features", "--extractor", "classifier", "--set", "train"),
    ],
    ids=lambda command: command[0],
)
def test_a_worker_that_does_not_exist(resolved: str, command: tuple[str, ...], share: tuple[str, str]) -> None:
    result = run(*command, "--study", resolved, "--shard", *share)
    accepted = "accepted: I N with N at least 1 and I from 0 to N - 1"
    assert result.exit_code == 1 and result.stderr == f"Error: --shard: found {share[0]} {share[1]}; {accepted}\n"


def test_a_table_row_that_the_paper_lacks_is_refused_by_the_plan(values: dict[str, Any], tmp_path: Path) -> None:
    values["tables"]["table1"]["rows"][0]["paper"] = "nothere"
    resolved = studies.write_resolved(studies.resolve(values, "tiny.yaml"), tmp_path / "results")
    result = run("plan", "--study", str(resolved))
    assert result.exit_code == 1
    line = next(i for i, text in enumerate(resolved.read_text().splitlines(), 1) if "nothere" in text)
    assert result.stderr.startswith(
        f"Error: {resolved}:{line}: tables.table1.rows[0].paper: found 'nothere'; accepted: "
    )


def test_a_study_in_the_folder_of_another_is_refused(resolved: str) -> None:
    Path(resolved).write_text(Path(resolved).read_text().replace('"study": "tiny"', '"study": "other"'))
    result = run("claims", "--study", resolved)
    assert result.exit_code == 1
    assert f"Error: {resolved}: study: found 'other'; accepted: tiny, the name of its folder" in result.stderr


def test_a_job_planned_with_another_recipe_is_refused(resolved: str, study_file: Path, tmp_path: Path) -> None:
    """A dry run of an edited study rewrites study.json under the jobs of a running one."""
    planned = stage_keys.train_key(studies.load(study_file), "mar", 0)
    edited = json.loads(Path(resolved).read_text())
    next(iter(edited["recipes"].values()))["ema"] = 0.123
    Path(resolved).write_text(json.dumps(edited))
    result = run("train", "--study", resolved, "--variant", "mar", "--seed", "0", "--recipe", planned)
    assert result.exit_code == 1
    assert f"Error: {resolved}: changed since this job was planned" in result.stderr and "0.123" in result.stderr
    assert not (Path(resolved).parent / "runs").exists()


@pytest.mark.parametrize("named", ["tiny", "tiny.yaml", "results/tiny/study.json"])
def test_a_study_is_named_by_its_name_or_a_file(
    named: str, resolved: str, study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study, root = open_study(named)
    assert study == studies.load(study_file) and root == Path("results/tiny")
    assert run("jobs", "--study", named).exit_code == 0
    refused = run("train", "--study", named, "--variant", "nobody", "--seed", "0")
    assert "--variant: found 'nobody'" in refused.stderr


def test_the_results_of_a_name_come_before_its_file_but_not_for_a_plan(
    resolved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = Path(resolved).parent.rename(tmp_path / "results" / "demo").relative_to(tmp_path) / "study.json"
    assert find_study("demo") == there
    assert find_study("demo", results=False) == layout.shipped("demo.yaml")
    with pytest.raises(
        ValueError, match=r"--study: found 'dmo' \(did you mean 'demo'\?\); accepted: .* demo, .*digits"
    ):
        find_study("dmo")


def test_the_version_names_the_commit() -> None:
    result = run("--version")
    assert result.exit_code == 0 and result.output == f"mar {__version__}, commit {git_commit()}\n"


def test_a_mistake_is_one_line_and_a_bug_keeps_its_traceback(resolved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake(*_: Any) -> None:
        studies.load("nowhere.yaml")

    def bug(*_: Any) -> None:
        __import__("numpy").linalg.norm([[1.0]], ord="nonsense")

    monkeypatch.setattr("mar.analysis.verdicts.decide", mistake)
    assert (
        run("claims", "--study", resolved).stderr
        == "Error: nowhere.yaml: cannot be read: No such file or directory; accepted: a YAML file\n"
    )
    monkeypatch.setattr("mar.analysis.verdicts.decide", bug)
    assert isinstance(run("claims", "--study", resolved).exception, ValueError)


def test_threads_reach_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    code = "from mar.cli.__main__ import main; main(['--threads', '1', 'schema'], standalone_mode=False)"
    code += "; import torch; assert torch.get_num_threads() == 1"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_schema_prints_the_file_of_the_project() -> None:
    path = Path(__file__).parents[3] / "workflow" / "schemas" / "study.schema.json"
    assert run("schema").stdout == path.read_text()
