"""ONNX to the training graph, by torch-mlir's ONNX importer and its conversion to the torch dialect.

Never imports torch. Initializers become arguments of the imported function, so that nothing folds
them and their names stay.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from traindeeploy.interrupts import interrupts_held
from traindeeploy.isolation import at, is_recording, keep, survives

from .batch import check_samples, rebatched
from .importer import Imported, Naming, check_batch_change, lower
from .model import (
    EVALUATION,
    Argument,
    BatchSizeError,
    ImportedModel,
    Mode,
    ModelError,
    UnsupportedOperator,
)
from .onnx_files import (
    STANDARD,
    array,
    as_float32,
    check_domains,
    check_purpose,
    dequantized,
    evaluated,
    first_line,
    inputs_of_float32,
    outer_names,
    put_in_order,
    weights_of_constants,
)
from .onnx_normal import RULES, normalized
from .onnx_tensors import (
    buffers,
    expanded,
    exported_buffers,
    named_by_modules,
    notes,
    readers,
    selected,
    shared,
    untied,
)
from .onnx_windows import spell_out_windows
from .operators import not_supported
from .recurrence import ONNX_OPERATORS, keep_whole, name_results
from .table import LOSSES

# The opset that models of older ones are converted to; the newest whose operators torch-mlir all knows.
OPSET = 20
# Before 13, Squeeze, Softmax and others are other operators under the same name; torch-mlir knows
# BatchNormalization from 15 on.
OLDEST_OPSET_AS_IT_IS = 15

# Operators of com.microsoft that are Gelu with this `approximate`.
_GELUS = {"Gelu": "none", "FastGelu": "tanh"}
_GELU_MARK = "traindeeploy.gelu:"
# Operators that are spelled out before anything looks at the model: of com.microsoft, and those that
# ONNX Runtime writes without a domain.
_RMS_NORMS = {"RMSNorm", "RMSNormalization", "RmsNorm", "SimplifiedLayerNormalization"}
_NORMS = {*_RMS_NORMS, "LayerNormalization"}
_SKIP_NORMS = {"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}
_FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul"}
_SPELLED_OUT = {"BiasGelu", "FastGelu", "QuickGelu", *_NORMS, *_SKIP_NORMS, *_FUSED}
# Operators whose defaults torch-mlir has with few digits.
_ROUNDED_DEFAULTS = {"Elu", "HardSigmoid", "LeakyRelu", "Selu"}
_FUNCTION = "main"
# In place of a batch size, which is positive: inputs are left as they are.
_NO_COMMON_SIZE = -1

_NAMES = """
Abs Add And AveragePool BatchNormalization Cast Ceil Clip Concat Constant Conv ConvTranspose Div Dropout
Elu Equal Erf Exp Expand Flatten Floor Gather Gelu Gemm GlobalAveragePool GlobalMaxPool Greater
GreaterOrEqual HardSigmoid HardSwish Identity InstanceNormalization IsNaN LayerNormalization LeakyRelu Less
LessOrEqual Log LogSoftmax MatMul Max MaxPool Min Mish Mod Mul Neg Not Or Pad Pow RMSNormalization
Reciprocal ReduceMax ReduceMean ReduceSum Relu Reshape Round Selu Shape Sigmoid Sign Slice Softmax Softplus
Softsign Split Sqrt Squeeze Sub Tanh Tile Transpose Unsqueeze Where Xor
"""
NORMAL = frozenset([*_NAMES.split(), *ONNX_OPERATORS])
"""Operators that torch-mlir gets to convert."""
# Operators that ONNX itself defines by others.
_BY_OTHERS = {
    schema.name
    for schema in onnx.defs.get_all_schemas()
    if schema.domain in STANDARD and (schema.has_function or schema.has_context_dependent_function)
} - {*NORMAL, *RULES, *LOSSES}
# Of those, the ones whose definitions need an operator that there is not.
_BY_UNSUPPORTED = {
    *("Bernoulli", "BlackmanWindow", "DynamicQuantizeLinear", "HammingWindow", "HannWindow", "Range"),
    "SequenceMap",
}
SUPPORTED = tuple(sorted({*NORMAL, *RULES, *_BY_OTHERS, *_SPELLED_OUT} - _BY_UNSUPPORTED))
"""Operators of ONNX; of what depends on no input and no parameter, all are."""


@dataclass
class _Graph:
    """An ONNX graph whose floating-point tensors are arguments.

    tensors: what each named argument is; inputs: the graph's own inputs.
    operators: node name -> operator type.
    shared: parameters that several places of the model read, and these places.
    frozen: parameters that recipes leave as they are.
    """

    model: onnx.ModelProto
    inputs: list[onnx.ValueInfoProto]
    tensors: list[Argument]
    operators: dict[str, str]
    shared: dict[str, list[str]]
    frozen: frozenset[str]
    notes: list[str]


def load_onnx_file(
    path: Path, batch_size: int | None = None, mode: Mode = EVALUATION, untie: Sequence[str] = ()
) -> ImportedModel:
    """Import an ONNX file. Errors: ModelError, UnsupportedOperator, BatchSizeError."""
    if not path.is_file():
        raise ModelError(f"there is no file '{path}'")
    try:
        model = onnx.load(str(path))
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror or error}") from error
    except Exception as error:  # protobuf and onnx raise many kinds, the file is the user's
        raise ModelError(f"'{path}' is not an ONNX model, or is damaged ({first_line(error)})") from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"'{path}' is not an ONNX model: it holds no graph")
    return import_onnx(model, batch_size, name=path.stem, mode=mode, untie=untie)


def import_onnx(
    model: onnx.ModelProto,
    batch_size: int | None = None,
    name: str | None = None,
    mode: Mode = EVALUATION,
    untie: Sequence[str] = (),
) -> ImportedModel:
    """Import an ONNX model.

    batch_size: the size of axis 0 of every input. A symbolic axis 0 takes any (1 by default); a
    fixed one changes only if every tensor of the graph follows.
    untie: names or patterns of parameters that several layers read; each gets its own.
    """
    graph = _prepare(model, mode)
    if untie:
        model = untied(model, selected(graph.shared, untie))
        graph = _prepare(model, mode)
    imported = _at_batch_size(graph, batch_size, name or model.graph.name or "model", mode)
    return replace(imported, onnx=model.SerializeToString(deterministic=True))


def _at_batch_size(graph: _Graph, batch_size: int | None, name: str, mode: Mode) -> ImportedModel:
    """The model at its own batch size, or at another one.

    A graph with a symbolic axis 0 says what it is at any size; if that does not fit, or mixes samples, an
    exporter has fixed the size inside. A graph of fixed sizes is changed by what it does to each sample.
    """
    exported = _batch_size(graph.inputs)
    if batch_size is None or batch_size == exported:
        return _import(graph, exported or 1, name, mode).model
    if exported == _NO_COMMON_SIZE:
        raise BatchSizeError("the inputs have no common size of axis 0, so the batch size cannot be changed")
    again = mode.batch_statistics or mode.own_loss  # numbers of the graph may depend on the size
    if exported is None or again:
        try:
            changed = _import(graph, batch_size, name, mode)
            if again:
                check_batch_change(_import(graph, exported or 1, name, mode), changed, mode)
            else:
                check_samples(changed.model)
            return changed.model
        except UnsupportedOperator:
            raise
        except ModelError as error:
            if again:
                what = f"the model cannot be changed from batch size {exported or 1} to {batch_size}"
                raise BatchSizeError(f"{what}: {error}") from error
            reason = error
        try:
            fixed = _fixed_size(graph, batch_size) or 1
            return rebatched(_import(graph, fixed, name, mode).model, batch_size)
        except ModelError:
            raise BatchSizeError(f"the model cannot have batch size {batch_size}: {reason}") from reason
    return rebatched(_import(graph, exported, name, mode).model, batch_size)


def _spell_out_fused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fused operators as what they are fused of; td-recognize-composites finds norms again."""
    if not any(node.op_type in _SPELLED_OUT for node in model.graph.node):
        return model
    opset = _opset(model)
    model = _copy(model)
    nodes = []
    for node in model.graph.node:
        parts = _parts(node, opset) if node.op_type in _SPELLED_OUT else None
        if parts is None:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        constants, made = parts
        for name, value in constants.items():
            tensor = numpy_helper.from_array(value, name)
            nodes.append(onnx.helper.make_node("Constant", [], [name], name=node.name, value=tensor))
        nodes.extend(made)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _parts(node: onnx.NodeProto, opset: int) -> tuple[dict[str, np.ndarray], list[onnx.NodeProto]] | None:
    """The constants and nodes that a fused operator stands for; None for a form of it that is unknown."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    name = node.name or node.output[0]
    x, result, stem = node.input[0], node.output[0], f"{name}.part"

    def make(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return onnx.helper.make_node(operator, inputs, [output], name=name, **attributes)

    if node.op_type in ("BiasGelu", "FastGelu"):
        if len(node.input) != 2:
            return None
        kind = "Gelu" if node.op_type == "BiasGelu" else "FastGelu"
        gelu = make(kind, [f"{stem}.sum"], result, domain="com.microsoft")
        return {}, [make("Add", list(node.input), f"{stem}.sum"), gelu]
    if node.op_type == "QuickGelu":
        alpha = np.array(given.get("alpha", 1.702), np.float32)
        return {f"{stem}.alpha": alpha}, [
            make("Mul", [x, f"{stem}.alpha"], f"{stem}.scaled"),
            make("Sigmoid", [f"{stem}.scaled"], f"{stem}.gate"),
            make("Mul", [x, f"{stem}.gate"], result),
        ]
    if node.op_type in _FUSED:
        return _fused_parts(node, given, stem, make)
    if node.op_type == "LayerNormalization" and node.domain in STANDARD and opset >= 17:
        return None  # ONNX's own
    outputs = [*node.output, "", "", "", ""]
    parts = []
    if skip := node.op_type in _SKIP_NORMS:
        total = outputs[3] or f"{stem}.total"
        operands = [*node.input, "", "", ""]
        simplified = "Simplified" in node.op_type
        scale, shift, bias = (operands[2], "", operands[3]) if simplified else operands[2:5]
        parts.append(make("Add", operands[:2], f"{stem}.skip" if bias else total))
        if bias:
            parts.append(make("Add", [f"{stem}.skip", bias], total))
        x = total
    else:
        scale, shift = [*node.input, ""][1:3]
    if given.get("axis", -1) != -1 or any(outputs[1 : 3 if skip else 5]):
        return None
    epsilon = next((given[key] for key in ("epsilon", "eps", "variance_epsilon") if key in given), 1e-5)
    constants = {f"{stem}.epsilon": np.array(epsilon, np.float32)}

    def mean(source: str, output: str) -> onnx.NodeProto:
        if opset < 18:
            return make("ReduceMean", [source], output, axes=[-1])
        constants[f"{stem}.axes"] = np.array([-1], np.int64)
        return make("ReduceMean", [source, f"{stem}.axes"], output)

    if "LayerNormalization" in node.op_type and "Simplified" not in node.op_type:
        parts += [mean(x, f"{stem}.center"), make("Sub", [x, f"{stem}.center"], f"{stem}.centered")]
        x = f"{stem}.centered"
    scaled = f"{stem}.scaled" if shift else result
    parts += [
        make("Mul", [x, x], f"{stem}.squares"),
        mean(f"{stem}.squares", f"{stem}.mean"),
        make("Add", [f"{stem}.mean", f"{stem}.epsilon"], f"{stem}.sum"),
        make("Sqrt", [f"{stem}.sum"], f"{stem}.root"),
        make("Div", [x, f"{stem}.root"], f"{stem}.normal"),
        make("Mul", [f"{stem}.normal", scale], scaled),
    ]
    return constants, [*parts, make("Add", [scaled, shift], result)] if shift else parts


def _fused_parts(
    node: onnx.NodeProto, given: dict[str, Any], stem: str, make: Callable[..., onnx.NodeProto]
) -> tuple[dict[str, np.ndarray], list[onnx.NodeProto]] | None:
    """A product with a factor and transposed matrices, or with an activation behind it."""
    constants: dict[str, np.ndarray] = {}
    result = node.output[0]
    if node.op_type == "FusedMatMul":
        if any(given.pop(key, 0) for key in ("transA", "transBatchA", "transBatchB")):
            return None
        # Of a matrix; what has more dimensions ends in the checks of shapes.
        right, parts = node.input[1], []
        if given.pop("transB", 0):
            parts, right = [make("Transpose", [right], f"{stem}.turned", perm=[1, 0])], f"{stem}.turned"
        alpha = given.pop("alpha", 1.0)
        if alpha == 1:
            return constants, [*parts, make("MatMul", [node.input[0], right], result)]
        constants[f"{stem}.alpha"] = np.array(alpha, np.float32)
        product = make("MatMul", [node.input[0], right], f"{stem}.product")
        return constants, [*parts, product, make("Mul", [f"{stem}.product", f"{stem}.alpha"], result)]
    activation = given.pop("activation", b"").decode()
    numbers = {key: given.pop(key) for key in list(given) if key.startswith("activation_")}
    if activation not in ("", "Relu", "Sigmoid", "Tanh") or numbers or len(node.input) > 3:
        return None
    if not activation:
        return constants, [make(_FUSED[node.op_type], list(node.input), result, **given)]
    product = make(_FUSED[node.op_type], list(node.input), f"{stem}.product", **given)
    return constants, [product, make(activation, [f"{stem}.product"], result)]


def _inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Functions of the model itself, and operators that ONNX defines by others, as what they stand for."""
    if not model.functions and not any(node.op_type in _BY_OTHERS for node in model.graph.node):
        return model
    from onnx import inliner

    try:
        model = inliner.inline_local_functions(model, convert_version=True)
        if not any(node.op_type in _BY_OTHERS for node in model.graph.node):
            return model
        # Which body a function has may depend on types, also on those of initializers.
        model = onnx.shape_inference.infer_shapes(model)
        for tensor in model.graph.initializer:
            model.graph.value_info.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        for node in model.graph.node:
            if node.op_type in _BY_OTHERS:
                _give_defaults(node, _opset(model))
        names = [("", name) for name in sorted(_BY_OTHERS)]
        model = inliner.inline_selected_functions(model, names, inline_schema_functions=True)
    except Exception as error:  # of many kinds, some of C++
        known = [node for node in model.graph.node if node.op_type in _BY_OTHERS]
        if not known:
            raise ModelError(f"cannot inline the functions of the ONNX model: {first_line(error)}") from error
        place = known[0].name or known[0].output[0]
        raise UnsupportedOperator(
            f"operator {known[0].op_type} at '{place}' has operands that ONNX's definition of it lacks"
        ) from error
    del model.graph.value_info[:]
    return model


def _give_defaults(node: onnx.NodeProto, opset: int) -> None:
    """Attributes that the node leaves at their defaults, which bodies of functions refer to."""
    given = {attribute.name for attribute in node.attribute}
    for name, attribute in onnx.defs.get_schema(node.op_type, opset).attributes.items():
        if name not in given and attribute.default_value.name:
            node.attribute.append(onnx.AttributeProto.FromString(attribute.default_value.SerializeToString()))


def _opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    versions = (entry.version for entry in model.opset_import if entry.domain in STANDARD)
    return max(versions, default=OPSET)


def _standard_gelu(model: onnx.ModelProto) -> onnx.ModelProto:
    """com.microsoft's Gelu and FastGelu (of one input) as functions of the standard operators of any opset.

    Marked by a name of their own until the model has the opset that knows Gelu.
    """
    if not any(node.domain == "com.microsoft" and node.op_type in _GELUS for node in model.graph.node):
        return model
    model = _copy(model)
    for node in model.graph.node:
        if node.domain == "com.microsoft" and node.op_type in _GELUS and len(node.input) == 1:
            # Identity passes every conversion of opsets; `_restore_gelu` makes it what it was.
            approximate = _GELUS[node.op_type]
            node.name = f"{_GELU_MARK}{approximate}:{node.name or node.output[0]}"
            node.domain, node.op_type = "", "Identity"
    return model


def _restore_gelu(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type == "Identity" and node.name.startswith(_GELU_MARK):
            _, approximate, node.name = node.name.split(":", 2)
            node.op_type = "Gelu"
            node.attribute.append(onnx.helper.make_attribute("approximate", approximate))


def _prepare(model: onnx.ModelProto, mode: Mode) -> _Graph:
    if model.functions:
        model = _inline_functions(model)
    model = _copy(model)
    check_domains(model)
    check_purpose(model.graph)
    put_in_order(model.graph)
    said = [*dequantized(model), *as_float32(model)]
    said += [*inputs_of_float32(model.graph), *weights_of_constants(model.graph)]
    model = named_by_modules(model)
    model = _standard_gelu(_spell_out_fused(model))
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker's own and protobuf's errors
        raise ModelError(f"the ONNX model is not valid: {first_line(error)}{_bad_node(error)}") from error
    _old_batch_norm(model, mode)
    opset = _opset(model)
    marked = any(node.name.startswith(_GELU_MARK) for node in model.graph.node)
    if opset < OLDEST_OPSET_AS_IT_IS or (marked and opset < OPSET):
        from onnx import version_converter

        try:
            model = version_converter.convert_version(model, OPSET)
        except Exception as error:  # RuntimeError and onnx's own
            raise ModelError(
                f"cannot convert the ONNX model from opset {opset}: {first_line(error)}"
            ) from error
    else:
        model = _copy(model)
    _restore_gelu(model.graph)
    model = _inline_functions(model)
    graph = model.graph
    _choose_outputs(graph, mode)
    if all(graph.output[0].name not in node.output for node in graph.node):
        raise ModelError(f"output '{graph.output[0].name}' is not computed, but an input or an initializer")
    if graph.sparse_initializer:
        raise ModelError("the model has sparse initializers, which are not supported")

    _keep_live_nodes(graph)
    operators = _name_nodes(graph)
    if mode.dropout is not None:
        _activate_dropout(graph)
    for node in graph.node:
        if node.op_type in _ROUNDED_DEFAULTS:
            _give_defaults(node, _opset(model))
    _prepare_batch_norm(graph, mode)
    _spell_out_alpha(graph)
    spell_out_windows(model)
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initializers]
    buffers_of_torch = exported_buffers(graph)
    tensors = _lift_tensors(graph)
    del graph.input[:]
    graph.input.extend(inputs)
    values = {t.name: t.value for t in tensors if t.kind == "parameter" and t.value is not None}
    masks, tables, statistics = buffers(graph, values, initializers - {t.name for t in tensors})
    constants = [name for name in values if name in buffers_of_torch or name in masks]
    frozen = [name for name in (*tables, *statistics) if name not in constants]
    per_sample = expanded(graph, values)
    tensors = [replace(t, kind="constant") if t.name in constants else t for t in tensors]
    several = shared(graph, [name for name in values if name not in {*constants, *frozen}])
    for tensor in tensors:
        assert tensor.value is not None
        graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, onnx.TensorProto.FLOAT, tensor.value.shape)
        )
    infinite = [
        t.name
        for t in tensors
        if t.name in initializers and t.value is not None and not np.isfinite(t.value).all()
    ]
    said += notes([*constants, *infinite], frozen, several, per_sample)
    return _Graph(model, inputs, tensors, operators, several, frozenset(frozen), said)


def _bad_node(error: BaseException) -> str:
    """The node that onnx's checker means, as it says further down."""
    found = re.search(r"Bad node spec for node\. Name: (.*) OpType: (\w+)", str(error))
    if found is None:
        return ""
    name, operator = found.groups()
    return f" (operator {operator} at '{name}')" if name else f" (operator {operator})"


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that the following steps may change; the values of initializers are shared."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


_OPTIONAL_RESULTS = {"Attention", "Dropout", "LayerNormalization", "MaxPool"}


def _keep_live_nodes(graph: onnx.GraphProto) -> None:
    """Drop nodes and initializers that the output does not need."""
    needed = {output.name for output in graph.output}
    live = []
    for node in reversed(graph.node):
        if any(output in needed for output in node.output):
            live.append(node)
            needed.update(node.input)
            needed.update(outer_names(node))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(live)]
    for node in kept:
        # Of what has a number of results that its operands do not say, as Split, all are kept.
        while len(node.output) > 1 and node.op_type in _OPTIONAL_RESULTS and node.output[-1] not in needed:
            del node.output[-1]
    del graph.node[:]
    graph.node.extend(kept)


def _name_nodes(graph: onnx.GraphProto) -> dict[str, str]:
    """Give every node a name of its own and return its operator type by that name.

    Unnamed nodes are called after their operator and their position among those.
    """
    taken = Counter(node.name for node in graph.node)
    numbers: Counter[str] = Counter()
    operators = {}
    for node in graph.node:
        if not node.name or taken[node.name] > 1:
            stem = node.name or node.op_type
            while True:
                name = f"{stem}_{numbers[stem]}"
                numbers[stem] += 1
                if name not in taken and name not in operators:
                    break
            node.name = name
        operators[node.name] = node.op_type
        node.name = f"{node.name} ({node.op_type})"
    return {f"{name} ({operator})": operator for name, operator in operators.items()}


def _activate_dropout(graph: onnx.GraphProto) -> None:
    """Dropout nodes in training mode, whatever they were exported in."""
    ratio, training = "traindeeploy.dropout_ratio", "traindeeploy.dropout_is_active"
    found = [node for node in graph.node if node.op_type == "Dropout" and node.domain in STANDARD]
    for node in found:
        data, probability = node.input[0], (*node.input[1:2], "")[0]
        del node.output[1:]
        node.input[:] = [data, probability or ratio, training]
    if found:
        graph.initializer.append(numpy_helper.from_array(np.float32(0.5), ratio))
        graph.initializer.append(numpy_helper.from_array(np.array(True), training))


def _old_batch_norm(model: onnx.ModelProto, mode: Mode) -> None:
    """Before opset 14 batch norm with results beside the first is in training mode; these fall away."""
    if _opset(model) >= 14:
        return
    for node in model.graph.node:
        if node.op_type == "BatchNormalization" and node.domain in STANDARD and any(node.output[1:]):
            if not mode.inference:
                _check_batch_norm(node, mode)
            del node.output[1:]


def _check_batch_norm(node: onnx.NodeProto, mode: Mode) -> None:
    if not mode.batch_statistics:
        raise UnsupportedOperator(
            f"operator BatchNormalization at '{node.name or node.output[0]}' takes the statistics of the "
            "batch (training mode), which needs --batch-norm batch"
        )


def _prepare_batch_norm(graph: onnx.GraphProto, mode: Mode) -> None:
    """Batch norm as PyTorch has it: momentum is the share of the new statistics, in ONNX of the old ones."""
    made = {output: node for node in graph.node if node.op_type == "Identity" for output in node.output}
    values = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type != "BatchNormalization" or node.domain not in STANDARD:
            continue
        for name in node.input[3:5]:
            # The exporter shares what has equal values, but each has its own statistics.
            source = name
            while source in made:
                source = made[source].input[0]
            if source != name and source in values:
                own = onnx.TensorProto.FromString(values[source].SerializeToString())
                own.name = name
                graph.initializer.append(own)
                graph.node.remove(made.pop(name))
        given = {a.name: a for a in node.attribute}
        if mode.inference:
            if "training_mode" in given:
                node.attribute.remove(given["training_mode"])
            del node.output[1:]
            continue
        if not mode.batch_statistics:
            if "training_mode" in given and given["training_mode"].i:
                _check_batch_norm(node, mode)
            continue
        momentum = given["momentum"].f if "momentum" in given else 0.9
        kept = [a for a in node.attribute if a.name not in ("momentum", "training_mode")]
        kept.append(onnx.helper.make_attribute("momentum", 1 - momentum))
        copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
        del node.attribute[:]
        node.attribute.extend(copies)
        del node.output[1:]


def _spell_out_alpha(graph: onnx.GraphProto) -> None:
    """Gemm without C becomes a product and a Mul: torch-mlir forgets its alpha."""
    nodes = []
    for node in graph.node:
        nodes.append(node)
        alpha = next((a.f for a in node.attribute if a.name == "alpha"), 1.0)
        if node.op_type != "Gemm" or any(node.input[2:]) or alpha == 1:
            continue
        result, product, factor = node.output[0], f"{node.name}.product", f"{node.name}.alpha"
        node.output[0] = product
        graph.initializer.append(numpy_helper.from_array(np.float32(alpha), factor))
        nodes.append(onnx.helper.make_node("Mul", [product, factor], [result], name=node.name))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _lift_tensors(graph: onnx.GraphProto) -> list[Argument]:
    """Take the floating-point tensors out of the graph, as parameters and constants.

    An initializer with at least one dimension is a parameter: ONNX does not tell parameters from
    other tensors. Those of rank 0, and `Constant` nodes, are constants.
    """
    tensors = []
    kept_initializers = []
    used = {name for node in graph.node for name in (*node.input, *outer_names(node))}
    used.update(output.name for output in graph.output)
    numbers = _numbers(graph)
    for tensor in graph.initializer:
        floating = tensor.data_type in _FLOATING
        if not floating or tensor.name in numbers or not tensor.dims:
            if tensor.name in used:
                kept_initializers.append(tensor)
        else:
            values = array(tensor) if tensor.name in used else np.zeros(tuple(tensor.dims), np.float32)
            finite = np.isfinite(values)
            # A mask is infinite in one part and a number in the other; infinity among weights is a mistake.
            mask = not finite.all() and np.isinf(values[~finite]).all() and np.unique(values[finite]).size < 2
            # Or what attention adds for distances, with -infinity for the keys that it hides.
            if not mask and not finite.all() and np.isneginf(values[~finite]).all():
                adding = chain.from_iterable(readers(graph, [tensor.name])[tensor.name].values())
                mask = {node.op_type for node in adding} == {"Add"}
            tensors.append(Argument("constant" if mask else "parameter", tensor.name, values))
    differentiated = _differentiated(graph)
    tensors = [
        t if t.name in differentiated or t.name not in used else Argument("constant", t.name, t.value)
        for t in tensors
    ]
    kept_nodes = []
    for node in graph.node:
        value = _constant_array(node) if node.op_type == "Constant" else None
        lifted = value is not None and value.dtype == np.float32 and value.size > 1
        if lifted and node.output[0] not in numbers:
            tensors.append(Argument("constant", node.output[0], value))
        else:
            kept_nodes.append(node)
    initializers = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept_initializers]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept_nodes]
    del graph.initializer[:]
    del graph.node[:]
    graph.initializer.extend(initializers)
    graph.node.extend(nodes)
    return tensors


# Operators without a gradient, and inputs of others that have none.
_WITHOUT_GRADIENT = {
    *("And", "ArgMax", "ArgMin", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "IsInf", "IsNaN"),
    *("Less", "LessOrEqual", "Not", "Or", "Round", "Shape", "Sign", "Size", "Xor"),
}
_OPERANDS_WITHOUT_GRADIENT = {
    "BatchNormalization": (3, 4),  # running statistics, which no gradient trains
    "Clip": (1, 2),
    "Gather": (1,),
    "Pad": (1, 2, 3),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "Pow": (1,),  # an exponent is a number
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Where": (0,),
}


def _differentiated(graph: onnx.GraphProto) -> set[str]:
    """Values from which a path to the output has a gradient."""
    found = {output.name for output in graph.output}
    for node in reversed(graph.node):
        if node.op_type in _WITHOUT_GRADIENT or found.isdisjoint(node.output):
            continue
        without = _OPERANDS_WITHOUT_GRADIENT.get(node.op_type, ())
        found.update(name for at, name in enumerate(node.input) if at not in without)
        found.update(outer_names(node))
    return found


# Operands that are numbers about a node, and no data.
_NUMBERS = {"Clip": (1, 2), "Pad": (2,), "Resize": (1, 2), "Upsample": (1,)}


def _numbers(graph: onnx.GraphProto) -> set[str]:
    """Floating-point values that nodes read as numbers, which inference of shapes and rules must see."""
    return {
        node.input[at]
        for node in graph.node
        for at in _NUMBERS.get(node.op_type, ())
        if at < len(node.input) and node.domain in STANDARD
    }


_FLOATING = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
)


def _constant_array(node: onnx.NodeProto) -> np.ndarray | None:
    for attribute in node.attribute:
        if attribute.name == "value":
            return array(attribute.t)
        if attribute.name == "value_floats":
            return np.array(attribute.floats, np.float32)
    return None


def _batch_size(inputs: Iterable[onnx.ValueInfoProto]) -> int | None:
    """The fixed size of axis 0 of all inputs; None if it is symbolic, _NO_COMMON_SIZE if they differ."""
    sizes: set[int | None] = set()
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        if dims:
            sizes.add(dims[0].dim_value or None)
    if len(sizes) > 1:
        return _NO_COMMON_SIZE
    return sizes.pop() if sizes else _NO_COMMON_SIZE


def _import(graph: _Graph, batch_size: int, name: str, mode: Mode) -> Imported:
    """Import with axis 0 of every input set to `batch_size`."""
    model = _copy(graph.model)
    _set_batch_size(model.graph, graph, batch_size)
    del model.graph.value_info[:]
    name_results(model.graph)
    model.graph.name = _FUNCTION
    output = model.graph.output[0]
    output.type.tensor_type.ClearField("shape")
    folded: list[Argument] = []
    constants = [tensor for tensor in graph.tensors if tensor.kind == "constant"]
    # A shape that becomes known makes others known.
    while True:
        try:
            model = _with_shapes(model, batch_size)
        except BatchSizeError as error:
            if fixed := _fixed_size(graph, batch_size):
                hint = f"the file was exported for a fixed batch: --batch-size {fixed} fits"
                raise BatchSizeError(f"{error}; {hint}") from error
            raise
        made, more = _fold_constants(model, [*constants, *folded])
        folded += more
        if made is model and not normalized(model, _known(model, [*constants, *folded])):
            break
        model = made
        del model.graph.value_info[:]
    naming = Naming(lambda torch_name, place: graph.operators.get(place, torch_name), SUPPORTED)
    _refuse_unknown(model.graph, naming)
    if is_recording():
        keep("model.onnx", model.SerializeToString)
        at(lambda: _ending_node(model, naming))
    # The module owns what is walked, so it must live as long.
    module = _to_torch_dialect(model, naming)
    function = next(op for op in module.body.operations if op.attributes["sym_name"].value == _FUNCTION)
    inputs = [Argument("input", value.name) for value in graph.inputs]
    arguments = [*inputs, *graph.tensors, *folded]
    return lower(
        function, arguments, output.name, name,
        naming=naming, mode=mode, frozen=graph.frozen, notes=graph.notes,
    )  # fmt: skip


def _fixed_size(graph: _Graph, batch_size: int) -> int | None:
    """If an exporter has fixed the batch in some node, the size there that is not `batch_size`."""
    if _batch_size(graph.inputs) is not None:
        return None
    nodes = graph.model.graph.node
    values = {tensor.name: array(tensor) for tensor in graph.model.graph.initializer}
    values |= {
        n.output[0]: v for n in nodes if n.op_type == "Constant" and (v := _constant_array(n)) is not None
    }
    shapes = [values.get(node.input[1]) for node in nodes if node.op_type in ("Expand", "Reshape")]
    sizes = {int(shape.ravel()[0]) for shape in shapes if shape is not None and shape.size}
    sizes |= {len(t.value) for t in graph.tensors if t.value is not None and t.value.ndim > 1}
    for size in sorted(sizes - {batch_size}):
        if size < 1:
            continue
        model = _copy(graph.model)
        _set_batch_size(model.graph, graph, size)
        del model.graph.value_info[:]
        model.graph.output[0].type.tensor_type.ClearField("shape")
        try:
            _with_shapes(model, size)
        except BatchSizeError:
            continue
        return size
    return None


def _choose_outputs(graph: onnx.GraphProto, mode: Mode) -> None:
    """Leaves the output that is meant, or one that is the sum of several losses with their weights."""
    chosen = [(graph.output[index], weight) for index, weight in mode.chosen([o.name for o in graph.output])]
    kept = onnx.ValueInfoProto.FromString(chosen[0][0].SerializeToString())
    parts = []
    for number, (output, weight) in enumerate(chosen):
        if len(chosen) == 1 and weight == 1:
            break
        # Weights are constants behind the model: no initializer, which would be a parameter.
        shape, factor, part = f"loss.shape.{number}", f"loss.weight.{number}", f"loss.part.{number}"
        scalar = numpy_helper.from_array(np.array([0], np.int64)[:0])
        value = numpy_helper.from_array(np.array(weight, np.float32))
        graph.node.append(onnx.helper.make_node("Constant", [], [shape], name=shape, value=scalar))
        graph.node.append(onnx.helper.make_node("Constant", [], [factor], name=factor, value=value))
        flat = f"{part}.flat"
        graph.node.append(onnx.helper.make_node("Reshape", [output.name, shape], [flat], name=flat))
        graph.node.append(onnx.helper.make_node("Mul", [flat, factor], [part], name=part))
        parts.append(part)
        if number:
            parts = [f"loss.sum.{number}"]
            before = f"loss.sum.{number - 1}" if number > 1 else "loss.part.0"
            graph.node.append(onnx.helper.make_node("Add", [before, part], parts, name=parts[0]))
    if parts:
        kept.name = parts[-1]
        kept.type.tensor_type.ClearField("shape")
    del graph.output[:]
    graph.output.append(kept)


def _refuse_unknown(graph: onnx.GraphProto, naming: Naming) -> None:
    """Refuse operators before torch-mlir sees them: it does not survive all that it does not know."""
    for node in graph.node:
        if node.domain not in STANDARD or node.op_type not in {*NORMAL, *LOSSES}:
            domain = "" if node.domain in STANDARD else f"{node.domain}."
            raise UnsupportedOperator(not_supported(domain + node.op_type, node.name, naming.supported))


def _with_shapes(model: onnx.ModelProto, batch_size: int) -> onnx.ModelProto:
    """The model with the shapes of its values, as far as they can be inferred."""
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx's InferenceError, protobuf's for more than 2 GiB
        problem = f"the shapes of the ONNX model do not fit together at batch size {batch_size}"
        if batch_size < 0:
            problem = "the shapes of the ONNX model do not fit together"
        raise BatchSizeError(f"{problem}: {_misfit(error)}") from error


def _misfit(error: Exception) -> str:
    """What onnx's inference of shapes says, with the node that it means."""
    text = first_line(error)
    found = re.search(r"\(op_type:(\w+), node name: (.*?)\): (?:\[\w+\] )*(.*)", text)
    if found is None:
        return text
    operator, name, why = found.groups()
    return f"operator {operator} at '{name}': {why[:1].lower()}{why[1:]}"


def _fold_constants(
    model: onnx.ModelProto, tensors: Sequence[Argument]
) -> tuple[onnx.ModelProto, list[Argument]]:
    """Compute what depends on no input and no parameter: shapes, positions, masks.

    model: with the shapes of all values. Returns it with the results as initializers and, of whole
    arrays that are data, as further inputs: what these arguments are.
    """
    graph = model.graph
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = np.array([dim.dim_value for dim in dims], np.int64)
    known = _known(model, tensors)
    made: dict[str, np.ndarray] = {}
    kept = []
    for node in graph.node:
        results = _evaluated(node, known, shapes, model)
        if results is None:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        results = {name: value for name, value in results.items() if name}
        known |= results
        made |= results
    data = {
        node.input[at] for node in kept for at in _WHOLE_DATA.get(node.op_type, ()) if at < len(node.input)
    }
    used = {name for node in kept for name in (*node.input, *outer_names(node))}
    used.update(output.name for output in graph.output)
    initializers, arguments = [], []
    numbers = _numbers(graph)
    for tensor in graph.initializer:
        if tensor.name not in data or known[tensor.name].size == 1:
            initializers.append(onnx.TensorProto.FromString(tensor.SerializeToString()))
        else:
            made[tensor.name] = known[tensor.name]
    inputs = []
    for name, value in made.items():
        floating = value.dtype == np.float32 and value.size > 1 and name not in numbers
        if name not in used:
            continue
        if floating or (name in data and value.size > 1):
            element = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
            inputs.append(onnx.helper.make_tensor_value_info(name, element, value.shape))
            arguments.append(Argument("constant", name, value))
        else:
            initializers.append(numpy_helper.from_array(value, name))
    if not made:
        return model, []
    result = _copy(model)
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(kept)
    result.graph.initializer.extend(initializers)
    result.graph.input.extend(inputs)
    return result, arguments


def _known(model: onnx.ModelProto, tensors: Sequence[Argument]) -> dict[str, np.ndarray]:
    """The values of constants by name: arguments and initializers."""
    known = {tensor.name: tensor.value for tensor in tensors if tensor.value is not None}
    return known | {tensor.name: array(tensor) for tensor in model.graph.initializer}


# Inputs that are data, not numbers that the conversion to the torch dialect must see.
_WHOLE_DATA = {"Gather": (1,), "Where": (0, 1, 2)}
_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}


def _evaluated(
    node: onnx.NodeProto, known: dict[str, np.ndarray], shapes: dict[str, np.ndarray], model: onnx.ModelProto
) -> dict[str, np.ndarray] | None:
    """The results of a node of which everything is known."""
    if node.domain not in STANDARD or node.op_type in _RANDOM or next(iter(outer_names(node)), None):
        return None
    if node.op_type == "Shape" and node.input[0] in shapes:
        bounds = {a.name: a.i for a in node.attribute}
        return {node.output[0]: shapes[node.input[0]][bounds.get("start") : bounds.get("end")]}
    if any(name and name not in known for name in node.input):
        return None
    if node.op_type == "Constant" and (value := _constant_array(node)) is not None:
        return {node.output[0]: value}
    try:
        values = evaluated(node, known, model.opset_import)
    except Exception:  # whatever it cannot do, the conversion has a word for
        return None
    return dict(zip((name for name in node.output if name), values, strict=True))


def _set_batch_size(proto: onnx.GraphProto, graph: _Graph, batch_size: int) -> None:
    for value in proto.input[: len(graph.inputs)]:
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise ModelError(f"input '{value.name}' has no shape; export the model with fixed sizes")
        dims = value.type.tensor_type.shape.dim
        if dims and batch_size > 0:
            dims[0].dim_value = batch_size
        for axis, dim in enumerate(dims):
            if not dim.HasField("dim_value"):
                raise ModelError(
                    f"axis {axis} of input '{value.name}' has the dynamic size '{dim.dim_param or '?'}'; "
                    "only axis 0, the batch, may be dynamic: export the model with fixed sizes"
                )


@interrupts_held()
def _to_torch_dialect(model: onnx.ModelProto, naming: Naming):  # type: ignore[no-untyped-def]
    """The model as a module of the torch dialect. torch-mlir's composite operators stay whole."""
    from torch_mlir import ir
    from torch_mlir.dialects import torch as torch_dialect
    from torch_mlir.extras import onnx_importer
    from torch_mlir.passmanager import PassManager

    context = ir.Context()
    torch_dialect.register_dialect(context)
    try:
        info = onnx_importer.ModelInfo(model)
        module = info.create_module(context)
        importer = onnx_importer.NodeImporter.define_function(info.main_graph, module.operation)
        importer.import_all()
    except onnx_importer.OnnxImportError as error:
        raise ModelError(f"cannot import the ONNX model: {first_line(error)}") from error
    keep_whole(module)
    pipeline = "builtin.module(func.func(convert-torch-onnx-to-torch),canonicalize)"
    try:
        with context:
            PassManager.parse(pipeline).run(module.operation)
    except ir.MLIRError as error:
        raise _conversion_error(error, naming) from error
    return module


def _ending_node(model: onnx.ModelProto, naming: Naming) -> str:
    """The node at which torch-mlir ends the process, if it does: the last of the shortest such beginning."""

    def converts(count: int) -> bool:
        part = onnx.ModelProto()
        part.CopyFrom(model)
        graph = part.graph
        del graph.node[count:]
        known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
        del graph.output[:]
        graph.output.extend(known[name] for name in graph.node[-1].output if name in known)
        return survives(lambda: _to_torch_dialect(part, naming))

    nodes = model.graph.node
    first, last = 0, len(nodes)
    if converts(last):
        return ""
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if converts(middle) else (first, middle)
    node = nodes[last - 1]
    return f"operator {node.op_type} at '{node.name or node.output[0]}'"


def _conversion_error(error, naming: Naming) -> ModelError | UnsupportedOperator:  # type: ignore[no-untyped-def]
    for diagnostic in error.error_diagnostics:
        location = str(diagnostic.location)
        place = location.removeprefix('loc("').removesuffix('")')
        operator = naming.operator("", place)
        if operator:
            return UnsupportedOperator(not_supported(operator, place, naming.supported))
    return ModelError(f"cannot convert the ONNX model: {first_line(error)}")
