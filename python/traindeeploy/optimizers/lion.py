"""Lion: Chen et al., Symbolic Discovery of Optimization Algorithms, 2023 (arXiv:2302.06675), algorithm 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .base import SHARE, Optimizer, hyperparameter
from .formula import Number, select


@dataclass(frozen=True)
class Lion(Optimizer):
    """w = w - rate (sign(beta1 m + (1 - beta1) g) + weight_decay w), m = beta2 m + (1 - beta2) g."""

    name = "lion"
    betas: tuple[float, float] = hyperparameter((0.9, 0.99), SHARE)
    weight_decay: float = hyperparameter(0.0)

    def states(self) -> Mapping[str, float]:
        return {"exp_avg": 0.0}

    def once(self, rate: Number, shared: Mapping[str, Number]) -> tuple[Sequence[Number], Sequence[Number]]:
        return [rate, 1.0 - rate * self.weight_decay] if self.weight_decay else [rate], []

    def each(
        self, weight: Number, gradient: Number, states: Mapping[str, Number], numbers: Sequence[Number]
    ) -> tuple[Number, Sequence[Number]]:
        beta1, beta2 = self.betas
        mixed = beta1 * states["exp_avg"] + (1 - beta1) * gradient
        # The sign of zero is zero, and that of NaN is NaN.
        sign = select(mixed > 0.0, 1.0, select(mixed < 0.0, -1.0, mixed))
        if self.weight_decay:
            weight = weight * numbers[1]
        return weight - numbers[0] * sign, [beta2 * states["exp_avg"] + (1 - beta2) * gradient]
