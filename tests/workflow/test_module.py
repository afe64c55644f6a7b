"""The workflow as a module of another one, the study that `study_file` names, and Snakemake's own report."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import Environment, StrictUndefined

from mar.study import layout
from mar.study.products import figure_names, table_names
from mar.study.reading import StudyError, load, of_config

SOURCE = Path(__file__).parents[2]
OTHER = """
module {name}:
    snakefile: {snakefile!r}
    config: {config}

use rule * from {name} as {name}_*

rule mine:
    input: rules.{name}_claims.output.claims
    output: "mine.txt"
    shell: "cp {{input}} {{output}}"
"""


@pytest.fixture
def other(project: Any) -> Any:
    """A workflow of somebody else, in a folder of its own, which asks for the verdicts of a study."""
    place = project.folder / "other"
    place.mkdir()
    snakefile = str(project.folder / "workflow" / "Snakefile")
    project.folder = place

    def write(config: dict[str, Any]) -> Any:
        (place / "Snakefile").write_text(OTHER.format(name="small", snakefile=snakefile, config=config))
        return project

    return write


def test_another_workflow_uses_rules_of_this_one(other: Any) -> None:
    project = other({"study_file": "smoke.yaml", "metrics": {"bootstrap": 21}})
    plan = project.plan("mine", "--cores", "1")
    assert plan["mine"] == plan["small_claims"] == [""] and len(plan["small_train"]) == 7
    project.snakemake("results/smoke/data/manifest.json", "--cores", "1")
    assert project.calls() == ["prepare --study results/smoke/study.json"]
    assert load(project.folder / "results" / "smoke" / "study.json").metrics.bootstrap == 21


def test_a_module_without_a_study_is_told_which_key_names_one(other: Any) -> None:
    said = other({}).fails("-n", "mine")
    assert "no study file; accepted: --configfile config/<study>.yaml, or of a module study_file" in said


def test_the_study_of_a_configuration(tmp_path: Path) -> None:
    study, source = of_config({"study_file": "smoke.yaml"}, ["unread.yaml"])
    assert study == load(source) and source.name == "smoke.yaml" and study.study == "smoke"
    (tmp_path / "mine.yaml").write_text("extends: smoke.yaml\nstudy: mine\n")
    changes = {"metrics": {"samples": 300}, "title": "a title"}
    study, source = of_config({"study_file": str(tmp_path / "mine.yaml"), **changes}, [])
    assert (study.study, study.metrics.samples, study.title) == ("mine", 300, "a title")
    for wrong, said in [("absent.yaml", "absent.yaml: cannot be read"), (3, "study_file: found 3; accepted: the path")]:
        with pytest.raises(StudyError, match=said):
            of_config({"study_file": wrong}, [])


def test_a_study_by_its_file_in_the_place_of_the_default_one(fresh: Any) -> None:
    (fresh.folder / "config" / "named.yaml").write_text("extends: smoke.yaml\nstudy: named\n")
    plan = fresh.plan("all", "--config", "study_file=config/named.yaml")
    assert len(plan["train"]) == 7 and (fresh.folder / "results" / "named" / "study.json").exists()


def caption(kind: str, name: str, titles: dict[str, str]) -> str:
    """What Snakemake's report says of a table or figure, as it renders the template."""
    text = (SOURCE / "workflow" / "report" / f"{kind}.rst").read_text()
    job = SimpleNamespace(wildcards=SimpleNamespace(**{kind: name}), config={"titles": titles})
    return " ".join(Environment(undefined=StrictUndefined).from_string(text).render(snakemake=job).split())


def test_every_table_and_figure_of_a_shipped_study_has_a_caption() -> None:
    studies = [load(path) for path in layout.shipped().glob("*.yaml") if "study:" in path.read_text()]
    assert len(studies) > 10
    for study in studies:
        titles = {name: table.title for name, table in study.tables.items()}
        for name in table_names(study):
            assert not caption("table", name, titles).startswith(f"{name}: our numbers"), (study.study, name)
        for name in figure_names(study):
            assert caption("figure", name, {}) != name, (study.study, name)
    assert caption("table", "table1", {"table1": "Table 1"}) == (
        "Table 1: our numbers with intervals beside the paper's."
    )


def test_the_report_of_snakemake_has_every_table_and_figure(finished: Any) -> None:
    said = finished.snakemake("all", "--report", "report.zip", "--configfile", "config/smoke.yaml")
    study = load(finished.folder / "config" / "smoke.yaml")
    expected = {f"{name}.csv" for name in table_names(study)} | {f"{name}.png" for name in figure_names(study)}
    added = {line.split()[1] for line in said.splitlines() if line.startswith("Adding ")}
    assert expected | {"report.html"} == added
