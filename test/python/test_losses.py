"""Cross-entropy over samples, tokens and pixels: programs on the simulator against PyTorch in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import traindeeploy
from test_training_modes import torch_steps
from traindeeploy.acceptance import MIXED, MIXED_LOSS_TOLERANCE, deviations, loss_deviation
from traindeeploy.errors import TrainDeeployError

LR = 0.1
Arrays = dict[str, np.ndarray]


class Tokens(nn.Module):
    """Logits [n, t, v] of embedded tokens; as PyTorch has them [n, v, t]; or of all tokens [n * t, v]."""

    def __init__(self, classes: int, form: str) -> None:
        super().__init__()
        self.table, self.head, self.form = nn.Embedding(11, 6), nn.Linear(6, classes), form

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y = self.head(torch.tanh(self.table(ids)))
        if self.form == "turned":
            return y.transpose(1, 2)
        return y if self.form == "tokens" else y.reshape(-1, y.shape[-1])


class Pixels(nn.Module):
    """Logits [n, c, h, w]; behind a function of each, or as the convolution leaves them."""

    def __init__(self, classes: int, scaled: bool) -> None:
        super().__init__()
        self.conv, self.scaled = nn.Conv2d(3, classes, 3, padding=1), scaled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return torch.tanh(y.transpose(2, 3)).transpose(2, 3) * 3 if self.scaled else y


def rows_first(x: torch.Tensor, labels: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels as PyTorch's cross_entropy wants them for tokens and samples: [N, C] and [N]."""
    return x.movedim(axis, -1).flatten(0, -2), labels.flatten()


# What is trained, the shape of its input and of the labels, the classes, and the axis that PyTorch's loss
# needs moved.
MODELS: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...], int, int]] = {
    "samples": (lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), (5,), (), 3, 1),
    "tokens": (lambda: Tokens(7, "tokens"), (5,), (5,), 7, -1),
    "turned": (lambda: Tokens(7, "turned"), (5,), (5,), 7, 1),
    "flat": (lambda: Tokens(13, "flat"), (5,), (5,), 13, -1),
    "one token": (lambda: Tokens(2, "tokens"), (1,), (1,), 2, -1),
    "one class": (lambda: Tokens(1, "tokens"), (3,), (3,), 1, -1),
    "pixels": (lambda: Pixels(5, False), (3, 7, 5), (7, 5), 5, 1),
    "scaled pixels": (lambda: Pixels(2, True), (3, 1, 13), (1, 13), 2, 1),
    "square": (lambda: Tokens(5, "turned"), (5,), (5,), 5, 1),
}

OPTIONS: dict[str, dict[str, Any]] = {
    "mean": {},
    "sum": {"loss_reduction": "sum"},
    "weights": {"class_weights": True},
    "smooth": {"label_smoothing": 0.2},
    "all": {"class_weights": True, "label_smoothing": 0.2, "ignore_index": 1},
    "all, sum": {"class_weights": True, "label_smoothing": 0.2, "loss_reduction": "sum"},
}


def data_of(
    name: str, samples: int, ignored: int, seed: int = 0
) -> tuple[nn.Module, tuple[torch.Tensor, ...], Arrays]:
    make, shape, rows, classes, _ = MODELS[name]
    torch.manual_seed(seed)
    module = make()
    random = np.random.default_rng(seed)
    whole = isinstance(module, Tokens)
    x: np.ndarray = random.integers(0, 11, (samples, *shape))
    if not whole:
        x = random.standard_normal((samples, *shape)).astype(np.float32)
    labels = random.integers(0, classes, (samples, *rows))
    labels[random.random(labels.shape) < 0.3] = ignored
    labels.flat[0], labels.flat[-1] = classes - 1, 0  # something counts in each batch
    inputs = (torch.zeros(3, *shape, dtype=torch.int64 if whole else torch.float32),)
    return (
        module,
        inputs,
        {"ids" if whole else "x" if isinstance(module, Pixels) else "input": x, "labels": labels},
    )


def check(name: str, options: dict[str, Any], target: str, *, batch: int = 3, steps: int = 2) -> None:
    ignored = options.get("ignore_index", -100)
    module, inputs, data = data_of(name, batch * steps, ignored)
    classes, axis = MODELS[name][3:]
    weights = np.linspace(0.25, 2, classes).astype(np.float32) if "class_weights" in options else None
    made = dict(options)
    if weights is not None:
        made["class_weights"] = weights.tolist()
    if name in ("turned", "square"):
        made["class_axis"] = 1
    mixed = target.endswith("fp16")
    if mixed:
        made["precision"] = "mixed"

    def reference(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(
            *rows_first(x, t, axis),
            weight=None if weights is None else torch.from_numpy(weights).double(),
            ignore_index=ignored,
            label_smoothing=options.get("label_smoothing", 0.0),
            reduction=options.get("loss_reduction", "mean"),
        )

    before = {key: value.numpy().copy() for key, value in module.state_dict().items()}
    expected, losses = torch_steps(module, data, reference, batch, steps)
    program = traindeeploy.compile(module, inputs, loss="cross-entropy", target=target, **made)
    result = program.run(data, steps=steps, lr=LR, check=True)
    assert loss_deviation(result.losses, losses, *([MIXED_LOSS_TOLERANCE] if mixed else [])) <= 1
    assert set(result.params) == set(expected)
    for item in deviations(before, result.params, expected, steps=steps, **(MIXED if mixed else {})):
        assert item.worst <= 1, item
        assert item.update > 0 or classes == 1


@pytest.mark.parametrize("options", OPTIONS)
def test_options(options: str) -> None:
    check("tokens", OPTIONS[options], "pulp-redmule")


@pytest.mark.parametrize("options", ["mean", "all"])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "tokens"])
def test_shapes(name: str, options: str) -> None:
    check(name, OPTIONS[options], "pulp" if options == "all" else "pulp-redmule")


@pytest.mark.parametrize("name", ["flat", "pixels"])
def test_mixed(name: str) -> None:
    check(name, OPTIONS["all"], "pulp-redmule-fp16")


def test_larger_than_l1() -> None:
    """Logits of 400 tokens of 250 classes."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(17, 8), nn.Linear(8, 250))
    random = np.random.default_rng(0)
    data = {"input": random.integers(0, 17, (4, 100)), "labels": random.integers(0, 250, (4, 100))}
    data["labels"][:, ::7] = -100
    before = {key: value.numpy().copy() for key, value in module.state_dict().items()}

    def reference(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x.flatten(0, 1), t.flatten())

    expected, losses = torch_steps(module, data, reference, 4, 1)
    inputs = (torch.zeros(4, 100, dtype=torch.int64),)
    result = traindeeploy.compile(module, inputs, loss="cross-entropy").run(data, steps=1, lr=LR)
    assert loss_deviation(result.losses, losses) <= 1
    for item in deviations(before, result.params, expected, steps=1):
        assert item.update > 0 and item.worst <= 1, item


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.0]])
def test_a_batch_of_which_nothing_counts_changes_nothing(weights: list[float] | None) -> None:
    """Where PyTorch gives NaN the loss is 0: all labels are ignored, or have the weight 0."""
    torch.manual_seed(0)
    module = nn.Linear(5, 3)
    before = {key: value.numpy().copy() for key, value in module.state_dict().items()}
    data = {"input": np.ones((2, 5), np.float32), "labels": np.full(2, 1 if weights else -100)}
    program = traindeeploy.compile(module, (torch.zeros(2, 5),), loss="cross-entropy", class_weights=weights)
    result = program.run(data, steps=1, lr=LR)
    assert result.losses == [0.0]
    assert all((result.params[name] == value).all() for name, value in before.items())


def test_labels_tell_the_axis_of_the_classes() -> None:
    """As `train` does, which knows the data; of a program alone the wrong axis is said."""
    torch.manual_seed(0)
    module = Tokens(7, "turned")
    inputs = (torch.zeros(2, 5, dtype=torch.int64),)
    data = {"ids": np.ones((2, 5), np.int64), "labels": np.ones((2, 5), np.int64)}
    program = traindeeploy.compile(module, inputs, loss="cross-entropy", label_shape=(5,))
    assert program.run(data, steps=1, lr=LR).losses[0] > 0
    program = traindeeploy.compile(module, inputs, loss="cross-entropy")
    with pytest.raises(TrainDeeployError) as caught:
        program.run(data, steps=1, lr=LR)
    assert "(samples, 7) is needed; the classes are axis 2 of the output of shape [2, 7, 5]" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"class_weights": [1.0, 2.0]},
            "there are 2 class weights, but the model's output of shape [2, 5, 7]",
        ),
        ({"class_weights": [-1.0] * 7}, "class weight -1.0 is not a finite number of at least 0"),
        ({"class_weights": [float("nan")] * 7}, "class weight nan is not a finite number"),
        ({"class_weights": [0.0] * 7}, "all class weights are 0"),
        ({"class_axis": 3}, "the axis of classes, 3, is none of the output's shape [2, 5, 7]"),
        ({"class_axis": 0}, "axis 0 of the model's output of shape [2, 5, 7] counts samples"),
        ({"ignore_index": 2**31}, "the label to ignore, 2147483648, is no number of 32 bits"),
        ({"loss": "mse", "class_axis": 1}, "an axis of classes is for cross-entropy, not for mse"),
        ({"loss": "mse", "ignore_index": 1}, "a label to ignore is for cross-entropy, not for mse"),
        ({"loss": "mse", "class_weights": [1.0]}, "class weights is for cross-entropy, not for mse"),
    ],
)
def test_wrong_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(TrainDeeployError) as caught:
        traindeeploy.compile(
            Tokens(7, "tokens"),
            (torch.zeros(2, 5, dtype=torch.int64),),
            **({"loss": "cross-entropy"} | options),
        )
    assert says in str(caught.value)


def test_an_axis_that_is_open_is_asked_for() -> None:
    with pytest.raises(TrainDeeployError, match="may hold the classes; say which: --class-axis 1"):
        traindeeploy.compile(
            Tokens(5, "tokens"), (torch.zeros(2, 5, dtype=torch.int64),), loss="cross-entropy"
        )


def test_tokens_of_all_samples_must_come_sample_by_sample() -> None:
    class TokensFirst(Tokens):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids.t())

    with pytest.raises(TrainDeeployError, match="does not count samples one after the other"):
        traindeeploy.compile(
            TokensFirst(7, "flat"), (torch.zeros(2, 5, dtype=torch.int64),), loss="cross-entropy"
        )


def test_wrong_labels() -> None:
    module, inputs, data = data_of("tokens", 3, -100)
    program = traindeeploy.compile(module, inputs, loss="cross-entropy", ignore_index=None)
    with pytest.raises(TrainDeeployError, match=r"has label -100, but labels go from 0 to 6$"):
        program.run(data, steps=1, lr=LR)
    data["labels"][1, 1] = 7
    program = traindeeploy.compile(module, inputs, loss="cross-entropy")
    with pytest.raises(
        TrainDeeployError, match=r"has label 7, .* 0 to 6 \(or are -100, which does not count\)"
    ):
        program.run(data, steps=1, lr=LR)
