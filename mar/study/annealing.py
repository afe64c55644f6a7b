"""Numbers of denoising steps that fall over the autoregressive steps (DiSA, Zhao et al. 2025, arXiv:2505.20297).

The more tokens are known, the narrower is the distribution of the next ones, and the fewer denoising steps draw them.
The first autoregressive step takes `first` denoising steps and the last one `last`; between them their number falls
linearly, as half a period of a cosine, or at once in the middle (two-stage). Numbers are rounded down, as in the
authors' code. Nothing is trained for it.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from mar.study.kinds import Section
from mar.study.mistakes import MistakesError, of_validation

DIGITS = 9  # of the cosine schedule before it is rounded down, so that no last bit of a cosine decides


class Annealed(Section):
    """A number of denoising steps for each autoregressive step."""

    first: PositiveInt = Field(description="denoising steps at the first autoregressive step")
    last: PositiveInt = Field(description="at the last one; not more than at the first")
    schedule: Literal["linear", "cosine", "two-stage"] = Field(
        "linear", description="how the number falls; two-stage: to `last` in the middle"
    )

    @model_validator(mode="after")
    def _check(self) -> Annealed:
        if self.last > self.first:
            raise ValueError(f"first {self.first}, last {self.last}; accepted: last at most first")
        return self

    def at(self, step: int, steps: int) -> int:
        """The number at autoregressive step `step`, from 0, of so many; a single one is the first."""
        fall, end = self.first - self.last, max(1, steps - 1)
        if self.schedule == "two-stage":
            return self.first if 2 * step < end else self.last
        if self.schedule == "cosine":
            return self.last + math.floor(round(fall * (1 + math.cos(math.pi * step / end)) / 2, DIGITS))
        return self.last + fall * (end - step) // end

    def __str__(self) -> str:
        """As names of settings have it: 50-5-linear."""
        return f"{self.first}-{self.last}-{self.schedule}"


def falling(said: Any) -> int | Annealed:
    """What a mapping (or an `Annealed`) says; `first` and `last` that are equal are that number.

    Raises:
        MistakesError: a key or value is not accepted.
    """
    try:
        found = Annealed.model_validate(said)
    except ValidationError as error:
        raise MistakesError(of_validation(error, said)) from None
    return found.first if found.first == found.last else found


def _at_most(most: int) -> WrapValidator:
    """Reads a number of steps up to this one, or a mapping that says how it falls."""
    number: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(gt=0, le=most)])

    def read(value: Any, _: ValidatorFunctionWrapHandler) -> int | Annealed:
        said, key = (falling(value), ("first",)) if isinstance(value, dict | Annealed) else (value, ())
        try:
            checked = number.validate_python(said.first if isinstance(said, Annealed) else said)
        except ValidationError as error:
            raise MistakesError([m.below(key) for m in of_validation(error, said)]) from None
        return said if isinstance(said, Annealed) else checked

    return WrapValidator(read, json_schema_input_type=Annotated[int, Field(gt=0, le=most)] | Annealed)


DiffusionSteps = Annotated[int | Annealed, _at_most(1000)]  # of the process that a head is trained with
Evaluations = Annotated[int | Annealed, _at_most(50)]  # of the network of a flow
