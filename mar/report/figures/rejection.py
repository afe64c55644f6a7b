"""The figure `rejection`: FID over the acceptance rate of sample sets whose images the study's rejecter accepts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.estimates import Results
from mar.report.figures.style import COLUMN, Rows, caption, dark, legend, look, place_labels
from mar.study.labels import label
from mar.study.products import rejections
from mar.study.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "At the points: the least probability of the class asked for at which the rejecter, which is not the judge, "
    "accepts an image; without one all are accepted. Rate: share of the drawn images that were accepted, mean over the "
    "training seeds. Bars: 95% intervals of FID."
)


def rejection(study: Study, root: Path) -> tuple[Figure, Rows]:
    """FID over the acceptance rate, a line for each group of settings that differ in `reject` alone."""
    from matplotlib.figure import Figure

    results, rows = Results(study, root), Rows()
    figure = Figure(figsize=(COLUMN, 3.2), layout="constrained")
    axes: Axes = figure.add_subplot()
    handles, names, texts = list[object](), list[str](), list[tuple[float, float, str, Any]]()
    for variant, groups in rejections(study).items():
        for again, group in enumerate(groups):
            points = []
            for setting in group:
                fid, rate = results.cell(variant, setting, "fid"), results.accepted(variant, setting)
                assert fid is not None  # the variant is trained
                reject = study.sampling[setting].reject
                points.append((rate, fid, f"{reject.threshold:g}" if reject else "all"))
                line = {"variant": variant, "setting": setting, "threshold": reject.threshold if reject else ""}
                line |= {"accepted": rate, "draws_an_image": results.draws(variant, setting)}
                rows.append(line | {"fid": fid.value, "fid_low": fid.low, "fid_high": fid.high, "n": fid.n})
            points.sort(key=lambda point: point[0])
            x, y = [rate for rate, _, _ in points], [fid.value for _, fid, _ in points]
            bars = [[f.value - f.low for _, f, _ in points], [f.high - f.value for _, f, _ in points]]
            style = look(study, variant, again)
            handles.append(axes.errorbar(x, y, bars, **style, linewidth=0.8, markersize=4))
            more = f", {group[0]}" if len(groups) > 1 else ""
            names.append(label(study, variant) + more)
            texts += [(rate, fid.value, text, dark(style["color"])) for rate, fid, text in points]
    axes.set_xlabel("acceptance rate")
    axes.set_ylabel(f"FID, {study.metrics.samples} images")
    legend(figure, handles, names)
    caption(figure, CAPTION)
    place_labels(figure, axes, texts)
    return figure, rows
