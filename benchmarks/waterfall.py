"""Where the cycles of the project's models go, as a table; each column adds up to its step.

Usage: python benchmarks/waterfall.py [--target T] [--runs NAME...]

One step of SGD at batch 1 (deep-ae: 16), simulated by tdsim. docs/report.md explains the rows.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
from strategies import precision_on

import traindeeploy
from traindeeploy.plan_table import table
from traindeeploy.waterfall import CAUSES

RUNS = {
    "FT-2": ("cct2", "blocks:2", 1),
    "LoRA-2": ("cct2", "lora:2", 1),
    "LP": ("cct2", "linear-probe", 1),
    "ResNet8": ("resnet8", "full", 1),
    "Deep-AE b16": ("deep-ae", "full", 16),
}


def measure(model: str, recipe: str, batch: int, target: str) -> dict[str, Any]:
    """The report of one step."""
    images = model != "deep-ae"
    program = traindeeploy.compile(
        model,
        loss="cross-entropy" if images else "mse",
        recipe=recipe,
        target=target,
        precision=precision_on(target),
        batch_size=batch,
    )
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, *((3, 32, 32) if images else (640,)))).astype(np.float32)
    labels = {"labels": random.integers(0, 10, batch)} if images else {"target": x}
    return program.run({"input": x, **labels}, steps=1, lr=0.01).report


def main() -> int:
    """Prints the table; the exit code is 1 if a column does not add up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="pulp-redmule")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    arguments = parser.parse_args()
    reports = {name: measure(*RUNS[name], arguments.target) for name in arguments.runs}
    sums = {name: sum(report["waterfall"].values()) for name, report in reports.items()}
    rows = [
        [cause, *(f"{report['waterfall'][cause] / 1e3:,.0f}" for report in reports.values()), meaning]
        for cause, meaning in CAUSES.items()
    ]
    rows.append(["step", *(f"{total / 1e3:,.0f}" for total in sums.values()), ""])
    print(f"thousands of cycles, {arguments.target}, {precision_on(arguments.target)}, simulated by tdsim")
    print(table(["", *reports, ""], rows, "l" + "r" * len(reports) + "l"))
    return int(any(not 0 <= sums[name] - report["cycles"] < 40 for name, report in reports.items()))


if __name__ == "__main__":
    sys.exit(main())
