"""Where the cycles of a step go: every cycle has one cause, and the causes are what the logs say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import traindeeploy
from traindeeploy.sim import REDMULE_JOB
from traindeeploy.target import load_target
from traindeeploy.waterfall import CAUSES, Waterfall


def test_a_step_made_by_hand() -> None:
    target = load_target("pulp-redmule")
    assert [target.description["redmule"][key] for key in ("rows", "columns", "pipeline")] == [12, 4, 3]
    found = Waterfall(2, target)
    jobs = np.zeros(1, REDMULE_JOB)
    jobs[0] = (150, 150, 250, 13, 6, 17, 32, 7, 0)
    kernels = np.array([[110, 140], [260, 280]])
    transfers = np.array([[90, 120], [145, 160], [255, 265], [285, 290]])
    found.add((100, 300), jobs, [1], kernels, [0, 0], transfers)
    products, reached = 13 * 6 * 17 / 48, 24 * 8 * 32 / 48
    expected = {
        "products": products,
        "edges": reached - products,
        "port": 100 - reached - 7,
        "contention": 7,
        "kernels": 30 + 20,
        "transfers": 10 + 5 + 5 + 5,
        "issue": 5 + 5 + 5 + 10,
    }
    assert found.total() == pytest.approx(expected)
    # Ahead of a job or kernel a cycle is its operator's; behind the last one it is no operator's.
    first, second = found.of_operator(0), found.of_operator(1)
    assert [first[cause] for cause in ("kernels", "transfers", "issue")] == [50, 10 + 5, 5]
    assert [second[cause] for cause in ("kernels", "transfers", "issue")] == [0, 5, 5]
    assert sum(first.values()) + sum(second.values()) == pytest.approx(200 - 20)


@pytest.mark.parametrize("target", ["pulp-redmule", "pulp"])
def test_a_run_adds_up(target: str) -> None:
    """Beside the counters of the device, which the logs know nothing of."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(70, 45), torch.nn.ReLU(), torch.nn.Linear(45, 5))
    program = traindeeploy.compile(model, (torch.zeros(13, 70),), loss="mse", target=target)
    random = np.random.default_rng(0)
    data = {"input": random.standard_normal((39, 70)), "target": random.standard_normal((39, 5))}
    data = {name: value.astype(np.float32) for name, value in data.items()}
    report: dict[str, Any] = program.run(data, steps=3, lr=0.01).report
    causes = report["waterfall"]
    assert list(causes) == list(CAUSES)
    # A step is measured between its marks.
    assert 0 <= sum(causes.values()) - report["cycles"] < 40
    assert all(cycles >= 0 for cycles in causes.values())
    busy = sum(causes[cause] for cause in ("products", "edges", "port", "contention"))
    assert busy == pytest.approx(report["engines"]["redmule"], abs=1)
    if target == "pulp":
        assert busy == 0
    else:
        # Each product of the model once: forward, both gradients of the second layer, one of the first.
        assert causes["products"] == pytest.approx(report["flop"] / 2 / 48, abs=1)
        assert causes["edges"] > 0 and causes["contention"] > 0
    for cause in CAUSES:
        layers = sum(layer["waterfall"][cause] for layer in report["layers"])
        assert layers <= causes[cause] + 1
        assert cause == "issue" or layers == pytest.approx(causes[cause], abs=200)
