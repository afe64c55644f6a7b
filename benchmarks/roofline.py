"""What bounds sampling on an A100, by counting: operations, bytes and kernel starts of MAR-B, L and H.

Assumptions: ImageNet 256x256, 256 tokens, 100 diffusion steps, guidance (both branches computed), batch 256, half
precision. Operations as `mar plan` counts them (`mar/planning/costs.py`). Each call reads all its weights, and each
block reads and writes its activations (10 widths a token in the backbone, 8 in the head). 312 TFLOP/s, 2.0 TB/s. A
kernel starts in 5 us; there are 12 a block, 20 more a call of the head. Starts hide behind work where there is more of
it: a phase takes as long as the longest of the three. Latents are not decoded.
"""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.tables import Parts, Table
from mar.models.order import schedule
from mar.planning import costs
from mar.study.parts import Backbone, DiffusionHead, Head, Sampling
from mar.study.reading import load

FLOPS, BYTES, START = 312e12, 2.0e12, 5e-6
KERNELS, EXTRA = 12, 20  # of a block; of a call of the head besides
BATCH, CLASSES, HALF = 256, 1000, 2  # images, classes, bytes of a number
DRAW = Sampling(steps=64, diffusion_steps=100, guidance=3.0)
MODELS, STEPS = ("mar-b", "mar-l", "mar-h"), (8, 16, 32, 64, 128, 256)

Bound = tuple[float, float, str]  # operations an image, least seconds an image, and what bounds them


def report() -> Parts:
    """The three models at 64 steps, their trade-off curves, and what the paper measured."""
    study = load("config/imagenet256.yaml")
    parts = {name: costs.parts(study, name, CLASSES) for name in MODELS}
    drawn = Table(
        head=["64 steps", "part", "TFLOP an image", "bound s an image", "by"], form=["", "", ".1f", ".4f", ""], rows=[]
    )
    curves = Table(
        head=["bound s an image", *(f"{steps} steps" for steps in STEPS)], form=["", *[".3f"] * len(STEPS)], rows=[]
    )
    for name, (backbone, head, _, tokens) in parts.items():
        for part, (work, seconds, cause) in zip(
            ("backbone", "head"), bounds(backbone, head, tokens, DRAW.steps), strict=True
        ):
            drawn.rows.append([name, part, work / 1e12, seconds, cause])
        sums = (sum(bound[1] for bound in bounds(backbone, head, tokens, steps)) for steps in STEPS)
        curves.rows.append([name, *sums])
    backbone, _, _, tokens = parts["mar-l"]
    heads = Table(
        head=["Table 3: MAR-L with head", "paper s an image", "bound: backbone", "head", "head by", "paper / bound"],
        form=["", "", ".4f", ".4f", "", ".1f"],
        rows=[],
    )
    for row in paper():
        name = f"{row['mlp_blocks']}x{row['mlp_width']}"
        (_, seconds, _), (_, head_seconds, cause) = bounds(
            backbone, study.heads[f"diffloss-{name}"], tokens, DRAW.steps
        )
        measured = row["seconds_per_image"]
        ratio = float(measured) / (seconds + head_seconds)
        heads.rows.append([name, measured, seconds, head_seconds, cause, ratio])
    return [drawn, curves, heads]


def bounds(backbone: Backbone, head: Head, tokens: costs.Tokens, steps: int) -> tuple[Bound, Bound]:
    """Bounds of the backbone and of the head in a sampling run of so many autoregressive steps."""
    model = costs.model_of(backbone, head, tokens)
    weights, head_weights = costs.count_parameters(model.backbone), costs.count_parameters(model.head)
    assert isinstance(head, DiffusionHead) and isinstance(DRAW.diffusion_steps, int)
    rows, width, depth, calls = 2 * BATCH, head.width, head.depth, DRAW.diffusion_steps
    counts = costs.sampling(backbone, head, tokens, DRAW.model_copy(update={"steps": steps}), BATCH)
    ours, heads = (Phase(BATCH * count) for count in counts)
    for start, stop in schedule(tokens.tokens, steps):
        seen = 2 * backbone.buffer + start + tokens.tokens  # by the encoder and the decoder
        moved = weights + 10 * rows * seen * backbone.width * backbone.depth
        ours.add(1, moved, 2 * backbone.depth * KERNELS)
        heads.add(calls, head_weights + 8 * rows * (stop - start) * width * depth, depth * KERNELS + EXTRA)
    return ours.bound(), heads.bound()


class Phase:
    """Operations of a batch, and the numbers that it moves and the kernels that it starts, added up."""

    def __init__(self, flops: float) -> None:
        self.flops, self.moved, self.starts = flops, 0.0, 0.0

    def add(self, calls: int, moved: float, starts: float) -> None:
        """Count in so many calls of the same kind."""
        self.moved, self.starts = self.moved + calls * moved, self.starts + calls * starts

    def bound(self) -> Bound:
        """For one image of the batch."""
        seconds = {
            "operations": self.flops / FLOPS,
            "bytes": HALF * self.moved / BYTES,
            "kernel starts": START * self.starts,
        }
        cause = max(seconds, key=lambda name: seconds[name])
        return self.flops / BATCH, seconds[cause] / BATCH, cause


def paper() -> list[dict[str, str]]:
    """Rows of the paper's Table 3: heads of several widths, 64 autoregressive and 100 diffusion steps."""
    with open(Path("config/paper/mar_table3.csv"), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
