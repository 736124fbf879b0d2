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

OF_LOGITS = ("cross-entropy", "bce-with-logits")
"""Losses whose prediction is logits: they apply softmax or sigmoid themselves."""

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


def notes_on_activation(activation: str, place: str, loss: str | None = None) -> list[str]:
    """What is to be known about a model that ends in an activation, under a loss or under those of logits.

    activation: "softmax" or "sigmoid", at `place` in the model; "" for none of these.
    """
    if not activation or loss not in (None, *OF_LOGITS):
        return []
    what = f"{loss} is" if loss else f"{' and '.join(OF_LOGITS)} are"
    return [
        f"the model ends in a {activation} ('{place}'), and {what} of logits: it would be applied twice;"
        " leave it out of the model, or take another loss"
    ]
