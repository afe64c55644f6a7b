"""`mar table`: one table of a study, by its name."""

from __future__ import annotations

from pathlib import Path

from mar.report.tables import all_metrics, fast_modes, laws, learning, paper_tables, tasks, variance
from mar.study.study import Study


def table(study: Study, root: Path, name: str) -> None:
    """Write tables/<name>.{csv,md,tex}: one of the study's, every metric, sources of error, modes, learning, laws.

    Raises:
        ValueError: a file that it shows is missing, or does not belong to the study.
    """
    general = {all_metrics.NAME: all_metrics.table, variance.NAME: variance.table, fast_modes.NAME: fast_modes.table}
    general |= {learning.NAME: learning.table, laws.NAME: laws.table, tasks.NAME: tasks.table}
    general[name](study, root) if name in general else paper_tables.table(study, root, name)
