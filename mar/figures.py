"""Figures of a study: curves of quality (`mar/curves.py`), sweeps (`mar/heatmaps.py`), samples, losses; PDF, PNG, CSV.

Files carry no dates, so drawing again from the same numbers gives the same bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mar.config import Study
from mar.curves import COLOURS, LINES, SMALL, WIDTH, Rows, diffusion_steps, temperature, tradeoff
from mar.files import atomic, read_json, write_text
from mar.heatmaps import sweep
from mar.track import read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS, CLASSES, SIDE = 8, 10, 64  # of a grid: images a class, classes at most, pixels an image at most

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType: text stays text in the PDF
    "figure.dpi": 200,
}


LOSSES = {
    "categorical": "cross-entropy (nats a token)",
    "diffusion": "Diffusion Loss",
    "mse": "mean squared error",
    "mixture": "normal mixture (nats a token)",
    "joint": "DiT's diffusion loss",
}


def draw(study: Study, root: Path, name: str, out: Path) -> None:
    """Write <out>/<name>.{pdf,png,csv}.

    Args:
        study: the study.
        root: its results folder.
        name: tradeoff, diffusion_steps, temperature, sweep, samples or losses.
        out: folder of the figure files.

    Raises:
        ValueError: the name is another one, or a file that the figure shows is missing.
    """
    figures: dict[str, Callable[[Study, Path], tuple[Figure, Rows]]] = {
        "tradeoff": tradeoff,
        "diffusion_steps": diffusion_steps,
        "temperature": temperature,
        "sweep": sweep,
        "samples": samples,
        "losses": losses,
    }
    if name not in figures:
        raise ValueError(f"figure {name!r}: accepted: {', '.join(figures)}")
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure, rows = figures[name](study, Path(root))
        for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
            with atomic(out / f"{name}.{suffix}") as path:
                figure.savefig(path, format=suffix, metadata=metadata)
    text = io.StringIO()
    keys = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / f"{name}.csv", text.getvalue())
    print(f"{out / name}.pdf, .png, .csv: {len(rows)} rows", flush=True)


def samples(study: Study, root: Path) -> tuple[Figure, Rows]:
    """A grid of samples per trained variant, a row a class, beside held-out real images."""
    from matplotlib.figure import Figure

    names = read_json(root / "data" / "manifest.json")["classes"][:CLASSES]
    images, labels = real(study, root, len(names))
    blocks, rows = [("real, held out", grid(images, labels, len(names)))], []
    for variant, v in study.variants.items():
        if not v.seeds:
            continue
        setting = shown_setting(study, variant)
        block, chosen = sample_grid(root, variant, v.seeds[0], setting, len(names))
        blocks.append((f"{variant}\n{setting}, seed {v.seeds[0]}", block))
        for row, column, index in chosen:
            line = {"variant": variant, "seed": v.seeds[0], "setting": setting, "class": names[row]}
            rows.append(line | {"column": column, "image": index})
    across = min(4, len(blocks))
    down = -(-len(blocks) // across)
    height = WIDTH / 4 * len(names) / COLUMNS + 0.4
    figure = Figure(figsize=(WIDTH / 4 * across, height * down), layout="constrained")
    for i, (title, block) in enumerate(blocks):
        axes: Axes = figure.add_subplot(down, across, i + 1)
        axes.imshow(block, interpolation="antialiased")
        side = block.shape[0] / len(names)
        axes.set_yticks(
            [(row + 0.5) * side for row in range(len(names))], names if i % across == 0 else [""] * len(names)
        )
        axes.set_xticks([])
        axes.tick_params(length=0, labelsize=SMALL)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_title(title, fontsize=SMALL)
    return figure, rows


def losses(study: Study, root: Path) -> tuple[Figure, Rows]:
    """Training loss, smoothed, a line per variant and seed; a panel per head, since their losses do not compare."""
    from matplotlib.figure import Figure

    trained = [(v, s) for v, variant in study.variants.items() for s in variant.seeds if not variant.pretrained]
    kinds = sorted({study.heads[study.variants[v].head].kind for v, _ in trained})
    across = min(len(kinds), 2) or 1
    down = -(-len(kinds) // across) or 1
    figure, rows = Figure(figsize=(WIDTH / 2 * across, 2.9 * down), layout="constrained"), []
    for panel, kind in enumerate(kinds):
        axes: Axes = figure.add_subplot(down, across, panel + 1)
        variants = list(dict.fromkeys(v for v, _ in trained if study.heads[study.variants[v].head].kind == kind))
        for i, variant in enumerate(variants):
            for j, seed in enumerate(study.variants[variant].seeds):
                path = root / "runs" / variant / f"seed{seed}" / "metrics.jsonl"
                lines = [line for line in read(path) if "loss" in line]
                if not lines:
                    raise ValueError(f"{path}: missing or empty; run the train stage of {variant}, seed {seed}")
                curve = smooth([line["loss"] for line in lines])
                images = [line["images"] for line in lines]
                # more variants than colours: the second round is drawn broken
                style: dict[str, Any] = {
                    "color": COLOURS[i % len(COLOURS)],
                    "linestyle": LINES[i // len(COLOURS) % len(LINES)],
                }
                axes.plot(images, curve, **style, linewidth=1.2 if j == 0 else 0.7, label=None if j else variant)
                head = {"variant": variant, "seed": seed}
                for line, value in zip(lines, curve, strict=True):
                    rows.append(head | {"images": line["images"], "loss": line["loss"], "smoothed": value})
        axes.set_title(LOSSES[kind], loc="left")
        axes.set_xlabel("images seen")
        axes.set_ylabel("training loss")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
        axes.legend(fontsize=SMALL)
    said = ["smoothed over neighbouring log lines; further seeds drawn thin"] if trained else ["no training"]
    imported = [name for name, variant in study.variants.items() if variant.pretrained and variant.seeds]
    said += [f"weights imported, not trained: {', '.join(imported)}"] if imported else []
    figure.supxlabel("\n".join(said), fontsize=SMALL, color="#444444")
    if not rows:
        rows = [{"variant": name} for name in imported]
    return figure, rows


def shown_setting(study: Study, variant: str) -> str:
    """The setting whose samples stand for a variant: its last guided one, else its last."""
    settings = study.variants[variant].sampling
    guided = [s for s in settings if study.sampling[s].points[-1].guidance > 1]
    return (guided or list(settings))[-1]


def sample_grid(
    root: Path, variant: str, seed: int, setting: str, classes: int
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Grid of the first images of each class of a sample set, and (row, column, image index) of what it shows.

    Raises:
        ValueError: the samples are missing.
    """
    folder = root / "samples" / variant / f"seed{seed}" / setting
    manifest = read_json(folder / "manifest.json")
    labels = np.load(folder / "labels.npy")
    wanted = [np.flatnonzero(labels == c)[:COLUMNS] for c in range(classes)]
    chunks, start, images = manifest["chunks"], 0, {}
    for chunk in chunks:  # mmap: only the pages of the shown images are read
        pixels = np.load(folder / chunk["file"], mmap_mode="r")  # (n, H, W, 3)
        for index in np.concatenate(wanted):
            if start <= index < start + chunk["count"]:
                images[int(index)] = np.asarray(pixels[index - start])
        start += chunk["count"]
    chosen = [(row, column, int(i)) for row, found in enumerate(wanted) for column, i in enumerate(found)]
    pictures = np.stack([images[i] for _, _, i in chosen])
    return grid(pictures, np.array([row for row, _, _ in chosen]), classes), chosen


def grid(images: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Images (N, H, W, 3) uint8 as one picture: a row a class, COLUMNS images a row, white where there are fewer."""
    from PIL import Image

    side = min(images.shape[1], SIDE)
    picture = np.full((classes * (side + 1), COLUMNS * (side + 1), 3), 255, np.uint8)
    for row in range(classes):
        for column, image in enumerate(images[labels == row][:COLUMNS]):
            if image.shape[0] != side:
                image = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BOX))
            top, left = row * (side + 1), column * (side + 1)
            picture[top : top + side, left : left + side] = image
    return picture


def real(study: Study, root: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The first held-out images of each class, (N, H, W, 3) uint8, and their labels."""
    from mar.data.images import open_split

    held = open_split(study, root, "heldout")
    chosen = np.concatenate([np.flatnonzero(held.labels == c)[:COLUMNS] for c in range(classes)])
    return held.arrays(chosen), held.labels[chosen]


def smooth(values: Iterable[float]) -> list[float]:
    """Running mean over a window of a twentieth of the curve, centred, shorter at the ends."""
    series = np.asarray(list(values), float)
    half = max(len(series) // 40, 1)
    return [float(series[max(0, i - half) : i + half + 1].mean()) for i in range(len(series))]
