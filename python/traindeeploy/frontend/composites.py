"""Table entries of operators on whole tensors: convolution, pooling, normalization, attention, slices.

Models have channels first, the training graph channels last: entries of convolution and pooling put a
permute on either side, which td-move-permutes cancels between neighbours.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod, sqrt
from typing import Any

import numpy as np

from .builder import GraphBuilder, Indices, Nothing, Tensor
from .table import IsNegative, TorchOperator, lowers, scaled

# Convolution.


def channels_last(graph: GraphBuilder, x: Tensor) -> Tensor:
    """[n, c, h, w], [n, c, l] or without n to [n, h, w, c], with a height of 1 for a sequence."""
    return graph.permute(x, (0, 2, 3, 1))


def as_image(graph: GraphBuilder, op: TorchOperator, x: Tensor, spatial: int) -> Tensor:
    """[n, c, h, w] of an image or, with height 1, a sequence; both may lack n."""
    if len(x.shape) == spatial + 1:
        x = graph.reshape(x, (1, *x.shape))
    if len(x.shape) != spatial + 2 or spatial not in (1, 2):
        op.refuse(f"has an input of shape {list(x.shape)}; images and sequences with channels are supported")
    return graph.reshape(x, (*x.shape[:2], 1, x.shape[2])) if spatial == 1 else x


def channels_first(graph: GraphBuilder, y: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Back from [n, h, w, c] to the shape that the model has."""
    return graph.reshape(graph.permute(y, (0, 3, 1, 2)), shape)


def pair(values: list[int], spatial: int, default: int) -> list[int]:
    """One number per axis of an image; a sequence has the default along its height."""
    return [default, *values] if spatial == 1 else values


def filter_last(graph: GraphBuilder, op: TorchOperator, weight: Tensor, spatial: int) -> Tensor:
    """[o, i, h, w] or [o, i, l] to [h, w, i, o]."""
    if spatial == 1:
        weight = graph.reshape(weight, (*weight.shape[:2], 1, weight.shape[2]))
    return graph.permute(weight, (2, 3, 1, 0))


def convolution(
    graph: GraphBuilder, op: TorchOperator, stride: Any, padding: list[int], dilation: Any, groups: int
) -> Tensor:
    """A convolution of operands 0 (input), 1 (filter), 2 (bias); padding as [top, bottom, left, right]."""
    weight = op.tensor(graph, 1)
    spatial = len(weight.shape) - 2
    x = channels_last(graph, as_image(graph, op, op.tensor(graph, 0), spatial))
    taps = filter_last(graph, op, weight, spatial)
    dilation = pair(dilation, spatial, 1)
    stride = pair(stride, spatial, 1)
    sizes = [
        (x.shape[1 + i] + padding[2 * i] + padding[2 * i + 1] - (taps.shape[i] - 1) * dilation[i] - 1)
        // stride[i]
        + 1
        for i in (0, 1)
    ]
    if min(sizes) < 1:
        op.refuse(f"has a window larger than its input of shape {list(x.shape)}")
    attributes = {"strides": stride, "padding": padding, "dilations": dilation, "groups": groups}
    y = graph.apply("train.conv2d", (x.shape[0], *sizes, taps.shape[3]), [x, taps], attributes)
    return channels_first(graph, with_bias(graph, op, y), op.shape)


def with_bias(graph: GraphBuilder, op: TorchOperator, y: Tensor) -> Tensor:
    if op.operands[2] is None:
        return y
    return graph.apply("train.add", y.shape, [y, op.tensor(graph, 2)])


def transposed_convolution(
    graph: GraphBuilder, op: TorchOperator, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """The transpose of a convolution whose filter [o, i, h, w] is operand 1: o channels in, i out.

    Output padding of a stride or more (dilation allows it) makes results that the convolution would have
    further windows for: first it takes back padding at the end, and what lies beyond that is zero.
    """
    weight = op.tensor(graph, 1)
    spatial = len(weight.shape) - 2
    x = channels_last(graph, as_image(graph, op, op.tensor(graph, 0), spatial))
    taps = filter_last(graph, op, weight, spatial)
    shape = op.shape if len(op.shape) == spatial + 2 else (1, *op.shape)
    sizes = (1, shape[2]) if spatial == 1 else shape[2:]
    strides, dilations = pair(stride, spatial, 1), pair(dilation, spatial, 1)
    ends, reached = [], []
    for axis, ahead in enumerate(pair(padding, spatial, 0)):
        whole = (x.shape[1 + axis] - 1) * strides[axis] + (taps.shape[axis] - 1) * dilations[axis] + 1
        more = sizes[axis] - (whole - 2 * ahead)
        behind = ahead if more < strides[axis] else max(ahead - more, 0)
        ends += [ahead, behind]
        reached.append(sizes[axis] if more < strides[axis] else whole - ahead - behind)
    attributes = {"strides": strides, "padding": ends, "dilations": dilations, "groups": groups}
    y = graph.apply("train.conv2d_input_vjp", (x.shape[0], *reached, shape[1]), [x, taps], attributes)
    if reached != list(sizes):
        whole_shape = (x.shape[0], *sizes, shape[1])
        y = graph.apply("train.embed", whole_shape, [y], {"offsets": [0] * 4, "strides": [1] * 4})
    return channels_first(graph, with_bias(graph, op, y), op.shape)


def both_sides(padding: list[int], spatial: int) -> list[int]:
    return [side for size in pair(padding, spatial, 0) for side in (size, size)]


@lowers("aten.conv1d", "aten.conv2d")
def conv(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    spatial = len(op.operands[1].shape) - 2
    stride, padding, dilation = (op.integers(i, spatial) for i in (3, 4, 5))
    return convolution(graph, op, stride, both_sides(padding, spatial), dilation, op.integers(6)[0])


@lowers("aten.conv1d.padding", "aten.conv2d.padding")
def conv_padding(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    spatial = len(op.operands[1].shape) - 2
    stride, dilation = op.integers(3, spatial), op.integers(5, spatial)
    padding = [0, 0] if spatial == 1 else []
    for size, step in zip(op.operands[1].shape[2:], dilation, strict=True):
        total = step * (size - 1) if op.operands[4] == "same" else 0
        padding += [total // 2, total - total // 2]
    return convolution(graph, op, stride, padding, dilation, op.integers(6)[0])


@lowers("aten.convolution", "aten._convolution")
def general_convolution(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    spatial = len(op.operands[1].shape) - 2
    stride, padding, dilation = (op.integers(i, spatial) for i in (3, 4, 5))
    groups = op.integers(8)[0]
    if op.operands[6]:
        return transposed_convolution(graph, op, stride, padding, dilation, groups)
    return convolution(graph, op, stride, both_sides(padding, spatial), dilation, groups)


@lowers("aten.conv_transpose1d", "aten.conv_transpose2d.input")
def conv_transpose(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    spatial = len(op.operands[1].shape) - 2
    stride, padding, dilation = (op.integers(i, spatial) for i in (3, 4, 7))
    return transposed_convolution(graph, op, stride, padding, dilation, op.integers(6)[0])


# Pooling.


def pooling_stride(op: TorchOperator, spatial: int) -> list[int]:
    """The stride of operand 2, or the kernel where there is none."""
    if op.operands[2] in (None, []):
        return op.integers(1, spatial)
    stride = op.integers(2)
    # torch-mlir appends the dilations of ONNX's AveragePool.
    if len(stride) == 2 * spatial and all(step == 1 for step in stride[spatial:]):
        return stride[:spatial]
    return op.integers(2, spatial)


def pooled(
    graph: GraphBuilder, op: TorchOperator, name: str, spatial: int, dilation: Any, **more: Any
) -> Tensor:
    x = channels_last(graph, as_image(graph, op, op.tensor(graph, 0), spatial))
    kernel, stride = op.integers(1, spatial), pooling_stride(op, spatial)
    sizes = (1, *op.shape[-1:]) if spatial == 1 else op.shape[-2:]
    attributes = {
        "kernel": pair(kernel, spatial, 1),
        "strides": pair(stride, spatial, 1),
        "padding": both_sides(op.integers(3, spatial), spatial),
        **more,
    }
    if dilation is not None:
        attributes["dilations"] = pair(dilation, spatial, 1)
    second = "i32" if name == "train.max_pool2d" else None
    y = graph.apply(name, (x.shape[0], *sizes, x.shape[3]), [x], attributes, second_result=second)
    return channels_first(graph, y, op.shape)


@lowers("aten.max_pool1d", "aten.max_pool2d", "aten.max_pool2d_with_indices")
def max_pool(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    spatial = 1 if op.name == "aten.max_pool1d" else 2
    return pooled(graph, op, "train.max_pool2d", spatial, op.integers(4, spatial))


@lowers("aten.avg_pool1d", "aten.avg_pool2d")
def average_pool(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    spatial = 1 if op.name == "aten.avg_pool1d" else 2
    divisor = op.number(6) if len(op.operands) > 6 and op.operands[6] is not None else None
    if divisor is not None and op.operands[4]:
        op.refuse("has a divisor of its own with ceil_mode")
    if not op.operands[4]:
        excludes = divisor is None and not op.operands[5]
        y = pooled(graph, op, "train.avg_pool2d", spatial, None, exclude_padding=excludes)
        return y if divisor is None else scaled(graph, y, prod(op.integers(1, spatial)) / divisor)
    # Windows may reach beyond the padding, by what never counts: padding that counts becomes zeros.
    x = channels_last(graph, as_image(graph, op, op.tensor(graph, 0), spatial))
    kernel = pair(op.integers(1, spatial), spatial, 1)
    stride = pair(pooling_stride(op, spatial), spatial, 1)
    padding = both_sides(op.integers(3, spatial), spatial)
    if op.operands[5] and any(padding):
        top, bottom, left, right = padding
        shape = (x.shape[0], x.shape[1] + top + bottom, x.shape[2] + left + right, x.shape[3])
        x = graph.apply("train.embed", shape, [x], {"offsets": [0, top, left, 0], "strides": [1] * 4})
        padding = [0] * 4
    sizes = (1, *op.shape[-1:]) if spatial == 1 else op.shape[-2:]
    for axis in (0, 1):
        reached = (sizes[axis] - 1) * stride[axis] + kernel[axis]
        missing = reached - (x.shape[1 + axis] + padding[2 * axis] + padding[2 * axis + 1])
        padding[2 * axis + 1] += max(0, missing)
    attributes = {"kernel": kernel, "strides": stride, "padding": padding, "exclude_padding": True}
    y = graph.apply("train.avg_pool2d", (x.shape[0], *sizes, x.shape[3]), [x], attributes)
    return channels_first(graph, y, op.shape)


@lowers("aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", data=1)
def adaptive_average_pool(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    spatial = 1 if op.name == "aten.adaptive_avg_pool1d" else 2
    for axis in range(len(x.shape) - spatial, len(x.shape)):
        x = averaged_parts(graph, x, axis, op.shape[axis])
    return x


@lowers("aten.adaptive_max_pool1d", "aten.adaptive_max_pool2d", data=1)
def adaptive_max_pool(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """By axes, the last one first: so that of equal maxima the first one in memory wins."""
    spatial = 1 if op.name == "aten.adaptive_max_pool1d" else 2
    x = channels_last(graph, as_image(graph, op, op.tensor(graph, 0), spatial))
    sizes = (1, *op.shape[-1:]) if spatial == 1 else op.shape[-2:]
    for axis in (2, 1):
        size, count = x.shape[axis], sizes[axis - 1]
        bounds = [(part * size // count, -(-(part + 1) * size // count)) for part in range(count)]
        if size % count == 0:
            x = pooled_along(graph, x, axis, size // count)
        else:
            parts = [pooled_along(graph, sliced(graph, x, axis, a, b, 1), axis, b - a) for a, b in bounds]
            x = concatenated(graph, parts, axis)
    return channels_first(graph, x, op.shape)


def pooled_along(graph: GraphBuilder, x: Tensor, axis: int, size: int) -> Tensor:
    """Maxima of neighbours along the height (1) or width (2) of an image with channels last."""
    window = [size if axis == 1 else 1, size if axis == 2 else 1]
    attributes = {"kernel": window, "strides": window, "padding": [0] * 4, "dilations": [1, 1]}
    shape = tuple(extent // size if i == axis else extent for i, extent in enumerate(x.shape))
    return graph.apply("train.max_pool2d", shape, [x], attributes, second_result="i32")


def averaged_parts(graph: GraphBuilder, x: Tensor, axis: int, count: int) -> Tensor:
    """The averages of `count` parts of an axis, as even as PyTorch's adaptive pooling makes them."""
    size = x.shape[axis]
    if count == 1:
        return mean_over(graph, x, [axis], keep=True)
    if size == count:
        return x
    if size % count == 0:
        split = graph.reshape(x, (*x.shape[:axis], count, size // count, *x.shape[axis + 1 :]))
        return mean_over(graph, split, [axis + 1], keep=False)
    bounds = [(part * size // count, -(-(part + 1) * size // count)) for part in range(count)]
    parts = [mean_over(graph, sliced(graph, x, axis, a, b, 1), [axis], keep=True) for a, b in bounds]
    return concatenated(graph, parts, axis)


# Reductions.


def without(shape: tuple[int, ...], axes: list[int]) -> tuple[int, ...]:
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def reduced(graph: GraphBuilder, name: str, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if not axes:
        return x
    y = graph.apply(name, without(x.shape, axes), [x], {"axes": axes})
    if not keep:
        return y
    return graph.reshape(y, tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)))


def mean_over(graph: GraphBuilder, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    count = prod(x.shape[axis] for axis in axes)
    return scaled(graph, reduced(graph, "train.sum", x, axes, keep), 1 / count)


@lowers("aten.mean", "aten.sum", data=1)
def total(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    axes = list(range(len(x.shape)))
    mean = op.name == "aten.mean"
    return mean_over(graph, x, axes, False) if mean else reduced(graph, "train.sum", x, axes, False)


@lowers("aten.mean.dim", "aten.sum.dim_IntList")
def total_over(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    axes, keep = op.axes(1, len(x.shape)), bool(op.operands[2])
    mean = op.name == "aten.mean.dim"
    return mean_over(graph, x, axes, keep) if mean else reduced(graph, "train.sum", x, axes, keep)


@lowers("aten.amax")
def maximum_over(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    return reduced(graph, "train.max", x, op.axes(1, len(x.shape)), bool(op.operands[2]))


# Softmax, normalization, attention.


@lowers("aten.softmax.int", "aten._softmax", "aten.log_softmax.int", "aten._log_softmax")
def softmax(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    name = "train.log_softmax" if "log" in op.name else "train.softmax"
    if not x.shape:
        op.refuse("has a scalar as its input")
    return graph.apply(name, x.shape, [x], {"axis": op.integers(1)[0] % len(x.shape)})


def normalized(
    graph: GraphBuilder, x: Tensor, axes: list[int], epsilon: float, scale: Tensor | None, rms: bool = False
) -> Tensor:
    operands = [x] if scale is None else [x, scale]
    attributes = {"axes": axes, "epsilon": float(epsilon), "rms": rms}
    return graph.apply("train.normalize", x.shape, operands, attributes)


def affine(graph: GraphBuilder, op: TorchOperator, index: int) -> Tensor | None:
    return None if op.operands[index] is None else op.tensor(graph, index)


@lowers("aten.layer_norm", "aten.native_layer_norm")
def layer_norm(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    count = len(op.integers(1))
    axes = list(range(len(x.shape) - count, len(x.shape)))
    y = normalized(graph, x, axes, op.number(4), affine(graph, op, 2))
    shift = affine(graph, op, 3)
    return y if shift is None else graph.apply("train.add", y.shape, [y, shift])


@lowers("aten.rms_norm", "aten._fused_rms_norm")
def rms_norm(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    count = len(op.integers(1))
    axes = list(range(len(x.shape) - count, len(x.shape)))
    # PyTorch's default is the spacing of float32 at 1.
    epsilon = float(np.finfo(np.float32).eps) if op.operands[3] is None else op.number(3)
    return normalized(graph, x, axes, epsilon, affine(graph, op, 2), rms=True)


@lowers("aten.instance_norm")
def instance_norm(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    if not op.operands[5]:
        op.refuse("takes running statistics; only those of the sample are supported")
    split = graph.reshape(x, (*x.shape[:2], prod(x.shape[2:])))
    y = graph.reshape(normalized(graph, split, [2], op.number(7), None), x.shape)
    return per_channel(graph, y, affine(graph, op, 1), affine(graph, op, 2))


@lowers("aten.group_norm")
def group_norm(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    groups, epsilon = op.integers(1)[0], op.number(4)
    split = graph.reshape(x, (x.shape[0], groups, prod(x.shape[1:]) // groups))
    y = graph.reshape(normalized(graph, split, [2], epsilon, None), x.shape)
    return per_channel(graph, y, affine(graph, op, 2), affine(graph, op, 3))


def per_channel(graph: GraphBuilder, y: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """Scale and shift along axis 1."""
    for name, vector in (("train.mul", scale), ("train.add", shift)):
        if vector is not None:
            column = graph.reshape(vector, (*vector.shape, *[1] * (len(y.shape) - 2)))
            y = graph.apply(name, y.shape, [y, column])
    return y


def batch_statistics(
    graph: GraphBuilder, op: TorchOperator, x: Tensor, momentum: float, epsilon: float, updated: bool = True
) -> Tensor:
    """Batch norm of `x` with the statistics of the batch; updates the running ones as PyTorch does.

    Channels last, as the convolution before it.
    """
    axes = list(range(len(x.shape)))
    last = graph.permute(x, [0, *axes[2:], 1])
    count = prod(x.shape) // x.shape[1]
    if count == 1:
        op.refuse(f"has one value per channel in an input of shape {list(x.shape)}, which has no variance")
    if momentum == 0 and updated:
        op.refuse("has the momentum 0 or None (of all batches), which is not supported; give it another")
    weight, bias = affine(graph, op, 1), affine(graph, op, 2)
    y = normalized(graph, last, axes[:-1], epsilon, weight)
    if bias is not None:
        y = graph.apply("train.add", y.shape, [y, bias])
    if not updated:
        return graph.permute(y, [0, len(axes) - 1, *axes[1:-1]])

    def averaged(values: Tensor, divisor: int) -> Tensor:
        total = graph.apply("train.sum", x.shape[1:2], [values], {"axes": axes[:-1]}, whole_batch=True)
        return scaled(graph, total, 1 / divisor)

    mean = averaged(last, count)
    deviations = graph.apply("train.sub", last.shape, [last, mean])
    squares = graph.apply("train.pow", last.shape, [deviations], {"exponent": 2.0})
    # The variance of the population normalizes, that of the sample is kept.
    for index, statistic in ((3, mean), (4, averaged(squares, count - 1))):
        running = op.tensor(graph, index)
        if running.symbol is None or graph.parameters[running.symbol].kind != "constant":
            op.refuse("has running statistics that are computed, or parameters")
        if running.symbol in graph.running:
            op.refuse(f"is applied twice with the running statistics '{running.symbol}'")
        kept = scaled(graph, running, 1 - momentum)
        fresh = scaled(graph, statistic, momentum)
        graph.assign(running.symbol, graph.apply("train.add", running.shape, [kept, fresh]))
    return graph.permute(y, [0, len(axes) - 1, *axes[1:-1]])


@lowers("aten.batch_norm", "aten._native_batch_norm_legit_no_training", "aten.native_batch_norm")
def batch_norm(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """With the running statistics, as in evaluation mode, a scale and shift of each channel."""
    x = op.tensor(graph, 0)
    training = False if op.name.endswith("no_training") else op.operands[5]
    epsilon = op.number(6 if op.name.endswith("no_training") else 7)
    if graph.mode.batch_statistics:
        return batch_statistics(graph, op, x, op.number(5 if op.name.endswith("no_training") else 6), epsilon)
    if training is not False:
        op.refuse("takes the statistics of the batch (training mode), which needs --batch-norm batch")
    mean, variance = op.tensor(graph, 3), op.tensor(graph, 4)
    shifted = graph.apply("train.add", variance.shape, [variance, graph.splat(epsilon)])
    scale = graph.apply("train.rsqrt", variance.shape, [shifted])
    weight, bias = affine(graph, op, 1), affine(graph, op, 2)
    if weight is not None:
        scale = graph.apply("train.mul", scale.shape, [scale, weight])
    offset = graph.apply("train.mul", scale.shape, [mean, scale])
    if bias is None:
        offset = scaled(graph, offset, -1)
    else:
        offset = graph.apply("train.sub", bias.shape, [bias, offset])
    return per_channel(graph, x, scale, offset)


@lowers("aten._native_batch_norm_legit.no_stats")
def batch_norm_without_statistics(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """Of a module that keeps no running statistics, which takes those of the batch in either mode."""
    x = op.tensor(graph, 0)
    return batch_statistics(graph, op, x, op.number(4), op.number(5), updated=False)


@lowers("aten.scaled_dot_product_attention")
def attention(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """Attention as its separate operators, which fuse and differentiate as any others."""
    q, k, v = (op.tensor(graph, i) for i in (0, 1, 2))
    dropped = op.number(4)
    if dropped and graph.mode.dropout is None:
        op.refuse("is active (training mode), which needs a seed: --dropout SEED")
    if len(op.operands) > 7 and op.operands[7]:
        k, v = (shared_heads(graph, op, x, q.shape[-3]) for x in (k, v))
    scale = 1 / sqrt(q.shape[-1]) if op.operands[6] is None else op.number(6)
    batch = tuple(np.broadcast_shapes(q.shape[:-2], k.shape[:-2]))
    shape = (*batch, q.shape[-2], k.shape[-2])
    scores = graph.apply("train.matmul", shape, [q, k], {"transpose_rhs": True})
    scores = scaled(graph, scores, scale)
    if op.operands[3] is not None:
        scores = graph.apply("train.add", shape, [scores, attention_mask(graph, op)])
    if op.operands[5]:
        scores = graph.apply("train.add", shape, [scores, graph.constant(causal_mask(*shape[-2:]))])
    weights = graph.apply("train.softmax", shape, [scores], {"axis": len(shape) - 1})
    weights = graph.dropout(weights, dropped)
    return graph.apply("train.matmul", op.shape, [weights, v])


def shared_heads(graph: GraphBuilder, op: TorchOperator, x: Tensor, heads: int) -> Tensor:
    """Keys or values [..., h, t, d] of which several of the `heads` queries share each."""
    count, rest = x.shape[-3], x.shape[-2:]
    if heads % count:
        op.refuse(f"shares {count} heads between {heads}")
    if heads == count:
        return x
    batch = x.shape[:-3]
    column = graph.reshape(x, (*batch, count, 1, *rest))
    repeated = graph.apply("train.broadcast", (*batch, count, heads // count, *rest), [column])
    return graph.reshape(repeated, (*batch, heads, *rest))


def attention_mask(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """What is added to the scores: of truth values, 0 where a query sees a key."""
    mask = op.operands[3]
    values: np.ndarray | None = None
    if isinstance(mask, Indices) and mask.array is not None:
        values = np.where(mask.array, np.float32(0), np.float32(LOWEST))
    elif isinstance(mask, Tensor) and mask.number is not None:
        values = np.full(1, mask.number, np.float32)
    elif isinstance(mask, Tensor) and mask.symbol is not None and mask.gradient is None:
        values = graph.parameters[mask.symbol].value
    if values is not None and (values <= LOWEST).all(axis=-1).any():
        op.refuse("has a mask that hides every key from a query")
    if values is not None and isinstance(mask, Indices):
        return graph.constant(values)
    return op.tensor(graph, 3)


def causal_mask(queries: int, keys: int) -> np.ndarray:
    """0 for keys that a query may see, the lowest float32 for those that come after it."""
    mask = np.zeros((queries, keys), np.float32)
    mask[np.triu_indices(queries, 1, keys)] = LOWEST
    return mask


# Shapes.


def sliced(graph: GraphBuilder, x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    size = max(0, -(-(end - start) // step))
    if (start, size, step) == (0, x.shape[axis], 1):
        return x
    offsets, strides = [0] * len(x.shape), [1] * len(x.shape)
    offsets[axis], strides[axis] = start, step
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    return graph.apply("train.slice", shape, [x], {"offsets": offsets, "strides": strides})


def concatenated(graph: GraphBuilder, parts: list[Tensor], axis: int) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    return graph.apply("train.concat", tuple(shape), parts, {"axis": axis})


@lowers("aten.slice.Tensor", whole=True)
def slice_tensor(graph: GraphBuilder, op: TorchOperator) -> Tensor | Nothing:
    x = op.tensor(graph, 0)
    axis = op.integers(1)[0] % len(x.shape)
    size = x.shape[axis]
    step = op.integers(4)[0]
    if step < 0:  # of ONNX
        start, end = (at + size if at < 0 else at for at in (op.integers(2)[0], op.integers(3)[0]))
        at = np.arange(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step)
        return picked(graph, op, x, axis, Indices(at.shape, array=at))
    start = 0 if op.operands[2] is None else op.integers(2)[0]
    end = size if op.operands[3] is None else op.integers(3)[0]
    start, end = (min(max(bound + size if bound < 0 else bound, 0), size) for bound in (start, end))
    if end <= start:
        return Nothing()
    return sliced(graph, x, axis, start, end, step)


@lowers("aten.select.int", whole=True)
def select(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    axis = op.integers(1)[0] % len(x.shape)
    index = op.integers(2)[0] % x.shape[axis]
    return graph.reshape(sliced(graph, x, axis, index, index + 1, 1), op.shape)


@lowers("aten.split.Tensor", "aten.split.sizes", "aten.split_with_sizes", "aten.chunk", "aten.unbind.int")
@lowers("aten.unsafe_split.Tensor", "aten.unsafe_chunk")
def split(graph: GraphBuilder, op: TorchOperator) -> list[Tensor | Nothing]:
    x = op.tensor(graph, 0)
    axis = op.integers(1 if op.name == "aten.unbind.int" else 2)[0] % len(x.shape)
    size = x.shape[axis]
    if op.name == "aten.unbind.int":
        ends = list(range(1, size + 1))
    elif op.name in ("aten.split.sizes", "aten.split_with_sizes"):
        ends = np.cumsum(op.integers(1)).tolist()
    else:
        part = op.integers(1)[0]
        part = -(-size // part) if op.name.endswith("chunk") else part
        ends = [*range(part, size, part), size]
    if ends[-1] != size or sorted([0, *ends]) != [0, *ends]:
        op.refuse(f"divides {size} into parts of {np.diff([0, *ends]).tolist()}")
    bounds = list(zip([0, *ends], ends, strict=False))
    if op.name == "aten.unbind.int":
        shape = without(x.shape, [axis])
        return [graph.reshape(sliced(graph, x, axis, a, b, 1), shape) for a, b in bounds]
    return [sliced(graph, x, axis, a, b, 1) if a < b else Nothing() for a, b in bounds]


# Whole numbers: indices, masks.


def known(op: TorchOperator, index: int) -> np.ndarray | None:
    """An operand of whole numbers or truth values, if they are known."""
    operand = op.operands[index]
    return operand.array if isinstance(operand, Indices) else None


MOST_RUNS = 24
"""Slices that an indexing with known indices takes; with more of them it looks up rows."""


def picked(graph: GraphBuilder, op: TorchOperator, x: Tensor, axis: int, indices: Indices) -> Tensor:
    """numpy.take(x, indices, axis)."""
    size = x.shape[axis]
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    if indices.array is None:
        return looked_up(graph, x, axis, indices, shape)
    at = np.where(indices.array < 0, indices.array + size, indices.array).ravel()
    if at.size == 0:
        op.refuse("leaves nothing of its input")
    if at.min() < 0 or at.max() >= size:
        op.refuse(f"has an index that is not below {size}")
    # Runs of neighbours are one slice each.
    starts = np.flatnonzero(np.diff(at, prepend=at[0] - 2) != 1)
    if starts.size > MOST_RUNS:
        return looked_up(graph, x, axis, Indices(indices.shape, array=at.reshape(indices.shape)), shape)
    ends = [*starts[1:].tolist(), at.size]
    runs = [
        sliced(graph, x, axis, int(at[a]), int(at[b - 1]) + 1, 1) for a, b in zip(starts, ends, strict=True)
    ]
    return graph.reshape(concatenated(graph, runs, axis), shape)


def looked_up(
    graph: GraphBuilder, x: Tensor, axis: int, indices: Indices | Tensor, shape: tuple[int, ...]
) -> Tensor:
    """numpy.take(x, indices, axis) of the shape `shape`, as rows of a table."""
    order = [axis, *(i for i in range(len(x.shape)) if i != axis)]
    rest = tuple(x.shape[i] for i in order[1:])
    rows = graph.embed(indices, graph.reshape(graph.permute(x, order), (x.shape[axis], prod(rest))))
    found = graph.reshape(rows, (*indices.shape, *rest))
    count = len(indices.shape)
    back = [*range(count, count + axis), *range(count), *range(count + axis, count + len(rest))]
    return graph.reshape(graph.permute(found, back), shape)


def embedded(
    graph: GraphBuilder, op: TorchOperator, table: Tensor, indices: Indices | Tensor, padding: int
) -> Tensor:
    """Rows of a table, by an input of the model or by what is known."""
    if isinstance(indices, Tensor):
        return graph.embed(graph.straight(indices), table, padding)
    if indices.array is None or padding >= 0:
        return graph.embed(indices, table, padding)
    return picked(graph, op, table, 0, indices)


def as_indices(op: TorchOperator, index: int) -> Indices | Tensor:
    """An operand that indexes a tensor: an input of whole numbers, elements of one, or known."""
    indices = op.operands[index]
    if isinstance(indices, Indices) or (isinstance(indices, Tensor) and indices.source):
        return indices
    op.refuse("has indices that are computed; an input or constants can index a tensor")


@lowers("aten.embedding")
def embedding(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    indices = as_indices(op, 1)
    padding = op.operands[2] if len(op.operands) > 2 and isinstance(op.operands[2], int) else -1
    return embedded(graph, op, op.tensor(graph, 0), indices, padding)


@lowers("aten.index_select", whole=True)
def index_select(graph: GraphBuilder, op: TorchOperator) -> Tensor | Indices:
    indices = as_indices(op, 2)
    source = known(op, 0)
    if source is not None and isinstance(indices, Indices) and indices.array is not None:
        array = np.take(source, indices.array, op.integers(1)[0])
        return Indices(array.shape, array=array)
    x = op.tensor(graph, 0)
    axis = op.integers(1)[0] % len(x.shape)
    return taken(graph, op, x, axis, indices)


def taken(graph: GraphBuilder, op: TorchOperator, x: Tensor, axis: int, indices: Indices | Tensor) -> Tensor:
    """numpy.take(x, indices, axis), by what is known or elements of an input."""
    if isinstance(indices, Indices):
        return picked(graph, op, x, axis, indices)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return looked_up(graph, x, axis, graph.straight(indices), shape)


@lowers("aten.index.Tensor", whole=True)
def index(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """By indices along one axis, or along neighbouring ones if they are known."""
    x, indices = op.tensor(graph, 0), op.operands[1]
    given = [axis for axis, item in enumerate(indices) if item is not None]
    known_ones = [indices[a].array for a in given if isinstance(indices[a], Indices)]
    arrays = [array for array in known_ones if array is not None]
    if any(array.dtype == bool for array in arrays):
        op.refuse("has a mask as its index")
    if len(given) == 1:
        return taken(graph, op, x, given[0], as_indices(replace(op, operands=indices), given[0]))
    first, last = given[0], given[-1]
    if given != list(range(first, last + 1)) or len(arrays) < len(given):
        op.refuse("has indices of several axes that are not known, or not of neighbouring axes")
    sizes = x.shape[first : last + 1]
    wrapped = [np.where(a < 0, a + size, a) for a, size in zip(arrays, sizes, strict=True)]
    try:
        flat = np.ravel_multi_index(np.broadcast_arrays(*wrapped), sizes)
    except ValueError:
        op.refuse(f"has an index that is not below {list(sizes)}")
    joined = graph.reshape(x, (*x.shape[:first], prod(sizes), *x.shape[last + 1 :]))
    return graph.reshape(picked(graph, op, joined, first, Indices(flat.shape, array=flat)), op.shape)


@lowers("aten.unfold")
def unfold(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """Windows along an axis, whose elements are the last axis of the result."""
    x = op.tensor(graph, 0)
    if not x.shape:
        return graph.reshape(x, op.shape)
    axis = op.integers(1)[0] % len(x.shape)
    size, step = op.integers(2)[0], op.integers(3)[0]
    at = step * np.arange(op.shape[axis])[:, None] + np.arange(size)
    windows = picked(graph, op, x, axis, Indices(at.shape, array=at))
    order = [i for i in range(len(windows.shape)) if i != axis + 1]
    return graph.permute(windows, [*order, axis + 1])


@lowers("aten.where.self", "aten.where.ScalarSelf", "aten.where.ScalarOther", "aten.where.Scalar", whole=True)
def where(graph: GraphBuilder, op: TorchOperator) -> Tensor | Indices:
    """Also what ONNX's Gather does about negative indices, which no input has."""
    mask = op.operands[0]
    if isinstance(mask, IsNegative):
        if op.operands[2] is mask.of:
            return mask.of
        condition = graph.compared("lt", graph.whole(mask.of), graph.splat(0), mask.of.shape)
        op = replace(op, operands=[condition, *op.operands[1:]])
    mask, yes, no = (known(op, index) for index in (0, 1, 2))
    if mask is not None and yes is not None and no is not None:
        array = np.where(mask, yes, no)
        return Indices(array.shape, array=array)
    return chosen(graph, op, 0, float_operand(graph, op, 1), float_operand(graph, op, 2))


@lowers("aten.masked_fill.Scalar", "aten.masked_fill.Tensor", whole=True)
def masked_fill(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    return chosen(graph, op, 1, float_operand(graph, op, 2), float_operand(graph, op, 0))


def float_operand(graph: GraphBuilder, op: TorchOperator, index: int) -> Tensor:
    """A tensor, or a number that stands for one."""
    operand = op.operands[index]
    if isinstance(operand, Tensor | Indices):
        return op.tensor(graph, index)
    return graph.splat(max(op.number(index), LOWEST))


def chosen(graph: GraphBuilder, op: TorchOperator, index: int, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` where the mask, operand `index`, holds, else `no`."""
    mask = known(op, index)
    if mask is not None and (mask.all() or not mask.any()):
        one = yes if mask.all() else no
        return one if one.shape == op.shape else graph.apply("train.broadcast", op.shape, [one])
    return graph.selected(op.tensor(graph, index), yes, no, op.shape)


LOWEST = float(np.finfo(np.float32).min)
"""In place of -infinity in a mask, which times 0 would be NaN."""


@lowers("aten.cat")
def cat(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    parts = op.operands[0]
    if isinstance(parts, list):
        parts = [part for part in parts if not isinstance(part, Nothing)]
    if not parts or not isinstance(parts, list) or not all(isinstance(part, Tensor) for part in parts):
        op.refuse("has an operand that is not a list of tensors of float32")
    return concatenated(graph, [graph.straight(p) for p in parts], op.integers(1)[0] % len(op.shape))


@lowers("aten.stack")
def stack(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    axis = op.integers(1)[0] % len(op.shape)
    shape = (*op.shape[:axis], 1, *op.shape[axis + 1 :])
    parts = op.operands[0]
    if isinstance(parts, list):
        parts = [part for part in parts if not isinstance(part, Nothing)]
    if not parts or not isinstance(parts, list) or not all(isinstance(part, Tensor) for part in parts):
        op.refuse("has an operand that is not a list of tensors of float32")
    return concatenated(graph, [graph.reshape(graph.straight(part), shape) for part in parts], axis)


@lowers("aten.repeat", "aten.tile")
def repeat(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    x = graph.reshape(x, (*[1] * (len(op.shape) - len(x.shape)), *x.shape))
    for axis, size in enumerate(op.shape):
        x = concatenated(graph, [x] * (size // x.shape[axis]), axis)
    return x


@lowers("aten.expand", "aten.broadcast_to", data=1, whole=True)
def expand(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    return x if x.shape == op.shape else graph.apply("train.broadcast", op.shape, [x])


@lowers("aten.expand_as", data=1, whole=True)
def expand_as(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    return expand(graph, op)
