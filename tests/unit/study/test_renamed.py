"""Keys that have a new name: the old one is read for one release, with a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mar
from mar.study import renamed
from mar.study.reading import StudyError, load
from mar.study.renamed import Renamed

SHIPPED = renamed.RENAMED
# As if these had been called so in the release before.
KEYS = (
    Renamed(("recipes", "*", "step"), "base_learning_rate", "0.2.0"),
    Renamed(("metrics", "draws"), "bootstrap", "0.2.0"),
)


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "RENAMED", KEYS)


def test_an_old_name_is_read_and_told(study_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    today = load(study_file)
    assert capsys.readouterr().err == ""
    old = study_file.with_name("old.yaml")
    old.write_text(study_file.read_text().replace("bootstrap:", "draws:"))
    assert load(old) == today
    said = capsys.readouterr().err
    assert said == f"{old}: metrics.draws: is called bootstrap since 0.2.0; the next release refuses the old name\n"


def test_a_file_that_extends_another_has_its_names_read_first(study_file: Path, capsys: Any) -> None:
    more = study_file.with_name("more.yaml")
    more.write_text(
        f"extends: {study_file.name}\nstudy: more\nrecipes: {{short: {{step: 0.5}}}}\nmetrics: {{draws: 30}}\n"
    )
    found = load(more)
    assert found.recipes["short"].base_learning_rate == 0.5 and found.metrics.bootstrap == 30
    assert "more.yaml: recipes.short.step: is called base_learning_rate since" in capsys.readouterr().err


def test_both_names_are_refused_with_their_line(study_file: Path) -> None:
    both = study_file.with_name("both.yaml")
    both.write_text(study_file.read_text().replace("bootstrap: 20}", "bootstrap: 20, draws: 20}"))
    with pytest.raises(StudyError, match=r"both.yaml:\d+: metrics.draws: is called bootstrap now, and both are there"):
        load(both)


def test_no_old_name_outlives_its_release() -> None:
    assert [key for key in SHIPPED if key.release != mar.__version__] == [], "the release before read it last"
