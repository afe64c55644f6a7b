"""Why two evaluators differ: our own path, switched to the other's conventions one by one until it gives its number."""

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

ROUNDING = 1e-5  # relative difference of two implementations of one formula
SINGLE = 2e-6  # error of a mean in float32, relative to its terms
SHOWN = 10**8  # pairs of images
BORDER = 3  # points whose place within or without a ball depends on the dtype of distances
SINGULAR = 1e-3  # the same of Frechet distances where covariances are singular: the root is then badly conditioned


@dataclass(frozen=True)
class Difference:
    """One number of another evaluator against ours.

    Attributes:
        steps: what is switched in our path, one after the other, and what it gives then.
        left: what the last step does not account for.
        cause: what that rest comes from.
        tolerance: how large that rest may be for this cause.
    """

    evaluator: str
    metric: str
    ours: float
    theirs: float
    steps: list[tuple[str, float]]
    cause: str
    tolerance: float

    @property
    def left(self) -> float:
        """Their value less ours after all steps."""
        return self.theirs - (self.steps[-1][1] if self.steps else self.ours)

    @property
    def explained(self) -> bool:
        """Whether nothing but rounding is left."""
        return abs(self.left) <= self.tolerance


def differences(case: Case, rows: list[tuple[Evaluator, dict[str, float | None]]]) -> list[Difference]:
    """Every number of the other evaluators that we have too, against ours; `rows` begins with ours."""
    ours = rows[0][1]
    count, width = case.generated[MAIN]["features"].shape
    singular = min(count, *(len(arrays["features"]) for arrays in case.real.values())) <= width
    kernels = max((formulas.kernel_diagonal(x["features"]).mean() for x in case.real.values()), default=0.0)
    found = []
    for evaluator, values in rows[1:]:
        for metric in METRICS:
            theirs, own = values.get(metric), ours.get(metric)
            if theirs is not None and own is not None:
                steps, cause = _steps(case, evaluator, metric)
                # a step that our path takes already explains nothing
                before, kept = own, []
                for said, value in steps:
                    if not math.isclose(value, before, rel_tol=1e-9):
                        kept.append((said, value))
                    before = value
                size, share = max(abs(theirs), abs(own)), ROUNDING
                if metric == "kid":  # a small difference of large means
                    size, share = max(size, kernels), SINGLE
                elif metric in ("precision", "recall"):  # a few points at the surface of a ball
                    size, share = 1.0, BORDER / min(len(x) for x in case.balls())
                elif singular and metric in ("fid", "sfid"):
                    cause, share = f"{cause}; singular covariances", SINGULAR
                found.append(Difference(evaluator.name, metric, own, theirs, kept, cause, share * size))
    return found


def _steps(case: Case, evaluator: Evaluator, metric: str) -> tuple[list[tuple[str, float]], str]:
    if metric in ("fid", "sfid"):
        return _frechet(case, evaluator)
    if metric == "inception_score":
        return (_ordered(case), "") if evaluator.kind == ADM else ([], "torch's softmax instead of scipy's")
    if metric == "kid":
        return _kid(case, evaluator)
    return _balls(case, evaluator, 0 if metric == "precision" else 1)


def _kid(case: Case, evaluator: Evaluator) -> tuple[list[tuple[str, float]], str]:
    steps = []
    if case.near is not None:
        steps.append((_all_real(case), float(formulas.kid(*case.features(), SUBSETS, SUBSET).mean())))
    if evaluator.kind == CLEAN_FID:
        steps.append(("the subsets that clean-fid draws", kid_of_clean_fid(*case.features())))
    if evaluator.shown != MAIN:
        steps.append((_resized(evaluator), kid_of_clean_fid(*case.features(evaluator.shown))))
    return steps, "features in float32 instead of float64"


def _balls(case: Case, evaluator: Evaluator, place: int) -> tuple[list[tuple[str, float]], str]:
    """Precision (place 0) and recall (1): which real images, and the dtype of distances."""

    def adms(half: bool) -> float:
        return case.once(("adm", half), lambda: adm.precision_recall(*case.balls(), case.neighbours, half))[place]

    if evaluator.kind == ADM:
        return [("squared distances in float32", adms(False)), ("in float16 where all are finite", adms(True))], ""
    steps = []
    if case.near is not None:
        whole = case.once(("balls",), lambda: formulas.precision_recall(*case.features(), case.neighbours))
        steps.append((_all_real(case), whole[place]))
    return steps, "distances in float32 instead of float64"


def _all_real(case: Case) -> str:
    return f"all {len(case.real[MAIN]['features'])} real images instead of {len(case.balls()[1])}"


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
    if evaluator.shown != MAIN:
        steps.append((_resized(evaluator), case.frechet(True, evaluator.shown)))
    return [(said, value) for said, value in steps if value is not None], roots[evaluator.kind]


def _resized(evaluator: Evaluator) -> str:
    scale = ", pixels scaled by 2/255 x - 1 instead of (x - 128) / 128" if evaluator.shown == LEGACY else ""
    return f"both sides resized by {evaluator.resize}{scale}"


def _ordered(case: Case) -> list[tuple[str, float]]:
    """From ten shuffled splits to consecutive ones of 5,000 images in the order of ADM's file."""
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
    rows = np.argsort(labels, kind="stable")
    ours, theirs = (formulas.ordered_inception_score(x, None, size) for x in (logits, logits[rows]))
    return ours, theirs


def swapped(case: Case) -> tuple[float, float] | None:
    """Precision and recall by torch-fidelity with real images as input 1; None where that takes long for a remark."""
    import torch
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    generated, real = (torch.from_numpy(x) for x in case.balls())
    if len(generated) * len(real) > SHOWN:
        return None
    precision, recall = calculate_precision_recall_part(real, generated, case.neighbours)
    return precision, recall


def kid_of_clean_fid(generated: np.ndarray, real: np.ndarray) -> float:
    """KID by our kernel in float64 on the very subsets that clean-fid draws."""
    m, values = min(SUBSET, len(generated), len(real)), []
    with global_seed(CLEAN_SEED):
        for _ in range(SUBSETS):
            here, there = (x[np.random.choice(len(x), m, replace=False)].astype(np.float64) for x in (generated, real))
            within = sum(formulas.kernel(x, x).sum() - formulas.kernel_diagonal(x).sum() for x in (here, there))
            values.append(within / (m * (m - 1)) - 2.0 * formulas.kernel(here, there).mean())
    return float(np.mean(values))
