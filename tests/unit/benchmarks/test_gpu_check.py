"""The check of a GPU, at a small size on the CPU."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_check
from mar.planning import plan
from mar.study.reading import load


def test_every_section_runs_at_a_small_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "check.json"
    assert gpu_check.main(["--tiny", "--json", str(file)]) == 0
    content, printed = json.loads(file.read_text()), capsys.readouterr().out
    assert {row["section"] for row in content["rows"]} == {section.__name__ for section in gpu_check.SECTIONS}
    assert not [row for row in content["rows"] if row["value"] == "left out"] and not content["failed"]
    assert f"torch {torch.__version__}" in printed and "| parity | MAR: z in fp32 |" in printed
    assert set(content["training"]) == set(gpu_check.MODELS)
    study = load("config/smoke.yaml")
    with pytest.raises(ValueError, match="measured on a CPU; accepted: a file of a GPU"):
        plan.utilisation_of(study, str(file))
    file.write_text(json.dumps({"versions": {"device": "a GPU"}, "training": {"mar-b": 1.0}}))
    with pytest.raises(ValueError, match=r"found mar-b; accepted: one of .*mar-diffloss"):
        plan.utilisation_of(study, str(file))
    file.write_text(json.dumps({"versions": {"device": "a GPU"}, "training": {"mar-b": 1.0, "mar-diffloss": 187.0}}))
    assert plan.utilisation_of(study, str(file)) == plan.utilisation_of(study, "mar-diffloss=187")


def test_a_failed_assertion_fails_the_check_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "SECTIONS", (gpu_check.parity, gpu_check.products))
    monkeypatch.setitem(gpu_check.TOLERANCE, "fp32", 1e-12)
    assert gpu_check.main(["--tiny"]) == 1
    printed = capsys.readouterr().out
    assert "failed: parity: MAR: z in fp32" in printed and "| products | copy |" in printed


def test_a_missing_package_is_said_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] in ("mar", "safetensors"):  # as where pydantic is missing, which all of mar imports
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return there(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert gpu_check.main(["--tiny"]) == 0
    printed = capsys.readouterr().out
    assert "| parity | all | left out |  | no package safetensors.torch |" in printed
    assert "| training | all | left out |" in printed and "| products | copy |" in printed


def test_without_a_gpu_it_says_why_it_does_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main([]) == gpu_check.NO_GPU
    assert "SKIP: torch" in capsys.readouterr().out
