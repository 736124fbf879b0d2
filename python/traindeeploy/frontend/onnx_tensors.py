"""What the initializers of an ONNX model are: parameters, buffers, or several parameters in one.

ONNX keeps all three alike. What is known or can be seen is said here: nothing is guessed without a note.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from math import prod

import numpy as np
import onnx

from .model import ModelError, listed

# Where PyTorch's newer exporter writes the modules around a node, and what a tensor was to PyTorch.
_SCOPES = "pkg.torch.onnx.name_scopes"
_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"

# Operators that hand on a tensor as it is, or parts of it.
_SAME = {"Identity", "Cast"}
_PARTS = {"Slice", "Split", "Transpose", "Reshape", "Squeeze", "Unsqueeze"}
# The lowest number that a mask adds is far below any score: -65504 of float16, -1e9, -infinity.
_MASKED = -1e4


def named_by_modules(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the module of a node in its name ("encoder.layers.0.fc/node_MatMul_4"), where that
    is written elsewhere: conversions keep names only."""
    if not any(_written_scope(node) for node in model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        if (module := _written_scope(node)) and "/" not in node.name:
            node.name = f"{module}/{node.name or node.op_type}"
    return result


def _written_scope(node: onnx.NodeProto) -> str:
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            try:
                # From the outermost module ("") to the node itself.
                return str(ast.literal_eval(entry.value)[-2])
            except (ValueError, SyntaxError, IndexError, TypeError):
                break
    return ""


def scope(node: onnx.NodeProto) -> str:
    """The module that a node belongs to, as "encoder/layers.0/fc" or "encoder.layers.0.fc"; "" if unknown."""
    if module := _written_scope(node):
        return module
    name = node.name.partition(" (")[0]
    if "/" in name:
        return name.rpartition("/")[0].lstrip("/")
    module, _, last = name.rpartition(".")
    return "" if last.isdigit() else module


def _sources(graph: onnx.GraphProto, names: Collection[str]) -> dict[str, str]:
    """The initializers of these names by all their names: their own, and those that Identity gives."""
    source = {name: name for name in names}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
    return source


def readers(graph: onnx.GraphProto, names: Collection[str]) -> dict[str, dict[str, list[onnx.NodeProto]]]:
    """By initializer of these names, the nodes that read it, by the place in the model that they belong to.

    A place is a name that Identity gives (an exporter's for a tensor that it has merged), or a module. Nodes
    of which no module is known are a place each, but those that take parts of a tensor (the rows of a query
    in one of three) are one.
    """
    source = _sources(graph, names)
    found: dict[str, dict[str, list[onnx.NodeProto]]] = defaultdict(lambda: defaultdict(list))
    for node in graph.node:
        if node.output[0] in source:
            continue
        alone = "*" if node.op_type in _PARTS else node.name.partition(" (")[0] or node.output[0]
        for name in dict.fromkeys(node.input):
            if name in source:
                place = (scope(node) or alone) if name == source[name] else name
                found[source[name]][place].append(node)
    return found


def shared(graph: onnx.GraphProto, names: Collection[str]) -> dict[str, list[str]]:
    """Initializers of these names that several places of the model read, and these places.

    They are one parameter that PyTorch had tied, or several whose equal values its exporter has merged.
    """
    return {name: list(places) for name, places in readers(graph, names).items() if len(places) > 1}


def untied(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """A copy of the model in which each place that reads one of these initializers has one of its own.

    The first place keeps the name. The others get the name that Identity gives it there, or that of
    their module with what follows the module in the first one's name.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    taken = {*tensors, *(output for node in graph.node for output in node.output)}
    taken.update(value.name for value in graph.input)
    source = _sources(graph, names)
    for name, places in readers(graph, names).items():
        modules = [place.strip("/").replace("/", ".") for place in places]
        inside = name.startswith(f"{modules[0]}.")
        end = name.removeprefix(f"{modules[0]}.") if inside else name.rpartition(".")[2]
        for number, (place, nodes) in enumerate(places.items()):
            mine = name
            if place in source:
                mine = place
            elif number > 0:
                stem = f"{modules[number]}.{end}"
                mine = stem if stem not in taken else _free(stem, taken)
            taken.add(mine)
            for node in nodes:
                for at, operand in enumerate(node.input):
                    if operand == (place if place in source else name):
                        node.input[at] = mine
            if mine != name:
                copy = graph.initializer.add()
                copy.CopyFrom(tensors[name])
                copy.name = mine
    kept = [
        onnx.NodeProto.FromString(node.SerializeToString())
        for node in graph.node
        if node.output[0] not in source
    ]
    del graph.node[:]
    graph.node.extend(kept)
    return result


def _free(stem: str, taken: Collection[str]) -> str:
    number = 1
    while f"{stem}_{number}" in taken:
        number += 1
    return f"{stem}_{number}"


def buffers(
    graph: onnx.GraphProto, values: Mapping[str, np.ndarray], numbers: Collection[str]
) -> tuple[list[str], list[str], list[str]]:
    """Initializers that are no parameters: masks, tables of sines, means and deviations of inputs.

    values: the floating-point tensors to look at, of one dimension at least; numbers: names of those without.
    """
    numbers = {*numbers, *(node.output[0] for node in graph.node if node.op_type == "Constant")}
    consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            consumers[name].append(node)
    masks = [n for n, value in values.items() if _is_mask(value, {node.op_type for node in consumers[n]})]
    rest = {name: value for name, value in values.items() if name not in masks}
    return masks, _sine_tables(rest), _normalization(graph, consumers, rest, numbers)


def expanded(graph: onnx.GraphProto, values: Mapping[str, np.ndarray]) -> list[str]:
    """Tensors with the same rows for each sample of a fixed batch, which are concatenated with samples."""
    sizes = {value.type.tensor_type.shape.dim[0].dim_value for value in graph.input if _rank(value)}
    joined = {name for node in graph.node if node.op_type == "Concat" for name in node.input}
    return [
        name
        for name, value in values.items()
        if name in joined and value.ndim > 1 and len(value) > 1 and sizes == {len(value)}
        if (value == value[:1]).all()
    ]


def _rank(value: onnx.ValueInfoProto) -> int:
    return len(value.type.tensor_type.shape.dim)


def exported_buffers(graph: onnx.GraphProto) -> set[str]:
    """Initializers of which the exporter has written that they are no parameters.

    Where it has written what tensors are, a number without a kind is one that it has computed.
    """
    kinds = {
        holder.name: entry.value.rpartition(".")[2]
        for holder in (*graph.initializer, *graph.value_info, *graph.input)
        for entry in holder.metadata_props
        if entry.key == _KIND
    }
    found = {name for name, kind in kinds.items() if kind in ("BUFFER", "CONSTANT_TENSOR")}
    if kinds:
        found |= {t.name for t in graph.initializer if prod(t.dims) == 1 and t.name not in kinds}
    return found


def _is_mask(value: np.ndarray, operators: set[str]) -> bool:
    """Whether a tensor is 0 and far below, or, where it is no operand of a product, 0 and 1."""
    if value.ndim < 2:
        return False
    zero, low, one = value == 0, value <= _MASKED, value == 1
    if not zero.any():
        return False
    if low.any() and (zero | low).all():
        return True
    # Windows that are shifted add -100.
    lowest = value.min()
    if lowest <= -50 and (zero | (value == lowest)).all() and operators <= {"Add", *_SAME}:
        return True
    return bool(one.any() and (zero | one).all()) and operators <= {"Add", "Mul", "Sub", "Where", *_SAME}


def _sine_tables(values: Mapping[str, np.ndarray]) -> list[str]:
    """Tables [positions, width] of sines and cosines of the same angles, or pairs of such tables."""

    def on_circle(a: np.ndarray, b: np.ndarray) -> bool:
        return (
            a.shape == b.shape and bool(np.allclose(a**2 + b**2, 1, atol=1e-4)) and not (a == a.flat[0]).all()
        )

    found = []
    candidates = {
        name: value.reshape(-1, value.shape[-1]).astype(np.float64)
        for name, value in values.items()
        if value.ndim > 1 and value.size > value.shape[-1] > 2 and np.abs(value).max() <= 1 + 1e-4
    }
    for name, table in candidates.items():
        half = table.shape[1] // 2
        alone = on_circle(table[:, ::2], table[:, 1::2]) or on_circle(table[:, :half], table[:, half:])
        if alone or any(on_circle(table, other) for n, other in candidates.items() if n != name):
            found.append(name)
    return found


def _normalization(
    graph: onnx.GraphProto,
    consumers: Mapping[str, Sequence[onnx.NodeProto]],
    values: Mapping[str, np.ndarray],
    numbers: Collection[str],
) -> list[str]:
    """What is subtracted from an input, what divides it, and what multiplies the difference."""
    found = []
    for value in graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        current, shifted = value.name, False
        while len(nodes := consumers[current]) == 1:
            node = nodes[0]
            if node.op_type in _SAME:
                current = node.output[0]
                continue
            other = next((name for name in node.input if name != current), "")
            follows = len(node.input) == 2 and (node.input[0] == current or node.op_type in ("Mul", "Add"))
            operators = ("Sub", "Div", "Mul", "Add") if shifted else ("Sub", "Div")
            if not follows or node.op_type not in operators or not _spreads(other, values, numbers, shape):
                break
            if other in values:
                found.append(other)
            shifted = True
            current = node.output[0]
    return found


def _spreads(
    name: str, values: Mapping[str, np.ndarray], numbers: Collection[str], shape: Sequence[int]
) -> bool:
    """Whether a tensor of the model spreads over an input of this shape, the same for all its samples."""
    if name not in values:
        return name in numbers
    own = values[name].shape
    own = (1,) * (len(shape) - len(own)) + own
    return (
        len(own) == len(shape) and own[0] == 1 and all(a in (1, b) for a, b in zip(own, shape, strict=True))
    )


def selected(found: Collection[str], patterns: Sequence[str]) -> list[str]:
    """Of the shared initializers `found` those that patterns select. Errors: a pattern without any."""
    chosen: list[str] = []
    for pattern in patterns:
        matched = [name for name in found if name == pattern or fnmatchcase(name, pattern)]
        if not matched:
            there_are = f"; there are: {listed(found)}" if found else ""
            raise ModelError(f"'{pattern}' is no parameter that several layers read{there_are}")
        chosen += matched
    return list(dict.fromkeys(chosen))


def notes(
    known: Collection[str],
    assumed: Collection[str],
    several: Mapping[str, Sequence[str]],
    per_sample: Collection[str],
) -> list[str]:
    """Sentences about buffers, known and assumed, parameters that several places read, `expanded` ones."""
    said = []
    if known:
        said.append(f"{listed(known)}: constants (buffers or masks), never trained")
    if assumed:
        said.append(
            f"{listed(assumed)}: taken for buffers (statistics of the input, tables of sines), so recipes"
            " leave them as they are; --trainable trains them"
        )
    if per_sample:
        said.append(
            f"{listed(per_sample)}: the same for each sample, so an exporter has expanded a parameter (as a"
            " class token) to its batch; each sample trains its own. With a dynamic batch it stays one"
        )
    if several:
        first, places = next(iter(several.items()))
        one = len(several) == 1
        pattern = first if one else "*"
        said.append(
            f"{listed(several, 8)}: read at several places ('{first}' at {listed(places, 3)}) and trained as"
            f" {'one' if one else 'one each'}: tied, or equal values that an exporter has merged;"
            f" --untie '{pattern}' gives each place its own"
        )
    return said
