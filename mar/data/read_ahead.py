"""Reading ahead: worker processes read and decode what comes next while a network works on what came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

WORKER_IMAGES = 500  # images that are worth starting a process for

T = TypeVar("T")


def read_ahead(read: Callable[[T], np.ndarray], items: Sequence[T], workers: int) -> Iterator[np.ndarray]:
    """What `read` makes of each item, in their order, made by `workers` processes, which keep two each in store.

    With 0 workers it is made in this process, which is faster for few or for ready images.

    Raises:
        ValueError: as `read` does.
    """
    if not workers:
        yield from map(read, items)
        return
    from torch.utils.data import DataLoader

    settings: dict[str, Any] = {"multiprocessing_context": "fork", "prefetch_factor": 2, "collate_fn": _same}
    made: Any = _Items(read, items)
    for found in DataLoader(made, batch_size=None, num_workers=workers, **settings):
        if isinstance(found, ValueError):
            raise found
        yield found


class _Items(Generic[T]):
    """Arrays, handed over through a pipe: the shared memory of a container, where tensors would go, may be small.

    An error is handed over as a value: raised in a worker, the loader would wrap a traceback around its message.
    """

    def __init__(self, read: Callable[[T], np.ndarray], items: Sequence[T]) -> None:
        self.read, self.items = read, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> np.ndarray | ValueError:
        try:
            return self.read(self.items[number])
        except ValueError as error:
            return error


def _same(found: Any) -> Any:
    return found
