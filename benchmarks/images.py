"""Images to features and to tokens, end to end: files of 500x375 decoded, cropped to 256x256, judged, written.

torch-fidelity's own call on the same files (its resize and crop) is the baseline, with its default of 4 loading
processes. CPU seconds count all processes; wall seconds are those of this machine as busy as it is. The small network
averages pixels, so that reading is all the work; Inception has random weights, and is nearly all the work.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch_fidelity import calculate_metrics, register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from benchmarks.tables import Pairs, Parts, Row, Table
from mar.data.prepare import prepare
from mar.features import features, image_sets
from mar.features.networks import extractors, inception
from mar.features.networks.extractors import Extractor
from mar.metrics import formulas
from mar.runtime.files import write
from mar.runtime.folders import claim
from mar.runtime.provenance import provenance
from mar.study import layout
from mar.study.parts import ImageFolder
from mar.study.reading import resolve
from mar.study.records import TokenizerRecord
from mar.study.stage_keys import tokenizer_key
from mar.study.study import Study
from mar.tokenizers.autoencoder import build
from mar.tokenizers.encode import encode

FILES, MANY, FEW = 50, 1200, 24  # different files; images of the small network and of Inception
GROWTH = (600, 2400)  # the first is encoded too
PAIRS, SIDE = 2, 256
CPU = torch.device("cpu")
# Asks for the commit while it is small: git, which it starts for that, counts as a child as large as it is itself.
PEAK = """
from mar.runtime.provenance import git_commit; git_commit()
import resource, sys; from pathlib import Path; from benchmarks import images
images.ours(images.study(Path(sys.argv[1])), images.small())
own = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(int(own) / 1e3, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3)
"""


class Small(FeatureExtractorBase):
    """Pixels averaged to 8x8, for torch-fidelity."""

    def __init__(self, name: str, features_list: list[str], **unused: object) -> None:
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """All that there is."""
        return ("pixels",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The same for all."""
        return "pixels"

    @staticmethod
    def can_be_compiled() -> bool:
        """Not asked for."""
        return False

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """uint8 (B, 3, H, W) to (B, 192)."""
        return (averaged(images),)


def averaged(images: Tensor) -> Tensor:
    """Pixels averaged to 8x8, (B, 192)."""
    return functional.adaptive_avg_pool2d(images.float() / 255, 8).flatten(1)


def small() -> Extractor:
    """The same for us."""

    def judge(images: Tensor) -> dict[str, Tensor]:
        return {"features": averaged(images), "logits": averaged(images)}

    return Extractor("small", "random", "", nn.Identity(), judge, CPU, 64)


def judge(weights: Path) -> Extractor:
    """Inception from a file, as `mar features` loads it."""
    return extractors._extractor("inception", "random", "", extractors._network("inception", weights), CPU, None)


def report() -> Parts:
    """Seconds of both, of encoding, and memory as images grow in number."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "drawn")
        many, few, *more = (study(tree(folder, count)) for count in (MANY, FEW, *GROWTH))
        weights = folder / "inception.pth"
        torch.save(inception.random(0).state_dict(), weights)
        register_feature_extractor("small", Small)
        torch.set_num_threads(2)
        rows = [
            pairs(f"small network, {MANY:,} images", lambda: theirs(many, "small"), lambda: ours(many, small())),
            pairs(
                f"Inception, {FEW} images",
                lambda: theirs(few, "inception-v3-compat", str(weights)),
                lambda: ours(few, judge(weights)),
            ),
        ]
        wall, cpu = seconds(lambda: encoded(more[0]))
        memory = [peak(of) for of in more]
    held = Table(
        head=["images", "peak memory of the process MB", "of its largest worker MB"],
        form=[",.0f", ".0f", ".0f"],
        rows=[[n, own, worker] for n, (own, worker) in zip(GROWTH, memory, strict=True)],
    )
    return [
        Pairs(rows=rows, cpu="CPU s", wall="wall s"),
        f"Encoding {GROWTH[0]} images by a KL tokenizer of 8 to 16 channels while a worker process reads: "
        f"{wall:.1f} s, {cpu:.1f} CPU s of all processes, {cpu / wall:.2f} cores busy.",
        held,
    ]


def pairs(name: str, baseline: Callable[[], object], ours: Callable[[], object]) -> Row:
    """A row of the table: pairs whose order changes, with CPU seconds of all processes and wall seconds."""
    found = []
    for number in range(PAIRS):
        both = [(baseline, 0), (ours, 1)][:: 1 if number % 2 == 0 else -1]
        found.append([took for _, took in sorted((place, seconds(action)) for action, place in both)])
    wall, cpu = ([(base[clock], our[clock]) for base, our in found] for clock in (0, 1))
    return Row(name=name, cpu=cpu, wall=wall)


def seconds(action: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this process and of those that it started and saw end."""
    wall, before = time.perf_counter(), os.times()
    with contextlib.redirect_stdout(io.StringIO()):
        action()
    after = os.times()
    return time.perf_counter() - wall, sum(after[:4]) - sum(before[:4])


def draw(folder: Path) -> None:
    """JPEG files of 500x375 with details of 8 pixels, about 60 KB each."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(FILES):
        coarse = Image.fromarray(rng.integers(256, size=(48, 64, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)


def tree(folder: Path, count: int) -> Path:
    """A folder of images as studies have them: links to the drawn files, `count` in train/, two in val/."""
    place = folder / f"images{count}"
    for split, images in (("train", count), ("val", 2)):
        (place / split / "a").mkdir(parents=True)
        for number in range(images):
            os.link(folder / "drawn" / f"{number % FILES}.jpg", place / split / "a" / f"{number:05d}.jpg")
    return place


def study(images: Path) -> Study:
    """A study of these images, prepared."""
    values: dict[str, Any] = {
        "study": "benchmark",
        "data": {"kind": "imagefolder", "path": str(images), "image_size": SIDE},
        "tokenizers": {
            "kl": {"kind": "kl", "kl_weight": 1e-6, "stride": 16, "channels": [8, 8, 8, 16, 16], "latent_channels": 16}
            | {"layers": 1, "images": 64, "learning_rate": 1e-3}
        },
        "backbones": {"masked": {"kind": "masked", "width": 16, "depth": 1, "heads": 2}},
        "heads": {"diffloss": {"kind": "diffusion", "width": 16, "depth": 1, "noise_draws": 1}},
        "recipes": {"short": {"images": 64, "batch": 64, "checkpoint_images": 64, "log_images": 64}},
        "sampling": {"plain": {"steps": 4, "diffusion_steps": 2}},
        "variants": {
            "mar": {"tokenizer": "kl", "order": "random", "backbone": "masked", "head": "diffloss", "recipe": "short"}
            | {"sampling": ["plain"]}
        },
        "metrics": {"samples": 50, "chunk": 50, "extractors": ["inception"]},
        "speed": {"batch": 4},
    }
    found = resolve(values, "benchmark.yaml")
    with contextlib.redirect_stdout(io.StringIO()):
        prepare(found, images / "results")
    return found


def folder_of(of: Study) -> Path:
    """The folder of images of such a study."""
    assert isinstance(of.data, ImageFolder)
    return Path(str(of.data.path))


def ours(of: Study, network: Extractor) -> None:
    """Features of the train split into files, and the Inception score of their logits."""
    root = folder_of(of) / "results"
    with tempfile.TemporaryDirectory(dir=root) as folder:
        found = image_sets.of_split(of, root, "train")
        recipe = {"source": found.sha256}
        claim(folder, recipe)
        features.extract(found, network, Path(folder), recipe)
        kept = features.Features(Path(folder), features.manifest_of(found, network, Path(folder), network.chunk))
        formulas.inception_score(kept.array("logits"))


def theirs(of: Study, network: str, weights: str | None = None) -> None:
    """The same by one call."""
    calculate_metrics(
        input1=f"{folder_of(of)}/train/a",
        isc=True,
        feature_extractor=network,
        feature_extractor_weights_path=weights,
        samples_resize_and_crop=SIDE,
        cache=False,
        cuda=False,
        verbose=False,
    )


def encoded(of: Study) -> None:
    """Tokens of all images, by a tokenizer with random weights."""
    root = folder_of(of) / "results"
    folder = root / "tokenizers" / "kl"
    folder.mkdir(parents=True)
    save_file(build(of.tokenizers["kl"], SIDE).net.state_dict(), folder / "model.safetensors")
    claim(folder, {"slice": tokenizer_key(of, "kl")})
    record = TokenizerRecord(kind="kl", parameters=0, net={}, provenance=provenance())
    write(folder / layout.TOKENIZER, record)
    encode(of, root, "kl")


def peak(of: Study) -> tuple[float, float]:
    """Peak memory in MB of a process that makes features, and of its largest worker."""
    command = [sys.executable, "-c", PEAK, str(folder_of(of))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    own, worker = map(float, done.stdout.split()[-2:])
    return own, worker
