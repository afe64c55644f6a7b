"""`mar court`: the same images before several evaluators, side by side, with the reason for every difference.

Features are extracted once for each network and way of resizing, a batch at a time. Every evaluator computes its
metrics from them (`mar.crosscheck.evaluators`), and we switch to the conventions of each other evaluator until we get
its numbers (`mar.crosscheck.reasons`). Sets whose role, labels or order are known to be wrong are refused
(`mar.crosscheck.inputs`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mar.crosscheck import inputs, table
from mar.crosscheck.evaluators import CLEAN, LEGACY, MAIN, METRICS, Arrays, Case, evaluators
from mar.crosscheck.export_adm import SEED, shuffled
from mar.crosscheck.reasons import differences, order_matters, swapped
from mar.data.published import TABLE
from mar.features import image_sets
from mar.features.image_sets import Images
from mar.features.networks import extractors
from mar.features.networks.extractors import Extractor
from mar.features.references import Reference
from mar.metrics.moments import Statistics
from mar.runtime import devices
from mar.runtime.files import read
from mar.runtime.progress import Progress
from mar.study import layout
from mar.study.limits import REAL
from mar.study.records import DataManifest, MetricsFile
from mar.study.study import Study

BATCH = 50  # images
MOST_REAL = 50_000  # real images whose features fit memory

VGG = (
    "torch-fidelity run without arguments takes precision and recall from VGG-16, not from Inception; ADM and the "
    "paper take Inception, and so do these rows"
)
SWAPPED = (
    "direction: given the other way round, real images as input 1, which is how development versions of "
    "torch-fidelity had it, precision and recall change places"
)
LEGACY_TF = (
    "clean-fid legacy_tensorflow lets the TensorFlow graph resize, as torch-fidelity does: both rows have the same "
    "features. It is run on torch-fidelity's copy of the weights; NVIDIA's TorchScript file, which is code, is not "
    "loaded"
)
LEGACY_PT = (
    "clean-fid legacy_pytorch is there: its file pt_inception-2015-12-05-6726825d.pth carries the checksum of "
    "torch-fidelity's, so it is the same network; it resizes with PyTorch's bilinear and scales by 2/255 x - 1, the "
    "others by (x - 128) / 128"
)
NO_RESIZE = (
    "clean-fid has one row, its distances on these features: clean, legacy_tensorflow and legacy_pytorch differ in how "
    "they resize for Inception, and the study's classifier looks at the images as they are"
)
NO_IMAGES = (
    "the reference has statistics and no images: torch-fidelity, clean-fid, precision, recall and KID need images and "
    "are left out"
)


def court(
    source: str,
    reference: str = "",
    study: Study | None = None,
    root: Path | None = None,
    random: bool = False,
    count: int = 0,
    unknown_hash: bool = False,
    out: Path | None = None,
) -> None:
    """Judge one set of images by every evaluator and print the table, the reasons, time and memory.

    Args:
        source: the images to judge: a folder of `mar sample`, a folder of images, an .npz.
        reference: the real side: a name in config/assets.csv, an .npz, a folder of images, a split of the study;
            by default the real side of the study's own metrics.
        study: the study whose classifier, data and reference are used.
        root: the folder of its results.
        random: take Inception with random weights.
        count: the least number of images to judge.
        unknown_hash: accept a reference of which no checksum is known.
        out: folder into which the tables are written, too.

    Raises:
        ValueError: a set is refused, or weights are missing.
    """
    samples = inputs.open_samples(source, study, root)
    image_sets.at_least(samples, count)
    classes = list(read(layout.data_manifest(root), DataManifest).classes) if root else None
    labels = inputs.class_numbers(samples, classes)
    if samples.kind == "npz" and labels is not None:
        inputs.check_order(samples, labels)
    by_classifier = study if study and not random and study.metrics.extractors[0] == "classifier" else None
    network = "classifier" if by_classifier else "inception"
    images, published = inputs.open_reference(reference, unknown_hash, study, root, network)
    if images and images.count > MOST_REAL:
        raise ValueError(
            f"--reference {images.source}: holds {images.count} images; accepted: at most {MOST_REAL}, whose features "
            "fit memory; of larger sets a published reference, which has statistics of all and images of some "
            f"({TABLE})"
        )
    extractor_by_resizing = networks(by_classifier, root, random)
    main = extractor_by_resizing[MAIN]
    stored, notes = _stored(published, main)
    if images is None and stored is None:
        raise ValueError(f"--reference {reference}: has no images for {main.name}; accepted: a reference with images")
    name = published.name if published else images.source if images else ""
    title = f"Parity court: {samples.source} against {name}"
    print(title, flush=True)

    generated, digests, size = extract(samples, extractor_by_resizing)
    real: dict[str, Arrays] = {}
    if images:
        real, real_digests, real_size = extract(images, extractor_by_resizing)
        if real_size != size:
            raise ValueError(f"{samples.source}: images of side {size}, {name}: of {real_size}; accepted: one size")
        if copies := inputs.check_copies(samples.source, digests, real_digests, name):
            notes.append(f"{copies} of the judged images are bit for bit real ones")
    if study and root and not (images and images.source == "train split"):
        train = image_sets.of_split(study, root, "train")
        if train.count <= MOST_REAL:
            train_digests = [digest for rows in train.pieces() for digest in inputs.digests(rows)]
            inputs.check_copies(samples.source, digests, train_digests, "the study's train split")

    real_subset = None
    if images and images.count > REAL:
        real_subset = np.random.default_rng(study.seed if study else SEED).choice(images.count, REAL, replace=False)
    case = Case(generated, real, stored, order(samples), labels, real_subset, _bias(main))
    logits = case.logits()
    if labels is None and logits is not None and samples.kind == "npz":
        inputs.check_order(samples, logits.argmax(1))
    if labels is not None and logits is not None and not random:
        notes.append(inputs.check_labels(samples, labels, logits, main.name == "classifier"))
    rows = []
    for evaluator in evaluators(case, size):
        with step(evaluator.name):
            rows.append((evaluator, evaluator.evaluate(case)))
    with step("reasons"):
        reasons = table.reasons(differences(case, rows))
        notes += remarks(case, samples)
    if samples.kind == "samples" and root and not reference:
        notes += evaluated_before(samples, root, main.name, rows[0][1])
    weights = "random weights" if main.weights == "random" else f"sha256 {main.weights[:8]}"
    metrics = table.rows(rows, samples.count, f"{main.name}, {weights}")
    table.show(title, metrics, wide=240, first=len(METRICS))
    table.show("Why they differ", reasons, wide=240)
    for note in notes:
        print(f"- {note}", flush=True)
    if out:
        table.write(out, title, metrics, reasons, notes)
        print(f"{out / 'court.md'}, court.csv, court-reasons.csv", flush=True)


def _stored(published: Reference | None, main: Extractor) -> tuple[Statistics | None, list[str]]:
    """Statistics that come with a reference, if they are of this network, and what a reader of the table must know."""
    notes = [main.note] if main.note else []
    notes += [published.note] if published and published.note else []
    if not published or not published.statistics:
        return None, notes
    if main.name == "inception" and main.weights != "random":
        return published.statistics, notes
    return None, [*notes, f"the statistics of {published.name} are of the published Inception and are not used here"]


def extract(images: Images, extractor_by_resizing: dict[str, Extractor]) -> tuple[dict[str, Arrays], list[bytes], int]:
    """Arrays of a set by the way of resizing its images, a digest of each image, and their side in pixels.

    Raises:
        ValueError: the set cannot be read to its end, or features are not finite.
    """
    arrays: dict[str, Arrays] = {resizing: {} for resizing in extractor_by_resizing}
    seconds = dict.fromkeys(extractor_by_resizing, 0.0)
    digests: list[bytes] = []
    progress = Progress(f"features of {images.source}", images.count)
    with step(f"features of {images.count} images, {images.role}"):
        for batch in images.batches(BATCH):
            start = len(digests)
            for resizing, extractor in extractor_by_resizing.items():
                start_time = time.monotonic()
                for key, value in extractor(batch).items():
                    if not torch.isfinite(value).all():
                        raise ValueError(f"{images.source}: {key} of images from {start} on are not finite")
                    if key not in arrays[resizing]:
                        arrays[resizing][key] = np.empty((images.count, value.shape[1]), np.float32)
                    arrays[resizing][key][start : start + len(batch)] = value.numpy()
                seconds[resizing] += time.monotonic() - start_time
            digests += inputs.digests(batch.permute(0, 2, 3, 1).numpy())
            progress.update(len(batch))
    for resizing, spent in seconds.items():
        print(f"    shown as {resizing}: {spent:.1f} s", flush=True)
    return arrays, digests, batch.shape[2]


def order(samples: Images) -> np.ndarray:
    """Which image stands at each place of ADM's file, (n,): the .npz itself, or what `mar export-adm` would write."""
    return np.arange(samples.count) if samples.kind == "npz" else shuffled(samples.count, SEED)


def remarks(case: Case, samples: Images) -> list[str]:
    """What the table cannot show: why rows are missing, and what the order and the direction of inputs change."""
    notes = []
    if not case.real:
        notes.append(NO_IMAGES)
    elif CLEAN in case.generated:
        notes += [LEGACY_TF, LEGACY_PT, VGG]
    else:
        notes.append(NO_RESIZE)
    if case.real:
        values = swapped(case)
        notes.append(SWAPPED + (f": precision {values[0]:.4g}, recall {values[1]:.4g}" if values else ""))
    if scores := order_matters(case):
        notes.append(
            f"order: ten consecutive splits of these images score {scores[0]:.6g} in the order of ADM's file, "
            f"{scores[1]:.6g} in a file sorted by class, which is refused"
        )
    if samples.kind != "npz":
        notes.append(f"the order of ADM's file is that of `mar export-adm`, drawn from seed {SEED}")
    return notes


def evaluated_before(samples: Images, root: Path, network: str, ours: dict[str, float | None]) -> list[str]:
    """A note with the metrics that the study's own evaluation has of these samples, beside ours here."""
    folder = Path(samples.source).resolve()
    if not folder.is_relative_to(base := layout.samples(root, "").resolve()):
        return []
    file = layout.metrics(root, folder.relative_to(base).as_posix())
    if not file.exists():
        return []
    record = read(file, MetricsFile)
    if record.extractor != network or record.inputs.get("samples") != samples.sha256:
        return []
    pairs = [(name, record.metrics.get(name), value) for name, value in ours.items()]
    shown = [f"{name} {old.value:.6g} (here {new:.6g})" for name, old, new in pairs if old and new is not None]
    return [f"{file} says {', '.join(shown)}"]


def _bias(extractor: Extractor) -> np.ndarray | None:
    """Bias of the classifier's last layer (K,), which its logits contain; None for Inception, whose logits do not."""
    if extractor.name != "classifier":
        return None
    bias: np.ndarray = extractor.network.get_parameter("logits.bias").detach().cpu().numpy()
    return bias


def networks(study: Study | None, root: Path | None, random: bool) -> dict[str, Extractor]:
    """The extractors by the way of resizing images: Inception in three ways, or with a study its classifier in one.

    Raises:
        ValueError: the weights of Inception are not on disk; the message says how to fetch them.
    """
    device = devices.device()
    if study:
        return {MAIN: extractors.load("classifier", study, root, device)}
    from mar.features.networks import inception

    try:
        main = extractors.load("inception", None, root, device, random)
    except ValueError as error:
        raise ValueError(
            f"{error}. Without them: --random-weights, whose numbers show where the evaluators agree and say nothing "
            "about the images; or --study with a study that its classifier judges"
        ) from None
    network: Any = main.network
    clean = dataclasses.replace(
        main, name=CLEAN, extract=lambda images: inception.extract(network, inception.clean(images))
    )
    legacy = dataclasses.replace(
        main, name=LEGACY, extract=lambda images: inception.extract(network, legacy_pytorch(images))
    )
    return {MAIN: main, CLEAN: clean, LEGACY: legacy}


def legacy_pytorch(images: torch.Tensor) -> torch.Tensor:
    """Images resized and scaled as in clean-fid's legacy_pytorch, in the units of `inception.extract`.

    It resizes with PyTorch's bilinear without antialiasing and scales by 2/255 x - 1, `extract` by (x - 128) / 128.

    Args:
        images: uint8 (B, 3, H, W).

    Returns:
        float32 (B, 3, 299, 299).
    """
    from cleanfid.resize import build_resizer

    resize = build_resizer("legacy_pytorch")
    resized = np.stack([resize(image) for image in images.permute(0, 2, 3, 1).cpu().numpy()])  # (B, 299, 299, 3)
    pixels = torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous().to(images.device)
    return (pixels / 255.0 * 2.0 - 1.0) * 128.0 + 128.0


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Print how long a step took and the most memory that the process held meanwhile."""
    start = time.monotonic()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_bytes(b"5")  # resets the peak of memory, where Linux lets a process do so
    yield
    peak = f", peak memory {_peak() / 1e9:.2f} GB"
    print(f"  {name}: {time.monotonic() - start:.1f} s{peak}", flush=True)


def _peak() -> int:
    """Peak of resident memory in bytes: of this step where Linux tells it, else of the process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
