"""`mar doctor`: does this machine, with its torch and Python, compute the numbers that were computed before?

A micro-run trains a tokenizer and a model of each kind for some steps on one thread of the CPU and draws images. Its
losses and images are compared with those that config/golden/golden.json has recorded. Other processors and versions
round otherwise; a drift is more than that.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mar.runtime import devices, runlog
from mar.runtime.files import Part, Record, Sha256, read, sha256, write
from mar.runtime.provenance import Provenance, provenance
from mar.study import layout
from mar.study.products import used_tokenizers
from mar.study.reading import load
from mar.study.records import TokenManifest

STUDY, GOLDEN = layout.shipped("golden", "study.yaml"), layout.shipped("golden", "golden.json")
ROUNDING = 1e-5  # relative difference of losses that other roundings explain (1e-7 was seen over these steps)
LEVELS = 0.1  # of 255: difference of the mean of an image that they explain
# Where a tokenizer chose another code of two that are equally near, its tokens differ, and so much more is rounding
# (losses differed by 1e-3 when MKL took other kernels).
JUMP = 300.0
SAME, NEAR, DRIFT = "same to the bit", "same within rounding", "DRIFT"


class Drawn(Part):
    """A sample set of the micro-run: checksum of its images, and the mean of each."""

    sha256: Sha256
    means: tuple[float, ...]


class GoldenRecord(Record):
    """config/golden/golden.json: losses and images of the micro-run.

    Attributes:
        losses: of each training, by its folder, in the order of its steps.
        samples: images of each sample set, by its name.
        ids: checksum of the ids that a training was on, by the name of its variant; none of continuous tokens.
    """

    losses: dict[str, tuple[float, ...]]
    ids: dict[str, Sha256]
    samples: dict[str, Drawn]
    provenance: Provenance


def run() -> GoldenRecord:
    """The micro-run, in a folder of its own that is removed."""
    import torch

    from mar.data.prepare import prepare
    from mar.sampling.sample_sets import sample
    from mar.tokenizers import encode, train
    from mar.training import trainer

    study = load(STUDY)
    threads, chosen = torch.get_num_threads(), os.environ.get(devices.CHOSEN, "")
    torch.set_num_threads(1)
    devices.choose("cpu")
    try:
        with tempfile.TemporaryDirectory(prefix="mar-doctor-") as place, contextlib.redirect_stdout(io.StringIO()):
            root = Path(place) / study.study
            prepare(study, root)
            losses, samples, ids = {}, {}, {}
            for name in used_tokenizers(study):
                train.train(study, root, name)
                encode.encode(study, root, name)
                losses[f"tokenizers/{name}"] = _losses(layout.tokenizer(root, name))
            for name, variant in study.variants.items():
                trainer.train(study, root, name, 0)
                losses[f"runs/{name}"] = _losses(layout.run(root, name, 0))
                tokens = read(layout.token_manifest(root, variant.tokenizer), TokenManifest)
                if tokens.kind == "ids":
                    ids[name] = tokens.shards[0].sha256
                for setting in variant.sampling:
                    sample(study, root, name, 0, setting)
                    (file,) = layout.samples(root, layout.sample_set(name, 0, setting)).glob("chunk-*.npy")
                    means = np.load(file).reshape(study.metrics.samples, -1).mean(axis=1)
                    samples[f"{name}/{setting}"] = Drawn(sha256=sha256(file), means=tuple(map(float, means)))
            return GoldenRecord(losses=losses, samples=samples, ids=ids, provenance=provenance())
    finally:
        torch.set_num_threads(threads)
        devices.choose(chosen)


def _losses(folder: Path) -> tuple[float, ...]:
    return tuple(line["loss"] for line in runlog.read(folder / layout.LOG))


def compare(golden: GoldenRecord, now: GoldenRecord) -> Iterator[tuple[str, str, str]]:
    """Name of each training and sample set, how it compares with the recorded one, and by how much it differs."""

    def most(limit: float, variant: str) -> float:
        """The largest difference that rounding explains, of what a variant makes."""
        return limit * (JUMP if golden.ids.get(variant) != now.ids.get(variant) else 1.0)

    for name in dict.fromkeys([*golden.losses, *now.losses]):
        a, b = golden.losses.get(name, ()), now.losses.get(name, ())
        if a == b:
            yield name, SAME, ""
        elif len(a) != len(b):
            yield name, DRIFT, f"{len(a)} losses were recorded, {len(b)} are computed"
        else:
            gaps = [abs(x - y) / max(abs(x), 1e-9) for x, y in zip(a, b, strict=True)]
            first = next(step for step, gap in enumerate(gaps) if gap)
            text = f"losses differ from line {first + 1} on, by at most {max(gaps):.1e} of them"
            yield name, NEAR if max(gaps) <= most(ROUNDING, name.partition("/")[2]) else DRIFT, text
    for name in dict.fromkeys([*golden.samples, *now.samples]):
        one, other = golden.samples.get(name), now.samples.get(name)
        if one is None or other is None or len(one.means) != len(other.means):
            yield f"samples/{name}", DRIFT, "another number of images was recorded"
        elif one.sha256 == other.sha256:
            yield f"samples/{name}", SAME, ""
        else:
            gap = max(abs(x - y) for x, y in zip(one.means, other.means, strict=True))
            outcome = NEAR if gap <= most(LEVELS, name.partition("/")[0]) else DRIFT
            yield f"samples/{name}", outcome, f"means of images differ by at most {gap:.2g} of 255"


def examine(file: Path) -> tuple[list[str], bool]:
    """What `mar doctor` prints, and whether nothing drifted.

    Raises:
        ValueError: the file holds no recorded micro-run.
    """
    golden, now = read(file, GoldenRecord), run()
    found = list(compare(golden, now))
    lines = [f"recorded under {_under(golden.provenance)}", f"computed under {_under(now.provenance)}"]
    lines += [f"  {outcome:<20} {name}{f': {text}' if text else ''}" for name, outcome, text in found]
    drifted = [name for name, outcome, _ in found if outcome == DRIFT]
    if drifted:
        lines.append(f"{len(drifted)} of {len(found)} drifted: numbers made here do not compare with those made before")
    else:
        lines.append(f"nothing drifted: {sum(outcome == SAME for _, outcome, _ in found)} of {len(found)} to the bit")
    return lines, not drifted


def record(file: Path) -> None:
    """Write the micro-run of this machine and code as the one to compare with."""
    write(file, run())


def _under(made: Provenance) -> str:
    return f"Python {made.python}, torch {made.torch}, {made.machine}, commit {made.git_commit[:12]}"
