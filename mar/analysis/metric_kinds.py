"""What each metric is called, whether lower values are better, and on which scale it is compared."""

from __future__ import annotations

SIGNED = frozenset({"kid", "fid_infinity"})  # zero or negative is possible: compared by difference, in units of FID


def by_ratio(metric: str) -> bool:
    """Whether a metric is compared on the log scale: Frechet distances and seconds, which are positive."""
    return metric in ("sfid", "seconds") or (metric.startswith("fid") and metric not in SIGNED)


def lower_is_better(metric: str) -> bool:
    """Whether lower values of a metric are better; of `nearest` neither lower nor higher ones are."""
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
    """The heading of a metric's column; FID of a further extractor has the extractor's name in it."""
    return TITLES.get(metric) or (f"FID, {metric[4:]}" if metric.startswith("fid_") else metric)
