"""Where the cycles of a step go: what RedMulE does with them, and what keeps it from its next job.

Each cycle of a step has one cause, and belongs to one operator or to none: docs/report.md explains them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .target import Target

Cycles = npt.NDArray[np.int64]

CAUSES = {
    "products": "all multipliers of RedMulE at work",
    "edges": "multipliers beyond the edges of a job's matrices",
    "port": "fill, drain and a port slower than the array",
    "contention": "RedMulE waits for banks of L1",
    "kernels": "RedMulE idle, a kernel runs",
    "transfers": "RedMulE idle, no kernel runs, data is on its way",
    "issue": "RedMulE idle, neither kernel nor transfer: core 0 is between jobs",
}
"""What each cause is; the first four are RedMulE's busy cycles. Without one there are the last three."""


class Waterfall:
    """Sums up the causes of some steps."""

    def __init__(self, operators: int, target: Target):
        redmule = target.description.get("redmule")
        self._granules = np.ones(3, np.int64)
        """Multiples in which the array works on M, N and K."""
        if redmule:
            columns = redmule["columns"]
            self._granules[:] = redmule["rows"], columns, columns * (redmule["pipeline"] + 1)
            self._multipliers = redmule["rows"] * columns
        self._sums = np.zeros((len(CAUSES), operators + 1))

    def add(
        self,
        step: tuple[int, int],
        jobs: npt.NDArray[Any],
        job_operators: Sequence[int],
        kernels: Cycles,
        kernel_operators: Sequence[int],
        transfers: Cycles,
    ) -> None:
        """Takes the next step.

        step: when it began and ended, in cycles, as all times.
        jobs: RedMulE's (`sim.REDMULE_JOB`), in their order.
        kernels: rows of begin and end, in their order; none at the same time.
        transfers: the same of all that the DMA and the uDMA move, in any order.
        job_operators, kernel_operators: index of each one's operator.
        """
        sums = dict(zip(CAUSES, self._sums, strict=True))
        gemms = np.stack([jobs["trigger"], jobs["end"]], axis=1).astype(np.int64)
        if len(jobs):
            sizes = np.stack([jobs[key] for key in "mnk"], axis=1).astype(np.int64)
            reached = -(-sizes // self._granules) * self._granules
            products = sizes.prod(axis=1) / self._multipliers
            edges = reached.prod(axis=1) / self._multipliers - products
            waited = jobs["waited"].astype(np.int64)
            rest = gemms[:, 1] - gemms[:, 0] - products - edges - waited
            for cause, cycles in (
                ("products", products),
                ("edges", edges),
                ("port", rest),
                ("contention", waited),
            ):
                np.add.at(sums[cause], job_operators, cycles)
        points = np.unique(np.clip(np.concatenate([gemms, kernels, transfers, [step]]), *step))
        begins, lengths = points[:-1], np.diff(points)
        idle, calls, moves = ~active(points, gemms), active(points, kernels), active(points, transfers)
        # A kernel's cycles are its operator's; those in which no work is done that of the next work.
        work = np.concatenate([gemms[:, 0], kernels[:, 0]])
        order = np.argsort(work, kind="stable")
        owners = np.array([*job_operators, *kernel_operators], np.int64)[order]
        owners = np.append(owners, self._sums.shape[1] - 1)
        following = owners[np.searchsorted(work[order], begins)]
        running = np.searchsorted(kernels[:, 0], begins, side="right") - 1
        called = np.append(np.asarray(kernel_operators, np.int64), -1)[running]
        for cause, chosen, operators in (
            ("kernels", idle & calls, called),
            ("transfers", idle & ~calls & moves, following),
            ("issue", idle & ~calls & ~moves, following),
        ):
            np.add.at(sums[cause], operators[chosen], lengths[chosen])

    def include(self, later: Waterfall) -> None:
        """Adds the steps of another sum over the same operators."""
        self._sums += later._sums

    def total(self) -> dict[str, float]:
        """Cycles by cause, of all steps."""
        return {cause: float(row.sum()) for cause, row in zip(CAUSES, self._sums, strict=True)}

    def of_operator(self, operator: int) -> dict[str, float]:
        """Cycles by cause that belong to an operator, of all steps."""
        return {cause: float(row[operator]) for cause, row in zip(CAUSES, self._sums, strict=True)}


def active(points: Cycles, rows: Cycles) -> npt.NDArray[np.bool_]:
    """Whether between a point and the next one some row of begin and end is under way. Points ascend."""
    change = np.zeros(points.size, np.int64)
    for column, by in ((0, 1), (1, -1)):
        np.add.at(change, np.searchsorted(points, np.clip(rows[:, column], points[0], points[-1])), by)
    under_way: npt.NDArray[np.bool_] = np.cumsum(change)[:-1] > 0
    return under_way
