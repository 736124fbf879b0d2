"""The project's figures for Deep-AE as a table: cycles, FLOP a cycle, overlap, prediction, times.

Usage: python benchmarks/deep_ae.py [--steps N]    (or `make bench`)

Simulated figures are those of tdsim on the named target. Times are of this machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np

import traindeeploy
from traindeeploy.plan_table import table

LARGE_LAYER = 0.02
"""Share of a step from which on a layer's prediction counts."""


def measure(target: str, precision: str, batch: int, steps: int) -> dict[str, Any]:
    """Compiles and runs Deep-AE, and returns its figures."""
    start = time.perf_counter()
    program = traindeeploy.compile(
        "deep-ae", loss="mse", target=target, precision=precision, batch_size=batch
    )
    compiled = time.perf_counter() - start
    x = np.random.default_rng(0).standard_normal((batch * steps, 640)).astype(np.float32)
    start = time.perf_counter()
    result = program.run({"input": x, "target": x}, steps=steps, lr=0.01)
    report = result.report
    cycles = report["cycles"]
    engines = report["engines"]
    busy = sum(engines[name] for name in ("cores", "dma", "redmule"))
    errors = [
        abs(layer["predicted"]["total"] / layer["measured"]["total"] - 1)
        for layer in report["layers"]
        if layer["measured"]["total"] > LARGE_LAYER * cycles
    ]
    # Weights in twice and out once, 4 bytes each, through a DMA that goes both ways at once.
    weights = sum(value.size for value in program.initial.values() if value.ndim == 2)
    bound = 2 * 4 * weights / program.manifest["target"]["dma"]["bytes_per_cycle"]
    transfers = report["transfers"]
    return {
        "cycles a step": f"{cycles:,.0f}",
        "FLOP a cycle": f"{report['flop_per_cycle']:.2f}",
        "share of the L2 bandwidth bound": f"{bound / cycles:.1%} of {bound:,.0f}",
        "step / sum of busy cycles": f"{cycles / busy:.2f}",
        "busy: cores": f"{engines['cores'] / cycles:.1%}",
        "busy: DMA": f"{engines['dma'] / cycles:.1%}",
        "busy: RedMulE": f"{engines['redmule'] / cycles:.1%}",
        "DMA time hidden": f"{engines['dma_hidden'] / max(1, engines['dma']):.1%}",
        "L3 traffic, bytes": f"{transfers['l3_to_l2'] + transfers['l2_to_l3']:,}",
        "predicted / measured, step": f"{report['predicted_cycles'] / cycles:.3f}",
        "worst prediction of a layer > 2%": f"{max(errors, default=0):.1%}",
        "peak L1, bytes": f"{report['memory']['l1']['peak']:,}",
        "dynamic peak, bytes": f"{report['memory']['dynamic_peak']:,}",
        "code and tables, bytes": f"{len(program.elf):,}",
        "compile, seconds": f"{compiled:.2f}",
        "simulate a step, seconds": f"{(time.perf_counter() - start) / steps:.2f}",
    }


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2)
    steps = parser.parse_args().steps
    columns = {
        f"{target}, {precision}, batch {batch}": measure(target, precision, batch, steps)
        for target, precision in (("pulp-redmule", "fp32"), ("pulp", "fp32"), ("pulp-redmule-fp16", "mixed"))
        for batch in (1, 16)
    }
    figures = list(next(iter(columns.values())))
    rows = [[figure, *(column[figure] for column in columns.values())] for figure in figures]
    print("Deep-AE, full fine-tuning, SGD, simulated by tdsim")
    print(table(["", *columns], rows, "l" + "r" * len(columns)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
