"""Table entries of comparisons, truth values, whole numbers, and elements by their place."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from mlir import ir

from .builder import GraphBuilder, Indices, Tensor
from .composites import LOWEST, reduced, sliced
from .table import IsNegative, TorchOperator, lowers, operand_tensor

# Comparisons and truth values.

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def array_of(operand: Any) -> Any:
    """Numbers that are known: of a tensor of whole numbers, or one; None if they are not."""
    if isinstance(operand, Indices):
        return operand.array
    return operand if isinstance(operand, int | float) else None


@lowers(*(f"aten.{name}.{kind}" for name in _COMPARISONS for kind in ("Scalar", "Tensor")), whole=True)
def compare(graph: GraphBuilder, op: TorchOperator) -> Tensor | Indices | IsNegative:
    name = op.name.split(".")[1]
    lhs, rhs = op.operands[:2]
    arrays = array_of(lhs), array_of(rhs)
    if arrays[0] is not None and arrays[1] is not None:
        array = np.asarray(_COMPARISONS[name](np.asarray(arrays[0]), np.asarray(arrays[1])))
        return Indices(array.shape, array=array)
    if name == "lt" and isinstance(lhs, Indices) and arrays[1] is not None and np.all(arrays[1] == 0):
        return IsNegative(lhs)  # what ONNX's Gather asks of its indices
    return graph.compared(name, operand_tensor(graph, op, 0), operand_tensor(graph, op, 1), op.shape)


def truth(graph: GraphBuilder, op: TorchOperator, index: int) -> Tensor:
    """An operand as truth values."""
    operand = op.operands[index]
    if isinstance(operand, IsNegative):
        return graph.compared("lt", graph.whole(operand.of), graph.splat(0), operand.of.shape)
    x = op.tensor(graph, index)
    return x if x.truth else graph.compared("ne", x, graph.splat(0), x.shape)


@lowers("aten.logical_and", "aten.logical_or", "aten.logical_xor", whole=True)
@lowers("aten.bitwise_and.Tensor", "aten.bitwise_or.Tensor", "aten.bitwise_xor.Tensor", whole=True)
@lowers("aten.__and__.Tensor", "aten.__or__.Tensor", "aten.__xor__.Tensor", whole=True)
def logical(graph: GraphBuilder, op: TorchOperator) -> Tensor | Indices:
    if op.dtype != "i1":
        op.refuse("is of whole numbers; only that of truth values is supported")
    kind = next(word for word in ("xor", "and", "or") if word in op.name)
    arrays = array_of(op.operands[0]), array_of(op.operands[1])
    if arrays[0] is not None and arrays[1] is not None:
        array = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[kind](*arrays)
        return Indices(array.shape, array=array)
    lhs, rhs = truth(graph, op, 0), truth(graph, op, 1)
    if kind == "xor":
        return graph.compared("ne", lhs, rhs, op.shape)
    both = graph.apply("train.mul" if kind == "and" else "train.add", op.shape, [lhs, rhs])
    return graph.compared("ne", both, graph.splat(0), op.shape)


@lowers("aten.logical_not", "aten.bitwise_not", whole=True)
def logical_not(graph: GraphBuilder, op: TorchOperator) -> Tensor | Indices:
    if op.dtype != "i1":
        op.refuse("is of whole numbers; only that of truth values is supported")
    array = array_of(op.operands[0])
    if array is not None:
        return Indices(op.shape, array=np.logical_not(array))
    return graph.compared("eq", truth(graph, op, 0), graph.splat(0), op.shape)


@lowers("aten.isnan", whole=True)
def is_nan(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """Of a softmax, whose rows are NaN where all of its operand is -infinity: exporters ask for that."""
    x = op.tensor(graph, 0)
    softmax = x.value.owner
    if isinstance(softmax, ir.Block) or softmax.name != "train.softmax":
        op.refuse("asks for NaN where it is no result of a softmax, and a program that is right has none")
    axis = ir.IntegerAttr(softmax.attributes["axis"]).value
    highest = reduced(graph, "train.max", replace(x, value=softmax.operands[0]), [axis], keep=True)
    hidden = graph.compared("le", highest, graph.splat(LOWEST), highest.shape)
    return replace(graph.apply("train.broadcast", op.shape, [hidden]), truth=True)


@lowers("aten.any", "aten.any.dim", "aten.all", "aten.all.dim", whole=True)
def quantified(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = truth(graph, op, 0)
    rank = len(x.shape)
    axes = op.axes(1, rank) if op.name.endswith("dim") else list(range(rank))
    keep = op.name.endswith("dim") and bool(op.operands[2])
    if "any" in op.name:
        return graph.compared("ne", reduced(graph, "train.max", x, axes, keep), graph.splat(0), op.shape)
    fails = graph.compared("eq", x, graph.splat(0), x.shape)
    return graph.compared("eq", reduced(graph, "train.max", fails, axes, keep), graph.splat(0), op.shape)


@lowers("aten.one_hot", whole=True)
def one_hot(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    count = op.integers(1)[0]
    if count < 1:
        op.refuse("has no number of classes; give it one")
    column = graph.reshape(op.tensor(graph, 0), (*op.shape[:-1], 1))
    classes = graph.constant(np.arange(count, dtype=np.float32))
    return graph.compared("eq", column, classes, op.shape)


# Constants of a shape.


@lowers("aten.zeros_like", "aten.ones_like", "aten.new_zeros", "aten.new_ones", whole=True, data=0)
@lowers("aten.zeros", "aten.ones", whole=True, data=0)
@lowers("aten.full_like", "aten.new_full", "aten.full", "aten.scalar_tensor", whole=True)
def filled(graph: GraphBuilder, op: TorchOperator) -> Tensor | Indices:
    name = op.name.split(".")[1]
    number = 0.0 if "zeros" in name else 1.0
    if name in ("full_like", "full", "scalar_tensor", "new_full"):
        number = op.number({"full_like": 1, "full": 1, "scalar_tensor": 0, "new_full": 2}[name])
    if op.dtype == "f32":
        return graph.splat(number, op.shape)
    return Indices(op.shape, array=np.full(op.shape, number).astype(bool if op.dtype == "i1" else np.int64))


# Whole numbers near others.

_ROUNDINGS = {
    "floor": "floor",
    "ceil": "ceil",
    "trunc": "trunc",
    "round": "even",
    "sign": "sign",
    "sgn": "sign",
}


@lowers(*(f"aten.{name}" for name in _ROUNDINGS), data=1)
def rounding(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    return graph.rounded(op.tensor(graph, 0), _ROUNDINGS[op.name.split(".")[1]])


@lowers("aten.frac", data=1)
def fraction(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    return graph.apply("train.sub", x.shape, [x, graph.rounded(x, "trunc")])


@lowers("aten.remainder.Scalar", "aten.remainder.Tensor", "aten.fmod.Scalar", "aten.fmod.Tensor")
def remainder(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """x - y round(x / y), with the gradient -round(x / y) for y."""
    x, y = operand_tensor(graph, op, 0), operand_tensor(graph, op, 1)
    ratio = graph.apply("train.div", op.shape, [x, y])
    times = graph.rounded(ratio, "floor" if "remainder" in op.name else "trunc")
    product = graph.apply("train.mul", op.shape, [times, y])
    return graph.apply("train.sub", op.shape, [x, product])


@lowers("aten.threshold")
def threshold(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    above = graph.compared("gt", x, graph.splat(op.number(1)), x.shape)
    return graph.selected(above, x, graph.splat(op.number(2)), x.shape)


@lowers("aten.tril", "aten.triu")
def triangle(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x, diagonal = op.tensor(graph, 0), op.integers(1)[0]
    ones = np.ones(x.shape[-2:], np.float32)
    mask = np.tril(ones, diagonal) if op.name == "aten.tril" else np.triu(ones, diagonal)
    return graph.selected(graph.constant(mask), x, graph.splat(0), x.shape)


# Products and sums along an axis, elements by their place.

MOST_FACTORS = 64
"""Elements that a product along an axis may have: each is an operator."""


@lowers("aten.prod", "aten.prod.dim_int")
def product(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """One factor after the other, so that the gradient is right where some are 0."""
    x = op.tensor(graph, 0)
    if op.name == "aten.prod":
        x = graph.reshape(x, (int(np.prod(x.shape)),))
    axis = op.integers(1)[0] % len(x.shape) if op.name != "aten.prod" else 0
    if x.shape[axis] > MOST_FACTORS:
        op.refuse(f"multiplies {x.shape[axis]} elements; {MOST_FACTORS} are supported")
    parts = [sliced(graph, x, axis, i, i + 1, 1) for i in range(x.shape[axis])]
    while len(parts) > 1:  # a tree: fewer roundings, and less depth
        pairs = zip(parts[::2], parts[1::2], strict=False)
        joined = [graph.apply("train.mul", a.shape, [a, b]) for a, b in pairs]
        parts = joined + parts[len(joined) * 2 :]
    return graph.reshape(parts[0], op.shape)


@lowers("aten.cumsum", whole=True)
def cumulative_sum(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """A sum over what is not behind, by a mask along a new axis."""
    x = op.tensor(graph, 0)
    axis = op.integers(1)[0] % len(x.shape) if x.shape else 0
    if not x.shape:
        return x
    size = x.shape[axis]
    shape = (*x.shape[:axis], size, *x.shape[axis:])
    row = graph.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))
    mask = np.tril(np.ones((size, size), np.float32)).reshape(size, size, *[1] * (len(x.shape) - axis - 1))
    parts = graph.selected(graph.constant(mask), row, graph.splat(0), shape)
    return reduced(graph, "train.sum", parts, [axis + 1], keep=False)


@lowers("aten.gather")
def gather(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """Along an axis, by an input or known: a sum over the one element whose place it is."""
    x = op.tensor(graph, 0)
    axis = op.integers(1)[0] % len(x.shape)
    indices = op.operands[2]
    if not isinstance(indices, Indices) and not (isinstance(indices, Tensor) and indices.source):
        op.refuse("has indices that are computed; an input or constants can index a tensor")
    for other, size in enumerate(op.shape):
        if other != axis:
            x = sliced(graph, x, other, 0, size, 1)
    size = x.shape[axis]
    array = indices.array if isinstance(indices, Indices) else None
    if array is not None and array.size and (array.min() < 0 or array.max() >= size):
        op.refuse(f"has an index that is not from 0 to {size - 1}")
    at = op.tensor(graph, 2)
    if at.source:
        graph.rows[at.source] = min(size, graph.rows.get(at.source, size))
    shape = (*op.shape[:axis], op.shape[axis], size, *op.shape[axis + 1 :])
    column = graph.reshape(at, (*op.shape[: axis + 1], 1, *op.shape[axis + 1 :]))
    row = graph.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))
    places = np.arange(size, dtype=np.float32).reshape(size, *[1] * (len(op.shape) - axis - 1))
    here = graph.compared(
        "eq", column, graph.constant(places), (*column.shape[: axis + 1], *shape[axis + 1 :])
    )
    return reduced(
        graph, "train.sum", graph.selected(here, row, graph.splat(0), shape), [axis + 1], keep=False
    )
