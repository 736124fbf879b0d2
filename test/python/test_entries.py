"""Entries beside training: inference and evaluation of compiled programs against PyTorch, and bad input."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import traindeeploy
from onnx_export import PRESERVE, exported
from traindeeploy import TrainDeeployError
from traindeeploy.cli import main

SAMPLES = 7  # no multiple of a batch
Arrays = dict[str, np.ndarray]


class Net(nn.Module):
    """Convolution, batch norm, pooling, dropout, and 8 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(24, 8)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(F.max_pool2d(F.relu(self.norm(self.conv(input))), 2).flatten(1)))


def images(classes: int = 8) -> Arrays:
    random = np.random.default_rng(0)
    return {
        "input": random.standard_normal((SAMPLES, 2, 5, 5)).astype(np.float32),
        "labels": random.integers(0, classes, SAMPLES),
    }


@torch.no_grad()
def expected(module: nn.Module, params: Arrays, data: Arrays) -> tuple[np.ndarray, torch.Tensor]:
    """Outputs in float64 of the module in evaluation mode with other parameters, as array and tensor."""
    module = copy.deepcopy(module).double().eval()
    module.load_state_dict({n: torch.from_numpy(v).double() for n, v in params.items()}, strict=False)
    output = module(torch.from_numpy(data["input"]).double())
    return output.numpy(), output


def check_output(found: np.ndarray, wanted: np.ndarray, relative: float = 1e-5) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= relative * np.abs(wanted).max()
    assert wanted.std() > 0


@pytest.mark.parametrize("target, onnx", [("pulp", True), ("pulp-redmule-fp16", False)])
def test_three_entries(tmp_path: Path, target: str, onnx: bool) -> None:
    """Batch norm follows the batches and dropout is on in training; the others use what training has left."""
    torch.manual_seed(0)
    module, data = Net(), images()
    example = torch.zeros(2, 2, 5, 5)
    mixed = target == "pulp-redmule-fp16"
    program = traindeeploy.compile(
        exported(module, example, 17, PRESERVE) if onnx else module,
        None if onnx else (example,),
        loss="cross-entropy",
        batch_norm="batch",
        dropout=3,
        precision="mixed" if mixed else "fp32",
        target=target,
        entries=("infer", "train", "evaluate"),
        infer_batch_size=3,
        metrics=["accuracy", "top3"],
    )
    fed = {"x" if onnx else "input": data["input"], "labels": data["labels"]}
    program.run(fed, steps=3, lr=0.1, check=True)
    statistics = [n for n in program.trained if n.endswith("running_var")]
    assert len(program.trained) == 8 and statistics
    wanted, logits = expected(module, program.trained, data)
    check_output(program.infer(fed, check=True).output, wanted, 2e-3 if mixed else 1e-5)
    found = program.evaluate(fed, check=True)
    labels = torch.from_numpy(data["labels"])
    assert found.metrics["loss"] == pytest.approx(
        float(F.cross_entropy(logits, labels)), rel=1e-2 if mixed else 1e-5
    )
    among = logits.topk(3).indices == labels[:, None]
    assert found.counts == {
        "rows": SAMPLES,
        "accuracy": int((logits.argmax(1) == labels).sum()),
        "top3": int(among.any(1).sum()),
    }
    assert found.report["calls"] == 3 and found.report["batch"] == 3
    # Parameters of elsewhere, from a folder.
    program.save(tmp_path / "out")
    again = traindeeploy.Program.load(tmp_path / "out")
    assert again.evaluate(fed, program.trained, metrics=["top3"]).metrics == {"top3": found.metrics["top3"]}
    before = again.infer(fed).output
    check_output(before, expected(module, again.initial, data)[0], 2e-3 if mixed else 1e-5)
    # No gradient, for 3 samples at a time instead of 2.
    inference = again.entry("infer")
    assert inference.plan()["flop"] / 3 < again.plan()["flop"] / 2
    assert inference.plan_table() in again.plan_table()


class Tied(nn.Module):
    """Logits of which many are equal: small whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input * self.scale


@pytest.mark.parametrize("shape, axis", [((5,), 1), ((11, 5), 2), ((5, 3, 3), 1)])
def test_labels(shape: tuple[int, ...], axis: int) -> None:
    """Of samples, tokens and pixels; equal logits, labels that do not count, weights, a sum."""
    random = np.random.default_rng(1)
    rows = tuple(size for dim, size in enumerate(shape) if dim != axis - 1)
    x = random.integers(-1, 2, (SAMPLES, *shape)).astype(np.float32)
    labels = random.integers(0, 5, (SAMPLES, *rows))
    labels.flat[::4] = 2
    weights = [0.5, 1.0, 2.0, 0.25, 3.0]
    program = traindeeploy.compile(
        Tied(),
        (torch.zeros(4, *shape),),
        loss="cross-entropy",
        class_axis=axis,
        class_weights=weights,
        ignore_index=2,
        label_smoothing=0.1,
        entries=["evaluate"],
        metrics=["loss", "accuracy", "top1", "top2"],
    )
    found = program.evaluate({"input": x, "labels": labels}, check=True)
    logits, target = np.moveaxis(x, axis, -1), torch.from_numpy(labels)
    loss = F.cross_entropy(
        torch.from_numpy(np.moveaxis(logits, -1, 1)).double(),
        target,
        torch.tensor(weights).double(),
        ignore_index=2,
        label_smoothing=0.1,
    )
    assert found.metrics["loss"] == pytest.approx(float(loss), rel=2e-6)
    # Stable sorting: of equal logits the first one comes first, as numpy's and PyTorch's argmax have it.
    order = np.argsort(-logits, axis=-1, kind="stable")
    counts = labels != 2
    right = [((order[..., :k] == labels[..., None]).any(-1) & counts).sum() for k in (1, 2)]
    assert right[0] == ((logits.argmax(-1) == labels) & counts).sum()
    assert found.counts == {"rows": counts.sum(), "accuracy": right[0], "top1": right[0], "top2": right[1]}


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "mse": F.mse_loss,
    "bce-with-logits": F.binary_cross_entropy_with_logits,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_targets(loss: str) -> None:
    torch.manual_seed(2)
    random = np.random.default_rng(2)
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    data = {
        "input": random.standard_normal((SAMPLES, 5)).astype(np.float32),
        "target": random.random((SAMPLES, 3)).astype(np.float32),
    }
    reduction = "sum" if loss.startswith("bce") else "mean"
    program = traindeeploy.compile(
        module, (torch.zeros(4, 5),), loss=loss, loss_reduction=reduction, entries=["evaluate"]
    )
    prediction = expected(module, {}, data)[1]
    target = torch.from_numpy(data["target"]).double()
    found = program.evaluate(data, check=True).metrics
    assert found.pop("loss") == pytest.approx(
        float(LOSSES[loss](prediction, target, reduction=reduction)), rel=2e-6
    )
    mae = (
        {}
        if loss.startswith("bce")
        else {"mae": pytest.approx(float(F.l1_loss(prediction, target)), rel=2e-6)}
    )
    assert found == mae
    with pytest.raises(TrainDeeployError, match="has no entry train, only evaluate; compile it with"):
        program.run(data, steps=1, lr=0.1)


def test_adapters() -> None:
    """LoRA's adapters are parameters of every entry."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    random = np.random.default_rng(3)
    data = {"input": random.standard_normal((4, 6)).astype(np.float32), "labels": np.array([0, 2, 1, 1])}
    program = traindeeploy.compile(
        module, (torch.zeros(2, 6),), loss="cross-entropy", recipe="lora", entries=["train", "infer"]
    )
    program.run(data, steps=4, lr=0.5)
    tuned = copy.deepcopy(module)
    program.load_into(tuned)
    wanted, _ = expected(tuned, {}, data)
    assert np.abs(wanted - expected(module, {}, data)[0]).max() > 0.01
    check_output(program.infer(data).output, wanted)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compile, train, infer and evaluate from the command line; what is wrong is said in one line."""
    (tmp_path / "entry_model.py").write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(4)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(3, 4)), (torch.zeros(2, 3),)\n"
    )
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(4)
    x, labels = random.standard_normal((5, 3)).astype(np.float32), np.array([0, 3, 1, 2, 2])
    np.savez("d.npz", input=x, labels=labels)
    np.savez("inputs.npz", input=x)
    np.savez("other.npz", **{"0.weight": np.zeros((4, 2), np.float32)})
    common = ("entry_model:make", "--loss", "cross-entropy")
    training = ("--data", "d.npz", "--steps", 2, "--lr", 0.1)
    code, text = run(capsys, "train", *common, *training, "--entries", "train,infer", "-o", "out")
    assert code == 0, text
    code, text = run(capsys, "infer", "out", "--data", "d.npz", "-o", "p.npz")
    assert code == 0 and "samples a second" in text and "ignored" not in text, text
    params = np.load("out/params.npz")
    (name,) = np.load("p.npz").files
    np.testing.assert_allclose(np.load("p.npz")[name], x @ params["0.weight"].T + params["0.bias"], atol=1e-6)
    # The same by a program of its own, which params.npz of the run is given to.
    code, text = run(capsys, "evaluate", *common, "--data", "d.npz", "--params", "out/params.npz", "--json")
    right = (np.load("p.npz")[name].argmax(1) == labels).sum()
    assert code == 0 and f'"accuracy": {right},' in text, text

    def fails(wanted: str, *arguments: object) -> None:
        code, text = run(capsys, *arguments)
        assert code in (1, 2) and wanted in text and text.count("\n") == 1, text

    data = ("--data", "d.npz")
    to = ("-o", "q.npz")
    fails("has no entry evaluate, only train and infer; compile it with --entries", "evaluate", "out", *data)
    fails("unknown entry 'test'", "compile", *common, "--entries", "train,test", "-o", "no")
    fails("'infer' is named twice", "compile", *common, "--entries", "infer,infer", "-o", "no")
    fails("needs the entry train", "train", *common, *training, "--entries", "infer", "-o", "no")
    fails("--loss is needed by every entry but infer", "compile", "entry_model:make", "-o", "no")
    fails("--loss is needed to evaluate", "evaluate", "entry_model:make", *data)
    fails("no array 'labels' or 'target'", "evaluate", *common, "--data", "inputs.npz")
    fails("unknown metric 'f1'", "evaluate", *common, *data, "--metrics", "loss,f1")
    fails("metric 'mae' is not one of cross-entropy", "evaluate", *common, *data, "--metrics", "mae")
    fails("metric 'top5': the model has 4 classes", "evaluate", *common, *data, "--metrics", "top5")
    fails("--output is for a model", "infer", "out", *data, *to, "--output", "y")
    fails("of shape (4, 2), but float32 of shape (4, 3)", "infer", "out", *data, *to, "--params", "other.npz")
    fails("is no parameter of", "infer", "out", *data, *to, "--params", "d.npz")
    fails("--params file none.npz does not exist", "infer", "out", *data, *to, "--params", "none.npz")
    assert not Path("no").exists() and not Path("q.npz").exists()


def test_metrics_of_a_program(tmp_path: Path) -> None:
    """A model that computes its own loss tells no samples apart, and a program has its metrics."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return F.mse_loss(self.linear(x), y)

    torch.manual_seed(5)
    module = Own()
    program = traindeeploy.compile(
        module, (torch.zeros(2, 3), torch.zeros(2, 2)), loss="model", entries=["evaluate"]
    )
    random = np.random.default_rng(5)
    data: dict[str, Any] = {
        name: random.standard_normal((6, n)).astype(np.float32) for name, n in (("x", 3), ("y", 2))
    }
    with torch.no_grad():
        wanted = float(module(*(torch.from_numpy(array) for array in data.values())))
    assert program.evaluate(data).metrics == {"loss": pytest.approx(wanted, rel=1e-6)}
    with pytest.raises(TrainDeeployError, match="5 samples are no multiple of the batch of 2"):
        program.evaluate({name: array[:5] for name, array in data.items()})
    with pytest.raises(TrainDeeployError, match="computes no 'accuracy', but: loss"):
        program.evaluate(data, metrics=["accuracy"])
