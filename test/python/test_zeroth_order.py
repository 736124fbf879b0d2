"""Training by differences of the loss, against NumPy in float64 with the directions that the device draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import traindeeploy
from reference import Mlp
from traindeeploy import TrainDeeployError, cli
from traindeeploy.acceptance import MIXED, deviations
from traindeeploy.optimizers import ParameterGroup, ZerothOrder, method
from traindeeploy.precision import DynamicScale

STEPS, LR, BATCH = 10, 0.01, 3
MLP = Mlp([17, 13, 5], activation="tanh")


def loss_of(parameters: Mapping[str, np.ndarray], x: np.ndarray, target: np.ndarray) -> float:
    hidden = np.tanh(x @ parameters["layers.0.weight"].T + parameters["layers.0.bias"])
    y = hidden @ parameters["layers.1.weight"].T + parameters["layers.1.bias"]
    return float(np.square(y - target).mean())


def noise(method: ZerothOrder, parameters: Mapping[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
    drawn, first = {}, 0
    for name, value in parameters.items():
        drawn[name] = method.direction(number, first, value.size).reshape(value.shape).astype(np.float64)
        first += value.size
    return drawn


def estimates(
    method: ZerothOrder, parameters: Mapping[str, np.ndarray], step: int, loss: Callable[..., float]
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss as it is reported, and the gradient, both as the definition has them."""
    start = loss(parameters)
    gradient = {name: np.zeros_like(value) for name, value in parameters.items()}
    seen = []
    for i in range(method.directions):
        z = noise(method, parameters, step * method.directions + i)
        moved = [
            loss({name: value + side * method.eps * z[name] for name, value in parameters.items()})
            for side in (1, -1)
        ]
        slope = (
            (moved[0] - start) / method.eps if method.one_sided else (moved[0] - moved[1]) / (2 * method.eps)
        )
        seen += moved
        for name in gradient:
            gradient[name] += slope / method.directions * z[name]
    return start if method.one_sided else float(np.mean(seen)), gradient


def expected(method: ZerothOrder, data: Mapping[str, np.ndarray], momentum: float = 0.0, decay: float = 0.0):
    parameters = {name: value.astype(np.float64) for name, value in MLP.params.items()}
    velocity = {name: np.zeros_like(value) for name, value in parameters.items()}
    average, losses = dict(parameters), []
    for step in range(STEPS):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        x, target = (data[name][rows].astype(np.float64) for name in ("x", "target"))
        loss, gradient = estimates(method, parameters, step, lambda p, x=x, t=target: loss_of(p, x, t))
        losses.append(loss)
        for name, value in gradient.items():
            velocity[name] = momentum * velocity[name] + value + decay * parameters[name]
            parameters[name] = parameters[name] - float(np.float32(LR)) * velocity[name]
            average[name] = parameters[name] if step == 0 else 0.8 * average[name] + 0.2 * parameters[name]
    return parameters, average, losses


# A difference of two losses has few right digits: eps is large here, and the definition is the same.
@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("eps=0.125", "pulp-redmule"),
        ("eps=0.125,rademacher=true,seed=12345678901", "pulp"),
        ("eps=0.125,directions=3,one_sided=true", "pulp-redmule"),
        ("eps=0.125,directions=2,rademacher=true", "pulp"),
        ("eps=0.5", "pulp-redmule-fp16"),
    ],
)
def test_agrees_with_the_definition(text: str, target: str) -> None:
    """All four of weight decay, momentum, an average of the weights and two directions are in the cases."""
    pytest.importorskip("torch")
    module, inputs = MLP.module(BATCH)
    chosen = method(f"zeroth-order:{text}")
    assert chosen is not None
    mixed, plain = target == "pulp-redmule-fp16", text == "eps=0.125"
    program = traindeeploy.compile(
        module,
        inputs,
        loss="mse",
        method=chosen,
        optimizer="sgd" if plain else "sgd:momentum=0.5,weight_decay=0.1",
        ema=None if plain else 0.8,
        target=target,
        precision="mixed" if mixed else "fp32",
    )
    data = MLP.data(BATCH * STEPS)
    result = program.run(data, steps=STEPS, lr=LR)
    parameters, average, losses = expected(chosen, data, *((0.0, 0.0) if plain else (0.5, 0.1)))
    np.testing.assert_allclose(result.losses, losses, rtol=2e-2 if mixed else 1e-5)
    for got, want in ((result.params, parameters), (result.ema, average)):
        for item in deviations(
            MLP.params,
            got or result.params,
            want if got else parameters,
            steps=STEPS,
            **(MIXED if mixed else {}),
        ):
            assert item.update > 0 and item.worst <= 1, item
    assert result.report["zeroth_order"]["runs_per_update"] == chosen.runs
    assert result.report["steps"] == chosen.runs * STEPS + (0 if chosen.one_sided else 1)
    assert result.state["optimizer/steps"] == STEPS
    assert result.state["optimizer/samples"] == STEPS * BATCH


@pytest.mark.parametrize(("target", "rademacher"), [("pulp-redmule", False), ("pulp", True)])
def test_directions_bit_for_bit(target: str, rademacher: bool) -> None:
    """From a weight of zero, with a loss that is its first element, the update is -z[0] z, rounded once."""
    torch = pytest.importorskip("torch")

    class First(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(7, 301))

        def forward(self, x: Any) -> Any:
            return (torch.nn.functional.linear(x, self.w)[:, :1]).sum()

    chosen = ZerothOrder(eps=2.0**-8, rademacher=rademacher, seed=2**40 + 99)
    program = traindeeploy.compile(
        First(), (torch.zeros(1, 301),), loss="model", method=chosen, target=target, recipe="full"
    )
    x = np.zeros((1, 301), np.float32)
    x[0, 0] = 1
    result = program.run({"x": x}, steps=1, lr=1.0)
    z = chosen.direction(0, 0, 7 * 301)
    np.testing.assert_array_equal(result.params["w"].ravel(), -(z[0] * z))
    assert abs(z.mean()) < 0.1 and abs(z.var() - 1) < 0.1
    again = chosen.direction(1, 0, 7 * 301)
    assert abs(np.corrcoef(z, again)[0, 1]) < 0.1


def test_going_on_is_one_run_and_saves_parameters_themselves(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    module, inputs = MLP.module(2)
    program = traindeeploy.compile(module, inputs, loss="mse", method="zeroth-order:eps=0.25")
    data = MLP.data(8)
    whole = program.run(data, steps=4, lr=LR)
    half = program.run(data, steps=2, lr=LR)
    half.write(tmp_path)
    rest = program.run(data, steps=2, lr=LR, init=tmp_path / "params.npz")
    for name, value in whole.params.items():
        np.testing.assert_array_equal(rest.params[name], value)
    assert rest.losses == pytest.approx(whole.losses[2:], rel=1e-6)
    assert rest.report["cycles"] < 1.2 * half.report["cycles"]
    # With a rate of zero only the rounding of moving there and back is left.
    still = program.run(data, steps=4, lr=0.0)
    for name, value in MLP.params.items():
        np.testing.assert_allclose(still.params[name], value, atol=1e-6)


def test_no_gradient_has_a_buffer() -> None:
    """All parameters take what one bias does, which is inference but for the bias: 3% more at most."""
    pytest.importorskip("torch")
    mlp = Mlp([96, 128, 64])
    module, inputs = mlp.module(4)
    memory = [
        traindeeploy.compile(module, inputs, loss="mse", method="zeroth-order", trainable=names).plan()[
            "memory"
        ]
        for names in (["*"], ["layers.1.bias"])
    ]
    assert memory[0]["dynamic_peak"] <= 1.03 * memory[1]["dynamic_peak"]
    assert memory[0]["state"] == memory[1]["state"] == 12


REFUSED: dict[str, dict[str, Any]] = {
    "unknown method 'zeroth'; there are: backpropagation, zeroth-order": {"method": "zeroth"},
    "method zeroth-order does not take 'step=1'; it takes eps=": {"method": "zeroth-order:step=1"},
    "eps of zeroth-order is to be a distance above 0, not 0": {"method": "zeroth-order:eps=0"},
    "directions of zeroth-order is to be from 1 to 16, not 0": {"method": "zeroth-order:directions=0"},
    "seed of zeroth-order is to be from 0 to 2^63 - 1, not -1": {"method": "zeroth-order:seed=-1"},
    "zeroth-order and clip_norm do not go together": {"method": "zeroth-order", "clip_norm": 1.0},
    "zeroth-order and accumulate do not go together": {"method": "zeroth-order", "accumulate": 2},
    "zeroth-order and a loss scale do not": {"method": "zeroth-order", "loss_scale": DynamicScale()},
    "zeroth-order and groups frozen for some": {
        "method": "zeroth-order",
        "groups": [ParameterGroup("bias", frozen=3)],
    },
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_is_refused(says: str) -> None:
    with pytest.raises(TrainDeeployError) as caught:
        traindeeploy.compile("deep-ae", **{"loss": "mse", **REFUSED[says]})
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


def test_wrong_words_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for option, text, says in (
        ("--method", "zeroth", "unknown method 'zeroth'; there are: backpropagation, zeroth-order"),
        ("--freeze", "bias", "'bias' is not RE=N"),
        ("--last-channels", "bias=0", "'0' is not a positive whole number"),
    ):
        assert cli.main(["compile", "deep-ae", "--loss", "mse", "-o", "out", option, text]) == 2
        assert says in capsys.readouterr().err
