"""Table entries of losses, for models that compute their own."""

from __future__ import annotations

import numpy as np

from .builder import GraphBuilder, Indices, Tensor
from .composites import mean_over, reduced
from .functions import softplus_of
from .table import TorchOperator, lowers, operand_tensor, scaled

_NONE, _MEAN, _SUM = 0, 1, 2


def reduction(graph: GraphBuilder, op: TorchOperator, losses: Tensor, kind: object) -> Tensor:
    """Losses of elements as PyTorch reduces them."""
    axes = list(range(len(losses.shape)))
    if kind == _NONE:
        return losses
    if kind == _SUM:
        return reduced(graph, "train.sum", losses, axes, False)
    if kind != _MEAN:
        op.refuse("has a reduction that is not known")
    return mean_over(graph, losses, axes, False)


def difference(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x, target = operand_tensor(graph, op, 0), operand_tensor(graph, op, 1)
    if x.shape != target.shape:
        op.refuse(f"has a prediction of shape {list(x.shape)} and a target of shape {list(target.shape)}")
    return graph.apply("train.sub", x.shape, [x, target])


@lowers("aten.mse_loss", "aten.l1_loss")
def distance(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = difference(graph, op)
    if op.name == "aten.l1_loss":
        return reduction(graph, op, graph.apply("train.abs", x.shape, [x]), op.operands[2])
    return reduction(graph, op, graph.apply("train.pow", x.shape, [x], {"exponent": 2.0}), op.operands[2])


@lowers("aten.smooth_l1_loss", "aten.huber_loss")
def smooth_distance(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """Squares below beta (or delta), distances above, which Huber's loss has times delta."""
    x, beta = difference(graph, op), op.number(3)
    if beta <= 0:
        op.refuse(f"has the threshold {beta}; positive ones are supported")
    size = graph.apply("train.abs", x.shape, [x])
    square = scaled(graph, graph.apply("train.pow", x.shape, [x], {"exponent": 2.0}), 0.5 / beta)
    line = graph.apply("train.sub", x.shape, [size, graph.splat(0.5 * beta)])
    below = graph.compared("lt", size, graph.splat(beta), x.shape)
    losses = graph.selected(below, square, line, x.shape)
    losses = scaled(graph, losses, beta if op.name == "aten.huber_loss" else 1)
    return reduction(graph, op, losses, op.operands[2])


@lowers("aten.binary_cross_entropy_with_logits")
def binary_cross_entropy(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """(1 - t) x + w log(1 + exp(-x)), w = 1 + (p - 1) t with weights p of what is true."""
    x, target = op.tensor(graph, 0), operand_tensor(graph, op, 1)
    rest = graph.apply("train.sub", target.shape, [graph.splat(1), target])
    linear = graph.apply("train.mul", x.shape, [rest, x])
    soft = softplus_of(graph, scaled(graph, x, -1))
    if op.operands[3] is not None:
        positive = op.tensor(graph, 3)
        more = graph.apply("train.sub", positive.shape, [positive, graph.splat(1)])
        weight = graph.apply("train.mul", x.shape, [target, more])
        soft = graph.apply(
            "train.mul", x.shape, [soft, graph.apply("train.add", x.shape, [weight, graph.splat(1)])]
        )
    losses = graph.apply("train.add", x.shape, [linear, soft])
    if op.operands[2] is not None:
        losses = graph.apply("train.mul", x.shape, [losses, op.tensor(graph, 2)])
    return reduction(graph, op, losses, op.operands[4])


@lowers("aten.kl_div")
def divergence(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """t (log t - x), of targets that may be logarithms; a target of 0 counts nothing."""
    x, target = op.tensor(graph, 0), op.tensor(graph, 1)
    if op.operands[3]:
        probability, logarithm = graph.apply("train.exp", target.shape, [target]), target
    else:
        zero = graph.compared("eq", target, graph.splat(0), target.shape)
        probability = target
        logarithm = graph.apply(
            "train.log", target.shape, [graph.selected(zero, graph.splat(1), target, target.shape)]
        )
    losses = graph.apply(
        "train.mul", x.shape, [probability, graph.apply("train.sub", x.shape, [logarithm, x])]
    )
    return reduction(graph, op, losses, op.operands[2])


@lowers("aten.cross_entropy_loss", "aten.nll_loss_nd", "aten.nll_loss", "aten.nll_loss2d")
def cross_entropy(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """Of labels of whole numbers, an input or a part of one; of nothing that counts the mean is 0."""
    x, labels, kind = op.tensor(graph, 0), op.operands[1], op.operands[3]
    if not isinstance(labels, Indices) and not (isinstance(labels, Tensor) and labels.source):
        op.refuse("has a target of probabilities, or one that is computed; labels of an input are supported")
    if kind not in (_MEAN, _SUM):
        op.refuse("has no reduction; mean and sum are supported")
    if len(x.shape) == 1:
        x = graph.reshape(x, (1, *x.shape))
    rows, classes = (x.shape[0], *x.shape[2:]), x.shape[1]
    smoothing = op.number(5) if op.name == "aten.cross_entropy_loss" and len(op.operands) > 5 else 0.0
    ignored = op.integers(4)[0]
    at = op.tensor(graph, 1)
    if at.source:
        graph.rows[at.source] = min(classes, graph.rows.get(at.source, classes))
        graph.ignored[at.source] = ignored
    if op.name == "aten.cross_entropy_loss":
        x = graph.apply("train.log_softmax", x.shape, [x], {"axis": 1})
    places = (classes, *[1] * (len(x.shape) - 2))
    known = graph.constant(np.arange(classes, dtype=np.float32).reshape(places))
    at = graph.reshape(at, rows)
    column = graph.reshape(at, (rows[0], 1, *rows[1:]))
    here = graph.compared("eq", column, known, x.shape)
    zero = graph.splat(0)
    weight = graph.splat(1) if op.operands[2] is None else graph.reshape(op.tensor(graph, 2), places)
    counts = graph.compared("ne", at, graph.splat(ignored), rows)

    def counted(values: Tensor) -> Tensor:
        per_row = reduced(graph, "train.sum", values, [1], False)
        return graph.selected(counts, per_row, zero, rows)

    weighted = x if op.operands[2] is None else graph.apply("train.mul", x.shape, [x, weight])
    losses = scaled(graph, counted(graph.selected(here, weighted, zero, x.shape)), smoothing - 1)
    if smoothing:
        even = scaled(graph, counted(weighted), -smoothing / classes)
        losses = graph.apply("train.add", rows, [losses, even])
    axes = list(range(len(rows)))
    total = reduced(graph, "train.sum", losses, axes, False)
    if kind == _SUM:
        return total
    count = reduced(graph, "train.sum", counted(graph.selected(here, weight, zero, x.shape)), axes, False)
    none = graph.compared("eq", count, zero, ())
    return graph.apply("train.div", (), [total, graph.apply("train.add", (), [count, none])])
