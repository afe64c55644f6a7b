"""The batch script by which a rule is submitted at a site, from the site's file: nothing is submitted.

python -m mar.cluster.site slurm/sites/container.yaml train
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from mar.cluster.resources import LAUNCH, STAGES, asked, check, check_jobs, known
from mar.cluster.slurm import Slurm, script

FOLDER = Path("/project/results/imagenet256/jobs")
TOKEN = "mar-0123456789abcdef-01234567"


def slurm_of(values: dict[str, Any]) -> Slurm:
    """Settings for `mar launch` from the resources of a rule."""
    options = {name: option for name, (option, _) in LAUNCH.items() if option.startswith("--slurm-")}
    return Slurm(**{o.removeprefix("--slurm-").replace("-", "_"): values[name] for name, o in options.items()})


def preview(file: Path, rule: str) -> str:
    """The script of a rule at the site of a file.

    Raises:
        ValueError: there is no such rule, or the file has settings that would be refused.
    """
    known(str(file), rule, STAGES)
    said = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    defaults, by_rule = said.get("default-resources", {}), said.get("set-resources", {})
    check(defaults, by_rule)
    jobs = {name: asked(name, defaults, by_rule, {}) for name in STAGES}
    check_jobs(jobs)
    slurm = slurm_of(jobs[rule])
    code = FOLDER / "code" / "0123456789abcdef"
    return script(FOLDER / rule / "NAME", slurm, TOKEN, range(slurm.shards or 1), code, "COMMIT")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="of the site")
    parser.add_argument("rule", help="of the workflow")
    arguments = parser.parse_args()
    print(preview(arguments.file, arguments.rule), end="")
