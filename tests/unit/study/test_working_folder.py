"""`mar init`: a folder with all that a study needs beside the package, whose studies are those that ship."""

from __future__ import annotations

from pathlib import Path

import pytest

from mar.study import layout
from mar.study.reading import load
from mar.study.working_folder import init


def test_its_studies_are_those_that_ship(tmp_path: Path) -> None:
    files = init(tmp_path / "work")
    assert all((tmp_path / "work" / file).is_file() for file in files)
    here = {path.name for path in (tmp_path / "work" / "config").glob("*.yaml")}
    assert here == {path.name for path in layout.shipped().glob("*.yaml")} - {"claims.yaml"}
    for name in ("smoke.yaml", "fashion-3.yaml"):  # the second extends another
        assert load(tmp_path / "work" / "config" / name) == load(layout.shipped(name))
    needed = {"Snakefile", "README.md", "config/README.md", "profiles/default/config.yaml", "slurm/config.yaml"}
    assert needed | {"workflow/schemas/study.schema.json"} <= {str(file) for file in files}


@pytest.mark.parametrize("taken", ["mine.txt", ""])
def test_a_folder_that_is_taken_is_left_alone(tmp_path: Path, taken: str) -> None:
    place = tmp_path / "work"
    if taken:
        place.mkdir()
        (place / taken).write_text("mine")
    else:
        place.write_text("a file")
    with pytest.raises(ValueError, match=r"work: found files; accepted: a new or an empty folder"):
        init(place)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [taken or "work"]
