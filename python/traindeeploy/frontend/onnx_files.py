"""ONNX files as exporters write them: nodes in any order, other types than float32, quantized weights.

Each step takes a model, which it may change, and says in notes what it has decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .model import ModelError, UnsupportedOperator, listed
from .operators import ends_support, not_supported

STANDARD = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""

_OTHER_FLOATS = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
_DEQUANTIZING = (helper.make_opsetid("", 21),)
"""The first opset whose DequantizeLinear onnx's reference has in all of its forms."""
_TYPE_ATTRIBUTES = {"to", "dtype", "output_dtype", "softmax_precision", "stash_type"}


def outer_names(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the node's subgraphs may read from outside."""
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from outer_names(inner)


def check_domains(model: onnx.ModelProto) -> None:
    """Refuse a file that has two versions of one domain, which leaves open what its operators mean."""
    versions: dict[str, set[int]] = {}
    for entry in model.opset_import:
        versions.setdefault("" if entry.domain in STANDARD else entry.domain, set()).add(entry.version)
    for domain, found in versions.items():
        if len(found) > 1:
            both = " and ".join(map(str, sorted(found)))
            raise ModelError(
                f"the ONNX model imports opsets {both} of domain '{domain or 'ai.onnx'}'; it may import one"
            )


def check_purpose(graph: onnx.GraphProto) -> None:
    """Refuse, by its first operator that tells, a graph that trains or computes in whole numbers already."""
    for node in graph.node:
        operator = node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}"
        if ends_support(operator):
            place = f"{node.name or node.output[0]} ({node.op_type})"
            raise UnsupportedOperator(not_supported(operator, place, ()))


def put_in_order(graph: onnx.GraphProto) -> None:
    """Sort nodes topologically, those that are in order as they are. Errors: a cycle."""
    made = {name: at for at, node in enumerate(graph.node) for name in node.output if name}
    needs = [
        sorted({made[name] for name in (*node.input, *outer_names(node)) if name in made} - {at})
        for at, node in enumerate(graph.node)
    ]
    for node in graph.node:
        if not set(node.output).isdisjoint(name for name in node.input if name):
            raise _circle(node)
    if all(need < at for at, found in enumerate(needs) for need in found):
        return
    order: list[int] = []
    state = [0] * len(needs)  # 1 while what it needs is looked at, 2 when it has its place
    for root in range(len(needs)):
        stack = [root]
        while stack:
            at = stack[-1]
            if state[at] == 0:
                state[at] = 1
                for need in reversed(needs[at]):
                    if state[need] == 1:
                        raise _circle(graph.node[need])
                    if state[need] == 0:
                        stack.append(need)
                continue
            stack.pop()
            if state[at] == 1:
                state[at] = 2
                order.append(at)
    nodes = [onnx.NodeProto.FromString(graph.node[at].SerializeToString()) for at in order]
    del graph.node[:]
    graph.node.extend(nodes)


def _circle(node: onnx.NodeProto) -> ModelError:
    return ModelError(f"operator {node.op_type} at '{node.name or node.output[0]}' depends on its own result")


def as_float32(model: onnx.ModelProto) -> list[str]:
    """Make float16, bfloat16 and float64 float32 everywhere. Returns a note, if there were any."""
    found: Counter[str] = Counter()
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        for tensor in graph.initializer:
            _widen(tensor, found)
        for value in (*graph.input, *graph.output, *graph.value_info):
            kind = value.type.tensor_type
            if kind.elem_type in _OTHER_FLOATS:
                if value.name in {v.name for v in graph.input}:
                    found[_OTHER_FLOATS[kind.elem_type]] += 1
                kind.elem_type = TensorProto.FLOAT
        graphs += _widen_attributes(graph.node, found)
    for function in model.functions:
        _widen_attributes(function.node, found)
    if not found:
        return []
    kinds = " and ".join(sorted(found))
    count = found.total()
    return [f"{count} tensor{'s' * (count > 1)} of {kinds} in the file: trained as float32"]


_SMALL_INTEGERS = {
    TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8",
    TensorProto.UINT16: "uint16",
    TensorProto.INT16: "int16",
}


def _cast_to(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0)


def inputs_of_float32(graph: onnx.GraphProto) -> list[str]:
    """Make inputs of small whole numbers, as images, float32 where a Cast does that first. Returns notes."""
    said = []
    for value in graph.input:
        kind = value.type.tensor_type.elem_type
        readers = [node for node in graph.node if value.name in node.input]
        casts = all(
            node.op_type == "Cast"
            and any(a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute)
            for node in readers
        )
        if kind in _SMALL_INTEGERS and readers and casts:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            said.append(f"input '{value.name}' of {_SMALL_INTEGERS[kind]} in the file: fed as float32")
    return said


def _widen_attributes(nodes: Iterable[onnx.NodeProto], found: Counter[str]) -> list[onnx.GraphProto]:
    """Returns the subgraphs."""
    graphs = []
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t, found)
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _OTHER_FLOATS:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("g"):
                graphs.append(attribute.g)
            graphs += attribute.graphs
    return graphs


def _widen(tensor: onnx.TensorProto, found: Counter[str]) -> None:
    if tensor.data_type not in _OTHER_FLOATS:
        return
    found[_OTHER_FLOATS[tensor.data_type]] += 1
    with np.errstate(over="ignore"):
        values = array(tensor).astype(np.float32)
    metadata = list(tensor.metadata_props)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    tensor.metadata_props.extend(metadata)


def array(tensor: onnx.TensorProto) -> np.ndarray:
    """The values of an initializer. Errors: too few of them, or in a file that is not there."""
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:  # fewer bytes than the dimensions say, data in a file that is not there
        raise ModelError(
            f"cannot read the values of initializer '{tensor.name}': {first_line(error)}"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line; of the checker's, with the node that it speaks of."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:3] if lines[0].endswith("node:") else lines[:1])


def weights_of_constants(graph: onnx.GraphProto) -> list[str]:
    """In a file without any weight among its initializers, `Constant` nodes are them. Returns a note.

    Beside initializers they stay constants, of which a note says those that look like weights.
    """
    if any(tensor.data_type == TensorProto.FLOAT and tensor.dims for tensor in graph.initializer):
        weighing = {name for node in graph.node if node.op_type in _WEIGHING for name in node.input[1:]}
        constant = [node.output[0] for node in graph.node if node.op_type == "Constant"]
        alike = [name for name in constant if name in weighing]
        if not alike:
            return []
        return [
            f"{listed(alike)}: weights in Constant nodes beside initializers, so constants, never trained"
        ]
    found, kept = [], []
    for node in graph.node:
        tensor = next((a.t for a in node.attribute if a.name == "value"), None)
        weight = tensor is not None and tensor.data_type == TensorProto.FLOAT and tensor.dims
        if node.op_type != "Constant" or not weight:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        assert tensor is not None
        own = onnx.TensorProto.FromString(tensor.SerializeToString())
        own.name = node.output[0]
        graph.initializer.append(own)
        found.append(own.name)
    if not found:
        return []
    del graph.node[:]
    graph.node.extend(kept)
    return [f"{listed(found)}: weights in Constant nodes, trained as parameters"]


_WEIGHING = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_NOT_BELOW_ZERO = {"Relu", "Sigmoid", "Softmax", "Abs", "HardSigmoid"}


def dequantized(model: onnx.ModelProto) -> list[str]:
    """The float model that a graph of QuantizeLinear and DequantizeLinear stands for. Returns a note.

    Weights get the values that the file has rounded. A pair around an activation falls away, but where its
    range begins at 0 a Relu stays, which quantizers leave out in front of such a pair.
    """
    graph = model.graph
    if not any(node.op_type == "DequantizeLinear" for node in graph.node):
        return []
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                tensors[node.output[0]] = attribute.t
    made = {name: node for node in graph.node for name in node.output}
    taken = {*tensors, *made, *(value.name for value in graph.input)}
    renamed: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    weights, pairs = 0, 0
    for node in graph.node:
        if node.op_type != "DequantizeLinear":
            kept.append(node)
            continue
        place = f"operator DequantizeLinear at '{node.name or node.output[0]}'"
        if any(name and name not in tensors for name in node.input[1:]):
            raise UnsupportedOperator(f"{place} has a scale or zero point that is computed")
        source, result = node.input[0], node.output[0]
        if source in tensors:
            known = {name: array(tensors[name]) for name in node.input if name}
            name = source.removesuffix("_quantized")
            if name == source or name in taken:
                name = result
            taken.add(name)
            # An older opset's operator is this one without some of its operands and types.
            values = evaluated(node, known, _DEQUANTIZING)[0].astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(values, name))
            if name != result:
                renamed[result] = name
            weights += 1
            continue
        quantize = made.get(source)
        if quantize is None or quantize.op_type != "QuantizeLinear":
            raise UnsupportedOperator(
                f"{place} has an operand that neither is a weight nor comes from a QuantizeLinear;"
                " QDQ graphs with inputs of float32 are supported"
            )
        pairs += 1
        before = made.get(quantize.input[0])
        zero = array(tensors[quantize.input[2]]) if len(quantize.input) > 2 else np.zeros(1, np.uint8)
        lowest = np.iinfo(zero.dtype).min if zero.dtype.kind in "iu" else None
        cuts = lowest is not None and bool((zero == lowest).all())
        if cuts and (before is None or before.op_type not in _NOT_BELOW_ZERO):
            kept.append(helper.make_node("Relu", [quantize.input[0]], [result], name=node.name))
        else:
            renamed[result] = quantize.input[0]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]

    def final(name: str) -> str:
        while name in renamed:
            name = renamed[name]
        return name

    outputs = {value.name for value in graph.output}
    for node in nodes:
        node.input[:] = [final(name) for name in node.input]
    for name in outputs:
        if name in renamed:
            nodes.append(helper.make_node("Identity", [final(name)], [name]))
    del graph.node[:]
    graph.node.extend(nodes)
    return [
        f"a quantized model ({weights} weights, {pairs} pairs of QuantizeLinear and DequantizeLinear):"
        " trained as the float model that it stands for"
    ]


def evaluated(
    node: onnx.NodeProto, known: dict[str, np.ndarray], opsets: Iterable[onnx.OperatorSetIdProto]
) -> list[np.ndarray]:
    """The results of a node of which every operand is known, by onnx's reference. Errors: of many kinds."""
    from onnx.reference import ReferenceEvaluator

    given = dict.fromkeys(name for name in node.input if name)
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(known[name].dtype), known[name].shape
        )
        for name in given
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], "constants", inputs, outputs)
    alone = helper.make_model(graph, opset_imports=list(opsets))
    values = ReferenceEvaluator(alone).run(None, {name: known[name] for name in given})
    return [np.asarray(value) for value in values]
