"""What the last release promised still works: keys of a study, commands, files of results."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[3]
KEEP = runpy.run_path(str(PROJECT / "packaging" / "keep.py"))
KEPT = json.loads((PROJECT / "packaging" / "kept.json").read_text())


@pytest.fixture(scope="module")
def today() -> dict[str, Any]:
    return KEEP["today"]()


@pytest.mark.parametrize("what", ["study", "commands", "files"])
def test_nothing_of_the_last_release_is_gone_or_has_become_needed(what: str, today: dict[str, Any]) -> None:
    assert len(KEPT[what]) > 100
    lost = KEEP["broken"](KEPT[what], today[what])
    assert lost == [], f"worked in {KEPT['version']}; a key may be renamed for one release: mar/study/renamed.py"


def test_what_is_kept_is_what_a_user_writes() -> None:
    assert {"recipes.*.batch", "tokenizers.*.kind = kl", "variants.*.seeds", "study"} <= _plain(KEPT["study"])
    assert {"train --seed !", "init", "edit --protocol = fair"} <= {*KEPT["commands"]}
    assert {"RunRecord seconds !", "MetricsFile metrics.*.value !"} <= {*KEPT["files"]}


def _plain(lines: list[str]) -> set[str]:
    return {line.removesuffix(KEEP["NEEDED"]) for line in lines}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a.*.old": None}, ["gone: a.*.old"]),
        ({"a.*.old": "a.*.new"}, ["gone: a.*.old"]),
        ({"a.kind = x": None}, ["gone: a.kind = x"]),
        ({"a.*.old": "a.*.old !"}, ["needed now: a.*.old"]),
        ({"": "a.*.more !"}, ["needed now: a.*.more"]),
        ({"": "fresh.key !"}, []),
        ({"a.b !": "a.b"}, []),
        ({"": "a.*.more"}, []),
        ({"": "train --more !"}, ["needed now: train --more"]),
    ],
)
def test_what_breaks_a_promise(change: dict[str, str | None], said: list[str]) -> None:
    before = ["a", "a.*.old", "a.kind = x", "a.b !", "train", "train --seed !"]
    now = [change.get(line, line) for line in before] + ([change[""]] if "" in change else [])
    assert KEEP["broken"](before, [line for line in now if line]) == said
