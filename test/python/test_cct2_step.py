"""CCT-2 and ResNet8 as machine code, with every strategy, against PyTorch in float64."""

from functools import cache

import numpy as np
import pytest

import traindeeploy
from traindeeploy.toolchain import Elf


@cache
def program(model, recipe, target="pulp-redmule", batch=1):
    return traindeeploy.compile(model, loss="cross-entropy", recipe=recipe, target=target, batch_size=batch)


def compare(model, recipe, *, target="pulp-redmule", batch=1, steps=2, relative=1e-4, change=None):
    """Trains on the simulator and in PyTorch, asserts that they agree, and returns the report."""
    pytest.importorskip("torch")
    from cct2_torch import Cct2, ResNet8, train_and_compare

    module = {"cct2": Cct2, "resnet8": ResNet8}[model]()
    compiled = program(model, recipe, target, batch)
    return train_and_compare(compiled, module, batch=batch, steps=steps, change=change, relative=relative)


@pytest.mark.parametrize("recipe", ["linear-probe", "blocks:1", "lora:1", "blocks:2", "lora:2"])
def test_the_strategies_are_right_and_fast(recipe):
    report = compare("cct2", recipe, steps=10 if recipe == "lora:2" else 2)
    assert report["flop_per_cycle"] >= 4.6
    all_of_it_lives_in_l2(program("cct2", recipe))


def all_of_it_lives_in_l2(compiled):
    elf = Elf(compiled.elf)
    assert elf.manifest["jobs"]["hyperram"] == []
    assert {buffer["level"] for buffer in elf.manifest["buffers"]} == {"l2"}
    begin = compiled.target.description["memory"]["l2"]["base"]
    assert begin + elf.program_bytes <= elf.manifest["l2_begin"]
    memory = compiled.manifest["memory"]
    assert memory["peak"]["l3"] == 0
    assert memory["peak"]["l2"] <= compiled.target.capacity("l2")
    assert memory["dynamic_peak"] <= 800 * 1024


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
