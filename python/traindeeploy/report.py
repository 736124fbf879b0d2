"""report.json: what a run measured, beside what the plan predicted. docs/report.md has the schema."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from .plan_table import Operator, table


def build_report(
    manifest: dict[str, Any],
    operators: Sequence[Operator],
    lower_bound: int,
    simulator: str,
    losses: Sequence[float],
    outcome: Any,
) -> dict[str, Any]:
    """The report of a run, ready for JSON. Cycles and bytes are means over the steps.

    outcome: what `traindeeploy.program.execute` returned.
    """
    from .target import Target

    machine = Target(manifest["target"]["name"], manifest["target"]["description"])
    steps = len(outcome.cycles)
    cycles = _mean(sum(outcome.cycles), steps)
    levels = manifest["memory"]["levels"]
    sizes = {name: 4 * _elements(shape) for name, shape in outcome.shapes.items()}
    return {
        "target": manifest["target"]["name"],
        "simulator": simulator,
        "clock_hz": machine.clock_hz,
        "model": manifest["model"],
        "batch": manifest["batch"],
        "steps": steps,
        "loss": list(losses),
        "cycles": cycles,
        "cycles_per_step": list(outcome.cycles),
        "predicted_cycles": sum(operator.predicted["total"] for operator in operators),
        "lower_bound_cycles": lower_bound,
        "updates_per_second": machine.clock_hz / cycles,
        "flop": manifest["flop"],
        "flop_per_cycle": manifest["flop"] / cycles,
        "memory": {
            **{
                level: {"peak": levels[level]["peak"], "capacity": machine.capacity(level)}
                for level in levels
            },
            "parameters": sum(sizes[name] for name in manifest["parameters"]),
            "trained_parameters": sum(
                sizes[name] for name, trained in manifest["parameters"].items() if trained
            ),
            "optimizer_state": manifest["memory"]["state"],
            "dynamic_peak": manifest["memory"]["dynamic_peak"],
        },
        "transfers": transfers(operators),
        "engines": {name: _mean(busy, steps) for name, busy in outcome.engines.items()},
        "layers": [
            {
                "name": operator.name,
                "engine": operator.engine,
                "tile": operator.tile,
                "transfers": operator.transfers,
                "predicted": operator.predicted,
                "measured": {name: _mean(value, steps) for name, value in measured.items()},
            }
            for operator, measured in zip(operators, outcome.operators, strict=True)
        ],
    }


def _mean(total: int, steps: int) -> float | int:
    """A mean that stays a whole number where it is one."""
    return total // steps if total % steps == 0 else total / steps


def _elements(shape: Sequence[int]) -> int:
    from math import prod

    return prod(shape)


def transfers(operators: Sequence[Operator]) -> dict[str, int]:
    """Bytes that a step moves between levels, each way."""
    total = Counter({way: 0 for way in ("l2_to_l1", "l1_to_l2", "l3_to_l2", "l2_to_l3")})
    for operator in operators:
        total.update(operator.transfers)
    return dict(total)


def summary(report: dict[str, Any]) -> str:
    """A few lines that say what a run did."""
    loss = report["loss"]
    rows = [
        ["target", f"{report['target']} on {report['simulator']} (simulated)"],
        ["steps", f"{report['steps']} of batch {report['batch']}"],
        ["loss", f"{loss[0]:.6g}" + (f" -> {loss[-1]:.6g}" if len(loss) > 1 else "")],
        ["cycles a step", f"{report['cycles']:,.0f} ({report['predicted_cycles']:,} predicted)"],
        ["updates a second", f"{report['updates_per_second']:,.1f} at {report['clock_hz'] / 1e6:g} MHz"],
        ["FLOP a cycle", f"{report['flop_per_cycle']:.2f}"],
    ]
    return table(["", ""], rows, "ll").split("\n", 2)[2]
