"""Another batch size for models whose samples are not along axis 0 throughout, against PyTorch."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import traindeeploy
from onnx_export import exported
from traindeeploy.acceptance import deviations, loss_deviation
from traindeeploy.driver import training_graph
from traindeeploy.errors import TrainDeeployError
from traindeeploy.frontend import BatchSizeError, import_model
from traindeeploy.frontend.batch import rebatched
from traindeeploy.host import run_on_host

SIZES = (1, 8, 3)
"""Beside 4, for which the numbers are compared."""
LR = 0.1


class Vit(nn.Module):
    """Patches, a class token for each sample, positions, attention over [tokens, samples]."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        self.block = nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0, activation="gelu", batch_first=batch_first
        )
        self.head, self.batch_first = nn.Linear(8, 3), batch_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        token = self.token
        token = token.expand(x.shape[0], -1, -1) if self.batch_first else token.repeat(x.shape[0], 1, 1)
        x = torch.cat([token, x], 1) + self.positions
        x = self.block(x) if self.batch_first else self.block(x.transpose(0, 1)).transpose(0, 1)
        return self.head(x[:, 0])


class Recurrent(nn.Module):
    """A cell along time, from a state of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(5, 7), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(x.shape[0], 7, dtype=x.dtype)
        for step in x.transpose(0, 1):
            state = self.cell(step, state)
        return self.head(state)


class Loop(nn.Module):
    """The same as a loop in the IR, both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(5, 7, batch_first=True, bidirectional=True), nn.Linear(14, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 5, 3), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.max_pool1d(torch.tanh(self.conv(x)), 2)
        return self.head(y.permute(1, 0, 2).reshape(5, -1, 2).permute(1, 0, 2).flatten(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vit": (lambda: Vit(True), (1, 8, 8)),
    "vit, tokens first": (lambda: Vit(False), (1, 8, 8)),
    "recurrent": (Recurrent, (4, 5)),
    "loop": (Loop, (4, 5)),
    "convolution": (Convolution, (3, 7)),
}


def made(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A module, no two parameters of which are equal: exporters would merge them."""
    make, shape = MODELS[name]
    module = make().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module, shape


def check(
    module: nn.Module, model: object, example: tuple[torch.Tensor, ...] | None, shape: tuple[int, ...], n: int
) -> None:
    """Two steps at `n` samples on the host against PyTorch."""
    random = np.random.default_rng(n)
    samples = [
        {"x": random.standard_normal((n, *shape)), "target": random.standard_normal((n, 3))} for _ in range(2)
    ]
    samples = [{name: value.astype(np.float32) for name, value in sample.items()} for sample in samples]
    reference = copy.deepcopy(module).double()
    optimizer = torch.optim.SGD(reference.parameters(), lr=float(np.float32(LR)))
    losses = []
    for sample in samples:
        optimizer.zero_grad()
        loss = F.mse_loss(
            reference(torch.from_numpy(sample["x"]).double()), torch.from_numpy(sample["target"]).double()
        )
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    graph, imported = training_graph(model, example, loss="mse", batch_size=n)
    assert imported.batch_size == n and imported.inputs[0].shape == (n, *shape)
    after, found = run_on_host(graph, imported.parameters, samples, LR)
    assert loss_deviation(found, losses) <= 1
    names = imported.trainable_names()
    if example is not None:
        expected = {name: value.numpy() for name, value in reference.state_dict().items()}
        assert set(names) == set(expected)
        before = {name: imported.parameters[name] for name in names}
        for item in deviations(before, {name: after[name] for name in names}, expected, steps=2):
            assert item.worst <= 1, item


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.manual_seed(3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("own", [1, 3])
def test_torch(name: str, own: int) -> None:
    module, shape = made(name)
    example = (torch.zeros(own, *shape),)
    check(module, module, example, shape, 4)
    for n in SIZES:
        assert import_model(module, example, n).output.shape == (n, 3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("own", [1, 3])
def test_onnx_of_fixed_sizes(name: str, own: int) -> None:
    module, shape = made(name)
    model = exported(module, torch.zeros(own, *shape), 17)
    check(module, model, None, shape, 4)
    for n in SIZES:
        assert import_model(model, None, n).output.shape == (n, 3)


@pytest.mark.parametrize("name", MODELS)
def test_onnx_of_a_dynamic_batch(name: str, tmp_path: object) -> None:
    module, shape = made(name)
    path = f"{tmp_path}/model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(2, *shape),), path, dynamo=False, opset_version=17, input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
        )  # fmt: skip
    model = onnx.load(path)
    check(module, model, None, shape, 4)
    for n in SIZES:
        assert import_model(model, None, n).output.shape == (n, 3)


def test_on_the_simulator() -> None:
    module = Vit(False).eval()
    model = exported(module, torch.zeros(1, 1, 8, 8), 17)
    program = traindeeploy.compile(model, loss="cross-entropy", batch_size=3)
    data = {
        "x": np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32),
        "labels": np.arange(3),
    }
    loss = F.cross_entropy(module.double()(torch.from_numpy(data["x"]).double()), torch.arange(3)).item()
    assert loss_deviation(program.run(data, steps=1, lr=LR, check=True).losses, [loss]) <= 1


class Broken(nn.Module):
    """What is not a function of each sample: by the name of how."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.fc, self.how = nn.Linear(5, 5), how
        self.each = nn.Parameter(torch.randn(3, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        if self.how == "mean":
            return y - y.mean(0, keepdim=True)
        if self.how == "softmax":
            return y.softmax(0)
        if self.how == "product":
            return (y @ y.t()) @ y
        if self.how == "part":
            return y - y[:1]
        if self.how == "parameter":
            return y + self.each
        return y.reshape(5, 3).t() if self.how == "reshape" else y


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("mean", "mixes the samples of a batch"),
        ("softmax", "mixes the samples of a batch"),
        ("product", "multiplies with a weight that depends on the samples"),
        ("part", "takes some of the samples of a batch"),
        ("parameter", "has a part of the parameter 'each' [3, 5] for each of 3 samples"),
        ("reshape", "mixes the samples of a batch"),
    ],
)
def test_models_that_mix_samples(how: str, says: str) -> None:
    module = Broken(how)
    imported = import_model(module, (torch.zeros(3, 5),))
    with pytest.raises(BatchSizeError) as caught:
        rebatched(imported, 8)
    assert str(caught.value).startswith("the model cannot be changed from batch size 3 to 8: '")
    assert says in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(TrainDeeployError, match=r"(from batch size 3 to 7|torch.export fails)"):
        import_model(module, (torch.zeros(3, 5),), 7)


def test_masks_of_a_batch_are_repeated() -> None:
    """A constant that has the same part for each sample has it for any number of them."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 3)
            self.register_buffer("mask", torch.arange(5.0).repeat(2, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x * self.mask)

    imported = import_model(Masked(), (torch.zeros(2, 5),))
    larger = rebatched(imported, 5)
    assert larger.parameters["mask"].tolist() == [list(range(5))] * 5
    assert rebatched(larger, 2).module_text == imported.module_text
