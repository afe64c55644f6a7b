"""How often a set of images is said to recite its training images, by three rules, on real images that are known.

`python -m benchmarks.recitation [--images IDX]` prints the table of docs/evaluation.md. IDX is an idx file of images
whose labels lie beside it; without it the digits of scikit-learn are taken. Each run divides the images at random into
training images, held-out ones and n fresh ones, from which the judged sets are made:

- fresh: the fresh images as they are;
- shrunk: 10% of the way to the mean of their class, as blurred samples are;
- guided: 40% of the way, then sharpened to twice the contrast around a blur, as strong guidance does;
- few: 20 of them, each repeated with noise, as a model does that draws few different images;
- copies: a share of them replaced by training images with noise.

The rules: "mean" calls a set reciting whose mean distance to the nearest training image is below that of the held-out
images by both intervals; "equal" compares with as many training images as are held out; "all" compares with all of
them, and takes the images to be independent ("all, independent") or those with one neighbour to move together ("all",
which is `mar/metrics/copies.py`). The last three call a set reciting where the lower end is above 10%.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from mar.data import idx
from mar.metrics import copies

Arrays = tuple[np.ndarray, np.ndarray]  # images float32 (N, H, W), labels int64 (N,)
LIMIT = 0.1
NOISE = 8.0  # standard deviation of the noise on a copy, of 255


def digits() -> Arrays:
    """The digits of scikit-learn, 1,797 of 8x8."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images.astype(np.float32) * 15.9, found.target.astype(np.int64)


def of_idx(path: Path) -> Arrays:
    """Images of 28x28 in an idx file, halved in size, and the labels beside it."""
    images = idx.read(path, 3)[0].reshape(-1, 14, 2, 14, 2).mean((2, 4), dtype=np.float32)
    labels = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    return images, idx.read(labels, 1)[0].astype(np.int64)


def nearest(queries: np.ndarray, images: np.ndarray) -> Arrays:
    """Distance to the nearest image and its index, (n,); without exact comparison, which noise makes unnecessary."""
    a, b = queries.reshape(len(queries), -1), images.reshape(len(images), -1)
    squares, which, own = np.empty(len(a)), np.empty(len(a), np.int64), (b**2).sum(1)
    for start in range(0, len(a), 500):
        rows = a[start : start + 500]
        found = own - 2.0 * rows @ b.T
        which[start : start + 500] = found.argmin(1)
        squares[start : start + 500] = found.min(1) + (rows**2).sum(1)
    return np.sqrt(squares.clip(min=0.0)), which


def sharpened(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W) with twice the contrast around their 3x3 blur."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = images.shape[1:]
    blur = sum(padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9.0
    return (images + (images - blur)).clip(0, 255)


def sets(images: np.ndarray, labels: np.ndarray, train: Arrays, rng: np.random.Generator) -> Iterator[tuple]:
    """Name, true share of copies, and images of each judged set, made of fresh images (n, H, W)."""
    known = np.unique(labels)
    means = np.stack([train[0][train[1] == k].mean(0) for k in known])[np.searchsorted(known, labels)]
    guided = sharpened(0.6 * images + 0.4 * means)
    yield "fresh", 0.0, images
    yield "shrunk", 0.0, 0.9 * images + 0.1 * means
    yield "guided", 0.0, guided
    few = images[rng.integers(20, size=len(images))]
    yield "few", 0.0, few + rng.normal(0, NOISE, few.shape).astype(np.float32)
    for share in (0.1, 0.2, 0.3, 0.5):
        for name, others in (("", images), (", guided", guided)):
            if name and share != 0.3:
                continue
            count = round(share * len(images))
            copied = train[0][rng.choice(len(train[0]), count, replace=False)]
            mixed = np.concatenate([copied + rng.normal(0, NOISE, copied.shape).astype(np.float32), others[count:]])
            yield f"{share:.0%} copies{name}", share, mixed


def judged(rows: np.ndarray, train: Arrays, unseen: Arrays, held: np.ndarray, rng: np.random.Generator) -> dict:
    """By rule the lower end, the estimate and the upper end of the share of copies; of `mean` its verdict, 1 or 0."""
    m, total = len(unseen[0]), len(train[0])
    to_train, which = nearest(rows, train[0])
    to_unseen, index = nearest(rows, unseen[0])
    errors = [x.std() / math.sqrt(len(x)) * copies.Z for x in (to_train, held)]
    recites = float(to_train.mean() + errors[0] < held.mean() - errors[1])
    found = {"mean": (recites, recites, recites)}
    part = rng.choice(total, m, replace=False)
    near, _ = nearest(rows, train[0][part])
    estimate, error = 2 * (near <= to_unseen).mean() - 1, 1 / math.sqrt(len(rows))
    found["equal"] = (estimate - copies.Z * error, estimate, estimate + copies.Z * error)
    seen = to_train <= to_unseen
    neighbour = np.where(seen, which, total + index)
    expected = np.full(len(rows), total / (total + m))
    for rule, who in (("all, independent", np.arange(len(rows))), ("all", neighbour)):
        estimate, error = copies.share(who, seen.astype(float), expected)
        found[rule] = (estimate - copies.Z * error, estimate, estimate + copies.Z * error)
    return found


def simulated(data: Arrays, counts: tuple[int, int, int], runs: int, seed: int = 0) -> dict[str, dict[str, list]]:
    """By set and rule, of each run: whether the set is called reciting, whether the interval has the truth, estimate.

    Args:
        data: all images and labels.
        counts: training images, held-out ones and fresh ones.
        runs: how often the images are divided.
        seed: seed of all draws.
    """
    table: dict[str, dict[str, list]] = {}
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        order = rng.permutation(len(data[0]))[: sum(counts)]
        ends = np.cumsum(counts)
        train, unseen, fresh = ((data[0][rows], data[1][rows]) for rows in np.split(order, ends[:-1]))
        held = nearest(unseen[0], train[0])[0]
        for name, truth, rows in sets(*fresh, train, rng):
            for rule, (low, estimate, high) in judged(rows, train, unseen, held, rng).items():
                row = table.setdefault(name, {}).setdefault(rule, [])
                row.append((low > LIMIT, low <= truth <= high, estimate))
    return table


def lines(table: dict[str, dict[str, list]]) -> Iterator[str]:
    """The table in Markdown: how often a set is called reciting; of the rule `all` estimate and coverage too."""
    rules = list(next(iter(table.values())))
    yield "| set | " + " | ".join(rules) + " | estimate | coverage |"
    yield "|---" * (len(rules) + 3) + "|"
    for name, row in table.items():
        means = {rule: np.mean(np.array(values, float), axis=0) for rule, values in row.items()}
        called = " | ".join(f"{means[rule][0]:.0%}" for rule in rules)
        yield f"| {name} | {called} | {means['all'][2]:.2f} | {means['all'][1]:.0%} |"


@click.command(help=__doc__)
@click.option("--images", type=click.Path(path_type=Path, exists=True), help="idx file of images; default: digits")
@click.option("--runs", default=40)
def main(images: Path | None, runs: int) -> None:
    """Print the table."""
    data = of_idx(images) if images else digits()
    counts = (20_000, 5_000, 2_000) if images else (800, 500, 400)
    print(f"{counts[0]} training images, {counts[1]} held out, sets of {counts[2]}, {runs} runs")
    for line in lines(simulated(data, counts, runs)):
        print(line)


if __name__ == "__main__":
    main()
