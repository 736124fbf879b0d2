"""Table entries that pick, repeat, pad or interpolate elements of a tensor."""

from __future__ import annotations

from functools import partial
from math import floor, inf

import numpy as np

from .builder import GraphBuilder, Indices, Tensor
from .composites import picked, sliced
from .table import TorchOperator, lowers


def taken(graph: GraphBuilder, op: TorchOperator, x: Tensor, axis: int, at: np.ndarray) -> Tensor:
    """numpy.take(x, at, axis)."""
    return picked(graph, op, x, axis, Indices(at.shape, array=at))


@lowers("aten.flip")
def flip(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    for axis in sorted({axis % len(x.shape) for axis in op.integers(1)}):
        x = taken(graph, op, x, axis, np.arange(x.shape[axis])[::-1])
    return x


@lowers("aten.tril", "aten.triu")
def triangle(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    ones = np.ones(x.shape[-2:], np.float32)
    diagonal = op.integers(1)[0]
    mask = np.tril(ones, diagonal) if op.name == "aten.tril" else np.triu(ones, diagonal)
    return graph.apply("train.mul", x.shape, [x, graph.constant(mask)])


# Padding.

_PADDING = {
    "reflect": partial(np.pad, mode="reflect"),
    "replicate": partial(np.pad, mode="edge"),
    "circular": partial(np.pad, mode="wrap"),
}
"""By PyTorch's modes."""


@lowers("aten.constant_pad_nd", "aten.pad")
def pad(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """Padding of the last axes, the last one first; negative amounts cut."""
    x = op.tensor(graph, 0)
    amounts = op.integers(1)
    sides = [(amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)]
    mode = op.operands[2] if op.name == "aten.pad" else "constant"
    if mode != "constant":
        for distance, (before, after) in enumerate(sides):
            axis = len(x.shape) - 1 - distance
            x = cut(graph, op, x, axis, before, after)
            grown = (max(before, 0), max(after, 0))
            if any(grown):
                x = taken(graph, op, x, axis, _PADDING[mode](np.arange(x.shape[axis]), grown))
        return x
    value = 3 if op.name == "aten.pad" else 2
    fill = 0.0 if op.operands[value] is None else op.number(value)
    if fill == -inf:
        op.refuse("pads with -infinity; give max pooling its padding instead")
    offsets = [0] * len(x.shape)
    for distance, (before, after) in enumerate(sides):
        axis = len(x.shape) - 1 - distance
        x = cut(graph, op, x, axis, before, after)
        offsets[axis] = max(before, 0)
    if x.shape == op.shape:
        return x
    inside = tuple(slice(at, at + size) for at, size in zip(offsets, x.shape, strict=True))
    y = graph.apply("train.embed", op.shape, [x], {"offsets": offsets, "strides": [1] * len(x.shape)})
    if not fill:
        return y
    # Of axis 0 the border would be that of one batch size.
    if x.shape[0] != op.shape[0]:
        op.refuse(f"pads axis 0 with {fill}; only 0 is supported there")
    border = np.full((1, *op.shape[1:]), fill, np.float32)
    border[(slice(None), *inside[1:])] = 0
    return graph.apply("train.add", op.shape, [y, graph.constant(border)])


def cut(graph: GraphBuilder, op: TorchOperator, x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Without what negative paddings cut."""
    start, end = max(0, -before), x.shape[axis] - max(0, -after)
    if end <= start:
        op.refuse("leaves nothing of its input")
    return sliced(graph, x, axis, start, end, 1)


# Interpolation.


def scale_factors(op: TorchOperator, index: int, spatial: int) -> list[float | None]:
    """The factors that the caller gave, None of a size."""
    given = op.operands[index]
    return list(given) if isinstance(given, list) and given else [None] * spatial


@lowers("aten.upsample_nearest1d.vec", "aten.upsample_nearest2d.vec")
def nearest(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    for axis, factor in enumerate(scale_factors(op, 2, len(x.shape) - 2), 2):
        size, wanted = x.shape[axis], op.shape[axis]
        if wanted % size == 0:
            times = wanted // size
            shape = (*x.shape[: axis + 1], times, *x.shape[axis + 1 :])
            column = graph.reshape(x, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
            repeated = graph.apply("train.broadcast", shape, [column])
            x = graph.reshape(repeated, (*x.shape[:axis], wanted, *x.shape[axis + 1 :]))
        else:
            step = np.float32(1 / factor) if factor else np.float32(size) / np.float32(wanted)
            at = np.floor(np.arange(wanted, dtype=np.float32) * step).astype(np.int64)
            x = taken(graph, op, x, axis, np.minimum(at, size - 1))
    return x


@lowers("aten.upsample_linear1d.vec", "aten.upsample_bilinear2d.vec")
def linear(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """By a matrix for each axis."""
    x = op.tensor(graph, 0)
    last = len(x.shape) - 1
    for axis, factor in enumerate(scale_factors(op, 3, last - 1), 2):
        if x.shape[axis] == op.shape[axis]:
            continue
        weights = interpolation(x.shape[axis], op.shape[axis], bool(op.operands[2]), factor)
        order = list(range(last + 1))
        order[axis], order[last] = last, axis
        y = graph.linear(graph.permute(x, order), graph.constant(weights), None)
        x = graph.permute(y, order)
    return x


def interpolation(size: int, wanted: int, align_corners: bool, factor: float | None) -> np.ndarray:
    """The matrix [wanted, size] of linear interpolation along an axis."""
    weights = np.zeros((wanted, size))
    for row in range(wanted):
        if align_corners:
            position = row * (size - 1) / (wanted - 1) if wanted > 1 else 0.0
        else:
            position = max((row + 0.5) * (1 / factor if factor else size / wanted) - 0.5, 0.0)
        low = min(floor(position), size - 1)
        weights[row, low] += 1 - (position - low)
        weights[row, min(low + 1, size - 1)] += position - low
    return weights.astype(np.float32)
