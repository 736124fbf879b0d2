"""Models that compute their own loss, and those with several outputs, on the simulator against PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import traindeeploy
from traindeeploy.acceptance import deviations, loss_deviation
from traindeeploy.errors import TrainDeeployError

LR = 0.1
Loss = Callable[..., torch.Tensor]


class Own(nn.Module):
    """A loss of a linear layer's result [n, 5] and of targets, of real or whole numbers."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.fc, self.loss = nn.Linear(3, 5), loss

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.loss(self.fc(x), target)


WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.0, 1.5])

LOSSES: dict[str, Loss] = {
    "mse": F.mse_loss,
    "l1, sum": lambda y, t: F.l1_loss(y, t, reduction="sum"),
    "smooth l1": lambda y, t: F.smooth_l1_loss(y, t, beta=0.7),
    "huber": lambda y, t: F.huber_loss(y, t, delta=0.6),
    "bce": lambda y, t: F.binary_cross_entropy_with_logits(
        y, torch.sigmoid(t), weight=WEIGHT.to(y), pos_weight=WEIGHT.to(y)
    ),
    "distillation": lambda y, t: F.kl_div(
        torch.log_softmax(y / 2, -1), torch.softmax(t / 2, -1), reduction="batchmean"
    ),
    "kl of logarithms": lambda y, t: F.kl_div(
        torch.log_softmax(y, -1), torch.log_softmax(t, -1), reduction="sum", log_target=True
    ),
    "written out": lambda y, t: ((y - t).abs().clamp(max=0.5) ** 3).mean() + 0.1 * y.pow(2).sum(),
}

OF_LABELS: dict[str, Loss] = {
    "cross-entropy": F.cross_entropy,
    "all": lambda y, t: F.cross_entropy(y, t, weight=WEIGHT.to(y), label_smoothing=0.2, ignore_index=1),
    "sum": lambda y, t: F.cross_entropy(y, t, weight=WEIGHT.to(y), reduction="sum"),
    "nll": lambda y, t: F.nll_loss(2 * y, t, weight=WEIGHT.to(y)),
}


def check(name: str, loss: Loss, target: np.ndarray) -> None:
    module = Own(loss)
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    data = {"x": x, "target": target}
    before = {key: value.numpy().copy() for key, value in module.state_dict().items()}
    example = (torch.from_numpy(x[:3]), torch.from_numpy(target[:3]))
    program = traindeeploy.compile(
        module, example, loss="model", target="pulp" if len(name) % 2 else "pulp-redmule"
    )
    result = program.run(data, steps=2, lr=LR, check=True)
    reference, losses = copy.deepcopy(module).double(), []
    optimizer = torch.optim.SGD(reference.parameters(), lr=float(np.float32(LR)))
    for step in range(2):
        rows = slice(3 * step, 3 * step + 3)
        t = torch.from_numpy(target[rows])
        optimizer.zero_grad()
        value = reference(torch.from_numpy(x[rows]).double(), t.double() if t.is_floating_point() else t)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert loss_deviation(result.losses, losses) <= 1
    expected = {key: value.numpy() for key, value in reference.state_dict().items()}
    for item in deviations(before, result.params, expected, steps=2):
        assert item.update > 0 and item.worst <= 1, item


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str) -> None:
    check(name, LOSSES[name], np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32))


@pytest.mark.parametrize("name", OF_LABELS)
def test_losses_of_labels(name: str) -> None:
    check(name, OF_LABELS[name], np.array([4, -100 if name != "all" else 1, 0, 2, 1, 0]))


def test_labels_of_an_own_loss_are_checked() -> None:
    module = Own(F.cross_entropy)
    program = traindeeploy.compile(
        module, (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)), loss="model"
    )
    with pytest.raises(TrainDeeployError, match="has index 5, but indices go from 0 to 4"):
        program.run({"x": np.zeros((2, 3), np.float32), "target": np.array([-100, 5])}, steps=1, lr=LR)


class Several(nn.Module):
    """Two outputs, as a dictionary or a tuple."""

    def __init__(self, names: bool) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.a, self.b, self.names = nn.Linear(3, 2), nn.Linear(3, 4), names

    def forward(self, x: torch.Tensor) -> object:
        one, two = self.a(x), self.b(x)
        return {"main": one, "auxiliary": two} if self.names else (one, two)


@pytest.mark.parametrize("names", [True, False])
def test_one_of_several_outputs(names: bool) -> None:
    example = (torch.zeros(2, 3),)
    with pytest.raises(
        TrainDeeployError, match=r"the model has 2 outputs \(\w+, \w+\); say which one trains it"
    ):
        traindeeploy.compile(Several(names), example, loss="mse")
    with pytest.raises(TrainDeeployError, match="the model has no output 'logits'; its outputs are: "):
        traindeeploy.compile(Several(names), example, loss="mse", output="logits")
    with pytest.raises(TrainDeeployError, match="are for models that compute their own loss"):
        traindeeploy.compile(
            Several(names), example, loss="mse", output=["main", "auxiliary"] if names else "0=2"
        )
    program = traindeeploy.compile(Several(names), example, loss="mse", output="auxiliary" if names else "1")
    assert program.manifest["output"] == [2, 4]


class Losses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.fc(x)
        return {"size": y.pow(2).mean(), "distance": (y - 1).abs().sum()}


def test_outputs_with_weights() -> None:
    module = Losses()
    x = torch.randn(2, 3)
    options = {"loss": "model", "output": ["size=2", "distance=0.25"]}
    result = traindeeploy.compile(module, (x,), **options).run({"x": x.numpy()}, steps=1, lr=LR)  # type: ignore[arg-type]
    found = module.double()(x.double())
    assert result.losses == [pytest.approx((2 * found["size"] + 0.25 * found["distance"]).item(), rel=1e-5)]
    for output, says in (("size=x", "'x' is no weight of output 'size'"), (["size", "size"], "named twice")):
        with pytest.raises(TrainDeeployError, match=says):
            traindeeploy.compile(Losses(), (x,), loss="model", output=output)


def test_what_is_no_loss() -> None:
    with pytest.raises(TrainDeeployError, match="is no loss: one number is needed"):
        traindeeploy.compile(nn.Linear(3, 2), (torch.zeros(2, 3),), loss="model")
    with pytest.raises(TrainDeeployError, match="has reduced it already"):
        traindeeploy.compile(Losses(), (torch.zeros(2, 3),), loss="model", loss_reduction="sum")


def test_outputs_of_onnx(tmp_path: Path) -> None:
    """Two losses, of which one is chosen, or both are added."""
    weight = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("ReduceSumSquare", ["y"], ["squares"], keepdims=0),
        helper.make_node("ReduceL1", ["y"], ["sizes"], keepdims=0),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("squares", "sizes")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    graph = helper.make_graph(nodes, "losses", [x], outputs, [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "losses.onnx")
    data = {"x": np.ones((2, 3), np.float32)}
    y = data["x"].astype(np.float64) @ weight
    sizes = {"squares": (y**2).sum(), "sizes": np.abs(y).sum()}
    for output, expected in (
        ("sizes", sizes["sizes"]),
        (["squares=0.5", "sizes=2"], 0.5 * sizes["squares"] + 2 * sizes["sizes"]),
    ):
        program = traindeeploy.compile(str(tmp_path / "losses.onnx"), loss="model", output=output)
        assert program.run(data, steps=1, lr=LR).losses == [pytest.approx(expected, rel=1e-5)]
