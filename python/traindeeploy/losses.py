"""Losses that the compiler attaches to a model's prediction."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import TrainDeeployError

TARGETS = {
    "mse": ("target", "labels"),
    "l1": ("target", "labels"),
    "bce-with-logits": ("target", "labels"),
    "cross-entropy": ("labels", "target"),
    "model": (),
}
"""Arrays that may feed each loss; the first one is the program's name for it. A model's own has none."""

OF_LOGITS = ("cross-entropy", "bce-with-logits")
"""Losses whose prediction is logits: they apply softmax or sigmoid themselves."""

REDUCTIONS = ("mean", "sum")


IGNORED = -100
"""The label that does not count unless another one is given, as in PyTorch."""

LARGEST = (2 - 2**-23) * 2.0**127
"""Number of float32."""

WEIGHTS = "loss.weight"
"""Symbol of the parameter that holds the weights of classes."""


@dataclass(frozen=True)
class Labels:
    """What cross-entropy takes the labels of an output to be.

    axis:    of the output that holds the classes.
    classes: its size.
    shape:   of the labels of a batch; axis 0 counts samples.
    """

    axis: int
    classes: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Loss:
    """A loss, as PyTorch has it.

    reduction: the mean over all elements (cross-entropy: over the labels that count), or the sum.

    Of cross-entropy only:
    label_smoothing: from 0 to 1: the share of the target that all classes get alike.
    ignore_index: labels of this value do not count; None: all labels do.
    class_weights: one for each class, at least 0; the mean is divided by the sum of the labels' weights.
    class_axis: of the output, -1 for the last one; None leaves it to `labels`.
    Errors: a name, reduction or number that is none of these.
    """

    name: str
    reduction: str = "mean"
    label_smoothing: float = 0.0
    ignore_index: int | None = IGNORED
    class_weights: tuple[float, ...] | None = None
    class_axis: int | None = None

    def __post_init__(self) -> None:
        if self.name == "model" and self.reduction != "mean":
            raise TrainDeeployError("a model that computes its own loss has reduced it already")
        if self.name not in TARGETS:
            raise TrainDeeployError(f"unknown loss '{self.name}'; there are: {', '.join(TARGETS)}")
        if self.reduction not in REDUCTIONS:
            raise TrainDeeployError(
                f"unknown reduction '{self.reduction}' of the loss; there are: {', '.join(REDUCTIONS)}"
            )
        if not 0 <= self.label_smoothing <= 1:
            raise TrainDeeployError(f"label smoothing {self.label_smoothing} is not from 0 to 1")
        options = {
            "label smoothing": bool(self.label_smoothing),
            "a label to ignore": self.ignore_index not in (None, IGNORED),
            "class weights": self.class_weights is not None,
            "an axis of classes": self.class_axis is not None,
        }
        if self.name != "cross-entropy" and any(options.values()):
            what = next(option for option, given in options.items() if given)
            raise TrainDeeployError(f"{what} is for cross-entropy, not for {self.name}")
        if self.ignore_index is not None and not -(2**31) <= self.ignore_index < 2**31:
            raise TrainDeeployError(f"the label to ignore, {self.ignore_index}, is no number of 32 bits")
        for weight in self.class_weights or ():
            if not 0 <= weight <= LARGEST:
                raise TrainDeeployError(f"class weight {weight} is not a finite number of at least 0")
        if self.class_weights is not None and not any(self.class_weights):
            raise TrainDeeployError("all class weights are 0, so nothing would be trained")

    def options(self, labels: Labels | None) -> str:
        """As options of the pipeline td-graph; `labels` are those of cross-entropy."""
        text = f"loss={self.name} reduction={self.reduction} smoothing={self.label_smoothing!r}"
        if labels is None:
            return text
        text += f" class-axis={labels.axis} labels={','.join(map(str, labels.shape))}"
        if self.ignore_index is not None:
            text += f" ignored={self.ignore_index}"
        return f"{text} weighted" if self.class_weights is not None else text

    def labels(
        self, output: tuple[int, ...], batch: int, sample: tuple[int, ...] | None = None
    ) -> Labels | None:
        """The labels of an output; None for a loss that is not cross-entropy.

        output: the output's shape, [batch, C], [batch, C, ...], [batch, ..., C], or [batch * tokens, C].
        sample: shape of a sample's labels if it is known, which then tells the axis of classes.

        Of more than two axes the classes are the last one of three (tokens), the second one of four or more
        (pixels), unless `class_axis` says otherwise. Errors: an output that is none of these, three axes
        of which the last two are as long as each other, weights of another number of classes.
        """
        if self.name == "model":
            return None
        rank = len(output)
        what = f"the model's output of shape {list(output)}"
        if self.name != "cross-entropy":
            return None
        if rank < 2:
            raise TrainDeeployError(f"cross-entropy needs an axis of classes beside samples; {what} has none")
        axis = self._axis(output, sample)
        if axis == 0:
            raise TrainDeeployError(f"axis 0 of {what} counts samples and cannot hold the classes")
        rows = output[:axis] + output[axis + 1 :]
        if rank == 2 and rows[0] != batch and rows[0] % batch == 0:
            rows = (batch, rows[0] // batch)
        if rows[0] != batch:
            raise TrainDeeployError(
                f"{what} has {rows[0]} samples, but the inputs have {batch}: labels cannot be told apart"
            )
        classes = output[axis]
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise TrainDeeployError(
                f"there are {len(self.class_weights)} class weights, but {what} has {classes} classes"
            )
        return Labels(axis, classes, rows)

    def _axis(self, output: tuple[int, ...], sample: tuple[int, ...] | None) -> int:
        """The axis of the classes, from 0 on."""
        rank = len(output)
        if self.class_axis is not None:
            if not -rank <= self.class_axis < rank:
                raise TrainDeeployError(
                    f"the axis of classes, {self.class_axis}, is none of the output's shape {list(output)}"
                )
            return self.class_axis % rank
        if rank == 3 and output[1] == output[2]:
            raise TrainDeeployError(
                f"both axes of the model's output of shape {list(output)} may hold the classes; say which:"
                " --class-axis 1, as PyTorch's cross_entropy has it, or --class-axis -1 for the last"
            )
        if sample is not None and rank > 2:
            fitting = [a for a in range(1, rank) if same_but_ones(output[1:a] + output[a + 1 :], sample)]
            if len(fitting) == 1:
                return fitting[0]
        return 2 if rank == 3 else 1


def same_but_ones(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes have the same axes, but for those of size 1."""
    return [size for size in shape if size != 1] == [size for size in other if size != 1]


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
