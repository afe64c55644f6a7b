"""The table `laws`: the exponents of VAR's power laws, each fitted in every way that the points allow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.estimates import Results
from mar.analysis.laws import TABLE, fits, points
from mar.analysis.result_files import short
from mar.paper.numbers import paper_rows
from mar.report.tables import formats
from mar.study import layout
from mar.study.study import Study

if TYPE_CHECKING:
    import pandas as pd


NAME, TITLE = "laws", "Power laws of loss and error"
NOTE = (
    "L less a constant = (beta X)^exponent, with X in billions of parameters of the blocks, or in PFLOP of training "
    "along the Pareto front. raw: nothing is subtracted; subtracted: the authors' constant, where all losses lie above "
    "it; free: the constant is fitted. Interval: 95%, by the scatter about the line, by as many degrees of freedom as "
    "there are models less fitted numbers. By seeds: 95% by bootstrap over the training seeds, drawn for all models "
    "together; too narrow with few. Without one: range of the exponent when one model is left out. The paper's "
    "exponent stands beside the way that it was found by. Models: those that the fitted points are of. Losses in nats "
    "a token and errors as shares, on held-out images."
)


def frame(results: Results) -> pd.DataFrame:
    """One row for each law and way."""
    import pandas as pd

    lines = []
    for name, row in paper_rows(TABLE).items():
        subtracted = float(row["subtracted"]) if row["subtracted"] else None
        found = points(results, row["quantity"], row["tokens"], row["over"])
        for way, fit in fits(found, row["over"], subtracted).items():
            line: dict[str, Any] = {"law": name, "way": way, "models": fit.models}
            line |= {"exponent": fit.alpha, "low": fit.low, "high": fit.high, "beta": fit.beta}
            line |= {"subtracted": fit.irreducible, "correlation": fit.correlation}
            line |= _ends("by_seeds", fit.by_seeds) | _ends("without_one", fit.without_one)
            line["largest_residual"] = max(map(abs, fit.residuals))
            as_printed = way == ("subtracted" if subtracted else "raw")
            line |= {f"paper_{key}": row[key] if as_printed else "" for key in ("alpha", "beta", "correlation")}
            lines.append(line)
    return pd.DataFrame(lines, dtype=object)


def texts(results: Results) -> pd.DataFrame:
    """The table for readers."""
    exponent = "exponent"
    heads = [("", "law", "l"), ("", "fitted", "l"), (exponent, "95% interval", "r"), (exponent, "by seeds", "r")]
    heads += [(exponent, "without one", "r"), (exponent, "paper", "r"), ("", "beta", "r"), ("", "constant", "r")]
    heads += [("", "correlation", "r"), ("", "largest residual", "r"), ("", "models", "r")]
    rows = []
    for _, line in frame(results).iterrows():
        quantity, tokens, over = line["law"].split("-")
        cells = [f"{quantity}, {tokens if tokens == 'all' else 'last scale'}, over {over}", line["way"]]
        cells += [_interval(line["exponent"], line["low"], line["high"])]
        cells += [_range(line, "by_seeds"), _range(line, "without_one"), line["paper_alpha"]]
        cells += [f"{line['beta']:.2g}", short(line["subtracted"]), f"{line['correlation']:.3f}"]
        rows.append([*cells, f"{100 * line['largest_residual']:.1f}%", str(line["models"])])
    return formats.texts(heads, rows)


def _ends(name: str, ends: tuple[float, float] | None) -> dict[str, float | str]:
    low, high = ends or ("", "")
    return {f"{name}_low": low, f"{name}_high": high}


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _range(line: Any, name: str) -> str:
    return f"{line[f'{name}_low']:.3f} to {line[f'{name}_high']:.3f}" if line[f"{name}_low"] != "" else ""


def table(study: Study, root: Path) -> None:
    """Write tables/laws.{csv,md,tex}."""
    results = Results(study, root)
    values = texts(results)
    formats.write(root, NAME, TITLE, values, NOTE, frame(results))
    print(f"{layout.table(root, NAME, 'csv')}, .md, .tex: {len(values)} fits", flush=True)
