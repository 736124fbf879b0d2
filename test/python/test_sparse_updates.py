"""What of a model is trained: the last channels of a parameter, and layers that are ranked for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import traindeeploy
from reference import Mlp
from traindeeploy import TrainDeeployError, cli
from traindeeploy.optimizers import ParameterGroup
from traindeeploy.ranking import rank_layers

MLP = Mlp([17, 13, 5], activation="tanh")
LAST = [ParameterGroup("weight", last_channels=4), ParameterGroup(r"layers\.1", last_channels=2)]


@pytest.mark.parametrize("method", ["backpropagation", "zeroth-order"])
def test_last_channels(method: str) -> None:
    """They move as without, and the others stay, bit for bit; the fewest that a group says are trained."""
    pytest.importorskip("torch")
    module, inputs = MLP.module(3)
    data = MLP.data(3)
    options = {"loss": "mse", "optimizer": "adam:eps=0.01", "method": method}
    runs = [
        traindeeploy.compile(module, inputs, groups=groups, **options).run(data, steps=1, lr=0.01)
        for groups in ((), LAST)
    ]
    for name, kept in (("layers.0.weight", 9), ("layers.1.weight", 3), ("layers.1.bias", 3)):
        before, whole, part = MLP.params[name], runs[0].params[name], runs[1].params[name]
        np.testing.assert_array_equal(part[:kept], before[:kept])
        assert (part[kept:] != before[kept:]).mean() > 0.9
        assert not runs[1].state[f"optimizer/{name}/exp_avg"][:kept].any()
        if method == "backpropagation":
            np.testing.assert_array_equal(part[kept:], whole[kept:])
    assert (runs[1].params["layers.0.bias"] != MLP.params["layers.0.bias"]).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"groups": [ParameterGroup("weight", last_channels=6)]},
            "group 'weight' trains the last 6 channels, but 'layers.1.weight' has 5",
        ),
        ({"groups": LAST, "clip_norm": 1.0}, "clip_norm and last_channels do not go together"),
    ],
)
def test_channels_that_cannot_train(options: dict, says: str) -> None:
    pytest.importorskip("torch")
    module, inputs = MLP.module(3)
    with pytest.raises(TrainDeeployError) as caught:
        traindeeploy.compile(module, inputs, loss="mse", **options)
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)
    with pytest.raises(TrainDeeployError, match="of group 'x' the last 0 channels train; 1 at least can"):
        ParameterGroup("x", last_channels=0)


def test_layers_by_fisher_information() -> None:
    """The means of squared gradients of single samples are PyTorch's; a budget takes the best that fit."""
    torch = pytest.importorskip("torch")
    module, inputs = MLP.module(1)
    data = MLP.data(6)
    ranked = rank_layers(
        module, data, loss="mse", samples=5, optimizer="adam", budget=1000, example_inputs=inputs
    )
    expected = dict.fromkeys(MLP.params, 0.0)
    for row in range(5):
        module.zero_grad()
        y = module(torch.from_numpy(data["x"][row : row + 1]))
        torch.nn.functional.mse_loss(y, torch.from_numpy(data["target"][row : row + 1])).backward()
        for name, value in module.named_parameters():
            expected[name] += float(value.grad.square().sum()) / 5
    for layer in ranked:
        assert layer.fisher == pytest.approx(sum(expected[name] for name in layer.parameters), rel=1e-4)
        assert layer.bytes == 12 * sum(MLP.params[name].size for name in layer.parameters)
    assert sorted(name for layer in ranked for name in layer.parameters) == sorted(MLP.params)
    assert [layer.fisher / layer.bytes for layer in ranked] == sorted(
        (layer.fisher / layer.bytes for layer in ranked), reverse=True
    )
    assert {layer.name: layer.chosen for layer in ranked} == {"layers.0": False, "layers.1": True}
    with pytest.raises(TrainDeeployError, match="no layer fits a budget of 10 bytes; the smallest takes 840"):
        rank_layers(module, data, loss="mse", budget=10, optimizer="adam", example_inputs=inputs)


def test_ranking_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 640)).astype(np.float32)
    np.savez(tmp_path / "data.npz", input=x, target=x)
    arguments = ["inspect", "deep-ae", "--rank-layers", "--loss", "mse"]
    assert cli.main([*arguments, "--data", str(tmp_path / "data.npz"), "--budget", "100000"]) == 0
    shown = capsys.readouterr().out
    assert "Fisher" in shown and shown.rstrip().splitlines()[-1].startswith("--trainable '")
    for wrong, says in (
        (arguments, "--rank-layers needs --data and --loss"),
        (["inspect", "deep-ae", "--budget", "5"], "--budget is of --rank-layers"),
    ):
        assert cli.main(wrong) == 2
        assert says in capsys.readouterr().err
