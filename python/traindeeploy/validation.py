"""Validation of a run: how good its parameters are, every so many steps, and which of them are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .data import DataSet
from .entries import Evaluation, Machine, evaluated
from .errors import TrainDeeployError

if TYPE_CHECKING:
    from .driver import Program

Array = npt.NDArray[np.generic]


def check_validation(
    given: bool, every: int | None, patience: int | None, micro: int, passes: int | None = None
) -> int:
    """The steps from one evaluation to the next.

    given: whether there is data to validate with.
    every: as it was asked for; without it, `passes`, the steps of one pass over the data, in whole updates of
        `micro` steps.
    Raises TrainDeeployError for numbers without data, and such that fit no update.
    """
    for name, value in (("validate_every", every), ("patience", patience)):
        if value is not None and not given:
            raise TrainDeeployError(f"{name.replace('_', '-')} needs data to validate with: --validate")
        if value is not None and value < 1:
            raise TrainDeeployError(f"{name.replace('_', '-')} is {value}, but must be at least 1")
    if every is not None and every % micro:
        raise TrainDeeployError(
            f"validating every {every} steps fits no update: gradients of {micro} steps make up one"
        )
    return every or -(-max(1, passes or 1) // micro) * micro


class Validation:
    """Evaluates parameters as training goes on, and keeps those with the lowest loss."""

    def __init__(
        self,
        program: Program,
        dataset: DataSet,
        machine: Machine,
        every: int,
        patience: int | None,
        progress: Callable[[str], None],
    ):
        """every: steps between evaluations; patience: how many in a row may be no better than the best."""
        self.program, self.dataset, self.machine = program, dataset, machine
        self.every, self.patience = every, patience
        self.progress = progress
        self.results: list[tuple[int, Evaluation]] = []
        self.best = 0
        """The step with the lowest loss."""
        self.values: dict[str, Array] = {}
        """Parameters and optimizer states after it."""
        self._lowest = np.inf
        self._waited = 0

    def take(self, step: int, values: Mapping[str, Array]) -> bool:
        """Evaluates the values after `step` steps; False when patience is at its end."""
        parameters = {name: values[name] for name in self.program.manifest["parameters"]}
        found = evaluated(self.program, self.dataset, parameters, None, self.machine, lambda message: None)
        self.results.append((step, found))
        self.progress(f"step {step}: validation {found.line()}")
        loss = found.metrics["loss"]
        if loss < self._lowest:
            self.best, self.values = step, dict(values)
            self._lowest, self._waited = loss, 0
        else:
            self._waited += 1
        return self.patience is None or self._waited < self.patience

    def report(self) -> dict[str, Any]:
        """What report.json says of it; cycles are those of one evaluation."""
        cycles = [found.report["cycles"] * found.report["calls"] for _, found in self.results]
        return {
            "every": self.every,
            "patience": self.patience,
            "samples": self.dataset.samples,
            "cycles": sum(cycles) / len(cycles),
            "best_step": self.best,
            "curve": [{"step": step, **found.metrics, **_numbers(found)} for step, found in self.results],
        }


def _numbers(found: Evaluation) -> dict[str, Any]:
    return {"counts": found.counts} if found.counts else {}
