"""The training graph as recipes read it: operators from the inputs to the output, and their parameters."""

from __future__ import annotations

from dataclasses import dataclass

from traindeeploy.frontend.model import ImportedModel


@dataclass(frozen=True)
class Step:
    """An operator whose result depends on an input and on a parameter that can be trained.

    operands:   positions of the steps that make its operands.
    parameters: those that it reads, also through operators that depend on no input.
    bias:       of these the ones that a linear layer adds.
    """

    operator: str
    place: str
    shape: tuple[int, ...]
    operands: tuple[int, ...]
    parameters: tuple[str, ...]
    bias: tuple[str, ...] = ()


def steps_of(model: ImportedModel, composites: bool = False) -> list[Step]:
    """The steps of the model's graph, in its order; `composites`: with norms in primitives put together."""
    from mlir import ir
    from mlir.passmanager import PassManager

    from traindeeploy import _td
    from traindeeploy.ir_facts import location_name

    context = ir.Context()
    _td.register_dialects(context)
    module = ir.Module.parse(model.module_text, context)
    if composites:
        with context:
            recognize = "builtin.module(func.func(td-recognize-composites))"
            PassManager.parse(recognize).run(module.operation)
    function = next(op for op in module.body.operations if op.operation.name == "func.func")
    block = function.operation.regions[0].blocks[0]
    trainable = set(model.trainable_names())
    steps: list[Step] = []
    made: dict[ir.Value, int] = {}
    varying: set[ir.Value] = set(block.arguments)
    reads: dict[ir.Value, tuple[str, ...]] = {}
    for view in block.operations:
        op = view.operation
        if op.name == "train.read":
            name = ir.FlatSymbolRefAttr(op.attributes["parameter"]).value
            reads[op.results[0]] = (name,) if name in trainable else ()
            continue
        parameters = tuple(dict.fromkeys(name for x in op.operands for name in reads.get(x, ())))
        operands = tuple(made[x] for x in op.operands if x in made)
        if not any(x in varying for x in op.operands):
            reads |= {result: parameters for result in op.results}
            continue
        varying.update(op.results)
        if parameters or operands:
            made |= {result: len(steps) for result in op.results}
            shape = tuple(ir.RankedTensorType(op.results[0].type).shape) if len(op.results) else ()
            bias = reads.get(op.operands[2], ()) if op.name == "train.linear" and len(op.operands) > 2 else ()
            steps.append(Step(op.name, location_name(op.location), shape, operands, parameters, bias))
    return steps
