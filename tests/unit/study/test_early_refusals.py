"""What would fail hours later is refused when the study is read: files that are none, limits, names, numbers."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from mar.paper.numbers import check_rows, paper_rows
from mar.study.reading import StudyError, load, resolve
from mar.study.study import Study


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(StudyError) as caught:
        resolve(values, "config/tiny.yaml")
    return str(caught.value)


def refused_file(path: Path) -> str:
    with pytest.raises(StudyError) as caught:
        load(path)
    return str(caught.value)


class TestFile:
    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.yaml")
        assert refused_file(tmp_path / "a.yaml").endswith("a.yaml: found a pipe or device; accepted: a YAML file")

    def test_a_device(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").symlink_to("/dev/zero")
        assert refused_file(tmp_path / "a.yaml").endswith("a.yaml: found a pipe or device; accepted: a YAML file")

    def test_a_folder(self, tmp_path: Path) -> None:
        assert refused_file(tmp_path) == f"{tmp_path}: found a folder; accepted: a YAML file"

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"title: caf\xe9\n", "'utf-8' codec can't decode byte 0xe9"),
            (b"\x00\x01", "unacceptable character"),
            (b"title: " + b"[" * 20_000, "nested too deeply"),
            (b"seed: " + b"9" * 5_000, "Exceeds the limit"),
            (b"title: 2024-13-45\n", "month must be in 1..12"),
        ],
        ids=["latin-1", "binary", "deep", "digits", "date"],
    )
    def test_no_text_of_a_study(self, tmp_path: Path, content: bytes, reason: str) -> None:
        (tmp_path / "a.yaml").write_bytes(content)
        message = refused_file(tmp_path / "a.yaml")
        assert message.startswith(f"{tmp_path}/a.yaml: no valid YAML: ") and reason in message
        assert message.count("\n") < 5

    def test_a_chain_of_files_has_an_end(self, tmp_path: Path, study_file: Path) -> None:
        study_file.rename(tmp_path / "0.yaml")
        for i in range(1, 102):
            (tmp_path / f"{i}.yaml").write_text(f"extends: {i - 1}.yaml\nstudy: s{i}\n", encoding="utf-8")
        assert load(tmp_path / "100.yaml").study == "s100"
        expected = "extends: found a chain of more than 100 files; accepted: at most 100"
        assert expected in refused_file(tmp_path / "101.yaml")


def test_a_matrix_of_a_million_is_not_crossed(values: dict[str, Any]) -> None:
    names = [f"n{i}" for i in range(100)]
    values["matrix"] = {"name": "{tokenizer}-{backbone}-{head}", "tokenizer": names, "backbone": names, "head": names}
    expected = "config/tiny.yaml: matrix: found 1000000 combinations; accepted: at most 10000"
    assert refusal(values) == expected


def test_a_sweep_of_a_million_points(values: dict[str, Any]) -> None:
    axis = [1 + i / 1000 for i in range(1000)]
    values["sampling"]["mar"]["sweep"] = {"samples": 50, "guidance": axis, "temperature": axis}
    message = refusal(values)
    assert "sampling.mar.sweep: 1000 values of guidance x 1000 of temperature = 1000000 points" in message
    assert "accepted: at most 10000" in message and len(message) < 1000


def test_thousands_of_mistakes_are_counted(values: dict[str, Any]) -> None:
    values["variants"] |= {f"v{i}": {} for i in range(2000)}
    lines = refusal(values).splitlines()
    assert len(lines) == 11
    assert lines[0] == "config/tiny.yaml: variants.v0.tokenizer: is missing"
    assert lines[-1] == "config/tiny.yaml: and 11990 more mistakes"  # six keys of each are missing


def test_a_long_value_is_cut(values: dict[str, Any]) -> None:
    values["speed"]["batch"] = "x" * 10_000
    assert len(refusal(values)) < 400


# what is changed in the complete study -> what the message says
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "more diffusion steps than there are": (
        {"sampling.mar.diffusion_steps": 1001},
        "sampling.mar.diffusion_steps: found 1001; accepted: at most 1000",
    ),
    "as many neighbours as images": (
        {"metrics.neighbours": 100},
        "metrics: neighbours 100 of samples 100; accepted: fewer than samples",
    ),
    "fewer images than classes": (
        {"metrics.samples": 8, "metrics.chunk": 4},
        "metrics.samples 8: fewer images than the 10 classes of the data; accepted: at least 10",
    ),
    "fewer images of a sweep than classes": (
        {"metrics.chunk": 5, "sampling.mar.sweep": {"samples": 5}},
        "variants.mar: sampling.mar.sweep.samples 5: fewer images than the 10 classes",
    ),
    "a negative seed": ({"seed": -1}, "seed: found -1; accepted: at least 0"),
    "a seed of 64 bits": ({"seed": 2**63}, "seed: found 9223372036854775808; accepted: at most 9223372036854775807"),
    "a training seed of 64 bits": (
        {"variants.mar.seeds": [2**63]},
        "variants.mar.seeds[0]: found 9223372036854775808; accepted: at most",
    ),
    "a sampling seed of 64 bits": (
        {"sampling.mar.seed": 2**63},
        "sampling.mar.seed: found 9223372036854775808; accepted: at most",
    ),
    "a decay of one": ({"recipes.short.betas": [0.9, 1.0]}, "recipes.short.betas[1]: found 1.0; accepted: below 1"),
    "a long name of a study": ({"study": "s" * 101}, "; accepted: at most 100 characters"),
    "a long name of a setting": (
        {"sampling." + "s" * 101: {"steps": 4}},
        "; accepted: at most 100 characters",
    ),
    "names that a file system may not tell apart": (
        {"sampling.MAR": {"steps": 4}},
        "sampling: 'mar' and 'MAR' differ in case only; accepted: other names",
    ),
    "a table named like one of every study": (
        {"tables.Metrics": {"paper": "mar_table1", "title": "t", "rows": []}},
        "tables.Metrics: every study has a table of this name",
    ),
    "a warm-up longer than the training": (
        {"recipes.short.warmup_images": 704},
        "recipes.short: warmup_images 704 of images 640; accepted: at most as many",
    ),
    "guidance without classes": (
        {"recipes.short.label_drop": 1.0, "sampling.mar.guidance": 2.0},
        "recipes.short.label_drop 1 trains without any class, and variants.mar: sampling.mar has guidance",
    ),
    "swept guidance without classes": (
        {"recipes.short.label_drop": 1.0, "sampling.mar.sweep": {"samples": 50, "guidance": [1.0, 2.0]}},
        "recipes.short.label_drop 1 trains without any class, and variants.mar: sampling.mar has guidance",
    ),
}


def change(values: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(".")
    for section in sections:
        values = values[section]
    values[key] = value


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, values: dict[str, Any]) -> None:
    changes, expected = CASES[case]
    for path, value in changes.items():
        change(values, path, value)
    message = refusal(values)
    assert message.startswith("config/tiny.yaml: ") and expected in message


# the same at the last value that is accepted
ACCEPTED: list[dict[str, Any]] = [
    {"sampling.mar.diffusion_steps": 1000},
    {"metrics.neighbours": 99},
    {"metrics.samples": 10, "metrics.chunk": 5},
    {"seed": 2**63 - 1, "variants.mar.seeds": [2**63 - 1], "sampling.mar.seed": 2**63 - 1},
    {"recipes.short.betas": [0.0, 0.9999]},
    {"study": "s" * 100},
    {"recipes.short.warmup_images": 640},
    {"recipes.short.label_drop": 1.0},
    {"sampling.mar.sweep": {"samples": 50, "temperature": [1 + i / 10_000 for i in range(10_000)]}},
]


@pytest.mark.parametrize("changes", ACCEPTED, ids=lambda changes: next(iter(changes)))
def test_accepted(changes: dict[str, Any], values: dict[str, Any]) -> None:
    for path, value in changes.items():
        change(values, path, value)
    assert isinstance(resolve(values, "config/tiny.yaml"), Study)


@pytest.mark.parametrize(("key", "name"), itertools.product(("rows", "paper"), ("nothere",)))
def test_a_row_or_table_that_the_paper_lacks(key: str, name: str, values: dict[str, Any]) -> None:
    check_rows(resolve(values, "tiny.yaml"))
    table = values["tables"]["table1"]
    if key == "rows":
        table["rows"].append({"paper": name})
        expected = r"^tables\.table1\.rows\[1\]\.paper: found 'nothere'; accepted: .*mar-default-diffloss"
    else:
        table["paper"] = name
        expected = r"^tables\.table1\.paper: paper table 'nothere': .* accepted: .*mar_table1"
    with pytest.raises(ValueError, match=expected):
        check_rows(resolve(values, "tiny.yaml"))


STUDIES = sorted(path for path in Path("config").glob("*.yaml") if path.stem != "claims")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_rows_of_shipped_studies_are_in_the_paper(path: Path) -> None:
    study = load(path)
    check_rows(study)
    printed = [table for table in study.tables.values() if table.paper]
    assert all(row.paper in paper_rows(str(table.paper)) for table in printed for row in table.rows)


NUMBERS = [
    ("backbones", "masked", "width", 10**9, "at most 100000"),
    ("backbones", "masked", "depth", 10**9, "at most 1000"),
    ("backbones", "masked", "dropout", 1.0, "below 1.0"),
    ("backbones", "masked", "mlp_ratio", 1e9, "at most 100.0"),
    ("heads", "diffloss", "noise_draws", 10**9, "at most 100000"),
    ("tokenizers", "kl", "layers", 10**9, "at most 1000"),
    ("tokenizers", "vq", "codebook_size", 10**12, "at most 10000000"),
    ("recipes", "short", "images", 64 * 10**20, "at most 1000000000000"),
    ("recipes", "short", "base_learning_rate", 1e30, "at most 100.0"),
    ("recipes", "short", "weight_decay", 1e30, "at most 1000.0"),
    ("recipes", "short", "ema", 1.0, "below 1.0"),
    ("sampling", "mar", "guidance", 1e300, "at most 1000.0"),
    ("sampling", "mar", "temperature", 1e-320, "at least 0.001"),
    ("metrics", None, "bootstrap", 1, "at least 2"),
    ("metrics", None, "bootstrap", 10**15, "at most 1000000"),
    ("metrics", None, "samples", 10**15, "at most 1000000000000"),
    ("speed", None, "batch", 10**12, "at most 100000"),
    ("classifier", None, "channels", [], "at least 1 entries"),
    ("data", None, "image_size", 2**30, "at most 100000"),
]


@pytest.mark.parametrize(("section", "name", "key", "value", "accepted"), NUMBERS)
def test_what_no_machine_has_is_refused(
    section: str, name: str | None, key: str, value: Any, accepted: str, values: dict[str, Any]
) -> None:
    (values[section][name] if name else values[section])[key] = value
    where = ".".join(part for part in (section, name, key) if part)
    assert f"{where}: found " in (message := refusal(values)) and f"accepted: {accepted}" in message


@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_guidance_needs_both_conditions_in_training(drop: float, values: dict[str, Any]) -> None:
    values["sampling"]["mar"]["guidance"] = 2.0
    values["recipes"]["short"]["label_drop"] = drop
    assert f"recipes.short.label_drop {drop:g} trains" in refusal(values)


@pytest.mark.parametrize(
    "line",
    [
        "title: &a [*a]",
        "data: &a {kind: *a}",
        "title: [&a0 [x], " + ", ".join(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)) + "]",
        "? &a0 {k: 1}\n: 1\n"
        + "\n".join(f"x{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}" for i in range(1, 12)),
    ],
    ids=["itself", "its own value", "a billion values", "a billion merges"],
)
def test_aliases_that_have_no_end(line: str, tmp_path: Path, study_file: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"extends: {study_file.name}\nstudy: a\n{line}\n")
    message = refused_file(tmp_path / "a.yaml")
    assert "a.yaml" in message and len(message) < 5000


def test_a_huge_file_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# " + "x" * 3_000_000)
    assert refused_file(tmp_path / "a.yaml").endswith("found 3000002 bytes; accepted: a YAML file of at most 2000000")
