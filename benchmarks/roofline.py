"""What bounds sampling on an A100, by counting: operations, bytes and kernel starts of MAR-B, L and H.

Assumptions: ImageNet 256x256, 256 tokens, 100 diffusion steps, guidance (both branches computed), batch 256, half
precision. Operations by the formulas of `mar plan` (`mar/planning/costs.py`), which tests hold to 3 % of what torch
counts. Each call reads all its weights, and each block reads and writes its activations (10 widths a token in the
backbone, 8 in the head). 312 TFLOP/s, 2.0 TB/s. A kernel starts in 5 us; there are 12 a block, 20 more a call of the
head. Starts hide behind work where there is more of it: a phase takes as long as the longest of the three. Latents are
not decoded.
"""

from __future__ import annotations

import csv
from pathlib import Path

from mar.models.order import schedule
from mar.planning import costs
from mar.study.parts import Backbone, Head, Sampling
from mar.study.reading import load

FLOPS, BYTES, START = 312e12, 2.0e12, 5e-6
KERNELS, EXTRA = 12, 20  # kernel starts of a block; further ones of a call of the head
BATCH, CLASSES, HALF = 256, 1000, 2  # images, classes, bytes of a number
DRAW = Sampling(steps=64, diffusion_steps=100, guidance=3.0)
MODELS, STEPS = ("mar-b", "mar-l", "mar-h"), (8, 16, 32, 64, 128, 256)

Bound = tuple[float, float, str]  # operations per image, least seconds per image, and the resource that bounds them


def report() -> str:
    """The three models at 64 steps, their trade-off curves, and what the paper measured."""
    study = load("config/imagenet256.yaml")
    parts = {name: costs.parts(study, name, CLASSES) for name in MODELS}
    lines = ["| 64 steps | part | TFLOP an image | bound s an image | by |", "|---|---|---|---|---|"]
    curves = ["| bound s an image | " + " | ".join(f"{steps} steps" for steps in STEPS) + " |"]
    curves.append("|---|" + "---|" * len(STEPS))
    for name, (backbone, head, _, tokens) in parts.items():
        for part, (work, seconds, cause) in zip(
            ("backbone", "head"), bounds(backbone, head, tokens, DRAW.steps), strict=True
        ):
            lines.append(f"| {name} | {part} | {work / 1e12:.1f} | {seconds:.4f} | {cause} |")
        sums = (sum(bound[1] for bound in bounds(backbone, head, tokens, steps)) for steps in STEPS)
        curves.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in sums) + " |")
    backbone, _, _, tokens = parts["mar-l"]
    table = ["| Table 3: MAR-L with head | paper s an image | bound: backbone | head | head by | paper / bound |"]
    table.append("|---|---|---|---|---|---|")
    for row in paper():
        name = f"{row['mlp_blocks']}x{row['mlp_width']}"
        found = bounds(backbone, study.heads[f"diffloss-{name}"], tokens, DRAW.steps)
        (_, seconds, _), (_, head_seconds, cause) = found
        measured = float(row["seconds_per_image"])
        ratio = measured / (seconds + head_seconds)
        table.append(f"| {name} | {measured} | {seconds:.4f} | {head_seconds:.4f} | {cause} | {ratio:.1f} |")
    return "\n".join([*lines, "", *curves, "", *table])


def bounds(backbone: Backbone, head: Head, tokens: costs.Tokens, steps: int) -> tuple[Bound, Bound]:
    """Bounds of the backbone and of the head when sampling with `steps` autoregressive steps."""
    rows, head_weights = 2 * BATCH, costs.head_parameters(head, backbone.width, tokens)
    weights = costs.model_parameters(backbone, head, tokens) - head_weights
    width, depth = head.width or 0, head.depth or 0
    ours, heads, calls = Phase(), Phase(), DRAW.diffusion_steps or 1
    for start, stop in schedule(tokens.count, steps):
        positions = 2 * backbone.buffer + start + tokens.count  # positions that the encoder and the decoder process
        numbers_moved = weights + 10 * rows * positions * backbone.width * backbone.depth
        ours.add(
            1, rows * sum(costs.masked_flops(backbone, tokens, start)), numbers_moved, 2 * backbone.depth * KERNELS
        )
        tokens_drawn = rows * (stop - start)
        work = tokens_drawn * costs.head_flops(head, backbone.width, tokens)
        heads.add(calls, work, head_weights + 8 * tokens_drawn * width * depth, depth * KERNELS + EXTRA)
    return ours.bound(), heads.bound()


class Phase:
    """Sums of operations, of numbers moved and of kernel starts over a batch."""

    def __init__(self) -> None:
        self.flops, self.moved, self.starts = 0.0, 0.0, 0.0

    def add(self, calls: int, flops: float, moved: float, starts: float) -> None:
        """Add `calls` calls, each of so many operations, moved numbers and kernel starts."""
        self.flops, self.moved, self.starts = (
            self.flops + calls * flops,
            self.moved + calls * moved,
            self.starts + calls * starts,
        )

    def bound(self) -> Bound:
        """The bound for one image of the batch."""
        seconds = {
            "operations": self.flops / FLOPS,
            "bytes": HALF * self.moved / BYTES,
            "kernel starts": START * self.starts,
        }
        cause = max(seconds, key=lambda name: seconds[name])
        return self.flops / BATCH, seconds[cause] / BATCH, cause


def paper() -> list[dict[str, str]]:
    """Rows of the paper's Table 3: heads of several widths, 64 autoregressive and 100 diffusion steps."""
    with open(Path("config/paper/mar_table3.csv"), newline="") as file:
        return list(csv.DictReader(file))
