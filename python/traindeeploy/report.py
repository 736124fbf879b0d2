"""report.json: what a run measured, beside what the plan predicted. docs/report.md has the schema."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, TypedDict

from .plan_table import Operator, table

if TYPE_CHECKING:
    from .target import Target


class Level(TypedDict):
    """A memory, bytes."""

    peak: int
    capacity: int


class Memories(TypedDict):
    """Bytes."""

    l1: Level
    l2: Level
    l3: Level
    parameters: int
    trained_parameters: int
    optimizer_state: int
    dynamic_peak: int


class Layer(TypedDict):
    """An operator of the plan."""

    name: str
    operator: str
    engine: str
    tile: list[int]
    transfers: dict[str, int]
    predicted: dict[str, int]
    measured: dict[str, float]
    waterfall: dict[str, float]


class Report(TypedDict):
    """report.json, as docs/report.md explains it."""

    target: str
    simulator: str
    clock_hz: int
    model: str
    batch: int
    steps: int
    loss: list[float]
    cycles: float
    cycles_per_step: list[int]
    predicted_cycles: int
    lower_bound_cycles: int
    updates_per_second: float
    flop: int
    flop_per_cycle: float
    memory: Memories
    transfers: dict[str, int]
    engines: dict[str, float]
    waterfall: dict[str, float]
    layers: list[Layer]


def build_report(
    target: Target,
    manifest: dict[str, Any],
    operators: Sequence[Operator],
    bound: int,
    simulator: str,
    losses: Sequence[float],
    outcome: Any,
) -> dict[str, Any]:
    """The report of a run, ready for JSON. Cycles and bytes are means over the steps.

    outcome: what `traindeeploy.program.execute` returned.
    """
    steps = len(outcome.cycles)
    cycles = _mean(sum(outcome.cycles), steps)
    sizes = {name: outcome.values[name].nbytes for name in manifest["parameters"]}
    return {
        "target": target.name,
        "simulator": simulator,
        "clock_hz": target.clock_hz,
        "model": manifest["model"],
        "batch": manifest["batch"],
        "steps": steps,
        "loss": list(losses),
        "cycles": cycles,
        "cycles_per_step": list(outcome.cycles),
        "predicted_cycles": sum(operator.predicted["total"] for operator in operators),
        "lower_bound_cycles": bound,
        "updates_per_second": target.clock_hz / cycles,
        "flop": manifest["flop"],
        "flop_per_cycle": manifest["flop"] / cycles,
        "memory": {
            **{
                level: {"peak": peak, "capacity": target.capacity(level)}
                for level, peak in manifest["memory"]["peak"].items()
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
        "waterfall": _shares(outcome.waterfall.total(), steps),
        "layers": [
            {
                "name": operator.name,
                "operator": operator.operator,
                "engine": operator.engine,
                "tile": operator.tile,
                "transfers": operator.transfers,
                "predicted": operator.predicted,
                "measured": {name: _mean(value, steps) for name, value in measured.items()},
                "waterfall": _shares(outcome.waterfall.of_operator(index), steps),
            }
            for index, (operator, measured) in enumerate(zip(operators, outcome.operators, strict=True))
        ],
    }


def lower_bound(target: Target, flop: int, loaded: int, stored: int) -> int:
    """Cycles that no plan can beat on a target: all multipliers busy, or all parameters moved.

    loaded, stored: bytes of parameters that a step moves when L1 is too small to keep them.
    """
    redmule = target.description.get("redmule")
    multipliers = target.description["fpu"]["count"] + (
        redmule["rows"] * redmule["columns"] if redmule else 0
    )
    moved = max(loaded, stored) if loaded > target.l1_bytes else 0
    return ceil(max(flop / 2 / multipliers, moved / target.dma_bytes_per_cycle))


def _mean(total: int, steps: int) -> float | int:
    """A mean that stays a whole number where it is one."""
    return total // steps if total % steps == 0 else total / steps


def _shares(causes: dict[str, float], steps: int) -> dict[str, float]:
    """Of one step, to a tenth of a cycle."""
    return {cause: round(cycles / steps, 1) for cause, cycles in causes.items()}


def transfers(operators: Sequence[Operator]) -> dict[str, int]:
    """Bytes that a step moves between levels, each way."""
    total = Counter({way: 0 for way in ("l2_to_l1", "l1_to_l2", "l3_to_l2", "l2_to_l3")})
    for operator in operators:
        total.update(operator.transfers)
    return dict(total)


def summary(report: dict[str, Any]) -> str:
    """A few lines that say what a run did."""
    loss = report["loss"]
    steps, unit = f"{report['steps']} of batch {report['batch']}", "step"
    if (zeroth := report.get("zeroth_order")) is not None:  # where a step of the user's is several runs
        steps = f"{zeroth['updates']} of {zeroth['runs_per_update']} runs each, batch {report['batch']}"
        unit = "run"
    rows = [
        ["target", f"{report['target']} on {report['simulator']} (simulated)"],
        ["steps", steps],
        ["loss", f"{loss[0]:.6g}" + (f" -> {loss[-1]:.6g}" if len(loss) > 1 else "")],
        *_curve(report.get("validation")),
        [f"cycles a {unit}", f"{report['cycles']:,.0f} ({report['predicted_cycles']:,} predicted)"],
        ["updates a second", f"{report['updates_per_second']:,.1f} at {report['clock_hz'] / 1e6:g} MHz"],
        ["FLOP a cycle", f"{report['flop_per_cycle']:.2f}"],
    ]
    return table(["", ""], rows, "ll").split("\n", 2)[2]


def _curve(validation: dict[str, Any] | None) -> list[list[str]]:
    """Rows of a table: each evaluation of a run, and which one is kept."""
    rows = []
    for point in validation["curve"] if validation else ():
        counts = point.get("counts", {})
        texts = [
            f"{name} {100 * value:.2f}%" if name in counts else f"{name} {value:.6g}"
            for name, value in point.items()
            if name not in ("step", "counts")
        ]
        mark = " (kept)" if validation and point["step"] == validation["best_step"] else ""
        rows.append([f"  after step {point['step']}", ", ".join(texts) + mark])
    return [["validation", f"{validation['samples']} samples"], *rows] if validation else []
