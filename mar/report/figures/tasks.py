"""The figure `tasks`: held-out images, what is kept of them, and four draws of each model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mar.analysis.estimates import Results
from mar.analysis.tasks import records
from mar.report.figures.style import SMALL, WIDTH, Rows, caption
from mar.runtime.files import sha256
from mar.study import layout
from mar.study.labels import label
from mar.study.records import TasksRecord
from mar.study.sections import TASKS
from mar.study.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY, WHITE, GAP = 128, 255, 1  # of masked pixels and of the ground; pixels between the pictures
CAPTION = (
    "Held-out images, each of another class; grey: what is drawn anew. Each model draws four times, with the weights "
    "of its first training seed; the first draw is the one that the table measures. Nothing is pasted back: they are "
    "as the tokenizer's decoder gives them, outside the mask too. In- and out-painting ask for no class, class change "
    "for the next one."
)


def tasks(study: Study, root: Path) -> tuple[Figure, Rows]:
    """A row for each task and image; the rows say which image and class each is.

    Raises:
        ValueError: a model has not done its tasks, or its pictures are damaged.
    """
    from matplotlib.figure import Figure

    from mar.sampling.tasks import Images, mask_of

    section, found = study.tasks, records(Results(study, root))
    assert section is not None  # whose figure it is
    images, side, rows = Images(study, root, section), study.data.image_size, Rows()
    given, drawn = list[np.ndarray](), {record.variant: list[np.ndarray]() for record in found}
    for task in TASKS:
        mask = mask_of(section, task, side).numpy()
        for place, row in enumerate(images.shown):
            whole = images.pixels[row].permute(1, 2, 0).numpy()
            given.append(_side_by_side([whole, np.where(mask[:, :, None], GREY, whole).astype(np.uint8)]))
            for record in found:
                drawn[record.variant].append(_side_by_side(_draws(root, record, task, int(row), place)))
            line = {"task": task, "image": int(row), "class": int(images.labels[row])}
            rows.append(line | {"asked": int(images.asked(task)[row]), "should_show": int(images.wanted(task)[row])})
    blocks = [("image, kept", _stacked(given))]
    blocks += [(label(study, record.variant), _stacked(drawn[record.variant])) for record in found]
    widths = [block.shape[1] for _, block in blocks]
    scale = WIDTH / (sum(widths) + 8 * side)
    figure = Figure(figsize=(WIDTH, scale * blocks[0][1].shape[0] + 0.8), layout="constrained")
    grid = figure.add_gridspec(1, len(blocks), width_ratios=widths)
    for i, (title, block) in enumerate(blocks):
        axes: Axes = figure.add_subplot(grid[0, i])
        axes.imshow(block, interpolation="antialiased")
        axes.set_title(title, fontsize=SMALL)
        axes.set_xticks([])
        step = len(images.shown) * (side + GAP)
        axes.set_yticks([(k + 0.5) * step for k in range(len(TASKS))], TASKS if i == 0 else [""] * len(TASKS))
        axes.tick_params(length=0, labelsize=SMALL)
        axes.grid(False)
        axes.spines[:].set_visible(False)
    caption(figure, CAPTION)
    return figure, rows


def _draws(root: Path, record: TasksRecord, task: str, row: int, place: int) -> list[np.ndarray]:
    """The draws of one image, (H, W, 3) each: the measured one, then the further ones."""
    folder = layout.tasks(root, record.variant, record.seed).parent
    start, found = 0, list[np.ndarray]()
    pieces = [piece for piece in record.files if piece.file.startswith(f"{task}-")]
    for piece in pieces:
        further = piece.file == f"{task}-more.npy"
        if not further and not start <= row < start + piece.count:
            start += piece.count
            continue
        if not (path := folder / piece.file).exists() or sha256(path) != piece.sha256:
            raise ValueError(f"{path}: missing, or not what {layout.TASKS} beside it says; run `mar tasks` again")
        pictures = np.load(path)
        if further:
            from mar.sampling.tasks import DRAWS

            found += [pictures[place + k * (len(pictures) // (DRAWS - 1))] for k in range(DRAWS - 1)]
        else:
            found.append(pictures[row - start])
            start += piece.count
    return found


def _side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) beside each other on white, each with a gap to its right."""
    return np.concatenate([np.pad(p, ((0, 0), (0, GAP), (0, 0)), constant_values=WHITE) for p in pictures], axis=1)


def _stacked(rows: list[np.ndarray]) -> np.ndarray:
    """Rows (H, W, 3) below each other on white, each with a gap below it."""
    return np.concatenate([np.pad(r, ((0, GAP), (0, 0), (0, 0)), constant_values=WHITE) for r in rows])
