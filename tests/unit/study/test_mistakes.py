"""Mistakes of a study: all in one message, each with the file and line where it stands, in a user's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mar.paper.numbers import check_rows
from mar.study.reading import StudyError, blame, load


def refusal(path: Path) -> list[str]:
    with pytest.raises(StudyError) as caught:
        load(path)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


@pytest.fixture
def base(tmp_path: Path, values: dict[str, Any]) -> Path:
    """A complete study in base.yaml, whose lines `at` finds."""
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def at(path: Path, *keys: str) -> int:
    """The line of a key below others, each of which is the next of its name."""
    lines, number = path.read_text().splitlines(), 0
    for key in keys:
        number = next(i for i in range(number, len(lines)) if lines[i].strip().startswith(f"{key}:"))
    return number + 1


def test_each_mistake_is_blamed_on_the_file_and_line_where_it_stands(base: Path) -> None:
    text = base.read_text().replace("width: 32", "width: wide", 1)  # of the backbone `causal`
    base.write_text(text)
    (base.parent / "middle.yaml").write_text(
        "extends: base.yaml\nstudy: middle\nrecipes:\n  short: {images: 1280.5, betas: 3}\nspeed: {batches: 0}\n"
    )
    mine = base.parent / "mine.yaml"
    mine.write_text(
        "extends: middle.yaml\n\nstudy: mine\nspeed: {batches: 2}\n"  # which mends the mistake of middle.yaml
        "variants:\n  mar:\n    seeds: 3\n    sampling: [mar,\n      7]\nmetrics: null\n"
    )
    assert refusal(mine) == [
        "mine.yaml:7: variants.mar.seeds: found 3; accepted: a list",
        "mine.yaml:9: variants.mar.sampling[1]: found 7; accepted: text, in quotes where it looks like a number",
        "mine.yaml:10: metrics: is missing",
        "middle.yaml:4: recipes.short.images: found 1280.5; accepted: a whole number",
        "middle.yaml:4: recipes.short.betas: found 3; accepted: a list",
        f"base.yaml:{at(base, 'backbones', 'causal', 'width')}: backbones.causal.width: found 'wide'; accepted: a whole"
        " number",
    ]


def test_an_unknown_key_hides_no_other_mistake_and_is_not_missing_too(base: Path) -> None:
    mine = base.parent / "mine.yaml"
    mine.write_text(
        "extends: base.yaml\nrecipes:\n  short:\n    batch: null\n    bach: 64\n    images: true\n    ema: 2\n"
        "spede: {}\nstudy: mine\n"
    )
    lines = refusal(mine)
    assert lines[0].startswith(
        "mine.yaml:5: recipes.short: unknown key 'bach' (did you mean 'batch'?); accepted: base_"
    )
    assert lines[1] == "mine.yaml:6: recipes.short.images: found true; accepted: anything but true and false"
    assert lines[2] == "mine.yaml:7: recipes.short.ema: found 2; accepted: below 1.0"
    assert lines[3].startswith("mine.yaml:8: unknown key 'spede' (did you mean 'speed'?); accepted: ")
    assert len(lines) == 4


def test_parts_that_do_not_fit_together_are_told_together(base: Path) -> None:
    mine = base.parent / "mine.yaml"
    mine.write_text(
        "extends: base.yaml\nvariants:\n  ar:\n    head: no\n  mar:\n    tokenizer: vq\n"
        "tradeoff:\n- {label: a, variant: nobody, sampling: []}\nsampling:\n  mar: {steps: 1000}\n"
        "study: mine\n".replace("no\n", "none\n", 1)
    )
    lines = refusal(mine)
    assert lines[0] == "mine.yaml:4: variants.ar.head: found 'none'; accepted: crossent, diffloss"
    assert lines[1].startswith("mine.yaml:5: variants.mar: head diffloss (diffusion) on tokenizer vq (vq)")
    assert lines[2] == "mine.yaml:8: tradeoff[0].variant: found 'nobody'; accepted: ar, mar"
    assert len(lines) == 3  # a variant whose parts are wrong has no settings to check
    mine.write_text("extends: base.yaml\nsampling:\n  mar:\n    steps: 1000\nstudy: mine\n")
    assert refusal(mine)[0].startswith("mine.yaml:3: variants.mar: sampling.mar.steps 1000: ")


def test_of_many_names_those_most_like_the_one_found_are_listed(base: Path) -> None:
    mine = base.parent / "mine.yaml"
    settings = "".join(f"  steps-{n}: {{steps: 1}}\n" for n in range(40))
    variants = "variants: {mar: {sampling: [step-7]}}\n"
    mine.write_text(f"extends: base.yaml\nstudy: mine\nsampling:\n{settings}{variants}")
    line = refusal(mine)[0]
    begin = "mine.yaml:44: variants.mar.sampling: found 'step-7'; accepted: steps-7, "
    assert line.startswith(begin), line
    assert line.endswith(" and 30 more, or a figure or table of the study") and line.count("steps-") == 12


def test_a_name_of_its_own_is_asked_for_beside_other_mistakes(base: Path) -> None:
    mine = base.parent / "mine.yaml"
    mine.write_text("extends: base.yaml\nseed: -1\n")
    assert refusal(mine) == [
        "mine.yaml:1: study: is missing; accepted: a name of its own, so that no result of base.yaml is written over",
        "mine.yaml:2: seed: found -1; accepted: at least 0",
    ]


def test_shorthands_are_blamed_together(base: Path) -> None:
    mine = base.parent / "mine.yaml"
    mine.write_text(
        "extends: base.yaml\ntemperature:\n"
        "- {label: a, variant: mar, base: no, vary: {steps: [4]}, name: 'a{steps}'}\n"
        "- {label: b, variant: mar, base: mar, vary: {temperature: [-1]}, name: 'b{temperature}'}\n".replace(
            "no,", "none,"
        )
    )
    assert refusal(mine) == [
        "mine.yaml:3: temperature[0].base: found 'none'; accepted: ar, mar",
        "mine.yaml:4: temperature[1].vary.temperature: found -1; accepted: at least 0.001",
    ]


def test_rows_that_the_paper_lacks_have_their_lines(base: Path, values: dict[str, Any]) -> None:
    mine = base.parent / "mine.yaml"
    mine.write_text(
        "extends: base.yaml\ntables:\n  table1:\n    rows:\n    - paper: one\n    - {paper: two}\nstudy: mine\n"
    )
    with pytest.raises(ValueError, match="found 'one'") as caught:
        check_rows(load(mine))
    lines = str(blame(caught.value, mine)).splitlines()
    assert [line.partition("; accepted")[0].rpartition("/")[2] for line in lines] == [
        "mine.yaml:5: tables.table1.rows[0].paper: found 'one'",
        "mine.yaml:6: tables.table1.rows[1].paper: found 'two'",
    ]


def test_a_merged_mapping_has_the_line_of_its_anchor(base: Path) -> None:
    mine = base.parent / "mine.yaml"
    mine.write_text(
        "extends: base.yaml\nrecipes:\n  short: &r\n    ema: 0.9\n    clip: -1\n  long:\n    <<: *r\n    batch: x\n"
    )
    lines = refusal(mine)
    assert "mine.yaml:5: recipes.short.clip: found -1; accepted: above 0.0" in lines
    assert "mine.yaml:5: recipes.long.clip: found -1; accepted: above 0.0" in lines
    assert "mine.yaml:8: recipes.long.batch: found 'x'; accepted: a whole number" in lines
