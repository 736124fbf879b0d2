"""ONNX nodes as nodes that torch-mlir converts rightly, where it aborts, is wrong or knows none.

Once shapes and constants are known, a rule per operator writes the nodes in its place: every axis given, of
several operands two at a time. What a rule leaves alone is in its normal form already.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from math import prod
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .model import UnsupportedOperator
from .onnx_files import STANDARD, evaluated, first_line, outer_names
from .onnx_resize import resize_matrix

_FLOAT, _UNKNOWN = onnx.TensorProto.FLOAT, onnx.TensorProto.UNDEFINED


class Rewrite:
    """A node, what is known of its operands, and the nodes in its place.

    given:  the node's attributes, with ONNX's defaults.
    inputs: the names of its operands, "" of what is not given.
    types:  ONNX's element types of values, as far as they are known.
    """

    def __init__(
        self,
        node: onnx.NodeProto,
        opset: int,
        shapes: Mapping[str, tuple[int, ...]],
        values: Mapping[str, np.ndarray],
        names: Callable[[], str],
        types: Mapping[str, int] | None = None,
    ):
        self.node, self.opset = node, opset
        self.nodes: list[onnx.NodeProto] = []
        self.inputs = list(node.input)
        self.types = types or {}
        self._shapes, self._values, self._names = dict(shapes), values, names
        self.given: dict[str, Any] = {}
        schema = onnx.defs.get_schema(node.op_type, opset)
        for name, attribute in schema.attributes.items():
            if attribute.default_value.name:
                self.given[name] = helper.get_attribute_value(attribute.default_value)
        self.given |= {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.given = {k: v.decode() if isinstance(v, bytes) else v for k, v in self.given.items()}

    def refuse(self, reason: str) -> NoReturn:
        raise UnsupportedOperator(f"operator {self.node.op_type} at '{self.node.name}' {reason}")

    def operand(self, index: int) -> str:
        return self.inputs[index] if index < len(self.inputs) else ""

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an operand or of what a rule has made. Errors: a shape that is not known."""
        if name not in self._shapes:
            self.refuse("has an operand whose shape is not known")
        return self._shapes[name]

    def result_shape(self) -> tuple[int, ...]:
        return self.shape(self.node.output[0])

    def value(self, index: int) -> np.ndarray | None:
        """A constant operand; None of one that is computed, or not there."""
        return self._values.get(self.operand(index) or " ")

    def integers(self, index: int, attribute: str = "") -> list[int] | None:
        """Whole numbers of an operand, or the attribute that it once was; None if they are not given."""
        if attribute and attribute in self.given:
            return list(self.given[attribute])
        if not self.operand(index):
            return None
        value = self.value(index)
        if value is None:
            self.refuse(f"has its operand {index}, '{self.operand(index)}', computed; it must be constant")
        return [int(number) for number in value.ravel()]

    def make(self, operator: str, *inputs: str, shape: Sequence[int] | None = None, **attributes: Any) -> str:
        """The result of a node; `shape` where rules need to know it."""
        result = self._names()
        node = helper.make_node(operator, inputs, [result], name=self.node.name, **attributes)
        self.nodes.append(node)
        if shape is not None:
            self._shapes[result] = tuple(shape)
        return result

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        array = np.asarray(array, dtype)
        name = self._names()
        tensor = numpy_helper.from_array(array, name)
        self.nodes.append(helper.make_node("Constant", [], [name], name=self.node.name, value=tensor))
        self._shapes[name] = array.shape
        return name

    def reference(self, operands: Sequence[np.ndarray]) -> np.ndarray:
        """What the node makes of known operands."""
        node = onnx.NodeProto.FromString(self.node.SerializeToString())
        names = [f"operand{index}" for index in range(len(operands))]
        node.input[:] = names
        try:
            found = evaluated(
                node, dict(zip(names, operands, strict=True)), [helper.make_opsetid("", self.opset)]
            )
        except Exception as error:
            self.refuse(f"has operands that do not fit together ({first_line(error)})")
        return found[0]

    # Operators in their normal form.

    def unary(self, operator: str, x: str, **attributes: Any) -> str:
        return self.make(operator, x, shape=self.shape(x), **attributes)

    def binary(self, operator: str, a: str, b: str) -> str:
        return self.make(operator, a, b, shape=np.broadcast_shapes(self.shape(a), self.shape(b)))

    def scaled(self, x: str, factor: float) -> str:
        return x if factor == 1 else self.binary("Mul", x, self.constant(factor))

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        if self.shape(x) == tuple(shape):
            return x
        return self.make("Reshape", x, self.constant(shape, np.int64), shape=shape)

    def expand(self, x: str, shape: Sequence[int]) -> str:
        if self.shape(x) == tuple(shape):
            return x
        return self.make("Expand", x, self.constant(shape, np.int64), shape=shape)

    def permute(self, x: str, order: Sequence[int]) -> str:
        if list(order) == sorted(order):
            return x
        shape = [self.shape(x)[axis] for axis in order]
        return self.make("Transpose", x, shape=shape, perm=list(order))

    def reduce(self, operator: str, x: str, axes: Sequence[int], keep: bool) -> str:
        """Along the axes, from 0 on; without any, x."""
        if not axes:
            return x
        rank = len(self.shape(x))
        shape = [1 if i in axes else n for i, n in enumerate(self.shape(x)) if keep or i not in axes]
        axes = sorted(axis % rank for axis in axes)
        if operator == "ReduceSum" or self.opset >= 18:
            operand = self.constant(axes, np.int64)
            return self.make(operator, x, operand, shape=shape, keepdims=int(keep))
        return self.make(operator, x, shape=shape, axes=axes, keepdims=int(keep))

    def slice(self, x: str, axis: int, start: int, end: int) -> str:
        shape = list(self.shape(x))
        if (start, end) == (0, shape[axis]):
            return x
        shape[axis] = end - start
        bounds = [self.constant([number], np.int64) for number in (start, end, axis)]
        return self.make("Slice", x, *bounds, shape=shape)

    def concat(self, parts: Sequence[str], axis: int) -> str:
        shape = list(self.shape(parts[0]))
        shape[axis] = sum(self.shape(part)[axis] for part in parts)
        return parts[0] if len(parts) == 1 else self.make("Concat", *parts, shape=shape, axis=axis)

    def take(self, x: str, axis: int, at: Any) -> str:
        """numpy.take of known indices."""
        at = np.asarray(at, np.int64)
        shape = [*self.shape(x)[:axis], *at.shape, *self.shape(x)[axis + 1 :]]
        return self.make("Gather", x, self.constant(at, np.int64), shape=shape, axis=axis)

    def along(self, x: str, axis: int, matrix: np.ndarray) -> str:
        """The products of a matrix [in, out] with the rows of an axis."""
        rank = len(self.shape(x))
        order = [i for i in range(rank) if i != axis] + [axis]
        last = self.permute(x, order)
        shape = [*self.shape(last)[:-1], matrix.shape[1]]
        product = self.make("MatMul", last, self.constant(matrix), shape=shape)
        return self.permute(product, np.argsort(order).tolist())


Rule = Callable[[Rewrite], str | tuple[str, ...] | None]
RULES: dict[str, Rule] = {}
"""By operator; a rule gives the names of the values that are the node's results, or None to leave it."""


def rewrites(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


_OF_ANY_TYPE = {"EyeLike", "OneHot"}
"""Operators that do not depend on the numbers of their operand."""


def normalized(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> bool:
    """Rewrite the nodes of a graph whose shapes are inferred, by their rules; whether any changed.

    values: the constants of the graph by name, initializers included.
    """
    graph = model.graph
    opset = max(e.version for e in model.opset_import if e.domain in STANDARD)
    shapes = known_shapes(graph) | {name: value.shape for name, value in values.items()}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    taken = {*shapes, *(name for node in graph.node for name in (*node.input, *node.output))}
    numbers = count()

    def names() -> str:
        return next(name for name in map("normal.{}".format, numbers) if name not in taken)

    used = {name for node in graph.node for name in (*node.input, *outer_names(node))}
    used.update(value.name for value in graph.output)
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in graph.node:
        data = node.input[1 if node.op_type == "Where" else 0] if node.input else ""
        kind = types.get(data, _UNKNOWN)
        known = node.domain in STANDARD and node.op_type in RULES
        applies = kind in (_FLOAT, _UNKNOWN) or node.op_type in _OF_ANY_TYPE
        rule = RULES[node.op_type] if known and applies else None
        rewrite = Rewrite(node, opset, shapes, values, names, types) if rule else None
        result = rule(rewrite) if rule and rewrite else None
        if rewrite is None or result is None:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        changed = True
        results = result if isinstance(result, tuple) else (result,)
        made = rewrite.nodes
        if beyond := [name for name in node.output[len(results) :] if name in used]:
            rewrite.refuse(f"has the result '{beyond[0]}', which is not supported")
        if len(results) == 1 and made and made[-1].output[0] == result:
            made[-1].output[0] = node.output[0]
        else:
            made += [
                helper.make_node("Identity", [value], [name], name=node.name)
                for value, name in zip(results, node.output, strict=False)
                if name
            ]
        nodes.extend(made)
    if changed:
        del graph.node[:]
        graph.node.extend(nodes)
    return changed


def known_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Shapes of values of which all sizes are known."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


# Reductions.

_PLAIN = {"ReduceSum", "ReduceMean", "ReduceMax"}


def _axes(r: Rewrite) -> list[int]:
    rank = len(r.shape(r.inputs[0]))
    axes = r.integers(1, "axes")
    if axes or (axes is not None and r.given.get("noop_with_empty_axes")):
        return sorted({axis % rank for axis in axes})
    return [] if r.given.get("noop_with_empty_axes") else list(range(rank))


@rewrites(
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
    *("ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"),
)
def reduction(r: Rewrite) -> str | None:
    x, operator, keep = r.inputs[0], r.node.op_type, bool(r.given.get("keepdims", 1))
    axes = _axes(r)
    if operator in _PLAIN and axes:
        given = r.integers(1, "axes")
        if given and all(axis >= 0 for axis in given):
            return None
    if 0 in r.shape(x):
        r.refuse("has an operand without elements")
    if operator in ("ReduceSum", "ReduceMean", "ReduceMax"):
        return r.reduce(operator, x, axes, keep)
    if operator == "ReduceMin":
        return r.unary("Neg", r.reduce("ReduceMax", r.unary("Neg", x), axes, keep))
    if operator == "ReduceL1":
        return r.reduce("ReduceSum", r.unary("Abs", x), axes, keep)
    if operator == "ReduceLogSum":
        return r.unary("Log", r.reduce("ReduceSum", x, axes, keep))
    if operator == "ReduceProd":
        return _product(r, x, axes, keep)
    if operator == "ReduceLogSumExp":
        largest = r.reduce("ReduceMax", x, axes, True)
        total = r.reduce("ReduceSum", r.unary("Exp", r.binary("Sub", x, largest)), axes, True)
        y = r.binary("Add", r.unary("Log", total), largest)
        shape = [n for i, n in enumerate(r.shape(x)) if i not in axes]
        return y if keep else r.reshape(y, shape)
    squares = r.reduce("ReduceSum", r.binary("Mul", x, x), axes, keep)
    return squares if operator == "ReduceSumSquare" else _root(r, squares)


def _root(r: Rewrite, squares: str) -> str:
    """The square root of a sum of squares, with gradient 0 where all are zero: what is added is lost else."""
    return r.unary("Sqrt", r.binary("Add", squares, r.constant(1e-37)))


def _product(r: Rewrite, x: str, axes: Sequence[int], keep: bool) -> str:
    """By halves, so that zeros need no division in the gradient."""
    for axis in axes:
        while (size := r.shape(x)[axis]) > 1:
            half = size // 2
            halves = r.binary("Mul", r.slice(x, axis, 0, half), r.slice(x, axis, half, 2 * half))
            x = r.concat([halves, r.slice(x, axis, 2 * half, size)], axis) if size % 2 else halves
    return x if keep else r.reshape(x, [n for i, n in enumerate(r.shape(x)) if i not in axes])


@rewrites("CumSum")
def cumulative_sum(r: Rewrite) -> str | None:
    x = r.inputs[0]
    (axis,) = r.integers(1) or [0]
    axis %= len(r.shape(x))
    size = r.shape(x)[axis]
    ones = np.triu(np.ones((size, size)), 1 if r.given["exclusive"] else 0)
    return r.along(x, axis, ones.T if r.given["reverse"] else ones)


@rewrites("GlobalLpPool", "LpNormalization")
def norm(r: Rewrite) -> str | None:
    x, order = r.inputs[0], r.given["p"]
    rank = len(r.shape(x))
    pool = r.node.op_type == "GlobalLpPool"
    axes = list(range(2, rank)) if pool else [r.given["axis"] % rank]
    if order not in (1, 2):
        r.refuse(f"has the order {order}; 1 and 2 are supported")
    if order == 1:
        sizes = r.reduce("ReduceSum", r.unary("Abs", x), axes, True)
    else:
        sizes = _root(r, r.reduce("ReduceSum", r.binary("Mul", x, x), axes, True))
    return sizes if pool else r.binary("Div", x, sizes)


@rewrites("LRN")
def local_response_normalization(r: Rewrite) -> str | None:
    x, size = r.inputs[0], r.given["size"]
    channels = r.shape(x)[1]
    at = np.arange(channels)
    distance = at[:, None] - at[None, :]
    band = (distance >= -((size - 1) // 2)) & (distance <= size // 2)
    squares = r.scaled(r.along(r.binary("Mul", x, x), 1, band), r.given["alpha"] / size)
    shifted = r.binary("Add", squares, r.constant(r.given["bias"]))
    return r.binary("Mul", x, r.make("Pow", shifted, r.constant(-r.given["beta"]), shape=r.shape(x)))


@rewrites("LayerNormalization")
def layer_normalization(r: Rewrite) -> tuple[str, ...] | None:
    """With its statistics, where these are used."""
    if not any(r.node.output[1:]):
        return None
    x = r.inputs[0]
    axes = list(range(r.given["axis"] % len(r.shape(x)), len(r.shape(x))))
    mean = r.reduce("ReduceMean", x, axes, True)
    centered = r.binary("Sub", x, mean)
    y, deviation = _normalized(r, centered, axes)
    if r.operand(2):
        y = r.binary("Add", y, r.inputs[2])
    return y, mean, deviation


@rewrites("RMSNormalization")
def rms_normalization(r: Rewrite) -> str | None:
    rank = len(r.shape(r.inputs[0]))
    return _normalized(r, r.inputs[0], list(range(r.given["axis"] % rank, rank)))[0]


def _normalized(r: Rewrite, x: str, axes: Sequence[int]) -> tuple[str, str]:
    """x over the root of its mean square, times operand 1; and one over that root."""
    squares = r.reduce("ReduceMean", r.binary("Mul", x, x), axes, True)
    root = r.unary("Sqrt", r.binary("Add", squares, r.constant(r.given["epsilon"])))
    return r.binary("Mul", r.binary("Div", x, root), r.inputs[1]), r.unary("Reciprocal", root)


# Several operands, and broadcasting.


@rewrites("Sum", "Mean", "Max", "Min")
def of_several(r: Rewrite) -> str | None:
    operator = {"Sum": "Add", "Mean": "Add"}.get(r.node.op_type, r.node.op_type)
    if operator == r.node.op_type and len(r.inputs) == 2:
        return None
    y = r.inputs[0]
    for other in r.inputs[1:]:
        y = r.binary(operator, y, other)
    return r.scaled(y, 1 / len(r.inputs)) if r.node.op_type == "Mean" else y


@rewrites("PRelu")
def prelu(r: Rewrite) -> str | None:
    """The slope spreads over x as in NumPy: from the last axis on."""
    x, slope = r.inputs
    if np.broadcast_shapes(r.shape(x), r.shape(slope)) != r.shape(x):
        r.refuse(f"has a slope of shape {list(r.shape(slope))} for an input of {list(r.shape(x))}")
    negative = r.binary("Mul", r.unary("Neg", r.unary("Relu", r.unary("Neg", x))), slope)
    return r.binary("Add", r.unary("Relu", x), negative)


MOST_EXPONENTS = 16


@rewrites("Pow")
def power(r: Rewrite) -> str | None:
    """Exponents are numbers: one, or a few, each where it applies."""
    base, exponent = r.inputs[0], r.value(1)
    if exponent is None:
        return None
    exponents = np.unique(exponent)
    if exponents.size == 1:
        if exponent.dtype == np.float32 and exponent.ndim == 0:
            return None
        if exponent.ndim > len(r.shape(base)) or r.result_shape() != r.shape(base):
            base = r.expand(base, r.result_shape())
        return r.make("Pow", base, r.constant(exponents[0]), shape=r.result_shape())
    if exponents.size > MOST_EXPONENTS or exponents.min() < 0:
        r.refuse(
            f"has {exponents.size} different exponents from {exponents.min()} on;"
            f" one, or up to {MOST_EXPONENTS} that are not negative, are supported"
        )
    terms = []
    for number in exponents:
        mask = r.constant(exponent == number)
        y = r.make("Pow", base, r.constant(number), shape=r.shape(base))
        terms.append(r.binary("Mul", y, mask))
    y = terms[0]
    for term in terms[1:]:
        y = r.binary("Add", y, term)
    return y


@rewrites("Where")
def where(r: Rewrite) -> str | None:
    """Of a mask that is the same everywhere, one operand."""
    mask = r.value(0)
    if mask is None or mask.size == 0 or (mask != mask.flat[0]).any():
        return None
    return r.expand(r.inputs[1 if mask.flat[0] else 2], r.result_shape())


@rewrites("Expand")
def expand(r: Rewrite) -> str | None:
    given = r.value(1)
    wanted = r.result_shape()
    if given is not None and tuple(given) == wanted:
        return None
    return r.expand(r.inputs[0], wanted)


@rewrites("CastLike")
def cast_like(r: Rewrite) -> str | None:
    return r.make("Cast", r.inputs[0], to=r.types.get(r.inputs[1], _FLOAT))


# Products.


@rewrites("Einsum")
def einsum(r: Rewrite) -> str | None:
    """Two operands at a time: their common letters are the batch, or summed over by a MatMul."""
    terms, letters = _equation(r)
    sizes: dict[str, int] = {}
    operands = []
    for name, term in zip(r.inputs, terms, strict=True):
        x = _diagonals(r, name, term)
        term = "".join(dict.fromkeys(term))
        operands.append((x, term))
        for letter, size in zip(term, r.shape(x), strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    x, term = operands[0]
    for number, (y, other) in enumerate(operands[1:], 2):
        needed = {*letters, *(letter for _, later in operands[number:] for letter in later)}
        x, term = _contracted(r, (x, term), (y, other), needed, sizes)
    gone = [axis for axis, letter in enumerate(term) if letter not in letters]
    x = r.reduce("ReduceSum", x, gone, False)
    term = "".join(letter for letter in term if letter in letters)
    return r.permute(x, [term.index(letter) for letter in letters])


def _equation(r: Rewrite) -> tuple[list[str], str]:
    """The letters of each operand and of the result, with letters for what an ellipsis stands for."""
    text = r.given["equation"].replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(r.inputs):
        r.refuse(f"has the equation '{text}' for {len(r.inputs)} operands")
    ranks = [len(r.shape(name)) - len(t.replace("...", "")) for name, t in zip(r.inputs, terms, strict=True)]
    hidden = max((n for n, term in zip(ranks, terms, strict=True) if "..." in term), default=0)
    spare = "".join(letter for letter in string.ascii_letters if letter not in text)[:hidden]
    if any(n < 0 or (n > 0 and "..." not in term) for n, term in zip(ranks, terms, strict=True)):
        r.refuse(f"has the equation '{text}', which does not fit its operands")
    full = [t.replace("...", spare[hidden - n :] if n else "") for t, n in zip(terms, ranks, strict=True)]
    if not arrow:
        every = left.replace(",", "").replace(".", "")
        once = "".join(sorted(letter for letter in set(every) if every.count(letter) == 1))
        return full, spare + once
    return full, right.replace("...", spare)


def _diagonals(r: Rewrite, x: str, term: str) -> str:
    """Letters that an operand has twice once: the elements where their indices are equal."""
    for letter in dict.fromkeys(term):
        while term.count(letter) > 1:
            first, second = term.index(letter), term.rindex(letter)
            shape = [n if axis in (first, second) else 1 for axis, n in enumerate(r.shape(x))]
            mask = np.eye(r.shape(x)[first]).reshape(shape)
            x = r.reduce("ReduceSum", r.binary("Mul", x, r.constant(mask)), [second], False)
            term = term[:second] + term[second + 1 :]
    return x


def _contracted(
    r: Rewrite,
    one: tuple[str, str],
    two: tuple[str, str],
    needed: set[str],
    sizes: Mapping[str, int],
) -> tuple[str, str]:
    """The product of two operands, summed over what nothing else needs; and its letters."""
    (a, left), (b, right) = one, two
    summed = [letter for letter in left if letter in right and letter not in needed]
    for letter in [*left, *right]:  # of one operand alone
        if letter in needed or letter in summed:
            continue
        if letter in left:
            a, left = r.reduce("ReduceSum", a, [left.index(letter)], False), left.replace(letter, "")
        else:
            b, right = r.reduce("ReduceSum", b, [right.index(letter)], False), right.replace(letter, "")
    both = [letter for letter in left if letter in right and letter in needed]
    rows = [letter for letter in left if letter not in right]
    columns = [letter for letter in right if letter not in left]
    a = r.permute(a, [left.index(letter) for letter in (*both, *rows, *summed)])
    b = r.permute(b, [right.index(letter) for letter in (*both, *summed, *columns)])
    result = "".join((*both, *rows, *columns))

    def count_of(group: Sequence[str]) -> int:
        return prod(sizes[letter] for letter in group)

    if not summed:
        a = r.reshape(a, [*r.shape(a), *[1] * len(columns)])
        shape = r.shape(b)
        b = r.reshape(b, [*shape[: len(both)], *[1] * len(rows), *shape[len(both) :]])
        return r.binary("Mul", a, b), result
    # Sizes of 1 that an ellipsis spreads.
    batch, tail = len(both), [sizes[letter] for letter in summed]
    a = r.expand(a, [*r.shape(a)[: batch + len(rows)], *tail])
    b = r.expand(b, [*r.shape(b)[:batch], *tail, *r.shape(b)[batch + len(summed) :]])
    # MatMul has one axis of rows where it has a batch.
    front = [count_of(rows)] if both else list(r.shape(a)[: len(rows)])
    depth, width = count_of(summed), count_of(columns)
    a = r.reshape(a, [*r.shape(a)[:batch], *front, depth])
    b = r.reshape(b, [*r.shape(b)[:batch], depth, width])
    spread = np.broadcast_shapes(r.shape(a)[:batch], r.shape(b)[:batch])
    y = r.make("MatMul", a, b, shape=[*spread, *front, width])
    return r.reshape(y, [sizes[letter] for letter in result]), result


# Attention.

_HIDDEN = -1e30
"""What is added to the score of a key that a query does not see."""


@rewrites("Attention")
def attention(r: Rewrite) -> tuple[str, ...] | None:
    """Of heads [batch, heads, tokens, width], or of these side by side [batch, tokens, heads * width].

    Results: what is attended, keys and values with those of the past, scores as the node asks for them.
    """
    q, k, v = (_heads(r, index) for index in range(3))
    past = 0
    if r.operand(4):
        past = r.shape(r.inputs[4])[2]
        k, v = r.concat([r.inputs[4], k], 2), r.concat([r.inputs[5], v], 2)
    present = k, v
    k, v = (_repeated(r, x, r.shape(q)[1]) for x in (k, v))
    scale = r.given.get("scale", r.shape(q)[-1] ** -0.5)
    turned = r.permute(k, [0, 1, 3, 2])
    shape = [*r.shape(q)[:3], r.shape(k)[2]]
    scores = r.scaled(r.make("MatMul", q, turned, shape=shape), scale)
    said = [scores]
    if cap := r.given.get("softcap", 0):
        scores = r.scaled(r.unary("Tanh", r.scaled(scores, 1 / cap)), cap)
    said.append(scores)
    scores, seen = _masked(r, scores, past)
    said.append(scores)
    weights = r.unary("Softmax", scores, axis=3)
    if seen is not None:  # what sees nothing takes nothing
        weights = r.binary("Mul", weights, r.constant(seen))
    said.append(weights)
    y = r.make("MatMul", weights, v, shape=[*shape[:3], r.shape(v)[3]])
    if len(r.shape(r.inputs[0])) == 3:
        n, heads, tokens, width = r.shape(y)
        y = r.reshape(r.permute(y, [0, 2, 1, 3]), [n, tokens, heads * width])
    return y, *present, said[r.given.get("qk_matmul_output_mode", 0)]


def _heads(r: Rewrite, index: int) -> str:
    x = r.inputs[index]
    if len(r.shape(x)) != 3:
        return x
    heads = r.given.get("q_num_heads" if index == 0 else "kv_num_heads")
    n, tokens, width = r.shape(x)
    if not heads or width % heads:
        r.refuse(f"has {heads} heads for a width of {width}")
    return r.permute(r.reshape(x, [n, tokens, heads, width // heads]), [0, 2, 1, 3])


def _repeated(r: Rewrite, x: str, heads: int) -> str:
    """Keys or values of which several of the queries' heads share each."""
    n, own, tokens, width = r.shape(x)
    if own == heads:
        return x
    if heads % own:
        r.refuse(f"shares {own} heads between {heads}")
    column = r.reshape(x, [n, own, 1, tokens, width])
    return r.reshape(r.expand(column, [n, own, heads // own, tokens, width]), [n, heads, tokens, width])


def _masked(r: Rewrite, scores: str, past: int) -> tuple[str, np.ndarray | None]:
    """Scores of what is not seen are the lowest number; which queries see any key, if some see none."""
    queries, keys = r.shape(scores)[2:]
    after = np.arange(queries)[:, None] + past - np.arange(keys)[None, :]
    seen = np.ones((queries, keys), bool)
    if r.given.get("is_causal"):
        seen &= after >= 0
    left, right = (r.given.get(f"{side}_window_size", -1) for side in ("left", "right"))
    seen &= (left < 0) | (after <= left)
    seen &= (right < 0) | (-after <= right)
    if r.operand(6):
        lengths = r.value(6)
        if lengths is None:
            r.refuse("has lengths that are computed; constant ones are supported")
        if r.given.get("is_causal") or max(left, right) >= 0:
            r.refuse("has lengths of each sample and a causal mask or a window")
        seen = seen & (np.arange(keys) < lengths.reshape(-1, 1, 1, 1))
    mask = r.value(3)
    if mask is not None:
        beyond = [*[(0, 0)] * (mask.ndim - 1), (0, keys - mask.shape[-1])]
        hidden = ~mask if mask.dtype == bool else mask <= _HIDDEN
        seen = seen & ~np.pad(hidden, beyond, constant_values=True)
        if mask.dtype != bool:
            added = np.pad(np.where(hidden, 0, mask), beyond)
            scores = r.binary("Add", scores, r.constant(added))
    elif r.operand(3):
        if r.types.get(r.inputs[3]) not in (_FLOAT, None):
            r.refuse("has a mask that is computed; constant ones are supported")
        given, size = r.inputs[3], r.shape(r.inputs[3])[-1]
        if size < keys:
            rank = len(r.shape(given))
            amounts = r.constant([*[0] * (2 * rank - 1), keys - size], np.int64)
            given = r.make("Pad", given, amounts, shape=[*r.shape(given)[:-1], keys])
            seen = seen & (np.arange(keys) < size)
        scores = r.binary("Add", scores, given)
    if seen.all():
        return scores, None
    scores = r.binary("Add", scores, r.constant(np.where(seen, 0, _HIDDEN)))
    any_key = np.asarray(seen.any(-1, keepdims=True))
    return scores, None if any_key.all() else any_key


# Elements that are picked, spread or moved.


@rewrites("Slice")
def slice_of_several_axes(r: Rewrite) -> str | None:
    """One axis after the other, as torch-mlir knows their shapes."""
    bounds = [bound for index in range(1, len(r.inputs)) if (bound := r.value(index)) is not None]
    if len(bounds) < 3 or len(bounds) < len(r.inputs) - 1 or bounds[0].size < 2:
        return None
    x = r.inputs[0]
    for column in zip(*(bound.tolist() for bound in bounds), strict=True):
        start, end, axis = column[:3]
        step = column[3] if len(column) > 3 else 1
        shape = list(r.shape(x))
        shape[axis] = len(range(*slice(start, end, step).indices(shape[axis])))
        operands = [r.constant([number], np.int64) for number in (start, end, axis, step)]
        x = r.make("Slice", x, *operands, shape=shape)
    return x


@rewrites("GatherElements", "GatherND", "Compress", "ReverseSequence")
def picked(r: Rewrite) -> str | None:
    """What ONNX picks of the numbers of the elements, from the flat input."""
    x, indices = r.inputs[0], r.value(1)
    if indices is None:
        r.refuse("has indices that are computed; constant ones are supported")
    at = r.reference([np.arange(prod(r.shape(x))).reshape(r.shape(x)), indices])
    flat = r.reshape(x, [prod(r.shape(x))])
    return r.reshape(r.take(flat, 0, at.ravel()), at.shape)


@rewrites("ScatterElements", "ScatterND", "Scatter")
def scattered(r: Rewrite) -> str | None:
    """Each element of the result is one of the input or of the updates."""
    x, indices, updates = r.inputs[0], r.value(1), r.inputs[2]
    if indices is None:
        r.refuse("has indices that are computed; constant ones are supported")
    if r.given.get("reduction", "none") != "none":
        r.refuse(f"has the reduction '{r.given['reduction']}'; 'none' is supported")
    size, more = prod(r.shape(x)), prod(r.shape(updates))
    numbers = np.arange(size).reshape(r.shape(x))
    new = np.arange(size, size + more).reshape(r.shape(updates))
    at = r.reference([numbers, indices, new])
    both = r.concat([r.reshape(x, [size]), r.reshape(updates, [more])], 0)
    return r.reshape(r.take(both, 0, at.ravel()), r.shape(x))


@rewrites("EyeLike")
def eye(r: Rewrite) -> str | None:
    rows, columns = r.shape(r.inputs[0])
    kind = r.given.get("dtype", r.types.get(r.inputs[0], _FLOAT))
    return r.constant(np.eye(rows, columns, r.given["k"]), helper.tensor_dtype_to_np_dtype(kind))


@rewrites("ArgMax", "ArgMin", "Hardmax")
def place_of_extremum(r: Rewrite) -> str | None:
    """The first place, or the last, at which an axis has its largest element; of Hardmax as 1 among zeros."""
    x = r.inputs[0]
    axis = r.given["axis"] % len(r.shape(x))
    size = r.shape(x)[axis]
    if r.node.op_type == "ArgMin":
        x = r.unary("Neg", x)
    column = [size if i == axis else 1 for i in range(len(r.shape(x)))]
    places = r.constant(np.arange(size).reshape(column))
    largest = r.binary("Equal", x, r.reduce("ReduceMax", x, [axis], True))
    last = bool(r.given.get("select_last_index"))
    beyond = r.constant(-1 if last else size)
    candidates = r.make("Where", largest, places, beyond, shape=r.shape(x))
    if last:
        place = r.reduce("ReduceMax", candidates, [axis], True)
    else:
        place = r.unary("Neg", r.reduce("ReduceMax", r.unary("Neg", candidates), [axis], True))
    if r.node.op_type == "Hardmax":
        return r.unary("Cast", r.binary("Equal", place, places), to=_FLOAT)
    if not r.given["keepdims"]:
        place = r.reshape(place, [n for i, n in enumerate(r.shape(x)) if i != axis])
    return r.unary("Cast", place, to=onnx.TensorProto.INT64)


@rewrites("OneHot")
def one_hot(r: Rewrite) -> str | None:
    """Where a new axis counts what the index says, which from the end is negative."""
    depth, values = r.integers(1), r.value(2)
    if depth is None or values is None:
        r.refuse("has values that are computed; constant ones are supported")
    rank = len(r.shape(r.inputs[0])) + 1
    axis = r.given["axis"] % rank
    column = [depth[0] if i == axis else 1 for i in range(rank)]
    kind = helper.tensor_dtype_to_np_dtype(r.types.get(r.inputs[0], _FLOAT))
    own = list(r.shape(r.inputs[0]))
    x = r.reshape(r.inputs[0], [*own[:axis], 1, *own[axis:]])
    places = np.arange(depth[0]).reshape(column)
    hits = [r.binary("Equal", x, r.constant(at, kind)) for at in (places, places - depth[0])]
    on, off = (r.constant(number, values.dtype) for number in (values[1], values[0]))
    return r.make("Where", r.binary("Or", *hits), on, off, shape=[*own[:axis], depth[0], *own[axis:]])


@rewrites("Shrink")
def shrink(r: Rewrite) -> str | None:
    """The distance from +-lambd, moved by the bias; 0 between."""
    x, bound, bias = r.inputs[0], r.given["lambd"], r.given["bias"]
    zero = r.constant(0)
    above = r.binary("Greater", x, r.constant(bound))
    below = r.binary("Less", x, r.constant(-bound))
    low = r.make("Where", below, r.binary("Add", x, r.constant(bias)), zero, shape=r.shape(x))
    return r.make("Where", above, r.binary("Sub", x, r.constant(bias)), low, shape=r.shape(x))


@rewrites("ThresholdedRelu")
def thresholded_relu(r: Rewrite) -> str | None:
    x = r.inputs[0]
    above = r.binary("Greater", x, r.constant(r.given["alpha"]))
    return r.make("Where", above, x, r.constant(0), shape=r.shape(x))


@rewrites("DepthToSpace", "SpaceToDepth")
def blocks(r: Rewrite) -> str | None:
    x, size = r.inputs[0], r.given["blocksize"]
    n, c, h, w = r.shape(x)
    if r.node.op_type == "SpaceToDepth":
        split = r.reshape(x, [n, c, h // size, size, w // size, size])
        order = [0, 1, 3, 5, 2, 4] if r.given.get("mode") == "CRD" else [0, 3, 5, 1, 2, 4]
        return r.reshape(r.permute(split, order), [n, c * size * size, h // size, w // size])
    c //= size * size
    if r.given["mode"] == "DCR":
        split = r.permute(r.reshape(x, [n, size, size, c, h, w]), [0, 3, 4, 1, 5, 2])
    else:
        split = r.permute(r.reshape(x, [n, c, size, size, h, w]), [0, 1, 4, 2, 5, 3])
    return r.reshape(split, [n, c, h * size, w * size])


@rewrites("Trilu")
def triangle(r: Rewrite) -> str | None:
    x = r.inputs[0]
    diagonal = (r.integers(1) or [0])[0]
    ones = np.ones(r.shape(x)[-2:])
    mask = np.triu(ones, diagonal) if r.given["upper"] else np.tril(ones, diagonal)
    return r.binary("Mul", x, r.constant(mask))


_RESIZING = (
    *("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a"),
    *("exclude_outside", "antialias"),
)


@rewrites("Resize", "Upsample")
def resize(r: Rewrite) -> str | None:
    """Separable: a matrix for each axis that changes, or repetition."""
    x = r.inputs[0]
    shape, wanted = r.shape(x), r.result_shape()
    rank = len(shape)
    old = r.node.op_type == "Upsample"
    axes = [axis % rank for axis in r.given.get("axes") or range(rank)]
    scales = r.given["scales"] if "scales" in r.given else r.value(1 if old else 2)
    sizes = None if old else r.value(3)
    factors: dict[int, float] = {}
    if (scales is None or not len(scales)) and sizes is None:
        r.refuse("has sizes that are computed; constant ones are supported")
    if sizes is not None:
        factors = {axis: wanted[axis] / shape[axis] for axis in axes}
        policy = r.given.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            ratios = [int(n) / shape[axis] for n, axis in zip(sizes, axes, strict=True)]
            factors = dict.fromkeys(axes, max(ratios) if policy == "not_smaller" else min(ratios))
    elif scales is not None:
        factors = {axis: float(scale) for axis, scale in zip(axes, scales, strict=True)}
    options: dict[str, Any] = {key: r.given[key] for key in _RESIZING if key in r.given}
    if old:
        options |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    for number, axis in enumerate(axes):
        roi = None
        if options.get("coordinate_transformation_mode") == "tf_crop_and_resize":
            bounds = r.value(1)
            if bounds is None:
                r.refuse("has a region of interest that is computed; a constant one is supported")
            roi = (float(bounds[number]), float(bounds[number + len(axes)]))
        if wanted[axis] == shape[axis] and factors[axis] == 1 and roi in (None, (0.0, 1.0)):
            continue
        try:
            matrix, outside = resize_matrix(shape[axis], wanted[axis], factors[axis], roi, **options)
        except ValueError as error:
            r.refuse(str(error))
        if outside.any() and r.given.get("extrapolation_value", 0) != 0:
            r.refuse("extrapolates with another value than 0")
        times = wanted[axis] // shape[axis]
        if np.array_equal(matrix, np.eye(shape[axis])):
            continue
        if np.array_equal(matrix, np.repeat(np.eye(shape[axis]), times, axis=0)):
            now = r.shape(x)
            column = r.reshape(x, [*now[: axis + 1], 1, *now[axis + 1 :]])
            spread = r.expand(column, [*now[: axis + 1], times, *now[axis + 1 :]])
            x = r.reshape(spread, [*now[:axis], wanted[axis], *now[axis + 1 :]])
        else:
            x = r.along(x, axis, matrix.T)
    return x


# Pooling.


@rewrites("GlobalAveragePool", "GlobalMaxPool")
def global_pool(r: Rewrite) -> str | None:
    """Of volumes; torch-mlir knows sequences and images."""
    x = r.inputs[0]
    if len(r.shape(x)) in (3, 4):
        return None
    operator = "ReduceMean" if r.node.op_type == "GlobalAveragePool" else "ReduceMax"
    return r.reduce(operator, x, list(range(2, len(r.shape(x)))), True)
