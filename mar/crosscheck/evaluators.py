"""The evaluators of the parity court: each computes its metrics from the features of the same images in its own way."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from mar.crosscheck import adm
from mar.metrics import formulas, moments
from mar.metrics.moments import Statistics

MAIN, CLEAN, LEGACY = "main", "clean", "legacy_pytorch"  # ways of resizing images for the network
OURS, FIDELITY, CLEAN_FID, ADM = "ours", "torch-fidelity", "clean-fid", "ADM suite"
METRICS = ("fid", "sfid", "inception_score", "precision", "recall", "kid")
SUBSETS, SUBSET = 100, 1000  # number of KID's subsets and images in each, in torch-fidelity and in clean-fid
SPLITS = 10  # splits of the Inception score
CLEAN_SEED = 0  # seed of numpy's global generator, from which clean-fid draws its subsets

# What a network says of n images: "features" (n, F); where the network has them "logits" (n, K), "spatial" (n, 2023).
Arrays = dict[str, np.ndarray]


@dataclass
class Case:
    """The sets of images that the evaluators compare, as features.

    Attributes:
        generated: arrays of the judged images, by the way of resizing them for the network.
        real: arrays of the reference's images in the same way; empty if the reference has no images.
        stored: statistics that come with the reference: mu, sigma and, for sFID, mu_s, sigma_s.
        order: which judged image stands at each place of ADM's file, (n,).
        labels: classes that the images were asked to show, (n,), in the order of `generated`; None if they are unknown.
        real_subset: indices of the real images by which we and ADM compute precision and recall, and we KID; None: all.
        bias: bias of the last layer, (K,), where the logits contain it; those of Inception do not.
        neighbours: k of precision and recall.
    """

    generated: dict[str, Arrays]
    real: dict[str, Arrays]
    stored: Statistics | None
    order: np.ndarray
    labels: np.ndarray | None = None
    real_subset: np.ndarray | None = None
    bias: np.ndarray | None = None
    neighbours: int = 3
    _computed: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def features(self, resizing: str = MAIN) -> tuple[np.ndarray, np.ndarray]:
        """Features of all judged images (n, F) and of all real ones (M, F)."""
        return self.generated[resizing]["features"], self.real[resizing]["features"]

    def subset_features(self) -> tuple[np.ndarray, np.ndarray]:
        """Features of all judged images (n, F) and of the subset of real ones."""
        generated, real = self.features()
        return generated, real if self.real_subset is None else real[self.real_subset]

    def logits(self) -> np.ndarray | None:
        """Logits of the judged images as the network gives them (n, K)."""
        return self.generated[MAIN].get("logits")

    def adm_logits(self) -> np.ndarray | None:
        """Logits (n, K) without the bias of the last layer, in the order of ADM's file."""
        logits = self.logits()
        if logits is None:
            return None
        return (logits if self.bias is None else logits - self.bias)[self.order]

    def adm_labels(self) -> np.ndarray | None:
        """Classes (n,) in the order of ADM's file; where they are unknown, those that the network finds most likely."""
        if self.labels is not None:
            return self.labels[self.order]
        logits = self.logits()
        return None if logits is None else logits.argmax(1)[self.order]

    def statistics(self, side: str, resizing: str = MAIN, key: str = "features") -> Statistics:
        """Mean and covariance of one side, "generated" or "real", computed once."""
        return self.once(("statistics", side, resizing, key), lambda: moments.of(getattr(self, side)[resizing][key]))

    def target(self, images: bool = False, resizing: str = MAIN, spatial: bool = False) -> Statistics | None:
        """The real side of a Frechet distance: stored statistics, or with `images` those of the real images."""
        stored = None if images or resizing != MAIN else self.stored
        if spatial and stored:
            return {"mu": stored["mu_s"], "sigma": stored["sigma_s"]} if "mu_s" in stored else None
        key = "spatial" if spatial else "features"
        if stored or key not in self.real.get(resizing, {}):
            return stored
        return self.statistics("real", resizing, key)

    def frechet(self, images: bool = False, resizing: str = MAIN, spatial: bool = False) -> float | None:
        """The Frechet distance by our own path."""
        target, key = self.target(images, resizing, spatial), "spatial" if spatial else "features"
        if target is None or key not in self.generated[resizing]:
            return None
        root = self.once(("root", id(target["sigma"])), lambda: formulas.symmetric_root(target["sigma"]))
        generated = self.statistics("generated", resizing, key)
        return self.once(("fid", images, resizing, key), lambda: formulas.frechet(generated, target, root))

    def once(self, name: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        """What `compute` returns; it is called once for each name."""
        if name not in self._computed:
            self._computed[name] = compute()
        return self._computed[name]


@dataclass(frozen=True)
class Evaluator:
    """An evaluator: a row of the court's table.

    Attributes:
        kind: whose code it runs: OURS, FIDELITY, CLEAN_FID or ADM.
        name: the kind with its version or mode, as the table shows it.
        resizing: the way of resizing by which it takes its arrays from a case: MAIN, CLEAN or LEGACY.
        resize: how it resizes images, in words.
        real: the real side of its FID, in words.
        splits: the splits of its Inception score, in words.
        precision_recall: real images, order of the inputs and dtype of its precision and recall, in words.
        evaluate: function from a case to its metrics; None or missing where it has none.
    """

    kind: str
    name: str
    resizing: str
    resize: str
    real: str
    splits: str
    precision_recall: str
    evaluate: Callable[[Case], dict[str, float | None]]


def evaluators(case: Case, size: int) -> list[Evaluator]:
    """The evaluators that can evaluate this case, in the order of the table; images have `size` x `size` pixels."""
    from torch_fidelity import __version__ as fidelity

    inception = "spatial" in case.generated[MAIN]
    resize = f"bilinear of TensorFlow 1, {size} to 299" if inception else "none"
    count = len(case.real[MAIN]["features"]) if case.real else 0
    images, none = f"{count} images", "-"
    subset = count if case.real_subset is None else len(case.real_subset)
    by_subset, by_all = (f"k {case.neighbours}, {n} images, generated first, " for n in (subset, count))
    stored = "stored statistics" if case.stored else images
    shuffled = f"{SPLITS} of equal size, shuffled by seed 2020" if case.logits() is not None else none
    ordered = f"of {formulas.ADM_SPLIT} images, in file order" if case.logits() is not None else none

    rows = [Evaluator(OURS, OURS, MAIN, resize, stored, shuffled, by_subset + "float64" if count else none, ours)]
    if case.real:
        name = f"{FIDELITY} {fidelity}"
        rows.append(Evaluator(FIDELITY, name, MAIN, resize, images, shuffled, by_all + "float32", torch_fidelity))
        for resizing, mode, words in _clean_modes(case, resize, size):
            evaluate = partial(clean_fid, resizing=resizing)
            rows.append(Evaluator(CLEAN_FID, f"{CLEAN_FID} {mode}", resizing, words, images, none, none, evaluate))
    balls = by_subset + "float16" if count else none
    rows.append(Evaluator(ADM, ADM, MAIN, resize, stored, ordered, balls, adm_suite))
    return rows


def _clean_modes(case: Case, resize: str, size: int) -> list[tuple[str, str, str]]:
    """Modes of clean-fid: the way of resizing, the name of the mode, and the resize in words."""
    if CLEAN not in case.generated:
        return [(MAIN, "(functions)", resize)]
    return [
        (MAIN, "legacy_tensorflow", resize),
        (CLEAN, "clean", f"PIL bicubic, antialiased, {size} to 299"),
        (LEGACY, "legacy_pytorch", f"bilinear of PyTorch, {size} to 299"),
    ]


def ours(case: Case) -> dict[str, float | None]:
    """Our metrics, as `mar evaluate` computes them."""
    logits = case.logits()
    metrics = {"fid": case.frechet(), "sfid": case.frechet(spatial=True)}
    metrics["inception_score"] = None if logits is None else formulas.inception_score(logits)
    if not case.real:
        return metrics
    precision, recall = formulas.precision_recall(*case.subset_features(), case.neighbours)
    kid = float(formulas.kid(*case.subset_features(), SUBSETS, SUBSET).mean())
    return metrics | {"precision": precision, "recall": recall, "kid": kid}


def torch_fidelity(case: Case) -> dict[str, float | None]:
    """torch-fidelity's metrics by its own functions, with its defaults, on float32 features; input 1 is generated."""
    import torch
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    features = [torch.from_numpy(x) for x in case.features()]
    statistics = [metric_fid.fid_features_to_statistics(x) for x in features]
    size = min(SUBSET, *(len(x) for x in features))
    balls = metric_prc.prc_features_to_metric(
        *features, prc_neighborhood=case.neighbours, prc_batch_size=10_000, save_cpu_ram=True, verbose=False
    )
    kernel = metric_kid.kid_features_to_metric(*features, kid_subsets=SUBSETS, kid_subset_size=size, verbose=False)
    metrics = {
        "fid": metric_fid.fid_statistics_to_metric(*statistics, False)[metric_fid.KEY_METRIC_FID],
        "precision": balls[metric_prc.KEY_METRIC_PRECISION],
        "recall": balls[metric_prc.KEY_METRIC_RECALL],
        "kid": kernel[metric_kid.KEY_METRIC_KID_MEAN],
    }
    if (logits := case.logits()) is not None:
        score = metric_isc.isc_features_to_metric(torch.from_numpy(logits), splits=min(SPLITS, len(logits)))
        metrics["inception_score"] = score[metric_isc.KEY_METRIC_ISC_MEAN]
    return metrics


def clean_fid(case: Case, resizing: str) -> dict[str, float | None]:
    """clean-fid's metrics by its own functions, of images that were resized as one of its modes does."""
    from cleanfid.fid import fid_from_feats, kernel_distance

    generated, real = case.features(resizing)
    with warnings.catch_warnings(), global_seed(CLEAN_SEED):
        warnings.simplefilter("ignore")  # scipy warns of singular covariances and of changes in its next version
        kernel = kernel_distance(real, generated, SUBSETS, SUBSET)
        return {"fid": float(fid_from_feats(generated, real)), "kid": kernel}


def adm_suite(case: Case) -> dict[str, float | None]:
    """The metrics of ADM's evaluator for the exported file, computed by `mar.crosscheck.adm`."""
    metrics: dict[str, float | None] = {}
    for name, key in (("fid", "features"), ("sfid", "spatial")):
        target = case.target(spatial=key == "spatial")
        if target is None or key not in case.generated[MAIN]:
            metrics[name] = None
        else:
            metrics[name] = adm.frechet(case.statistics("generated", key=key), target)
    if (logits := case.adm_logits()) is not None:
        metrics["inception_score"] = formulas.ordered_inception_score(logits, case.adm_labels())
    if case.real:
        metrics["precision"], metrics["recall"] = adm.precision_recall(*case.subset_features(), case.neighbours)
    return metrics


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, from which clean-fid draws, and put it back as it was."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
