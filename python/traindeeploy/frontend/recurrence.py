"""RNN, LSTM and GRU, of PyTorch and of ONNX, as loops over time (`train.recurrence`).

What a step needs of the inputs alone is one product for all steps, before the loop; only the product
with the state is inside of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from .builder import GraphBuilder, Indices, Step, Tensor
from .table import TorchOperator, lowers

ONNX_OPERATORS = ("RNN", "LSTM", "GRU")
_MARK = "traindeeploy."

Cell = Callable[[GraphBuilder, Tensor, Sequence[Tensor], Sequence[Tensor]], list[Tensor]]
"""The next states, from a step's part of the input's product [B, G * H], the states [B, H], the shared."""


@dataclass(frozen=True)
class Weights:
    """Of one layer in one direction: `input` [G * H, I], `hidden` [G * H, H], biases [G * H] or None."""

    input: Tensor
    hidden: Tensor
    input_bias: Tensor | None
    hidden_bias: Tensor | None


def _elementwise(graph: GraphBuilder, name: str, *operands: Tensor) -> Tensor:
    return graph.apply(f"train.{name}", operands[0].shape, list(operands))


def _sliced(graph: GraphBuilder, x: Tensor, axis: int, start: int, size: int) -> Tensor:
    if size == x.shape[axis]:
        return x
    offsets, shape = [0] * len(x.shape), list(x.shape)
    offsets[axis], shape[axis] = start, size
    attributes = {"offsets": offsets, "strides": [1] * len(shape)}
    result = graph.apply("train.slice", tuple(shape), [replace(x, symbol=None)], attributes)
    return replace(result, symbol=x.symbol)


def _gates(graph: GraphBuilder, z: Tensor, order: str) -> dict[str, Tensor]:
    """The parts of z [B, G * H] by the letters of `order`."""
    hidden = z.shape[-1] // len(order)
    return {gate: _sliced(graph, z, 1, i * hidden, hidden) for i, gate in enumerate(order)}


def _rnn(activation: str) -> Cell:
    def cell(
        graph: GraphBuilder, x: Tensor, states: Sequence[Tensor], shared: Sequence[Tensor]
    ) -> list[Tensor]:
        z = _elementwise(graph, "add", x, graph.linear(states[0], shared[0], *_bias(shared, 1)))
        return [_elementwise(graph, activation, z)]

    return cell


def _lstm(order: str) -> Cell:
    """order: of the gates i, f, g (the candidate) and o."""

    def cell(
        graph: GraphBuilder, x: Tensor, states: Sequence[Tensor], shared: Sequence[Tensor]
    ) -> list[Tensor]:
        h, c = states
        z = _elementwise(graph, "add", x, graph.linear(h, shared[0], *_bias(shared, 1)))
        part = _gates(graph, z, order)
        i, f, o = (_elementwise(graph, "sigmoid", part[gate]) for gate in "ifo")
        g = _elementwise(graph, "tanh", part["g"])
        c = _elementwise(graph, "add", _elementwise(graph, "mul", f, c), _elementwise(graph, "mul", i, g))
        return [_elementwise(graph, "mul", o, _elementwise(graph, "tanh", c)), c]

    return cell


def _gru(order: str, reset_after: bool) -> Cell:
    """order: of the gates r, z and n; reset_after: r multiplies the product with the state, not the state."""

    def cell(
        graph: GraphBuilder, x: Tensor, states: Sequence[Tensor], shared: Sequence[Tensor]
    ) -> list[Tensor]:
        (h,) = states
        width = h.shape[1]
        parts = _gates(graph, x, order)
        if reset_after:
            own = _gates(graph, graph.linear(h, shared[0], *_bias(shared, 1)), order)
        else:
            # The first two gates are r and z; what n adds comes after r is known.
            both = graph.linear(h, shared[0], *_bias(shared, 2))
            own = {gate: _sliced(graph, both, 1, i * width, width) for i, gate in enumerate(order[:2])}
        r, z = (
            _elementwise(graph, "sigmoid", _elementwise(graph, "add", parts[gate], own[gate]))
            for gate in "rz"
        )
        if reset_after:
            added = _elementwise(graph, "mul", r, own["n"])
        else:
            added = graph.linear(_elementwise(graph, "mul", r, h), shared[1], *_bias(shared, 3))
        n = _elementwise(graph, "tanh", _elementwise(graph, "add", parts["n"], added))
        return [
            _elementwise(graph, "add", n, _elementwise(graph, "mul", z, _elementwise(graph, "sub", h, n)))
        ]

    return cell


def _bias(shared: Sequence[Tensor], index: int) -> tuple[Tensor | None]:
    return (shared[index] if index < len(shared) else None,)


def _run(
    graph: GraphBuilder, cell: Cell, x: Tensor, weights: Weights, initials: list[Tensor], *, reverse: bool,
    apart: bool = False,
) -> list[Tensor]:  # fmt: skip
    """The states of one layer in one direction: per state, [T + 1, B, H] with the initial one.

    x: [T, B, I]. apart: whether the cell takes the hidden weight's last third on its own.
    """
    before = len(graph.steps)
    place = graph.linear(x, weights.input, weights.input_bias)
    if apart:
        width = weights.hidden.shape[1]
        pieces = [weights.hidden] if weights.hidden_bias is None else [weights.hidden, weights.hidden_bias]
        shared = [
            _sliced(graph, t, 0, at, n) for t in pieces for at, n in ((0, 2 * width), (2 * width, width))
        ]
    else:
        shared = [t for t in (weights.hidden, weights.hidden_bias) if t is not None]
    states = graph.recurrence([place], initials, shared, lambda *a: cell(graph, a[0][0], a[1], a[2]), reverse)
    # Time leads here; what checks a change of the batch's size and finds layers wants the batch to.
    made = graph.steps[before]
    del graph.steps[before:]
    symbols = [tuple(t.symbol for t in some if t is not None and t.symbol) for some in (
        (weights.input, weights.input_bias), (weights.hidden, weights.hidden_bias))]  # fmt: skip
    rows = (x.shape[1], x.shape[0])
    graph.steps.append(
        Step(
            "train.linear", made.place, (*rows, place.shape[-1]), x.on_input, symbols[0], weights.input.symbol
        )
    )
    width = states[0].shape[-1]
    graph.steps.append(Step("train.recurrence", made.place, (*rows, width), x.on_input, symbols[1]))
    return states


def _silently(graph: GraphBuilder, build: Callable[[], Any]) -> Any:
    """What `build` builds, of which batch checks see nothing: time leads in its shapes."""
    before = len(graph.steps)
    made = build()
    del graph.steps[before:]
    return made


def _outputs(graph: GraphBuilder, states: Tensor, reverse: bool) -> Tensor:
    """All but the initial state: [T, B, H]."""
    return _sliced(graph, states, 0, 0 if reverse else 1, states.shape[0] - 1)


def _last(graph: GraphBuilder, states: Tensor, reverse: bool) -> Tensor:
    """The state after the last step that runs: [1, B, H]."""
    return _sliced(graph, states, 0, 0 if reverse else states.shape[0] - 1, 1)


def _concat(graph: GraphBuilder, parts: Sequence[Tensor], axis: int) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    return graph.apply("train.concat", tuple(shape), list(parts), {"axis": axis})


# PyTorch.


@lowers("aten.lstm.input")
def lstm(graph: GraphBuilder, op: TorchOperator) -> tuple[Tensor, ...]:
    return _torch(graph, op, _lstm("ifgo"), op.operands[1], 4)


@lowers("aten.gru.input")
def gru(graph: GraphBuilder, op: TorchOperator) -> tuple[Tensor, ...]:
    return _torch(graph, op, _gru("rzn", reset_after=True), [op.operands[1]], 3)


@lowers("aten.rnn_tanh.input", "aten.rnn_relu.input")
def rnn(graph: GraphBuilder, op: TorchOperator) -> tuple[Tensor, ...]:
    return _torch(graph, op, _rnn("tanh" if "tanh" in op.name else "relu"), [op.operands[1]], 1)


def _torch(
    graph: GraphBuilder, op: TorchOperator, cell: Cell, initials: Any, gates: int
) -> tuple[Tensor, ...]:
    parameters = op.operands[2]
    has_biases, layers, dropout, training, bidirectional, batch_first = op.operands[3:9]
    directions = 2 if bidirectional else 1
    each = 4 if has_biases else 2
    if not all(isinstance(t, Tensor) for t in (*initials, *parameters)):
        op.refuse("has a state or a weight that is not a tensor of float32")
    if len(parameters) != layers * directions * each:
        op.refuse("with projections (proj_size) is not supported")
    initials = [graph.straight(t) for t in initials]
    parameters = [graph.straight(t) for t in parameters]
    x = op.tensor(graph, 0)
    if len(x.shape) != 3 or parameters[1].shape != (gates * initials[0].shape[-1], initials[0].shape[-1]):
        op.refuse("has operands whose shapes do not fit")

    def build() -> tuple[list[Tensor], list[list[Tensor]], list[Step]]:
        nonlocal x
        steps: list[Step] = []
        if batch_first:
            x = graph.permute(x, (1, 0, 2))
        ends: list[list[Tensor]] = [[] for _ in initials]
        for layer in range(layers):
            found = []
            for direction in range(directions):
                number = layer * directions + direction
                own = parameters[number * each : (number + 1) * each]
                biases = (own[2], own[3]) if has_biases else (None, None)
                weights = Weights(own[0], own[1], *biases)
                first = [graph.reshape(_sliced(graph, t, 0, number, 1), t.shape[1:]) for t in initials]
                before = len(graph.steps)
                states = _run(graph, cell, x, weights, first, reverse=direction == 1)
                steps += graph.steps[before:]
                found.append(_outputs(graph, states[0], direction == 1))
                for end, state in zip(ends, states, strict=True):
                    end.append(_last(graph, state, direction == 1))
            x = _concat(graph, found, 2)
            if training and layer + 1 < layers:
                x = graph.dropout(x, dropout)
        result = graph.permute(x, (1, 0, 2)) if batch_first else x
        return [result, *(_concat(graph, end, 0) for end in ends)], ends, steps

    made, _, steps = _silently(graph, build)
    graph.steps += steps
    return tuple(made)


# ONNX.


def name_results(graph: onnx.GraphProto) -> None:
    """Names the results that recurrences leave out, so that all have shapes."""
    for node in graph.node:
        if node.op_type not in ONNX_OPERATORS or node.domain not in ("", "ai.onnx"):
            continue
        results = [*node.output] + [""] * ((3 if node.op_type == "LSTM" else 2) - len(node.output))
        del node.output[:]
        stem = node.name or next(name for name in results if name)
        node.output.extend(name or f"{stem}.result{i}" for i, name in enumerate(results))


def keep_whole(module: Any) -> None:
    """Takes recurrences of a module of the torch dialect out of the conversion's reach."""
    from torch_mlir import ir

    names = {f"onnx.{name}" for name in ONNX_OPERATORS}
    for function in module.body.operations:
        for operation in function.regions[0].blocks[0].operations:
            if operation.operation.name == "torch.operator" and operation.attributes["name"].value in names:
                name = operation.attributes["name"].value.removeprefix("onnx.")
                operation.attributes["name"] = ir.StringAttr.get(_MARK + name, module.context)


def _attributes(op: TorchOperator) -> dict[str, Any]:
    """ONNX's attributes of an operator: numbers, text, and lists of these."""
    from torch_mlir import ir

    def value(attribute: Any) -> Any:
        if isinstance(attribute, ir.ArrayAttr):
            return [value(item) for item in attribute]
        return attribute.value

    prefix = "torch.onnx."
    names = [name for name in op.attributes if name.startswith(prefix)]
    return {name.removeprefix(prefix): value(op.attributes[name]) for name in names}


def _refuse_forms(op: TorchOperator, kind: str, given: dict[str, Any], directions: int) -> str:
    """Refuses what is not supported; the activation of an RNN."""
    default = {"RNN": ["tanh"], "LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}[kind]
    functions = [name.lower() for name in given.get("activations", default * directions)]
    accepted = [default * directions]
    if kind == "RNN":
        accepted.append(["relu"] * directions)
    if functions not in accepted:
        op.refuse(f"with the activations {', '.join(given['activations'])} is not supported")
    if given.get("clip"):
        op.refuse("with a clip is not supported")
    if given.get("input_forget"):
        op.refuse("with input_forget is not supported")
    return functions[0]


@lowers("traindeeploy.RNN", "traindeeploy.LSTM", "traindeeploy.GRU")
def onnx_recurrence(graph: GraphBuilder, op: TorchOperator) -> tuple[Tensor, ...]:
    """Results: Y [T, D, B, H], Y_h [D, B, H] and of LSTM Y_c; with layout 1 the batch leads in each."""
    kind = op.name.removeprefix(_MARK)
    given = _attributes(op)
    direction = given.get("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        op.refuse(f"has the direction '{direction}'; there are forward, reverse and bidirectional")
    reverses = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    activation = _refuse_forms(op, kind, given, len(reverses))
    operands = [*op.operands, *[None] * (8 - len(op.operands))]
    if operands[7] is not None:
        op.refuse("with peepholes (P) is not supported")
    optional = (*operands[3:4], *operands[5:7])
    if not all(isinstance(t, Tensor) for t in operands[:3]) or not all(
        t is None or isinstance(t, Tensor) for t in optional
    ):
        op.refuse("has an operand that is not a tensor of float32")
    leads = given.get("layout", 0) == 1

    def built() -> tuple[list[Tensor], list[Step]]:
        x, w, r = (graph.straight(t) for t in operands[:3])
        if leads:
            x = graph.permute(x, (1, 0, 2))
        steps, batch, _ = x.shape
        lengths = operands[4]
        if lengths is not None:
            known = lengths.array if isinstance(lengths, Indices) else None
            if known is None or (known != steps).any():
                op.refuse("with lengths of its sequences (sequence_lens) is not supported")
        hidden = r.shape[2]
        gates = r.shape[1] // hidden
        apart = kind == "GRU" and not given.get("linear_before_reset", 0)
        cell = {
            "RNN": lambda: _rnn(activation),
            "LSTM": lambda: _lstm("iofg"),
            "GRU": lambda: _gru("zrn", reset_after=not apart),
        }[kind]()
        zeros = graph.splat(0.0, (batch, hidden))
        found: list[Tensor] = []
        ends: list[list[Tensor]] = [[], []] if kind == "LSTM" else [[]]
        logged: list[Step] = []

        def of(tensor: Tensor, number: int) -> Tensor:
            part = _sliced(graph, tensor, 0, number, 1)
            return graph.reshape(part, tensor.shape[1:])

        for number, reverse in enumerate(reverses):
            biases: tuple[Tensor | None, Tensor | None] = (None, None)
            if operands[3] is not None:
                both = of(graph.straight(operands[3]), number)
                half = gates * hidden
                biases = (_sliced(graph, both, 0, 0, half), _sliced(graph, both, 0, half, half))
            initials = []
            for state in operands[5:7] if kind == "LSTM" else operands[5:6]:
                if state is None:
                    initials.append(zeros)
                    continue
                state = graph.straight(state)
                initials.append(of(graph.permute(state, (1, 0, 2)) if leads else state, number))
            before = len(graph.steps)
            weights = Weights(of(w, number), of(r, number), *biases)
            states = _run(graph, cell, x, weights, initials, reverse=reverse, apart=apart)
            logged += graph.steps[before:]
            output = _outputs(graph, states[0], reverse)
            found.append(graph.reshape(output, (steps, 1, batch, hidden)))
            for end, state in zip(ends, states, strict=True):
                end.append(_last(graph, state, reverse))
        made = [_concat(graph, found, 1), *(_concat(graph, end, 0) for end in ends)]
        if leads:
            made = [graph.permute(made[0], (2, 0, 1, 3)), *(graph.permute(t, (1, 0, 2)) for t in made[1:])]
        return made, logged

    made, steps = _silently(graph, built)
    graph.steps += steps
    return tuple(made)
