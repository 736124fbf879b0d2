"""Walks a function of the torch dialect and lowers it by the table; shared by both routes.

torch_mlir has its own LLVM and its own `ir` module. Its operations are only read here; what is
written goes through the `mlir` package, and text leaves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from math import prod
from typing import Any

import numpy as np

from traindeeploy.data import COUNTER
from traindeeploy.interrupts import interrupts_held
from traindeeploy.isolation import at

# They add their entries to the table.
from . import composites, functions, logic, own_losses, recurrence, resampling  # noqa: F401
from .batch import check_samples
from .builder import PRODUCTS, GraphBuilder, Indices, Nothing, Step, Tensor
from .model import (
    EVALUATION,
    Argument,
    BatchSizeError,
    ImportedModel,
    Layer,
    Mode,
    ModelError,
    TensorSpec,
    check_size,
    check_values,
)
from .table import LOSSES, TABLE, IsNegative, TorchOperator, Unknown, scaled, supported_operators

_TENSOR_TYPE = re.compile(r"!torch\.vtensor<\[([^\]]*)\],([^>]*)>")
_NOWHERE = "?"
# Symbols that the compiler gives to functions.
_RESERVED = {"forward", "step"}
_CONSTANTS = {"torch.constant.int", "torch.constant.float", "torch.constant.bool", "torch.constant.str"}


@dataclass(frozen=True)
class Imported:
    """The outcome of a walk: the model, and the steps that `check_batch_change` compares."""

    model: ImportedModel
    steps: list[Step]


@dataclass(frozen=True)
class Naming:
    """How a route names things in diagnostics.

    operator:  from the torch dialect's name and the place to what the model's author wrote.
    supported: the operators that there are.
    """

    operator: Callable[[str, str], str] = lambda name, place: name
    supported: Sequence[str] = ()


@interrupts_held()
def lower(
    function: Any,
    arguments: Sequence[Argument],
    output_name: str,
    model_name: str,
    *,
    naming: Naming | None = None,
    results: Sequence[tuple[int, float]] = ((0, 1.0),),
    order: Sequence[str] = (),
    aliases: dict[str, str] | None = None,
    frozen: frozenset[str] = frozenset(),
    notes: Sequence[str] = (),
    mode: Mode = EVALUATION,
) -> Imported:
    """Lower `function` (a func.func of the torch dialect) whose arguments mean `arguments`.

    results: which of the function's results is the model's output; of several their sum with these weights.
    order:  all parameter names in the model's order; by default that of the arguments.
    Errors: UnsupportedOperator, ModelError.
    """
    naming = naming or Naming(supported=supported_operators())
    block = function.regions[0].blocks[0]
    operations = list(block.operations)
    outputs = [operations[-1].operands[index] for index, _ in results]
    live = _live_operations(operations, outputs)
    if not mode.own_loss:
        _refuse_losses(live, naming)

    used = _used_values(live)
    used.update(outputs)
    bound = [
        (argument, value) for argument, value in zip(arguments, block.arguments, strict=True) if value in used
    ]
    inputs = [_input(argument.name, value.type) for argument, value in bound if argument.kind == "input"]
    if not inputs:
        raise ModelError("the output of the model depends on none of its inputs")
    for returned in outputs:
        _refuse_dynamic(live, returned, naming)
    output = TensorSpec(output_name, _float_shape(outputs[0].type, f"output '{output_name}'"))
    if mode.own_loss:
        for returned in outputs:
            if prod(_float_shape(returned.type, f"output '{output_name}'")) != 1:
                raise ModelError(
                    f"output '{output_name}' {list(output.shape)} is no loss: one number is needed"
                )
        output = replace(output, shape=())
    for spec in (*inputs, output):
        if 0 in spec.shape:
            raise ModelError(f"'{spec.name}' of shape {list(spec.shape)} has no element")

    graph = GraphBuilder(model_name, inputs, output, mode, [argument.name for argument in arguments])
    values: dict[Any, Any] = {}
    graph_inputs = iter(graph.inputs)
    named: dict[Any, Argument] = {}
    for argument, value in bound:
        if argument.kind == "input":
            given = next(graph_inputs)
            if isinstance(given, Tensor) and _element(value.type) == "i1":
                given = graph.compared("ne", given, graph.splat(0), given.shape)
            values[value] = given
        else:
            assert argument.value is not None
            kind = "parameter" if argument.kind == "parameter" else "constant"
            if kind == "constant" and argument.value.size == 0:
                values[value] = Nothing()  # what a cache begins with
                continue
            if argument.name in _RESERVED:
                raise ModelError(f"the {kind} name '{argument.name}' is reserved for the compiler; rename it")
            if argument.kind == "constant" and argument.value.dtype.kind in "iub":
                values[value] = Indices(argument.value.shape, array=argument.value)
                continue
            array = argument.value
            if argument.kind == "constant" and array.dtype == np.float32 and np.isinf(array).any():
                # Of a mask that is added; as the lowest number it does the same.
                array = np.clip(array, np.finfo(np.float32).min, np.finfo(np.float32).max)
            if argument.kind == "constant" and array.ndim == 0 and array.dtype == np.float64:
                array = array.astype(np.float32)  # a number beside tensors, which decide about the type
            checked = check_values(kind, argument.name, array)
            named[value] = Argument(argument.kind, argument.name, checked)

    def resolve(value: Any) -> Any:
        if value in named:
            return graph.read(named[value])
        return values.get(value, Unknown())

    for operation in live:
        place = _place(operation)
        if place != _NOWHERE:
            graph.at(place)
        operands = [resolve(operand) for operand in operation.operands]
        if _fold(operation, operands, values, graph):
            continue
        name = _table_name(operation)
        shown = naming.operator(name, place)
        at(partial("operator {} at '{}'".format, shown, place))
        own_results = list(operation.results)
        row = TABLE.get(name)
        op = TorchOperator(name, shown, place, operands, (), naming.supported, operation.attributes)
        if row is None:
            op.refuse()
        what = f"the result of operator {shown} at '{place}'"
        shape = _result_shape(own_results[0].type, operands, what, row.whole)
        made = row.entry(graph, replace(op, shape=shape, dtype=_element(own_results[0].type)))
        made = made if isinstance(made, tuple) else (made,)
        made = tuple(
            replace(part, truth=True) if isinstance(part, Tensor) and _element(r.type) == "i1" else part
            for part, r in zip(made, own_results, strict=False)
        )
        if any(r in used for r in own_results[len(made) :]):
            op.refuse()
        values.update(zip(own_results, made, strict=False))

    final: Tensor | None = None
    for returned, (_, weight) in zip(outputs, results, strict=True):
        part = resolve(returned)
        if not isinstance(part, Tensor):
            raise ModelError(f"output '{output_name}' is not computed from the inputs")
        part = scaled(graph, graph.straight(part), weight)
        if mode.own_loss:
            part = graph.reshape(part, ())
        final = part if final is None else graph.apply("train.add", (), [final, part])
    assert final is not None
    if not final.on_input:
        raise ModelError(f"output '{output_name}' does not depend on any input")
    declared = [argument.name for argument in arguments if argument.kind != "input"]
    order = [*order, *(name for name in declared if name not in set(order))]
    text = graph.finish(final, order)
    order += [name for name in graph.parameters if name not in set(order)]
    symbols = [name for name in order if name in graph.parameters]
    constants = frozenset(name for name in symbols if graph.parameters[name].kind != "parameter")
    if len(constants) == len(symbols):
        raise ModelError(
            "the model has no parameter that its output depends on, so there is nothing to train"
        )
    parameters = {}
    for name in symbols:
        value = graph.parameters[name].value
        assert value is not None
        parameters[name] = value
    candidates = [name for name in symbols if name not in constants]
    declared_parameters = [argument.name for argument in arguments if argument.kind == "parameter"]
    aliases = {alias: name for alias, name in (aliases or {}).items() if name in parameters}
    unused = tuple(n for n in declared_parameters if n not in parameters and n not in aliases)
    inputs = [
        replace(spec, rows=graph.rows.get(spec.name), ignored=graph.ignored.get(spec.name)) for spec in inputs
    ]
    used_whole = graph.whole_inputs
    if loose := [
        s.name for s in inputs if s.dtype == "int32" and s.rows is None and s.name not in used_whole
    ]:
        raise ModelError(f"input '{loose[0]}' is of whole numbers, which only an embedding can take")
    if mode.dropout is not None and COUNTER not in text:
        notes = (*notes, "dropout is on, but the model has none")
    if mode.batch_statistics and not graph.running:
        notes = (*notes, "batch norm takes the statistics of the batch, but the model has none")
    model = ImportedModel(
        name=model_name,
        module_text=text,
        parameters=parameters,
        inputs=tuple(inputs),
        output=output,
        batch_size=_batch_size(inputs),
        layers=_layers(graph.steps, {name: parameters[name].ndim for name in candidates}),
        matrices=_matrices(graph.steps, candidates, parameters),
        constants=constants,
        frozen=frozenset(name for name in candidates if name in frozen),
        aliases=aliases,
        unused=unused,
        running=frozenset(graph.running),
        notes=(*notes, *dict.fromkeys(graph.notes), *_unused_note(unused)),
    )
    return Imported(model, graph.steps)


def _matrices(steps: Sequence[Step], candidates: Sequence[str], parameters: dict[str, Any]) -> frozenset[str]:
    """Parameters of rank 2 that a product of matrices multiplies with."""
    used = {step.product for step in steps if step.operator in ("train.linear", "linalg.matmul")}
    return frozenset(name for name in candidates if name in used and parameters[name].ndim == 2)


def _unused_note(unused: tuple[str, ...]) -> tuple[str, ...]:
    if not unused:
        return ()
    several = len(unused) > 1
    names = ", ".join(unused[:4]) + (f" and {len(unused) - 4} more" if len(unused) > 4 else "")
    verb, pronoun = ("are", "they are") if several else ("is", "it is")
    return (f"{names} {verb} not used by the forward; {pronoun} left out",)


_SHAPES = ("train.reshape", "train.broadcast", "train.permute", "train.concat", "train.slice")
"""Operators that may do nothing at one batch size and something at another."""


def check_batch_change(reference: Imported, changed: Imported, mode: Mode) -> None:
    """Refuse a graph of another batch size that computes something else, or that mixes samples."""
    if not mode.own_loss:  # which is one of all samples
        check_samples(changed.model, mode.batch_statistics)
    before, after = ([s for s in i.steps if s.operator not in _SHAPES] for i in (reference, changed))
    for one, other in zip_longest(before, after):
        if one is None or other is None or (one.operator, one.symbols) != (other.operator, other.symbols):
            raise BatchSizeError(f"it computes something else then, from '{(one or other).place}' on")


def _batch_size(inputs: Sequence[TensorSpec]) -> int | None:
    sizes = {spec.shape[0] if spec.shape else None for spec in inputs}
    return sizes.pop() if len(sizes) == 1 else None


def _live_operations(operations: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
    """Operations whose results the outputs need, in order."""
    needed = set(outputs)
    live = []
    for operation in reversed(operations[:-1]):
        if any(result in needed for result in operation.results):
            live.append(operation)
            row = TABLE.get(_table_name(operation))
            data = None if row is None else row.data
            needed.update(list(operation.operands)[:data])
    return live[::-1]


def _used_values(live: Sequence[Any]) -> set[Any]:
    used: set[Any] = set()
    for operation in live:
        row = TABLE.get(_table_name(operation))
        used.update(list(operation.operands)[: None if row is None else row.data])
    return used


def _table_name(operation: Any) -> str:
    """ "aten.relu" of torch.aten.relu, and the name that an unregistered torch.operator carries."""
    name: str = operation.operation.name
    if name == "torch.operator":
        name = operation.attributes["name"].value
    return name.removeprefix("torch.")


def _refuse_losses(live: Sequence[Any], naming: Naming) -> None:
    for operation in live:
        name = _table_name(operation)
        place = _place(operation)
        shown = naming.operator(name, place)
        if not LOSSES.isdisjoint([*shown.split("."), *name.split(".")]):
            raise ModelError(
                f"the model computes its own loss (operator {shown} at '{place}'); "
                "return the prediction instead: a loss is attached to it; or train by it (--loss model)"
            )


def _refuse_dynamic(live: Sequence[Any], returned: Any, naming: Naming) -> None:
    """If the output has a dynamic shape, name the operator that it comes from."""
    if "?" not in str(returned.type):
        return
    for operation in live:
        for result in operation.results:
            text = str(result.type)
            if text.startswith("!torch.vtensor") and "?" in text:
                place = _place(operation)
                shown = naming.operator(_table_name(operation), place)
                shape = text.partition("<")[2].rpartition(",")[0]
                raise ModelError(
                    f"the result of operator {shown} at '{place}' has a dynamic shape {shape}; "
                    "all sizes must be fixed"
                )


def _place(operation: Any) -> str:
    """The name that the operation's location carries."""
    locations = [operation.location]
    while locations:
        location = locations.pop(0)
        kind = type(location).__name__
        if kind == "NameLoc":
            return str(location.name_str)
        if kind == "FusedLoc":
            locations.extend(location.locations)
        elif kind == "CallSiteLoc":
            locations.append(location.callee)
    return _NOWHERE


_WHOLE = re.compile(r"!torch\.vtensor<\[([^\]]*)\],(si64|si32|i1)>")


def _input(name: str, type_: Any) -> TensorSpec:
    """An input of float32, as which truth values are kept, or of whole numbers, of 32 bits in the program."""
    match = _WHOLE.fullmatch(str(type_))
    if match is None:
        return TensorSpec(name, _float_shape(type_, f"input '{name}'"))
    if match.group(2) == "i1":
        return TensorSpec(name, _float_shape(str(type_).replace("i1", "f32"), f"input '{name}'"))
    floats = str(type_).replace(match.group(2), "f32")
    return TensorSpec(name, _float_shape(floats, f"input '{name}'"), "int32")


def _result_shape(type_: Any, operands: Sequence[Any], what: str, whole: bool) -> tuple[int, ...]:
    """The shape of a result: of a tensor of floats, or of whole numbers made of such; () of a list.

    whole: whether it may be of whole numbers, whatever it is made of.
    """
    if str(type_).startswith("!torch.list<"):
        return ()
    whole = whole or any(isinstance(operand, Indices | IsNegative) for operand in operands)
    match = _WHOLE.fullmatch(str(type_)) if whole else None
    if match is not None and "?" not in match.group(1):
        return tuple(int(size) for size in match.group(1).split(",") if size)
    return _float_shape(type_, what)


def _element(type_: Any) -> str:
    """The element type of a result as the torch dialect spells it; f32 of what is no tensor."""
    match = _TENSOR_TYPE.fullmatch(str(type_))
    return match.group(2) if match is not None else "f32"


def _float_shape(type_: Any, what: str) -> tuple[int, ...]:
    match = _TENSOR_TYPE.fullmatch(str(type_))
    if match is None:
        raise ModelError(f"{what} is not a tensor of known shape ({type_})")
    shape, dtype = match.groups()
    if dtype != "f32":
        names = {"si64": "int64", "si32": "int32", "f64": "float64", "f16": "float16", "i1": "bool"}
        raise ModelError(f"{what} is {names.get(dtype, dtype)}; only float32 is supported")
    if "?" in shape:
        raise ModelError(f"{what} has a dynamic shape [{shape}]; all sizes must be fixed")
    sizes = tuple(int(size) for size in shape.split(",") if size)
    check_size(what, sizes)
    return sizes


def _fold(operation: Any, operands: list[Any], values: dict[Any, Any], graph: GraphBuilder) -> bool:
    """Constants, lists of them, and tensors made of one number; False if the operation is none of these."""
    name = operation.operation.name
    if name in _CONSTANTS:
        value = operation.attributes["value"].value
        values[operation.results[0]] = bool(value) if name.endswith("bool") else value
    elif name == "torch.constant.none":
        values[operation.results[0]] = None
    elif name == "torch.prim.ListConstruct":
        values[operation.results[0]] = operands
    elif name in ("torch.prim.NumToTensor.Scalar", "torch.aten.ScalarImplicit", "torch.aten.FloatImplicit"):
        values[operation.results[0]] = operands[0]
    elif name == "torch.vtensor.literal":
        values[operation.results[0]] = _literal(operation, graph)
    elif name == "torch.prim.tolist" and isinstance(operands[0], Indices) and operands[0].array is not None:
        values[operation.results[0]] = operands[0].array.tolist()
    elif name == "torch.prim.ListUnpack" and isinstance(operands[0], list):
        values.update(zip(operation.results, operands[0], strict=True))
    elif name == "torch.aten.__getitem__.t" and isinstance(operands[0], list):
        values[operation.results[0]] = operands[0][operands[1]]
    else:
        return False
    return True


def _literal(operation: Any, graph: GraphBuilder) -> Any:
    attribute = operation.attributes["value"]
    match = _TENSOR_TYPE.fullmatch(str(operation.results[0].type))
    if match is not None and match.group(1) and match.group(2) in ("si64", "si32", "i1"):
        try:
            numbers = np.array([int(number) for number in attribute])
        except TypeError:  # kept outside of the text, where they cannot be read
            return Unknown()
        array = numbers.reshape([int(size) for size in match.group(1).split(",")])
        return Indices(array.shape, array=array)
    if not getattr(attribute, "is_splat", False):
        return Unknown()
    number = attribute.get_splat_value().value
    if match is None or not match.group(1):
        return number
    if match.group(2) != "f32":
        return Unknown()
    return graph.splat(number, tuple(int(size) for size in match.group(1).split(",")))


def _layers(steps: Sequence[Step], ranks: dict[str, int]) -> tuple[Layer, ...]:
    """Group trainable parameters into layers, in the order of their last use.

    Parameters that one place in the model reads are a layer. Any other joins the layer of its module
    (the name up to the last dot), the weight of a product only if that has none yet. Where
    names have no module, what is added to or multiplied with a matrix product joins its weight; the bias of
    a weight that has lost its name does so under any name.
    """
    layer_of: dict[str, int] = {}
    of_module: dict[str, int] = {}
    of_place: dict[str, int] = {}
    members: list[list[str]] = []
    places: list[str] = []
    last: list[int] = []

    weights = {name for step in steps if step.operator in PRODUCTS for name in step.symbols}
    weights = {name for name in weights if ranks.get(name, 0) > 1}

    for time, step in enumerate(steps):
        symbols = [name for name in step.symbols if name in ranks]
        for name in sorted(symbols, key=lambda s: s not in weights):
            if name in layer_of:
                continue
            module = name.rpartition(".")[0]
            together = [layer_of[s] for s in symbols if s in layer_of]
            layer = together[0] if together else of_module.get(module, of_place.get(step.place))
            if layer is None and step.product in layer_of and "." not in str(step.product):
                of_product = layer_of[step.product]
                is_bias = step.operator == "train.add" and ranks[name] == 1 and len(members[of_product]) == 1
                layer = of_product if not module or is_bias else None
            if layer is None or (name in weights and not weights.isdisjoint(members[layer])):
                layer = len(members)
                members.append([])
                places.append(step.place)
                last.append(time)
            layer_of[name] = layer
            members[layer].append(name)
            of_place[step.place] = layer
            if module:
                of_module[module] = layer
        for name in symbols:
            last[layer_of[name]] = time
    order = sorted(range(len(members)), key=lambda layer: last[layer])
    position = {name: i for i, name in enumerate(ranks)}
    layers = []
    for layer in order:
        names = tuple(sorted(members[layer], key=position.__getitem__))
        modules = {name.rpartition(".")[0] for name in names if "." in name}
        common = modules.pop() if len(modules) == 1 else ""
        layers.append(Layer(common or places[layer], names))
    return tuple(layers)
