"""`mar init`: a folder to work in, for a package that was installed without a checkout."""

from __future__ import annotations

from pathlib import Path

from mar.runtime import project
from mar.runtime.files import write_text
from mar.study import layout

SNAKEFILE = """# The door to the workflow of the installed mar-replication.
from mar.runtime import project


include: str(project.path("Snakefile"))


workflow.default_target = "all"  # an included file sets none
"""
README = """# A folder to work in with mar-replication

    snakemake -n --configfile config/smoke.yaml     # what would run
    snakemake all --configfile config/smoke.yaml    # every stage at a size that only proves that it runs
    mar plan --study demo                           # how many minutes a study takes here
    snakemake all --configfile config/demo.yaml     # AR and MAR on Fashion-MNIST
    mar summary --study demo                        # the answer on one screen

| | |
|---|---|
| `config/` | the studies that ship, to run or to extend; `config/README.md` says how a study is written |
| `Snakefile` | the door to the workflow, which lies in the installed package |
| `profiles/default/` | settings of `snakemake` on every machine |
| `slurm/` | the profile of `snakemake --profile slurm`; settings of your site go into a file beside it |
| `results/`, `figures/` | what the studies make; open `results/<study>/report.html` first |

The paper's numbers, its claims and the table of published files are read from the installed package, whose version and
commit `mar --version` names.
"""


def init(folder: Path) -> list[Path]:
    """Write the studies, the profiles, the door to the workflow and a README into an empty folder.

    Args:
        folder: the folder, which is made where there is none.

    Returns:
        The files, relative to the folder.

    Raises:
        ValueError: the folder has files already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: found files; accepted: a new or an empty folder")
    config = layout.shipped()
    files = [file for file in config.rglob("*.yaml") if file.parts[len(config.parts)] not in ("claims.yaml", "golden")]
    files += [config / "README.md", project.path("workflow", "schemas", "study.schema.json")]
    files += [file for name in ("profiles", "slurm") for file in project.path(name).rglob("*") if file.is_file()]
    texts = {str(file.relative_to(project.ROOT)): file.read_text(encoding="utf-8") for file in files}
    texts |= {"Snakefile": SNAKEFILE, "README.md": README}
    for name, text in sorted(texts.items()):
        write_text(folder / name, text)
    return sorted(map(Path, texts))
