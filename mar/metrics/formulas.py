"""Step 3 of an evaluation: the metrics as functions of features, logits and statistics, without intervals.

All results are float64 by numpy, without torch; tests hold them to the values of torch-fidelity and clean-fid. As in
torch-fidelity 0.4.0, the generated set is always the first argument and the real set the second; swapping them swaps
precision and recall.

*Symbols.* n generated and m real images, F features for each image, K classes of logits. Intervals are computed in
`mar/metrics/bootstrap.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from scipy.special import log_softmax, xlogy

from mar.metrics.moments import Statistics

SEED = 2020  # torch-fidelity's seed of the shuffle (Inception score) and of the subsets (KID)
BLOCK = 500  # images that are compared with all others at a time
ADM_SPLIT = 5000  # images in each split of ADM's Inception score
COPIES = 1e-12  # images are copies if their squared distance is below this share of the sum of their squared norms
PAIRS = 200  # pairs of images whose differences are in memory at a time
REACHES = 8192  # pairs of images that are held against all balls at a time
Exact = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rows of pairs (P,), (P,) -> squared distances (P,)


def fid(generated: Statistics, real: Statistics) -> float:
    """Frechet distance of two Gaussians with means mu1, mu2 and covariances S1, S2 (FID: Heusel et al. 2017).

    |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2), which for Inception's `spatial` features is sFID. tr sqrt(S1 S2)
    is the sum of the square roots of the eigenvalues of the symmetric matrix sqrt(S2) S1 sqrt(S2); they take a tenth of
    the time of the eigenvalues of S1 S2 itself, which torch-fidelity computes.
    """
    return frechet(generated, real, symmetric_root(real["sigma"]))


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """Square root of a symmetric positive semi-definite matrix (F, F)."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T)


def frechet(generated: Statistics, real: Statistics, real_root: np.ndarray) -> float:
    """FID, given the square root (F, F) of the real covariance, which many sets share; rounding makes none negative."""
    middle = np.linalg.eigvalsh(real_root @ generated["sigma"] @ real_root)
    difference = generated["mu"] - real["mu"]
    traces = np.trace(generated["sigma"]) + np.trace(real["sigma"])
    return max(0.0, float(difference @ difference + traces - 2.0 * np.sqrt(middle.clip(min=0.0)).sum()))


def inception_score(logits: np.ndarray) -> float:
    """Inception score (Salimans et al. 2016) of logits (n, K): torch-fidelity's mean over ten shuffled splits."""
    return float(np.mean([split_score(logits[rows]) for rows in shuffled_splits(len(logits))]))


def shuffled_splits(n: int, splits: int = 10) -> list[np.ndarray]:
    """Rows of the images in each of torch-fidelity's splits; fewer images than splits make splits of one image each."""
    splits = min(splits, n)  # the score of an empty split would be nan
    order = np.random.RandomState(SEED).permutation(n)
    return [order[i * n // splits : (i + 1) * n // splits] for i in range(splits)]


def split_score(logits: np.ndarray) -> float:
    """exp(mean KL(p(y|x) || p(y))) of the logits (n, K) of one split."""
    probabilities, negentropies = probabilities_of(logits)
    mean = probabilities.mean(0)
    return float(np.exp(negentropies.mean() - xlogy(mean, mean).sum()))


def probabilities_of(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p(y|x) (n, K) of logits (n, K), and sum_y p(y|x) log p(y|x) of each image (n,)."""
    logarithms = log_softmax(logits.astype(np.float64), axis=1)
    probabilities = np.exp(logarithms)
    return probabilities, (probabilities * logarithms).sum(1)


def ordered_inception_score(logits: np.ndarray, labels: np.ndarray | None, size: int = ADM_SPLIT) -> float:
    """Inception score by ADM's rule: the mean over consecutive splits of 5000 images in the order of the file.

    The last split may be shorter and has the same weight. ADM leaves the bias out of the logits. A split of a set that
    is sorted by class holds few classes and scores low, so a sorted order is refused: one in which the class changes
    from image to image less than half as often as after a shuffle, or whose splits hold less than half as many classes.

    Args:
        logits: logits without bias, (n, K).
        labels: classes of the images in the same order, (n,); None if unknown, and then the order is not checked.
        size: number of images in each split.

    Raises:
        ValueError: the images are sorted by class.
    """
    n = len(logits)
    if labels is not None:
        refuse_sorted(labels, size)
    return float(np.mean([split_score(logits[start : start + size]) for start in range(0, n, size)]))


def refuse_sorted(labels: np.ndarray, size: int = ADM_SPLIT) -> None:
    """Refuse images whose classes (n,) are sorted; raises as `ordered_inception_score`."""
    changes, shuffled = class_changes(labels)
    if changes < 0.5 * shuffled:
        raise ValueError(
            f"the class changes {changes} times along the order of {len(labels)} images, after a shuffle about "
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
    """Mean number of classes in a consecutive split of labels (n,), and about how many are expected after a shuffle."""
    starts, sizes = range(0, len(labels), size), np.unique(labels, return_counts=True)[1]
    held = np.mean([len(np.unique(labels[start : start + size])) for start in starts])
    shares = [min(size, len(labels) - start) / len(labels) for start in starts]
    return float(held), float(np.mean([(1 - (1 - share) ** sizes).sum() for share in shares]))


def class_changes(labels: np.ndarray) -> tuple[int, float]:
    """How often labels (n,) change from one image to the next, and how often they are expected to after a shuffle."""
    n = len(labels)
    sizes = np.unique(labels, return_counts=True)[1].astype(np.float64)
    expected = n - (sizes**2).sum() / n  # (n - 1) (1 - sum s (s - 1) / (n (n - 1))) for classes of s images
    return int((labels[1:] != labels[:-1]).sum()), float(expected)


def precision_recall(generated: np.ndarray, real: np.ndarray, neighbours: int) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019) of features (n, F) and (m, F), with k = `neighbours`."""
    return float(inside(generated, real, neighbours).mean()), float(inside(real, generated, neighbours).mean())


def inside(
    points: np.ndarray,
    centres: np.ndarray,
    neighbours: int,
    kept: np.ndarray | None = None,
    nearest: np.ndarray | None = None,
) -> np.ndarray:
    """Which of the points lie in the ball around at least one of the centres.

    The radius of a centre's ball is the distance to its k-th nearest other centre; a point on the surface lies in the
    ball. The share of generated points in balls of real centres is the precision; the share of real points in balls of
    generated centres is the recall.

    Args:
        points: features (N, F).
        centres: features of the balls' centres, (M, F).
        neighbours: k.
        kept: R subsets of the centres, bool (R, M), each all or about half of them. The centres of a subset have radii
            by their neighbours in the same subset. None: all centres.
        nearest: without `kept`, squared distances of each centre to its k nearest others, (M, k), if they are known.

    Returns:
        bool (N,); with `kept` bool (R, N), one row for each subset.

    Raises:
        ValueError: there are not more centres than k.
    """
    if len(centres) <= neighbours:
        raise ValueError(f"precision and recall: {len(centres)} images in a set; accepted: more than k {neighbours}")
    if kept is None:
        distances = nearest_others(centres, neighbours)[0] if nearest is None else nearest
        return within_reach(points, centres, distances, np.full((len(centres), 1), neighbours - 1, np.int16))[0]
    # with half of the centres kept, the k-th kept one is among the 8 k + 16 nearest, except once in a billion cases
    distances, which = nearest_others(centres, min(8 * neighbours + 16, len(centres) - 1))
    member, count = kept.T.copy(), np.zeros((len(centres), len(kept)), np.int16)  # of each subset, (M, R)
    last = np.zeros(count.shape, np.int16)
    for others in which.T:  # (M,), the nearest first
        count += member[others]
        last += count < neighbours
        if count.min() >= neighbours:
            break
    last = np.where(member, last.clip(max=which.shape[1] - 1), np.int16(-1))  # a centre that is not kept has no ball
    return within_reach(points, centres, distances, last)


def within_reach(points: np.ndarray, centres: np.ndarray, distances: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Which of the points lie in a ball around a centre whose radius is the distance to one of its nearest others.

    Args:
        points: features (N, F).
        centres: features of the balls' centres, (M, F).
        distances: squared distances of each centre to its C nearest others, ascending, (M, C).
        last: which of these distances is the radius, for each of R kinds of balls, (M, R); -1: no ball.

    Returns:
        bool (R, N).
    """
    covered = np.zeros((len(points), -(-last.shape[1] // 8)), np.uint8)  # eight balls a byte
    largest = np.where(last.max(1) < 0, -1.0, distances[np.arange(len(centres)), last.max(1)]).astype(np.float32)
    for start, rough, slack, exact in _distances(points, centres):
        point, centre = np.nonzero(rough <= largest + slack)  # (P,), ascending points
        squared, doubt = rough[point, centre].astype(np.float64), np.zeros(len(point), bool)
        parts = [slice(first, first + REACHES) for first in range(0, len(point), REACHES)]
        for part in parts:
            apart = np.abs(distances[centre[part]] - squared[part, None])  # (REACHES, C)
            doubt[part] = (apart <= slack[point[part]]).any(1)
        squared[doubt] = exact(point[doubt], centre[doubt])
        for part in parts:
            nearer = (distances[centre[part]] < squared[part, None]).sum(1, dtype=last.dtype)  # others in between
            hit = np.packbits(last.take(centre[part], 0) >= nearer[:, None], axis=1)  # (REACHES, R / 8)
            firsts = np.flatnonzero(np.diff(point[part], prepend=-1))  # the first pair of each point
            covered[start + point[part][firsts]] |= np.bitwise_or.reduceat(hit, firsts, axis=0)
    return np.unpackbits(covered, axis=1, count=last.shape[1]).astype(bool).T


def nearest_others(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest other points of each point (N, F): ascending squared distances and indices, (N, count)."""
    distances, which = np.empty((len(points), count)), np.empty((len(points), count), np.int64)
    for start, rough, slack, exact in _distances(points, points):
        rows = slice(start, start + len(rough))
        rough[np.arange(len(rough)), np.arange(rows.start, rows.stop)] = np.inf  # a point is not its own neighbour
        last = np.partition(rough, count - 1, axis=1)[:, count - 1 : count]
        point, other = np.nonzero(rough <= last + 2 * slack)  # the nearest are among these, whatever the rounding
        squared = exact(point, other)
        order = np.lexsort((squared, point))
        firsts = np.searchsorted(point, np.arange(len(rough)))
        nearest = order[firsts[:, None] + np.arange(count)]
        which[rows], distances[rows] = other[nearest], squared[nearest]
    return distances, which


def _distances(points: np.ndarray, centres: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray, Exact]]:
    """Squared distances of all points (N, F) to all centres (M, F) in float32, in half the time of float64, by blocks.

    Yields:
        The row of the block's first point; the squared distances of its B points, (B, M); a bound of their rounding
        errors, (B, 1), which holds in whatever order products are summed; and a function that computes the squared
        distances of pairs (row in the block, row of `centres`) in float64, exactly 0 for copies.
    """
    mean = centres.mean(0, dtype=np.float64)  # with the mean subtracted, norms and rounding errors are smallest
    shifted_centres = (centres - mean).astype(np.float32)
    centre_norms, norms = _norms(shifted_centres).astype(np.float32), _norms(centres)
    for start in range(0, len(points), BLOCK):
        rows = points[start : start + BLOCK]
        shifted = (rows - mean).astype(np.float32)
        row_norms = _norms(shifted).astype(np.float32)[:, None]
        rough = (-2.0 * shifted) @ shifted_centres.T
        rough += centre_norms
        rough += row_norms
        exact = partial(_exact_distances, rows, centres, _norms(rows), norms)
        yield start, rough, (points.shape[1] + 32) * 2.0**-23 * (row_norms + centre_norms.max()), exact


def _norms(rows: np.ndarray) -> np.ndarray:
    """Squared norms (N,) of rows (N, F)."""
    return np.concatenate(
        [np.square(part, dtype=np.float64).sum(1) for part in np.split(rows, range(BLOCK, len(rows), BLOCK))]
    )


def _exact_distances(
    rows: np.ndarray,
    centres: np.ndarray,
    row_norms: np.ndarray,
    centre_norms: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
) -> np.ndarray:
    """Squared distances (P,) of the pairs rows[first], centres[second], given all squared norms."""
    scale = row_norms[first] + centre_norms[second]
    if len(first) * 32 > len(rows) * len(centres):  # for so many pairs, one matrix product of all is faster
        squared = scale - 2.0 * (rows.astype(np.float64) @ centres.astype(np.float64).T)[first, second]
    else:
        squared = np.empty(len(first))
        for start in range(0, len(first), PAIRS):
            some = slice(start, start + PAIRS)
            difference = np.subtract(rows[first[some]], centres[second[some]], dtype=np.float64)
            squared[some] = np.einsum("pf,pf->p", difference, difference)
    squared[squared < COPIES * scale] = 0.0
    return squared


def kid(
    generated: np.ndarray,
    real: np.ndarray,
    subsets: int = 100,
    size: int = 1000,
    real_kernels: np.ndarray | None = None,
) -> np.ndarray:
    """KID (Binkowski et al. 2018) of features (n, F) and (m, F), as the values whose mean it is.

    Each value is the unbiased estimate of the squared maximum mean discrepancy with the kernel (x.y / F + 1)^3 between
    two random subsets of `size` images, drawn without replacement as torch-fidelity draws them. If a set has fewer than
    `size` images, the subsets have as many images as the smaller set.

    Args:
        generated: features (n, F).
        real: features (m, F).
        subsets: number of pairs of subsets.
        size: images of a subset.
        real_kernels: what `real_kernels` returns for the same real images and numbers; default: computed here.

    Returns:
        float64 (subsets,).

    Raises:
        ValueError: a set has fewer than two images.
    """
    first, second = _kid_draws(len(generated), len(real), subsets, size)
    if real_kernels is None:
        real_kernels = _kernels_within(real.astype(np.float64), second)
    x, y, size = generated.astype(np.float64), real.astype(np.float64), first.shape[1]
    within = (_kernels_within(x, first) + real_kernels) / (size * (size - 1))
    return np.asarray(within - 2.0 * _kernel_sums(x, y, first, second) / size**2)


def real_kernels(real: np.ndarray, n: int, subsets: int = 100, size: int = 1000) -> np.ndarray:
    """What `kid` needs of real features (m, F) alone, the same for all sets of n images: float64 (subsets,)."""
    return _kernels_within(real.astype(np.float64), _kid_draws(n, len(real), subsets, size)[1])


def _kid_draws(n: int, m: int, subsets: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of KID's random subsets of n generated and of m real images: (subsets, size) of each."""
    size = min(size, n, m)
    if size < 2:
        raise ValueError(f"KID of {n} and {m} images; accepted: at least 2 of each")
    rng = np.random.RandomState(SEED)
    draws = [[rng.choice(count, size, replace=False) for count in (n, m)] for _ in range(subsets)]
    first, second = (np.stack(rows) for rows in zip(*draws, strict=True))
    return first, second


def _kernels_within(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sum of the kernel over all pairs of two images of each subset of x (n, F), whose rows are (S, size): (S,)."""
    return _kernel_sums(x, x, rows, rows) - kernel_diagonal(x)[rows].sum(1)


def class_bias(x: np.ndarray, labels: np.ndarray, count: int) -> float:
    """How much lower KID is because a set holds a fixed number of images of each class.

    KID means the kernel over all pairs of two images of a set. In a set of `count` images of which a fixed share p_c
    is of class c, a pair is of one class more rarely than two independent images are. The mean over pairs of classes,
    p_c p_c' times the mean kernel of an image of c and one of c', has no such bias, and exceeds the mean over pairs
    of images by (mean kernel within a class - mean kernel) / count, which is returned. Classes of one image have no
    pairs and are left out.

    Args:
        x: features of the set or of some of its images, (n, F).
        labels: their classes, (n,).
        count: number of images of the whole set.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    kept = sizes > 1
    if not kept.any():
        return 0.0
    rows = x.astype(np.float64)
    within = [
        (kernel(own, own).sum() - kernel_diagonal(own).sum()) / (len(own) * (len(own) - 1))
        for own in (rows[labels == c] for c in classes[kept])
    ]
    everyone = np.arange(len(rows))[None]
    pairs = _kernel_sums(rows, rows, everyone, everyone)[0]
    mean = (pairs - kernel_diagonal(rows).sum()) / (len(rows) * (len(rows) - 1))
    return float((np.average(within, weights=sizes[kept]) - mean) / count)


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KID's kernel (x.y / F + 1)^3 of features (n, F) and (m, F): (n, m)."""
    base = x @ y.T
    base /= x.shape[1]
    base += 1.0
    return np.asarray(base * base * base)


def kernel_diagonal(x: np.ndarray) -> np.ndarray:
    """KID's kernel of each feature vector (n, F) with itself: (n,)."""
    return np.asarray(((x**2).sum(1) / x.shape[1] + 1.0) ** 3)


def _kernel_sums(x: np.ndarray, y: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sum of the kernel over all pairs of rows first[s] of x and second[s] of y, for each of S subsets s: (S,)."""
    if len(x) * len(y) > first.size * second.shape[1]:  # the subsets have fewer pairs than x and y
        return np.array([kernel(x[rows], y[columns]).sum() for rows, columns in zip(first, second, strict=True)])
    a, b = np.zeros((len(first), len(x))), np.zeros((len(second), len(y)))
    np.put_along_axis(a, first, 1.0, 1)
    np.put_along_axis(b, second, 1.0, 1)
    sums, same = np.zeros(len(first)), x is y and first is second
    for start in range(0, len(x), BLOCK):
        rows, after = slice(start, start + BLOCK), slice(start if same else 0, None)
        pairs = a[:, rows] @ kernel(x[rows], y[after])  # (S, M)
        if same:  # the kernel is symmetric: a pair of two blocks counts twice, and is computed once
            pairs[:, BLOCK:] *= 2.0
        sums += (pairs * b[:, after]).sum(1)
    return sums
