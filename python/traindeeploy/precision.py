"""What products of matrices are computed in, and how gradients are scaled for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import frexp
from typing import TYPE_CHECKING

from .choices import chosen
from .errors import TrainDeeployError

if TYPE_CHECKING:
    from .target import Target

PRECISIONS = ("fp32", "mixed")
DEFAULT_LOSS_SCALE = 1024.0
LARGEST_LOSS_SCALE = 2.0**24


def _power_of_two(scale: float) -> bool:
    return 1 <= scale <= LARGEST_LOSS_SCALE and frexp(scale)[0] == 0.5


@dataclass(frozen=True)
class DynamicScale:
    """A scale of the loss that follows what overflows: torch.amp.GradScaler with its other defaults.

    init: the first one, a power of two. growth_interval: steps without an overflow until it doubles.
    Errors: numbers that are none of these.
    """

    init: float = field(default=65536.0, metadata={"kind": float})
    growth_interval: int = field(default=2000, metadata={"kind": int})

    def __post_init__(self) -> None:
        if not _power_of_two(self.init):
            raise TrainDeeployError(f"loss scale {self.init:g} is not a power of two from 1 to 2^24")
        if not 1 <= self.growth_interval <= 2**24:
            raise TrainDeeployError(f"growth_interval {self.growth_interval} is not from 1 to 2^24")

    @property
    def states(self) -> str:
        """The states of a module that make td-differentiate and td-insert-updates follow it, as text."""
        return (
            f'train.parameter @optimizer.loss_scale {{state = "loss_scale", first = {self.init:.1f},'
            f" train.growth_interval = {self.growth_interval}.0}} : tensor<f32>\n"
            'train.parameter @optimizer.growth_tracker {state = "growth_tracker"} : tensor<f32>\n'
        )


def loss_scale(text: str) -> float | DynamicScale:
    """The scale that a number, "dynamic" or "dynamic:KEY=VALUE,..." says.

    Raises TrainDeeployError for anything else.
    """
    try:
        return float(text)
    except ValueError:
        scale = chosen("loss scale", {"dynamic": DynamicScale}, text)
        assert isinstance(scale, DynamicScale)
        return scale


@dataclass(frozen=True)
class Precision:
    """The precision of a training step.

    name: "fp32", or "mixed": products of matrices in FP16, all else in FP32.
    loss_scale: what gradients are multiplied by until the update, a power of two, or a DynamicScale; None is
        1024 with "mixed", and 1 otherwise.
    Errors: a name or number that is none of these.
    """

    name: str = "fp32"
    loss_scale: float | DynamicScale | None = None

    def __post_init__(self) -> None:
        if self.name not in PRECISIONS:
            raise TrainDeeployError(f"unknown precision '{self.name}'; there are: {', '.join(PRECISIONS)}")
        if not _power_of_two(self.scale):
            raise TrainDeeployError(f"loss scale {self.scale:g} is not a power of two from 1 to 2^24")

    @property
    def scale(self) -> float:
        """What gradients are multiplied by; 1 if that is a state."""
        if isinstance(self.loss_scale, DynamicScale):
            return 1.0
        if self.loss_scale is not None:
            return self.loss_scale
        return DEFAULT_LOSS_SCALE if self.name == "mixed" else 1.0

    @property
    def dynamic(self) -> DynamicScale | None:
        """The scale if it follows what overflows."""
        return self.loss_scale if isinstance(self.loss_scale, DynamicScale) else None

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
