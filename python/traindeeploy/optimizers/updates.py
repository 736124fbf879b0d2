"""How a training run updates parameters: an optimizer, groups of parameters, and what is done around it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..errors import TrainDeeployError
from .around import Accumulated, Averaged, Clipped, Frozen, Scaled
from .base import Optimizer
from .zeroth_order import ZerothOrder

MOST_COUNTED = 2**24
"""The device counts in float32."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters in whose names a regular expression is found, and what is different for them.

    lr: the multiple of the learning rate. weight_decay: in place of the optimizer's. frozen: the number of
        first updates in which they, and their states, stay as they are. last_channels: the number of last
        indices of their first axis that train; the rest stays as it is.
    """

    pattern: str
    lr: float = 1.0
    weight_decay: float | None = None
    frozen: int = 0
    last_channels: int | None = None

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
        if self.last_channels is not None and self.last_channels < 1:
            raise TrainDeeployError(
                f"of group '{self.pattern}' the last {self.last_channels} channels train; 1 at least can"
            )
        if not 0 <= self.frozen <= MOST_COUNTED:
            raise TrainDeeployError(
                f"group '{self.pattern}' is frozen for {self.frozen} updates; 0 to {MOST_COUNTED} can be"
            )


@dataclass(frozen=True)
class Updates:
    """What is done with gradients.

    groups: of all that match a parameter the multiples of the rate are multiplied, the last weight
        decay counts, and the most updates that it is frozen for.
    clip_value: largest magnitude of an element of a gradient; clip_norm: of all gradients as one vector.
    accumulate: steps whose gradients make up an update.
    ema: the decay of an exponential moving average of the weights.
    zeroth_order: how gradients are estimated from losses, if they are not computed.

    Errors: TrainDeeployError for numbers that are none of these, and what does not go together.
    """

    optimizer: Optimizer
    groups: Sequence[ParameterGroup] = ()
    clip_value: float | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None
    zeroth_order: ZerothOrder | None = None

    def __post_init__(self) -> None:
        for name in ("clip_value", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise TrainDeeployError(f"{name} is {value:g}; gradients are clipped to a number above 0")
        if not 1 <= self.accumulate <= MOST_COUNTED:
            raise TrainDeeployError(
                f"gradients of {self.accumulate} steps cannot be accumulated; 1 to {MOST_COUNTED} can"
            )
        if self.ema is not None and not 0 <= self.ema < 1:
            raise TrainDeeployError(
                f"the decay {self.ema:g} of the average of weights is not at least 0 and below 1"
            )
        frozen = any(group.frozen for group in self.groups)
        if self.clip_norm is not None and frozen:
            raise TrainDeeployError(
                "clip_norm and groups that are frozen for some updates do not go together: the norm would be"
                " of their gradients too; clip_value does"
            )
        if self.clip_norm is not None and any(group.last_channels for group in self.groups):
            raise TrainDeeployError(
                "clip_norm and last_channels do not go together: the norm would be of all channels'"
                " gradients; clip_value does"
            )
        if self.zeroth_order is not None:
            for name, given, instead in (
                ("clip_norm", self.clip_norm is not None, "clip_value bounds the elements of the estimate"),
                ("accumulate", self.accumulate > 1, "directions= averages over directions"),
                ("groups frozen for some updates", frozen, "--trainable says what is trained"),
            ):
                if given:
                    raise TrainDeeployError(f"zeroth-order and {name} do not go together; {instead}")
        has_decay = any(item.name == "weight_decay" for item in fields(self.optimizer))
        for group in self.groups:
            if group.weight_decay is not None and not has_decay:
                raise TrainDeeployError(f"optimizer {self.optimizer.title} has no weight decay")

    def sums_in_step(self, dynamic: bool) -> bool:
        """Whether gradients of several steps are added up before all of them are looked at, and not in the
        update of each parameter.

        dynamic: whether the scale of the loss is a state.
        """
        return self.accumulate > 1 and (dynamic or self.clip_norm is not None)

    def options(self, mean: bool, dynamic: bool) -> str:
        """As options of the pipeline td-graph; arguments are those of `by_parameter`."""
        words = [f"clip-norm={self.clip_norm!r}"] if self.clip_norm is not None else []
        if self.sums_in_step(dynamic):
            words.append(f"accumulate={self.accumulate} mean-of-steps={str(mean).lower()}")
        if self.zeroth_order is not None:
            words.append(self.zeroth_order.options)
        return " ".join(words)

    def by_parameter(self, names: Sequence[str], mean: bool, dynamic: bool = False) -> dict[str, Optimizer]:
        """The optimizer of each parameter that is trained; equal ones are one.

        mean: whether the loss is a mean over the samples, so that gradients of several steps are, too.
        dynamic: whether the scale of the loss is a state.

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
            if frozen := max((g.frozen for g in self.groups if re.search(g.pattern, name)), default=0):
                optimizer = Frozen(optimizer, frozen)
            if self.ema is not None:
                optimizer = Averaged(optimizer, self.ema)
            if self.accumulate > 1 and not self.sums_in_step(dynamic):
                optimizer = Accumulated(optimizer, self.accumulate, mean)
            result[name] = optimizer
        for group in self.groups:
            if not any(re.search(group.pattern, name) for name in names):
                raise TrainDeeployError(
                    f"no trained parameter matches the pattern '{group.pattern}' of a group;"
                    " `traindeeploy inspect` lists them"
                )
        return result

    def last_channels(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """Of parameters of which not all channels train, how many do: the fewest that a group says.

        shapes: of the parameters that are trained, by name.

        Raises TrainDeeployError for a parameter with fewer.
        """
        chosen: dict[str, int] = {}
        for group in self.groups:
            if group.last_channels is None:
                continue
            for name, shape in shapes.items():
                if not re.search(group.pattern, name):
                    continue
                if not shape or shape[0] < group.last_channels:
                    raise TrainDeeployError(
                        f"group '{group.pattern}' trains the last {group.last_channels} channels, but"
                        f" '{name}' has {shape[0] if shape else 'none'}"
                    )
                chosen[name] = min(chosen.get(name, group.last_channels), group.last_channels)
        return chosen

    def to_json(self) -> dict[str, Any]:
        """The optimizer's name and hyperparameters, and what else is not as it is by default."""
        given = {item.name: getattr(self, item.name) for item in fields(self)[2:]}
        default = {item.name: item.default for item in fields(self)[2:]}
        more = {name: value for name, value in given.items() if value != default[name]}
        if self.groups:
            more["groups"] = [asdict(group) for group in self.groups]
        if self.zeroth_order is not None:
            more["zeroth_order"] = asdict(self.zeroth_order)
        return {**self.optimizer.to_json(), **more}
