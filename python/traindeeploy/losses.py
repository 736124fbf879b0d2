"""Losses that the compiler attaches to a model's prediction."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import TrainDeeployError

TARGETS = {
    "mse": ("target", "labels"),
    "l1": ("target", "labels"),
    "bce-with-logits": ("target", "labels"),
    "cross-entropy": ("labels", "target"),
}
"""Arrays that may feed each loss; the first one is the input's name in the program."""

REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class Loss:
    """A loss, as PyTorch has it.

    reduction: the mean over all elements (cross-entropy: over the samples), or the sum.
    label_smoothing: from 0 to 1, of cross-entropy: the share of the target that all classes get alike.
    Errors: a name, reduction or number that is none of these.
    """

    name: str
    reduction: str = "mean"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in TARGETS:
            raise TrainDeeployError(f"unknown loss '{self.name}'; there are: {', '.join(TARGETS)}")
        if self.reduction not in REDUCTIONS:
            raise TrainDeeployError(
                f"unknown reduction '{self.reduction}' of the loss; there are: {', '.join(REDUCTIONS)}"
            )
        if not 0 <= self.label_smoothing <= 1:
            raise TrainDeeployError(f"label smoothing {self.label_smoothing} is not from 0 to 1")
        if self.label_smoothing and self.name != "cross-entropy":
            raise TrainDeeployError(f"label smoothing is for cross-entropy, not for {self.name}")

    @property
    def options(self) -> str:
        """As options of the pipeline td-graph."""
        return f"loss={self.name} reduction={self.reduction} smoothing={self.label_smoothing!r}"
