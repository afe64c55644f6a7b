"""The documents name every key of a study, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from mar.study import parts, sections, study
from mar.study.kinds import Kind

DOCUMENTS = sorted(
    [*Path().glob("*.md"), *Path("docs").glob("*.md"), Path("results/README.md"), Path("figures/README.md")]
)
SECTIONS = {
    "Top level": study.Study,
    "data": parts.Data,
    "tokenizers": parts.Tokenizer,
    "backbones": parts.Backbone,
    "heads": parts.Head,
    "recipes": parts.Recipe,
    "sampling": parts.Sampling,
    "variants": study.Variant,
    "classifier": sections.Classifier,
    "rejecter": sections.Rejecter,
    "metrics": sections.Metrics,
    "speed": sections.Speed,
    "laws": sections.Laws,
    "tasks": sections.Tasks,
    "given": sections.Given,
}


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_is_described(title: str) -> None:
    model: type[BaseModel] = SECTIONS[title]
    text = Path("docs/studies.md").read_text()
    section = text.split(f"\n### {title}\n", 1)[1].split("\n##", 1)[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    described = {key for cell in cells for key in re.findall(r"`([a-z_0-9]+)`", cell)}
    kinds = model.kinds.values() if issubclass(model, Kind) else ()
    assert described - {"extends", "matrix"} == {key for part in (model, *kinds) for key in part.model_fields}


FAMILIES: dict[str, type[Kind]] = {
    "data": parts.Data,
    "tokenizers": parts.Tokenizer,
    "backbones": parts.Backbone,
    "heads": parts.Head,
    "variants": parts.Order,
    "sampling": parts.Solver,
}


@pytest.mark.parametrize("title", FAMILIES)
def test_every_kind_is_described(title: str) -> None:
    family = FAMILIES[title]
    text = Path("docs/studies.md").read_text()
    section = text.split(f"\n### {title}\n", 1)[1].split("\n##", 1)[0]
    assert [kind for kind in family.kinds if f"`{kind}`" not in section] == []


def test_every_family_is_described_with_an_example_of_an_own_kind() -> None:
    text = Path("docs/extending.md").read_text()
    assert set(FAMILIES.values()) == set(Kind.__subclasses__())
    rows = "\n".join(line for line in text.splitlines() if line.startswith("| "))
    families = list(FAMILIES.values())
    assert [one.part for one in families if f"| {one.part} | `{one.__name__}` |" not in rows] == []
    assert [one.part for one in families if not re.search(rf"\| an? {one.part}\b.*\(examples/\w+\.py\)", rows)] == []


def test_the_examples_are_those_of_the_folder() -> None:
    text = Path("docs/extending.md").read_text()
    assert sorted(re.findall(r"\(examples/(\w+\.\w+)\)", text)) == sorted(
        p.name for p in Path("docs/examples").iterdir()
    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []
