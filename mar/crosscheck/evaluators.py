"""The evaluators of the parity court: what each computes from the features of the same images, by its own functions."""

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

MAIN, CLEAN, LEGACY = "main", "clean", "legacy_pytorch"  # how the network is shown the images
OURS, FIDELITY, CLEAN_FID, ADM = "ours", "torch-fidelity", "clean-fid", "ADM suite"
METRICS = ("fid", "sfid", "inception_score", "precision", "recall", "kid")
SUBSETS, SUBSET = 100, 1000  # of KID, in torch-fidelity and in clean-fid
SPLITS = 10
CLEAN_SEED = 0  # clean-fid draws its subsets from numpy's global generator, which the court seeds

Arrays = dict[str, np.ndarray]  # "features" (n, F); where the network has them "logits" (n, K), "spatial" (n, 2023)


@dataclass
class Case:
    """What the court has before it.

    Attributes:
        generated: features of the judged images, by how the network was shown them.
        real: the same of the reference's images; empty if it has none.
        stored: statistics that the reference brings along: mu, sigma and, for sFID, mu_s, sigma_s.
        order: which judged image stands at each place of ADM's file, (n,).
        labels: classes asked for, (n,), in the order of `generated`; None where nobody knows them.
        near: which real images our path and ADM's take for precision and recall, and ours for KID; None: all.
        bias: of the last layer, where the logits contain it, (K,); Inception's do not.
        neighbours: k of precision and recall.
    """

    generated: dict[str, Arrays]
    real: dict[str, Arrays]
    stored: Statistics | None
    order: np.ndarray
    labels: np.ndarray | None = None
    near: np.ndarray | None = None
    bias: np.ndarray | None = None
    neighbours: int = 3
    _kept: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def features(self, shown: str = MAIN) -> tuple[np.ndarray, np.ndarray]:
        """Features of the judged images (n, F) and of the real ones (M, F)."""
        return self.generated[shown]["features"], self.real[shown]["features"]

    def balls(self) -> tuple[np.ndarray, np.ndarray]:
        """The same with the real images of precision and recall."""
        generated, real = self.features()
        return generated, real if self.near is None else real[self.near]

    def logits(self) -> np.ndarray | None:
        """Logits of the judged images as the network gives them (n, K)."""
        return self.generated[MAIN].get("logits")

    def adm_logits(self) -> np.ndarray | None:
        """The same without the bias of the last layer and in the order of ADM's file."""
        logits = self.logits()
        if logits is None:
            return None
        return (logits if self.bias is None else logits - self.bias)[self.order]

    def adm_labels(self) -> np.ndarray | None:
        """Classes in the order of ADM's file; where nobody knows them, those that the network finds most likely."""
        if self.labels is not None:
            return self.labels[self.order]
        logits = self.logits()
        return None if logits is None else logits.argmax(1)[self.order]

    def statistics(self, side: str, shown: str = MAIN, key: str = "features") -> Statistics:
        """Mean and covariance of one side, "generated" or "real", computed once."""
        return self.once(("statistics", side, shown, key), lambda: moments.of(getattr(self, side)[shown][key]))

    def target(self, images: bool = False, shown: str = MAIN, spatial: bool = False) -> Statistics | None:
        """The real side of a Frechet distance: what is stored, or by choice what the images at hand give."""
        stored = None if images or shown != MAIN else self.stored
        if spatial and stored:
            return {"mu": stored["mu_s"], "sigma": stored["sigma_s"]} if "mu_s" in stored else None
        key = "spatial" if spatial else "features"
        if stored or key not in self.real.get(shown, {}):
            return stored
        return self.statistics("real", shown, key)

    def frechet(self, images: bool = False, shown: str = MAIN, spatial: bool = False) -> float | None:
        """The Frechet distance by our own path."""
        target, key = self.target(images, shown, spatial), "spatial" if spatial else "features"
        if target is None or key not in self.generated[shown]:
            return None
        root = self.once(("root", id(target["sigma"])), lambda: formulas.symmetric_root(target["sigma"]))
        generated = self.statistics("generated", shown, key)
        return self.once(("fid", images, shown, key), lambda: formulas.frechet(generated, target, root))

    def once(self, name: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """What `make` makes, kept under a name."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]


@dataclass(frozen=True)
class Evaluator:
    """A row of the court's table.

    Attributes:
        kind: whose code it runs: OURS, FIDELITY, CLEAN_FID or ADM.
        name: kind with version or mode, as the table shows it.
        shown: how the network is shown the images.
        resize, real, splits, balls: its conventions in words: resize; real side of FID; splits of the Inception
            score; real images, order of the inputs and dtype of precision and recall.
        judge: its numbers; None or missing where it has none.
    """

    kind: str
    name: str
    shown: str
    resize: str
    real: str
    splits: str
    balls: str
    judge: Callable[[Case], dict[str, float | None]]


def evaluators(case: Case, size: int) -> list[Evaluator]:
    """The evaluators that can judge this case, in the order of the table; images are of `size` x `size` pixels."""
    from torch_fidelity import __version__ as fidelity

    inception = "spatial" in case.generated[MAIN]
    resize = f"bilinear of TensorFlow 1, {size} to 299" if inception else "none"
    count = len(case.real[MAIN]["features"]) if case.real else 0
    images, none = f"{count} images", "-"
    near = count if case.near is None else len(case.near)
    each, every = (f"k {case.neighbours}, {n} images, generated first, " for n in (near, count))
    stored = "stored statistics" if case.stored else images
    shuffled = f"{SPLITS} of equal size, shuffled by seed 2020" if case.logits() is not None else none
    ordered = f"of {formulas.ADM_SPLIT} images, in file order" if case.logits() is not None else none

    rows = [Evaluator(OURS, OURS, MAIN, resize, stored, shuffled, each + "float64" if count else none, ours)]
    if case.real:
        name = f"{FIDELITY} {fidelity}"
        rows.append(Evaluator(FIDELITY, name, MAIN, resize, images, shuffled, every + "float32", torch_fidelity))
        for shown, mode, how in _clean_modes(case, resize, size):
            judge = partial(clean_fid, shown=shown)
            rows.append(Evaluator(CLEAN_FID, f"{CLEAN_FID} {mode}", shown, how, images, none, none, judge))
    rows.append(Evaluator(ADM, ADM, MAIN, resize, stored, ordered, each + "float16" if count else none, adm_suite))
    return rows


def _clean_modes(case: Case, resize: str, size: int) -> list[tuple[str, str, str]]:
    if CLEAN not in case.generated:
        return [(MAIN, "(functions)", resize)]
    return [
        (MAIN, "legacy_tensorflow", resize),
        (CLEAN, "clean", f"PIL bicubic, antialiased, {size} to 299"),
        (LEGACY, "legacy_pytorch", f"bilinear of PyTorch, {size} to 299"),
    ]


def ours(case: Case) -> dict[str, float | None]:
    """The path of `mar evaluate`."""
    logits = case.logits()
    found = {"fid": case.frechet(), "sfid": case.frechet(spatial=True)}
    found["inception_score"] = None if logits is None else formulas.inception_score(logits)
    if not case.real:
        return found
    precision, recall = formulas.precision_recall(*case.balls(), case.neighbours)
    kid = float(formulas.kid(*case.balls(), SUBSETS, SUBSET).mean())
    return found | {"precision": precision, "recall": recall, "kid": kid}


def torch_fidelity(case: Case) -> dict[str, float | None]:
    """torch-fidelity's own functions on float32 features, its defaults; input 1 is the generated set."""
    import torch
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    both = [torch.from_numpy(x) for x in case.features()]
    summed = [metric_fid.fid_features_to_statistics(x) for x in both]
    size = min(SUBSET, *(len(x) for x in both))
    balls = metric_prc.prc_features_to_metric(
        *both, prc_neighborhood=case.neighbours, prc_batch_size=10_000, save_cpu_ram=True, verbose=False
    )
    kernel = metric_kid.kid_features_to_metric(*both, kid_subsets=SUBSETS, kid_subset_size=size, verbose=False)
    found = {
        "fid": metric_fid.fid_statistics_to_metric(*summed, False)[metric_fid.KEY_METRIC_FID],
        "precision": balls[metric_prc.KEY_METRIC_PRECISION],
        "recall": balls[metric_prc.KEY_METRIC_RECALL],
        "kid": kernel[metric_kid.KEY_METRIC_KID_MEAN],
    }
    if (logits := case.logits()) is not None:
        score = metric_isc.isc_features_to_metric(torch.from_numpy(logits), splits=min(SPLITS, len(logits)))
        found["inception_score"] = score[metric_isc.KEY_METRIC_ISC_MEAN]
    return found


def clean_fid(case: Case, shown: str) -> dict[str, float | None]:
    """clean-fid's own distances, of images shown as one of its modes shows them."""
    from cleanfid.fid import fid_from_feats, kernel_distance

    generated, real = case.features(shown)
    with warnings.catch_warnings(), global_seed(CLEAN_SEED):
        warnings.simplefilter("ignore")  # of singular covariances and of scipy's next version
        kernel = kernel_distance(real, generated, SUBSETS, SUBSET)
        return {"fid": float(fid_from_feats(generated, real)), "kid": kernel}


def adm_suite(case: Case) -> dict[str, float | None]:
    """What ADM's evaluator computes from the exported file, by `mar.crosscheck.adm`."""
    found: dict[str, float | None] = {}
    for name, key in (("fid", "features"), ("sfid", "spatial")):
        target = case.target(spatial=key == "spatial")
        there = target is not None and key in case.generated[MAIN]
        found[name] = adm.frechet(case.statistics("generated", key=key), target) if there and target else None
    if (logits := case.adm_logits()) is not None:
        found["inception_score"] = formulas.ordered_inception_score(logits, case.adm_labels())
    if case.real:
        found["precision"], found["recall"] = adm.precision_recall(*case.balls(), case.neighbours)
    return found


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, from which clean-fid draws, and put it back as it was."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
