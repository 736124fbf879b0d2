"""What a frontend hands over: a training graph as text, and the values of its parameters."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from traindeeploy.errors import TrainDeeployError


class ModelError(TrainDeeployError):
    """A model that cannot be read, or that says something that cannot be trained."""


class UnsupportedOperator(ModelError):
    """An operator that has no entry in the table from torch to the training graph."""


class BatchSizeError(ModelError):
    """A batch size that the model's graph does not allow."""


ADDRESSED_BYTES = 2**32
"""Bytes that an address of the machine reaches."""


def check_batch_size(batch_size: int | None, sample_bytes: int = 4) -> None:
    """Refuses a batch that no machine has room for, before anything of its size is made.

    sample_bytes: of the inputs for a sample, at least one element.
    """
    if batch_size is None:
        return
    if batch_size < 1:
        raise ModelError(f"the batch size must be at least 1, not {batch_size}")
    if batch_size * sample_bytes > ADDRESSED_BYTES:
        raise ModelError(
            f"a batch of {batch_size} samples has {batch_size * sample_bytes} bytes of inputs,"
            f" and an address of the machine reaches {ADDRESSED_BYTES}"
        )


@dataclass(frozen=True)
class TensorSpec:
    """An input or the output of a model; axis 0 is the batch when the model has one.

    dtype: "float32", or "int32" for what indexes a table.
    rows:  of that table: indices go from 0 to one less.
    ignored: another number that is allowed, of labels.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    rows: int | None = None
    ignored: int | None = None


@dataclass(frozen=True)
class Mode:
    """What a model does while it trains and not when it is evaluated, and which of its outputs trains it.

    dropout:          the seed of dropout, which is off without one.
    batch_statistics: batch norm takes the statistics of the batch, and updates the running ones.
    outputs:          the output that the loss is of, or, of a model that computes its own loss, several
                      that are added, each "NAME" or "NAME=WEIGHT"; none of them if there is one output.
    own_loss:         the model computes its loss.
    inference:        nothing is trained: dropout is off and batch norm has its running statistics, even where
                      the model says otherwise; these are parameters of the program, whatever their values.
    """

    dropout: int | None = None
    batch_statistics: bool = False
    outputs: tuple[str, ...] = ()
    own_loss: bool = False
    inference: bool = False

    def chosen(self, names: Sequence[str]) -> list[tuple[int, float]]:
        """Which of the outputs `names` are meant, by their numbers, and the weight of each."""
        listed_names = f"{listed(names, 8)}" if names else "none"
        if not self.outputs:
            if len(names) != 1:
                raise ModelError(
                    f"the model has {len(names)} outputs ({listed_names}); say which one trains it:"
                    " --output NAME"
                )
            return [(0, 1.0)]
        chosen = []
        for text in self.outputs:
            name, equals, number = text.rpartition("=") if text not in names else (text, "", "")
            name = name if equals or text in names else text
            if name not in names:
                raise ModelError(f"the model has no output '{name}'; its outputs are: {listed_names}")
            try:
                weight = float(number) if equals else 1.0
            except ValueError:
                weight = math.nan
            if not math.isfinite(weight):
                raise ModelError(f"'{number}' is no weight of output '{name}'")
            chosen.append((list(names).index(name), weight))
        if not self.own_loss and (len(chosen) > 1 or chosen[0][1] != 1):
            raise ModelError(
                "several outputs, or weights of them, are for models that compute their own loss"
            )
        if len({index for index, _ in chosen}) < len(chosen):
            raise ModelError("an output is named twice")
        return chosen


EVALUATION = Mode()


def training_mode(
    dropout: int | None = None,
    batch_norm: str = "frozen",
    outputs: Sequence[str] = (),
    own_loss: bool = False,
) -> Mode:
    """The mode that options ask for. Errors: a seed out of range, another word than frozen and batch."""
    if dropout is not None and not 0 <= dropout < 2**31:
        raise ModelError(f"the seed of dropout, {dropout}, is not from 0 to {2**31 - 1}")
    if batch_norm not in ("frozen", "batch"):
        raise ModelError(f"batch norm is 'frozen' or 'batch', not '{batch_norm}'")
    return Mode(dropout, batch_norm == "batch", tuple(outputs), own_loss)


@dataclass(frozen=True)
class Layer:
    """Parameters that belong together: those of one module, or of the operator that uses them."""

    name: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: the layer of `weight` [out, in] multiplies with weight + scale * b a.

    a, b:       names of the matrices [rank, in] and [out, rank].
    transposed: the weight lies as [in, out].
    """

    weight: str
    a: str
    b: str
    scale: float
    transposed: bool


@dataclass(frozen=True)
class ImportedModel:
    """A forward model as a training graph (level 2 of docs/architecture.md).

    module_text: MLIR text, one `func.func @forward`, with locations.
    parameters:  float32 values by symbol, in the model's order; they are not in the text.
    constants:   symbols among `parameters` that the model never trains (buffers and the like).
    frozen:      symbols among `parameters` that the model's author froze (`requires_grad=False`).
    matrices:    symbols among `parameters` that are the weight of a linear layer.
    layers:      layers with parameters, by the place of their last use in the forward.
    aliases:     further names of tied parameters -> the symbol that holds the tensor.
    unused:      parameters that the forward does not use; they are left out of everything else.
    batch_size:  size of axis 0 of every input; None where inputs do not agree on one.
    running:     symbols among `constants` that a step updates itself: statistics of batch norm.
    notes:       what the importer decided and the user should know, a sentence each.
    adapters:    what LoRA has added; its matrices are among `parameters`.
    onnx:        the ONNX model that it was imported from, serialized; None if it came from PyTorch.
    """

    name: str
    module_text: str
    parameters: dict[str, np.ndarray]
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    batch_size: int | None
    layers: tuple[Layer, ...] = ()
    matrices: frozenset[str] = frozenset()
    constants: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()
    aliases: dict[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    running: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    onnx: bytes | None = None

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (self.output,)

    def trainable_names(self) -> list[str]:
        """Symbols that a recipe may train, in the model's order."""
        return [name for name in self.parameters if name not in self.constants]


def listed(names: Collection[str], most: int = 4) -> str:
    """The first few names, and how many there are beyond."""
    rest = len(names) - most
    return ", ".join(list(names)[:most]) + (f" and {rest} more" if rest > 0 else "")


@dataclass(frozen=True)
class Argument:
    """What an argument of the torch-dialect function is: an input or a named tensor of the model.

    kind: "input", "parameter" or "constant" (a buffer or a folded tensor).
    """

    kind: str
    name: str
    value: np.ndarray | None = None


def check_size(what: str, shape: Sequence[int]) -> None:
    """Refuses an array that no machine has room for."""
    needed = 4 * math.prod(shape)
    if needed > ADDRESSED_BYTES:
        raise ModelError(
            f"{what} of shape {list(shape)} has {needed} bytes, and an address of the machine reaches"
            f" {ADDRESSED_BYTES}"
        )


def check_values(kind: str, name: str, value: np.ndarray) -> np.ndarray:
    """`value` as a contiguous float32 array. Errors: another type, no element, not finite."""
    if value.dtype != np.float32:
        raise ModelError(f"{kind} '{name}' is {value.dtype}; only float32 is supported")
    if value.size == 0:
        raise ModelError(f"{kind} '{name}' of shape {list(value.shape)} has no element")
    bad = value.size - int(np.isfinite(value).sum())
    if bad:
        raise ModelError(f"{kind} '{name}' holds NaN or infinity in {bad} of {value.size} values")
    return np.asarray(value, order="C")
