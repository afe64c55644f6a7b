"""Step 3 of an evaluation: features, logits and statistics to numbers. Intervals: mar.metrics.bootstrap.

Everything in float64 with numpy, so that a number needs no torch; that the numbers are torch-fidelity's and clean-fid's
is pinned by tests. The generated set is always the first argument and the real one the second, as in torch-fidelity
0.4.0; swapping them swaps precision and recall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from scipy.special import log_softmax, xlogy

from mar.metrics.moments import Statistics

SEED = 2020  # torch-fidelity's, of its shuffle and of its subsets
BLOCK = 500  # images at a time that are compared with all others
ADM_SPLIT = 5000  # images in a split of ADM's Inception score
COPIES = 1e-12  # squared distance, as a share of the squared norms, below which two images are the same one
PAIRS = 200  # of images, whose differences are held at a time
Exact = Callable[[np.ndarray, np.ndarray], np.ndarray]


def fid(generated: Statistics, real: Statistics) -> float:
    """Frechet distance of two Gaussians (Heusel et al. 2017); of Inception's `spatial` features it is sFID.

    |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2), by eigenvalues of a symmetric matrix, which are ten times as
    fast as those of S1 S2 that torch-fidelity takes.
    """
    return frechet(generated, real, symmetric_root(real["sigma"]))


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """Square root of a symmetric positive semi-definite matrix (F, F)."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T)


def frechet(generated: Statistics, real: Statistics, real_root: np.ndarray) -> float:
    """FID with the square root of the real covariance given, where many sets have the same."""
    middle = np.linalg.eigvalsh(real_root @ generated["sigma"] @ real_root)
    difference = generated["mu"] - real["mu"]
    traces = np.trace(generated["sigma"]) + np.trace(real["sigma"])
    return float(difference @ difference + traces - 2.0 * np.sqrt(middle.clip(min=0.0)).sum())


def inception_score(logits: np.ndarray) -> float:
    """Inception score of logits (n, K) (Salimans et al. 2016) by torch-fidelity's rule: ten shuffled splits."""
    return float(np.mean([split_score(logits[rows]) for rows in shuffled_splits(len(logits))]))


def shuffled_splits(n: int, splits: int = 10) -> list[np.ndarray]:
    """The rows of each of torch-fidelity's splits; with fewer images than splits, one image a split."""
    splits = min(splits, n)  # an empty split would be no number
    order = np.random.RandomState(SEED).permutation(n)
    return [order[i * n // splits : (i + 1) * n // splits] for i in range(splits)]


def split_score(logits: np.ndarray) -> float:
    """exp(mean KL(p(y|x) || p(y))) of the logits (n, K) of one split."""
    probabilities, negentropies = probabilities_of(logits)
    mean = probabilities.mean(0)
    return float(np.exp(negentropies.mean() - xlogy(mean, mean).sum()))


def probabilities_of(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p(y|x) of logits (n, K), and the sum of p log p of each row (n,)."""
    logarithms = log_softmax(logits.astype(np.float64), axis=1)
    probabilities = np.exp(logarithms)
    return probabilities, (probabilities * logarithms).sum(1)


def ordered_inception_score(logits: np.ndarray, labels: np.ndarray | None, size: int = ADM_SPLIT) -> float:
    """Inception score by ADM's rule: consecutive splits of 5000 in the order of the file.

    The last split may be shorter and counts the same. ADM takes the logits without their bias. A split of a set that
    is sorted by class holds few classes and scores low, so a sorted order is refused: one whose class changes from
    image to image less than half as often as after a shuffle, or whose splits hold less than half as many classes.

    Args:
        logits: (n, K), without bias.
        labels: classes of the images in this order, (n,); None if nobody knows them, then nothing is checked.
        size: images per split.

    Raises:
        ValueError: the order is sorted by class.
    """
    n = len(logits)
    if labels is not None:
        refuse_sorted(labels, size)
    return float(np.mean([split_score(logits[start : start + size]) for start in range(0, n, size)]))


def refuse_sorted(labels: np.ndarray, size: int = ADM_SPLIT) -> None:
    """Refuse an order of images by their classes (n,) that is sorted; raises as `ordered_inception_score`."""
    found, shuffled = class_changes(labels)
    if found < 0.5 * shuffled:
        raise ValueError(
            f"the class changes {found} times along the order of {len(labels)} images, after a shuffle about "
            f"{shuffled:.0f} times: the set is sorted by class; accepted for an Inception score of consecutive splits: "
            "at least half as many changes; shuffle the images with their labels"
        )
    held, expected = classes_of_splits(labels, size)
    if held < 0.5 * expected:  # as where sorted parts of several processes were written in turn
        raise ValueError(
            f"a split of {size} of {len(labels)} images holds {held:.0f} classes, after a shuffle about "
            f"{expected:.0f}: the set is sorted by class; accepted for an Inception score of consecutive splits: at "
            "least half as many; shuffle the images with their labels"
        )


def classes_of_splits(labels: np.ndarray, size: int) -> tuple[float, float]:
    """How many classes (n,) a consecutive split holds in the mean, and how many after a shuffle, nearly."""
    starts, sizes = range(0, len(labels), size), np.unique(labels, return_counts=True)[1]
    held = np.mean([len(np.unique(labels[start : start + size])) for start in starts])
    shares = [min(size, len(labels) - start) / len(labels) for start in starts]
    return float(held), float(np.mean([(1 - (1 - share) ** sizes).sum() for share in shares]))


def class_changes(labels: np.ndarray) -> tuple[int, float]:
    """How often the class (n,) changes from one image to the next, and how often after a shuffle, on average."""
    n = len(labels)
    sizes = np.unique(labels, return_counts=True)[1].astype(np.float64)
    return int((labels[1:] != labels[:-1]).sum()), float(n - (sizes**2).sum() / n)  # (n-1) (1 - sum s(s-1)/(n(n-1)))


def precision_recall(generated: np.ndarray, real: np.ndarray, neighbours: int) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019) of features (n, F), (m, F)."""
    return float(inside(generated, real, neighbours).mean()), float(inside(real, generated, neighbours).mean())


def inside(points: np.ndarray, centres: np.ndarray, neighbours: int, kept: np.ndarray | None = None) -> np.ndarray:
    """Which points (N, F) lie within the ball of any centre (M, F).

    The radius of a centre is its distance to its k-th nearest other centre; a point on the sphere lies within. The mean
    over generated points and real centres is the precision, over real points and generated centres the recall.

    Args:
        points: asked about.
        centres: of the balls.
        neighbours: k.
        kept: bool (R, M): R subsets of the centres, each about half of them, which have radii of their own.

    Returns:
        bool (N,), or (R, N) of the subsets.

    Raises:
        ValueError: not more centres than k.
    """
    if len(centres) <= neighbours:
        raise ValueError(f"precision and recall: {len(centres)} images in a set; accepted: more than k {neighbours}")
    if kept is None:
        radii = nearest_others(centres, neighbours)[0][None, :, -1]  # (1, M)
    else:
        # half of them being kept, the k-th kept one is among so many but for one case in a billion
        distances, which = nearest_others(centres, min(8 * neighbours + 16, len(centres) - 1))
        radii = np.full(kept.shape, -1.0)  # (R, M); a centre that is not kept has no ball
        for row, keep in zip(radii, kept, strict=True):
            place = (keep[which].cumsum(1) < neighbours).sum(1).clip(max=which.shape[1] - 1)
            row[keep] = distances[np.arange(len(centres)), place][keep]
    found = np.zeros((len(radii), len(points)), bool)
    largest = radii.max(0)
    for start, rough, slack, exact in _distances(points, centres):
        point, centre = np.nonzero(rough <= largest.astype(np.float32) + slack)
        pairs, doubt = rough[point, centre].astype(np.float64), np.zeros(len(point), bool)
        for radius in radii:
            doubt |= np.abs(pairs - radius[centre]) <= slack[point, 0]
        pairs[doubt] = exact(point[doubt], centre[doubt])
        for row, radius in zip(found, radii, strict=True):
            row[start + point[pairs <= radius[centre]]] = True
    return found[0] if kept is None else found


def nearest_others(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances (N, count), ascending, from each point (N, F) to its nearest others, and which those are."""
    distances, which = np.empty((len(points), count)), np.empty((len(points), count), np.int64)
    for start, rough, slack, exact in _distances(points, points):
        rows = slice(start, start + len(rough))
        rough[np.arange(len(rough)), np.arange(rows.start, rows.stop)] = np.inf  # itself is no other
        last = np.partition(rough, count - 1, axis=1)[:, count - 1 : count]
        point, other = np.nonzero(rough <= last + 2 * slack)  # the nearest are among them
        squared = exact(point, other)
        order = np.lexsort((squared, point))
        firsts = np.searchsorted(point, np.arange(len(rough)))
        nearest = order[firsts[:, None] + np.arange(count)]
        which[rows], distances[rows] = other[nearest], squared[nearest]
    return distances, which


def _distances(here: np.ndarray, there: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray, Exact]]:
    """Squared distances of all pairs in float32, which takes half as long as float64, block by block.

    Yields:
        The first row of a block; distances (B, M) of its rows; by how much these may be off, (B, 1), the bound of
        rounding errors that holds in whatever order products are summed; and a function that gives the distances of
        pairs (row of the block, row of `there`) in float64, of copies exactly 0.
    """
    centre = there.mean(0, dtype=np.float64)  # around it norms, and errors with them, are smallest
    others = (there - centre).astype(np.float32)
    spread, norms = _norms(others).astype(np.float32), _norms(there)
    for start in range(0, len(here), BLOCK):
        rows = here[start : start + BLOCK]
        moved = (rows - centre).astype(np.float32)
        own = _norms(moved).astype(np.float32)[:, None]
        rough = (-2.0 * moved) @ others.T
        rough += spread
        rough += own
        exact = partial(_exact_distances, rows, there, _norms(rows), norms)
        yield start, rough, (here.shape[1] + 32) * 2.0**-23 * (own + spread.max()), exact


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [np.square(part, dtype=np.float64).sum(1) for part in np.split(rows, range(BLOCK, len(rows), BLOCK))]
    )


def _exact_distances(
    here: np.ndarray, there: np.ndarray, own: np.ndarray, norms: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Squared distances of the pairs here[first], there[second] with squared norms own and norms."""
    scale = own[first] + norms[second]
    if len(first) * 32 > len(here) * len(there):  # so many pairs are faster by all
        squared = scale - 2.0 * (here.astype(np.float64) @ there.astype(np.float64).T)[first, second]
    else:
        squared = np.empty(len(first))
        for start in range(0, len(first), PAIRS):
            some = slice(start, start + PAIRS)
            away = np.subtract(here[first[some]], there[second[some]], dtype=np.float64)
            squared[some] = np.einsum("pf,pf->p", away, away)
    squared[squared < COPIES * scale] = 0.0
    return squared


def kid(generated: np.ndarray, real: np.ndarray, subsets: int = 100, size: int = 1000) -> np.ndarray:
    """Squared maximum mean discrepancy of each subset of features (n, F), (m, F); their mean is KID.

    Binkowski et al. 2018: kernel (x.y / F + 1)^3, unbiased, subsets without replacement, by torch-fidelity's draws.
    Where a set has fewer images than `size`, the subsets have as many as the smaller set.

    Returns:
        float64 (subsets,).

    Raises:
        ValueError: a set of fewer than two images.
    """
    size = min(size, len(generated), len(real))
    if size < 2:
        raise ValueError(f"KID of {len(generated)} and {len(real)} images; accepted: at least 2 of each")
    rng = np.random.RandomState(SEED)
    draws = [[rng.choice(len(x), size, replace=False) for x in (generated, real)] for _ in range(subsets)]
    first, second = (np.stack(rows) for rows in zip(*draws, strict=True))  # (S, size)
    x, y = generated.astype(np.float64), real.astype(np.float64)
    within = _kernel_sums(x, x, first, first) - kernel_diagonal(x)[first].sum(1)
    within += _kernel_sums(y, y, second, second) - kernel_diagonal(y)[second].sum(1)
    return np.asarray(within / (size * (size - 1)) - 2.0 * _kernel_sums(x, y, first, second) / size**2)


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KID's kernel of features (n, F) and (m, F): (n, m)."""
    base = x @ y.T
    base /= x.shape[1]
    base += 1.0
    return np.asarray(base * base * base)


def kernel_diagonal(x: np.ndarray) -> np.ndarray:
    """KID's kernel of each feature vector (n, F) with itself: (n,)."""
    return np.asarray(((x**2).sum(1) / x.shape[1] + 1.0) ** 3)


def _kernel_sums(x: np.ndarray, y: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sum of the kernel over first[s] x second[s] for each subset s: (S,)."""
    if len(x) * len(y) > first.size * second.shape[1]:  # the kernels of the subsets are fewer than all
        return np.array([kernel(x[rows], y[columns]).sum() for rows, columns in zip(first, second, strict=True)])
    a, b = np.zeros((len(first), len(x))), np.zeros((len(second), len(y)))
    np.put_along_axis(a, first, 1.0, 1)
    np.put_along_axis(b, second, 1.0, 1)
    sums = np.zeros(len(first))
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        sums += ((a[:, rows] @ kernel(x[rows], y)) * b).sum(1)
    return sums
