"""What an optimizer is: hyperparameters, states, and the formulas of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from ..errors import TrainDeeployError
from .formula import Formula, Number

RESERVED = ("samples", "steps")
"""Names that params.npz has for other things than states."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; `open_low`, `open_high`: but not these themselves."""

    low: float = 0.0
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.low < value if self.open_low else self.low <= value)
            and (value < self.high if self.open_high else value <= self.high)
        )

    def __str__(self) -> str:
        start = f"above {self.low:g}" if self.open_low else f"at least {self.low:g}"
        if self.high == math.inf:
            return start
        return f"{start} and {'below' if self.open_high else 'at most'} {self.high:g}"


NOT_NEGATIVE = Range()
SHARE = Range(0.0, 1.0, open_high=True)
"""From 0 up to, but not including, 1."""


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _numbers(count: int) -> Callable[[str], tuple[float, ...]]:
    def parse(text: str) -> tuple[float, ...]:
        values = tuple(float(part) for part in text.split("+"))
        if len(values) != count:
            raise ValueError
        return values

    return parse


def hyperparameter(default: Any, range_: Range = NOT_NEGATIVE) -> Any:
    """A field of an optimizer: a number, a tuple of numbers (a + b in text), or true or false.

    range_: what each number has to be in; an optimizer with another one is refused.
    """
    if isinstance(default, bool):
        return field(default=default, metadata={"kind": _boolean})
    kind = _numbers(len(default)) if isinstance(default, tuple) else float
    return field(default=default, metadata={"kind": kind, "range": range_})


@dataclass(frozen=True)
class Optimizer:
    """How gradients move parameters. A subclass is a frozen dataclass of hyperparameters with formulas.

    Formulas are written on numbers (`formula.Number`) with Python's operators and the functions of
    `formula`; they are traced once, when a model is compiled. There are two: `once` is computed once a
    step, `each` for each element of a parameter, on the tile where its gradient has been made.

    Errors: TrainDeeployError for a hyperparameter that is out of its range.
    """

    name: ClassVar[str] = ""
    """As on the command line; without one, that of the class."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if (allowed := item.metadata.get("range")) is None:
                continue
            value = getattr(self, item.name)
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, int | float) or number not in allowed:
                    raise TrainDeeployError(
                        f"{item.name} of optimizer {self.title} is to be {allowed}, not {number}"
                    )

    @property
    def title(self) -> str:
        """Its name."""
        return self.name or type(self).__name__

    @property
    def linear(self) -> bool:
        """Whether a weight moves by the rate times the gradient and nothing else."""
        return False

    def shared(self) -> Mapping[str, float]:
        """States that are one number for all parameters, and their first values."""
        return {}

    def states(self) -> Mapping[str, float]:
        """States that each parameter has in its own shape, and their first values."""
        return {}

    def once(self, rate: Number, shared: Mapping[str, Number]) -> tuple[Sequence[Number], Sequence[Number]]:
        """What is computed once a step.

        rate: the learning rate; shared: the shared states, by name.

        Returns numbers that `each` gets, and the next values of the shared states, in their order.
        """
        return [rate], []

    def each(
        self, weight: Number, gradient: Number, states: Mapping[str, Number], numbers: Sequence[Number]
    ) -> tuple[Number, Sequence[Number]]:
        """The update of an element.

        states: its states by name; numbers: what `once` has computed.

        Returns the next weight, and the next values of the states, in their order.
        """
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Its name and hyperparameters."""
        return {"name": self.title, **asdict(self)}

    def text(self, symbol: str = "optimizer", element: str = "f32") -> str:
        """The op `train.optimizer` of this optimizer, as text.

        Raises TrainDeeployError for state names that are taken, or that cannot be written in text.
        """
        shared, states = dict(self.shared()), dict(self.states())
        for name in (*shared, *states):
            if name in RESERVED or not name.isidentifier() or (name in shared and name in states):
                raise TrainDeeployError(f"optimizer {self.title} cannot have a state called '{name}'")
        once, each = Formula(element), Formula(element)
        rate = once.argument("rate")
        numbers, following = self.once(rate, {name: once.argument(name) for name in shared})
        weight, gradient = each.argument("weight"), each.argument("gradient")
        before = {name: each.argument(name) for name in states}
        given = [each.argument(f"number{i}") for i in range(len(numbers))]
        updated, after = self.each(weight, gradient, before, given)
        if len(following) != len(shared) or len(after) != len(states):
            raise TrainDeeployError(
                f"optimizer {self.title} has {len(shared)} shared and {len(states)} other states, but its"
                f" formulas return {len(following)} and {len(after)}"
            )

        def listed(word: str, values: Sequence[str]) -> str:
            return f" {word} [{', '.join(values)}]" if values else ""

        first = [*shared.values(), *states.values()]
        head = (
            f"train.optimizer @{symbol}"
            + listed("shared", [f'"{name}"' for name in shared])
            + listed("states", [f'"{name}"' for name in states])
            + listed("first", [f"{float(value):.17e}" for value in first] if any(first) else [])
            + (" linear" if self.linear else "")
        )
        return f"{head} once {once.region([*numbers, *following])} each {each.region([updated, *after])}"
