"""The project's figures for CCT-2 (five strategies and all parameters) and ResNet8, and what LoRA saves.

Usage: python benchmarks/strategies.py [--steps N] [--targets T...]    (or `make bench`)

Batch 1, SGD; FP32, or mixed precision on a target whose RedMulE reads FP16. Simulated figures are those of
tdsim on the named target. Times are of this machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np

import traindeeploy
from traindeeploy.plan_table import table
from traindeeploy.target import load_target

RUNS = (
    ("cct2", "LP", "linear-probe"),
    ("cct2", "FT-1", "blocks:1"),
    ("cct2", "LoRA-1", "lora:1"),
    ("cct2", "FT-2", "blocks:2"),
    ("cct2", "LoRA-2", "lora:2"),
    ("cct2", "full", "full"),
    ("resnet8", "last:2", "last:2"),
    ("resnet8", "full", "full"),
)
PAPER = "TrainDeeploy's paper: <= 4.6 FLOP a cycle for any strategy of CCT-2, 27 M cycles for FT-2"


def precision_on(target: str) -> str:
    """What the target's RedMulE reads."""
    return "mixed" if "fp16" in load_target(target).redmule_formats else "fp32"


def measure(model: str, recipe: str, target: str, steps: int) -> dict[str, Any]:
    """Compiles and runs a model, and returns its report with the seconds that it took."""
    start = time.perf_counter()
    program = traindeeploy.compile(
        model,
        loss="cross-entropy",
        recipe=recipe,
        target=target,
        precision=precision_on(target),
        batch_size=1,
    )
    compiled = time.perf_counter() - start
    random = np.random.default_rng(0)
    x = random.standard_normal((steps, 3, 32, 32)).astype(np.float32)
    start = time.perf_counter()
    report = program.run({"input": x, "labels": random.integers(0, 10, steps)}, steps=steps, lr=0.01).report
    simulated = (time.perf_counter() - start) / steps
    return {**report, "seconds": (compiled, simulated)}


def row(name: str, report: dict[str, Any]) -> list[str]:
    """The figures of a run."""
    cycles, memory, transfers = report["cycles"], report["memory"], report["transfers"]
    return [
        name,
        f"{report['flop'] / 1e6:.1f}",
        f"{cycles:,.0f}",
        f"{report['flop_per_cycle']:.1f}",
        f"{report['updates_per_second']:.0f}",
        *(f"{report['engines'][engine] / cycles:.0%}" for engine in ("redmule", "cores", "dma")),
        f"{memory['dynamic_peak'] / 1024:,.0f}",
        f"{(transfers['l3_to_l2'] + transfers['l2_to_l3']) / 1024:,.0f}",
        f"{report['predicted_cycles'] / cycles:.2f}",
        f"{report['seconds'][0]:.1f}",
        f"{report['seconds'][1]:.1f}",
    ]


TITLES = [
    *("", "MFLOP", "cycles", "FLOP/cycle", "updates/s", "RedMulE", "cores", "DMA", "dynamic KiB", "L3 KiB"),
    *("predicted", "compile s", "simulate s"),
]


def savings(reports: dict[str, dict[str, Any]]) -> str:
    """LoRA-2 and FT-2 against training everything."""
    base = reports["full"]
    rows = []
    for name in ("full", "FT-2", "LoRA-2"):
        report = reports[name]
        memory, transfers = report["memory"], report["transfers"]
        figures = (
            (memory["trained_parameters"], base["memory"]["trained_parameters"]),
            (memory["dynamic_peak"], base["memory"]["dynamic_peak"]),
            (sum(transfers.values()), sum(base["transfers"].values())),
        )
        cells = [f"{value / 1024:,.0f} KiB, 1/{reference / value:.1f}" for value, reference in figures]
        rows.append([name, *cells])
    return table(["", "trained parameters = gradients", "dynamic peak", "bytes moved a step"], rows, "lrrr")


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--targets", nargs="+", default=["pulp-redmule", "pulp", "pulp-redmule-fp16"])
    options = parser.parse_args()
    for target in options.targets:
        reports = {
            (model, name): measure(model, recipe, target, options.steps) for model, name, recipe in RUNS
        }
        print(f"{target}, simulated by tdsim, {precision_on(target)}, batch 1, SGD; {PAPER}")
        rows = [row(f"{model} {name}", report) for (model, name), report in reports.items()]
        print(table(TITLES, rows, "l" + "r" * (len(TITLES) - 1)))
        print(f"\nCCT-2: what is trained, kept and moved ({target})")
        print(savings({name: report for (model, name), report in reports.items() if model == "cct2"}))
        print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
