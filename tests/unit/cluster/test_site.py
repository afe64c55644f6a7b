"""The files of sites that ship: what they make of every rule, and that the document shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mar.cluster import resources, site

FILES = sorted(Path("slurm/sites").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("rule", resources.STAGES)
def test_every_rule_of_a_site_has_a_script(file: Path, rule: str) -> None:
    script = site.preview(file, rule)
    assert script.startswith("#!/bin/bash\n#SBATCH ") and script.count("\nsrun ") == 1
    gpus = resources.STAGES[rule].gpus
    assert ("--gres=gpu:" in script or "--gpus-per-node=" in script) == bool(gpus), script


@pytest.mark.parametrize(("name", "rule"), [("container", "train"), ("conda", "sample")])
def test_the_document_shows_what_the_command_prints(name: str, rule: str) -> None:
    document, file = Path("docs/cluster.md").read_text(), Path(f"slurm/sites/{name}.yaml")
    assert f"```bash\n{site.preview(file, rule)}```\n" in document
    assert f"```yaml\n{file.read_text()}```\n" in document


def test_a_site_that_would_be_refused_is_refused_here(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("default-resources: {launcher: slurm, slurm_partitoin: gpu}\n")
    with pytest.raises(ValueError, match=r"unknown name 'slurm_partitoin'"):
        site.preview(file, "train")
    with pytest.raises(ValueError, match=r"site.yaml: unknown name 'trian' \(did you mean 'train'\?\)"):
        site.preview(file, "trian")
