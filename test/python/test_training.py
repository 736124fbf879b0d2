"""Whole programs, from a PyTorch module to trained parameters on the simulator, against float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import traindeeploy
from reference import Mlp, Trained, away_from_kinks, train
from small_target import small_memory
from traindeeploy.acceptance import deviations, loss_deviation

TARGETS = ("pulp-redmule", "pulp")
DEEP_AE = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]


def run_and_compare(
    make: Any,
    *,
    batch: int,
    steps: int = 1,
    momentum: float = 0.0,
    lr: float = 0.05,
    target: str | Path = "pulp-redmule",
    recipe: str = "full",
    samples: int | None = None,
) -> tuple[Mlp, Trained, Any]:
    """Trains a model on the simulator and in the reference, and asserts that they agree by the rule."""
    count = samples or batch * steps

    def run(mlp: Mlp) -> Trained:
        return train(mlp, mlp.data(count), batch=batch, steps=steps, lr=lr, momentum=momentum)

    mlp, expected = away_from_kinks(make, run)
    module, inputs = mlp.module(batch)
    program = traindeeploy.compile(
        module, inputs, loss=mlp.loss, momentum=momentum, recipe=recipe, target=target
    )
    result = program.run(mlp.data(count), steps=steps, lr=lr)
    assert loss_deviation(result.losses, expected.losses) <= 1
    reference = {name: expected.params[name] for name in result.params}
    for item in deviations(mlp.params, result.params, reference, steps=steps):
        assert item.worst <= 1, item
    return mlp, expected, result


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("batch", "steps", "momentum"), [(1, 5, 0.0), (3, 2, 0.9), (16, 4, 0.9), (256, 1, 0.0)]
)
def test_odd_and_prime_layers(target: str, bias: bool, batch: int, steps: int, momentum: float) -> None:
    run_and_compare(
        lambda seed: Mlp([17, 31, 1, 13], bias=bias, seed=seed),
        batch=batch,
        steps=steps,
        momentum=momentum,
        target=target,
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_activations_and_losses(target: str, activation: str, loss: str) -> None:
    run_and_compare(
        lambda seed: Mlp([23, 29, 7], activation=activation, loss=loss, seed=seed),
        batch=3,
        steps=3,
        target=target,
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("batch", "steps", "momentum"), [(1, 2, 0.0), (16, 1, 0.0), (3, 2, 0.9)])
def test_deep_ae(target: str, batch: int, steps: int, momentum: float) -> None:
    _, _, result = run_and_compare(
        lambda seed: Mlp(DEEP_AE, seed=seed), batch=batch, steps=steps, momentum=momentum, target=target
    )
    # Weights and their momentum together exceed L2.
    transfers = result.report["transfers"]
    assert (transfers["l3_to_l2"] == transfers["l2_to_l3"] == 0) == (momentum == 0)
    if momentum == 0:
        check_predictions(result.report)


def check_predictions(report: dict[str, Any]) -> None:
    """Predicted cycles of layers above 2% of a step are within 15% of simulated ones, or 0.5% of the step."""
    for layer in report["layers"]:
        predicted, measured = layer["predicted"]["total"], layer["measured"]["total"]
        if measured > 0.02 * report["cycles"]:
            limit = max(0.15 * measured, 0.005 * report["cycles"])
            assert abs(predicted - measured) <= limit, (layer["name"], predicted, measured)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("batch", "sizes"), [(3, DEEP_AE), (1, [784, 256, 10]), (64, [256, 256, 128]), (32, [100, 300, 30])]
)
def test_cycles_of_mlps_are_predicted(target: str, batch: int, sizes: list[int]) -> None:
    _, _, result = run_and_compare(lambda seed: Mlp(sizes, seed=seed), batch=batch, target=target)
    check_predictions(result.report)


def test_deep_ae_is_fast() -> None:
    """Simulated cycles: half of the bound of L2 at batch 1; engines at work together at batch 16."""
    model = lambda seed: Mlp(DEEP_AE, seed=seed)  # noqa: E731
    _, _, one = run_and_compare(model, batch=1)
    assert one.report["cycles"] <= 2 * 264_192  # the bandwidth bound of L2
    _, _, many = run_and_compare(model, batch=16)
    assert many.report["flop_per_cycle"] >= 13.4
    engines = many.report["engines"]
    busy = engines["cores"] + engines["dma"] + engines["redmule"]
    assert many.report["cycles"] <= 0.75 * busy


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_one_linear_used_three_times(momentum: float) -> None:
    run_and_compare(
        lambda seed: Mlp([19, 19, 19, 19], shared=(1, 2), seed=seed), batch=3, steps=3, momentum=momentum
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("batch", [1, 5])
def test_a_rate_of_zero_changes_no_bit(target: str, momentum: float, batch: int) -> None:
    mlp = Mlp([17, 31, 13], activation="tanh", seed=3)
    for value in mlp.params.values():
        value.flat[::3] = -0.0
        value.flat[1::3] = 0.0
    module, inputs = mlp.module(batch)
    program = traindeeploy.compile(module, inputs, loss=mlp.loss, momentum=momentum, target=target)
    result = program.run(mlp.data(2 * batch), steps=2, lr=0.0)
    for name, value in mlp.params.items():
        before = value.astype(np.float32).view(np.uint32)
        assert np.array_equal(result.params[name].view(np.uint32), before), name


@pytest.mark.parametrize("target", TARGETS)
def test_a_layer_larger_than_l1(target: str) -> None:
    run_and_compare(lambda seed: Mlp([251, 509, 3], seed=seed), batch=5, steps=2, momentum=0.9, target=target)


def test_a_layer_larger_than_l2() -> None:
    _, _, result = run_and_compare(lambda seed: Mlp([2003, 3001], seed=seed), batch=1)
    assert result.report["transfers"]["l3_to_l2"] >= 4 * 2003 * 3001
    memory = result.report["memory"]
    assert all(memory[level]["peak"] <= memory[level]["capacity"] for level in ("l1", "l2", "l3"))


def test_layers_that_are_larger_than_l2_together() -> None:
    """6 MB of weights in layers that each fit, and as much of momentum: both go to L3 and back."""
    _, _, result = run_and_compare(
        lambda seed: Mlp([701, 1009, 503, 709, 13], activation="tanh", loss="cross-entropy", seed=seed),
        batch=3,
        steps=2,
        momentum=0.9,
    )
    report = result.report
    assert report["memory"]["parameters"] >= 6e6
    assert report["transfers"]["l3_to_l2"] >= report["memory"]["parameters"]
    assert report["transfers"]["l2_to_l3"] >= report["memory"]["parameters"]
    assert all(
        report["memory"][level]["peak"] <= report["memory"][level]["capacity"] for level in ("l2", "l3")
    )


@pytest.mark.parametrize("base", TARGETS)
@pytest.mark.parametrize("kibibytes", [128, 96, 64, 48, 32, 24])
def test_every_l1_size_is_right_or_diagnosed(tmp_path: Path, base: str, kibibytes: int) -> None:
    target = small_memory(tmp_path, base, "l1", kibibytes)
    try:
        _, _, result = run_and_compare(
            lambda seed: Mlp([149, 131, 11], seed=seed), batch=16, momentum=0.9, target=target
        )
    except traindeeploy.TrainDeeployError as error:
        assert kibibytes < 64, "it has to fit into half of the usual L1"
        assert "bytes" in str(error)
    else:
        assert result.report["memory"]["l1"]["peak"] <= kibibytes * 1024


def six_layers(seed: int) -> Mlp:
    return Mlp([13, 17, 11, 19, 7, 5, 3], seed=seed)


@pytest.mark.parametrize("target", TARGETS)
def test_training_the_first_layer_only(tmp_path: Path, target: str) -> None:
    names = ["layers.0.weight", "layers.0.bias"]

    def run(mlp: Mlp) -> Trained:
        return train(mlp, mlp.data(9), batch=3, steps=3, lr=0.1, trained=names)

    mlp, expected = away_from_kinks(six_layers, run)
    module, inputs = mlp.module(3)
    program = traindeeploy.compile(module, inputs, loss="mse", trainable=names, target=target)
    result = program.run(mlp.data(9), steps=3, lr=0.1)
    assert sorted(result.params) == sorted(names)
    for item in deviations(mlp.params, result.params, {n: expected.params[n] for n in names}, steps=3):
        assert item.worst <= 1, item
    assert loss_deviation(result.losses, expected.losses) <= 1
    for name, value in result.all_params.items():
        if name not in names:
            assert value.tobytes() == mlp.params[name].tobytes(), name


@pytest.mark.parametrize("target", TARGETS)
def test_learning_rate_zero_changes_no_bit(target: str) -> None:
    mlp = six_layers(0)
    module, inputs = mlp.module(3)
    program = traindeeploy.compile(module, inputs, loss="mse", momentum=0.9, target=target)
    result = program.run(mlp.data(6), steps=2, lr=0.0)
    for name, value in result.params.items():
        assert value.tobytes() == mlp.params[name].tobytes(), name
    moved = program.run(mlp.data(6), steps=2, lr=0.1)
    assert all((moved.params[name] != mlp.params[name]).any() for name in moved.params)


@pytest.mark.parametrize("shuffle", [None, 7])
def test_two_runs_of_n_steps_are_one_of_2n(tmp_path: Path, shuffle: int | None) -> None:
    mlp = six_layers(1)
    module, inputs = mlp.module(3)
    program = traindeeploy.compile(module, inputs, loss="mse", momentum=0.9)
    data = mlp.data(7)
    whole = program.run(data, steps=6, lr=0.1, shuffle=shuffle)
    first = program.run(data, steps=3, lr=0.1, shuffle=shuffle)
    first.write(tmp_path)
    second = program.run(data, steps=3, lr=0.1, shuffle=shuffle, init=tmp_path / "params.npz")
    assert first.losses + second.losses == whole.losses
    for name, value in {**whole.params, **whole.state}.items():
        assert {**second.params, **second.state}[name].tobytes() == value.tobytes(), name


def test_samples_start_again_when_they_run_out() -> None:
    run_and_compare(lambda seed: Mlp([5, 3], seed=seed), batch=4, steps=5, samples=7)


def test_the_rule_fails_a_program_that_updates_nothing_or_writes_nan() -> None:
    mlp = six_layers(0)
    expected = train(mlp, mlp.data(3), batch=3, steps=1, lr=0.1)
    nothing = deviations(mlp.params, mlp.params, expected.params, steps=1)
    assert all(item.worst > 1 for item in nothing)
    broken = {name: np.full_like(value, np.nan) for name, value in mlp.params.items()}
    assert all(item.worst > 1 for item in deviations(mlp.params, broken, expected.params, steps=1))
    exact = {name: value.astype(np.float32) for name, value in expected.params.items()}
    assert all(item.worst <= 1 for item in deviations(mlp.params, exact, expected.params, steps=1))
    assert loss_deviation([float("nan")], expected.losses) > 1
    assert loss_deviation([], expected.losses) > 1
