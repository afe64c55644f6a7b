"""What was made by other code than today's: trainings, tokenizers and sample sets, by their code.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mar.runtime import code_digest
from mar.runtime.folders import alone
from mar.study import layout
from mar.study.products import used_tokenizers
from mar.study.study import Study

ACCEPTED = "a training, tokenizer or sample set below results/<study>/"


@dataclass(frozen=True)
class Made:
    """One result, and the code that made it.

    Attributes:
        name: its folder below the results of the study, as `runs/mar/seed0`.
        record: its code; None where nobody recorded it, as before versions that do.
        modules: the modules of its last code that are other ones today.
    """

    name: str
    record: code_digest.CodeRecord | None
    modules: tuple[str, ...]

    @property
    def said(self) -> str:
        """What is to say of it; empty where today's code, and no other, made it."""
        said = []
        if self.modules:
            said.append(f"made by other code than today's {code_digest.listed(list(self.modules))}")
        states = self.record.states if self.record else ()
        if len(states) > 1:
            of = [f"{state.digest[:12]} after {state.images or 0:,} images" for state in states]
            said.append(f"made by several codes, as accepted: {', '.join(of)}")
        if any(state.unrecorded for state in states):
            said.append("begun before its code was recorded")
        return "; ".join(said)


def made(study: Study, root: Path) -> list[Made]:
    """Every tokenizer, training and sample set of a study that is on disk, in the order of its stages."""
    now = code_digest.today(layout.own_code(root))
    found = []
    for folder in _folders(study, root):
        record = code_digest.of_folder(folder)
        modules = tuple(code_digest.changed(record, now)) if record else ()
        found.append(Made(folder.relative_to(root).as_posix(), record, modules))
    return found


def _folders(study: Study, root: Path) -> Iterator[Path]:
    """The folders that record their code, of results that are trained or drawn here, finished or not."""
    for name in used_tokenizers(study):
        folder = layout.tokenizer(root, name)
        if study.instances[name].config.trained and folder.exists() and not (folder / layout.SHIPPED).exists():
            yield folder
    trained = [(name, variant) for name, variant in study.variants.items() if variant.seeds]
    for name, variant in trained:
        for seed in variant.seeds:
            if not variant.pretrained and (folder := layout.run(root, name, seed)).exists():
                yield folder
    for name, variant in trained:
        for seed in variant.seeds:
            for setting in variant.sampling:
                if (folder := layout.samples(root, layout.sample_set(name, seed, setting))).exists():
                    yield folder


def lines(study: Study, root: Path) -> list[str]:
    """What was made by other code than today's, or by several, a line each; then how many results do not tell."""
    found = made(study, root)
    said = [f"{one.name}: {one.said}" for one in found if one.said]
    if silent := sum(one.record is None and _holds_work(root / one.name) for one in found):
        said.append(f"of {silent} results nobody recorded the code: they are of an older version")
    return said


def _holds_work(folder: Path) -> bool:
    """Whether a folder has more than what a job that just begins writes there."""
    names = (layout.WEIGHTS, layout.AVERAGE, layout.CHECKPOINTS, layout.MANIFEST)
    return any((folder / name).exists() for name in names)


def accept(folder: Path) -> str:
    """Let half-done work go on with today's code (`mar accept-code`); returns what to print.

    Raises:
        ValueError: it is no such folder, or someone works there.
    """
    from mar.runtime.checkpoint import checkpoints  # imports torch, which `mar status` needs not

    root = next((parent for parent in folder.absolute().parents if layout.study(parent).exists()), None)
    if root is None or not folder.is_dir():
        raise ValueError(f"{folder}: accepted: the folder of {ACCEPTED}")
    with alone(folder):
        index = checkpoints(folder / layout.CHECKPOINTS)
        images = index[-1].images if index else None
        modules = code_digest.accept(folder, code_digest.today(layout.own_code(root)), images)
    if not modules:
        return f"{folder}: today's code is the one that worked here last; nothing to accept"
    after = f" after {images:,} images" if images else ""
    return f"{folder}: goes on{after} with today's {code_digest.listed(modules)}; both codes are in {code_digest.CODE}"
