"""Computed masks, whole numbers, selections, stopped gradients: PyTorch modules on the simulator."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import traindeeploy
from traindeeploy.acceptance import deviations, loss_deviation
from traindeeploy.errors import TrainDeeployError
from traindeeploy.frontend import import_model

LR = 0.1


class Of(nn.Module):
    """A function of a linear layer's result [n, 4, 5], its weight and an input of whole numbers [n, 4]."""

    def __init__(self, function: Callable[..., torch.Tensor], ids: bool) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.fc, self.table = nn.Linear(3, 5), nn.Embedding(6, 5)
        self.function, self.ids = function, ids

    def forward(self, x: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        y = self.fc(x)
        return self.function(y, ids, self) if self.ids else self.function(y, self)


def straight_through(y: torch.Tensor, m: Of) -> torch.Tensor:
    return y + (torch.round(3 * y) / 3 - y).detach()


def padded_mean(y: torch.Tensor, ids: torch.Tensor, m: Of) -> torch.Tensor:
    """The mean of tokens that are no padding."""
    mask = (ids != 0).unsqueeze(-1).float()
    return ((y + m.table(ids)) * mask).sum(1) / mask.sum(1).clamp(min=1)


def attention(y: torch.Tensor, ids: torch.Tensor, m: Of) -> torch.Tensor:
    """As BERT's: a mask that is added to scores."""
    added = (1.0 - (ids > 1)[:, None, :].to(y.dtype)) * torch.finfo(y.dtype).min
    return torch.softmax(y @ y.transpose(1, 2) + added, -1) @ y


def no_grad(y: torch.Tensor, m: Of) -> torch.Tensor:
    with torch.no_grad():
        scale = torch.sigmoid(y).mean(-1, keepdim=True)
    return y * scale


FUNCTIONS: dict[str, Callable[[torch.Tensor, Of], torch.Tensor]] = {
    "where": lambda y, m: torch.where(y > 0, y, 0.1 * y),
    "where of two": lambda y, m: torch.where((y > -0.5) & ~(y >= 0.5) | (y < -1), y * y, m.fc.bias),
    "equal": lambda y, m: torch.where(y == y.amax(-1, keepdim=True), y * 2, y),
    "masked fill": lambda y, m: torch.softmax(y.masked_fill(y < 0, -1e4), -1),
    "like": lambda y, m: (
        torch.where(y > 0, torch.ones_like(y), torch.zeros_like(y)) * y + torch.full_like(y, 0.5)
    ),
    "rounded": lambda y, m: y * torch.floor(2 * y) + torch.sign(y) * torch.ceil(y) + torch.trunc(y),
    "straight through": straight_through,
    "threshold": lambda y, m: F.threshold(y, 0.1, -2.0),
    "product": lambda y, m: torch.prod(y, -1, keepdim=True) + torch.prod(y[:, 0], 1)[:, None, None],
    "cumsum": lambda y, m: torch.cumsum(y, 1) * torch.cumsum(y, -1),
    "gather": lambda y, m: torch.gather(y, 2, torch.tensor([[[0, 4, 2], [1, 1, 3]]]).expand(3, 2, 3)),
    "triangle": lambda y, m: torch.tril(y @ y.transpose(1, 2), -1),
    "picked": lambda y, m: (
        y[:, torch.tensor([3, 0, 2, 0])] * torch.index_select(y, 2, torch.tensor([4, 0, 2, 1, 3]))
    ),
    "two axes": lambda y, m: y[:, torch.tensor([[3], [0]]), torch.tensor([0, 2, 4])],
    "remainder": lambda y, m: torch.remainder(y, 0.7) + torch.frac(3 * y),
    "no grad": no_grad,
    "detach": lambda y, m: (y.detach() * y).relu(),
}

OF_IDS: dict[str, Callable[[torch.Tensor, torch.Tensor, Of], torch.Tensor]] = {
    "padded mean": padded_mean,
    "attention": attention,
    "shifted": lambda y, ids, m: y[:, 1:] + m.table(ids[:, :-1]) + m.table(ids[:, 1:]),
    "one hot": lambda y, ids, m: y * F.one_hot(ids, 5).float(),
    "gather": lambda y, ids, m: torch.gather(torch.log_softmax(y, -1), 2, ids.unsqueeze(-1)),
}


def check(module: Of, target: str, data: dict[str, np.ndarray], steps: int = 2) -> None:
    reference = copy.deepcopy(module).double()
    optimizer = torch.optim.SGD(reference.parameters(), lr=float(np.float32(LR)))
    inputs = tuple(torch.from_numpy(data[name][:3]) for name in ("x", "ids") if name in data)
    before = {name: value.numpy().copy() for name, value in module.state_dict().items()}
    losses, shape = [], None
    for step in range(steps):
        rows = slice(3 * step, 3 * step + 3)
        given = [torch.from_numpy(data[name][rows]) for name in ("x", "ids") if name in data]
        y = reference(*(g.double() if g.is_floating_point() else g for g in given))
        if shape is None:
            shape = y.shape[1:]
            values = np.random.default_rng(1).standard_normal((3 * steps, *shape))
            data = {**data, "target": values.astype(np.float32)}
        optimizer.zero_grad()
        loss = F.mse_loss(y, torch.from_numpy(data["target"][rows]).double())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    notes: list[str] = []
    program = traindeeploy.compile(module, inputs, loss="mse", target=target, notice=notes.append)
    result = program.run(data, steps=steps, lr=LR, check=True)
    assert loss_deviation(result.losses, losses) <= 1
    expected = {
        name: value.numpy() for name, value in reference.state_dict().items() if name in result.params
    }
    assert "fc.weight" in expected
    for item in deviations(before, result.params, expected, steps=steps):
        assert item.worst <= 1, item


def samples(ids: bool) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    data: dict[str, Any] = {"x": random.standard_normal((6, 4, 3)).astype(np.float32)}
    if ids:
        data["ids"] = random.integers(0, 5, (6, 4))
        data["ids"][:, 0] = 3  # something is no padding
    return data


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    target = "pulp" if len(name) % 2 else "pulp-redmule"
    check(Of(FUNCTIONS[name], False), target, samples(False))


@pytest.mark.parametrize("name", OF_IDS)
def test_functions_of_whole_numbers(name: str) -> None:
    check(Of(OF_IDS[name], True), "pulp-redmule", samples(True))


@pytest.mark.parametrize("how", ["no_grad", "detach"])
def test_a_backbone_without_a_gradient(how: str) -> None:
    """Only the head trains, and a note says where the gradient stops."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Sequential(nn.Linear(3, 5), nn.Tanh()), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if how == "no_grad":
                with torch.no_grad():
                    y = self.backbone(x)
            else:
                y = self.backbone(x).detach()
            return self.head(y)

    torch.manual_seed(0)
    module = Model()
    inputs = torch.randn(3, 3)
    imported = import_model(module, inputs)
    (note,) = imported.notes
    assert "the gradient stops at '" in note and "'backbone.0.weight' and what else is before it" in note
    data = {"x": inputs.numpy(), "target": np.zeros((3, 2), np.float32)}
    result = traindeeploy.compile(module, (inputs,), loss="mse").run(data, steps=1, lr=LR)
    loss = F.mse_loss(module(inputs), torch.zeros(3, 2))
    loss.backward()
    assert result.losses[0] == pytest.approx(loss.item(), rel=1e-5)
    assert set(result.params) == {"head.weight", "head.bias"}
    for name, value in result.params.items():
        parameter = dict(module.named_parameters())[name]
        expected = (parameter - LR * parameter.grad).detach().numpy()
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


class Window(nn.Module):
    """Attention of a window with a bias for each difference of places, from a table."""

    def __init__(self, size: int) -> None:
        super().__init__()
        torch.manual_seed(2)
        places = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
        differences = (places[:, :, None] - places[:, None, :]) + size - 1
        self.register_buffer("index", differences[0] * (2 * size - 1) + differences[1])
        self.table = nn.Parameter(0.1 * torch.randn((2 * size - 1) ** 2, 2))
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t = x.shape[:2]
        q, k, v = self.qkv(x).view(n, t, 3, 2, 2).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(t, t, 2).permute(2, 0, 1)
        weights = torch.softmax(q @ k.transpose(-1, -2) + bias, -1)
        return self.head((weights @ v).transpose(1, 2).reshape(n, t, 4))


@pytest.mark.parametrize(("size", "recipe"), [(4, "full"), (5, "linear-probe"), (7, "full")])
def test_window_attention_with_a_table(size: int, recipe: str) -> None:
    """The table is one lookup by constants: its gradient adds up."""
    module = Window(size)
    random = np.random.default_rng(0)
    x = random.standard_normal((2, size * size, 4)).astype(np.float32)
    data = {"x": x, "target": random.standard_normal((2, size * size, 3)).astype(np.float32)}
    before = {name: value.detach().numpy().copy() for name, value in module.named_parameters()}
    program = traindeeploy.compile(module, (torch.zeros(2, size * size, 4),), loss="mse", recipe=recipe)
    result = program.run(data, steps=1, lr=LR)
    reference = copy.deepcopy(module).double()
    loss = F.mse_loss(reference(torch.from_numpy(x).double()), torch.from_numpy(data["target"]).double())
    loss.backward()
    assert loss_deviation(result.losses, [loss.item()]) <= 1
    expected = {
        name: (value - float(np.float32(LR)) * value.grad).detach().numpy()
        for name, value in reference.named_parameters()
        if name in result.params
    }
    assert ("table" in expected) == (recipe == "full")
    for item in deviations(before, result.params, expected, steps=1):
        assert item.update > 0 and item.worst <= 1, item


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda y, m: torch.gather(y, 2, y.argmax(-1, keepdim=True)), "operator aten.argmax"),
        (lambda y, m: y[y > 0], "aten"),
        (lambda y, m: torch.prod(torch.cat([y] * 20, -1), -1), "multiplies 100 elements; 64 are supported"),
        (lambda y, m: y.round(decimals=2), "aten.round"),
        (lambda y, m: y[:, 1:].as_strided((3, 2, 3), (9, 3, 1), 3), "'Of: as_strided' walks a view"),
        (lambda y, m: y.transpose(0, 1).as_strided((3, 2, 3), (9, 3, 1), 3), "'Of: as_strided' walks a view"),
    ],
)
def test_what_is_refused(function: Callable[..., torch.Tensor], says: str) -> None:
    with pytest.raises(TrainDeeployError) as caught:
        import_model(Of(function, False), torch.zeros(3, 4, 3))
    assert says in str(caught.value) and "\n" not in str(caught.value)
