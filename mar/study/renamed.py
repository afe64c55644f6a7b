"""Keys of a study that are called otherwise now: for one release the old name is read, with a warning."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mar.study.mistakes import Mistake, MistakesError


class Renamed(NamedTuple):
    """A key that has a new name.

    Attributes:
        place: the keys that lead to the old one, which is the last; `*` is any name, as ("recipes", "*", "lr").
        name: what it is called now.
        release: the release that calls it so first, which still reads the old name. The next one does not.
    """

    place: tuple[str, ...]
    name: str
    release: str


RENAMED: tuple[Renamed, ...] = ()  # none since the first release


def new_names(values: dict[str, Any], source: Path, renamed: tuple[Renamed, ...] | None = None) -> dict[str, Any]:
    """The mapping of a study file with today's names of its keys; each old one is told on stderr.

    Args:
        values: the mapping of one file, before it is merged with the one that it extends.
        source: the file.
        renamed: the keys that have new names; None for those of this release.

    Raises:
        MistakesError: a mapping has the old name and the new one.
    """
    values = copy.deepcopy(values)
    for key in RENAMED if renamed is None else renamed:
        for place in list(_places(values, key.place)):
            holder = functools.reduce(lambda mapping, name: mapping[name], place[:-1], values)
            if key.name in holder:
                said = f"is called {key.name} now, and both are there; accepted: one of them"
                raise MistakesError([Mistake(place, said, place)])
            said = f"is called {key.name} since {key.release}; the next release refuses the old name"
            print(f"{source}: {'.'.join(place)}: {said}", file=sys.stderr, flush=True)
            items = [(key.name if name == place[-1] else name, value) for name, value in holder.items()]
            holder.clear()
            holder.update(items)
    return values


def _places(values: Any, pattern: tuple[str, ...], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every place in a mapping that fits the pattern."""
    if not isinstance(values, dict):
        return
    for name in list(values) if pattern[0] == "*" else [pattern[0]] if pattern[0] in values else []:
        if len(pattern) == 1:
            yield (*before, name)
        else:
            yield from _places(values[name], pattern[1:], (*before, name))
