"""LoRA: low-rank adapters beside frozen linear layers, as a rewrite of the training graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from mlir import ir

from traindeeploy.errors import TrainDeeployError
from traindeeploy.frontend.model import Adapter, ImportedModel


class LoraError(TrainDeeployError):
    """A weight that cannot have an adapter."""


def adapter_names(weight: str) -> tuple[str, str]:
    """Names of the adapters A and B of a weight."""
    stem = weight.removesuffix(".weight")
    suffix = ".weight" if stem != weight else ""
    return f"{stem}.lora_A{suffix}", f"{stem}.lora_B{suffix}"


def add_adapters(
    model: ImportedModel, targets: Sequence[str], rank: int, alpha: float, seed: int
) -> tuple[ImportedModel, list[str]]:
    """The model with y = x W^T + alpha / rank (x A^T) B^T in place of every product with a target W.

    A [rank, in] starts uniform in +-1/sqrt(in) (Kaiming with a = sqrt(5), as LoRA's authors do),
    B [out, rank] at zero. Returns the model and the names of the adapters.
    Raises LoraError for a target that no linear layer uses.
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
            names = adapter_names(target)
            if taken := [name for name in names if name in values]:
                raise LoraError(
                    f"the model has a parameter '{taken[0]}' already, so '{target}' gets no adapter"
                )
            fan_in, fan_out, transposed = _adapt(module, target, names, rank, alpha)
            bound = 1 / np.sqrt(fan_in)
            values[names[0]] = random.uniform(-bound, bound, (rank, fan_in)).astype(np.float32)
            values[names[1]] = np.zeros((fan_out, rank), np.float32)
            added[target] = list(names)
            adapters.append(Adapter(target, *names, alpha / rank, transposed))
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


def _adapt(
    module: ir.Module, target: str, names: tuple[str, str], rank: int, alpha: float
) -> tuple[int, int, bool]:
    """Adds the adapters of one weight to all its products.

    Returns how many features go in and out, and whether the weight lies as [in, out].
    """
    function = next(op for op in module.body.operations if op.operation.name == "func.func")
    block = function.operation.regions[0].blocks[0]
    form: tuple[int, int, bool] | None = None
    for view in list(block.operations):
        op = view.operation
        found = _product(op, target)
        if found is None:
            continue
        x, out_first = found
        weight = ir.RankedTensorType(op.operands[1].type).shape
        fan_out, fan_in = weight if out_first else reversed(weight)
        if form not in (None, (fan_in, fan_out, not out_first)):
            raise LoraError(f"'{target}' is used in products of different shapes, so it gets no adapter")
        form = (fan_in, fan_out, not out_first)
        _add_product(op, x, names, rank, alpha, fan_in, fan_out)
    if form is None:
        raise LoraError(f"'{target}' is not the weight of a linear layer, so it gets no adapter")
    position = next(
        op
        for op in module.body.operations
        if op.operation.name == "train.parameter" and ir.StringAttr(op.attributes["sym_name"]).value == target
    )
    following = list(module.body.operations)
    after = following[following.index(position) + 1]
    element = ir.F32Type.get()
    for name, shape in zip(names, ((rank, form[0]), (form[1], rank)), strict=True):
        attributes = {
            "sym_name": ir.StringAttr.get(name),
            "type": ir.TypeAttr.get(ir.RankedTensorType.get(shape, element)),
        }
        ir.Operation.create(
            "train.parameter", attributes=attributes, ip=ir.InsertionPoint(after), loc=ir.Location.name(name)
        )
    return form


def _product(op: ir.Operation, target: str) -> tuple[ir.Value, bool] | None:
    """The input of a product with the target, and whether that lies as [out, in]; None for another op."""
    if op.name not in ("train.linear", "linalg.matmul"):
        return None
    weight, transposed = op.operands[1].owner, op.name == "train.linear"
    while not isinstance(weight, ir.Block) and weight.name == "train.reshape":
        weight = weight.operands[0].owner
    if isinstance(weight, ir.Block) or weight.name != "train.read":
        return None
    if ir.FlatSymbolRefAttr(weight.attributes["parameter"]).value != target:
        return None
    if op.name == "linalg.matmul" and "indexing_maps" in op.attributes:
        maps = [str(ir.AffineMapAttr(item)) for item in ir.ArrayAttr(op.attributes["indexing_maps"])]
        if "(d2, d0)" in maps[0] or "(d0, d2)" not in maps[0]:
            return None
        transposed = "(d1, d2)" in maps[1]
    return op.operands[0], transposed


def _add_product(
    op: ir.Operation, x: ir.Value, names: tuple[str, str], rank: int, alpha: float, fan_in: int, fan_out: int
) -> None:
    """y + alpha / rank * linear(linear(x, A), B) in place of the result y of `op`."""
    y = op.results[0]
    element = ir.F32Type.get()
    leading = list(ir.RankedTensorType(x.type).shape)[:-1]

    def create(
        name: str, shape: Sequence[int], operands: Sequence[ir.Value], **attributes: ir.Attribute
    ) -> ir.Value:
        made = ir.Operation.create(
            name,
            results=[ir.RankedTensorType.get(list(shape), element)],
            operands=list(operands),
            attributes=attributes,
            loc=op.location,
            ip=point,
        )
        return made.results[0]

    point = ir.InsertionPoint(op)
    a, b = (
        create("train.read", shape, [], parameter=ir.FlatSymbolRefAttr.get(name))
        for name, shape in zip(names, ((rank, fan_in), (fan_out, rank)), strict=True)
    )
    narrow = create("train.linear", [*leading, rank], [x, a])
    wide = create("train.linear", [*leading, fan_out], [narrow, b])
    if alpha != rank:
        factor = ir.DenseElementsAttr.get_splat(
            ir.RankedTensorType.get([], element), ir.FloatAttr.get(element, alpha / rank)
        )
        wide = create(
            "train.mul", [*leading, fan_out], [wide, create("arith.constant", [], [], value=factor)]
        )
    following = list(op.block.operations)
    index = next(i for i, view in enumerate(following) if view.operation == op)
    point = ir.InsertionPoint(following[index + 1])
    total = create("train.add", [*leading, fan_out], [y, wide])
    y.replace_all_uses_except(total, total.owner.operation)
