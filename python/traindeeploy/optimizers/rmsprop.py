"""RMSprop: torch.optim.RMSprop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .base import SHARE, Optimizer, hyperparameter
from .formula import Number, maximum, sqrt


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """w = w - rate g / (sqrt(s) + eps), with s the average of g^2; centered: less that of g, squared."""

    name = "rmsprop"
    alpha: float = hyperparameter(0.99, SHARE)
    eps: float = hyperparameter(1e-8)
    weight_decay: float = hyperparameter(0.0)
    momentum: float = hyperparameter(0.0, SHARE)
    centered: bool = hyperparameter(False)

    def states(self) -> Mapping[str, float]:
        states = {"square_avg": 0.0}
        if self.centered:
            states["grad_avg"] = 0.0
        if self.momentum:
            states["momentum_buffer"] = 0.0
        return states

    def each(
        self, weight: Number, gradient: Number, states: Mapping[str, Number], numbers: Sequence[Number]
    ) -> tuple[Number, Sequence[Number]]:
        if self.weight_decay:
            gradient = self.weight_decay * weight + gradient
        square = self.alpha * states["square_avg"] + (1 - self.alpha) * gradient * gradient
        after, spread = [square], square
        if self.centered:
            average = self.alpha * states["grad_avg"] + (1 - self.alpha) * gradient
            # Rounding may leave less than nothing of what is no variance.
            spread = maximum(square - average * average, 0.0)
            after.append(average)
        step = gradient / (sqrt(spread) + self.eps)
        if self.momentum:
            step = self.momentum * states["momentum_buffer"] + step
            after.append(step)
        return weight - numbers[0] * step, after
