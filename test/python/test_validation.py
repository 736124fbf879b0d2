"""Validation of runs: the curve, the parameters that are kept, early stops, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import traindeeploy
from traindeeploy import TrainDeeployError
from traindeeploy.cli import main

random = np.random.default_rng(0)
X, Y = (random.standard_normal((10, n)).astype(np.float32) for n in (4, 3))
DATA, HELD_OUT = {"input": X[:7], "target": Y[:7]}, {"input": X[7:], "target": Y[7:]}


@pytest.fixture(scope="module")
def program() -> traindeeploy.Program:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3))
    return traindeeploy.compile(
        module,
        (torch.zeros(2, 4),),
        loss="mse",
        optimizer="adam",
        accumulate=2,
        entries=["train", "evaluate"],
        metrics=["loss", "mae"],
    )


def test_curve_and_best(program: traindeeploy.Program) -> None:
    """Steps are those of a run without validation, bit for bit, and the best of the evaluations is kept."""
    options = {"lr": 0.05, "shuffle": 1, "warmup": 3}
    plain = program.run(DATA, steps=10, **options)  # type: ignore[arg-type]
    result = program.run(DATA, steps=10, **options, validate=HELD_OUT, validate_every=4)  # type: ignore[arg-type]
    assert result.losses == plain.losses
    assert result.report["learning_rate"] == plain.report["learning_rate"]
    assert len(result.report["cycles_per_step"]) == 10 and len(result.timeline) > 1
    total = sum(layer["measured"]["total"] for layer in result.report["layers"])
    assert total == pytest.approx(result.report["cycles"], rel=0.03)
    for engine in ("cores", "redmule"):
        assert result.report["engines"][engine] == pytest.approx(plain.report["engines"][engine], rel=0.1)
    assert sum(result.report["waterfall"].values()) == pytest.approx(result.report["cycles"], rel=0.01)
    found = result.report["validation"]
    assert [point["step"] for point in found["curve"]] == [0, 4, 8, 10] and found["samples"] == 3
    losses = [point["loss"] for point in found["curve"]]
    assert losses[0] > min(losses) and found["best_step"] == found["curve"][int(np.argmin(losses))]["step"]
    # What is kept is what was there at that step, state included.
    assert program.evaluate(HELD_OUT, result.params).metrics["loss"] == min(losses)
    assert program.evaluate(HELD_OUT, {}).metrics["mae"] == found["curve"][0]["mae"]
    assert result.state["optimizer/steps"] == found["best_step"]
    assert result.state["optimizer/samples"] == 2 * found["best_step"]
    assert f"after step {found['best_step']} " in result.summary() and "(kept)" in result.summary()
    short = program.run(DATA, steps=found["best_step"], **options)  # type: ignore[arg-type]
    for name, value in {**short.params, **short.state}.items():
        np.testing.assert_array_equal({**result.params, **result.state}[name], value)


def test_patience(program: traindeeploy.Program) -> None:
    """A rate that makes it worse from the start on: two evaluations later the run ends."""
    result = program.run(DATA, steps=40, lr=-0.5, validate=HELD_OUT, validate_every=2, patience=2)
    assert len(result.losses) == 4 and result.report["steps"] == 4
    assert result.report["validation"]["best_step"] == 0
    for name, value in program.initial.items():
        np.testing.assert_array_equal(result.params[name], value)


def test_errors(program: traindeeploy.Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(match: str, **arguments: object) -> None:
        with pytest.raises(TrainDeeployError, match=match):
            program.run(DATA, steps=2, lr=0.1, **arguments)  # type: ignore[arg-type]

    fails("patience needs data to validate with", patience=1)
    fails("validate-every is 0", validate=HELD_OUT, validate_every=0)
    fails("every 3 steps fits no update: gradients of 2 steps", validate=HELD_OUT, validate_every=3)
    fails("no array 'target' or 'labels'", validate={"input": X})
    beyond = {"input": X, "target": np.full_like(Y, 3e38)}
    fails("the loss is not finite at step 1 of 5", validate=beyond)
    program.save(tmp_path / "out")
    np.savez(tmp_path / "d.npz", **DATA)
    np.savez(tmp_path / "v.npz", **HELD_OUT)
    run = ["run", str(tmp_path / "out"), "--data", str(tmp_path / "d.npz"), "--steps", "2", "--lr", "0.1"]
    assert main([*run, "--patience", "1"]) == 1
    assert "patience needs data" in capsys.readouterr().err
    assert main([*run, "--validate", str(tmp_path / "v.npz"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["validation"]["curve"]) == 2
