"""Broadcasting of ONNX's operators over all combinations of ranks, against NumPy in float64; rules of aten.

Per operator one model holds every combination: its results, flattened, are concatenated.
"""

import itertools

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from level2 import evaluate
from traindeeploy.frontend import UnsupportedOperator, import_model

RANKS = range(5)
SIZES = (2, 3, 4, 3)
"""Of the last four axes: two are equal, so that a wrong axis is not always a wrong shape."""


def full(rank):
    return SIZES[4 - rank :]


def thinned(shape, random):
    """The shape with about half of its axes 1."""
    return tuple(1 if random.random() < 0.5 else size for size in shape)


def combinations(operands, seed=0):
    """Shapes of operands that broadcast: per combination of ranks full ones and thinned ones."""
    random = np.random.default_rng(seed)
    for ranks in itertools.product(RANKS, repeat=operands):
        yield tuple(full(rank) for rank in ranks)
        yield tuple(thinned(full(rank), random) for rank in ranks)


class Model:
    """An ONNX model of many nodes of one operator, and what NumPy makes of the same operands."""

    def __init__(self):
        self.nodes, self.tensors, self.parts, self.expected = [], {}, [], []
        self.random = np.random.default_rng(0)

    def values(self, shape):
        """Positive numbers, so that quotients and powers are far from their poles; of either sign."""
        numbers = self.random.uniform(0.5, 2, shape) * self.random.choice([-1, 1], shape)
        return np.asarray(numbers, np.float32)

    def tensor(self, array):
        self.tensors[f"t{len(self.tensors)}"] = array
        return f"t{len(self.tensors) - 1}"

    def add(self, operator, operands, expected, constants=(), first=(), **attributes):
        """A node of float operands (before them `first`, behind them `constants`) with its expected result.

        An operand of rank 0 is a reshaped parameter; the first one is multiplied with the input, which is 1.
        """
        names = []
        for array in operands:
            name = self.tensor(array if array.ndim else array.reshape(1))
            if not array.ndim:
                self.nodes.append(helper.make_node("Reshape", [name, "none"], [f"{name}.scalar"]))
                name = f"{name}.scalar"
            names.append(name)
        self.nodes.append(helper.make_node("Mul", [names[0], "one"], [f"{names[0]}.x"]))
        names[0] = f"{names[0]}.x"
        names = [*map(self.tensor, first), *names, *map(self.tensor, constants)]
        result = f"y{len(self.parts)}"
        self.nodes.append(helper.make_node(operator, names, [result], **attributes))
        self.nodes.append(helper.make_node("Reshape", [result, "flat"], [f"{result}.flat"]))
        self.parts.append(f"{result}.flat")
        self.expected.append(np.asarray(expected, np.float64).ravel())

    def proto(self, opset):
        self.tensors["flat"], self.tensors["none"] = np.array([-1]), np.zeros(0, np.int64)
        ends = (
            [helper.make_node("Reshape", ["x", "none"], ["one"])],
            [helper.make_node("Concat", self.parts, ["y"], axis=0)],
        )
        graph = helper.make_graph(
            [*ends[0], *self.nodes, *ends[1]],
            "broadcasts",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1,))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, (sum(map(len, self.expected)),))],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in self.tensors.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)

    def check(self, opset=17):
        found = evaluate(import_model(self.proto(opset)), np.ones(1))
        np.testing.assert_allclose(found, np.concatenate(self.expected), rtol=1e-14, atol=1e-14)


BINARY = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
}


@pytest.mark.parametrize("operator", BINARY)
def test_two_operands(operator):
    model = Model()
    for a, b in combinations(2):
        x, y = model.values(a), model.values(b)
        model.add(operator, [x, y], BINARY[operator](x.astype(np.float64), y))
    model.check()


@pytest.mark.parametrize("operator", ["Sum", "Mean", "Max"])
def test_three_operands(operator):
    model = Model()
    for number, shapes in enumerate(combinations(3)):
        if number % 3:  # the ranks 0 to 4 of three operands are 125
            continue
        x, y, z = (model.values(shape).astype(np.float64) for shape in shapes)
        total = np.maximum(np.maximum(x, y), z) if operator == "Max" else x + y + z
        expected = total * np.float32(1 / 3) if operator == "Mean" else total
        model.add(operator, [v.astype(np.float32) for v in (x, y, z)], expected)
    model.check()


def test_where():
    """A mask that is known, of either rank; also of one value."""
    model = Model()
    for mask_shape, a, b in itertools.islice(combinations(3), 0, None, 3):
        x, y = model.values(a), model.values(b)
        mask = model.random.random(mask_shape) < 0.5
        model.add("Where", [x, y], np.where(mask, x, y), first=[mask])
    model.check()


def test_where_of_a_mask_of_one_value():
    model = Model()
    for value in (True, False):
        x, y = model.values((3, 4)), model.values((4,))
        model.add("Where", [x, y], np.where(value, x, y), first=[np.full((2, 1, 1), value)])
    model.tensors["flat"] = np.array([-1])
    model.expected = [np.broadcast_to(part.reshape(-1, 3, 4), (2, 3, 4)).ravel() for part in model.expected]
    model.check()


def spreads(slope, shape):
    """Whether ONNX spreads a slope over an input of this shape, and so its result has this shape."""
    try:
        return np.broadcast_shapes(slope, shape) == shape
    except ValueError:
        return False


def test_prelu_spreads_one_way():
    model = Model()
    for a, b in combinations(2):
        if spreads(b, a):
            x, slope = model.values(a), model.values(b)
            model.add("PRelu", [x, slope], np.where(x < 0, x.astype(np.float64) * slope, x))
    assert len(model.parts) > 20
    model.check()


def test_prelu_of_a_slope_that_does_not_spread():
    model = Model()
    model.add("PRelu", [model.values((3, 1)), model.values((3, 4))], np.zeros((3, 4)))
    with pytest.raises(UnsupportedOperator, match=r"has a slope of shape \[3, 4\] for an input of \[3, 1\]"):
        import_model(model.proto(17))


def test_the_bias_of_gemm_spreads_one_way():
    model = Model()
    for shape in [(), (1,), (4,), (1, 4), (3, 1), (3, 4), (1, 1)]:
        x, w, c = model.values((3, 2)), model.values((2, 4)), model.values(shape)
        model.add("Gemm", [x, w, c], x.astype(np.float64) @ w + c, beta=2.0, alpha=1.0)
        model.expected[-1] += np.broadcast_to(c.astype(np.float64), (3, 4)).ravel()
    model.check()


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.int32])
def test_exponents(kind):
    """One for all, also with axes of its own, or several; of whole numbers and others."""
    model = Model()
    for a, b in combinations(2):
        x = np.abs(model.values(a))
        exponent = np.asarray(model.random.integers(0, 4, b), kind)
        model.add("Pow", [x], x.astype(np.float64) ** exponent, constants=[exponent])
    model.check()


def test_expand_spreads_both_ways():
    model = Model()
    for a, b in combinations(2):
        x = model.values(a)
        wanted = np.array(b, np.int64)
        model.add("Expand", [x], np.broadcast_to(x, np.broadcast_shapes(a, b)), constants=[wanted])
    model.check()


@pytest.mark.parametrize("batch", [(), (2,), (3, 2)])
def test_batches_of_matrix_products(batch):
    model = Model()
    random = np.random.default_rng(0)
    for other in [(), (2,), (3, 2)]:
        for a, b in [(batch, other), (thinned(batch, random), thinned(other, random))]:
            x, y = model.values((*a, 3, 4)), model.values((*b, 4, 5))
            model.add("MatMul", [x, y], x.astype(np.float64) @ y)
        x, y = model.values((4,)), model.values((*other, 4, 5))
        model.add("MatMul", [x, y], x.astype(np.float64) @ y)
    model.check()


# aten.


class Many(torch.nn.Module):
    """Results of a function of each of many pairs of parameters, flattened and concatenated."""

    def __init__(self, function, operands):
        super().__init__()
        self.function = function
        self.groups = torch.nn.ModuleList(
            torch.nn.ParameterList(torch.from_numpy(array) for array in group) for group in operands
        )

    def forward(self, x):
        scale = x.reshape(())
        parts = [self.function(group[0] * scale, *list(group)[1:]) for group in self.groups]
        return torch.cat([part.reshape(-1) for part in parts])


def check_aten(function, operands):
    module = Many(function, operands)
    found = evaluate(import_model(module, (torch.ones(1),)), np.ones(1))
    with torch.no_grad():
        expected = module.double()(torch.ones(1, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-14)


def test_aten_prelu_is_of_channels():
    """Axis 1, whatever the last axis is; one slope is of all elements."""
    random = np.random.default_rng(0)
    inputs = [((3,), 1), ((2, 3), 3), ((2, 3), 1), ((2, 3, 3), 3), ((2, 4, 3), 4), ((2, 3, 5, 3), 3)]
    shapes = [(shape, (slopes,)) for shape, slopes in inputs]
    operands = [[random.standard_normal(s).astype(np.float32) for s in pair] for pair in shapes]
    check_aten(torch.nn.functional.prelu, operands)


def drawn(shapes, seed=0):
    """Operands of these shapes, per group."""
    random = np.random.default_rng(seed)
    return [[random.standard_normal(shape).astype(np.float32) for shape in group] for group in shapes]


def test_aten_products_of_all_ranks():
    """torch.matmul of ranks 1 to 4: vectors are rows or columns, batches spread."""
    random = np.random.default_rng(1)
    shapes = []
    for a, b in itertools.product(range(1, 5), repeat=2):
        for thin in (False, True):
            batches = [(2, 5)[4 - rank :] if rank > 2 else () for rank in (a, b)]
            batches = [thinned(batch, random) if thin else batch for batch in batches]
            left = (*batches[0], 3, 4) if a > 1 else (4,)
            shapes.append((left, (*batches[1], 4, 6) if b > 1 else (4,)))
    check_aten(torch.matmul, drawn(shapes))


def test_aten_biases_of_products():
    """What is added to a product spreads over it, scaled by beta."""

    def added(x, weight, bias):
        if x.ndim == 2:
            return torch.addmm(bias, x, weight, beta=0.5, alpha=2)
        return torch.baddbmm(bias, x, weight, beta=0.5, alpha=2)

    biases = [(1,), (4,), (1, 4), (3, 1), (3, 4), (1, 1)]
    batches = [*biases, (2, 3, 4), (2, 1, 4), (1, 3, 1)]
    shapes = [((3, 2), (2, 4), bias) for bias in biases] + [((2, 3, 2), (2, 2, 4), bias) for bias in batches]
    check_aten(added, drawn(shapes))
