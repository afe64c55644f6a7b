"""A solver of one's own for the head `flow`: the midpoint method, two evaluations of the network a step."""

from typing import ClassVar, Literal

from mar.study.parts import Solver


class Midpoint(Solver):
    """What a setting says: `solver: "midpoint.py:Midpoint"`."""

    implementation: ClassVar[str] = "midpoint"
    label: ClassVar[str] = "midpoint"
    follows: ClassVar[Literal["diffusion", "flow"]] = "flow"
    each: ClassVar[int] = 2
    honours: ClassVar[tuple[str, ...]] = ("temperature",)

    def times(self, steps: int) -> int:
        """Number of times, evenly from 0 to 1: the ends of the steps and their middles."""
        return 2 * steps + 1


def midpoint(solver, velocity, x, steps):
    """Tokens (n, D) from noise x (n, D).

    Args:
        solver: the options.
        velocity: velocity (n, D) of x at a time, by its number among `times`.
        x: noise.
        steps: number of equal steps.
    """
    for step in range(steps):
        middle = x + velocity(x, 2 * step) / (2 * steps)
        x = x + velocity(middle, 2 * step + 1) / steps
    return x
