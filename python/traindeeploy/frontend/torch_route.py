"""PyTorch to the training graph, by `torch.export` and torch-mlir's FX importer.

The exported program is made functional without decomposing anything, so composite operators stay
whole. Its parameters, buffers and constants are arguments of the imported function: their values
stay outside of the IR and the graph signature gives them the model's own names.
"""

from __future__ import annotations

import copy
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree
from torch_mlir import ir as torch_ir
from torch_mlir.dialects import torch as torch_dialect
from torch_mlir.extras.fx_importer import FxImporter, GraphNodeImporter

from traindeeploy.interrupts import interrupts_held

from .batch import rebatched
from .importer import Imported, Naming, check_batch_change, lower
from .model import (
    EVALUATION,
    Argument,
    BatchSizeError,
    ImportedModel,
    Mode,
    ModelError,
    UnsupportedOperator,
    check_batch_size,
)
from .operators import not_supported
from .recurrence_shapes import recurrences_by_shape
from .table import TABLE, supported_operators

# Modules that compute something else in training mode.
_MODE_DEPENDENT = (
    torch.nn.modules.dropout._DropoutNd,
    torch.nn.modules.batchnorm._NormBase,
    torch.nn.MultiheadAttention,
    torch.nn.RReLU,
)


def import_torch(
    model: torch.nn.Module | ExportedProgram,
    example_inputs: Any = None,
    batch_size: int | None = None,
    name: str | None = None,
    mode: Mode = EVALUATION,
) -> ImportedModel:
    """Import a module, called with `example_inputs`, or an exported program.

    example_inputs: a tensor, a tuple or list of tensors (positional), or a dict of them (by name).
    batch_size: resize the example inputs along axis 0 (samples are repeated) and export with these.
    Errors: ModelError, UnsupportedOperator, BatchSizeError.
    """
    if isinstance(model, ExportedProgram):
        imported = _import_program(model, {}, name or "model", [], frozenset(), (), mode).model
        return imported if batch_size is None else rebatched(imported, batch_size)
    if not isinstance(model, torch.nn.Module):
        raise ModelError(f"expected a torch.nn.Module, got {type(model).__name__}")
    args, kwargs = _arguments(example_inputs)
    name = name or type(model).__name__
    sizes = {tensor.shape[0] if tensor.ndim else None for tensor in (*args, *kwargs.values())}
    old = sizes.pop() if len(sizes) == 1 else None
    if batch_size is None or batch_size == old:
        return _export(model, args, kwargs, name, mode).model
    if old is None:
        raise BatchSizeError(
            "the example inputs have no common size of axis 0, so the batch size cannot be changed"
        )
    bytes_of_all = sum(tensor.element_size() * tensor.numel() for tensor in (*args, *kwargs.values()))
    check_batch_size(batch_size, bytes_of_all // max(old, 1))
    reference = _export(model, args, kwargs, name, mode)
    rows = torch.arange(batch_size) % old
    resized = [tensor[rows] for tensor in args]
    try:
        changed = _export(model, resized, {key: tensor[rows] for key, tensor in kwargs.items()}, name, mode)
        check_batch_change(reference, changed, mode)
    except ModelError as error:
        raise BatchSizeError(
            f"the model cannot be changed from batch size {old} to {batch_size}: {error}"
        ) from error
    return changed.model


def _arguments(example_inputs: Any) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    kwargs: dict[str, Any] = {}
    args: Sequence[Any] = ()
    if isinstance(example_inputs, Mapping):
        kwargs = dict(example_inputs)
    elif isinstance(example_inputs, tuple | list):
        args = example_inputs
    elif example_inputs is not None:
        args = (example_inputs,)
    for value in (*args, *kwargs.values()):
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"example inputs must be tensors (a tensor, a tuple or a dict), got {type(value).__name__}"
            )
    if not args and not kwargs:
        raise ModelError("a module needs example inputs, a tensor or a tuple of tensors")
    return list(args), kwargs


def _export(
    model: torch.nn.Module,
    args: Sequence[torch.Tensor],
    kwargs: Mapping[str, torch.Tensor],
    name: str,
    mode: Mode,
) -> Imported:
    parameters = dict(model.named_parameters())
    if not parameters:
        raise ModelError(f"the model {type(model).__name__} has no parameters, so there is nothing to train")
    for key, parameter in parameters.items():
        if isinstance(parameter, torch.nn.parameter.UninitializedParameter):
            raise ModelError(f"parameter '{key}' has no shape yet; call the lazy module once before")
        if parameter.dtype != torch.float32:
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise ModelError(
                f"parameter '{key}' is {dtype}; only float32 is supported (model.float() converts)"
            )
        if parameter.device.type != "cpu" or parameter.layout != torch.strided:
            raise ModelError(f"parameter '{key}' is not a dense tensor on the CPU")
    aliases = _aliases(model, parameters)
    frozen = frozenset(key for key, parameter in parameters.items() if not parameter.requires_grad)
    notes = []
    active = [
        key or type(m).__name__
        for key, m in model.named_modules()
        if m.training and _depends_on_mode(m) and not _follows(m, mode)
    ]
    if active:
        listed = ", ".join(active[:4]) + (f" and {len(active) - 4} more" if len(active) > 4 else "")
        notes.append(f"the model, in training mode, is imported in evaluation mode; that changes {listed}")
    modes = [(m, m.training) for m in model.modules()]
    # What the exporter logs about a model it cannot trace is in the exception as well.
    logging_was = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        # Batch norm always: the table does what the mode says, without changes of buffers.
        model.train(mode.dropout is not None)
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._NormBase):
                module.eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _refusing_custom_gradients(), _returning_tensors(model), recurrences_by_shape():
                program = torch.export.export(model, tuple(args), dict(kwargs), strict=False)
    except ModelError:
        raise
    except Exception as error:  # whatever the model's forward raises
        raise ModelError(f"torch.export fails on {type(model).__name__}: {_first_line(error)}") from error
    finally:
        logging.disable(logging_was)
        for module, was_training in modes:
            module.training = was_training
    names = _input_names(model, args, kwargs)
    return _import_program(program, aliases, name, names, frozen, notes, mode)


@contextmanager
def _refusing_custom_gradients() -> Iterator[None]:
    """The exporter follows the forward of an autograd.Function and forgets its backward: refuse it."""

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        if cls.__module__.partition(".")[0] == "torch":
            return original.__func__(cls, *args, **kwargs)
        raise ModelError(
            f"the forward uses the torch.autograd.Function '{cls.__name__}', "
            "whose own backward cannot be imported"
        )

    base = torch.autograd.Function
    original = base.__dict__["apply"]
    try:
        base.apply = classmethod(apply)
        yield
    finally:
        base.apply = original


@contextmanager
def _returning_tensors(model: torch.nn.Module) -> Iterator[None]:
    """What the forward returns beside tensors is left out: the exporter refuses caches and the like."""

    def kept(value: Any) -> bool:
        known = (torch.Tensor, int, float, str)
        return all(leaf is None or isinstance(leaf, known) for leaf in pytree.tree_leaves(value))

    def tensors(module: torch.nn.Module, inputs: Any, returned: Any) -> Any:
        if kept(returned):
            return returned
        if isinstance(returned, Mapping):
            return {key: value for key, value in returned.items() if kept(value)}
        if isinstance(returned, tuple | list):
            return tuple(value if kept(value) else None for value in returned)
        return returned

    hook = model.register_forward_hook(tensors)
    try:
        yield
    finally:
        hook.remove()


def _detach_under_no_grad(program: ExportedProgram) -> ExportedProgram:
    """The program with a detach behind each part under torch.no_grad().

    Such parts lose that mark when the program is made functional.
    """

    def stopped(program: ExportedProgram) -> list[tuple[Any, Any]]:
        return [
            (module.graph, node)
            for module in program.graph_module.modules()
            if isinstance(module, torch.fx.GraphModule)
            for node in module.graph.nodes
            if str(node.target) == "wrap_with_set_grad_enabled" and node.args[0] is False
        ]

    if not stopped(program):
        return program
    program = copy.deepcopy(program)
    for graph, node in stopped(program):
        for part in list(node.users):  # its results, one by one
            with graph.inserting_after(part):
                detached = graph.call_function(torch.ops.aten.detach.default, (part,))
            detached.meta = {key: node.meta[key] for key in ("nn_module_stack",) if key in node.meta}
            detached.meta["val"] = part.meta["val"]
            part.replace_all_uses_with(detached, delete_user_cb=lambda user, own=detached: user is not own)
    return program


def _depends_on_mode(module: torch.nn.Module) -> bool:
    if isinstance(module, torch.nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, torch.nn.MultiheadAttention):
        return module.dropout > 0
    return isinstance(module, _MODE_DEPENDENT)


def _follows(module: torch.nn.Module, mode: Mode) -> bool:
    """Whether a module does what its training mode says."""
    if isinstance(module, torch.nn.modules.batchnorm._NormBase):
        return mode.batch_statistics
    return mode.dropout is not None


def _aliases(model: torch.nn.Module, parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, str]:
    """Further names of tied parameters. Errors: two parameters that share memory without being one."""
    first = {id(parameter): key for key, parameter in parameters.items()}
    memory: dict[int, str] = {}
    for key, parameter in parameters.items():
        if parameter.numel():
            other = memory.setdefault(parameter.untyped_storage().data_ptr(), key)
            if other != key:
                raise ModelError(
                    f"parameters '{other}' and '{key}' share memory but are two nn.Parameter objects; "
                    "tie them by assigning the same one, or clone one"
                )
    every = model.named_parameters(remove_duplicate=False)
    return {key: first[id(parameter)] for key, parameter in every if first[id(parameter)] != key}


def _input_names(
    model: torch.nn.Module, args: Sequence[torch.Tensor], kwargs: Mapping[str, torch.Tensor]
) -> list[str]:
    """The forward's argument names, as the caller knows them."""
    names = []
    variadic = None
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind == parameter.VAR_POSITIONAL:
            variadic = parameter.name
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    while variadic and len(names) < len(args):
        names.append(f"{variadic}_{len(names)}")
    return [*names[: len(args)], *kwargs]


@interrupts_held()
def _import_program(
    program: ExportedProgram,
    aliases: Mapping[str, str],
    name: str,
    input_names: Sequence[str],
    frozen: frozenset[str],
    notes: Sequence[str],
    mode: Mode,
) -> Imported:
    program = _detach_under_no_grad(program)

    def imported(parts: Sequence[Any]) -> Imported:
        return _import_functional(program, parts, aliases, name, input_names, frozen, notes, mode)

    unknown = _unknown_operators(program)
    try:
        return imported([])
    except UnsupportedOperator as error:
        parts = [node.target for node in unknown]
        if not parts:
            raise
        # What PyTorch can express by other operators may be supported so; if not, the first error stands.
        try:
            return imported(parts)
        except ModelError as other:
            # Or the reason is an operator of the model that would be supported in another form.
            of_the_model = {str(node.target).removesuffix(".default") for node in program.graph.nodes}
            of_the_model -= {str(part).removesuffix(".default") for part in parts}
            if any(str(other).startswith(f"operator {name} at ") for name in of_the_model):
                raise
            raise error from None


def _unknown_operators(program: ExportedProgram) -> list[Any]:
    """Nodes whose operator has no entry in the table."""
    return [
        node
        for node in program.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
        and str(node.target).removesuffix(".default") not in TABLE
    ]


def _import_functional(
    program: ExportedProgram,
    parts: Sequence[Any],
    aliases: Mapping[str, str],
    name: str,
    input_names: Sequence[str],
    frozen: frozenset[str],
    notes: Sequence[str],
    mode: Mode,
) -> Imported:
    """Import a program whose operators `parts` PyTorch decomposes, and no others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            known = torch.export.default_decompositions() if parts else {}
            with recurrences_by_shape():
                program = program.run_decompositions({part: known[part] for part in parts if part in known})
        except Exception as error:  # an exporter's failure on a model that it traced
            raise ModelError(
                f"the exported program cannot be made functional: {_first_line(error)}"
            ) from error
    signature = program.graph_signature
    outputs = [
        (i, spec) for i, spec in enumerate(signature.output_specs) if spec.kind == OutputKind.USER_OUTPUT
    ]
    for spec in signature.output_specs:
        if spec.kind == OutputKind.BUFFER_MUTATION:
            raise ModelError(
                f"the forward changes the buffer '{spec.target}', as batch norm does in training mode; "
                "export the model in evaluation mode"
            )
    if not outputs:
        raise ModelError("the model does not return a tensor")
    names = _output_names(program, len(outputs))
    tensors = [i for i, (_, spec) in enumerate(outputs) if type(spec.arg).__name__ == "TensorArgument"]
    only = not mode.outputs and len(tensors) == 1
    chosen = [(tensors[0], 1.0)] if only else mode.chosen(names)
    for index, _ in chosen:
        if type(outputs[index][1].arg).__name__ != "TensorArgument":
            if not mode.outputs:
                raise ModelError("the model does not return a tensor")
            raise ModelError(f"output '{names[index]}' of the model is not a tensor")
    name_of_output = names[chosen[0][0]] if mode.outputs else "output"
    results = [(outputs[index][0], weight) for index, weight in chosen]
    _index_what_is_strided(program.graph)
    arguments = [*_bind(program, aliases, input_names), *_fold_constants(program)]
    context = torch_ir.Context()
    torch_dialect.register_dialect(context)
    importer = FxImporter(context=context, graph_node_importer_cls=_Importer)
    try:
        function = importer.import_stateless_graph(program.graph)
    except UnsupportedOperator:
        raise
    except Exception as error:  # NotImplementedError, TypeError, AssertionError of the importer
        raise ModelError(f"torch-mlir cannot import the exported program: {_first_line(error)}") from error
    naming = Naming(supported=supported_operators())
    order = [key for key, _ in program.named_parameters() if key not in aliases]
    imported = lower(
        function, arguments, name_of_output, name, naming=naming, results=results, order=order,
        aliases=dict(aliases), frozen=frozen, notes=notes, mode=mode,
    )  # fmt: skip
    return imported


def _output_names(program: ExportedProgram, count: int) -> list[str]:
    """Names of what the forward returns: keys of dictionaries and the like, numbers of others."""
    tree = pytree.tree_unflatten(list(range(count)), program.call_spec.out_spec)
    paths, _ = pytree.tree_flatten_with_path(tree)
    return [
        ".".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path) or "output" for path, _ in paths
    ]


def _index_what_is_strided(graph: Any) -> None:
    """Make x.as_strided(...) the elements of x at the same strides of their numbers, which are constant."""
    aten = torch.ops.aten
    for node in [n for n in graph.nodes if n.target is aten.as_strided.default]:
        x = node.args[0]
        value = x.meta["val"]
        stored = value.untyped_storage().nbytes()
        if not value.is_contiguous() or stored != value.numel() * value.element_size():
            raise UnsupportedOperator(
                f"operator aten.as_strided at '{_node_place(node)}' walks a view of another tensor; only "
                "that of a tensor that is contiguous and no part of one is supported"
            )
        with graph.inserting_before(node):
            flat = graph.call_function(aten.reshape.default, (x, [-1]))
            numbers = graph.call_function(aten.arange.default, (value.numel(),))
            places = graph.call_function(aten.as_strided.default, (numbers, *node.args[1:]))
            found = graph.call_function(aten.index.Tensor, (flat, [places]))
        origin = {key: item for key, item in node.meta.items() if key != "tensor_meta"}
        flat.meta, found.meta = {**origin, "val": value.reshape(-1)}, dict(node.meta)
        whole = node.meta["val"].new_empty(node.meta["val"].shape, dtype=torch.int64)
        numbers.meta = places.meta = {**origin, "val": whole}
        node.replace_all_uses_with(found)
        graph.erase_node(node)


def _fold_constants(program: ExportedProgram) -> list[Argument]:
    """Compute what depends on buffers and constants only (positions, masks), and make it further arguments.

    Buffers that operators read directly stay what they are.
    """
    inputs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    graph = program.graph
    values: dict[Any, Any] = {}
    folded: set[Any] = set()
    last = None
    for node in graph.nodes:
        if node.op == "placeholder":
            last = node
            target = inputs[node.name].target
            if target is not None and inputs[node.name].kind != InputKind.PARAMETER:
                state = program.state_dict if target in program.state_dict else program.constants
                if isinstance(state.get(target), torch.Tensor):
                    values[node] = state[target].detach()
            continue
        tags = getattr(node.target, "tags", ())
        if node.op != "call_function" or torch.Tag.nondeterministic_seeded in tags:
            continue
        if all(argument in values for argument in node.all_input_nodes):
            try:
                with torch.no_grad():
                    args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), values.__getitem__)
                    values[node] = node.target(*args, **kwargs)
            except Exception:  # an operator that needs what is not here: the table has a word for it
                continue
            folded.add(node)
    arguments: list[Argument] = []
    for node in [n for n in graph.nodes if n in folded]:
        value = values[node]
        if isinstance(value, torch.Tensor) and any(user not in folded for user in node.users):
            with graph.inserting_before(last.next if last is not None else next(iter(graph.nodes))):
                name = f"constant.{_node_place(node)}.{len(arguments)}"
                made = graph.placeholder(f"folded_{len(arguments)}")
            made.meta = {"val": node.meta["val"]}
            last = made
            arguments.append(Argument("constant", name, _array(value).copy()))
            node.replace_all_uses_with(made)
    for node in reversed(list(graph.nodes)):
        if node in folded and not node.users:
            graph.erase_node(node)
    return arguments


def _bind(program: ExportedProgram, aliases: Mapping[str, str], input_names: Sequence[str]) -> list[Argument]:
    """What each argument of the graph is, in order."""
    arguments = []
    user_inputs = [spec for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    own_names = iter(
        input_names if len(input_names) == len(user_inputs) else [s.arg.name for s in user_inputs]
    )
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            arguments.append(Argument("input", next(own_names)))
            continue
        target = spec.target
        assert target is not None
        if spec.kind == InputKind.PARAMETER:
            symbol = aliases.get(target, target)
            arguments.append(Argument("parameter", symbol, _array(program.state_dict[target])))
        else:
            values = program.state_dict if target in program.state_dict else program.constants
            arguments.append(Argument("constant", target, _array(values.get(target))))
    return arguments


def _array(tensor: Any) -> np.ndarray:
    if not isinstance(tensor, torch.Tensor):
        return np.zeros(0, np.float32)
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.to(torch.float64)
    return tensor.numpy()


class _Importer(GraphNodeImporter):
    """Gives operations the place in the model as their location, and names what cannot be imported."""

    def _import_torch_op_overload(self, loc: Any, node: Any, concrete_target: Any = None) -> None:
        place = _node_place(node)
        location = torch_ir.Location.name(place, context=self._c)
        try:
            super()._import_torch_op_overload(location, node, concrete_target)
        except Exception as error:  # many kinds, all about this operator
            raise _unsupported(str(node.target).removesuffix(".default"), place) from error

    def _import_hop(self, loc: Any, node: Any, hop: Any) -> None:
        raise _unsupported(hop.name(), _node_place(node))


def _unsupported(operator: str, place: str) -> UnsupportedOperator:
    return UnsupportedOperator(not_supported(operator, place, supported_operators()))


def _node_place(node: Any) -> str:
    """ "encoder.0 (Linear)"; what a module of one's own computes itself also has the node's name."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return str(node.name)
    path, class_name = list(stack.values())[-1]
    class_name = (
        class_name if isinstance(class_name, str) else f"{class_name.__module__}.{class_name.__qualname__}"
    )
    module = class_name.rpartition(".")[2]
    # A call of a shared module is marked by a suffix "@1".
    path = path.partition("@")[0]
    if class_name.startswith("torch.nn.modules."):
        return f"{path} ({module})" if path else module
    return f"{path} ({module}): {node.name}" if path else f"{module}: {node.name}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
