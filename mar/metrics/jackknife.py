"""How far each image moves a metric of its set: jackknife values, from which the bootstrap's intervals are made.

For a metric T of n images, T_(i) is the metric without image i and T_(.) the mean of all T_(i). The jackknife value of
image i is (n - 1) (T_(.) - T_(i)), on the metric's own scale (Efron and Stein 1981): positive if the image raises the
metric. To first order, T of a resample is T plus the mean of these values over the images of the resample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import xlogy

from mar.metrics import formulas, moments
from mar.metrics.moments import Statistics

BLOCK = 1000  # images that are computed at a time
NODES = np.exp(np.arange(-50.0, 31.0))  # nodes (Q,) of the integral over t, in units of the largest eigenvalue
WITNESSES = 5000  # the mean kernel of an image in KID is taken with at most so many images of either set


def fid(features: np.ndarray, real: Statistics) -> tuple[float, np.ndarray]:
    """FID of features (n, F), and the jackknife value of each image.

    FID is |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr sqrt(R S1 R), where mu1 and S1 are mean and covariance of the generated
    features x_i, mu2 and S2 those of the real ones, and R = sqrt(S2). FID without image i is exact and needs no
    eigendecomposition of its own: with M = R S1 R and u = R (x_i - mu1), leaving out image i turns M into
    (n-1)/(n-2) (M - n/(n-1)^2 u u^T). Since sqrt(a) = 1/(2 pi) int_0^inf t^(-1/2) log(1 + a/t) dt, the matrix
    determinant lemma gives, with c = n/(n-1)^2,

        tr sqrt(M - c u u^T) = tr sqrt(M) + 1/(2 pi) int_0^inf t^(-1/2) log(1 - c u^T (M + t)^-1 u) dt.

    Of no more images than features the eigenvectors come from a matrix of the images. The integral is a sum over equal
    steps of log t. For n >> F the values tend to the influence function
    2 (mu1 - mu2).(x_i - mu1) + (x_i - mu1)^T (I - R M^(-1/2) R) (x_i - mu1), less its mean over i. For few images that
    derivative would be too small: in a direction in which only one image varies, sqrt(M) changes by a square root.

    Args:
        features: features of the evaluated set, (n, F), n > 2.
        real: statistics of the real images.

    Returns:
        FID, and the jackknife values, float64 (n,), whose mean is 0.

    Raises:
        ValueError: fewer than three images.
    """
    n = len(features)
    if n < 3:
        raise ValueError(f"FID of {n} images has no interval; accepted: at least 3")
    generated = _few(features, real["sigma"]) if n <= features.shape[1] else _many(features, real["sigma"])
    mean, shift, eigenvalues = generated.mean, generated.mean - real["mu"], generated.eigenvalues
    nodes = NODES * (eigenvalues[-1] or 1.0)
    resolvent = 1.0 / (eigenvalues[:, None] + nodes)  # (E, Q)
    traces = generated.roots, generated.trace
    without = np.empty(n)
    for start in range(0, n, BLOCK):
        images = slice(start, start + BLOCK)
        rows = features[images].astype(np.float64) - mean  # (B, F)
        square = (rows**2).sum(1)
        factor = 1.0 - n / (n - 1) ** 2 * generated.squares(images, rows) @ resolvent  # (B, Q)
        change = np.log(factor.clip(min=1e-15)) @ np.sqrt(nodes) / (2.0 * np.pi)
        distance = shift @ shift - 2.0 / (n - 1) * rows @ shift + square / (n - 1) ** 2
        trace = ((n - 1) * traces[1] - n / (n - 1) * square) / (n - 2)
        without[images] = distance + trace - 2.0 * np.sqrt((n - 1) / (n - 2)) * (traces[0] + change)
    value = shift @ shift + traces[1] + np.trace(real["sigma"]) - 2.0 * traces[0]
    return max(0.0, float(value)), (n - 1) * (without.mean() - without)  # rounding makes no distance negative


class _Spectrum(NamedTuple):
    """What FID needs of the generated features, and of the eigenvectors v_k of R S1 R.

    Attributes:
        mean: mu1, (F,).
        trace: tr S1.
        roots: tr sqrt(R S1 R).
        eigenvalues: those of R S1 R that may differ from 0, ascending, (E,).
        squares: of a slice of the images and their B centred features (B, F): (v_k . R (x_i - mu1))^2, (B, E).
    """

    mean: np.ndarray
    trace: float
    roots: float
    eigenvalues: np.ndarray
    squares: Callable[[slice, np.ndarray], np.ndarray]


def _many(features: np.ndarray, sigma: np.ndarray) -> _Spectrum:
    """By the eigendecomposition of R S1 R itself, (F, F)."""
    generated, root = moments.of(features), formulas.symmetric_root(sigma)
    eigenvalues, vectors = np.linalg.eigh(root @ generated["sigma"] @ root)
    projection = root @ vectors  # (F, F)
    eigenvalues = eigenvalues.clip(min=0.0)
    traces = float(np.trace(generated["sigma"])), float(np.sqrt(eigenvalues).sum())
    return _Spectrum(generated["mu"], *traces, eigenvalues, lambda _, rows: (rows @ projection) ** 2)


def _few(features: np.ndarray, sigma: np.ndarray) -> _Spectrum:
    """Of n <= F images, by the eigenvectors w_k of X S2 X^T / (n - 1), (n, n), where X are the centred features.

    Its eigenvalues l_k are those of R S1 R but for some that are 0, and no root of S2 is needed: v_k . R (x_i - mu1)
    is sqrt((n - 1) l_k) w_ki.
    """
    n, mean = len(features), features.mean(0, dtype=np.float64)
    rows = features.astype(np.float64) - mean  # (n, F)
    eigenvalues, vectors = np.linalg.eigh(rows @ sigma @ rows.T / (n - 1))
    eigenvalues = eigenvalues.clip(min=0.0)
    traces = float((rows**2).sum() / (n - 1)), float(np.sqrt(eigenvalues).sum())
    # centred images vary in n - 1 directions at most; what rounding leaves of the others would outweigh small t
    eigenvalues[eigenvalues < len(sigma) * np.finfo(np.float64).eps * eigenvalues[-1]] = 0.0
    squares = (n - 1) * eigenvalues * vectors**2  # (n, n)
    return _Spectrum(mean, *traces, eigenvalues, lambda images, _: squares[images])


def inception_score(logits: np.ndarray) -> np.ndarray:
    """Jackknife value of each image for the Inception score of logits (n, K): float64 (n,), whose mean is 0.

    An image moves only the score of its own split; an image that is alone in its split moves nothing.
    """
    moves = np.zeros(len(logits))
    for rows in formulas.shuffled_splits(len(logits)):
        n = len(rows)
        if n > 1:
            probabilities, negentropies = formulas.probabilities_of(logits[rows])
            rest = ((probabilities.sum(0) - probabilities) / (n - 1)).clip(min=0.0)  # (n_s, K): p(y) without the image
            without = np.exp((negentropies.sum() - negentropies) / (n - 1) - xlogy(rest, rest).sum(1))
            moves[rows] = (n - 1) * (without.mean() - without)
    return moves


def kid(generated: np.ndarray, real: np.ndarray, seed: int) -> np.ndarray:
    """Jackknife value of each image for KID of features (n, F) against (M, F): float64 (n,), whose mean is 0.

    The value is twice the witness function of the maximum mean discrepancy, less its mean: the mean kernel of the image
    with the other generated images, minus its mean kernel with the real images. For a set with more than WITNESSES
    images, WITNESSES of them, drawn with `seed`, estimate the mean.
    """
    rng, n = np.random.default_rng(seed), len(generated)
    chosen = [rng.permutation(len(x))[:WITNESSES] for x in (generated, real)]
    own, other = (x[rows].astype(np.float64) for x, rows in zip((generated, real), chosen, strict=True))
    chosen_too = np.isin(np.arange(n), chosen[0])  # (n,): these images would be compared with themselves
    witness = np.empty(n)
    for start in range(0, n, BLOCK):
        rows, itself = generated[start : start + BLOCK].astype(np.float64), chosen_too[start : start + BLOCK]
        sums = formulas.kernel(rows, own).sum(1) - itself * formulas.kernel_diagonal(rows)
        within = sums / (len(own) - itself) * (n - 1) / max(1, n - 2)  # without the image there are fewer pairs
        witness[start : start + BLOCK] = within - formulas.kernel(rows, other).mean(1)
    return 2.0 * (witness - witness.mean())
