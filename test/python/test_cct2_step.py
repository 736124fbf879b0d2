"""One training step of CCT-2 as machine code, against the same graph on the host."""

from __future__ import annotations

import re

import numpy as np
import pytest

from closed_set import build_elf, execute, lower, translate_module_to_llvmir
from traindeeploy.acceptance import deviations
from traindeeploy.driver import training_graph
from traindeeploy.host import HostStep
from traindeeploy.target import load_target


@pytest.mark.parametrize(
    ("recipe", "target", "least"),
    [("linear-probe", "pulp-redmule", 4.6), ("blocks:2", "pulp-redmule", 4.6), ("blocks:2", "pulp", 1.5)],
)
def test_step_is_right_and_fast(recipe: str, target: str, least: float) -> None:
    text, model = training_graph("cct2", loss="cross-entropy", recipe=recipe, batch_size=1)
    machine = load_target(target).with_l2_reserved(0x3C000)
    module = lower(text, machine, "td-plan,td-tile,td-cluster,td-llvm")
    elf = build_elf(translate_module_to_llvmir(module.operation), machine)
    host = HostStep(text)
    generator = np.random.default_rng(0)
    sample = {
        spec.name: np.array([3], np.int32)
        if spec.dtype == np.int32
        else generator.standard_normal(spec.shape).astype(np.float32)
        for spec in host.inputs
    }
    sample["lr"] = np.asarray(0.01, np.float32)
    values = {name: np.asarray(value, np.float32) for name, value in model.parameters.items()}
    loss, expected = host(values, sample)
    layouts = {
        name.strip('"'): [int(dim) for dim in order.split(",")]
        for name, order in re.findall(r"train\.parameter @(\S+)[^\n]*layout = array<i64: ([\d, ]*)>", text)
    }

    def stored(name: str) -> np.ndarray:
        array = values[name]
        return np.ascontiguousarray(np.transpose(array, layouts.get(name, range(array.ndim))))

    outcome = execute(elf, machine, {name: stored(name) for name in values}, [sample])
    assert float(outcome.outputs[0]["loss"]) == pytest.approx(loss, rel=2e-6)
    trained = {name: expected[name] for name in host.updated}
    assert trained
    actual = {
        name: np.transpose(outcome.values[name], np.argsort(layouts[name]))
        if name in layouts
        else outcome.values[name]
        for name in trained
    }
    for item in deviations(values, actual, trained, steps=1):
        assert item.worst <= 1, item
    flop = int(re.search(r"train\.flop = (\d+)", text)[1])
    assert flop / outcome.cycles[0] >= least
