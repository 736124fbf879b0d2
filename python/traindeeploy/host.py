"""The training graph on the host, through MLIR's JIT: the oracle for everything below it."""

import ctypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from mlir.execution_engine import ExecutionEngine
from mlir.ir import (
    Attribute,
    Context,
    DenseI64ArrayAttr,
    FlatSymbolRefAttr,
    FloatAttr,
    Location,
    MLIRError,
    Module,
    Operation,
    RankedTensorType,
    StringAttr,
    Type,
    TypeAttr,
)
from mlir.passmanager import PassManager
from mlir.runtime import get_ranked_memref_descriptor

from . import _td
from .errors import TrainDeeployError

_DTYPES = {"f16": np.float16, "f32": np.float32, "f64": np.float64, "i32": np.int32}


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and element type of a parameter or an input.

    layout: the order of axes in which a parameter is stored; the shape is the model's.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    layout: tuple[int, ...] | None = None

    @staticmethod
    def of(name: str, type_: Type, layout: tuple[int, ...] | None = None) -> "TensorSpec":
        tensor = RankedTensorType(type_)
        shape = tuple(tensor.shape)
        if layout:
            shape = tuple(shape[layout.index(axis)] for axis in range(len(layout)))
        return TensorSpec(name, shape, np.dtype(_DTYPES[str(tensor.element_type)]), layout)

    def check(self, array: np.ndarray) -> np.ndarray:
        """`array` as what the program reads; raises TrainDeeployError for another shape."""
        result = np.asarray(array, dtype=self.dtype)
        if result.shape != self.shape:
            raise TrainDeeployError(f"'{self.name}' has shape {result.shape}, not {self.shape}")
        return np.asarray(result.transpose(self.layout) if self.layout else result, order="C")

    def empty(self) -> np.ndarray:
        """Room for the array as the program writes it."""
        shape = [self.shape[axis] for axis in self.layout] if self.layout else self.shape
        return np.empty(shape, self.dtype)

    def restore(self, stored: np.ndarray) -> np.ndarray:
        """What the program wrote, in the model's order of axes."""
        if not self.layout:
            return stored
        return np.asarray(stored.transpose(np.argsort(self.layout)), order="C")


def make_context() -> Context:
    """An MLIR context with the compiler's dialects."""
    context = Context()
    context.enable_multithreading(False)
    _td.register_dialects(context)
    return context


def run_pipeline(module: Module, pipeline: str) -> None:
    """Runs the passes `pipeline` (text, without builtin.module) on `module` in place.

    Raises TrainDeeployError with the first diagnostic if a pass fails.
    """
    try:
        with module.context:
            PassManager.parse(f"builtin.module({pipeline})").run(module.operation)
    except MLIRError as error:
        messages = [f"{item.location}: {item.message}" for item in error.error_diagnostics]
        raise TrainDeeployError(messages[0] if messages else str(error)) from None


def graph_pipeline(loss: str, trainable: Sequence[str]) -> str:
    """The text of pipeline td-graph with its options, for a module with an optimizer (optimizers.attach).

    Raises TrainDeeployError for a name that the syntax of options cannot hold.
    """
    for name in trainable:
        if set(name) & set("{}'\""):
            raise TrainDeeployError(
                f"the name '{name}' holds a brace or quote; mark the parameter in the module"
            )
    names = ",".join(f"{{{name}}}" for name in trainable)
    return f"td-graph{{loss={loss} trainable={{{names}}}}}"


def to_float64(text: str) -> str:
    """A training graph's text with float64 in place of float32, for checking gradients."""
    if 'dense<"0x' in text:
        raise TrainDeeployError("constants in hexadecimal cannot be rewritten to float64")

    def widen(match: re.Match[str]) -> str:
        found = match.group(0)
        return found if found.startswith('"') else found.replace("f32", "f64")

    return re.sub(r'"(?:[^"\\]|\\.)*"|tensor<[0-9x]*f32>|: f32\b', widen, text)


def _symbol(operation: Operation, attribute: str) -> str:
    value: Attribute = operation.attributes[attribute]
    return StringAttr(value).value if attribute == "sym_name" else FlatSymbolRefAttr(value).value


class HostStep:
    """One training step (what td-graph makes), compiled for this machine.

    `parameters` are all parameters and optimizer states in the module's order,
    `inputs` the step's arguments in theirs, `updated` the names of what a step
    changes. Raises TrainDeeployError if the module cannot be lowered.
    """

    def __init__(self, module: Module | str):
        if isinstance(module, str):
            with make_context(), Location.unknown():
                module = Module.parse(module)
        module = Module.parse(str(module), module.context)  # the caller's stays as it is
        self.parameters: list[TensorSpec] = []
        self.state: dict[str, float] = {}
        self.inputs: list[TensorSpec] = []
        assigned: set[str] = set()
        step = None
        for view in module.body.operations:
            operation = view.operation
            if operation.name == "train.parameter":
                name = _symbol(operation, "sym_name")
                layout = None
                if "layout" in operation.attributes:
                    layout = tuple(DenseI64ArrayAttr(operation.attributes["layout"]))
                type_ = TypeAttr(operation.attributes["type"]).value
                self.parameters.append(TensorSpec.of(name, type_, layout))
                if "state" in operation.attributes:
                    first = operation.attributes.get("first")
                    self.state[name] = FloatAttr(first).value if first else 0.0
            elif operation.name == "func.func" and _symbol(operation, "sym_name") == "step":
                step = view
        if step is None:
            raise TrainDeeployError("the module has no function @step")
        block = step.regions[0].blocks[0]
        for index, argument in enumerate(block.arguments):
            attributes = step.arg_attrs[index] if "arg_attrs" in step.attributes else {}
            name = StringAttr(attributes["train.name"]).value if "train.name" in attributes else f"arg{index}"
            self.inputs.append(TensorSpec.of(name, argument.type))
        for view in block.operations:
            if view.operation.name == "train.assign":
                assigned.add(_symbol(view.operation, "parameter"))
        self.updated = [spec.name for spec in self.parameters if spec.name in assigned]
        self._loss = [TensorSpec.of("loss", type_) for type_ in step.type.results]
        run_pipeline(module, "td-host")
        # Optimising takes half a minute for CCT-2, whose step runs in 0.2 s without.
        self._engine = ExecutionEngine(module, opt_level=0)

    def initial_state(self) -> dict[str, np.ndarray]:
        """Optimizer state before the first step."""
        return {
            spec.name: np.full(spec.shape, self.state[spec.name], spec.dtype)
            for spec in self.parameters
            if spec.name in self.state
        }

    def __call__(
        self, params: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Runs one step on `params` (optimizer state included) and `inputs` ("lr" included), by name.

        Returns the loss and all parameters after the step; the arguments stay as they are.
        """
        arrays: list[np.ndarray] = []
        for specs, given, what in ((self.inputs, inputs, "input"), (self.parameters, params, "parameter")):
            for spec in specs:
                if spec.name not in given:
                    raise TrainDeeployError(f"the {what} '{spec.name}' is missing")
                # A copy: what the step overwrites is not the caller's.
                arrays.append(np.array(spec.check(given[spec.name])))
        by_name = {spec.name: spec for spec in self.parameters}
        results = [spec.empty() for spec in self._loss]
        results += [by_name[name].empty() for name in self.updated]
        pointers = [
            ctypes.pointer(ctypes.pointer(get_ranked_memref_descriptor(a))) for a in [*arrays, *results]
        ]
        self._engine.invoke("step", *pointers)
        updated = {spec.name: np.array(params[spec.name], spec.dtype) for spec in self.parameters}
        for name, stored in zip(self.updated, results[len(self._loss) :], strict=True):
            updated[name] = by_name[name].restore(stored)
        return float(results[0]), updated


def run_on_host(
    module: Module | str,
    params: Mapping[str, np.ndarray],
    samples: Sequence[Mapping[str, np.ndarray]],
    lr: float,
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Trains on this machine: one step for each of `samples`.

    `module` is a decomposed training step (td-graph's result), `params` its
    parameters by name (optimizer state that is not given starts at its first value), a
    sample the step's inputs and target by name. Returns all parameters after the
    last step, state included, and the losses.
    """
    step = HostStep(module)
    values = {**step.initial_state(), **params}
    losses = []
    for sample in samples:
        loss, values = step(values, {**sample, "lr": np.asarray(lr)})
        losses.append(loss)
    return values, losses
