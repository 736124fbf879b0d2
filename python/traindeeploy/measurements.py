"""Busy cycles of engines, their overlap and their operators, from the logs of a simulator."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .memory_map import called_operators
from .target import Target
from .waterfall import Waterfall, active

if TYPE_CHECKING:
    from .sim import StepLogs

# What the runtime marks (lib/Runtime/device.h): a step, and kernels on all cores within it.
STEP_BEGIN, STEP_END, CALL_BEGIN, CALL_END = 1, 2, 3, 4

Intervals = npt.NDArray[np.int64]
"""Rows of begin and end, in cycles; they may overlap."""


def intervals(begins: Any, ends: Any) -> Intervals:
    """Intervals from their begins and their ends."""
    return np.stack([np.asarray(begins, np.int64), np.asarray(ends, np.int64)], axis=1)


def overlap(*sets: Intervals) -> int:
    """Cycles at which each of the sets has at least one interval."""
    points = np.sort(np.concatenate([rows.ravel() for rows in sets]))
    if points.size < 2:
        return 0
    together = np.logical_and.reduce([active(points, rows) for rows in sets])
    return int(np.diff(points)[together].sum())


def marked(markers: npt.NDArray[Any], begin: int, end: int) -> Intervals:
    """Intervals between markers of core 0, of kind `begin` and the next one of kind `end`."""
    mine = markers[markers["core"] == 0]
    return intervals(mine["cycle"][mine["kind"] == begin], mine["cycle"][mine["kind"] == end])


def engines(result: Any) -> dict[str, int]:
    """Cycles of all steps in the logs of a run in which each engine was busy.

    RedMulE is busy from its trigger: when its first operands are there, GVSoC's own model does not say.
    `dma_hidden` are those of the DMA in which cores ran a kernel or RedMulE a job.
    """
    steps = marked(result.markers, STEP_BEGIN, STEP_END)
    cores = marked(result.markers, CALL_BEGIN, CALL_END)
    redmule = intervals(result.redmule["trigger"], result.redmule["end"])
    dma = intervals(result.dma["start"], result.dma["end"])
    hyperram = intervals(result.hyperram["start"], result.hyperram["end"])
    return {
        "cores": overlap(cores, steps),
        "redmule": overlap(redmule, steps),
        "dma": overlap(dma, steps),
        "hyperram": overlap(hyperram, steps),
        "dma_hidden": overlap(dma, np.concatenate([cores, redmule]), steps),
    }


def commands(manifest: Mapping[str, Any], logs: Any) -> dict[str, tuple[Any, list[int]]]:
    """Per engine, the jobs of a step in their order, and the index of the operator of each one.

    Engines: `dma_load`, `dma_store`, `redmule`, `hyperram`. The n-th one of a step that was started belongs
    to the operator that the manifest says; HyperRAM serves its channels in turn. The copies of
    the table itself, to the runtime's part of L1, belong to none. An engine
    whose log is not whole has no jobs.
    """
    dma = logs.dma[logs.dma["l1"] >= manifest["l1_begin"]]
    found = {
        "dma_load": np.sort(dma[dma["to_l1"] == 1], order="start", kind="stable"),
        "dma_store": np.sort(dma[dma["to_l1"] == 0], order="start", kind="stable"),
        "redmule": logs.redmule,
        "hyperram": np.sort(logs.hyperram, order="trigger", kind="stable"),
    }
    result = {}
    for name, rows in found.items():
        runs = manifest["jobs"][name]
        order = [op for op, count in zip(runs[0::2], runs[1::2], strict=True) for _ in range(count)]
        result[name] = (rows, order) if len(rows) == len(order) else (rows[:0], [])
    return result


class Accounting:
    """Sums up the logs of steps, and keeps the last ones."""

    def __init__(self, manifest: Mapping[str, Any], target: Target, keep: int = 1):
        self.manifest = manifest
        self._called = called_operators(manifest)
        self.waterfall = Waterfall(len(manifest["operators"]), target)
        self.engines: Counter[str] = Counter()
        count = len(manifest["operators"])
        self.operators = {name: np.zeros(count, np.int64) for name in ("dma", "redmule", "hyperram")}
        """Busy cycles of each operator, by engine."""
        self.last: deque[StepLogs] = deque(maxlen=keep)

    def add(self, logs: StepLogs) -> None:
        """Takes the logs of the next step."""
        for name, busy in engines(logs).items():
            self.engines[name] += busy
        jobs = commands(self.manifest, logs)
        self._explain(logs, *jobs["redmule"])
        for name, (rows, operators) in jobs.items():
            begins = rows["trigger" if name == "redmule" else "start"]
            durations = (rows["end"] - begins).astype(np.int64)
            np.add.at(self.operators[name.split("_")[0]], operators, durations)
        self.last.append(logs)

    def _explain(self, logs: StepLogs, gemms: npt.NDArray[Any], operators: Sequence[int]) -> None:
        """Takes the step into the waterfall, if its logs are whole."""
        kernels = marked(logs.markers, CALL_BEGIN, CALL_END)
        called = self._called
        if len(gemms) == len(logs.redmule) and len(called) == len(kernels):
            transfers = [intervals(rows["start"], rows["end"]) for rows in (logs.dma, logs.hyperram)]
            (step,) = marked(logs.markers, STEP_BEGIN, STEP_END).tolist()
            self.waterfall.add(step, gemms, operators, kernels, called, np.concatenate(transfers))
