"""Writes a training graph (level 2 of docs/architecture.md) op by op, with the `mlir` package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
from mlir import ir

from ..data import COUNTER
from .model import EVALUATION, Argument, Mode, TensorSpec

PRODUCTS = ("train.linear", "linalg.matmul", "train.matmul", "train.conv2d", "train.conv2d_input_vjp")
"""Operators that multiply with a weight."""
_STOP_GRADIENTS = ("train.compare", "train.round", "train.detach", "train.from_integers")
_KEEP_ELEMENTS = ("train.reshape", "train.permute", "train.slice", "train.broadcast")
"""Operators whose result has elements of their operand."""
_KEEP_PRODUCT = ("train.add", "train.sub", "train.mul", "train.reshape", "train.permute")


@dataclass(frozen=True, eq=False)
class Tensor:
    """A float32 value of the graph under construction.

    transposed: this tensor is the transpose of `value`, which has rank 2. No op exists for it: a
                matrix product reads a transposed operand through its indexing map.
    symbol:     the parameter whose value this is, directly or through reshapes and transposes.
    gradient:   a parameter that a gradient would flow to through this tensor, or None.
    on_input:   whether the value depends on an input of the model.
    product:    the weight of the matrix product that this is, or was before something was added to
                or multiplied with it that depends on no input.
    number:     what every element is, of a constant that is written in place.
    truth:      whether it holds truth values, as 0 and 1.
    source:     the input of whole numbers that its elements are of.
    """

    value: ir.Value
    shape: tuple[int, ...]
    transposed: bool = False
    symbol: str | None = None
    gradient: str | None = None
    on_input: bool = False
    product: str | None = None
    number: float | None = None
    truth: bool = False
    source: str = ""


@dataclass(frozen=True, eq=False)
class Indices:
    """A tensor of whole numbers or truth values: an input of the model, or known.

    value, source: the input and its name.
    array:         the numbers, if they are known.
    """

    shape: tuple[int, ...]
    value: ir.Value | None = None
    source: str = ""
    array: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Nothing:
    """A tensor without elements, which a concatenation leaves out."""


@dataclass(frozen=True, eq=False)
class Step:
    """One op of the graph, as much as batch checks and the grouping of layers need of it."""

    operator: str
    place: str
    shape: tuple[int, ...]
    on_input: bool
    symbols: tuple[str, ...]
    product: str | None = None


class GraphBuilder:
    """A module with one function `@forward` that ops are appended to."""

    def __init__(
        self,
        name: str,
        inputs: Sequence[TensorSpec],
        output: TensorSpec,
        mode: Mode = EVALUATION,
        names: Iterable[str] = (),
    ):
        """names: those of parameters and constants of the model, which no other constant gets."""
        from .. import _td

        self.mode = mode
        self.names = frozenset(names)
        self.rows: dict[str, int] = {}
        self.ignored: dict[str, int] = {}
        self.running: set[str] = set()
        self.whole_inputs: set[str] = set()
        self.notes: list[str] = []
        self._dropouts = 0
        self._counter: ir.Value | None = None

        self.context = ir.Context()
        _td.register_dialects(self.context)
        self.steps: list[Step] = []
        self.parameters: dict[str, Argument] = {}
        self._reads: dict[str, Tensor] = {}
        self._step_of: dict[ir.Value, Step] = {}
        self._place = ""
        with self.context, ir.Location.unknown():
            self.module = ir.Module.create()
            self.module.operation.attributes["train.model"] = ir.StringAttr.get(name)
            self._f32 = ir.F32Type.get()
            self._i32 = ir.IntegerType.get_signless(32)
            arguments = [
                ir.RankedTensorType.get(list(spec.shape), self._i32 if spec.dtype == "int32" else self._f32)
                for spec in inputs
            ]
            function_type = ir.FunctionType.get(arguments, [self._type(output.shape)])
            attributes = {
                "sym_name": ir.StringAttr.get("forward"),
                "function_type": ir.TypeAttr.get(function_type),
            }
            attributes["arg_attrs"] = ir.ArrayAttr.get(
                [ir.DictAttr.get({"train.name": ir.StringAttr.get(spec.name)}) for spec in inputs]
            )
            self._function = ir.Operation.create(
                "func.func", attributes=attributes, regions=1, ip=ir.InsertionPoint(self.module.body)
            )
            locations = [ir.Location.name(spec.name) for spec in inputs]
            self._block = ir.Block.create_at_start(self._function.regions[0], arguments, arg_locs=locations)
        self.inputs = [
            Tensor(value, spec.shape, on_input=True)
            if spec.dtype == "float32"
            else Indices(spec.shape, value, spec.name)
            for value, spec in zip(self._block.arguments, inputs, strict=True)
        ]

    def at(self, place: str) -> None:
        """Ops appended from now on come from this place in the model."""
        self._place = place

    def read(self, argument: Argument) -> Tensor:
        """The value of a parameter or constant; a constant of one repeated value is written in place."""
        assert argument.value is not None
        known = self._reads.get(argument.name)
        if known is not None:
            return known
        values = argument.value
        # What batch norm may update has a name of its own, whatever its values are.
        may_change = (self.mode.batch_statistics or self.mode.inference) and values.ndim == 1
        if argument.kind == "constant" and not may_change and (values == values.flat[0]).all():
            tensor = self.splat(float(values.flat[0]), values.shape)
        else:
            self.parameters[argument.name] = argument
            symbol = {"parameter": ir.FlatSymbolRefAttr.get(argument.name, self.context)}
            value = self._operation("train.read", values.shape, [], symbol)
            gradient = argument.name if argument.kind == "parameter" else None
            tensor = Tensor(value, values.shape, symbol=argument.name, gradient=gradient)
        self._reads[argument.name] = tensor
        return tensor

    def dropout(self, x: Tensor, probability: float) -> Tensor:
        """`x` under dropout, if the mode has it; each place has a stream of random bits of its own."""
        if self.mode.dropout is None or probability == 0:
            return x
        if self._counter is None:
            with self.context, ir.Location.name(COUNTER):
                type_ = ir.RankedTensorType.get([], self._i32)
                self._counter = self._block.add_argument(type_, ir.Location.name(COUNTER))
                operation = self._function
                old = ir.FunctionType(ir.TypeAttr(operation.attributes["function_type"]).value)
                new = ir.FunctionType.get([*old.inputs, type_], old.results)
                operation.attributes["function_type"] = ir.TypeAttr.get(new)
                named = ir.DictAttr.get({"train.name": ir.StringAttr.get(COUNTER)})
                operation.attributes["arg_attrs"] = ir.ArrayAttr.get(
                    [*ir.ArrayAttr(operation.attributes["arg_attrs"]), named]
                )
        seed = (self._dropouts << 32) | self.mode.dropout
        self._dropouts += 1
        counter = Tensor(self._counter, ())
        attributes = {"seed": seed, "probability": float(probability)}
        return self.apply("train.dropout", x.shape, [x, counter], attributes)

    def embed(self, indices: Indices | Tensor, table: Tensor, padding: int = -1) -> Tensor:
        """Rows of the matrix `table`, by an input of the model, elements of one, or what is known."""
        rows = table.shape[0]
        if isinstance(indices, Tensor):
            looked_up = indices
        elif indices.value is None:
            assert indices.array is not None
            looked_up = self.constant(indices.array.astype(np.float32))
        else:
            own = tuple(ir.RankedTensorType(indices.value.type).shape)
            looked_up = Tensor(indices.value, own, on_input=True, source=indices.source)
        if looked_up.source:
            self.rows[looked_up.source] = min(rows, self.rows.get(looked_up.source, rows))
        attributes = {"padding": padding} if padding >= 0 else {}
        shape = (*looked_up.shape, table.shape[1])
        found = self.apply("train.embedding", shape, [looked_up, table], attributes)
        return self.reshape(found, (*indices.shape, table.shape[1]))

    def whole(self, indices: Indices) -> Tensor:
        """Whole numbers, an input of the model or known, as floats."""
        if indices.array is not None:
            return self.constant(indices.array.astype(np.float32))
        assert indices.value is not None
        own = tuple(ir.RankedTensorType(indices.value.type).shape)
        made = self.apply("train.from_integers", own, [Tensor(indices.value, own, on_input=True)])
        self.whole_inputs.add(indices.source)
        return self.reshape(replace(made, source=indices.source), indices.shape)

    def compared(self, predicate: str, lhs: Tensor, rhs: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Truth values of a comparison: eq, ne, lt, le, gt or ge."""
        made = self.apply("train.compare", shape, [lhs, rhs], {"predicate": self._text(predicate)})
        return replace(made, truth=True)

    def selected(self, condition: Tensor, yes: Tensor, no: Tensor, shape: tuple[int, ...]) -> Tensor:
        """`yes` where the condition is not 0, else `no`."""
        return self.apply("train.select", shape, [condition, yes, no])

    def rounded(self, x: Tensor, mode: str) -> Tensor:
        """A whole number near each: floor, ceil, trunc, even, sign."""
        return self.apply("train.round", x.shape, [x], {"mode": self._text(mode)})

    def _text(self, text: str) -> ir.Attribute:
        return ir.StringAttr.get(text, self.context)

    def assign(self, name: str, value: Tensor) -> None:
        """Give a constant of the model its next value."""
        self.running.add(name)
        with self.context, ir.Location.name(self._place):
            ir.Operation.create(
                "train.assign",
                operands=[value.value],
                attributes={"parameter": ir.FlatSymbolRefAttr.get(name)},
                ip=ir.InsertionPoint(self._block),
            )

    def constant(self, values: np.ndarray) -> Tensor:
        """A constant that the model does not have itself, kept beside its parameters."""
        taken = {*self.names, *self._reads}
        name = next(name for name in map("constant.{}".format, count()) if name not in taken)
        return self.read(Argument("constant", name, values))

    def splat(self, number: float, shape: tuple[int, ...] = ()) -> Tensor:
        """A constant tensor of one repeated value, in float32; infinity becomes the largest number."""
        limit = float(np.finfo(np.float32).max)
        number = min(max(number, -limit), limit)
        with self.context, ir.Location.unknown():
            element = ir.FloatAttr.get(self._f32, float(np.float32(number)))
            attribute = ir.DenseElementsAttr.get_splat(self._type(shape), element)
        value = self._operation("arith.constant", shape, [], {"value": attribute})
        return Tensor(value, shape, number=float(np.float32(number)))

    def apply(
        self,
        name: str,
        shape: tuple[int, ...],
        operands: Sequence[Tensor],
        attributes: dict[str, Any] | None = None,
        body: Callable[[ir.Block], None] | None = None,
        second_result: str | None = None,
        whole_batch: bool = False,
    ) -> Tensor:
        """Append an op of the `train` dialect (or `linalg`, with a body) on untransposed operands.

        attributes: MLIR attributes, or numbers, flags and sequences of whole numbers.
        second_result: element type of a result of the same shape that nothing here uses.
        whole_batch: the result is a statistic of the batch, whose shape has nothing to do with its size.
        """
        assert not any(operand.transposed for operand in operands)
        made = {
            key: self._attribute(value) for key, value in (attributes or {}).items() if value is not False
        }
        value = self._operation(
            name, shape, [operand.value for operand in operands], made, body, second_result
        )
        gradient = next((operand.gradient for operand in operands if operand.gradient), None)
        on_input = any(operand.on_input for operand in operands) and not whole_batch
        symbols = tuple(dict.fromkeys(operand.symbol for operand in operands if operand.symbol))
        product = None
        if name in PRODUCTS:
            product = next((o.symbol for o in operands if o.symbol and len(o.shape) >= 2), None)
        elif name in _KEEP_PRODUCT:
            varying = [operand for operand in operands if operand.on_input]
            product = varying[0].product if len(varying) == 1 else None
        step = Step(name, self._place, shape, on_input, symbols, product)
        self.steps.append(step)
        self._step_of[value] = step
        if name in _STOP_GRADIENTS:
            gradient = None
        kept = operands[0] if name in _KEEP_ELEMENTS else None
        return Tensor(
            value,
            shape,
            gradient=gradient,
            on_input=on_input,
            product=product,
            truth=kept is not None and kept.truth,
            source=kept.source if kept is not None else "",
        )

    def reshape(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The same elements in row-major order; still the parameter if it was one."""
        if tensor.shape == shape:
            # No op, but at another batch size there would be one: `check_batch_change` compares steps.
            self.steps.append(Step("train.reshape", self._place, shape, tensor.on_input, ()))
            return tensor
        result = self.apply("train.reshape", shape, [replace(tensor, symbol=None)])
        return replace(result, symbol=tensor.symbol)

    def permute(self, tensor: Tensor, order: Sequence[int]) -> Tensor:
        """The dimensions in another order, as numpy.transpose; still the parameter if it was one."""
        shape = tuple(tensor.shape[axis] for axis in order)
        if list(order) == sorted(order):
            return tensor
        result = self.apply(
            "train.permute", shape, [replace(tensor, symbol=None)], {"permutation": list(order)}
        )
        return replace(result, symbol=tensor.symbol)

    def straight(self, tensor: Tensor) -> Tensor:
        """The tensor untransposed."""
        if not tensor.transposed:
            return tensor
        stored = untransposed(tensor)
        return self.reshape(stored, tensor.shape) if 1 in tensor.shape else self.permute(stored, (1, 0))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [..., in] times the transpose of weight [out, in], plus bias [out]."""
        operands = [x, weight] if bias is None else [x, weight, bias]
        return self.apply("train.linear", (*x.shape[:-1], weight.shape[0]), operands)

    def matmul(self, lhs: Tensor, rhs: Tensor) -> Tensor:
        """The product of two matrices, either of which may be transposed, or of batches of them."""
        if len(lhs.shape) > 2 or len(rhs.shape) > 2:
            lhs, rhs = self.straight(lhs), self.straight(rhs)
            batch = np.broadcast_shapes(lhs.shape[:-2], rhs.shape[:-2])
            return self.apply("train.matmul", (*batch, lhs.shape[-2], rhs.shape[-1]), [lhs, rhs])
        m, n = lhs.shape[0], rhs.shape[1]
        if rhs.transposed and not lhs.transposed:
            return self.linear(lhs, untransposed(rhs), None)
        empty = self._operation("tensor.empty", (m, n), [], {})
        zero_scalar = self._scalar_zero()
        segments = {"operandSegmentSizes": self._segments(1, 1)}
        filled = self._operation("linalg.fill", (m, n), [zero_scalar, empty], segments, self._fill_body)
        with self.context:
            row, column, depth = (ir.AffineDimExpr.get(i) for i in range(3))
            maps = [
                ir.AffineMap.get(3, 0, [depth, row] if lhs.transposed else [row, depth]),
                ir.AffineMap.get(3, 0, [column, depth] if rhs.transposed else [depth, column]),
                ir.AffineMap.get(3, 0, [row, column]),
            ]
            maps_attribute = ir.ArrayAttr.get([ir.AffineMapAttr.get(m) for m in maps])
        attributes = {"operandSegmentSizes": self._segments(2, 1), "indexing_maps": maps_attribute}
        operands = [untransposed(lhs), untransposed(rhs), Tensor(filled, (m, n))]
        return self.apply("linalg.matmul", (m, n), operands, attributes, self._matmul_body)

    def recurrence(
        self,
        inputs: Sequence[Tensor],
        initials: Sequence[Tensor],
        shared: Sequence[Tensor],
        body: Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]],
        reverse: bool = False,
    ) -> list[Tensor]:
        """A loop over axis 0 of `inputs`: the states [T + 1, ...] over time, the initial ones with them.

        body: makes the next states of a step's part of the inputs, the states and what all steps share.
        reverse: from the last step to the first; the initial state is then the last of its stack.
        """
        operands = (*inputs, *initials, *shared)
        assert not any(operand.transposed for operand in operands)
        count = inputs[0].shape[0]
        attributes = {
            "steps": self._attribute(count),
            "starts": self._attribute([0] * len(inputs)),
            "operandSegmentSizes": self._segments(len(inputs), len(initials), len(shared)),
        }
        if reverse:
            attributes["reverse"] = self._attribute(True)
        shapes = [*(t.shape[1:] for t in inputs), *(t.shape for t in (*initials, *shared))]
        with self.context, ir.Location.name(self._place) as location:
            operation = ir.Operation.create(
                "train.recurrence",
                results=[self._type((count + 1, *initial.shape)) for initial in initials],
                operands=[operand.value for operand in operands],
                attributes=attributes,
                regions=1,
                ip=ir.InsertionPoint(self._block),
            )
            types = [self._type(shape) for shape in shapes]
            block = ir.Block.create_at_start(operation.regions[0], types, arg_locs=[location] * len(types))
        arguments = [
            replace(operand, value=value, shape=shape, number=None)
            for operand, value, shape in zip(operands, block.arguments, shapes, strict=True)
        ]
        first, last = len(inputs), len(inputs) + len(initials)
        outer, self._block = self._block, block
        try:
            states = body(arguments[:first], arguments[first:last], arguments[last:])
        finally:
            self._block = outer
        with self.context, ir.Location.name(self._place):
            ir.Operation.create(
                "train.recurrence_next",
                operands=[state.value for state in states],
                ip=ir.InsertionPoint(block),
            )
        gradient = next((operand.gradient for operand in operands if operand.gradient), None)
        on_input = any(operand.on_input for operand in operands)
        return [
            Tensor(value, (count + 1, *state.shape), gradient=gradient, on_input=on_input)
            for value, state in zip(operation.results, states, strict=True)
        ]

    def finish(self, result: Tensor, order: Sequence[str]) -> str:
        """Return `result`, declare the parameters that it needs in the given order, and print."""
        assert not result.transposed
        with self.context, ir.Location.unknown():
            ir.Operation.create("func.return", operands=[result.value], ip=ir.InsertionPoint(self._block))
            self._erase_dead_operations()
            ip = ir.InsertionPoint(self._function)
            for name in [*order, *(name for name in self.parameters if name not in set(order))]:
                argument = self.parameters.get(name)
                if argument is None:
                    continue
                assert argument.value is not None
                attributes = {
                    "sym_name": ir.StringAttr.get(name),
                    "type": ir.TypeAttr.get(self._type(argument.value.shape)),
                }
                location = ir.Location.name(name)
                ir.Operation.create("train.parameter", attributes=attributes, ip=ip, loc=location)
        self._move_biases_into_linears()
        self.module.operation.verify()
        return self.module.operation.get_asm(enable_debug_info=True)

    def _erase_dead_operations(self) -> None:
        """Erase what the result does not need, as an operand that a mask hides everywhere, and its reads."""
        read = set()
        for operation in reversed(list(self._block.operations)):
            used = any(len(list(result.uses)) for result in operation.results)
            if not used and operation.operation.name not in ("func.return", "train.assign"):
                operation.operation.erase()
            elif operation.operation.name == "train.read":
                read.add(ir.FlatSymbolRefAttr(operation.operation.attributes["parameter"]).value)
        kept = read | self.running
        self.parameters = {name: item for name, item in self.parameters.items() if name in kept}

    def _move_biases_into_linears(self) -> None:
        """linear(x, w) + b becomes linear(x, w, b): exporters write a layer in either way."""
        for add in list(self._block.operations):
            if add.operation.name != "train.add":
                continue
            for product, bias in (tuple(add.operands), tuple(add.operands)[::-1]):
                linear = product.owner
                if isinstance(linear, ir.Block) or linear.name != "train.linear" or len(linear.operands) != 2:
                    continue
                width = ir.RankedTensorType(product.type).shape[-1:]
                if ir.RankedTensorType(bias.type).shape != width or product.type != add.results[0].type:
                    continue
                if len(list(product.uses)) != 1:
                    continue
                fused = ir.Operation.create(
                    "train.linear",
                    results=[product.type],
                    operands=[*linear.operands, bias],
                    loc=linear.location,
                    ip=ir.InsertionPoint(add),
                )
                first, second = self._step_of[product], self._step_of[add.results[0]]
                symbols = tuple(dict.fromkeys((*first.symbols, *second.symbols)))
                merged = replace(first, symbols=symbols, on_input=second.on_input)
                self.steps = [merged if s is first else s for s in self.steps if s is not second]
                self._step_of[fused.result] = merged
                add.results[0].replace_all_uses_with(fused.result)
                add.operation.erase()
                linear.erase()
                break

    def _attribute(self, value: Any) -> ir.Attribute:
        with self.context:
            if value is True:
                return ir.UnitAttr.get()
            if isinstance(value, float):
                return ir.FloatAttr.get_f64(value)
            if isinstance(value, int):
                return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value)
            if isinstance(value, Sequence):
                return ir.DenseI64ArrayAttr.get([int(item) for item in value])
        assert isinstance(value, ir.Attribute)
        return value

    def _type(self, shape: Sequence[int]) -> ir.Type:
        return ir.RankedTensorType.get(list(shape), self._f32)

    def _segments(self, *sizes: int) -> ir.Attribute:
        return ir.DenseI32ArrayAttr.get(list(sizes), self.context)

    def _scalar_zero(self) -> ir.Value:
        with self.context, ir.Location.name(self._place):
            zero = {"value": ir.FloatAttr.get(self._f32, 0.0)}
            ip = ir.InsertionPoint(self._block)
            return ir.Operation.create("arith.constant", results=[self._f32], attributes=zero, ip=ip).result

    def _fill_body(self, block: ir.Block) -> None:
        ir.Operation.create("linalg.yield", operands=[block.arguments[0]])

    def _matmul_body(self, block: ir.Block) -> None:
        x, w, y = block.arguments
        product = ir.Operation.create("arith.mulf", results=[self._f32], operands=[x, w]).result
        total = ir.Operation.create("arith.addf", results=[self._f32], operands=[y, product]).result
        ir.Operation.create("linalg.yield", operands=[total])

    def _operation(
        self,
        name: str,
        shape: tuple[int, ...],
        operands: Sequence[ir.Value],
        attributes: dict[str, ir.Attribute],
        body: Callable[[ir.Block], None] | None = None,
        second_result: str | None = None,
    ) -> ir.Value:
        with self.context, ir.Location.name(self._place):
            results = [self._type(shape)]
            if second_result:
                results.append(ir.RankedTensorType.get(list(shape), ir.Type.parse(second_result)))
            operation = ir.Operation.create(
                name,
                results=results,
                operands=list(operands),
                attributes=attributes,
                regions=1 if body else 0,
                ip=ir.InsertionPoint(self._block),
            )
            if body:
                elements = [self._f32] * len(operands)
                block = ir.Block.create_at_start(operation.regions[0], elements)
                with ir.InsertionPoint(block):
                    body(block)
        return operation.results[0]


def untransposed(tensor: Tensor) -> Tensor:
    """The tensor that is stored, of which a transposed one is the transpose."""
    return replace(tensor, shape=tensor.shape[::-1], transposed=False) if tensor.transposed else tensor
