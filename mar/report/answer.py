"""The answer of a study, which the terminal and the first screen of the page show before anything else.

The corners of Table 1 are pairs of rows that differ in the loss alone, cross-entropy beside Diffusion Loss. Of a study
without such rows the rows of its tables are shown one by one, each with its ratio to the first.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from mar.analysis.confounds import Cell, recites
from mar.analysis.estimates import Comparison, Results
from mar.analysis.findings import cell_of
from mar.analysis.learning_curves import still_learning
from mar.analysis.paper_columns import printed
from mar.analysis.result_files import Estimate, short
from mar.analysis.tally import RULINGS
from mar.analysis.wording import effect
from mar.paper.claims import Better, Close, load
from mar.paper.numbers import paper_rows, table_rows
from mar.runtime.files import read
from mar.study import labels, layout
from mar.study.records import DataManifest, Missing, SampleManifest, Verdict
from mar.study.sections import TableRow
from mar.study.study import Study

PAIRED = "mar_table1"  # the paper's table whose rows are pairs
LOSSES = ("CrossEnt", "DiffLoss")  # of a pair, as the paper's file has them
QUESTIONS = {  # by the paper's table: what its rows ask, and the paper's answer
    PAIRED: ("Does Diffusion Loss draw better images than cross-entropy (CE)?", "yes"),
    "mar_table2": ("Does Diffusion Loss work with any tokenizer?", "yes"),
    "mar_table3": ("Does the denoising MLP have to be large?", "no"),
    "mar_table4": ("Does MAR with Diffusion Loss draw better images than other systems?", "yes"),
    "mar_table5": ("Does Diffusion Loss gain, or the order in which tokens are drawn?", "Diffusion Loss"),
    "mar_table6": ("Does MAR draw better images of 512x512 than other systems?", "yes"),
    "mar_across": ("Which part of MAR gains?", "Diffusion Loss"),
    "var_table1": ("Does next-scale prediction (VAR) draw better images than other systems?", "yes"),
    "var_table3": ("Does next-scale prediction (VAR) draw better images than next-token (AR)?", "yes"),
}
LACKS = {  # what undecided claims lack, as it is counted: of one claim, of several
    "interval": ("interval reaches both sides", "intervals reach both sides"),
    "one seed": ("has one training seed on a side", "have one training seed on a side"),
    "recites": ("compares with a model that recites", "compare with a model that recites"),
    "trained unequally": ("is won by the model that was trained on more images",) * 2,
    "still learning": ("compares a model that was still learning", "compare a model that was still learning"),
    "protocol": ("was timed in different ways", "were timed in different ways"),
}

TOLD = {  # the verdict on pairs in words, or what it lacks
    "replicated": "Diffusion Loss draws better images than cross-entropy with {}.",
    "not replicated": "cross-entropy draws better images than Diffusion Loss with {}.",
    "interval": "Diffusion Loss and cross-entropy cannot be told apart with {}.",
    "one seed": "with {} one training seed does not tell which loss is better.",
    "recites": "with {} the better side recites its training images, so its low FID does not count.",
    "trained unequally": "with {} the better side was trained on more images.",
    "still learning": "with {} a side was still learning when its training ended.",
    "protocol": "with {} the sides were measured in different ways.",
}
ROWS = 4  # of a study without pairs, that the answer tells in words


@dataclass(frozen=True)
class Side:
    """One model of a row.

    Attributes:
        cell: its variant and sampling setting; None where the study does not train it.
        fid: our FID.
        paper: the paper's, as it prints it.
        flaws: what speaks against a win of it: it recites, or it was still learning.
    """

    cell: Cell | None
    fid: Estimate | None
    paper: str
    flaws: tuple[Missing, ...] = ()

    @property
    def value(self) -> float:
        """Our FID, of a model that is trained."""
        assert self.fid is not None
        return self.fid.value


@dataclass(frozen=True)
class Row:
    """A line of the answer.

    Attributes:
        label: what the models have in common; of a single model its label.
        sides: cross-entropy and Diffusion Loss, or one model.
        comparison: Diffusion Loss against cross-entropy; of a single model, it against that of the first row.
        paper_ratio: the same ratio of the paper's numbers.
        verdict: the verdict on the first claim about the FID of what is compared; None where no claim is.
    """

    label: str
    sides: tuple[Side, ...]
    comparison: Comparison | None
    paper_ratio: float | None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Answer:
    """What a study found.

    Attributes:
        question: what its first table asks; empty without tables.
        reply: the paper's answer to it.
        paired: whether the rows are pairs of losses.
        guided: whether FID is that with guidance, because the study shows none without.
        rows: the lines.
        floor: FID of held-out real images.
        few: whether these are fewer than the images of a sample set, so that their FID is higher than it would be.
        hours: time in which something was trained or sampled.
        machine: what on, such as `2 CPU cores`.
    """

    question: str
    reply: str
    paired: bool
    guided: bool
    rows: tuple[Row, ...]
    floor: Estimate
    few: bool
    hours: float
    machine: str

    @property
    def sides(self) -> list[Side]:
        """All models that were trained."""
        return [side for row in self.rows for side in row.sides if side.fid]

    @property
    def notes(self) -> list[Missing]:
        """What speaks against models of the answer, each kind and model once."""
        found = dict.fromkeys(flaw for side in self.sides for flaw in side.flaws)
        slow = [flaw.text.partition(": ") for flaw in found if flaw.kind == "still learning"]
        notes = [flaw for flaw in found if flaw.kind != "still learning"]
        if slow:
            models = (model.partition(" since ")[0] for _, _, model in slow)
            text = f"{slow[0][0]}: {'; '.join(models)}"
            notes.append(Missing(kind="still learning", text=text))
        return notes


def answer(study: Study, root: Path, results: Results, verdicts: Sequence[Verdict]) -> Answer:
    """The answer of a study whose claims were decided.

    Raises:
        ValueError: a file that it shows is missing.
    """
    guided = not any(row.without for row in _rows(study)) and any(row.guided for row in _rows(study))
    rows = _pairs(results, verdicts, guided)
    paired = bool(rows)
    table = PAIRED if paired else next((table.paper or "" for table in study.tables.values()), "")
    question, reply = QUESTIONS.get(table, ("", ""))
    hours, machine = spent(study, root, results)
    shown = rows if paired else _singles(results, verdicts, guided)
    if not _rows(study):  # what is shown are the first settings of the variants
        cells = [side.cell for row in shown for side in row.sides if side.cell]
        guided = bool(cells) and all(results.sampling(*cell).guidance != 1.0 for cell in cells)
    floor = results.floor("fid")
    few = floor.n < study.metrics.samples
    return Answer(question, reply, paired, guided, tuple(shown), floor, few, hours, machine)


def _rows(study: Study) -> list[TableRow]:
    """All rows of tables whose variant is trained."""
    rows = (row for table in study.tables.values() for row in table.rows)
    return [row for row in rows if row.variant and study.variants[row.variant].seeds]


def _pairs(results: Results, verdicts: Sequence[Verdict], guided: bool) -> list[Row]:
    """The pairs of which the study trains a side."""
    paper = paper_rows(PAIRED)
    pairs: dict[tuple[str, ...], dict[str, str]] = {}
    for name, row in paper.items():
        pairs.setdefault(tuple(row[key] for key in ("order", "direction", "preds_per_step")), {})[row["loss"]] = name
    found = []
    for (order, direction, _), names in pairs.items():
        if not all(loss in names for loss in LOSSES):
            continue
        sides = tuple(_side(results, PAIRED, paper, names[loss], guided) for loss in LOSSES)
        if not any(side.fid for side in sides):
            continue
        crossent, diffloss = sides
        comparison = None
        if crossent.cell and diffloss.cell:
            comparison = results.compare(diffloss.cell, crossent.cell, "fid")
        ratio = float(diffloss.paper) / float(crossent.paper) if crossent.paper and diffloss.paper else None
        verdict = _verdict_on({(PAIRED, names[loss]) for loss in LOSSES}, guided, verdicts)
        found.append(Row(_common(results.study, order, direction, sides), sides, comparison, ratio, verdict))
    return found


def _side(results: Results, table: str, paper: dict[str, dict[str, str]], row: str, guided: bool) -> Side:
    cell = cell_of(results, table, row, guided)
    fid = results.cell(*cell, "fid") if cell else None
    published = printed(paper[row].get("fid_cfg" if guided else "fid_nocfg", ""), "fid")
    if cell is None or fid is None:
        return Side(None, None, published)
    return Side(cell, fid, published, flaws(results, cell))


def flaws(results: Results, cell: Cell) -> tuple[Missing, ...]:
    """What speaks against a win of a cell: it recites, or its variant was still learning."""
    return tuple(filter(None, (recites(results, cell), still_learning(results, cell[:1]))))


def _common(study: Study, order: str, direction: str, sides: Iterable[Side]) -> str:
    """What both models of a pair are, by what the study trains: `AR, raster order`, `MAR, 4 tokens a step`."""
    if direction == "causal":
        return "AR, raster order" if order == "raster" else "causal MAR"
    cells = [side.cell for side in sides if side.cell]
    rates = {study.tokens(study.variants[v].tokenizer) / study.sampling[s].steps for v, s in cells}
    rate = rates.pop() if len(rates) == 1 else None
    many = "many tokens" if rate is None else "one token" if rate == 1 else f"{rate:g} tokens"
    return f"MAR, {many} a step"


def _verdict_on(rows: set[tuple[str, str]], guided: bool, verdicts: Sequence[Verdict]) -> Verdict | None:
    """The verdict on the first claim that compares the FID of two of these rows, each by table and name in it."""
    compared = _compared(guided)
    return next((verdict for verdict in verdicts if verdict.id in compared and compared[verdict.id] <= rows), None)


@functools.cache
def _compared(guided: bool) -> dict[str, set[tuple[str, str]]]:
    """The two rows that a claim compares, of each claim about FID with or without guidance."""
    claims = load(layout.shipped("claims.yaml"))
    checks = {claim.id: claim.check for claim in claims if isinstance(claim.check, Better | Close)}
    return {
        name: {(check.table, check.a), (check.table, check.b)}
        for name, check in checks.items()
        if (check.metric, check.guided) == ("fid", guided)
    }


def _singles(results: Results, verdicts: Sequence[Verdict], guided: bool) -> list[Row]:
    """Trained rows of all tables, each against the first; without tables every variant with its first setting."""
    study = results.study
    sides: dict[Cell, Side] = {}
    rows_of = defaultdict[Cell, set[tuple[str, str]]](set)
    for table in study.tables.values():
        paper = table_rows(table)
        for row in table.rows:
            setting = row.guided if guided else row.without
            if row.variant and setting and study.variants[row.variant].seeds:
                cell = (row.variant, setting)
                rows_of[cell].add((table.paper or "", row.key))
                published = printed(paper[row.key].get("fid_cfg" if guided else "fid_nocfg", ""), "fid")
                sides.setdefault(cell, Side(cell, results.cell(*cell, "fid"), published, flaws(results, cell)))
    if not sides:
        firsts = [next(cells) for _, cells in itertools.groupby(results.cells, key=lambda cell: cell[0])]
        sides = {cell: Side(cell, results.cell(*cell, "fid"), "", flaws(results, cell)) for cell in firsts}
    names = Counter(variant for variant, _ in sides)
    lines, first = [], next(iter(sides.values()), None)
    for cell, side in sides.items():
        label = labels.label(study, cell[0]) if names[cell[0]] == 1 else labels.cell(study, *cell)
        against = first.cell if first and side is not first else None
        ratio = float(side.paper) / float(first.paper) if against and side.paper and first and first.paper else None
        verdict = _verdict_on(rows_of[cell] | rows_of[against], guided, verdicts) if against else None
        lines.append(Row(label, (side,), results.compare(cell, against, "fid") if against else None, ratio, verdict))
    return lines


def spent(study: Study, root: Path, results: Results) -> tuple[float, str]:
    """Hours in which a training ran or images were drawn, as their records say, and the machine that they ran on.

    Times that overlap count once, so it is what a clock on the wall shows, without pauses and without judging.
    """
    times, machines = [], set()
    for name, variant in study.variants.items():
        for seed in variant.seeds:
            run = results.run(name, seed)
            if run.pretrained is None:
                times.append((run.provenance.time, run.seconds))
            machines.add((run.provenance.device, run.provenance.cores))
            for setting in variant.sampling:
                path = layout.sample_manifest(root, layout.sample_set(name, seed, setting))
                if path.exists():
                    manifest = read(path, SampleManifest)
                    times.append((manifest.provenance.time, manifest.seconds))
    ends = [(datetime.strptime(time, "%Y-%m-%dT%H:%M:%S%z"), timedelta(seconds=seconds)) for time, seconds in times]
    total, until = timedelta(), None
    for start, end in sorted((end - seconds, end) for end, seconds in ends):
        total += max(end - max(start, until or start), timedelta())
        until = max(end, until or end)
    if len(machines) != 1:
        return total.total_seconds() / 3600, "several machines" if machines else ""
    ((device, cores),) = machines
    return total.total_seconds() / 3600, device if device != "cpu" else f"{cores or ''} CPU cores".strip()


def time_text(hours: float) -> str:
    """Hours as `46 min`, `2.5 h`; empty for none."""
    if hours <= 0:
        return ""
    return f"{max(1, round(60 * hours))} min" if hours < 1.5 else f"{hours:.1f} h"


def lacks(verdicts: Sequence[Verdict]) -> list[str]:
    """What undecided claims lack, by kind: `7 intervals reach both sides (2 training seeds a side)`."""
    undecided = [verdict for verdict in verdicts if verdict.missing]
    texts = []
    for kind, count in Counter(verdict.missing.kind for verdict in undecided if verdict.missing).most_common():
        text = f"{count} {LACKS[kind][count > 1]}"
        if kind == "interval":
            seeds = sorted({k for v in undecided if v.missing and v.missing.kind == kind for k in v.seeds if k})
            text += f" ({' or '.join(map(str, seeds))} training seed{'s' * (seeds != [1])} a side)" if seeds else ""
        texts.append(text)
    return texts


def unasked(study: Study, verdicts: Sequence[Verdict]) -> list[str]:
    """Why claims were not asked, each reason with its count."""
    untrained = sum(verdict.verdict == "not run" for verdict in verdicts)
    elsewhere = [verdict for verdict in verdicts if verdict.verdict == "not decidable here"]
    imagenet = sum(verdict.decides == "imagenet" for verdict in elsewhere)
    texts = [f"{untrained} compare what {study.study} does not train"] if untrained else []
    texts += [f"{imagenet} need ImageNet"] if imagenet else []
    texts += [f"{others} cannot be decided by its judge"] if (others := len(elsewhere) - imagenet) else []
    return texts


def sentences(study: Study, root: Path, found: Answer) -> list[tuple[str, str]]:
    """The answer in words, each sentence behind the verdict that it tells: of the pairs, else of the rows."""
    images = read(layout.data_manifest(root), DataManifest).splits["train"].count
    where = f"On {images:,} images of {study.data.title.removeprefix('the images of ')} "
    said: list[tuple[str, str]] = []
    groups: dict[tuple[str, str], list[str]] = {}
    for row in found.rows if found.paired else ():
        if row.verdict and row.comparison and row.verdict.verdict in RULINGS[:3]:
            kind: str = row.verdict.missing.kind if row.verdict.missing else ""
            crossent, diffloss = row.sides
            numbers = f"FID {short(diffloss.value)} against {short(crossent.value)}, {row.comparison}"
            groups.setdefault((row.verdict.verdict, kind), []).append(f"{row.label} ({numbers})")
    for (ruling, lack), names in sorted(groups.items(), key=lambda group: RULINGS.index(group[0][0])):
        text = TOLD[lack or ruling].format(", ".join(names))
        said.append((ruling.capitalize(), where + text if not said else text[0].upper() + text[1:]))
    if not said and found.rows and not found.paired:
        first = found.rows[0]
        each = []
        for row in found.rows[:ROWS]:
            ratio = f" ({row.comparison})" if row.comparison else ""
            each.append(f"{row.label} {short(row.sides[0].value)}{ratio}")
        more = f" and {len(found.rows) - ROWS} more" if len(found.rows) > ROWS else ""
        to = f"; ratios to {first.label}" if len(each) > 1 else ""
        said.append(("Measured", f"{where}FID is: {', '.join(each)}{more}{to}."))
    if not said:
        said.append(("Not asked", where + "no claim of the paper could be judged: the study trains none of its rows."))
    return said


def decided(verdict: Verdict) -> str:
    """A decided claim in words: the claim, and the ratio or difference where it is one."""
    measured = effect(verdict, verdict.scale == "log ratio")
    return f"{verdict.text.rstrip('.')}{f': {measured}' if measured else ''}"
