"""CCT-2 and ResNet8 as machine code, with every strategy, against PyTorch in float64."""

from functools import cache

import numpy as np
import pytest

import traindeeploy
from traindeeploy.acceptance import deviations, loss_deviation

LR = 0.01


@cache
def program(model, recipe, target="pulp-redmule", batch=1):
    return traindeeploy.compile(model, loss="cross-entropy", recipe=recipe, target=target, batch_size=batch)


def compare(model, recipe, *, target="pulp-redmule", batch=1, steps=2, relative=1e-4, change=None):
    """Trains on the simulator and in PyTorch, asserts that they agree, and returns the report."""
    pytest.importorskip("torch")
    from cct2_torch import Cct2, ResNet8, sgd

    compiled = program(model, recipe, target, batch)
    random = np.random.default_rng(1)
    # Adapters start at B = 0, where A has no gradient: from elsewhere.
    start = {
        name: random.standard_normal(value.shape).astype(np.float32) * np.float32(0.02)
        if "lora_B" in name
        else value
        for name, value in compiled.initial.items()
    } | (change or {})
    x = random.standard_normal((steps * batch, 3, 32, 32)).astype(np.float32)
    labels = random.integers(0, 10, steps * batch)
    if change:
        labels[:] = 0
    result = compiled.run({"input": x, "labels": labels}, steps=steps, lr=LR, init=start)

    adapters = {
        name.replace("lora_A.", ""): (name, name.replace("lora_A", "lora_B"))
        for name in start
        if "lora_A" in name
    }
    data = [(x[i : i + batch], labels[i : i + batch]) for i in range(0, steps * batch, batch)]
    module = {"cct2": Cct2, "resnet8": ResNet8}[model]()
    expected, losses = sgd(module, start, list(result.params), data, float(np.float32(LR)), adapters)
    assert loss_deviation(result.losses, losses) <= 1
    reference = {name: expected[name] for name in result.params}
    for item in deviations(start, result.params, reference, steps=steps, relative=relative):
        assert item.worst <= 1, item
    for name in set(start) - set(result.params):
        assert result.all_params[name].tobytes() == start[name].tobytes()
    return result.report


@pytest.mark.parametrize("recipe", ["linear-probe", "blocks:1", "lora:1", "blocks:2", "lora:2"])
def test_the_strategies_are_right_and_fast(recipe):
    report = compare("cct2", recipe, steps=10 if recipe == "lora:2" else 2)
    assert report["flop_per_cycle"] >= 4.6


def test_without_an_accelerator():
    assert compare("cct2", "blocks:2", target="pulp")["flop_per_cycle"] >= 1.5


def test_every_parameter():
    """The wider rule: rounding may put a value on the other side of a kink of max pooling or ReLU."""
    compare("cct2", "full", steps=1, relative=1e-3)


@pytest.mark.parametrize("batch", [2, 5])
def test_batches(batch):
    compare("cct2", "blocks:1", batch=batch, steps=1)


def test_large_logits():
    """Logits of +-300 with the label on the smallest stay finite and right."""
    bias = np.linspace(-300, 300, 10).astype(np.float32)
    report = compare("cct2", "blocks:1", steps=1, change={"classifier.fc.bias": bias})
    assert report["loss"][0] > 500


@pytest.mark.parametrize(("recipe", "batch"), [("last:2", 3), ("full", 1)])
def test_resnet8(recipe, batch):
    compare("resnet8", recipe, batch=batch, steps=1, relative=1e-3 if recipe == "full" else 1e-4)
