"""How a training run updates parameters: an optimizer, groups of parameters, and what is done around it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..errors import TrainDeeployError
from .around import Accumulated, Averaged, Clipped, Scaled
from .base import Optimizer

MOST_MICRO_BATCHES = 2**24
"""The device counts them in float32."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters in whose names a regular expression is found, and what is different for them.

    lr: the multiple of the learning rate. weight_decay: in place of the optimizer's.
    """

    pattern: str
    lr: float = 1.0
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise TrainDeeployError(
                f"the pattern '{self.pattern}' of a group is no regular expression: {error}"
            ) from None
        if not (math.isfinite(self.lr) and self.lr >= 0):
            raise TrainDeeployError(
                f"the learning rate of group '{self.pattern}' is {self.lr:g} times as high"
            )


@dataclass(frozen=True)
class Updates:
    """What is done with gradients.

    groups: of all that match a parameter the multiples of the rate are multiplied, and the last weight
        decay counts.
    clip_value: largest magnitude of an element of a gradient; clip_norm: of all gradients as one vector.
    accumulate: steps whose gradients make up an update.
    ema: the decay of an exponential moving average of the weights.

    Errors: TrainDeeployError for numbers that are none of these, and what does not go together.
    """

    optimizer: Optimizer
    groups: Sequence[ParameterGroup] = ()
    clip_value: float | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None

    def __post_init__(self) -> None:
        for name in ("clip_value", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise TrainDeeployError(f"{name} is {value:g}; gradients are clipped to a number above 0")
        if not 1 <= self.accumulate <= MOST_MICRO_BATCHES:
            raise TrainDeeployError(
                f"gradients of {self.accumulate} steps cannot be accumulated; 1 to {MOST_MICRO_BATCHES} can"
            )
        if self.ema is not None and not 0 <= self.ema < 1:
            raise TrainDeeployError(
                f"the decay {self.ema:g} of the average of weights is not at least 0 and below 1"
            )
        if self.accumulate > 1 and self.clip_norm is not None:
            raise TrainDeeployError(
                "clip_norm and accumulate do not go together: the norm is of each step's gradients;"
                " clip_value does, and so does a larger batch"
            )
        has_decay = any(item.name == "weight_decay" for item in fields(self.optimizer))
        for group in self.groups:
            if group.weight_decay is not None and not has_decay:
                raise TrainDeeployError(f"optimizer {self.optimizer.title} has no weight decay")

    @property
    def options(self) -> str:
        """As options of the pipeline td-graph."""
        return f"clip-norm={self.clip_norm!r}" if self.clip_norm is not None else ""

    def by_parameter(self, names: Sequence[str], mean: bool) -> dict[str, Optimizer]:
        """The optimizer of each parameter that is trained; equal ones are one.

        mean: whether the loss is a mean over the samples, so that gradients of several steps are, too.

        Raises TrainDeeployError for a group that matches none.
        """
        result = {}
        for name in names:
            optimizer, factor = self.optimizer, 1.0
            for group in self.groups:
                if re.search(group.pattern, name):
                    factor *= group.lr
                    if group.weight_decay is not None:
                        optimizer = replace(optimizer, weight_decay=group.weight_decay)  # type: ignore[call-arg]
            if factor != 1:
                optimizer = Scaled(optimizer, factor)
            if self.clip_value is not None:
                optimizer = Clipped(optimizer, self.clip_value)
            if self.ema is not None:
                optimizer = Averaged(optimizer, self.ema)
            if self.accumulate > 1:
                optimizer = Accumulated(optimizer, self.accumulate, mean)
            result[name] = optimizer
        for group in self.groups:
            if not any(re.search(group.pattern, name) for name in names):
                raise TrainDeeployError(
                    f"no trained parameter matches the pattern '{group.pattern}' of a group;"
                    " `traindeeploy inspect` lists them"
                )
        return result

    def to_json(self) -> dict[str, Any]:
        """The optimizer's name and hyperparameters, and what else is not as it is by default."""
        given = {item.name: getattr(self, item.name) for item in fields(self)[2:]}
        default = {item.name: item.default for item in fields(self)[2:]}
        more = {name: value for name, value in given.items() if value != default[name]}
        if self.groups:
            more["groups"] = [asdict(group) for group in self.groups]
        return {**self.optimizer.to_json(), **more}
