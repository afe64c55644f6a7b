"""What half precision does to the first reverse step of Diffusion Loss, against fp32 with equal noise.

python -m benchmarks.half_precision     a table in Markdown; a few minutes of a core

The denoiser has the published size, three blocks of 1024, and is trained here for a short while on tokens of 16 numbers
around 64 centres, which suffices for the errors of one step: how far the tokens end from those of fp32 depends on how
well later steps correct them, and such a short training says nothing of that. Halves are torch's autocast on a CPU,
which rounds as a GPU does; only the order of sums differs there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from mar.models.heads.diffusion_loss import DiffusionLoss
from mar.runtime.noise import Noise
from mar.runtime.precision import autocast
from mar.study.parts import DiffusionHead, Sampling

CENTRES, DIM, CONDITION = 64, 16, 64
BATCH, STEPS, RATE = 256, 400, 5e-4
DRAWN = 256  # tokens that are compared
DIFFUSION_STEPS, GUIDANCE = (100, 25, 10), (1.0, 3.0)
CPU = torch.device("cpu")


def report() -> str:
    """A line for each number of diffusion steps, guidance scale and precision."""
    head, conditions = trained()
    asked = torch.arange(DRAWN) % CENTRES
    z, null = conditions[asked], conditions[-1].expand(DRAWN, -1)
    lines = [
        "| diffusion steps | guidance | an error of epsilon is multiplied by | precision | error of epsilon "
        "| shift of x after one step |",
        "|---|---|---|---|---|---|",
    ]
    for steps in DIFFUSION_STEPS:
        for scale in GUIDANCE:
            exact = run(head, z, null, steps, scale, "fp32")
            for dtype in ("fp16", "bf16"):
                half = run(head, z, null, steps, scale, dtype)
                error, shift = ((a - b).square().mean().sqrt().item() for a, b in zip(half, exact, strict=True))
                size = exact[0].square().mean().sqrt().item()
                lines.append(
                    f"| {steps} | {scale:g} | {factor(head, steps):,.0f} | {dtype} | {error / size:.2%} | {shift:.2f} |"
                )
    return (
        f"Root mean squares over {DRAWN:,} tokens: of the first epsilon relative to its size, and of x, whose noise "
        "has size 1, after the first reverse step.\n\n" + "\n".join(lines)
    )


def tokens(centres: Tensor, asked: Tensor, noise: Noise) -> Tensor:
    """Tokens (n, D) around the centres (C, D) of the asked numbers (n,)."""
    return centres[asked] + 0.3 * noise.normal(len(asked), DIM)


def trained() -> tuple[DiffusionLoss, Tensor]:
    """The head, and the conditions (C + 1, W) whose last one is the null condition."""
    torch.manual_seed(0)
    head = DiffusionLoss(DiffusionHead.of(kind="diffusion", width=1024, depth=3, noise_draws=1), CONDITION, DIM)
    conditions, centres = Noise("conditions").normal(CENTRES + 1, CONDITION), Noise("centres").normal(CENTRES, DIM)
    optimizer = torch.optim.AdamW(head.parameters(), RATE)
    for step in range(STEPS):
        noise = Noise("train", step)
        asked = noise.integers(CENTRES, BATCH)
        kept = torch.where(noise.uniform(BATCH) < 0.1, CENTRES, asked)  # 10% without a condition, as published
        draws = head.draw(BATCH, torch.arange(BATCH), noise)
        loss = head.loss(conditions[kept], tokens(centres, asked, noise), draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval(), conditions


class Seen(Exception):
    """Ends a sampling of which enough was seen."""


@torch.no_grad()
def run(head: DiffusionLoss, z: Tensor, null: Tensor, steps: int, scale: float, dtype: str) -> tuple[Tensor, Tensor]:
    """The first epsilon and x after one step, (n, D) each, in a precision."""
    guided = null if scale > 1 else None
    seen: list[Tensor] = []
    inner = head.guided

    def watched(network: Callable[[Tensor], Tensor], x: Tensor, scale: float | None) -> Tensor:
        if seen:
            seen.append(x.float())
            raise Seen
        output = inner(network, x, scale)
        seen.append(output.float())
        return output

    head.guided = watched  # type: ignore[method-assign]
    try:
        with autocast(CPU, dtype), contextlib.suppress(Seen):
            settings = Sampling(steps=1, diffusion_steps=steps)
            head.sample(z, guided, settings, scale, Noise("draw"))
    finally:
        head.guided = inner  # type: ignore[method-assign]
    return seen[0][:, :DIM], seen[1]


def factor(head: DiffusionLoss, steps: int) -> float:
    """By how much the first reverse step multiplies an error of epsilon."""
    process = head.train_process.respaced(steps)
    at = process.reverse(steps - 1)
    return at.posterior_mean_x0 * at.sqrt_recipm1_alpha_bar


if __name__ == "__main__":
    print(report())
