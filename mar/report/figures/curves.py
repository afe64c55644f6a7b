"""Figures made of curves: the trade-off (Figure 6), diffusion steps (Figure 4) and temperature (Figure 5).

A curve is a variant at several sampling settings; what is varied is read from the settings. Points that the paper
prints as numbers are drawn only where our numbers are on its scale, and are rows of the CSV everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.curve_points import along
from mar.analysis.estimates import Results
from mar.analysis.paper_columns import FLOOR, printed
from mar.analysis.result_files import Estimate
from mar.paper.numbers import paper_lines
from mar.report.figures.style import COLUMN, WIDTH, Rows, caption, dark, legend, log_axis, look, place_labels
from mar.study.sections import Curve
from mar.study.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MILLI = 0.15  # seconds: an axis that ends before is in milliseconds
ANCHORS = "mar_figure_anchors"
METRICS = (("fid", "FID"), ("inception_score", "Inception Score"))  # the panels of Figures 4 and 5


def tradeoff(study: Study, root: Path) -> tuple[Figure, Rows]:
    """FID against measured seconds per image, one line per curve of the study (the paper's Figure 6).

    Reads every metric file of the study, since the intervals contain the seed spread pooled over all of them.
    """
    from matplotlib.figure import Figure

    results = Results(study, root)
    rows: Rows = []
    absent: list[str] = []
    handles: list[tuple[Any, str]] = []
    labels: list[tuple[float, float, str, Any]] = []
    figure = Figure(figsize=(COLUMN, 4.2), layout="constrained")
    axes: Axes = figure.add_subplot()
    looks = _looks(study, study.tradeoff)
    for curve, style in zip(study.tradeoff, looks, strict=True):
        line = []
        for setting in curve.sampling:
            fid, seconds = results.cell(curve.variant, setting, "fid"), results.seconds(curve.variant, setting)
            if fid is None or seconds is None:
                absent.append(curve.label)
                break
            line.append((seconds, fid, _steps(study, curve, setting)))
            row = _row(results, curve, setting) | {"steps": line[-1][2]}
            row |= {"seconds_per_image": seconds.value, "seconds_low": seconds.low, "seconds_high": seconds.high}
            rows.append(row | _numbers("fid", fid) | {"n": fid.n, "seeds": " ".join(map(str, fid.seeds))})
        if not line:
            continue
        drawn = _line(axes, style, [s for s, _, _ in line], [f for _, f, _ in line])
        handles.append((drawn, curve.label))
        labels += [(seconds.value, fid.value, str(steps), dark(style["color"])) for seconds, fid, steps in line]
    rows += _paper(axes, "tradeoff", "fid", results, handles, rows)
    floor = _floor(axes, results, "fid", handles)
    rows.append({"curve": FLOOR, **_numbers("fid", floor), "n": floor.n})
    for axis in (axes.xaxis, axes.yaxis):
        log_axis(axis)
    if rows and max(axes.get_xlim()) < MILLI:
        axes.xaxis.set_major_formatter(lambda value, _: f"{1e3 * value:g}")
    unit = "milliseconds" if rows and max(axes.get_xlim()) < MILLI else "seconds"
    axes.set_xlabel(f"{unit} per image (measured, log scale)")
    axes.set_ylabel(f"FID{_guided(results)}, {study.metrics.samples} images (log scale)")
    legend(figure, *zip(*handles, strict=True))
    caption(figure, _protocol(results, absent))
    place_labels(figure, axes, labels)
    return figure, rows


def diffusion_steps(study: Study, root: Path) -> tuple[Figure, Rows]:
    """FID and Inception Score against the steps of the reverse process (the paper's Figure 4)."""
    return _against(study, root, "diffusion_steps", "diffusion steps (log scale)")


def evaluations(study: Study, root: Path) -> tuple[Figure, Rows]:
    """FID and Inception Score against how often the network of the head is evaluated for a token."""
    return _against(study, root, "evaluations", "evaluations of the head a token (log scale)")


def temperature(study: Study, root: Path) -> tuple[Figure, Rows]:
    """FID and Inception Score against the temperature, one curve per guidance scale (the paper's Figure 5)."""
    return _against(study, root, "temperature", "temperature")


def _against(study: Study, root: Path, name: str, label: str) -> tuple[Figure, Rows]:
    """Two panels, FID and Inception Score, against the value that the curves of a figure vary."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    results = Results(study, root)
    curves: Sequence[Curve] = getattr(study, name)
    # Features of DINOv2 give no Inception Score.
    panels = [(metric, title) for metric, title in METRICS if metric in results.names]
    figure = Figure(figsize=(WIDTH if len(panels) > 1 else COLUMN, 3.0), layout="constrained")
    looks = _looks(study, curves)
    rows: Rows = []
    absent = [c.label for c in curves if not study.variants[c.variant].seeds]
    handles: dict[str, Any] = {}
    drawn_curves = [
        (i, curve, along(results, name, curve)) for i, curve in enumerate(curves) if curve.label not in absent
    ]
    for curve, x, setting in ((curve, x, setting) for _, curve, points in drawn_curves for x, setting in points):
        row = _row(results, curve, setting) | {name: x}
        for metric, _ in panels:
            cell = _cell(results, curve, setting, metric)
            row |= _numbers(metric, cell) | {"n": cell.n, "seeds": " ".join(map(str, cell.seeds))}
        rows.append(row)
    trained = list(rows)
    floors: dict[str, Any] = {"curve": FLOOR}
    for panel, (metric, title) in enumerate(panels):
        axes: Axes = figure.add_subplot(1, len(panels), panel + 1)
        drawn: list[tuple[Any, str]] = []
        for i, curve, points in drawn_curves:
            quality = [_cell(results, curve, setting, metric) for _, setting in points]
            positions = [Estimate(value, value, value, 0) for value, _ in points]
            drawn.append((_line(axes, looks[i], positions, quality, 3 * (i - (len(curves) - 1) / 2)), curve.label))
        printed_points = _paper(axes, name, metric, results, drawn, trained)
        if panel == 0:
            rows += printed_points
        floor = _floor(axes, results, metric, drawn)
        floors |= _numbers(metric, floor) | {"n": floor.n}
        handles |= {label: handle for handle, label in drawn}
        values = sorted({x for _, _, points in drawn_curves for x, _ in points})
        if name in ("diffusion_steps", "evaluations"):
            axes.set_xscale("log")
            values = _apart(values)
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2f}" if name == "temperature" else f"{value:g}")
        high, low = (pick((row[metric] for row in trained), default=1.0) for pick in (max, min))
        log = metric == "fid" and high > 10 * low  # where FID spans a decade, a linear scale would hide its low end
        if log:
            log_axis(axes.yaxis)
        axes.set_xlabel(label)
        axes.set_title(f"{title}, {study.metrics.samples} images" + (" (log scale)" if log else ""), loc="left")
    legend(figure, [*handles.values()], [*handles])
    text = "bars: 95% intervals; points of one place are drawn side by side" + (
        f"; not run: {', '.join(absent)}" if absent else ""
    )
    caption(figure, text)
    return figure, [*rows, floors]


def _cell(results: Results, curve: Curve, setting: str, metric: str) -> Estimate:
    cell = results.cell(curve.variant, setting, metric)
    assert cell is not None, "curves of untrained variants are left out before"
    return cell


def _row(results: Results, curve: Curve, setting: str) -> dict[str, Any]:
    used = results.sampling(curve.variant, setting)
    where = {"curve": curve.label, "variant": curve.variant, "setting": setting}
    return where | {"guidance": used.guidance, "temperature": used.temperature}


def _numbers(metric: str, estimate: Estimate) -> dict[str, Any]:
    return {metric: estimate.value, f"{metric}_low": estimate.low, f"{metric}_high": estimate.high}


def _steps(study: Study, curve: Curve, setting: str) -> int:
    """The steps that label a point of the trade-off: autoregressive ones, for DiT those of the reverse process."""
    sampling = study.sampling[setting]
    joint = study.backbones[study.variants[curve.variant].backbone].joint
    return sampling.diffusion_steps if joint and isinstance(sampling.diffusion_steps, int) else sampling.steps


def _looks(study: Study, curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """How each curve looks: as its model does in all figures; several of one model differ in marker and line."""
    variants = [curve.variant for curve in curves]
    return [look(study, variant, variants[:i].count(variant)) for i, variant in enumerate(variants)]


def _apart(values: list[float]) -> list[float]:
    """Of ascending places on a log axis those whose labels do not cover each other; the last one stays."""
    kept: list[float] = []
    for value in reversed(values):
        if not kept or kept[-1] >= 1.12 * value:
            kept.append(value)
    return kept[::-1]


def _line(axes: Axes, style: dict[str, Any], x: Sequence[Estimate], y: Sequence[Estimate], aside: float = 0.0) -> Any:
    """Draw a curve with intervals of both axes as bars, moved `aside` points right so that bars do not hide each other.

    Returns the line with its marker, for the legend.
    """
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure()
    assert figure is not None
    bars: dict[str, Any] = {
        key: [[e.value - e.low for e in side], [e.high - e.value for e in side]]
        for key, side in (("xerr", x), ("yerr", y))
        if any(e.low < e.high for e in side)
    }
    drawn = axes.errorbar(
        [e.value for e in x],
        [e.value for e in y],
        markersize=5,
        linewidth=1.4,
        elinewidth=0.9,
        capsize=2.5,
        **bars,
        **style,
    )
    shifted = axes.transData + ScaledTranslation(aside / 72, 0, figure.dpi_scale_trans)
    for artist in drawn.get_children() if aside else ():
        artist.set_transform(shifted)
    return drawn.lines[0]


def _floor(axes: Axes, results: Results, metric: str, handles: list[tuple[Any, str]]) -> Estimate:
    """Draw the floor, the metric of held-out real images, as a horizontal line."""
    floor = results.floor(metric)
    drawn = axes.axhline(floor.value, color="#555555", linestyle="--", linewidth=1)
    handles.append((drawn, f"{FLOOR}, n = {floor.n}"))
    return floor


def _paper(axes: Axes, figure: str, metric: str, results: Results, handles: list[tuple[Any, str]], ours: Rows) -> Rows:
    """Rows of the points that the paper prints as numbers; drawn as stars where our numbers are on the paper's scale.

    There, each row of ours that replicates such a point also gets the difference to it, as `<metric>_minus_paper`.
    """
    rows: Rows = []
    varied = "steps" if figure == "tradeoff" else figure
    for line in paper_lines(ANCHORS):
        across = line["seconds_per_image"] if figure == "tradeoff" else line["x"]
        if line["figure"] != figure:
            continue
        for kind, guidance in (("nocfg", "no guidance"), ("cfg", "guidance")):
            values = {m: line[f"{column}_{kind}"] for m, column in (("fid", "fid"), ("inception_score", "is"))}
            if not any(values.values()):
                continue
            label = f"the paper: {line['label']}, {guidance}"
            row = {"curve": label, varied: line["x"]}
            row |= {f"paper_{m}": printed(value, m) for m, value in values.items()}
            rows.append(row | {"paper_seconds_per_image": line["seconds_per_image"], "source": line["source"]})
            for row_of_ours in ours if results.comparable and values[metric] else ():
                same_point = row_of_ours["curve"].startswith(line["label"]) and row_of_ours[varied] == float(line["x"])
                if same_point and (row_of_ours["guidance"] > 1) == (kind == "cfg"):
                    row_of_ours[f"{metric}_minus_paper"] = row_of_ours[metric] - float(values[metric])
            if results.comparable and across and values[metric]:
                filled = "full" if kind == "cfg" else "none"
                place = [float(across)], [float(values[metric])]
                (star,) = axes.plot(
                    *place, "*", color="#000000", markersize=10, fillstyle=filled, linestyle="none", zorder=6
                )
                handles.append((star, label))
    return rows


def _guided(results: Results) -> str:
    curves = results.study.tradeoff
    trained = [c for c in curves if results.study.variants[c.variant].seeds]
    scales = {results.sampling(c.variant, s).guidance for c in trained for s in c.sampling}
    return " without guidance" if scales <= {1.0} else " with guidance" if 1.0 not in scales else ""


def _protocol(results: Results, absent: list[str]) -> str:
    """The protocol of the timings on two lines, and two more for each other protocol that variants were timed by."""
    study, texts = results.study, []
    for curve in study.tradeoff:
        if not study.variants[curve.variant].seeds:
            continue
        p = results.protocol(curve.variant)
        threads = f", {p.threads} threads" if p.threads else ""
        texts.append(
            f"batch {p.batch}, median of {p.batches} batches after {p.warmup_batches} for warm-up, "
            f"{'decoding included' if p.decode else 'without decoding'}\n"
            f"{p.dtype} on {p.device}{threads}, {p.machine}, torch {p.torch}"
        )
    joint = any(study.backbones[study.variants[c.variant].backbone].joint for c in study.tradeoff)
    steps = "labels: autoregressive steps" + (" (DiT: diffusion steps)" if joint else "")
    lines = [*dict.fromkeys(texts), f"{steps}; bars: 95% intervals of FID, and of the median of seconds"]
    return "\n".join(lines + ([f"not run: {', '.join(dict.fromkeys(absent))}"] if absent else []))
