"""The table from torch operators to the training graph; both routes end here.

An entry is a function from an operator of the torch dialect, its operands resolved, to a tensor of
the graph. `supported_operators()` is what docs/operators.md lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, log, prod
from typing import Any, NoReturn

from .builder import GraphBuilder, Indices, Nothing, Tensor, untransposed
from .model import UnsupportedOperator
from .operators import not_supported

LOSSES = frozenset(
    (
        *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "cross_entropy_loss"),
        *("nll_loss", "nll_loss_nd", "nll_loss_forward", "nll_loss2d"),
        *("binary_cross_entropy", "binary_cross_entropy_with_logits"),
        *("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"),
    )
)
"""Operators that a model must leave to the compiler, in PyTorch's names and ONNX's."""


@dataclass(frozen=True)
class TorchOperator:
    """An operator of the torch dialect.

    name:     "aten.relu".
    shown:    the name as a user knows it: that, or the ONNX operator that it came from.
    place:    where it is in the model.
    operands: Tensor, number, bool, str, None or a list of these; a value that is not known is Unknown.
    shape:    of the result that is used.
    dtype:    of the result: "f32", "i1", "si64" or "si32".
    attributes: of the operation, by name, in the torch dialect's form.
    """

    name: str
    shown: str
    place: str
    operands: list[Any]
    shape: tuple[int, ...]
    supported: Sequence[str]
    attributes: Any
    dtype: str = "f32"

    def refuse(self, reason: str = "") -> NoReturn:
        """reason: what of a supported operator is not, as "has a mask as its index"."""
        if reason:
            raise UnsupportedOperator(f"operator {self.shown} at '{self.place}' {reason}")
        raise UnsupportedOperator(not_supported(self.shown, self.place, self.supported))

    def tensor(self, graph: GraphBuilder, index: int) -> Tensor:
        """The operand as a tensor that is not transposed."""
        operand = self.operands[index]
        if isinstance(operand, Nothing):
            self.refuse("has an operand without elements")
        if isinstance(operand, Indices):
            return graph.whole(operand)
        if not isinstance(operand, Tensor):
            self.refuse("has an operand that is not a tensor of float32")
        return graph.straight(operand)

    def number(self, index: int) -> float:
        operand = self.operands[index]
        if isinstance(operand, bool) or not isinstance(operand, int | float):
            self.refuse("has a scalar operand whose value is not known")
        return operand

    def integers(self, index: int, count: int | None = None) -> list[int]:
        """A list of whole numbers; one number stands for `count` equal ones."""
        operand = self.operands[index]
        values = operand if isinstance(operand, list) else [operand]
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            self.refuse("has an operand whose whole numbers are not known")
        if count is not None and len(values) == 1:
            values = values * count
        if count is not None and len(values) != count:
            self.refuse(f"has {len(values)} numbers where {count} are needed")
        return list(values)

    def axes(self, index: int, rank: int) -> list[int]:
        """Axes of a tensor of rank `rank`, from 0 on; None or none of them means all."""
        operand = self.operands[index]
        if operand is None or operand == []:
            return list(range(rank))
        return sorted(axis % rank for axis in self.integers(index)) if rank else []


class Unknown:
    """A value that no table entry may need, such as a size computed at run time."""


@dataclass(frozen=True)
class IsNegative:
    """Whether elements of `of` are below zero."""

    of: Indices


Entry = Callable[[GraphBuilder, TorchOperator], Any]
"""Gives a Tensor, a tuple of those of the first results, a list for a result that is one, or what no
tensor of floats holds: Indices, IsNegative or Nothing."""


@dataclass(frozen=True)
class Row:
    """An entry of the table.

    data:  how many of the first operands carry data; the others need not be computed (None: all).
    whole: whether the result may be of whole numbers or truth values, which are exact as floats then.
    """

    entry: Entry
    data: int | None = None
    whole: bool = False


TABLE: dict[str, Row] = {}


def lowers(*names: str, data: int | None = None, whole: bool = False) -> Callable[[Entry], Entry]:
    def register(entry: Entry) -> Entry:
        for name in names:
            TABLE[name] = Row(entry, data, whole)
        return entry

    return register


def supported_operators() -> list[str]:
    """Operators of the table as PyTorch spells them, without overloads and without its internal ones."""
    names = {".".join(name.split(".")[:2]) for name in TABLE}
    return sorted(name for name in names if name.startswith("aten.") and not name.startswith("aten._"))


# Element-wise functions.


@lowers("aten.relu", "aten.sigmoid", "aten.tanh", "aten.exp", "aten.log", "aten.sqrt", data=1)
@lowers("aten.rsqrt", "aten.erf", "aten.abs", data=1)
def unary(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    return graph.apply(f"train.{op.name.split('.')[1]}", x.shape, [x])


def operand_tensor(graph: GraphBuilder, op: TorchOperator, index: int) -> Tensor:
    """A tensor operand, also of known whole numbers or truth values, or a number as a tensor of rank 0."""
    operand = op.operands[index]
    if isinstance(operand, Indices):
        return graph.whole(operand)
    return op.tensor(graph, index) if isinstance(operand, Tensor) else graph.splat(op.number(index))


def scaled(graph: GraphBuilder, tensor: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return tensor
    return graph.apply("train.mul", tensor.shape, [tensor, graph.splat(factor)])


@lowers("aten.add.Tensor", "aten.add.Scalar")
def add(graph: GraphBuilder, op: TorchOperator) -> Tensor | Indices | Unknown:
    if isinstance(op.operands[0], Indices) and op.dtype != "f32":
        source, other = op.operands[0], op.operands[1]
        if op.name == "aten.add.Tensor" or not isinstance(other, int):
            op.refuse("has an operand that is not a tensor of float32")
        if source.array is None:
            return Unknown()  # the wrapped index in ONNX's Gather, which `where` does not choose
        array = source.array + other * int(op.number(2))
        return Indices(array.shape, array=array)
    lhs, rhs = operand_tensor(graph, op, 0), operand_tensor(graph, op, 1)
    return graph.apply("train.add", op.shape, [lhs, scaled(graph, rhs, op.number(2))])


@lowers("aten.sub.Tensor", "aten.sub.Scalar", whole=True)
def sub(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    lhs, rhs = operand_tensor(graph, op, 0), operand_tensor(graph, op, 1)
    return graph.apply("train.sub", op.shape, [lhs, scaled(graph, rhs, op.number(2))])


@lowers("aten.rsub.Scalar", whole=True)
def rsub(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    lhs, rhs = operand_tensor(graph, op, 1), operand_tensor(graph, op, 0)
    return graph.apply("train.sub", op.shape, [lhs, scaled(graph, rhs, op.number(2))])


@lowers("aten.div.Tensor", "aten.div.Scalar")
def div(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    return graph.apply("train.div", op.shape, [operand_tensor(graph, op, 0), operand_tensor(graph, op, 1)])


@lowers("aten.reciprocal", data=1)
def reciprocal(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    return graph.apply("train.div", op.shape, [graph.splat(1), op.tensor(graph, 0)])


@lowers("aten.neg", data=1)
def neg(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    return scaled(graph, op.tensor(graph, 0), -1)


@lowers("aten.square", data=1)
def square(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    return graph.apply("train.pow", op.shape, [op.tensor(graph, 0)], {"exponent": 2.0})


@lowers("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor")
def power(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    base, exponent = op.operands[:2]
    if isinstance(exponent, Tensor):
        if exponent.number is None and isinstance(base, Tensor) and (base.number or 0) > 0:
            return power_of(graph, op, base.number, graph.straight(exponent))
        if exponent.number is None:
            op.refuse("has an exponent that is no constant")
        exponent = exponent.number
    elif isinstance(exponent, Unknown):
        op.refuse("has an exponent whose value is not known")
    return graph.apply("train.pow", op.shape, [op.tensor(graph, 0)], {"exponent": float(exponent)})


def power_of(graph: GraphBuilder, op: TorchOperator, base: float | None, exponent: Tensor) -> Tensor:
    """A positive number to the power of a tensor."""
    if base is None or base <= 0:
        op.refuse(f"has the base {base}; positive ones are supported")
    y = graph.apply("train.exp", exponent.shape, [scaled(graph, exponent, log(base))])
    return y if y.shape == op.shape else graph.apply("train.broadcast", op.shape, [y])


@lowers("aten.pow.Scalar")
def power_of_number(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    return power_of(graph, op, op.number(0), op.tensor(graph, 1))


@lowers("aten.gelu")
def gelu(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    approximate = op.operands[1]
    if approximate not in ("none", "tanh"):
        op.refuse(f"has the approximation '{approximate}'; there are none and tanh")
    return graph.apply("train.gelu", op.shape, [op.tensor(graph, 0)], {"tanh": approximate == "tanh"})


def clamped(graph: GraphBuilder, x: Tensor, low: float, high: float, flat: bool = False) -> Tensor:
    """flat: the slope on the bounds is 0, as of torch.nn.functional.hardtanh, not 1, as of torch.clamp."""
    bounds = {"low": float(low), "high": float(high), "flat": flat}
    return graph.apply("train.clamp", x.shape, [x], bounds)


@lowers("aten.relu6", data=1)
def relu6(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    return clamped(graph, op.tensor(graph, 0), 0, 6, flat=True)


@lowers("aten.hardtanh", "aten.clamp", whole=True)
def clamp(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    low = -inf if op.operands[1] is None else op.number(1)
    high = inf if op.operands[2] is None else op.number(2)
    return clamped(graph, op.tensor(graph, 0), low, high, flat=op.name == "aten.hardtanh")


def bound(op: TorchOperator, index: int, default: float) -> float:
    """A bound that is a number, a tensor of one number, or not there."""
    operand = op.operands[index]
    if operand is None:
        return default
    if isinstance(operand, Tensor) and operand.number is not None:
        return operand.number
    return op.number(index)


@lowers("aten.clamp.Tensor")
def clamp_tensor(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    return clamped(graph, op.tensor(graph, 0), bound(op, 1, -inf), bound(op, 2, inf))


@lowers("aten.clamp_min.Tensor", "aten.clamp_max.Tensor")
def clamp_side(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    if op.name == "aten.clamp_min.Tensor":
        return clamped(graph, x, bound(op, 1, -inf), inf)
    return clamped(graph, x, -inf, bound(op, 1, inf))


@lowers("aten.maximum", "aten.minimum")
def extremum(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """The larger, or smaller, of two; equal ones share the gradient, as PyTorch has it."""
    sign = 1 if op.name == "aten.maximum" else -1
    parts = []
    for index in (0, 1):
        operand = scaled(graph, operand_tensor(graph, op, index), sign)
        if operand.shape != op.shape:
            operand = graph.apply("train.broadcast", op.shape, [operand])
        parts.append(graph.reshape(operand, (1, *op.shape)))
    both = graph.apply("train.concat", (2, *op.shape), parts, {"axis": 0})
    return scaled(graph, graph.apply("train.max", op.shape, [both], {"axes": [0]}), sign)


@lowers("aten.silu", data=1)
def silu(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    return graph.apply("train.mul", x.shape, [x, graph.apply("train.sigmoid", x.shape, [x])])


@lowers("aten.hardswish", "aten.hardsigmoid", data=1)
def hardswish(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    # Clamped before the sum is rounded, so that the slope is 0 on the bounds and not beside them.
    shifted = graph.apply("train.add", x.shape, [clamped(graph, x, -3, 3, flat=True), graph.splat(3)])
    gate = scaled(graph, shifted, 1 / 6)
    return gate if op.name == "aten.hardsigmoid" else graph.apply("train.mul", x.shape, [x, gate])


@lowers("aten.leaky_relu")
def leaky_relu(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    negative = scaled(graph, clamped(graph, x, -inf, 0), op.number(1))
    return graph.apply("train.add", x.shape, [graph.apply("train.relu", x.shape, [x]), negative])


@lowers("aten.mul.Tensor", "aten.mul.Scalar", whole=True)
def mul(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    return graph.apply("train.mul", op.shape, [operand_tensor(graph, op, 0), operand_tensor(graph, op, 1)])


# Shapes. All sizes are static, so the result's type says everything.


@lowers("aten.view", "aten.reshape", "aten._unsafe_view", "aten._reshape_alias", data=1, whole=True)
@lowers(
    "aten.flatten.using_ints", "aten.unflatten.int", "prims.collapse", "prims.view_of", data=1, whole=True
)
@lowers("aten.squeeze", "aten.squeeze.dim", "aten.squeeze.dims", "prims.squeeze", data=1, whole=True)
@lowers("aten.unsqueeze", data=1, whole=True)
def reshape(graph: GraphBuilder, op: TorchOperator) -> Tensor | Indices:
    source = op.operands[0]
    if isinstance(source, Indices):
        array = None if source.array is None else source.array.reshape(op.shape)
        return replace(source, shape=op.shape, array=array)
    x = op.tensor(graph, 0)
    if prod(x.shape) != prod(op.shape):
        op.refuse(f"cannot give a tensor of shape {list(x.shape)} the shape {list(op.shape)}")
    return graph.reshape(x, op.shape)


@lowers("aten.t", data=1, whole=True)
def transpose_matrix(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.operands[0]
    return permuted(graph, op, list(range(len(x.shape)))[::-1])


@lowers("aten.transpose.int", whole=True)
def transpose(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.operands[0]
    order = list(range(len(x.shape)))
    i, j = int(op.number(1)), int(op.number(2))
    order[i], order[j] = order[j], order[i]
    return permuted(graph, op, order)


@lowers("aten.permute", whole=True)
def permute(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    return permuted(graph, op, op.operands[1])


def permuted(graph: GraphBuilder, op: TorchOperator, order: Sequence[int]) -> Tensor:
    x: Tensor = op.operands[0]
    if isinstance(x, Indices):
        x = graph.whole(x)
        op = replace(op, operands=[x, *op.operands[1:]])
    order = [axis % len(x.shape) for axis in order] if x.shape else []
    if order == [1, 0]:
        return replace(x, shape=op.shape, transposed=not x.transposed)
    moved = [axis for axis in order if x.shape[axis] != 1]
    if moved == sorted(moved):  # only dimensions of size 1 move
        return graph.reshape(op.tensor(graph, 0), op.shape)
    return graph.permute(op.tensor(graph, 0), order)


# Matrix products.


@lowers("aten.linear")
def linear(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x, weight = op.tensor(graph, 0), op.operands[1]
    bias = None if op.operands[2] is None else op.tensor(graph, 2)
    product = matrix_product(graph, op, x, turned(weight), op.shape)
    return product if bias is None else graph.apply("train.add", op.shape, [product, bias])


@lowers("aten.mm", "aten.matmul", "aten.mv", "aten.bmm")
def matmul(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    return matrix_product(graph, op, op.operands[0], op.operands[1], op.shape)


@lowers("aten.addmm")
def addmm(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    product = matrix_product(graph, op, op.operands[1], op.operands[2], op.shape)
    beta, alpha = op.number(3), op.number(4)
    if beta == 0:
        return scaled(graph, product, alpha)
    bias = scaled(graph, op.tensor(graph, 0), beta)
    return graph.apply("train.add", op.shape, [scaled(graph, product, alpha), bias])


def turned(matrix: Tensor) -> Tensor:
    """The transpose of a matrix; a vector [in] counts as the one row of [1, in]."""
    if len(matrix.shape) != 2:
        return matrix
    return replace(matrix, shape=matrix.shape[::-1], transposed=not matrix.transposed)


def matrix_product(
    graph: GraphBuilder, op: TorchOperator, lhs: Tensor, rhs: Tensor, shape: tuple[int, ...]
) -> Tensor:
    """torch.matmul of a tensor [..., in] and a matrix [in, out] or vector [in]."""
    if not isinstance(lhs, Tensor) or not isinstance(rhs, Tensor):
        op.refuse("has an operand that is not a tensor of float32")
    if len(rhs.shape) == 1:
        rhs = turned(graph.reshape(rhs, (1, *rhs.shape)))
    if not rhs.shape or not lhs.shape:
        op.refuse(f"multiplies tensors of shape {list(lhs.shape)} and {list(rhs.shape)}")
    if len(rhs.shape) > 2:
        if len(lhs.shape) == 1:
            lhs = graph.reshape(lhs, (1, *lhs.shape))
        return graph.reshape(graph.matmul(lhs, rhs), shape)
    if rhs.transposed and not lhs.transposed:
        return graph.reshape(graph.linear(lhs, untransposed(rhs), None), shape)
    rows = prod(lhs.shape[:-1])
    matrix = lhs if lhs.transposed else graph.reshape(lhs, (rows, lhs.shape[-1]))
    return graph.reshape(graph.matmul(matrix, rhs), shape)


# What changes nothing.


@lowers("aten.clone", "aten.contiguous", "aten.alias", "aten.lift_fresh_copy", data=1, whole=True)
@lowers(
    "aten._to_copy", "aten.to.dtype", "prims.convert_element_type", "prims.device_put", data=1, whole=True
)
@lowers("aten.type_as", data=1, whole=True)
def identity(graph: GraphBuilder, op: TorchOperator) -> Tensor | Indices:
    """The same numbers, in another type: real ones become whole towards zero, and true if they are not 0."""
    x = op.operands[0]
    if isinstance(x, Indices):
        if op.dtype == "i1" and not (x.array is not None and x.array.dtype == bool):
            return graph.compared("ne", graph.whole(x), graph.splat(0), x.shape)
        return graph.whole(x) if op.dtype == "f32" else x
    if not isinstance(x, Tensor):
        op.refuse("converts from a type other than float32")
    if op.dtype == "i1" and not x.truth:
        return graph.compared("ne", graph.straight(x), graph.splat(0), x.shape)
    if op.dtype.startswith("si") and not x.truth and not x.source:
        return graph.rounded(graph.straight(x), "trunc")
    return replace(x, truth=False) if x.truth and op.dtype != "i1" else x


@lowers("aten.dropout", "aten.native_dropout", "aten.feature_dropout")
def dropout(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """Identity, unless the mode has dropout on."""
    training = op.operands[2]
    if graph.mode.dropout is None:
        if training is not False and op.operands[1] != 0 and not graph.mode.inference:
            op.refuse("is active (training mode), which needs a seed: --dropout SEED")
        return op.tensor(graph, 0)
    if training is False:
        return op.tensor(graph, 0)
    if op.name == "aten.feature_dropout":
        op.refuse("drops whole channels; only dropout of single elements is supported")
    return graph.dropout(op.tensor(graph, 0), op.number(1))


@lowers("aten.detach", whole=True)
def detach(graph: GraphBuilder, op: TorchOperator) -> Tensor | Indices:
    x = op.operands[0]
    if not isinstance(x, Tensor) or x.gradient is None:
        return identity(graph, op)
    graph.notes.append(
        f"the gradient stops at '{op.place}': through it, '{x.gradient}' and what else is before it"
        " do not train"
    )
    return graph.apply("train.detach", x.shape, [graph.straight(x)])
