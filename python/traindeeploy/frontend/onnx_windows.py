"""Convolutions and pools of ONNX files: attributes that do not fit, and paddings as torch-mlir knows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from math import prod
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .model import UnsupportedOperator, listed
from .onnx_files import STANDARD

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_POOLS = ("AveragePool", "LpPool", "MaxPool")
_AUTO_PAD = ("NOTSET", "SAME_LOWER", "SAME_UPPER", "VALID")
_LOWEST = float(np.finfo(np.float32).min)

Shape = list[int | None]


@dataclass
class _Window:
    """A convolution or pool, what it says and what is known of its operands.

    shape:  of the input, with None for sizes that are not known.
    kernel: elements of a window along each axis; weight: the shape of a convolution's.
    """

    node: onnx.NodeProto
    given: dict[str, Any]
    shape: Shape
    kernel: list[int]
    weight: list[int]

    def refuse(self, reason: str) -> NoReturn:
        raise UnsupportedOperator(f"operator {self.node.op_type} at '{self.node.name}' {reason}")

    def numbers(self, name: str, default: int) -> list[int]:
        return list(self.given.get(name, [default] * len(self.kernel)))

    @property
    def spatial(self) -> list[int]:
        return [size for size in self.shape[2:] if size is not None]

    @property
    def reach(self) -> list[int]:
        """Elements of the input from the first to the last of a window."""
        dilations = self.numbers("dilations", 1)
        return [d * (k - 1) + 1 for k, d in zip(self.kernel, dilations, strict=True)]


def spell_out_windows(model: onnx.ModelProto) -> None:
    """Checks, and paddings that torch-mlir has no right form of as other nodes.

    `auto_pad` becomes numbers. A Conv whose padding differs between the sides becomes Pad and Conv. So
    does a pool, also one whose windows reach beyond the padding (ceil_mode): its windows are of one size
    then. A product makes each the average of what counts; a MaxPool is padded with the lowest number. A
    ConvTranspose that cuts more from one side becomes one that cuts nothing, and Slice. Averages of windows
    with gaps and sums of powers (LpPool) are a Conv with a filter of ones for each channel.
    Errors: UnsupportedOperator for attributes that do not fit each other or the operands.
    """
    graph = model.graph
    if not any(node.op_type in {*_CONVOLUTIONS, *_POOLS} for node in graph.node):
        return
    shapes = _shapes(model)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        window = _window(node, shapes)
        if window is None:
            nodes.append(node)
        elif node.op_type == "ConvTranspose":
            _check_convolution(window)
            nodes += _transposed_padding(graph, window)
        else:
            _check_convolution(window) if node.op_type == "Conv" else None
            nodes += _padded(window)
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copied)


def _shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Shapes of values, as far as they are known."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # said when shapes are needed
        graph = model.graph
    found: dict[str, Shape] = {}
    for value in (*graph.input, *graph.value_info):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            found[value.name] = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    return found | {tensor.name: list(tensor.dims) for tensor in graph.initializer}


def _window(node: onnx.NodeProto, shapes: dict[str, Shape]) -> _Window | None:
    """What is known of a convolution or pool; None of another node, or if too little is known.

    Errors: attributes that do not fit each other or the input.
    """
    if node.op_type not in {*_CONVOLUTIONS, *_POOLS} or node.domain not in STANDARD:
        return None
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    given = {k: v.decode() if isinstance(v, bytes) else v for k, v in given.items()}
    shape = shapes.get(node.input[0])
    weight = shapes.get(node.input[1]) if node.op_type in _CONVOLUTIONS and len(node.input) > 1 else []
    if shape is None or weight is None or any(size is None for size in (*shape[2:], *weight)):
        return None
    sizes = [size for size in weight if size is not None]
    window = _Window(node, given, shape, list(given.get("kernel_shape", sizes[2:])), sizes)
    axes = len(shape) - 2
    if axes < 1:
        window.refuse(f"has an input of shape {_shown(shape)}; it needs an axis behind samples and channels")
    if axes > 2:
        window.refuse(f"has an input of shape {_shown(shape)}; sequences and images are supported")
    if given.get("auto_pad", "NOTSET") not in _AUTO_PAD:
        window.refuse(f"has the auto_pad '{given['auto_pad']}'; there are {listed(_AUTO_PAD)}")
    for name, wanted, lowest in (
        *(("kernel_shape", axes, 1), ("strides", axes, 1), ("dilations", axes, 1)),
        *(("pads", 2 * axes, 0), ("output_padding", axes, 0)),
    ):
        values = list(given.get(name, [lowest] * wanted))
        if len(values) != wanted:
            window.refuse(f"has the {name} {values}; it needs {wanted} numbers for {axes} axes")
        if min(values) < lowest:
            window.refuse(f"has the {name} {values}; numbers from {lowest} on are supported")
    if node.op_type in _POOLS and "kernel_shape" not in given:
        window.refuse("has no kernel_shape")
    return window


def _shown(shape: Shape) -> str:
    return str(["?" if size is None else size for size in shape]).replace("'", "")


def _check_convolution(window: _Window) -> None:
    weight, group, channels = window.weight, window.given.get("group", 1), window.shape[1]
    if len(weight) != len(window.shape):
        window.refuse(f"has a weight of shape {weight} for an input of shape {_shown(window.shape)}")
    if window.kernel != weight[2:]:
        window.refuse(f"has the kernel_shape {window.kernel} and a weight of shape {weight}")
    transposed = window.node.op_type == "ConvTranspose"
    fits = weight[0] if transposed else weight[1] * group
    if group < 1 or weight[0] % group or (channels is not None and channels != fits):
        window.refuse(
            f"has an input of {channels} channels, a weight of shape {weight} and group {group}, which do not"
            f" fit: a weight is {'[in, out / group, ...]' if transposed else '[out, in / group, ...]'}"
        )


def _padded(window: _Window) -> list[onnx.NodeProto]:
    """A convolution or pool with one padding for both sides, and what it takes to have that."""
    node, given, spatial, reach = window.node, window.given, window.spatial, window.reach
    strides, kind = window.numbers("strides", 1), node.op_type
    begin, end = _pads(given, spatial, strides, reach)
    if kind in ("AveragePool", "MaxPool") and any(
        max(b, e) >= extent for b, e, extent in zip(begin, end, reach, strict=True)
    ):
        window.refuse(
            f"is padded by {[*begin, *end]} and has windows of {reach}: some would hold nothing but padding"
        )
    if any(n + b + e < extent for n, b, e, extent in zip(spatial, begin, end, reach, strict=True)):
        window.refuse(f"has windows of {reach}, larger than its padded input of shape {_shown(window.shape)}")
    over = [0] * len(spatial)
    if kind != "Conv" and given.get("ceil_mode", 0):
        # The last window begins inside of the input or its padding at the beginning.
        for i, size in enumerate(spatial):
            number = -(-(size + begin[i] + end[i] - reach[i]) // strides[i]) + 1
            number -= (number - 1) * strides[i] >= size + begin[i]
            over[i] = max(0, (number - 1) * strides[i] + reach[i] - size - begin[i] - end[i])
    spread = kind == "AveragePool" and any(step != 1 for step in window.numbers("dilations", 1))
    apart = begin != end or any(over) or (spread and any((*begin, *end)))
    named = given.get("auto_pad", "NOTSET") != "NOTSET" or bool(given.get("ceil_mode", 0))
    named |= "storage_order" in given and len(node.output) == 1  # of the second result
    if not (apart or named or spread or kind == "LpPool"):
        return [node]
    made = _Made(node)
    total = [b + e + o for b, e, o in zip(begin, end, over, strict=True)]
    x = node.input[0]
    if apart:
        whole = [0, 0, *begin, 0, 0, *(t - b for t, b in zip(total, begin, strict=True))]
        operands = [x, made.constant(whole, np.int64)]
        x = made.node("Pad", *operands, *([made.constant(_LOWEST)] if kind == "MaxPool" else []))
    pads = [0] * 2 * len(spatial) if apart else [*begin, *end]
    kept = {
        k: v for k, v in given.items() if k not in ("pads", "auto_pad", "ceil_mode", "count_include_pad", "p")
    }
    if kind == "LpPool":
        return made.finish(_powers_summed(window, made, x, kept | {"pads": pads}))
    if spread:
        y = _summed(window, made, x, kept | {"pads": pads}, 1 / prod(window.kernel))
    else:
        if kind == "AveragePool" and not apart:
            kept["count_include_pad"] = given.get("count_include_pad", 0)
        kept.pop("storage_order", None)
        y = made.node(kind, x, *node.input[1:], pads=pads, **kept)
    if kind == "AveragePool" and (apart or spread):
        inside = bool(given.get("count_include_pad", 0))
        dilations = window.numbers("dilations", 1)
        share = _inverse_shares(spatial, begin, end, total, strides, window.kernel, dilations, inside)
        y = made.node("Mul", y, made.constant(share))
    return made.finish(y)


class _Made:
    """Nodes in place of one."""

    def __init__(self, node: onnx.NodeProto):
        self.replaced = node
        self.nodes: list[onnx.NodeProto] = []
        self._numbers = count()

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        result = f"{self.replaced.name}.window{next(self._numbers)}"
        name = self.replaced.name
        self.nodes.append(helper.make_node(operator, inputs, [result], name=name, **attributes))
        return result

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        tensor = numpy_helper.from_array(np.asarray(values, dtype))
        return self.node("Constant", value=tensor)

    def finish(self, result: str) -> list[onnx.NodeProto]:
        """The nodes, the last of which makes the result of the one that they replace."""
        assert self.nodes[-1].output[0] == result
        self.nodes[-1].output[:] = self.replaced.output
        return self.nodes


def _summed(window: _Window, made: _Made, x: str, attributes: dict[str, Any], share: float = 1) -> str:
    """The sums over windows, times `share`."""
    channels = window.shape[1]
    if channels is None:
        window.refuse("has an input whose number of channels is not known")
    ones = made.constant(np.full((channels, 1, *window.kernel), share))
    return made.node("Conv", x, ones, group=channels, **attributes)


def _powers_summed(window: _Window, made: _Made, x: str, attributes: dict[str, Any]) -> str:
    order = window.given.get("p", 2)
    if order == 2:
        squares = _summed(window, made, made.node("Mul", x, x), attributes)
        # With gradient 0 where all are zero: what is added is lost in any other sum.
        return made.node("Sqrt", made.node("Add", squares, made.constant(1e-37)))
    sizes = made.node("Abs", x)
    if order == 1:
        return _summed(window, made, sizes, attributes)
    powers = _summed(window, made, made.node("Pow", sizes, made.constant(order)), attributes)
    return made.node("Pow", made.node("Add", powers, made.constant(1e-37)), made.constant(1 / order))


def _transposed_padding(graph: onnx.GraphProto, window: _Window) -> list[onnx.NodeProto]:
    """A ConvTranspose with `pads` that are equal on both sides, and a Slice if it needs one."""
    node, given, spatial, kernel = window.node, window.given, window.spatial, window.kernel
    mode = given.get("auto_pad", "NOTSET")
    axes = len(spatial)
    strides, dilations, more = (
        given.get(name, [default] * axes)
        for name, default in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    full = [
        stride * (size - 1) + extra + (taps - 1) * step + 1
        for size, taps, stride, step, extra in zip(spatial, kernel, strides, dilations, more, strict=True)
    ]
    pads = given.get("pads", [0] * 2 * axes)
    begin, end = pads[:axes], pads[axes:]
    wanted = given.get("output_shape", [])[-axes:]
    if mode.startswith("SAME") or wanted:
        wanted = wanted or [size * stride for size, stride in zip(spatial, strides, strict=True)]
        total = [size - goal for size, goal in zip(full, wanted, strict=True)]
        less = [size // 2 for size in total]
        more_cut = [size - half for size, half in zip(total, less, strict=True)]
        begin, end = (less, more_cut) if mode == "SAME_UPPER" else (more_cut, less)
    elif mode == "VALID":
        begin = end = [0] * axes
    if min(*begin, *end) < 0:
        window.refuse(f"has the output_shape {wanted}, beyond the {full} that its windows reach")
    kept = [a for a in node.attribute if a.name not in ("pads", "auto_pad", "output_shape")]
    copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
    del node.attribute[:]
    node.attribute.extend(copies)
    if begin == end:
        node.attribute.append(helper.make_attribute("pads", [*begin, *end]))
        return [node]
    bounds = {
        "starts": begin,
        "ends": [size - cut for size, cut in zip(full, end, strict=True)],
        "axes": list(range(2, axes + 2)),
    }
    for name, values in bounds.items():
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"{node.name}.{name}"))
    result, whole = node.output[0], f"{node.output[0]}.whole"
    node.output[0] = whole
    operands = [whole, *(f"{node.name}.{name}" for name in bounds)]
    return [node, helper.make_node("Slice", operands, [result], name=node.name)]


def _pads(
    given: dict[str, Any], spatial: Sequence[int], strides: Sequence[int], reach: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding at the beginning and the end of each axis."""
    mode = given.get("auto_pad", "NOTSET")
    half = len(spatial)
    if mode in ("NOTSET", "VALID"):
        pads = list(given.get("pads", [0] * 2 * half)) if mode == "NOTSET" else [0] * 2 * half
        return pads[:half], pads[half:]
    begin, end = [], []
    for size, stride, taps in zip(spatial, strides, reach, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + taps - size)
        less, more = total // 2, total - total // 2
        begin.append(less if mode == "SAME_UPPER" else more)
        end.append(more if mode == "SAME_UPPER" else less)
    return begin, end


def _inverse_shares(
    spatial: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
    total: Sequence[int],
    strides: Sequence[int],
    kernel: Sequence[int],
    dilations: Sequence[int],
    padding_counts: bool,
) -> np.ndarray:
    """Per window, its size over the number of elements in it that count."""
    shares = np.ones((1, 1), np.float64)
    for i, size in enumerate(spatial):
        reach = dilations[i] * (kernel[i] - 1) + 1
        starts = np.arange(0, size + total[i] - reach + 1, strides[i]) - begin[i]
        low, high = (-begin[i], size + end[i]) if padding_counts else (0, size)
        taps = starts[:, None] + dilations[i] * np.arange(kernel[i])
        held = ((taps >= low) & (taps < high)).sum(axis=1)
        shares = shares[..., None] * (kernel[i] / held)
    return shares.astype(np.float32)
