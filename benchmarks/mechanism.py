"""How often the claim `recovers` is decided, and how often wrongly: `python -m benchmarks.mechanism`.

A simulated study has the paper's tokenizers and cross-entropy (rFID 5.87 and 1.43, FID 8.79) and a FID of Diffusion
Loss by which the gain is `ratio` times the loss. The logarithm of each FID has the scatter of training seeds and that
of images, rFID that of images alone, the seed spread is pooled over the variants of the study as in
`mar/analysis/estimates.py`, and the rule is that of `mar/analysis/quantising.py`, from 0.5 to 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mar.analysis.contrasts import combine
from mar.analysis.result_files import Estimate

VQ, KL, CROSSENT = 5.87, 1.43, 8.79  # rFID of both tokenizers and FID with cross-entropy, as the paper prints them
LEAST, MOST = 0.5, 2.0
PAPER = (CROSSENT - 3.50) / (VQ - KL)  # the paper's own ratio of gain and loss


def decided(
    ratio: float,
    seeds: int,
    images: float,
    spread: float,
    studies: int = 4000,
    variants: int = 6,
    crossent: float = CROSSENT,
) -> tuple[float, float]:
    """Shares of simulated studies in which the claim is replicated and not replicated.

    Args:
        ratio: true gain divided by true loss.
        seeds: training seeds of each variant, two or more.
        images: standard deviation of log FID of one sample set that its images add, known to the judge.
        spread: that which training seeds add, estimated by the judge.
        studies: how many are simulated.
        variants: how many the spread is estimated from.
        crossent: true FID with cross-entropy.
    """
    from scipy.stats import t

    rng = np.random.default_rng(0)
    truth = np.log([crossent, crossent - ratio * (VQ - KL)] + [1.0] * (variants - 2))
    y = truth[:, None] + rng.normal(0.0, np.hypot(images, spread), (studies, variants, seeds))
    dof = variants * (seeds - 1)
    scatter = y.var(axis=2, ddof=1).mean(axis=1)
    variance = np.maximum(scatter - images**2, 0.0) + images**2
    half = float(t.ppf(0.975, dof)) * np.sqrt(variance / seeds)
    middle = y.mean(axis=2)

    def lost(value: float) -> Estimate:
        drawn = np.log(value) + rng.normal(0.0, images, studies)
        return _exp(drawn, np.full(studies, 1.96 * images))

    fid_b, fid_a = (_exp(middle[:, i], half) for i in (0, 1))
    vq, kl = lost(VQ), lost(KL)
    gain, loss = ((1.0, fid_b), (-1.0, fid_a)), ((1.0, vq), (-1.0, kl))
    enough: Any = combine(*gain, *((-LEAST * factor, e) for factor, e in loss))
    no_more: Any = combine(*((MOST * factor, e) for factor, e in loss), *((-factor, e) for factor, e in gain))
    holds, fails = np.minimum(enough.low, no_more.low) > 0, np.minimum(enough.high, no_more.high) < 0
    return float(holds.mean()), float(fails.mean())


def _exp(middle: Any, half: Any) -> Estimate:
    """The estimates of all studies, with the intervals of their logarithms."""
    value, low, high = (np.exp(x) for x in (middle, middle - half, middle + half))
    return Estimate(value, low, high, 1)


def main() -> None:
    """Print the shares of replicated and not replicated for ratios at, inside and outside of the thresholds."""
    print(f"share of studies: replicated / not replicated (paper: ratio {PAPER:.2f})")
    ratios = (0.25, LEAST, 0.8, PAPER, 1.6)
    print("seeds  images  spread  " + "  ".join(f"ratio {ratio:.2f}  " for ratio in ratios))
    for seeds in (2, 3):
        for images, spread in ((0.01, 0.015), (0.03, 0.03), (0.05, 0.05), (0.11, 0.06)):
            cells = (decided(ratio, seeds, images, spread, studies=20000) for ratio in ratios)
            shown = "  ".join(f"{holds:.3f} / {fails:.3f}" for holds, fails in cells)
            print(f"{seeds:5d}  {images:6.3f}  {spread:6.3f}  {shown}")


if __name__ == "__main__":
    main()
