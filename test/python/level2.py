"""Reads and evaluates training graphs of level 2 with numpy: what tests compare a frontend with."""

import re

import numpy as np
from mlir import ir

from traindeeploy import _td
from traindeeploy.frontend import ImportedModel


def parse(model: ImportedModel) -> ir.Module:
    context = ir.Context()
    _td.register_dialects(context)
    return ir.Module.parse(model.module_text, context)


def forward_ops(model: ImportedModel) -> list[tuple[str, str]]:
    """(operator, place) of the ops of @forward that compute, in order."""
    silent = {"train.read", "arith.constant", "tensor.empty", "linalg.fill", "func.return"}
    module = parse(model)
    function = next(op for op in module.body.operations if op.operation.name == "func.func")
    block = function.operation.regions[0].blocks[0]
    names = [(op.operation.name, str(op.location)) for op in block.operations]
    return [(name, re.fullmatch(r'loc\("(.*)"\)', place)[1]) for name, place in names if name not in silent]


def ops(model: ImportedModel) -> list[str]:
    return [name.split(".")[1] for name, _ in forward_ops(model)]


def shape_of(value: ir.Value) -> tuple[int, ...]:
    return tuple(ir.RankedTensorType(value.type).shape)


def evaluate(model: ImportedModel, *inputs: np.ndarray) -> np.ndarray:
    """The result of @forward in float64, for inputs in the order of `model.inputs`."""
    module = parse(model)
    function = next(op for op in module.body.operations if op.operation.name == "func.func")
    block = function.operation.regions[0].blocks[0]
    values = dict(zip(block.arguments, (np.asarray(x, np.float64) for x in inputs), strict=True))
    functions = {
        "train.linear": lambda x, w, b=0.0: x @ w.T + b,
        "train.relu": lambda x: np.maximum(x, 0),
        "train.sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "train.tanh": np.tanh,
        "train.add": np.add,
        "train.sub": np.subtract,
        "train.mul": np.multiply,
        "train.div": np.divide,
        "train.abs": np.abs,
        "train.select": lambda condition, yes, no: np.where(condition != 0, yes, no),
        "train.matmul": np.matmul,
    }
    for op in block.operations:
        name = op.operation.name
        operands = [values.get(operand) for operand in op.operation.operands]
        if name == "func.return":
            return operands[0]
        result = op.operation.results[0]
        if name == "train.read":
            value = model.parameters[op.operation.attributes["parameter"].value]
        elif name == "arith.constant":
            attribute = op.operation.attributes["value"]
            dense = isinstance(attribute, ir.DenseElementsAttr)
            number = ir.FloatAttr(attribute.get_splat_value() if dense else attribute).value
            value = np.full(shape_of(result), number) if dense else np.float64(number)
        elif name in ("tensor.empty", "linalg.fill"):
            value = np.zeros(shape_of(result))
        elif name == "linalg.matmul":
            value = matmul(op, *operands)
        elif name == "train.permute":
            value = operands[0].transpose(list(ir.DenseI64ArrayAttr(op.operation.attributes["permutation"])))
        elif name == "train.reshape":
            value = operands[0].reshape(shape_of(result))
        elif name == "train.broadcast":
            value = np.broadcast_to(operands[0], shape_of(result))
        elif name == "train.sum":
            value = operands[0].sum(tuple(ir.DenseI64ArrayAttr(op.operation.attributes["axes"])))
        elif name == "train.clamp":
            low, high = (ir.FloatAttr(op.operation.attributes[key]).value for key in ("low", "high"))
            value = np.clip(operands[0], low, high)
        elif name == "train.concat":
            value = np.concatenate(operands, ir.IntegerAttr(op.operation.attributes["axis"]).value)
        elif name == "train.max":
            value = operands[0].max(tuple(ir.DenseI64ArrayAttr(op.operation.attributes["axes"])))
        elif name == "train.pow":
            value = operands[0] ** ir.FloatAttr(op.operation.attributes["exponent"]).value
        else:
            value = functions[name](*operands)
        if isinstance(result.type, ir.RankedTensorType):
            assert value.shape == shape_of(result), (name, value.shape, result.type)
        values[result] = np.asarray(value, np.float64)
    raise AssertionError("no return")


def matmul(op: ir.OpView, x: np.ndarray, w: np.ndarray, y: np.ndarray) -> np.ndarray:
    attributes = op.operation.attributes
    if "indexing_maps" in attributes:
        lhs, rhs, _ = (str(m) for m in attributes["indexing_maps"])
        x = x.T if "(d2, d0)" in lhs else x
        w = w.T if "(d1, d2)" in rhs else w
    return y + x @ w
