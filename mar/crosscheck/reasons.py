"""Why two evaluators differ: we switch to the other's conventions, one by one, until we get the other's number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mar.crosscheck import adm
from mar.crosscheck.evaluators import (
    ADM,
    CLEAN_FID,
    CLEAN_SEED,
    FIDELITY,
    LEGACY,
    MAIN,
    METRICS,
    SUBSET,
    SUBSETS,
    Case,
    Evaluator,
    global_seed,
)
from mar.metrics import formulas

# How far two evaluators of the same conventions may differ.
ROUNDING = 1e-5  # relative difference of two implementations of one formula
SINGULAR = 1e-3  # the same for Frechet distances of singular covariances, whose root is badly conditioned
SINGLE = 2e-6  # error of a mean in float32, relative to its terms
BORDER = 3  # points so close to the surface of a ball that the dtype of distances decides whether they are inside

PAIRS = 10**8  # pairs of images up to which the direction of precision and recall is shown


@dataclass(frozen=True)
class Difference:
    """One metric of another evaluator against ours.

    Attributes:
        evaluator: name of the other evaluator.
        metric: one of `METRICS`.
        ours: our value.
        theirs: the value of the other evaluator.
        steps: the conventions that we switch to, one after the other, and the value that we get with each.
        cause: where the difference that remains after all steps comes from.
        tolerance: how large that difference may be from this cause.
    """

    evaluator: str
    metric: str
    ours: float
    theirs: float
    steps: list[tuple[str, float]]
    cause: str
    tolerance: float

    @property
    def remaining(self) -> float:
        """Their value minus ours after all steps."""
        return self.theirs - (self.steps[-1][1] if self.steps else self.ours)

    @property
    def explained(self) -> bool:
        """Whether what remains is within the tolerance."""
        return abs(self.remaining) <= self.tolerance


def differences(case: Case, rows: list[tuple[Evaluator, dict[str, float | None]]]) -> list[Difference]:
    """Every metric of another evaluator that we have too, against ours; our row is the first of `rows`."""
    our_metrics = rows[0][1]
    count, width = case.generated[MAIN]["features"].shape
    singular = min(count, *(len(arrays["features"]) for arrays in case.real.values())) <= width
    kernels = max((formulas.kernel_diagonal(x["features"]).mean() for x in case.real.values()), default=0.0)
    all_differences = []
    for evaluator, their_metrics in rows[1:]:
        for metric in METRICS:
            theirs, ours = their_metrics.get(metric), our_metrics.get(metric)
            if theirs is not None and ours is not None:
                steps, cause = _steps(case, evaluator, metric)
                # A step that does not change our value explains nothing.
                before, changing = ours, []
                for convention, value in steps:
                    if not math.isclose(value, before, rel_tol=1e-9):
                        changing.append((convention, value))
                    before = value
                size, share = max(abs(theirs), abs(ours)), ROUNDING
                if metric == "kid":  # KID is a small difference of large means
                    size, share = max(size, kernels), SINGLE
                elif metric in ("precision", "recall"):
                    size, share = 1.0, BORDER / min(len(x) for x in case.subset_features())
                elif singular and metric in ("fid", "sfid"):
                    cause, share = f"{cause}; singular covariances", SINGULAR
                difference = Difference(evaluator.name, metric, ours, theirs, changing, cause, share * size)
                all_differences.append(difference)
    return all_differences


def _steps(case: Case, evaluator: Evaluator, metric: str) -> tuple[list[tuple[str, float]], str]:
    """The conventions to switch to with the value after each, and the cause of what then remains."""
    if metric in ("fid", "sfid"):
        return _frechet(case, evaluator)
    if metric == "inception_score":
        return (_ordered(case), "") if evaluator.kind == ADM else ([], "torch's softmax instead of scipy's")
    if metric == "kid":
        return _kid(case, evaluator)
    return _precision_recall(case, evaluator, 0 if metric == "precision" else 1)


def _kid(case: Case, evaluator: Evaluator) -> tuple[list[tuple[str, float]], str]:
    steps = []
    if case.real_subset is not None:
        steps.append((_all_real(case), float(formulas.kid(*case.features(), SUBSETS, SUBSET).mean())))
    if evaluator.kind == CLEAN_FID:
        steps.append(("the subsets that clean-fid draws", kid_of_clean_fid(*case.features())))
    if evaluator.resizing != MAIN:
        steps.append((_resized(evaluator), kid_of_clean_fid(*case.features(evaluator.resizing))))
    return steps, "features in float32 instead of float64"


def _precision_recall(case: Case, evaluator: Evaluator, index: int) -> tuple[list[tuple[str, float]], str]:
    """Steps of precision (index 0) or recall (1): which real images, and the dtype of distances."""

    def by_adm(half: bool) -> float:
        features = case.subset_features()
        return case.once(("adm", half), lambda: adm.precision_recall(*features, case.neighbours, half))[index]

    if evaluator.kind == ADM:
        return [("squared distances in float32", by_adm(False)), ("in float16 where all are finite", by_adm(True))], ""
    steps = []
    if case.real_subset is not None:
        by_all = case.once(("all real",), lambda: formulas.precision_recall(*case.features(), case.neighbours))
        steps.append((_all_real(case), by_all[index]))
    return steps, "distances in float32 instead of float64"


def _all_real(case: Case) -> str:
    return f"all {len(case.real[MAIN]['features'])} real images instead of {len(case.subset_features()[1])}"


def _frechet(case: Case, evaluator: Evaluator) -> tuple[list[tuple[str, float]], str]:
    roots = {
        FIDELITY: "eigenvalues of the unsymmetric product, mean in float32",
        CLEAN_FID: "scipy's sqrtm, mean in float32",
        ADM: "scipy's sqrtm",
    }
    steps = []
    if evaluator.kind != ADM:
        count = len(case.real[MAIN]["features"])
        steps.append((f"statistics of the {count} real images instead of the stored ones", case.frechet(images=True)))
    if evaluator.resizing != MAIN:
        steps.append((_resized(evaluator), case.frechet(True, evaluator.resizing)))
    return [(convention, value) for convention, value in steps if value is not None], roots[evaluator.kind]


def _resized(evaluator: Evaluator) -> str:
    scale = ", pixels scaled by 2/255 x - 1 instead of (x - 128) / 128" if evaluator.resizing == LEGACY else ""
    return f"both sides resized by {evaluator.resize}{scale}"


def _ordered(case: Case) -> list[tuple[str, float]]:
    """Steps from ten shuffled splits to consecutive ones of 5,000 images in the order of ADM's file."""
    logits, ordered = case.logits(), case.adm_logits()
    assert logits is not None and ordered is not None  # both evaluators have a score
    steps = []
    if case.bias is not None:
        steps.append(("logits without the bias of the last layer", formulas.inception_score(logits - case.bias)))
    value = formulas.ordered_inception_score(ordered, None)
    return [*steps, (f"consecutive splits of {formulas.ADM_SPLIT} in the order of ADM's file", value)]


def order_matters(case: Case) -> tuple[float, float] | None:
    """Inception score by ten consecutive splits in the order of ADM's file, and in that of a file sorted by class."""
    logits, labels = case.adm_logits(), case.adm_labels()
    if logits is None or labels is None:
        return None
    size = math.ceil(len(logits) / 10)
    by_class = np.argsort(labels, kind="stable")
    in_file_order, sorted_by_class = (
        formulas.ordered_inception_score(x, None, size) for x in (logits, logits[by_class])
    )
    return in_file_order, sorted_by_class


def swapped(case: Case) -> tuple[float, float] | None:
    """Precision and recall by torch-fidelity with real images as input 1; None where that would take too long."""
    import torch
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    generated, real = (torch.from_numpy(x) for x in case.subset_features())
    if len(generated) * len(real) > PAIRS:
        return None
    precision, recall = calculate_precision_recall_part(real, generated, case.neighbours)
    return precision, recall


def kid_of_clean_fid(generated: np.ndarray, real: np.ndarray) -> float:
    """KID by our kernel in float64 on the same subsets that clean-fid draws."""
    m, values = min(SUBSET, len(generated), len(real)), []
    with global_seed(CLEAN_SEED):
        for _ in range(SUBSETS):
            u, v = (x[np.random.choice(len(x), m, replace=False)].astype(np.float64) for x in (generated, real))
            within = sum(formulas.kernel(x, x).sum() - formulas.kernel_diagonal(x).sum() for x in (u, v))
            values.append(within / (m * (m - 1)) - 2.0 * formulas.kernel(u, v).mean())
    return float(np.mean(values))
