"""Table entries of functions and reductions that are made of others: of few ops, with PyTorch's gradients.

Also at kinks, ties and zeros, where PyTorch has chosen one of several.
"""

from __future__ import annotations

from math import inf, log, prod

from .builder import GraphBuilder, Tensor
from .composites import mean_over, pooled_along, reduced, sliced
from .table import TorchOperator, clamped, lowers, operand_tensor, scaled

# Activations.


def softplus_of(graph: GraphBuilder, x: Tensor) -> Tensor:
    """log(1 + exp(x)), the negative log-probability of 0 beside x: finite and smooth for every x."""
    pair = (*x.shape, 2)
    zero = graph.splat(0, (*x.shape, 1))
    both = graph.apply("train.concat", pair, [zero, graph.reshape(x, zero.shape)], {"axis": len(x.shape)})
    logs = graph.apply("train.log_softmax", pair, [both], {"axis": len(x.shape)})
    return scaled(graph, graph.reshape(sliced(graph, logs, len(x.shape), 0, 1, 1), x.shape), -1)


@lowers("aten.softplus")
def softplus(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """Linear from the threshold on, which makes no difference in float32 from 20 on."""
    beta, threshold = op.number(1), op.number(2)
    if threshold < 20 or beta == 0:
        op.refuse(f"has a beta of {beta} and a threshold of {threshold}; thresholds from 20 on are supported")
    return scaled(graph, softplus_of(graph, scaled(graph, op.tensor(graph, 0), beta)), 1 / beta)


@lowers("aten.log_sigmoid", data=1)
def log_sigmoid(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    return scaled(graph, softplus_of(graph, scaled(graph, op.tensor(graph, 0), -1)), -1)


@lowers("aten.mish", data=1)
def mish(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    return graph.apply("train.mul", x.shape, [x, graph.apply("train.tanh", x.shape, [softplus_of(graph, x)])])


def exponential_below_zero(
    graph: GraphBuilder, x: Tensor, alpha: float, scale: float = 1, input_scale: float = 1
) -> Tensor:
    """scale * x above zero, scale * alpha * (exp(input_scale * x) - 1) below."""
    positive = scaled(graph, graph.apply("train.relu", x.shape, [x]), scale)
    power = graph.apply("train.exp", x.shape, [scaled(graph, clamped(graph, x, -inf, 0), input_scale)])
    negative = graph.apply("train.sub", x.shape, [power, graph.splat(1)])
    return graph.apply("train.add", x.shape, [positive, scaled(graph, negative, scale * alpha)])


@lowers("aten.elu")
def elu(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    return exponential_below_zero(graph, op.tensor(graph, 0), op.number(1), op.number(2), op.number(3))


@lowers("aten.celu")
def celu(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    alpha = op.number(1)
    return exponential_below_zero(graph, op.tensor(graph, 0), alpha, input_scale=1 / alpha)


@lowers("aten.selu", data=1)
def selu(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return exponential_below_zero(graph, op.tensor(graph, 0), alpha, scale)


@lowers("aten.prelu", "aten._prelu_kernel")
def prelu(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """With one slope, or one for each channel, axis 1."""
    x, slope = op.tensor(graph, 0), op.tensor(graph, 1)
    if len(slope.shape) == 1 and len(x.shape) > 1:
        slope = graph.reshape(slope, (*slope.shape, *[1] * (len(x.shape) - 2)))
    negative = graph.apply("train.mul", x.shape, [clamped(graph, x, -inf, 0), slope])
    return graph.apply("train.add", x.shape, [graph.apply("train.relu", x.shape, [x]), negative])


# Powers and logarithms.


@lowers("aten.exp2", data=1)
def exp2(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    return graph.apply("train.exp", x.shape, [scaled(graph, x, log(2))])


@lowers("aten.log2", "aten.log10", data=1)
def logarithm(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    return scaled(graph, graph.apply("train.log", x.shape, [x]), 1 / log(2 if op.name == "aten.log2" else 10))


@lowers("aten.lerp.Scalar", "aten.lerp.Tensor")
def lerp(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    start, end = op.tensor(graph, 0), op.tensor(graph, 1)
    way = graph.apply("train.sub", op.shape, [end, start])
    part = graph.apply("train.mul", op.shape, [way, operand_tensor(graph, op, 2)])
    return graph.apply("train.add", op.shape, [start, part])


# Reductions.


@lowers("aten.logsumexp")
def logsumexp(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    axes = op.axes(1, len(x.shape))
    largest = reduced(graph, "train.max", x, axes, keep=True)
    powers = graph.apply("train.exp", x.shape, [graph.apply("train.sub", x.shape, [x, largest])])
    total = graph.apply("train.log", largest.shape, [reduced(graph, "train.sum", powers, axes, keep=True)])
    return graph.reshape(graph.apply("train.add", largest.shape, [total, largest]), op.shape)


@lowers("aten.amin")
def minimum_over(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = scaled(graph, op.tensor(graph, 0), -1)
    return scaled(graph, reduced(graph, "train.max", x, op.axes(1, len(x.shape)), bool(op.operands[2])), -1)


@lowers("aten.max", "aten.min", data=1)
def extremum_of_all(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    sign = 1 if op.name == "aten.max" else -1
    x = scaled(graph, op.tensor(graph, 0), sign)
    return scaled(graph, reduced(graph, "train.max", x, list(range(len(x.shape))), False), sign)


@lowers("aten.max.dim", "aten.min.dim")
def extremum_along(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """The values, by max pooling: the first of equal ones takes the whole gradient."""
    sign = 1 if op.name == "aten.max.dim" else -1
    x = scaled(graph, op.tensor(graph, 0), sign)
    if not x.shape:
        return scaled(graph, x, sign)
    axis = op.integers(1)[0] % len(x.shape)
    image = (prod(x.shape[:axis]), x.shape[axis], 1, prod(x.shape[axis + 1 :]))
    if axis == 0:
        # The first axis of an image is that of the batch, which no window crosses.
        image = (1, x.shape[0], 1, prod(x.shape[1:]))
    values = pooled_along(graph, graph.reshape(x, image), 1, x.shape[axis])
    return scaled(graph, graph.reshape(values, op.shape), sign)


@lowers("aten.var_mean.dim", "aten.var_mean.correction", "aten.std_mean.correction")
def variance_and_mean(graph: GraphBuilder, op: TorchOperator) -> tuple[Tensor, Tensor]:
    x = op.tensor(graph, 0)
    mean = mean_over(graph, x, op.axes(1, len(x.shape)), bool(op.operands[3]))
    return spread(graph, op), mean


@lowers("aten.var.dim", "aten.var.correction", "aten.std.correction")
def spread(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """The variance, or the standard deviation."""
    x = op.tensor(graph, 0)
    axes, keep = op.axes(1, len(x.shape)), bool(op.operands[3])
    count = prod(x.shape[axis] for axis in axes)
    correction = 1 if op.operands[2] in (None, True) else op.number(2) if op.operands[2] else 0
    if count <= correction:
        op.refuse(f"divides by {count} - {correction}")
    deviations = graph.apply("train.sub", x.shape, [x, mean_over(graph, x, axes, keep=True)])
    squares = graph.apply("train.pow", x.shape, [deviations], {"exponent": 2.0})
    y = scaled(graph, reduced(graph, "train.sum", squares, axes, keep), 1 / (count - correction))
    return root(graph, y) if "std" in op.name else y


def root(graph: GraphBuilder, squares: Tensor) -> Tensor:
    """The square root of a sum of squares, with gradient 0 where all of them are zero, as PyTorch has it.

    What is added is lost in any other sum.
    """
    shifted = graph.apply("train.add", squares.shape, [squares, graph.splat(1e-37)])
    return graph.apply("train.sqrt", squares.shape, [shifted])


def norm_over(
    graph: GraphBuilder, op: TorchOperator, x: Tensor, order: float, axes: list[int], keep: bool
) -> Tensor:
    if order == 2:
        squares = graph.apply("train.pow", x.shape, [x], {"exponent": 2.0})
        return root(graph, reduced(graph, "train.sum", squares, axes, keep))
    if order not in (1, inf):
        op.refuse(f"is a norm of order {order}; there are 1, 2 and infinity")
    sizes = graph.apply("train.abs", x.shape, [x])
    return reduced(graph, "train.sum" if order == 1 else "train.max", sizes, axes, keep)


@lowers("aten.linalg_vector_norm", "aten.norm.ScalarOpt_dim")
def vector_norm(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    x = op.tensor(graph, 0)
    order = 2.0 if op.operands[1] is None else op.number(1)
    return norm_over(graph, op, x, order, op.axes(2, len(x.shape)), bool(op.operands[3]))


@lowers("aten._weight_norm")
def weight_norm(graph: GraphBuilder, op: TorchOperator) -> Tensor:
    """v * (g / |v|), the norm over all axes but one."""
    v, g, axis = op.tensor(graph, 0), op.tensor(graph, 1), op.integers(2)[0]
    axes = [i for i in range(len(v.shape)) if axis == -1 or i != axis % len(v.shape)]
    norm = norm_over(graph, op, v, 2, axes, keep=True)
    ratio = graph.apply("train.div", norm.shape, [graph.reshape(g, norm.shape), norm])
    return graph.apply("train.mul", v.shape, [v, ratio])
