"""What benchmarks keep: tables as Markdown and JSON, what moved between two files, and the numbers of the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import compare, pages, roofline
from benchmarks.tables import Pairs, Results, Row, Section, Table, keep
from mar.runtime.files import read
from mar.runtime.provenance import Provenance

MADE = Provenance(
    git_commit="a" * 40,
    time="2026-01-02T03:04:05+0000",
    python="3.11.7",
    torch="2.6",
    machine="some processor",
    cores=2,
    device="cpu",
    threads=2,
)


def pairs(ratio: float, scatter: float, count: int = 5, seed: int = 0) -> list[tuple[float, float]]:
    noise = scatter * np.random.default_rng(seed).standard_normal((count, 2))
    return [(ratio * float(np.exp(a)), float(np.exp(b))) for a, b in noise]


def section(*parts: Pairs | Table | str, **made: object) -> Section:
    provenance = MADE.model_copy(update=made)
    return Section(provenance=provenance, versions={"torch": "2.6"}, load=0.1, seconds=60.0, parts=list(parts))


def results(ratio: float, scatter: float, seed: int, **made: object) -> Results:
    row = Row(name="draw", cpu=pairs(ratio, scatter, seed=seed), wall=pairs(ratio, scatter, seed=seed + 1))
    return Results(sections={"sampling": section(Pairs(rows=[row]), **made)})


def test_tables_as_markdown():
    row = Row(name="draw", cpu=[(2.0, 1.0), (3.0, 1.0), (8.0, 2.0)], wall=[(1.0, 1.0)] * 3)
    assert Pairs(rows=[row]).markdown().splitlines() == [
        "| | CPU s, 1 thread: baseline | ours | ratio | wall s, 2 threads: baseline | ours | ratio | pairs |",
        "|---|---|---|---|---|---|---|---|",
        "| draw | 3 | 1 | **3.00** (2.50 to 3.50) | 1 | 1 | **1.00** (1.00 to 1.00) | 3 |",
    ]
    rows = [["a", 1200.0, [3.0, 1.0, 2.0]], ["b", "", 4.0]]
    table = Table(head=["", "images", "s"], form=["", ",.0f", ".2f"], rows=rows)
    assert table.markdown().splitlines()[2:] == ["| a | 1,200 | 2.00 |", "| b |  | 4.00 |"]


def test_a_file_keeps_every_benchmark_and_its_last_call(tmp_path: Path):
    file = tmp_path / "bench.json"
    keep(file, "one", section("first"))
    keep(file, "two", section(Table(head=["", "s"], form=["", ".1f"], rows=[["a", [1.0, 2.0]]])))
    keep(file, "one", section("second"))
    found = read(file, Results).sections
    assert list(found) == ["one", "two"]
    assert found["one"].parts == ["second"]
    assert found["two"].parts == section(Table(head=["", "s"], form=["", ".1f"], rows=[["a", [1.0, 2.0]]])).parts
    assert found["two"].provenance == MADE


def test_what_moved_beyond_noise():
    old = results(1.2, 0.01, 0)
    assert "0 numbers moved, 2 did not" in compare.text(old, results(1.2, 0.01, 10))
    told = compare.text(old, results(1.4, 0.01, 10))
    assert "| sampling | draw (CPU s, 1 thread): ratio | 1." in told and "2 numbers moved, 0 did not" in told
    # the same difference within wide scatter, and a difference below the least one, have not moved
    assert "0 numbers moved" in compare.text(results(1.2, 0.3, 0), results(1.4, 0.3, 10))
    assert "0 numbers moved" in compare.text(results(1.2, 0.0001, 0), results(1.22, 0.0001, 10))


def test_equal_code_seldom_moves_and_another_ratio_is_found():
    moved = {1.0: 0, 1.1: 0}
    for factor in moved:
        for run in range(200):
            old, new = (
                [a / b for a, b in pairs(ratio, 0.02, seed=2 * run + side)] for side, ratio in enumerate((1.0, factor))
            )
            change = compare.change(old, new)
            assert change is not None
            moved[factor] += change.moved
    assert moved[1.0] <= 4  # of 200, where 1% is meant
    assert moved[1.1] >= 140


def test_seconds_are_compared_on_one_machine_alone():
    def seconds(values: list[float], **made: object) -> Results:
        return Results(sections={"a": section(Table(head=["", "s"], form=["", ".1f"], rows=[["job", values]]), **made)})

    old, new = seconds([1.0, 1.01, 1.02]), [2.0, 2.01, 2.02]
    assert "| a | job: s | 1.01 | 2.01 | 1.99" in compare.text(old, seconds(new))
    other = compare.text(old, seconds(new, machine="another"))
    assert "0 numbers moved" in other and "a: another machine (some processor, 2 cores" in other


def test_what_cannot_be_compared_is_said():
    one = Results(sections={"a": section(Table(head=["", "s"], form=["", ".1f"], rows=[["job", [1.0]]]))})
    assert "1 were measured once and cannot be compared" in compare.text(one, one)
    assert "Only in the old file: a." in compare.text(one, results(1.0, 0.1, 0))


def test_the_command_names_a_missing_file(tmp_path: Path):
    done = CliRunner().invoke(compare.main, [str(tmp_path / "old.json"), str(tmp_path / "new.json")])
    assert done.exit_code == 1 and f"{tmp_path / 'old.json'}: missing" in done.output


def test_named_benchmarks_are_printed_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = Table(head=["", "s"], form=["", ".1f"], rows=[["a", 1.5]])
    monkeypatch.setattr(roofline, "report", lambda: [table, "A sentence."])
    file = tmp_path / "bench.json"
    done = CliRunner().invoke(command.main, ["roofline", "--json", str(file)])
    assert done.exit_code == 0, done.output
    found = read(file, Results).sections["roofline"]
    assert found.markdown() in done.output and "| a | 1.5 |\n\nA sentence." in found.markdown()
    assert found.provenance.cores and found.versions["torch"]
    assert "no benchmark roof; accepted: sampling" in CliRunner().invoke(command.main, ["roof"]).output


def test_marks_are_filled_and_stay_filled():
    found = results(1.2, 0.01, 0)
    page = "a\n<!-- bench: sampling.1 -->\nold\n<!-- end -->\nb\n<!-- bench: machine -->\n<!-- end -->\n"
    once = pages.rewritten(page, found)
    assert "| draw | " in once and "old" not in once and once.startswith("a\n") and "some processor, 2 cores" in once
    assert pages.rewritten(once, found) == once
    both = pages.rewritten("<!-- bench: sampling.1 sampling.1 -->\n<!-- end -->", found)
    assert both.count("| draw |") == 2 and both.count("pairs |") == 1
    other = "<!-- bench: training.2 -->\nan earlier call\n<!-- end -->"
    assert pages.rewritten(other, found) == other  # not measured
    with pytest.raises(ValueError, match=r"mark 'trainig.2': there is no benchmark trainig"):
        pages.rewritten("<!-- bench: trainig.2 -->\n<!-- end -->", found)
    with pytest.raises(ValueError, match=r"mark 'sampling.2': not in the results; accepted: machine, sampling.1 to"):
        pages.rewritten("<!-- bench: sampling.2 -->\n<!-- end -->", found)


def test_the_page_of_performance_says_what_the_file_holds() -> None:
    """Where a new bench.json takes the place of performance.json, `python -m benchmarks pages` makes the page agree."""
    found, page = read(pages.RESULTS, Results), pages.PAGE.read_text(encoding="utf-8")
    assert pages.rewritten(page, found) == page
    assert pages.drawn_from(pages.FIGURE) == pages.digest(pages.share_table(found))


def test_the_figure_keeps_what_it_was_drawn_from(tmp_path: Path):
    head = ["", "parameters, millions", "sampling, GFLOP/s", "share", "training, GFLOP/s", "share"]
    rows = [["16 tokens", 0.5, [10.0], [0.4], [12.0], [0.5]], ["256 tokens", 20.0, [30.0], [0.8], [32.0], [0.9]]]
    table = Table(head=head, form=["", ".1f", ".0f", ".0%", ".0f", ".0%"], rows=rows)
    pages.draw(table, tmp_path / "bound.png")
    assert pages.drawn_from(tmp_path / "bound.png") == pages.digest(table)
