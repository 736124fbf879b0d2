"""tdsim against what GVSoC measured (benchmarks/gvsoc.json, written by `make test-gvsoc`)."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "gvsoc"))

import agreement

RECORD = json.loads(agreement.RECORD.read_text())


@pytest.mark.parametrize("target", agreement.TARGETS)
def test_micro_kernels(target: str) -> None:
    theirs = RECORD["kernels"][target]
    # Those that the last `make test-gvsoc` did not have are not compared.
    ours = {name: run for name, run in agreement.kernels(target).items() if name in theirs}
    assert agreement.differences_of_kernels(ours, theirs) == []


@pytest.mark.parametrize("name", agreement.CASES)
def test_steps(name: str) -> None:
    theirs = RECORD["steps"].get(name)
    if theirs is None:
        pytest.skip("the last `make test-gvsoc` did not have this step")
    case = agreement.CASES[name]
    if case.model in agreement.MODULES:
        pytest.importorskip("torch")
    ours = agreement.step(agreement.compiled(case), case.steps)
    if ours["program"] != theirs["program"]:
        pytest.skip("the compiler makes another program than at the last `make test-gvsoc`")
    assert agreement.differences_of_steps(name, ours, theirs) == []


def test_a_difference_is_found() -> None:
    """The comparison itself: other bits, other cycles, a kernel that is missing."""
    theirs = RECORD["kernels"][agreement.TARGETS[0]]
    name = next(iter(theirs))
    cycles, check = theirs[name]["cycles"], theirs[name]["check"]
    assert agreement.differences_of_kernels(theirs, theirs) == []
    slower = {**theirs, name: {"cycles": [c * 6 // 5 for c in cycles], "check": check}}
    assert len(agreement.differences_of_kernels(slower, theirs)) == 1
    other = {**theirs, name: {"cycles": cycles, "check": [c ^ 1 for c in check]}}
    assert len(agreement.differences_of_kernels(other, theirs)) == 1
    less = {key: value for key, value in theirs.items() if key != name}
    assert len(agreement.differences_of_kernels(less, theirs)) == 1

    case = next(iter(RECORD["steps"]))
    step = RECORD["steps"][case]
    assert agreement.differences_of_steps(case, step, step) == []
    assert len(agreement.differences_of_steps(case, {**step, "cycles": step["cycles"] * 1.06}, step)) == 1
    assert len(agreement.differences_of_steps(case, {**step, "parameters": ""}, step)) == 1
    layers = {name: {**measured, "dma": measured["dma"] * 2} for name, measured in step["layers"].items()}
    assert agreement.differences_of_steps(case, {**step, "layers": layers}, step) != []
