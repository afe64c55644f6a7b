"""Which code made a result: a digest of the syntax tree of each module, in code.json beside recipe.json.

A change of comments, docstrings or layout changes no digest. The digests stand in no stage key, so that an edit alone
makes nothing anew; but work that is half done does not go on under other code without a word (`guard`).
"""

from __future__ import annotations

import ast
import hashlib
import sys
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt

from mar.runtime.files import Part, Record, Sha256, read, write
from mar.runtime.provenance import git_commit

CODE = "code.json"  # beside recipe.json
# What changes weights, tokens and images, below mar/: packages, and of `runtime` the random numbers and number types.
MAKES = ("models", "tokenizers", "training", "data", "sampling", "runtime/noise.py", "runtime/precision.py")
PACKAGE = Path(__file__).resolve().parents[1]
OWN = "code/"  # what the names of a study's own modules begin with
SHOWN = 8  # modules that one message names, at most

Digests = Mapping[str, str]  # digest of each module, by its name, as `mar.models.heads.mixture` or `code/mine.py`


class State(Part):
    """The code that worked in a folder from a moment on.

    Attributes:
        time: when it began to, local time with its offset.
        git_commit: its commit.
        modules: digest of each module that it imported.
        unrecorded: whether the folder held work already that nobody had recorded the code of.
        images: images that a training had seen before `mar accept-code` let it go on with this code.
    """

    time: str
    git_commit: str
    modules: dict[str, Sha256]
    unrecorded: bool = False
    images: NonNegativeInt | None = None

    @property
    def digest(self) -> str:
        """One checksum of all modules."""
        lines = "".join(f"{name} {digest}\n" for name, digest in sorted(self.modules.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


class CodeRecord(Record):
    """code.json: the code that made the content of a folder: one state, and one more for each `mar accept-code`."""

    states: tuple[State, ...] = Field(min_length=1)


def digest_of(source: str) -> str:
    """Digest of the syntax tree of a module, without comments and docstrings."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # no stage can import it; someone may be editing it
        return hashlib.sha256(source.encode()).hexdigest()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str:
                del node.body[0]
    return hashlib.sha256(_text(tree).encode()).hexdigest()


def _text(value: Any) -> str:
    """A syntax tree as text. Empty fields are left out: versions of Python differ in which of them a node has."""
    if isinstance(value, ast.AST):
        fields = [(key, one) for key, one in ast.iter_fields(value) if one not in (None, []) and key != "kind"]
        return f"{type(value).__name__}({','.join(f'{key}={_text(one)}' for key, one in fields)})"
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list) else repr(value)


def today(own: Path) -> dict[str, str]:
    """Digest of every module that can make a result, as it is on disk now.

    Args:
        own: folder of the study's own modules, which may be missing.
    """
    places = [PACKAGE / name for name in MAKES]
    files = [file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place])]
    names = {".".join(("mar", *file.relative_to(PACKAGE).with_suffix("").parts)): file for file in files}
    names = {name.removesuffix(".__init__"): file for name, file in names.items()}
    names |= {f"{OWN}{file.relative_to(own).as_posix()}": file for file in own.rglob("*.py")}
    return {
        name: _of_file(names[name], (stat := names[name].stat()).st_mtime_ns, stat.st_size) for name in sorted(names)
    }


@cache
def _of_file(file: Path, _time: int, _size: int) -> str:
    """Digest of a file, which is read again when its time or size changes."""
    return digest_of(file.read_text(encoding="utf-8", errors="replace"))


def changed(record: CodeRecord, now: Digests) -> list[str]:
    """The modules that worked in a folder last and are other ones now, or gone."""
    return sorted(name for name, digest in record.states[-1].modules.items() if now.get(name) != digest)


def of_folder(folder: Path) -> CodeRecord | None:
    """The code that made the content of a folder; None where nobody recorded it.

    Raises:
        ValueError: code.json is damaged.
    """
    return read(folder / CODE, CodeRecord) if (folder / CODE).exists() else None


def guard(folder: Path, now: Digests, begun: bool) -> None:
    """Refuse to go on with work that other code began. Call it under the lock of the folder, before anything is made.

    Args:
        folder: the folder, claimed for its recipe.
        now: what the code is now (`today`), read before the stage imports more of it.
        begun: whether the folder holds unfinished work of its recipe.

    Raises:
        ValueError: it does, and a module that worked on it is another one now.
    """
    if not begun:
        (folder / CODE).unlink(missing_ok=True)
        return
    record = of_folder(folder)
    if record and (modules := changed(record, now)):
        raise ValueError(
            f"{folder}: is half done by other code than today's: {listed(modules)}; accepted: the code that began it, "
            f"or `mar accept-code {folder}` (goes on, both codes are recorded), or `mar restart {folder}` (moves it "
            "aside and begins anew)"
        )


def listed(modules: list[str]) -> str:
    """The first names of changed modules."""
    more = f" and {len(modules) - SHOWN} more" if len(modules) > SHOWN else ""
    return ", ".join(modules[:SHOWN]) + more


def note(folder: Path, now: Digests, own: Path, begun: bool = False) -> None:
    """Record the modules that this process has imported so far, beside those that other workers have.

    Args:
        folder: the folder of the result; call it under its lock.
        now: what the code was when this process began (`today`): an edit since then did not work here.
        own: folder of the study's own modules.
        begun: whether the folder held work before this process came.
    """
    record = of_folder(folder)
    modules = {name: now[name] for name in _imported(own) if name in now}
    if record is None:
        state = _state(modules)
        states: tuple[State, ...] = (state.model_copy(update={"unrecorded": True}) if begun else state,)
    else:
        last = record.states[-1]
        if not modules.keys() - last.modules.keys():
            return
        states = (*record.states[:-1], last.model_copy(update={"modules": last.modules | modules}))
    write(folder / CODE, CodeRecord(states=states))


def _imported(own: Path) -> Iterable[str]:
    """Names of the modules that this process has imported, as `today` has them."""
    home = own.resolve()
    for name, module in list(sys.modules.items()):
        if name.startswith("mar."):
            yield name
        elif (file := getattr(module, "__file__", None)) and Path(file).resolve().is_relative_to(home):
            yield f"{OWN}{Path(file).resolve().relative_to(home).as_posix()}"


def accept(folder: Path, now: Digests, images: int | None = None) -> list[str]:
    """Let half-done work go on with today's code, and record both; returns the modules that changed.

    Call it under the lock of the folder.

    Raises:
        ValueError: nobody recorded the code that began it, or a module is gone.
    """
    record = of_folder(folder)
    if record is None:
        raise ValueError(f"{folder / CODE}: missing; accepted: the folder of a training, tokenizer or sample set")
    modules = changed(record, now)
    kept = {name: now[name] for name in record.states[-1].modules if name in now}
    if modules:
        state = _state(kept)
        if images is not None:
            state = state.model_copy(update={"images": images})
        write(folder / CODE, CodeRecord(states=(*record.states, state)))
    return modules


def _state(modules: dict[str, str]) -> State:
    return State(time=time.strftime("%Y-%m-%dT%H:%M:%S%z"), git_commit=git_commit(), modules=modules)
