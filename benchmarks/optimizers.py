"""What optimizers cost: cycles, memory and bytes moved on CCT-2 (FT-2, LoRA-2), ResNet8 and Deep-AE.

Usage: python benchmarks/optimizers.py [--steps N] [--target T] [--optimizers O...] [--models M...]

Of zeroth order (forward passes alone), cycles and traffic are those of an update, which is several runs.

Batch 1. Simulated figures are those of tdsim on the named target. What SGD does not take is set against the
traffic of the states: per parameter their bytes, in and out, at what the DMA moves a cycle each way.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

import traindeeploy
from traindeeploy.optimizers import OPTIMIZERS
from traindeeploy.plan_table import table

MODELS = {
    "FT-2": ("cct2", "blocks:2", "cross-entropy", (3, 32, 32)),
    "LoRA-2": ("cct2", "lora:2", "cross-entropy", (3, 32, 32)),
    "ResNet8": ("resnet8", "full", "cross-entropy", (3, 32, 32)),
    "Deep-AE": ("deep-ae", "full", "mse", (640,)),
}
CHOICES = (
    "sgd",
    "sgd:momentum=0.9",
    "adam",
    "adamw",
    "adamw:amsgrad=true",
    "rmsprop",
    "adagrad",
    "lion",
    "zeroth-order",
    "zeroth-order:one_sided=true",
    "zeroth-order:rademacher=true",
)
METHOD = "zeroth-order"
"""What begins like this is no optimizer but a method, with plain SGD."""


def measure(name: str, optimizer: str, target: str, steps: int) -> dict[str, Any]:
    """Compiles and runs a model, and returns its report with the DMA's bytes a cycle.

    optimizer: one of CHOICES, or another one in the same notation.
    """
    model, recipe, loss, shape = MODELS[name]
    program = traindeeploy.compile(
        model,
        loss=loss,
        recipe=recipe,
        target=target,
        batch_size=1,
        **({"method": optimizer} if optimizer.startswith(METHOD) else {"optimizer": optimizer}),
    )
    random = np.random.default_rng(0)
    x = random.standard_normal((steps, *shape)).astype(np.float32)
    labels = {"labels": random.integers(0, 10, steps)} if loss == "cross-entropy" else {"target": x}
    report = program.run({"input": x, **labels}, steps=steps, lr=1e-4).report
    return {**report, "width": program.target.dma_bytes_per_cycle}


def row(name: str, optimizer: str, report: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """The figures of a run beside those of SGD."""
    memory, transfers = report["memory"], report["transfers"]
    count = memory["trained_parameters"] // 4
    update = report.get("zeroth_order", {"runs_per_update": 1, "cycles_per_update": report["cycles"]})
    cycles, runs = update["cycles_per_update"], update["runs_per_update"]
    more = cycles - base["cycles"]
    # States come in and go out once.
    traffic = 2 * memory["optimizer_state"] / report["width"]
    return [
        name,
        optimizer,
        f"{cycles:,.0f}",
        f"{more / base['cycles']:+.1%}",
        f"{more / count:+.2f}",
        f"{more / traffic:.2f}" if traffic else "",
        f"{memory['optimizer_state'] / count:.1f}",
        f"{memory['optimizer_state'] / 1024:,.0f}",
        f"{memory['dynamic_peak'] / 1024:,.0f}",
        f"{runs * (transfers['l2_to_l1'] + transfers['l1_to_l2']) / 1024:,.0f}",
        f"{runs * (transfers['l3_to_l2'] + transfers['l2_to_l3']) / 1024:,.0f}",
        f"{report['predicted_cycles'] / report['cycles']:.2f}",
    ]


TITLES = [
    *("", "optimizer", "cycles", "beside SGD", "a parameter", "of traffic", "state bytes a parameter"),
    *("state KiB", "dynamic KiB", "L2-L1 KiB", "L3-L2 KiB", "predicted"),
]


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--target", default="pulp-redmule")
    parser.add_argument(
        "--optimizers", nargs="+", default=CHOICES, metavar="O", help=", ".join((*OPTIMIZERS, METHOD))
    )
    parser.add_argument("--models", nargs="+", default=tuple(MODELS), choices=MODELS)
    options = parser.parse_args()
    print(f"{options.target}, simulated by tdsim, FP32, batch 1")
    rows = []
    for name in options.models:
        base = measure(name, "sgd", options.target, options.steps)
        for optimizer in options.optimizers:
            report = base if optimizer == "sgd" else measure(name, optimizer, options.target, options.steps)
            rows.append(row(name, optimizer, report, base))
            print(f"{name}, {optimizer}: {report['cycles']:,.0f} cycles", file=sys.stderr, flush=True)
    print(table(TITLES, rows, "ll" + "r" * (len(TITLES) - 2)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
