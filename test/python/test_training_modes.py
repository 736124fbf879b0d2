"""Losses, batch norm with statistics of the batch, dropout and embeddings: whole programs on the simulator
against PyTorch in float64, by the rule, under checked execution."""

from __future__ import annotations

import copy
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from torch import nn

import traindeeploy
from onnx_export import PRESERVE, exported
from traindeeploy.acceptance import deviations, loss_deviation
from traindeeploy.driver import training_graph
from traindeeploy.host import HostStep

Arrays = dict[str, np.ndarray]
LR = 0.1


def arrays(seed: int, **shapes: tuple[int, ...]) -> Arrays:
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def torch_steps(
    module: nn.Module, data: Arrays, loss: Callable[..., torch.Tensor], batch: int, steps: int
) -> tuple[Arrays, list[float]]:
    """Parameters and buffers after SGD in float64, and the losses."""
    module = copy.deepcopy(module).double()
    optimizer = torch.optim.SGD(module.parameters(), lr=float(np.float32(LR)))
    losses = []
    (name,) = set(data) - {"target", "labels"}
    target = data.get("labels", data.get("target"))
    for step in range(steps):
        rows = slice(step * batch, (step + 1) * batch)
        x, t = torch.from_numpy(data[name][rows]), torch.from_numpy(target[rows])
        x, t = (value.double() if value.is_floating_point() else value for value in (x, t))
        optimizer.zero_grad()
        value = loss(module(x), t)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    state = {name: value.numpy() for name, value in module.state_dict().items() if value.ndim}
    return state, losses


def agree(
    module: nn.Module,
    model: object,
    inputs: tuple[torch.Tensor, ...] | None,
    data: Arrays,
    reference: Callable[..., torch.Tensor],
    *,
    steps: int = 2,
    batch: int,
    relative: float = 1e-4,
    **options: object,
) -> None:
    before = {name: value.numpy().copy() for name, value in module.state_dict().items() if value.ndim}
    expected, losses = torch_steps(module, data, reference, batch, steps)
    program = traindeeploy.compile(model, inputs, **options)  # type: ignore[arg-type]
    result = program.run(data, steps=steps, lr=LR, check=True)
    assert loss_deviation(result.losses, losses) <= 1
    assert set(result.params) == set(expected)
    for item in deviations(before, result.params, expected, steps=steps, relative=relative):
        assert item.update > 0 and item.worst <= 1, item


LOSSES: dict[str, tuple[dict[str, object], Callable[..., torch.Tensor]]] = {
    "mse": ({"loss": "mse"}, F.mse_loss),
    "mse sum": (
        {"loss": "mse", "loss_reduction": "sum"},
        lambda x, t: F.mse_loss(x, t, reduction="sum"),
    ),
    "l1": ({"loss": "l1"}, F.l1_loss),
    "l1 sum": ({"loss": "l1", "loss_reduction": "sum"}, lambda x, t: F.l1_loss(x, t, reduction="sum")),
    "bce": ({"loss": "bce-with-logits"}, F.binary_cross_entropy_with_logits),
    "bce sum": (
        {"loss": "bce-with-logits", "loss_reduction": "sum"},
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="sum"),
    ),
    "cross-entropy": ({"loss": "cross-entropy"}, F.cross_entropy),
    "cross-entropy sum": (
        {"loss": "cross-entropy", "loss_reduction": "sum"},
        lambda x, t: F.cross_entropy(x, t, reduction="sum"),
    ),
    "cross-entropy smooth": (
        {"loss": "cross-entropy", "label_smoothing": 0.1},
        lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1),
    ),
    "cross-entropy smooth sum": (
        {"loss": "cross-entropy", "label_smoothing": 0.3, "loss_reduction": "sum"},
        lambda x, t: F.cross_entropy(x, t, label_smoothing=0.3, reduction="sum"),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str) -> None:
    options, reference = LOSSES[name]
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    data = arrays(1, input=(6, 5), target=(6, 3))
    if name.startswith("cross"):
        data["labels"] = np.array([0, 2, 1, 1, 0, 2])
        del data["target"]
    elif name.startswith("bce"):
        data["target"] = 1 / (1 + np.exp(-data["target"]))
    agree(module, module, (torch.zeros(3, 5),), data, reference, batch=3, **options)


class Powers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = 0.1 + torch.sigmoid(self.first(x))
        return self.last(y**1.7 - y**-2.3 + y**0.5 + y**11)


class Gated(nn.Module):
    """Parts of a tensor, activations, and the padding and adaptive pooling of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 10, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose1d(5, 3, 3, stride=2)
        self.pool = nn.AdaptiveAvgPool1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.conv(x).chunk(2, 1)
        y = self.up(F.hardswish(3 * a) * torch.sigmoid(b) + F.silu(a))
        return self.pool(F.relu6(2 * y) + F.leaky_relu(y, 0.1))


@pytest.mark.parametrize("make, shape", [(Powers, (3, 5)), (Gated, (2, 3, 11))])
def test_operators(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    module = make()
    data = arrays(2, x=(2 * shape[0], *shape[1:]))
    data["target"] = arrays(3, t=(2 * shape[0], *module(torch.zeros(shape)).shape[1:]))["t"]
    agree(module, module, (torch.zeros(shape),), data, F.mse_loss, batch=shape[0], loss="mse", relative=2e-4)


class Words(nn.Module):
    def __init__(self, padding: int | None) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(11, 6, padding_idx=padding), nn.Embedding(7, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        at = torch.arange(tokens.shape[1])
        return self.fc(torch.tanh(self.words(tokens) + self.positions(at)).mean(1))


def words_data() -> Arrays:
    generator = np.random.default_rng(4)
    return {"tokens": generator.integers(0, 11, (6, 5)), "labels": generator.integers(0, 3, 6)}


@pytest.mark.parametrize("padding", [None, 3])
def test_embedding(padding: int | None) -> None:
    torch.manual_seed(3)
    module = Words(padding)
    example = (torch.zeros(3, 5, dtype=torch.int64),)
    agree(module, module, example, words_data(), F.cross_entropy, batch=3, loss="cross-entropy")


def test_indices_out_of_range() -> None:
    program = traindeeploy.compile(
        Words(None), (torch.zeros(3, 5, dtype=torch.int64),), loss="cross-entropy", recipe="linear-probe"
    )
    data = words_data()
    data["tokens"][4, 2] = 11
    with pytest.raises(traindeeploy.TrainDeeployError, match="has index 11, but indices go from 0 to 10"):
        program.run(data, steps=1, lr=LR)
    data["tokens"] = data["tokens"].astype(np.float32)
    with pytest.raises(traindeeploy.TrainDeeployError, match="an integer type is needed"):
        program.run(data, steps=1, lr=LR)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(5, momentum=0.2)
        self.fc = nn.Linear(5, 7, bias=False)
        self.norm1 = nn.BatchNorm1d(7)
        self.last = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.norm(self.conv(x))).mean((2, 3))
        return self.last(self.norm1(self.fc(x)) ** 2)


def normed_data() -> Arrays:
    data = arrays(5, x=(16, 3, 5, 7))
    data["labels"] = np.random.default_rng(6).integers(0, 3, 16)
    return data


@pytest.mark.parametrize("route", ["torch", "onnx"])
def test_batch_norm_of_the_batch(route: str) -> None:
    """Parameters and running statistics follow PyTorch's in training mode, from either frontend."""
    torch.manual_seed(4)
    module = Normed().train()
    x = torch.zeros(8, 3, 5, 7)
    model, inputs = (
        (module, (x,))
        if route == "torch"
        else (exported(copy.deepcopy(module).eval(), x, 13, PRESERVE), None)
    )
    agree(
        module, model, inputs, normed_data(), F.cross_entropy,
        batch=8, loss="cross-entropy", batch_norm="batch", relative=1e-3,
    )  # fmt: skip


def test_running_statistics_in_the_model_again(tmp_path: Path) -> None:
    """The saved ONNX model, in which equal statistics were shared, computes what PyTorch does."""
    torch.manual_seed(9)
    module = Normed().train()
    proto = exported(copy.deepcopy(module).eval(), torch.zeros(8, 3, 5, 7), 15, PRESERVE)
    program = traindeeploy.compile(proto, loss="cross-entropy", batch_norm="batch")
    result = program.run(normed_data(), steps=2, lr=LR)
    program.save_onnx(tmp_path / "trained.onnx", result.params)
    program.load_into(module, result.params)
    x = normed_data()["x"][:8]
    (found,) = ReferenceEvaluator(str(tmp_path / "trained.onnx")).run(None, {"x": x})
    expected = module.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(not os.environ.get("TRAINDEEPLOY_GVSOC"), reason="TRAINDEEPLOY_GVSOC names no GVSoC")
def test_dropout_on_both_simulators() -> None:
    torch.manual_seed(10)
    program = traindeeploy.compile(
        Normed(), (torch.zeros(8, 3, 5, 7),), loss="cross-entropy", batch_norm="batch", dropout=1
    )
    dropped = traindeeploy.compile(Dropped(), (torch.zeros(5, 6),), loss="mse", dropout=11)
    for each, data in ((program, normed_data()), (dropped, dropped_data())):
        ours, theirs = (
            each.run(data, steps=2, lr=LR, simulator=name, check=False) for name in ("tdsim", "gvsoc")
        )
        assert ours.losses == theirs.losses
        for name, value in ours.params.items():
            np.testing.assert_array_equal(value.view(np.uint32), theirs.params[name].view(np.uint32))


def test_running_statistics_go_on(tmp_path: Path) -> None:
    """Two runs of one step are one run of two: the statistics are in params.npz."""
    torch.manual_seed(5)
    program = traindeeploy.compile(
        Normed(), (torch.zeros(8, 3, 5, 7),), loss="cross-entropy", batch_norm="batch", dropout=1
    )
    whole = program.run(normed_data(), steps=2, lr=LR)
    first = program.run(normed_data(), steps=1, lr=LR)
    first.write(tmp_path)
    second = program.run(normed_data(), steps=1, lr=LR, init=tmp_path / "params.npz")
    assert "norm.running_mean" in whole.params and "norm1.running_var" in whole.params
    for name, value in whole.params.items():
        np.testing.assert_array_equal(second.params[name], value)


def test_frozen_statistics_are_the_default() -> None:
    torch.manual_seed(6)
    module = Normed().eval()
    program = traindeeploy.compile(module, (torch.zeros(8, 3, 5, 7),), loss="cross-entropy")
    result = program.run(normed_data(), steps=1, lr=LR)
    assert set(result.params) == {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize(
    "module, x, says",
    [
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), (1, 3), "one value per channel"),
        (nn.Sequential(nn.Linear(3, 4), *[nn.BatchNorm1d(4)] * 2), (2, 3), "is applied twice"),
        # An average of all batches, which would need to know how many there were.
        (
            nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=None)),
            (2, 3),
            "has the momentum 0 or None",
        ),
    ],
)
def test_batch_norm_that_has_no_statistics(module: nn.Module, x: tuple[int, ...], says: str) -> None:
    with pytest.raises(traindeeploy.TrainDeeployError, match=says) as error:
        traindeeploy.compile(module, (torch.zeros(x),), loss="mse", batch_norm="batch")
    assert "batch_norm" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("batch_norm", ["frozen", "batch"])
def test_batch_norm_that_keeps_no_statistics(batch_norm: str) -> None:
    """It takes those of the batch in either mode."""
    torch.manual_seed(7)
    norm = nn.BatchNorm2d(5, track_running_stats=False)
    module = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), norm, nn.Tanh(), nn.Flatten(), nn.Linear(75, 3))
    data = normed_data()
    data["input"] = data.pop("x")
    agree(
        module, module, (torch.zeros(8, 3, 5, 7),), data, F.cross_entropy,
        batch=8, loss="cross-entropy", batch_norm=batch_norm, relative=1e-3,
    )  # fmt: skip


class Dropped(nn.Module):
    def __init__(self, probability: float = 0.3) -> None:
        super().__init__()
        self.fc, self.last = nn.Linear(6, 37), nn.Linear(37, 3)
        self.probability = probability

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.dropout(torch.tanh(self.fc(x)), self.probability, self.training)
        return F.dropout(self.last(y), self.probability, self.training)


def dropped_data(samples: int = 10) -> Arrays:
    return arrays(7, x=(samples, 6), target=(samples, 3))


@pytest.mark.parametrize("route", ["torch", "onnx"])
def test_dropout_is_the_same_on_host_and_simulator(route: str) -> None:
    torch.manual_seed(7)
    module = Dropped()
    x = torch.zeros(5, 6)
    if route == "onnx":
        module = nn.Sequential(nn.Linear(6, 37), nn.Dropout(0.3), nn.Linear(37, 3), nn.Dropout(0.3))
        module.train()
        model, inputs = onnx_with_dropout(module, x), None
    else:
        model, inputs = module, (x,)
    data = dropped_data()
    text, imported = training_graph(model, inputs, loss="mse", dropout=11)
    values = dict(imported.parameters)
    losses = []
    step = HostStep(text)
    for start in (0, 5):
        sample = {name: value[start : start + 5] for name, value in data.items()}
        feed = {**sample, "lr": np.float32(LR), "dropout.counter": np.int32(start)}
        loss, values = step(values, feed)
        losses.append(loss)
    result = traindeeploy.compile(model, inputs, loss="mse", dropout=11).run(data, steps=2, lr=LR)
    assert result.losses == pytest.approx(losses, rel=2e-6)
    for name, value in result.params.items():
        np.testing.assert_allclose(value, values[name], rtol=0, atol=2e-6, err_msg=name)


def onnx_with_dropout(module: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (x,), file, dynamo=False, opset_version=12, do_constant_folding=False,
            input_names=["x"], training=torch.onnx.TrainingMode.TRAINING,
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


class Mask(nn.Module):
    """The mask itself is the gradient of `w`."""

    def __init__(self, shape: tuple[int, ...], probability: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(shape))
        self.dropout = nn.Dropout(probability)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(x * self.w).sum((1, 2), keepdim=True)


def masks(probability: float, seed: int, steps: int = 4) -> np.ndarray:
    """Which of 64 x 67 elements each step keeps, from the updates."""
    shape = (64, 67)
    text, imported = training_graph(
        Mask(shape, probability), (torch.zeros(1, *shape),), loss="l1", loss_reduction="sum", dropout=seed
    )
    step = HostStep(text)
    found = []
    for counter in range(steps):
        feed = {
            "x": np.ones((1, *shape), np.float32),
            "target": np.full((1, 1, 1), -1e6, np.float32),
            "lr": np.float32(1),
            "dropout.counter": np.int32(counter),
        }
        _, values = step(imported.parameters, feed)
        found.append(imported.parameters["w"] - values["w"])
    return np.array(found)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share(probability: float) -> None:
    found = masks(probability, 3)
    kept = found != 0
    np.testing.assert_allclose(found[kept], 1 / (1 - probability), rtol=1e-5)
    deviation = (probability * (1 - probability) / found[0].size) ** 0.5
    for share in kept.mean((1, 2)):
        assert abs(share - (1 - probability)) < 5 * deviation
    # Steps, seeds and neighbours have nothing to do with each other.
    other = masks(probability, 4) != 0
    for a, b in [
        (kept[0], kept[1]),
        (kept[0], other[0]),
        (kept[0, :, 1:], kept[0, :, :-1]),
        (kept[0, 1:], kept[0, :-1]),
    ]:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 6 / a.size**0.5


def test_dropout_of_all_and_of_nothing() -> None:
    assert (masks(1.0, 0, 1) == 0).all()
    imported = training_graph(Mask((3, 5), 0.0), (torch.zeros(1, 3, 5),), loss="mse", dropout=1)[1]
    assert imported.notes == ("dropout is on, but the model has none",)


def test_dropout_is_off_without_a_seed() -> None:
    torch.manual_seed(8)
    module = Dropped()
    agree(module.eval(), module, (torch.zeros(5, 6),), dropped_data(), F.mse_loss, batch=5, loss="mse")
