"""Reading ahead: worker processes decode the next images while a network works on the present ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

WORKER_IMAGES = 500  # one worker process for so many images: for fewer, starting it takes longer than it saves

T = TypeVar("T")


def read_ahead(read: Callable[[T], np.ndarray], items: Sequence[T], workers: int) -> Iterator[np.ndarray]:
    """Yield `read(item)` for each item, in order, computed by `workers` processes that stay two results ahead each.

    With 0 workers this process computes them, which is faster for few images and for images in memory.

    Raises:
        ValueError: `read` raised it in a worker.
    """
    if not workers:
        yield from map(read, items)
        return
    from torch.utils.data import DataLoader

    settings: dict[str, Any] = {"multiprocessing_context": "fork", "prefetch_factor": 2, "collate_fn": _unchanged}
    results: Any = _Items(read, items)
    for result in DataLoader(results, batch_size=None, num_workers=workers, **settings):
        if isinstance(result, ValueError):
            raise result
        yield result


class _Items(Generic[T]):
    """The results as a data set of torch's loader.

    They are arrays, which pass through a pipe; tensors would pass through shared memory, which may be small in a
    container. An error is passed on as a value: if it were raised in a worker, the loader would wrap its message in a
    traceback.
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


def _unchanged(result: Any) -> Any:
    return result
