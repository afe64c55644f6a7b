"""Jobs that keep no partial result and are planned to take longer than their slot on a cluster; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mar.cluster.resources import STAGES
from mar.planning import kept_costs, plan
from mar.study.study import Study

WHOLE = ("rfid", "speed", "learning")  # stages on a GPU that start anew in each slot


def too_long(study: Study, root: Path, minutes: Mapping[str, object] | None = None) -> list[str]:
    """A line for each such job; none where nothing is counted yet.

    Args:
        study: the study.
        root: folder of its results.
        minutes: time limit of each rule, of which an expression of Snakemake is passed over; without it what the rules
            ask for where nobody says anything.
    """
    said = minutes if minutes is not None else {rule: 60 * STAGES[rule].hours for rule in WHOLE}
    limits = {rule: limit for rule, limit in said.items() if isinstance(limit, int)}
    images = plan.count_images(study, root)
    counts = kept_costs.find(study, root, images.classes)
    lines = []
    for job in plan.jobs(study, images, counts) if counts else ():
        hours, slot = job.hours(plan.UTILISATION), limits.get(job.stage, 0) / 60
        if job.stage in WHOLE and hours > slot > 0:
            setting = f"set-resources: {{{job.stage}: {{runtime: {60 * (int(hours) + 1)}}}}}"
            lines.append(
                f"{job.stage} {job.name}: about {hours:.1f} A100 hours, and its slot has {slot:.1f}; it keeps no "
                f"partial result, so that it has to fit: {setting}"
            )
    return lines
