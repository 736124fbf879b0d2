"""Busy cycles of engines and their overlap, from the simulator's logs of jobs and markers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# What the runtime marks (lib/Runtime/device.h): a step, and kernels on all cores within it.
STEP_BEGIN, STEP_END, CALL_BEGIN, CALL_END = 1, 2, 3, 4

Intervals = npt.NDArray[np.int64]
"""Rows of begin and end, in cycles; they may overlap."""


def intervals(begins: Any, ends: Any) -> Intervals:
    """Intervals from their begins and their ends."""
    return np.stack([np.asarray(begins, np.int64), np.asarray(ends, np.int64)], axis=1)


def overlap(*sets: Intervals) -> int:
    """Cycles at which each of the sets has at least one interval."""
    points = np.unique(np.concatenate([rows.ravel() for rows in sets]))
    if points.size < 2:
        return 0
    active = np.ones(points.size - 1, bool)
    for rows in sets:
        change = np.zeros(points.size, np.int64)
        np.add.at(change, np.searchsorted(points, rows[:, 0]), 1)
        np.add.at(change, np.searchsorted(points, rows[:, 1]), -1)
        active &= np.cumsum(change)[:-1] > 0
    return int(np.diff(points)[active].sum())


def marked(markers: npt.NDArray[Any], begin: int, end: int) -> Intervals:
    """Intervals between markers of kind `begin` and the next one of kind `end`."""
    return intervals(markers["cycle"][markers["kind"] == begin], markers["cycle"][markers["kind"] == end])


def engines(result: Any) -> dict[str, int]:
    """Cycles of all steps of a run (`sim.RunResult`) in which each engine was busy.

    `dma_hidden` are those of the DMA in which cores ran a kernel or RedMulE a job.
    """
    steps = marked(result.markers, STEP_BEGIN, STEP_END)
    cores = marked(result.markers, CALL_BEGIN, CALL_END)
    redmule = intervals(result.redmule["start"], result.redmule["end"])
    dma = intervals(result.dma["start"], result.dma["end"])
    hyperram = intervals(result.hyperram["start"], result.hyperram["end"])
    return {
        "cores": overlap(cores, steps),
        "redmule": overlap(redmule, steps),
        "dma": overlap(dma, steps),
        "hyperram": overlap(hyperram, steps),
        "dma_hidden": overlap(dma, np.concatenate([cores, redmule]), steps),
    }
