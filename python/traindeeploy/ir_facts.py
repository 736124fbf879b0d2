"""What reports and tables say of a program, read from its IR.

All functions take modules of the `mlir` package at the level that their docstring says; the dialects
of the compiler are registered on their context.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any

from mlir import ir

from . import dialects  # noqa: F401  (else mlir looks for their bindings anew at each operation)
from .plan_table import Operator

if TYPE_CHECKING:
    from .target import Target

LEVELS = ("l1", "l2", "l3")
PERSISTENT = ("parameter", "state")


def _body(operation: Any) -> Iterator[ir.Operation]:
    """Operations in the first block of an operation's first region."""
    return (op.operation for op in operation.regions[0].blocks[0].operations)


def _program(module: ir.Module) -> ir.Operation:
    """The `tile.program` of a module."""
    return next(op for op in _body(module.operation) if op.name == "tile.program")


def _integers(attribute: ir.Attribute) -> list[int]:
    """The numbers of a dense array of 64-bit integers."""
    return [int(value) for value in ir.DenseI64ArrayAttr(attribute)]


def _size(type_: ir.Type) -> int:
    """Bytes of a memref or tensor of static shape."""
    shaped = ir.ShapedType(type_)
    width: int = getattr(shaped.element_type, "width", 32)
    return prod(shaped.shape) * width // 8


def _level(memref: ir.Type) -> str:
    """Memory level of a memref: "l1", "l2" or "l3"."""
    text = str(ir.MemRefType(memref).memory_space)
    return next(level for level in LEVELS if f"<{level}>" in text)


def _keyword(attribute: ir.Attribute) -> str:
    """The keyword that an enum attribute prints last."""
    return re.findall(r"\w+", str(attribute))[-1]


def location_name(location: ir.Location) -> str:
    """The place in the model that a location names, or "" where it names none."""
    match = re.match(r'loc\("((?:[^"\\]|\\.)*)"(?!:\d)', str(location))
    return match.group(1) if match else ""


def last_activation(forward: ir.Module) -> tuple[str, str]:
    """ "softmax" or "sigmoid" and its place in the model, if the result of @forward is one; else two ""."""
    function = next(op for op in _body(forward.operation) if op.name == "func.func")
    value = list(_body(function))[-1].operands[0]
    while isinstance(value.owner, ir.Operation | ir.OpView):
        op = value.owner.operation
        if op.name in ("train.softmax", "train.sigmoid"):
            return op.name.removeprefix("train."), location_name(op.location)
        if op.name not in ("train.reshape", "train.permute"):
            break
        value = op.operands[0]
    return "", ""


def flop(graph: ir.Module) -> int:
    """Floating-point operations of a step, 2 per multiply-accumulate of each GEMM of the training graph."""
    for op in _body(graph.operation):
        if "train.flop" in op.attributes:
            return ir.IntegerAttr(op.attributes["train.flop"]).value
    return 0


def parameters(graph: ir.Module) -> tuple[dict[str, bool], list[tuple[str, dict[str, Any]]]]:
    """Parameters of a training graph (name -> trained), and its optimizer states.

    A state is its name and a dictionary: "symbol", "first" (value before the first step) and, unless all
    share it, "parameter".
    """
    trained: dict[str, bool] = {}
    states = []
    for op in _body(graph.operation):
        if op.name == "train.parameter":
            symbol = ir.StringAttr(op.attributes["sym_name"]).value
            if "state" not in op.attributes:
                trained[symbol] = "trainable" in op.attributes
                continue
            first = ir.FloatAttr(op.attributes["first"]).value if "first" in op.attributes else 0.0
            state: dict[str, Any] = {"symbol": symbol, "first": first}
            if "state_of" in op.attributes:
                state["parameter"] = ir.FlatSymbolRefAttr(op.attributes["state_of"]).value
            states.append((ir.StringAttr(op.attributes["state"]).value, state))
    return trained, states


def layouts(graph: ir.Module) -> dict[str, list[int]]:
    """The order of axes in which parameters and states of a training graph are stored, where it is another
    than the model's: stored = numpy.transpose(model, layout)."""
    return {
        ir.StringAttr(op.attributes["sym_name"]).value: _integers(op.attributes["layout"])
        for op in _body(graph.operation)
        if op.name == "train.parameter" and "layout" in op.attributes
    }


def step_inputs(graph: ir.Module) -> list[tuple[str, tuple[int, ...], str]]:
    """Arguments of `@step` of a training graph: name, shape and element type ("f32", "i32")."""
    step = next(
        op
        for op in _body(graph.operation)
        if op.name == "func.func" and ir.StringAttr(op.attributes["sym_name"]).value == "step"
    )
    inputs = []
    for argument, attributes in zip(
        step.regions[0].blocks[0].arguments, step.attributes["arg_attrs"], strict=True
    ):
        name = ir.StringAttr(ir.DictAttr(attributes)["train.name"]).value
        shaped = ir.ShapedType(argument.type)
        inputs.append((name, tuple(shaped.shape), str(shaped.element_type)))
    return inputs


def parameter_traffic(graph: ir.Module) -> tuple[int, int]:
    """Bytes of parameters that a step must at least load, and store, when L1 cannot keep them.

    A parameter is loaded for the forward and, when the backward reads or updates it, once more; a
    trained one is stored once.
    """
    uses: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    assigned: set[str] = set()

    def visit(op: ir.Operation) -> ir.WalkResult:
        if op.name == "train.read":
            name = ir.FlatSymbolRefAttr(op.attributes["parameter"]).value
            sizes[name] = _size(op.results[0].type)
            uses[name] += sum(1 for _ in op.results[0].uses)
        elif op.name == "train.assign":
            name = ir.FlatSymbolRefAttr(op.attributes["parameter"]).value
            sizes[name] = _size(op.operands[0].type)
            assigned.add(name)
        return ir.WalkResult.ADVANCE

    graph.operation.walk(visit)
    loaded = sum(size * min(2, max(1, uses[name])) for name, size in sizes.items())
    return loaded, sum(sizes[name] for name in assigned)


def plan_operators(plan: ir.Module) -> list[Operator]:
    """The operators of a plan, in execution order, without their transfers."""
    operators = []
    groups = []
    for part in _body(_program(plan)):
        if part.name == "tile.group":
            groups.append((part, 1))
        elif part.name == "tile.loop":
            runs = ir.IntegerAttr(part.attributes["runs"]).value
            groups += [(group, runs) for group in _body(part)]
    for group, runs in groups:
        engines: list[str] = []
        for stage in _body(group):
            if stage.name == "tile.stage" and any(op.name == "linalg.matmul" for op in _body(stage)):
                engines.append(_keyword(stage.attributes["engine"]))
        total, dma, cores, redmule = (runs * n for n in _integers(group.attributes["predicted"]))
        reduces = len(_integers(group.attributes["reductions"])) > 0
        operators.append(
            Operator(
                name=ir.StringAttr(group.attributes["name"]).value,
                operator="gemm" if engines else "reduction" if reduces else "element-wise",
                engine="+".join(sorted(set(engines), reverse=True)) or "cores",
                domain=_integers(group.attributes["sizes"]),
                tile=_integers(group.attributes["tiles"]),
                predicted={"total": total, "dma": dma, "cores": cores, "redmule": redmule},
                runs=runs,
            )
        )
    return operators


def add_jobs(operators: list[Operator], jobs: ir.Module) -> None:
    """Adds what is known at level 4: the bytes that each operator's copies move in a step, and the cycles
    predicted for it in the schedule of all of them."""
    scheduled = iter(operators)
    for job in _body(_program(jobs)):
        if job.name == "tile.operator":
            predicted = _integers(job.attributes["predicted"])
            next(scheduled).predicted.update(
                zip(("total", "dma", "cores", "redmule"), predicted, strict=True)
            )
        if job.name != "tile.copy":
            continue
        array, tile = (value.type for value in job.operands)
        far, near = _level(array), _level(tile)
        width = _size(tile) // max(1, prod(ir.ShapedType(tile).shape))
        moved = prod(_integers(job.attributes["sizes"])) * width
        way = f"{far}_to_{near}" if ir.BoolAttr(job.attributes["load"]).value else f"{near}_to_{far}"
        transfers = operators[ir.IntegerAttr(job.attributes["op_index"]).value].transfers
        transfers[way] = transfers.get(way, 0) + moved


def _covered(intervals: list[tuple[int, int]]) -> int:
    """Bytes that lie in at least one of the intervals (begin, end)."""
    total, reached = 0, -1
    for begin, end in sorted(intervals):
        begin = max(begin, reached)
        if end > begin:
            total += end - begin
            reached = end
    return total


def memory(jobs: ir.Module, target: Target) -> dict[str, Any]:
    """Bytes that the addressed buffers of a program (level 4) take of a target's memories.

    Returns "peak" by level (from the start of the level to the highest address in use, what the
    runtime reserves included; in L2, where code and tables come to it, the bytes from the lowest to the
    highest address), "state" (optimizer state) and "dynamic_peak" (bytes of L2 and L3 that ever hold
    something else than parameters and state).
    """
    begins = {
        level: target.description["memory"].get(level, {}).get("base", 0) for level in LEVELS if level != "l2"
    }
    ends: dict[str, int] = {}
    dynamic: dict[str, list[tuple[int, int]]] = {level: [] for level in LEVELS}
    state = 0
    for op in _body(_program(jobs)):
        if op.name not in ("tile.buffer", "tile.alloc") or "address" not in op.attributes:
            continue
        type_ = op.results[0].type
        level, size = _level(type_), _size(type_)
        begin = ir.IntegerAttr(op.attributes["address"]).value
        ends[level] = max(ends.get(level, 0), begin + size)
        if level == "l2":
            begins[level] = min(begins.get(level, begin), begin)
        role = _keyword(op.attributes["role"]) if op.name == "tile.buffer" else "temporary"
        state += size if role == "state" else 0
        if role not in PERSISTENT:
            dynamic[level].append((begin, begin + size))
    return {
        "peak": {level: ends[level] - begins[level] if level in ends else 0 for level in LEVELS},
        "state": state,
        "dynamic_peak": _covered(dynamic["l2"]) + _covered(dynamic["l3"]),
    }
