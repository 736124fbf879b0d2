"""Products in FP16 on RedMulE, all else in FP32, with loss scaling: against float64 and against FP32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import traindeeploy
from reference import Mlp, train
from small_target import small_memory
from traindeeploy.acceptance import MIXED, MIXED_LOSS_TOLERANCE, deviations, loss_deviation

TARGET = "pulp-redmule-fp16"


def mixed(mlp: Mlp, batch: int, **options: Any) -> traindeeploy.Program:
    """A model's program with products in FP16."""
    pytest.importorskip("torch")
    module, inputs = mlp.module(batch)
    options = {"target": TARGET, "precision": "mixed", "loss": mlp.loss} | options
    return traindeeploy.compile(module, inputs, **options)


def run_and_compare(
    mlp: Mlp, *, batch: int, steps: int = 1, momentum: float = 0.0, check: bool | None = None, **options: Any
) -> dict[str, Any]:
    """Trains on the simulator and in float64, asserts that they agree by the rule, and returns the report."""
    program = mixed(mlp, batch, momentum=momentum, **options)
    data = mlp.data(batch * steps)
    result = program.run(data, steps=steps, lr=0.05, check=check)
    expected = train(mlp, data, batch=batch, steps=steps, lr=0.05, momentum=momentum)
    assert loss_deviation(result.losses, expected.losses, MIXED_LOSS_TOLERANCE) <= 1
    reference = {name: expected.params[name] for name in result.params}
    for item in deviations(mlp.params, result.params, reference, steps=steps, **MIXED):
        assert item.worst <= 1, item
    return result.report


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(
    ("sizes", "batch"),
    [
        ([17, 31, 1, 13], 5),
        ([640, 31, 7], 3),
        ([3, 640, 17], 13),
        ([7, 17, 13, 2], 2),
        ([31, 640, 3], 31),
        ([1, 7, 1], 17),
    ],
)
def test_odd_and_prime_layers(sizes: list[int], batch: int, check: bool) -> None:
    """Rows that begin within a word, and checked accesses."""
    loss = "cross-entropy" if sizes[-1] > 1 else "mse"
    report = run_and_compare(
        Mlp(sizes, activation="tanh", loss=loss), batch=batch, steps=2, momentum=0.9, check=check
    )
    assert (report["engines"]["redmule"] > 0) == (min(sizes[:2]) > 1)


def test_layers_larger_than_l1() -> None:
    report = run_and_compare(Mlp([640, 701, 640], activation="tanh"), batch=40)
    assert report["transfers"]["l2_to_l3"] > 0


@pytest.mark.parametrize("batch", [1, 16])
def test_deep_ae(batch: int) -> None:
    sizes = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    report = run_and_compare(Mlp(sizes, activation="tanh"), batch=batch, steps=2)
    assert report["cycles"] <= (620_000 if batch == 1 else 1_050_000)
    for layer in report["layers"]:
        predicted, measured = layer["predicted"]["total"], layer["measured"]["total"]
        if measured > 0.02 * report["cycles"]:
            assert abs(predicted - measured) <= 0.15 * measured, (layer["name"], predicted, measured)


def test_halfs_stay_out_of_l3(tmp_path: Path) -> None:
    """Weights go to L3, rounded activations with odd rows do not: the uDMA moves words."""
    target = small_memory(tmp_path, TARGET, "l2", 512)
    report = run_and_compare(Mlp([251, 301, 251], activation="tanh"), batch=37, target=target)
    assert report["transfers"]["l3_to_l2"] > 0


@pytest.mark.parametrize("recipe", ["blocks:1", "lora:2"])
def test_cct2(recipe: str) -> None:
    """Convolution and attention."""
    pytest.importorskip("torch")
    from cct2_torch import Cct2, train_and_compare

    program = traindeeploy.compile(
        "cct2", loss="cross-entropy", recipe=recipe, target=TARGET, precision="mixed"
    )
    report = train_and_compare(program, Cct2(), loss_tolerance=MIXED_LOSS_TOLERANCE, **MIXED)
    # Fewer cycles than in FP32 on the cores, by far.
    assert report["flop_per_cycle"] >= 25


def test_resnet8() -> None:
    """Every parameter, through convolutions, batch norms and residuals."""
    pytest.importorskip("torch")
    from cct2_torch import ResNet8, train_and_compare

    program = traindeeploy.compile("resnet8", loss="cross-entropy", target=TARGET, precision="mixed")
    report = train_and_compare(program, ResNet8(), steps=1, loss_tolerance=MIXED_LOSS_TOLERANCE, **MIXED)
    assert report["engines"]["redmule"] > 0


def test_an_autoencoder_learns_as_in_fp32() -> None:
    """60 steps on data of 4 dimensions: the loss falls as it does in FP32."""
    mlp = Mlp([48, 32, 8, 32, 48], activation="tanh")
    random = np.random.default_rng(3)
    samples = np.tanh(random.standard_normal((64, 4)) @ random.standard_normal((4, 48))).astype(np.float32)
    data = {"x": samples, "target": samples}
    losses = {}
    for precision, target in (("mixed", TARGET), ("fp32", "pulp-redmule")):
        program = mixed(mlp, 16, precision=precision, target=target)
        losses[precision] = program.run(data, steps=60, lr=0.5).losses
    last = {name: float(np.mean(values[-4:])) for name, values in losses.items()}
    assert last["fp32"] < 0.5 * losses["fp32"][0]
    assert abs(last["mixed"] - last["fp32"]) <= 0.02 * last["fp32"]


def test_loss_scale_keeps_small_gradients() -> None:
    """Gradients near the smallest half are lost without a scale. In FP32 a scale changes no bit."""
    mlp = Mlp([23, 29, 31, 7], activation="tanh")
    mlp.params["layers.2.weight"] *= np.float32(1e-5)
    data, rate = mlp.data(5), 1e4
    name = "layers.0.weight"
    exact = train(mlp, data, batch=5, steps=1, lr=rate).params[name] - mlp.params[name]

    def moved(scale: float, precision: str = "mixed") -> np.ndarray:
        result = mixed(mlp, 5, loss_scale=scale, precision=precision).run(data, steps=1, lr=rate)
        return result.params[name] - mlp.params[name]

    def error(update: np.ndarray) -> float:
        return float(np.abs(update - exact).max() / np.abs(exact).max())

    assert error(moved(2.0**12)) < 0.03
    assert error(moved(1.0)) > 0.1
    assert moved(1.0, "fp32").tobytes() == moved(2.0**12, "fp32").tobytes()


def test_overflow_is_told() -> None:
    mlp = Mlp([7, 17, 5])
    program = mixed(mlp, 3, loss_scale=2.0**24)
    data = mlp.data(6)
    told = traindeeploy.TrainDeeployError
    with pytest.raises(told, match=r"not finite after step 1; .*loss scale than 16777216$"):
        program.run(data, steps=1, lr=0.05)
    with pytest.raises(told, match=r"the loss is nan at step 2 of 2; .*loss scale"):
        program.run(data, steps=2, lr=0.05)


def test_the_host_means_the_same() -> None:
    """The graph itself, by MLIR's JIT."""
    pytest.importorskip("torch")
    from traindeeploy.driver import training_graph
    from traindeeploy.host import run_on_host

    mlp = Mlp([17, 31, 13], activation="tanh")
    module, inputs = mlp.module(5)
    graph, imported = training_graph(module, inputs, loss="mse", precision="mixed")
    assert "f16" in graph
    data = mlp.data(5)
    after, losses = run_on_host(graph, imported.parameters, [data], 0.05)
    expected = train(mlp, data, batch=5, steps=1, lr=0.05)
    assert loss_deviation(losses, expected.losses, MIXED_LOSS_TOLERANCE) <= 1
    for item in deviations(mlp.params, after, expected.params, steps=1, **MIXED):
        assert item.worst <= 1, item


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target": "pulp-redmule"}, "that of target 'pulp-redmule' reads fp32 only"),
        ({"target": "pulp"}, "needs a RedMulE that reads fp16; that of target 'pulp' is not there"),
        ({"precision": "fp16"}, "unknown precision 'fp16'; there are: fp32, mixed"),
        ({"loss_scale": 1000.0}, "loss scale 1000 is not a power of two from 1 to 2^24"),
        ({"loss_scale": 0.5}, "loss scale 0.5 is not a power of two"),
        ({"loss_scale": float("inf")}, "loss scale inf is not a power of two"),
    ],
)
def test_wrong_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(traindeeploy.TrainDeeployError) as caught:
        traindeeploy.compile("deep-ae", loss="mse", **({"target": TARGET, "precision": "mixed"} | options))
    assert says in str(caught.value)
