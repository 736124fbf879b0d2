"""LoRA: low-rank adapters beside frozen weights, as a rewrite of the training graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from mlir import ir

from traindeeploy.frontend.model import Adapter, ImportedModel


def adapter_names(weight: str) -> tuple[str, str]:
    """Names of the adapters A and B of a weight."""
    stem = weight.removesuffix(".weight")
    suffix = ".weight" if stem != weight else ""
    return f"{stem}.lora_A{suffix}", f"{stem}.lora_B{suffix}"


def add_adapters(
    model: ImportedModel, targets: Sequence[str], rank: int, alpha: float, seed: int
) -> tuple[ImportedModel, list[str]]:
    """The model with W + alpha / rank B A in place of every target W, wherever that is used.

    Products and lookups get the low-rank form, y = x W^T + alpha / rank (x A^T) B^T. A weight that has
    any other use, too, is summed with its adapters once, and all uses take the sum.

    targets: parameters of rank 2 that products multiply with, of which none has a name of `adapter_names`.
    A [rank, in] starts uniform in +-1/sqrt(in) (Kaiming with a = sqrt(5), as LoRA's authors do),
    B [out, rank] at zero. Returns the model and the names of the adapters.
    """
    from traindeeploy import _td

    context = ir.Context()
    _td.register_dialects(context)
    random = np.random.default_rng(seed)
    values = dict(model.parameters)
    added: dict[str, list[str]] = {}
    adapters = []
    with context, ir.Location.unknown():
        module = ir.Module.parse(model.module_text)
        for target in targets:
            adapter = _adapt(module, target, rank, alpha / rank)
            fan_out, fan_in = values[target].shape[:: -1 if adapter.transposed else 1]
            bound = 1 / np.sqrt(fan_in)
            values[adapter.a] = random.uniform(-bound, bound, (rank, fan_in)).astype(np.float32)
            values[adapter.b] = np.zeros((fan_out, rank), np.float32)
            added[target] = [adapter.a, adapter.b]
            adapters.append(adapter)
        module.operation.verify()
        text = module.operation.get_asm(enable_debug_info=True)
    order = [name for known in model.parameters for name in (known, *added.get(known, []))]
    layers = tuple(
        replace(layer, parameters=tuple(n for p in layer.parameters for n in (p, *added.get(p, []))))
        for layer in model.layers
    )
    adapted = replace(
        model,
        module_text=text,
        parameters={name: values[name] for name in order},
        layers=layers,
        adapters=tuple(adapters),
    )
    return adapted, [name for names in added.values() for name in names]


@dataclass(frozen=True)
class _Use:
    """An operand that is a weight, or the transpose of one.

    axis: the axis of the stored weight that the operator sums over, or looks up by; None for an operator
          without a low-rank form.
    """

    op: ir.Operation
    axis: int | None


def _uses(value: ir.Value, flipped: bool = False) -> list[_Use]:
    """Uses of a weight [d0, d1], also through transposes; `flipped`: `value` is [d1, d0]."""
    found = []
    for use in value.uses:
        op = use.owner.operation
        axis = _summed_axis(op, use.operand_number)
        if op.name == "train.permute" and ir.RankedTensorType(value.type).rank == 2:
            found += _uses(op.results[0], not flipped)
        else:
            found.append(_Use(op, None if axis is None else axis ^ flipped))
    return found


def _summed_axis(op: ir.Operation, number: int) -> int | None:
    """The axis of operand `number`, a matrix, that the operator sums over; None if there is no such form."""
    if number != 1 or op.operands[0] == op.operands[1]:
        return None
    if op.name == "train.linear":
        return 1
    if op.name == "train.embedding":
        return 0
    if op.name != "linalg.matmul":
        return None
    if "indexing_maps" not in op.attributes:
        return 0
    maps = [str(ir.AffineMapAttr(item)) for item in ir.ArrayAttr(op.attributes["indexing_maps"])]
    if "(d0, d2)" not in maps[0].partition("->")[2]:
        return None
    return 1 if "(d1, d2)" in maps[1].partition("->")[2] else 0


def _adapt(module: ir.Module, target: str, rank: int, scale: float) -> Adapter:
    """Adds the adapters of one weight to all its uses."""
    body = list(module.body.operations)
    function = next(op for op in body if op.operation.name == "func.func")
    reads = [
        op.operation
        for op in function.operation.regions[0].blocks[0].operations
        if op.operation.name == "train.read"
        and ir.FlatSymbolRefAttr(op.attributes["parameter"]).value == target
    ]
    uses = [use for read in reads for use in _uses(read.results[0])]
    # The features that go in are along the axis that the first product sums over.
    products = [use.axis for use in uses if use.axis is not None and use.op.name != "train.embedding"]
    transposed = bool(products) and products[0] == 0
    position = next(
        i
        for i, op in enumerate(body)
        if op.operation.name == "train.parameter" and ir.StringAttr(op.attributes["sym_name"]).value == target
    )
    weight = ir.RankedTensorType(ir.TypeAttr(body[position].attributes["type"]).value).shape
    fan_out, fan_in = weight[::-1] if transposed else weight
    adapter = Adapter(target, *adapter_names(target), scale, transposed)
    for name, shape in ((adapter.a, (rank, fan_in)), (adapter.b, (fan_out, rank))):
        ir.Operation.create(
            "train.parameter",
            attributes={
                "sym_name": ir.StringAttr.get(name),
                "type": ir.TypeAttr.get(_tensor(shape)),
            },
            ip=ir.InsertionPoint(body[position + 1]),
            loc=ir.Location.name(name),
        )
    if any(use.axis is None for use in uses):
        for read in reads:
            _add_to_weight(read, adapter, rank)
    else:
        for use in uses:
            _add_to_result(use, adapter, (rank, fan_in), (fan_out, rank))
    return adapter


def _tensor(shape: Sequence[int]) -> ir.Type:
    return ir.RankedTensorType.get(list(shape), ir.F32Type.get())


class _Writer:
    """Appends ops before or behind an op, with its location."""

    def __init__(self, op: ir.Operation) -> None:
        self._op = op
        self._point = ir.InsertionPoint(op)

    def go_behind(self) -> None:
        following = list(self._op.block.operations)
        index = next(i for i, view in enumerate(following) if view.operation == self._op)
        self._point = ir.InsertionPoint(following[index + 1])

    def make(
        self, name: str, shape: Sequence[int], operands: Sequence[ir.Value], **attributes: ir.Attribute
    ) -> ir.Value:
        made = ir.Operation.create(
            name,
            results=[_tensor(shape)],
            operands=list(operands),
            attributes=attributes,
            loc=self._op.location,
            ip=self._point,
        )
        return made.results[0]

    def read(self, name: str, shape: Sequence[int]) -> ir.Value:
        return self.make("train.read", shape, [], parameter=ir.FlatSymbolRefAttr.get(name))

    def linear(self, x: ir.Value, weight: ir.Value) -> ir.Value:
        """x [..., in] times the transpose of weight [out, in]."""
        shape = [*ir.RankedTensorType(x.type).shape[:-1], ir.RankedTensorType(weight.type).shape[0]]
        return self.make("train.linear", shape, [x, weight])

    def transpose(self, matrix: ir.Value) -> ir.Value:
        shape = ir.RankedTensorType(matrix.type).shape[::-1]
        return self.make("train.permute", shape, [matrix], permutation=ir.DenseI64ArrayAttr.get([1, 0]))

    def scaled(self, x: ir.Value, factor: float) -> ir.Value:
        if factor == 1:
            return x
        value = ir.DenseElementsAttr.get_splat(_tensor([]), ir.FloatAttr.get(ir.F32Type.get(), factor))
        shape = ir.RankedTensorType(x.type).shape
        return self.make("train.mul", shape, [x, self.make("arith.constant", [], [], value=value)])

    def add_to(self, value: ir.Value, change: ir.Value) -> None:
        """The sum of both in place of `value` in all its uses so far but those of `change`'s making."""
        total = self.make("train.add", ir.RankedTensorType(value.type).shape, [value, change])
        value.replace_all_uses_except(total, total.owner.operation)


def _add_to_result(use: _Use, adapter: Adapter, a_shape: Sequence[int], b_shape: Sequence[int]) -> None:
    """y + scale (x A^T) B^T in place of the result y of a product, or the same of a lookup.

    A product that sums over the features that go out has (x B) A instead.
    """
    op, writer = use.op, _Writer(use.op)
    a, b = writer.read(adapter.a, a_shape), writer.read(adapter.b, b_shape)
    forth = use.axis == (0 if adapter.transposed else 1)
    if op.name == "train.embedding":
        table = writer.transpose(a) if forth else b
        rows = [*ir.RankedTensorType(op.results[0].type).shape[:-1], a_shape[0]]
        given = {name: op.attributes[name] for name in ("padding",) if name in op.attributes}
        narrow = writer.make("train.embedding", rows, [op.operands[0], table], **given)
    else:
        narrow = writer.linear(op.operands[0], a if forth else writer.transpose(b))
    wide = writer.scaled(writer.linear(narrow, b if forth else writer.transpose(a)), adapter.scale)
    writer.go_behind()
    writer.add_to(op.results[0], wide)


def _add_to_weight(read: ir.Operation, adapter: Adapter, rank: int) -> None:
    """W + scale B A, or its transpose, in place of a weight that was read."""
    weight = ir.RankedTensorType(read.results[0].type).shape
    fan_out, fan_in = weight[::-1] if adapter.transposed else weight
    writer = _Writer(read)
    a, b = writer.read(adapter.a, (rank, fan_in)), writer.read(adapter.b, (fan_out, rank))
    columns = writer.transpose(a)
    left, right = (columns, b) if adapter.transposed else (b, columns)
    change = writer.scaled(writer.linear(left, right), adapter.scale)
    writer.go_behind()
    writer.add_to(read.results[0], change)
