"""`mar figure`: one figure of a study as PDF and PNG, and its numbers as CSV.

Files carry no dates, so drawing again from the same numbers gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mar.report.figures.claims import claims
from mar.report.figures.curves import diffusion_steps, evaluations, temperature, tradeoff
from mar.report.figures.guidance import guidance
from mar.report.figures.laws import laws, laws_samples
from mar.report.figures.learning import fid_images, fid_operations, heldout_loss
from mar.report.figures.losses import losses
from mar.report.figures.rejection import rejection
from mar.report.figures.samples import samples
from mar.report.figures.style import STYLE, Rows
from mar.report.figures.sweeps import sweep
from mar.report.figures.tasks import tasks
from mar.report.figures.tokenizers import tokenizers
from mar.runtime.files import atomic, write_text
from mar.study.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(study: Study, root: Path, name: str, out: Path) -> None:
    """Write <out>/<name>.{pdf,png,csv}.

    Args:
        study: the study.
        root: its results folder.
        name: claims, tradeoff, diffusion_steps, evaluations, temperature, sweep, guidance, heldout_loss, fid_images,
            fid_operations, laws, laws_samples, tasks, tokenizers, rejection, samples or losses.
        out: folder of the figure files.

    Raises:
        ValueError: the name is another one, or a file that the figure shows is missing.
    """
    figures: dict[str, Callable[[Study, Path], tuple[Figure, Rows]]] = {
        "claims": claims,
        "tradeoff": tradeoff,
        "diffusion_steps": diffusion_steps,
        "evaluations": evaluations,
        "temperature": temperature,
        "sweep": sweep,
        "guidance": guidance,
        "heldout_loss": heldout_loss,
        "fid_images": fid_images,
        "fid_operations": fid_operations,
        "laws": laws,
        "laws_samples": laws_samples,
        "tokenizers": tokenizers,
        "tasks": tasks,
        "rejection": rejection,
        "samples": samples,
        "losses": losses,
    }
    if name not in figures:
        raise ValueError(f"figure {name!r}: accepted: {', '.join(figures)}")
    import matplotlib
    import pandas as pd

    with matplotlib.rc_context(STYLE):
        figure, rows = figures[name](study, Path(root))
        for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
            with atomic(out / f"{name}.{suffix}") as path:
                figure.savefig(path, format=suffix, metadata=metadata)
    write_text(out / f"{name}.csv", pd.DataFrame(rows, dtype=object).to_csv(index=False, lineterminator="\n"))
    print(f"{out / name}.pdf, .png, .csv: {len(rows)} rows", flush=True)
