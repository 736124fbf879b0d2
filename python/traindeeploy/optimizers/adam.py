"""Adam, AdamW (torch.optim) and their AMSGrad variants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .base import SHARE, Optimizer, hyperparameter
from .formula import Number, expm1, maximum, sqrt


def bias_correction(beta: float, updates: Number) -> Number:
    """1 - beta^updates, without the cancellation that this has for the first ones."""
    if beta == 0:
        return updates.formula.number(1.0)
    return -expm1(updates * math.log(beta))


@dataclass(frozen=True)
class Adam(Optimizer):
    """w = w - rate m' / (sqrt(v') + eps), with m' and v' averages of g and g^2 whose bias is corrected.

    weight_decay is added to the gradient, times the weight. With amsgrad the largest v so far takes the
    place of v.
    """

    name = "adam"
    betas: tuple[float, float] = hyperparameter((0.9, 0.999), SHARE)
    eps: float = hyperparameter(1e-8)
    weight_decay: float = hyperparameter(0.0)
    amsgrad: bool = hyperparameter(False)

    def shared(self) -> Mapping[str, float]:
        return {"updates": 0.0}

    def states(self) -> Mapping[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0} | ({"max_exp_avg_sq": 0.0} if self.amsgrad else {})

    def once(self, rate: Number, shared: Mapping[str, Number]) -> tuple[Sequence[Number], Sequence[Number]]:
        updates = shared["updates"] + 1.0
        first, second = (bias_correction(beta, updates) for beta in self.betas)
        # sqrt(v / c) + eps = (sqrt(v) + eps sqrt(c)) / sqrt(c)
        root = sqrt(second)
        return [rate * root / first, root * self.eps], [updates]

    def each(
        self, weight: Number, gradient: Number, states: Mapping[str, Number], numbers: Sequence[Number]
    ) -> tuple[Number, Sequence[Number]]:
        step, eps = numbers[:2]
        if self.weight_decay:
            weight, gradient = self.decayed(weight, gradient, numbers)
        beta1, beta2 = self.betas
        average = beta1 * states["exp_avg"] + (1 - beta1) * gradient
        square = beta2 * states["exp_avg_sq"] + (1 - beta2) * gradient * gradient
        after = [average, square]
        if self.amsgrad:
            square = maximum(states["max_exp_avg_sq"], square)
            after.append(square)
        return weight - step * (average / (sqrt(square) + eps)), after

    def decayed(self, weight: Number, gradient: Number, numbers: Sequence[Number]) -> tuple[Number, Number]:
        """Weight and gradient that the update starts from."""
        return weight, self.weight_decay * weight + gradient


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam, but weights shrink by rate * weight_decay of theirs instead of a part of the gradient."""

    name = "adamw"
    weight_decay: float = hyperparameter(1e-2)

    def once(self, rate: Number, shared: Mapping[str, Number]) -> tuple[Sequence[Number], Sequence[Number]]:
        numbers, following = super().once(rate, shared)
        if not self.weight_decay:
            return numbers, following
        return [*numbers, 1.0 - rate * self.weight_decay], following

    def decayed(self, weight: Number, gradient: Number, numbers: Sequence[Number]) -> tuple[Number, Number]:
        return weight * numbers[2], gradient
