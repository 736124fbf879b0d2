"""Busy cycles from logs: unions and overlaps of intervals."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from traindeeploy.measurements import engines, intervals, overlap
from traindeeploy.sim import DMA_JOB, HYPERRAM_JOB, MARKER, REDMULE_JOB


def test_overlap_agrees_with_counting_cycles() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        sets = []
        for _ in range(3):
            begins = random.integers(0, 60, random.integers(0, 8))
            sets.append(intervals(begins, begins + random.integers(0, 12, begins.size)))
        covered = [np.zeros(100, bool) for _ in sets]
        for rows, cycles in zip(sets, covered, strict=True):
            for begin, end in rows:
                cycles[begin:end] = True
        assert overlap(*sets) == int((covered[0] & covered[1] & covered[2]).sum())
        assert overlap(sets[0]) == int(covered[0].sum())


def test_engines_count_what_lies_in_steps() -> None:
    def log(dtype: np.dtype, rows: list[dict[str, int]]) -> np.ndarray:
        array = np.zeros(len(rows), dtype)
        for i, row in enumerate(rows):
            for key, value in row.items():
                array[i][key] = value
        return array

    kinds = [(10, 1), (20, 3), (40, 4), (100, 2), (200, 1), (300, 2)]
    result = SimpleNamespace(
        markers=log(MARKER, [{"cycle": cycle, "kind": kind} for cycle, kind in kinds]),
        dma=log(DMA_JOB, [{"start": 0, "end": 30}, {"start": 60, "end": 80}, {"start": 250, "end": 260}]),
        hyperram=log(HYPERRAM_JOB, []),
        redmule=log(REDMULE_JOB, [{"trigger": 65, "start": 70, "end": 90}]),
    )
    busy = engines(result)
    assert busy == {"cores": 20, "redmule": 25, "dma": 20 + 20 + 10, "hyperram": 0, "dma_hidden": 10 + 15}
