"""Write the numbers of docs/performance.md anew: `python -m benchmarks pages`.

They stand between `<!-- bench: sampling.2 -->`, which names the second part of a section in the file of results, and
`<!-- end -->`. Several names are tables of pairs that become one; `machine` says where and when all was measured. What
belongs to a section that the file lacks stays as it is: the numbers of an earlier call. The figure of distances to the
bound is drawn too, beside the page.
"""

from __future__ import annotations

import hashlib
import re
import statistics
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import click
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

from benchmarks.tables import Pairs, Results, Table
from mar.runtime.files import atomic, read, write_if_changed

HERE = Path(__file__).parents[1]
PAGE, FIGURE = HERE / "docs" / "performance.md", HERE / "docs" / "bound.png"
RESULTS = Path(__file__).parent / "results" / "performance.json"
MARKED = re.compile(r"(<!-- bench: ([\w. -]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def rewritten(page: str, results: Results) -> str:
    """The page with the numbers of these results between its marks.

    Raises:
        ValueError: a mark names what the results do not have.
    """

    def filled(found: re.Match[str]) -> str:
        text = part(found[2].split(), results)
        return found[0] if text is None else f"{found[1]}\n{text}\n\n{found[3]}"

    return MARKED.sub(filled, page)


def part(names: list[str], results: Results) -> str | None:
    """What stands at a mark; None where a section was not measured."""
    if names == ["machine"]:
        return measured(results)
    found = []
    for section in (name.partition(".")[0] for name in names):
        if section not in results.sections:
            if find_spec(f"benchmarks.{section}") is None:
                raise ValueError(f"mark {' '.join(names)!r}: there is no benchmark {section}")
            return None
    for name in names:
        section, _, number = name.partition(".")
        try:
            found.append(results.sections[section].parts[int(number) - 1])
        except (KeyError, IndexError, ValueError):
            have = (f"{key}.1 to {key}.{len(value.parts)}" for key, value in results.sections.items())
            raise ValueError(f"mark {name!r}: not in the results; accepted: machine, {', '.join(have)}") from None
    if len(found) == 1:
        return found[0] if isinstance(found[0], str) else found[0].markdown()
    tables = [one for one in found if isinstance(one, Pairs)]
    if len(tables) < len(found):
        raise ValueError(f"mark {' '.join(names)!r}: only tables of pairs become one table")
    return tables[0].model_copy(update={"rows": [row for table in tables for row in table.rows]}).markdown()


def measured(results: Results) -> str:
    """Where, when and with what the results were measured, and how busy the machine was."""
    sections = results.sections.values()
    made = [section.provenance for section in sections]
    machines = {f"{p.machine}, {p.cores} cores, torch {p.torch}, Python {p.python}" for p in made}
    days, loads = sorted({p.time[:10] for p in made}), [section.load for section in sections]
    seconds = sum(section.seconds for section in sections)
    when, busy = " to ".join(dict.fromkeys((days[0], days[-1]))), f"load {min(loads):g} to {max(loads):g}"
    return f"{' and '.join(sorted(machines))}; {when}; {busy}; {seconds / 60:.0f} minutes in all."


def share_table(results: Results) -> Table:
    """The shares of the rate of matrix products, by size."""
    (table,) = (one for one in results.sections["bound"].parts if isinstance(one, Table))
    return table


def digest(table: Table) -> str:
    """What the figure is drawn from, as a checksum that is kept in it."""
    return hashlib.sha256(table.model_dump_json().encode()).hexdigest()


def drawn_from(path: Path) -> str:
    """The checksum of what a figure was drawn from."""
    with Image.open(path) as image:
        return str(image.info.get("Source", ""))


def draw(table: Table, path: Path) -> None:
    """Bars of the shares: sampling and training at each size."""
    figure, axes = plt.subplots(figsize=(7.0, 2.6), layout="constrained")
    kinds: Iterable[tuple[str, int, str]] = (("sampling", 3, "#1b6ca8"), ("training step", 5, "#d98324"))
    for offset, (label, column, colour) in zip((-0.2, 0.2), kinds, strict=True):
        values = [row[column] for row in table.rows]
        shares = [statistics.median(value) if isinstance(value, list) else float(value) for value in values]
        bars = axes.barh([i + offset for i in range(len(shares))], shares, 0.38, color=colour, label=label)
        axes.bar_label(bars, [f"{share:.0%}" for share in shares], padding=3)
    names = [f"{row[0]}\n{row[1]:.1f} million parameters" for row in table.rows]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axes.set_xlabel("share of the core's rate of matrix products")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png", metadata={"Software": None, "Source": digest(table)})
    plt.close(figure)


@click.command(help=__doc__)
def main() -> None:
    """Write the page and the figure where they differ."""
    try:
        results = read(RESULTS, Results)
        page = rewritten(PAGE.read_text(encoding="utf-8"), results)
    except ValueError as error:
        raise SystemExit(f"{PAGE.relative_to(HERE)}: {error}") from None
    write_if_changed(PAGE, page)
    if "bound" in results.sections:
        table = share_table(results)
        if not FIGURE.exists() or drawn_from(FIGURE) != digest(table):
            draw(table, FIGURE)
    print(f"{PAGE.relative_to(HERE)} says what {RESULTS.relative_to(HERE)} holds: {', '.join(results.sections)}")
