"""What products of matrices are computed in, and how gradients are scaled for it."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp
from typing import TYPE_CHECKING

from .errors import TrainDeeployError

if TYPE_CHECKING:
    from .target import Target

PRECISIONS = ("fp32", "mixed")
DEFAULT_LOSS_SCALE = 1024.0
LARGEST_LOSS_SCALE = 2.0**24


@dataclass(frozen=True)
class Precision:
    """The precision of a training step.

    name: "fp32", or "mixed": products of matrices in FP16, all else in FP32.
    loss_scale: what gradients are multiplied by until the update, a power of two; None is 1024 with "mixed",
        and 1 otherwise.
    Errors: a name or number that is none of these.
    """

    name: str = "fp32"
    loss_scale: float | None = None

    def __post_init__(self) -> None:
        if self.name not in PRECISIONS:
            raise TrainDeeployError(f"unknown precision '{self.name}'; there are: {', '.join(PRECISIONS)}")
        if not 1 <= self.scale <= LARGEST_LOSS_SCALE or frexp(self.scale)[0] != 0.5:
            raise TrainDeeployError(f"loss scale {self.scale:g} is not a power of two from 1 to 2^24")

    @property
    def scale(self) -> float:
        """What gradients are multiplied by."""
        if self.loss_scale is not None:
            return self.loss_scale
        return DEFAULT_LOSS_SCALE if self.name == "mixed" else 1.0

    @property
    def options(self) -> str:
        """As options of the pipeline td-graph."""
        return f"precision={self.name} loss-scale={self.scale!r}"

    def check(self, target: Target) -> None:
        """Raises TrainDeeployError if a target has nothing to compute this with."""
        if self.name == "mixed" and "fp16" not in target.redmule_formats:
            has = (
                f"reads {', '.join(target.redmule_formats)} only"
                if target.redmule_formats
                else "is not there"
            )
            raise TrainDeeployError(
                f"precision 'mixed' needs a RedMulE that reads fp16; that of target '{target.name}' {has}"
                " (pulp-redmule-fp16 has one)"
            )
