"""What each metric is called, which of its values are better, and on which scale it is compared."""

from __future__ import annotations

SIGNED = frozenset({"kid", "fid_infinity"})  # estimates that can be zero or less: by difference, in units of FID


def by_ratio(metric: str) -> bool:
    """Whether a metric is compared on the log scale: Frechet distances and seconds, which are positive."""
    return metric in ("sfid", "seconds") or (metric.startswith("fid") and metric not in SIGNED)


def lower_is_better(metric: str) -> bool:
    """Whether less of a metric is better; of `nearest` neither is."""
    return metric in ("sfid", "kid", "seconds") or metric.startswith("fid")


TITLES = {
    "fid": "FID",
    "fid_infinity": "FID∞",
    "sfid": "sFID",
    "kid": "KID",
    "inception_score": "IS",
    "nearest": "nearest training image",
}


def title(metric: str) -> str:
    """What a metric is called above a column: FID of a further extractor with its name."""
    return TITLES.get(metric) or (f"FID, {metric[4:]}" if metric.startswith("fid_") else metric)
