"""RNN, LSTM and GRU from PyTorch and ONNX: programs against float64, and gradients on the host."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from mlir.ir import Module
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import traindeeploy
from onnx_export import exported
from test_gradients import check
from traindeeploy.acceptance import MIXED, MIXED_LOSS_TOLERANCE, deviations, loss_deviation
from traindeeploy.errors import TrainDeeployError
from traindeeploy.frontend import import_model
from traindeeploy.host import make_context, run_pipeline
from traindeeploy.ir_facts import plan_operators
from traindeeploy.optimizers import SGD, attach

LR = 0.05
KINDS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Net(nn.Module):
    """The outputs of a recurrence over time, or a layer on the last of them."""

    def __init__(self, kind: str, inputs: int, hidden: int, last: bool = False, **options: Any):
        super().__init__()
        self.r = KINDS[kind](inputs, hidden, **options)
        self.head = nn.Linear(hidden * (2 if options.get("bidirectional") else 1), 3) if last else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.r(x)[0]
        return self.head(y[:, -1] if self.r.batch_first else y[-1]) if self.head else y


def agree(
    net: nn.Module, shape: tuple[int, ...], model: object = None, name: str = "x", **options: Any
) -> None:
    """One step of SGD on the sum of squares agrees with PyTorch in float64, by the rule."""
    random = np.random.default_rng(1)
    x = random.standard_normal(shape).astype(np.float32)
    net = net.eval()
    target = random.standard_normal(tuple(net(torch.from_numpy(x)).shape)).astype(np.float32)
    inputs = None if model is not None else (torch.from_numpy(x),)
    program = traindeeploy.compile(model or net, inputs, loss="mse", loss_reduction="sum", **options)
    result = program.run({name: x, "target": target}, steps=1, lr=LR, check=True)
    exact = copy.deepcopy(net).double()
    loss = ((exact(torch.from_numpy(x).double()) - torch.from_numpy(target).double()) ** 2).sum()
    loss.backward()
    before = {n: v.detach().numpy() for n, v in net.named_parameters()}
    rate = float(np.float32(LR))
    after = {n: v.detach().numpy() - rate * v.grad.numpy() for n, v in exact.named_parameters()}
    mixed = options.get("precision") == "mixed"
    tolerance = (MIXED_LOSS_TOLERANCE,) if mixed else ()
    assert loss_deviation(result.losses, [loss.item()], *tolerance) <= 1
    assert set(result.params) == set(after)
    for item in deviations(before, result.params, after, steps=1, **(MIXED if mixed else {})):
        # In one step from zero the state's weight has no gradient.
        assert (item.update > 0 or 1 in shape[:2]) and item.worst <= 1, item


@pytest.mark.parametrize(
    "kind, inputs, hidden, batch, steps, options, target",
    [
        ("rnn", 3, 7, 3, 33, {}, "pulp"),
        ("rnn", 3, 1, 1, 1, {"nonlinearity": "relu", "bias": False}, "pulp-redmule"),
        ("lstm", 5, 32, 3, 2, {}, "pulp-redmule"),
        ("lstm", 1, 1, 1, 33, {"batch_first": True}, "pulp"),
        ("lstm", 3, 7, 3, 5, {"bidirectional": True, "num_layers": 2, "batch_first": True}, "pulp-redmule"),
        ("lstm", 7, 97, 1, 2, {}, "pulp-redmule"),
        ("gru", 5, 32, 1, 2, {"batch_first": True}, "pulp"),
        ("gru", 4, 97, 3, 2, {"bias": False}, "pulp-redmule"),
        ("gru", 3, 7, 2, 3, {"bidirectional": True}, "pulp-redmule"),
    ],
)
def test_torch(
    kind: str, inputs: int, hidden: int, batch: int, steps: int, options: dict[str, Any], target: str
) -> None:
    torch.manual_seed(0)
    shape = (batch, steps, inputs) if options.get("batch_first") else (steps, batch, inputs)
    agree(Net(kind, inputs, hidden, **options), shape, target=target)


@pytest.mark.parametrize(
    "kind, target, precision",
    [
        ("lstm", "pulp", "fp32"),
        ("gru", "pulp-redmule", "fp32"),
        ("lstm", "pulp-redmule-fp16", "mixed"),
    ],
)
def test_a_hundred_steps(kind: str, target: str, precision: str) -> None:
    torch.manual_seed(0)
    net = Net(kind, 8, 12, last=True, batch_first=True)
    agree(net, (2, 100, 8), target=target, precision=precision)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_states_that_are_given(kind: str) -> None:
    """Initial states that train, and last states as the result."""

    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.r = KINDS[kind](3, 5)
            self.h, self.c = nn.Parameter(torch.randn(1, 2, 5)), nn.Parameter(torch.randn(1, 2, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if kind == "lstm":
                y, (h, c) = self.r(x, (self.h, self.c))
                return y + h * c
            y, h = self.r(x, self.h)
            return y + h * self.c

    torch.manual_seed(0)
    agree(Given(), (4, 2, 3), target="pulp-redmule")


def test_plans_do_not_grow_with_time() -> None:
    """A loop of many runs has the operators of one of three."""
    net = Net("lstm", 4, 8, last=True).eval()
    names = ",".join(name for name, _ in net.named_parameters())
    counts = {}
    for steps in (3, 50):
        text = import_model(net, (torch.zeros(steps, 1, 4),)).module_text
        with make_context():
            module = Module.parse(text)
            attach(module, SGD())
            run_pipeline(module, f"td-graph{{loss=mse trainable={names}}},td-set-target,td-plan")
            runs = [operator.runs for operator in plan_operators(module) if operator.runs > 1]
        assert set(runs) == {steps}
        counts[steps] = len(runs)
    assert counts[3] == counts[50] > 2


# ONNX.


class Reference(nn.Module):
    """An ONNX recurrence by ONNX's own equations, step by step; parameters by their names in the file."""

    def __init__(
        self,
        kind: str,
        direction: str,
        inputs: int,
        hidden: int,
        layout: int,
        reset: int,
        given: bool,
        batch: int,
    ):
        super().__init__()
        self.kind, self.layout, self.reset = kind, layout, reset
        self.reverses = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
        gates = {"RNN": 1, "LSTM": 4, "GRU": 3}[kind]
        d = len(self.reverses)
        self.w = nn.Parameter(torch.randn(d, gates * hidden, inputs) / 2)
        self.r = nn.Parameter(torch.randn(d, gates * hidden, hidden) / 2)
        self.b = nn.Parameter(torch.randn(d, 2 * gates * hidden) / 2)
        states = (batch, d, hidden) if layout else (d, batch, hidden)
        self.h = nn.Parameter(torch.randn(states)) if given else None
        self.c = nn.Parameter(torch.randn(states)) if given and kind == "LSTM" else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(0, 1) if self.layout else x
        hidden = self.r.shape[2]
        outputs, ends = [], []
        for d, reverse in enumerate(self.reverses):
            wb, rb = self.b[d].chunk(2)

            def initial(state: torch.Tensor | None, d: int = d) -> torch.Tensor:
                if state is None:
                    return x.new_zeros(x.shape[1], hidden)
                return state[:, d] if self.layout else state[d]

            h, c = initial(self.h), initial(self.c)
            made: list[torch.Tensor] = []
            for step in reversed(x) if reverse else x:
                xw, hr = step @ self.w[d].T + wb, h @ self.r[d].T + rb
                if self.kind == "RNN":
                    h = torch.tanh(xw + hr)
                elif self.kind == "LSTM":
                    i, o, f, g = (xw + hr).chunk(4, 1)
                    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                    h = torch.sigmoid(o) * torch.tanh(c)
                else:
                    z = torch.sigmoid((xw + hr)[:, :hidden])
                    r = torch.sigmoid((xw + hr)[:, hidden : 2 * hidden])
                    late = r * hr[:, 2 * hidden :]
                    if not self.reset:
                        late = (r * h) @ self.r[d, 2 * hidden :].T + rb[2 * hidden :]
                    h = (1 - z) * torch.tanh(xw[:, 2 * hidden :] + late) + z * h
                made.append(h)
            outputs.append(torch.stack(made[::-1] if reverse else made))
            ends.append(h)
        y, end = torch.stack(outputs, 1), torch.stack(ends)  # [T, D, B, H], [D, B, H]
        if self.layout:
            y, end = y.permute(2, 0, 1, 3), end.transpose(0, 1)
        return y + end.unsqueeze(1 if self.layout else 0)


def onnx_model(net: Reference, shape: tuple[int, ...], direction: str, **more: Any) -> onnx.ModelProto:
    kind, hidden = net.kind, net.r.shape[2]
    inputs = ["x", "w", "r", "b", "", "h" if net.h is not None else "", "c" if net.c is not None else ""]
    while not inputs[-1]:
        inputs.pop()
    attributes = {"hidden_size": hidden, "direction": direction, "layout": net.layout, **more}
    if kind == "GRU":
        attributes["linear_before_reset"] = net.reset
    names = more.pop("inputs", inputs)
    attributes.pop("inputs", None)
    nodes = [
        helper.make_node(kind, names, ["y", "end"], name="recurrent", **attributes),
        helper.make_node("Unsqueeze", ["end", "axis"], ["ends"]),
        helper.make_node("Add", ["y", "ends"], ["out"]),
    ]
    tensors = [numpy_helper.from_array(v.detach().numpy(), k) for k, v in net.named_parameters()]
    tensors.append(numpy_helper.from_array(np.array([1 if net.layout else 0]), "axis"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, shape)],
        [value("out", TensorProto.FLOAT, net(torch.zeros(shape)).shape)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    "kind, direction, layout, reset, given",
    [
        ("RNN", "forward", 0, 0, False),
        ("RNN", "bidirectional", 1, 0, True),
        ("LSTM", "reverse", 0, 0, True),
        ("LSTM", "bidirectional", 1, 0, False),
        ("GRU", "forward", 0, 0, True),
        ("GRU", "bidirectional", 0, 1, False),
        ("GRU", "reverse", 1, 0, False),
    ],
)
def test_onnx(kind: str, direction: str, layout: int, reset: int, given: bool) -> None:
    torch.manual_seed(0)
    net = Reference(kind, direction, 3, 5, layout, reset, given, batch=2)
    shape = (2, 4, 3) if layout else (4, 2, 3)
    agree(net, shape, onnx_model(net, shape, direction), target="pulp-redmule")


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_exported(kind: str) -> None:
    """PyTorch's exporter writes one operator; its names are those of the module's parameters or not."""
    torch.manual_seed(0)
    net = Net(kind, 3, 5, last=True, batch_first=True).eval()
    x = torch.randn(2, 6, 3)
    model = exported(net, x, 17)
    assert any(node.op_type == kind.upper() for node in model.graph.node)
    data = {"x": x.numpy(), "target": np.zeros((2, 3), np.float32)}
    result = traindeeploy.compile(model, loss="mse").run(data, steps=2, lr=LR)
    same = traindeeploy.compile(net, (x,), loss="mse").run(data, steps=2, lr=LR)
    assert result.losses == pytest.approx(same.losses, rel=1e-6)


@pytest.mark.parametrize(
    "more, said",
    [
        ({"clip": 3.0}, "with a clip is not supported"),
        ({"input_forget": 1}, "with input_forget is not supported"),
        ({"activations": ["Relu", "Tanh", "Tanh"]}, "with the activations Relu, Tanh, Tanh is not supported"),
        ({"inputs": ["x", "w", "r", "b", "", "h", "c", "p"]}, "with peepholes"),
        ({"inputs": ["x", "w", "r", "b", "n", "h", "c"]}, "with lengths of its sequences"),
    ],
)
def test_forms_that_are_refused(more: dict[str, Any], said: str) -> None:
    net = Reference("LSTM", "forward", 3, 5, 0, 0, True, batch=2)
    model = onnx_model(net, (4, 2, 3), "forward", **more)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 15), np.float32), "p"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([4, 3], np.int32), "n"))
    with pytest.raises(TrainDeeployError, match=rf"operator LSTM at 'recurrent \(LSTM\)' {said}"):
        traindeeploy.compile(model, loss="mse")


def test_projections_are_refused() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.r = nn.LSTM(3, 5, proj_size=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.r(x)[0]

    with pytest.raises(TrainDeeployError, match="proj_size"):
        traindeeploy.compile(Projected(), (torch.randn(4, 2, 3),), loss="mse")


# Gradients of the operator, in float64 on the host.

BODY = """
  %states, %outputs = train.recurrence {steps} {reverse} over (%x, %u : tensor<{times}x@>, tensor<5x@>)
    at [{start}, 0] from (%h : tensor<@>) with (%w, %b : tensor<3x3xf64>, tensor<3xf64>)
    -> tensor<{more}x@>, tensor<{steps}x@> {{
  ^bb0(%xt: tensor<@>, %ut: tensor<@>, %ht: tensor<@>, %wt: tensor<3x3xf64>, %bt: tensor<3xf64>):
    %p = train.linear %ht, %wt, %bt : tensor<@>, tensor<3x3xf64>, tensor<3xf64> -> tensor<@>
    %s = train.add %p, %xt : tensor<@>, tensor<@> -> tensor<@>
    %n = train.tanh %s : tensor<@>
    %m = train.mul %n, %ut : tensor<@>, tensor<@> -> tensor<@>
    %q = train.linear %m, %wt : tensor<@>, tensor<3x3xf64> -> tensor<@>
    %o = train.mul %q, %ht : tensor<@>, tensor<@> -> tensor<@>
    train.recurrence_next %n, %o : tensor<@>, tensor<@>
  }}
  %a = train.reshape %states : tensor<{more}x@> -> tensor<{rows}xf64>
  %c = train.reshape %outputs : tensor<{steps}x@> -> tensor<{columns}xf64>
  %result = train.concat %a, %c {{axis = 0}}
    : (tensor<{rows}xf64>, tensor<{columns}xf64>) -> tensor<{all}xf64>
""".replace("@", "2x3xf64")


@pytest.mark.parametrize("steps, times, start", [(5, 5, 0), (1, 1, 0), (3, 7, 2)])
@pytest.mark.parametrize("reverse", ["", "reverse"])
def test_gradients(steps: int, times: int, start: int, reverse: str) -> None:
    """Of inputs, also of those that are read in part, the initial state, and what steps share."""
    sizes = {"more": steps + 1, "rows": 6 * (steps + 1), "columns": 6 * steps, "all": 12 * steps + 6}
    body = BODY.format(steps=steps, times=times, start=start, reverse=reverse, **sizes)
    shapes = {"x": (times, 2, 3), "u": (5, 2, 3), "h": (2, 3), "w": (3, 3), "b": (3,)}
    check(body, shapes, (sizes["all"],))
