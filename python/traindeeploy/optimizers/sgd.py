"""Stochastic gradient descent: torch.optim.SGD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import TrainDeeployError
from .base import SHARE, Optimizer, hyperparameter
from .formula import Number, fma, select


@dataclass(frozen=True)
class SGD(Optimizer):
    """v = momentum v + (1 - dampening) g, w = w - rate v; the first v is g."""

    name = "sgd"
    momentum: float = hyperparameter(0.0, SHARE)
    dampening: float = hyperparameter(0.0)
    nesterov: bool = hyperparameter(False)
    weight_decay: float = hyperparameter(0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise TrainDeeployError("nesterov of optimizer sgd needs a momentum, and no dampening")

    @property
    def linear(self) -> bool:
        return self.momentum == 0 and self.weight_decay == 0

    def shared(self) -> Mapping[str, float]:
        return {"updates": 0.0} if self.momentum and self.dampening else {}

    def states(self) -> Mapping[str, float]:
        return {"momentum": 0.0} if self.momentum else {}

    def once(self, rate: Number, shared: Mapping[str, Number]) -> tuple[Sequence[Number], Sequence[Number]]:
        if "updates" not in shared:
            return [rate], []
        updates = shared["updates"]
        share = select(updates == 0.0, 1.0, updates.formula.number(1.0 - self.dampening))
        return [rate, share], [updates + 1.0]

    def each(
        self, weight: Number, gradient: Number, states: Mapping[str, Number], numbers: Sequence[Number]
    ) -> tuple[Number, Sequence[Number]]:
        rate = numbers[0]
        direction = gradient
        if self.weight_decay:
            direction = self.weight_decay * weight + direction
        velocity = []
        if self.momentum:
            fresh = direction * numbers[1] if len(numbers) > 1 else direction
            velocity = [fma(direction.formula.number(self.momentum), states["momentum"], fresh)]
            direction = self.momentum * velocity[0] + direction if self.nesterov else velocity[0]
        # Rounded once: half the work of the cores' shared FPUs, and closer to the exact update than twice.
        # With a rate of zero, the sum of a weight of -0 and a step of +0 would be +0.
        moved = fma(-rate, direction, weight)
        return select(rate == 0.0, weight, moved), velocity
