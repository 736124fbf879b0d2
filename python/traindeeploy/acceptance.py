"""The rule by which trained parameters agree with a float64 reference: updates are compared, not weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

LOSS_TOLERANCE = 2e-6
"""Largest relative deviation of a loss."""

MIXED = {"relative": 3e-2, "floor": 1e-3}
"""The rule's numbers for products in FP16, as arguments of `deviations`."""
MIXED_LOSS_TOLERANCE = 2e-3


@dataclass(frozen=True)
class Deviation:
    """How far the update of one tensor is from its reference."""

    name: str
    update: float
    """Largest absolute value of the reference's update."""
    worst: float
    """Largest deviation as a multiple of what the rule allows: agreement is at most 1."""


def deviations(
    before: Mapping[str, Array],
    after: Mapping[str, Array],
    reference: Mapping[str, Array],
    *,
    steps: int,
    relative: float = 1e-4,
    floor: float = 1e-7,
) -> list[Deviation]:
    """Compares the updates `after - before` with `reference - before`, tensor by tensor of `reference`.

    The rule, elementwise: |dW - dW_ref| <= relative * max|dW_ref| + 2 sqrt(steps) ulp(W)
    + floor (largest |dW_ref| of any tensor). What is not finite deviates without bound.
    """
    exact = {name: np.asarray(value, np.float64) for name, value in reference.items()}
    starts = {name: np.asarray(before[name], np.float64) for name in exact}
    moves = {name: float(np.abs(exact[name] - starts[name]).max(initial=0.0)) for name in exact}
    largest = max(moves.values(), default=0.0)
    result = []
    for name, value in exact.items():
        got = np.asarray(after[name], np.float64)
        if got.shape != value.shape or not np.isfinite(got).all():
            result.append(Deviation(name, moves[name], inf))
            continue
        spacing = np.spacing(np.abs(value).astype(np.float32)).astype(np.float64)
        allowed = relative * moves[name] + 2 * sqrt(steps) * spacing + floor * largest
        worst = float((np.abs(got - value) / np.maximum(allowed, np.finfo(np.float64).tiny)).max(initial=0.0))
        result.append(Deviation(name, moves[name], worst))
    return result


def loss_deviation(
    losses: Sequence[float], reference: Sequence[float], tolerance: float = LOSS_TOLERANCE
) -> float:
    """Largest deviation of a loss as a multiple of the tolerance; without bound where one is not finite."""
    if len(losses) != len(reference):
        return inf
    got, exact = np.asarray(losses, np.float64), np.asarray(reference, np.float64)
    if not np.isfinite(got).all():
        return inf
    allowed = np.maximum(tolerance * np.abs(exact), np.finfo(np.float32).tiny)
    return float((np.abs(got - exact) / allowed).max(initial=0.0))
