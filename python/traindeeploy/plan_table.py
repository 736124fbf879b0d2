"""The plan as data and as a table that a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Operator:
    """One operator of the plan: a `tile.group`, and the jobs that it became."""

    name: str
    """Its place in the model, with what is computed on the same tiles."""
    operator: str
    """Kind of its main stage: "gemm", "reduction" or "element-wise"."""
    engine: str
    """What executes its main stage: "redmule", "cores" or "redmule+cores"."""
    domain: list[int]
    """Sizes of its iteration domain."""
    tile: list[int]
    """Tile sizes, one per dimension of the domain."""
    predicted: dict[str, int]
    """Cycles by the cost model: "total", "dma", "cores", "redmule"."""
    transfers: dict[str, int] = field(default_factory=dict)
    """Bytes that a step moves for it: "l2_to_l1", "l1_to_l2", "l3_to_l2", "l2_to_l3"."""
    runs: int = 1
    """How often it runs: in a loop over time as often as that. Cycles and bytes are those of all runs."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: str) -> str:
    """Aligned text; `right` has one character per column: "r" aligns to the right, "l" to the left."""
    lines = [list(headings), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]

    def text(line: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(line, widths, right, strict=True)
        )
        return "  ".join(cells).rstrip()

    return "\n".join([text(lines[0]), "  ".join("-" * width for width in widths), *map(text, lines[1:])])


def plan_table(operators: Sequence[Operator], lower_bound: int) -> str:
    """The table of `traindeeploy compile`, with the sum of the predicted cycles and their lower bound."""
    rows = [
        [
            operator.name,
            operator.engine,
            ("x".join(map(str, operator.domain)) or "1")
            + (f" ({operator.runs} times)" if operator.runs > 1 else ""),
            "x".join(map(str, operator.tile)) or "1",
            f"{sum(operator.transfers.values()):,}",
            f"{operator.predicted['total']:,}",
        ]
        for operator in operators
    ]
    moved = sum(sum(operator.transfers.values()) for operator in operators)
    total = sum(operator.predicted["total"] for operator in operators)
    rows.append(["total", "", "", "", f"{moved:,}", f"{total:,}"])
    headings = ["operator", "engine", "domain", "tile", "bytes moved", "predicted cycles"]
    share = f" ({lower_bound / total:.0%} of the prediction)" if total else ""
    return f"{table(headings, rows, 'llllrr')}\n\nlower bound: {lower_bound:,} cycles a step{share}"
