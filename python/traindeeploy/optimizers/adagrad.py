"""Adagrad: torch.optim.Adagrad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .base import Optimizer, hyperparameter
from .formula import Number, sqrt


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """w = w - rate / (1 + t lr_decay) g / (sqrt(s) + eps), with s the sum of g^2, and t updates done."""

    name = "adagrad"
    lr_decay: float = hyperparameter(0.0)
    weight_decay: float = hyperparameter(0.0)
    initial_accumulator_value: float = hyperparameter(0.0)
    eps: float = hyperparameter(1e-10)

    def shared(self) -> Mapping[str, float]:
        return {"updates": 0.0} if self.lr_decay else {}

    def states(self) -> Mapping[str, float]:
        return {"sum": self.initial_accumulator_value}

    def once(self, rate: Number, shared: Mapping[str, Number]) -> tuple[Sequence[Number], Sequence[Number]]:
        if not shared:
            return [rate], []
        updates = shared["updates"]
        return [rate / (updates * self.lr_decay + 1.0)], [updates + 1.0]

    def each(
        self, weight: Number, gradient: Number, states: Mapping[str, Number], numbers: Sequence[Number]
    ) -> tuple[Number, Sequence[Number]]:
        if self.weight_decay:
            gradient = self.weight_decay * weight + gradient
        total = gradient * gradient + states["sum"]
        return weight - numbers[0] * (gradient / (sqrt(total) + self.eps)), [total]
