"""Half-widths of 95% intervals from two sources of error that are known with different precision.

*Two parts.* The variance of an effect is S = (what training seeds add) + B, where B is the part of the images. B comes
from thousands of resampled images and is taken as known. S is estimated from a few seeds, with d degrees of freedom.
One t quantile on sqrt(S) would punish the images' part for the scarcity of seeds: with 2 seeds of 2 variants (d = 2) it
is 4.30 where 1.96 would do. The half-width here is

    sqrt(z^2 B + t_d^2 max(0, S - (1 - 1/d) B)),   z = 1.96,

as the modified large-sample intervals of a sum of variances (Graybill and Wang 1980) add the squared half-widths of the
parts. The seeds' part is S - B; only (1 - 1/d) B is subtracted, since a difference that chance made too small would
make the interval too narrow. Without seeds (d infinite) it is z sqrt(B), without noise of the images t_d sqrt(S).

*Coverage* at equal scatter of all variants is more than 93% for each d from 2 to 14 and each ratio from 0 to 4 of seed
scatter to image scatter; `python -m benchmarks.verdict_rules` prints it beside that of other rules.

*Shrunken variances.* Variants need not scatter alike, and two or three seeds say little about one of them. What seeds
add to a variant is estimated by (d0 x pool + d_i x own) / (d0 + d_i), with d_i = K_i - 1 degrees of freedom of its own
and PRIOR = d0 = 2 of the pool of all variants (as limma: Smyth 2004). No test decides whether to pool: it would hardly
ever see a triple scatter.

*Degrees of freedom.* The estimate is a sum of w_i x (variance of variant i), so with equal scatter it has
(sum w_i)^2 / sum(w_i^2 / d_i) of them (Satterthwaite 1946), and never more than the sides' own with their priors,
sum(d_i + d0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

PRIOR = 2.0  # degrees of freedom of the pool in the estimate of one variant
Z = 1.959964  # 97.5% quantile of the normal distribution
FALSE = 0.035  # bound on the probability that a claim is decided wrongly: half of what 93% coverage leaves


def quantile(dof: Any) -> Any:
    """The 97.5% quantile of Student's t with `dof` degrees of freedom; of the normal distribution for infinity."""
    from scipy.special import stdtrit  # which t.ppf of scipy.stats calls too, after half a second of imports

    return stdtrit(dof, 0.975)


def half_width(total: Any, images: Any, dof: Any) -> Any:
    """Half the width of the 95% interval of an effect (module docstring).

    Args:
        total: estimated variance of the effect, S; chance can make it smaller than `images`, and even negative.
        images: its part from the images, B.
        dof: degrees of freedom d of `total`; infinity if no seed spread was measured.

    Returns:
        The half-width, of the arguments' common shape.
    """
    part = np.maximum(0.0, total - (1.0 - 1.0 / np.asarray(dof)) * images)
    return np.sqrt(Z**2 * images + np.where(part > 0.0, quantile(dof) ** 2 * part, 0.0))


def shrunk(own: Any, dof: Any, pool: Any) -> Any:
    """The variance of one variant, from its own with `dof` degrees of freedom and from the pool with PRIOR."""
    return (PRIOR * pool + dof * own) / (PRIOR + dof)


def effective(dofs: Mapping[str, int], sides: Sequence[tuple[str, float]]) -> float:
    """Degrees of freedom of the sum of the sides' shrunken variances.

    Args:
        dofs: K - 1 of each variant of the pool.
        sides: of each side of the effect its variant, which need not be in the pool, and its factor.
    """
    pooled = sum(dofs.values())
    if not pooled:
        return float("inf")
    weights, most = dict.fromkeys(dofs, 0.0), 0.0
    for variant, factor in sides:
        own = dofs.get(variant, 0)
        most += own + PRIOR
        for name, dof in dofs.items():
            weights[name] += factor * PRIOR / (PRIOR + own) * dof / pooled
        if own:
            weights[variant] += factor * own / (PRIOR + own)
    total = sum(weights.values())
    free = total**2 / sum(w**2 / dofs[name] for name, w in weights.items())
    return max(1.0, min(free, most))
