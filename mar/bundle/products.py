"""Tables, figures and verdicts of a study, made anew from its metric files."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mar.bundle.contents import REAL_IMAGES
from mar.study import layout
from mar.study.products import figure_names, table_names
from mar.study.study import Study


def makers(study: Study, root: Path, figures: Path) -> dict[str, Callable[[], object]]:
    """What makes each product of a study, by its name, as `tables/table1` or `claims.json`.

    Figures of images and the page, which has these inside, need images and are left out.

    Args:
        study: the study.
        root: its results folder, where tables and verdicts are written.
        figures: folder for the figures.
    """
    from mar.analysis.verdicts import decide
    from mar.report.figures.draw import draw
    from mar.report.tables.write import table

    found: dict[str, Callable[[], object]] = {
        f"tables/{name}": partial(table, study, root, name) for name in table_names(study)
    }
    if not study.data.unread:
        found["claims.json"] = partial(decide, study, root, layout.shipped("claims.yaml"))
        names = [name for name in figure_names(study) if name not in REAL_IMAGES]
        found |= {f"figures/{name}": partial(draw, study, root, name, figures) for name in names}
    return found


def make(study: Study, root: Path, figures: Path) -> dict[str, str]:
    """Make every product; returns why some could not be made, by their names."""
    failed = {}
    for name, maker in makers(study, root, figures).items():
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                maker()
            except ValueError as error:
                failed[name] = str(error)
    return failed
