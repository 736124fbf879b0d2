"""What is put around an optimizer: each of these is one itself, with states and formulas of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .base import Optimizer
from .formula import Number, maximum, minimum, select


@dataclass(frozen=True)
class Around(Optimizer):
    """Another optimizer as it is; subclasses change some part of it."""

    inner: Optimizer

    @property
    def title(self) -> str:
        return self.inner.title

    @property
    def linear(self) -> bool:
        return False

    def shared(self) -> Mapping[str, float]:
        return self.inner.shared()

    def states(self) -> Mapping[str, float]:
        return self.inner.states()

    def once(self, rate: Number, shared: Mapping[str, Number]) -> tuple[Sequence[Number], Sequence[Number]]:
        return self.inner.once(rate, shared)

    def each(
        self, weight: Number, gradient: Number, states: Mapping[str, Number], numbers: Sequence[Number]
    ) -> tuple[Number, Sequence[Number]]:
        return self.inner.each(weight, gradient, states, numbers)


@dataclass(frozen=True)
class Scaled(Around):
    """With a multiple of the learning rate."""

    factor: float

    @property
    def linear(self) -> bool:
        return self.inner.linear

    def once(self, rate: Number, shared: Mapping[str, Number]) -> tuple[Sequence[Number], Sequence[Number]]:
        return self.inner.once(rate * self.factor, shared)


@dataclass(frozen=True)
class Clipped(Around):
    """With gradients between -bound and bound: torch.nn.utils.clip_grad_value_."""

    bound: float

    def each(
        self, weight: Number, gradient: Number, states: Mapping[str, Number], numbers: Sequence[Number]
    ) -> tuple[Number, Sequence[Number]]:
        bounded = maximum(minimum(gradient, self.bound), -self.bound)
        return self.inner.each(weight, bounded, states, numbers)


@dataclass(frozen=True)
class Frozen(Around):
    """That does nothing in the first `count` updates: its own states, and counts, begin after them.

    So does torch.optim with parameters whose gradient is None until then.
    """

    count: int

    def shared(self) -> Mapping[str, float]:
        return {"frozen": 0.0, **self.inner.shared()}

    def once(self, rate: Number, shared: Mapping[str, Number]) -> tuple[Sequence[Number], Sequence[Number]]:
        numbers, following = self.inner.once(rate, shared)
        done = shared["frozen"]
        waits = done < float(self.count)
        after = [
            select(waits, shared[name], value)
            for name, value in zip(self.inner.shared(), following, strict=True)
        ]
        return [select(waits, 1.0, 0.0), *numbers], [select(waits, done + 1.0, done), *after]

    def each(
        self, weight: Number, gradient: Number, states: Mapping[str, Number], numbers: Sequence[Number]
    ) -> tuple[Number, Sequence[Number]]:
        moved, after = self.inner.each(weight, gradient, states, numbers[1:])
        waits = numbers[0] == 1.0
        return select(waits, weight, moved), [
            select(waits, states[name], value) for name, value in zip(self.inner.states(), after, strict=True)
        ]


@dataclass(frozen=True)
class Averaged(Around):
    """With an exponential moving average of the weights, state `ema`: decay ema + (1 - decay) w.

    torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn: the first average is the weight itself.
    """

    decay: float

    def shared(self) -> Mapping[str, float]:
        return {"averages": 0.0, **self.inner.shared()}

    def states(self) -> Mapping[str, float]:
        return {"ema": 0.0, **self.inner.states()}

    def once(self, rate: Number, shared: Mapping[str, Number]) -> tuple[Sequence[Number], Sequence[Number]]:
        numbers, following = self.inner.once(rate, shared)
        count = shared["averages"]
        kept = select(count == 0.0, 0.0, count.formula.number(self.decay))
        return [kept, 1.0 - kept, *numbers], [count + 1.0, *following]

    def each(
        self, weight: Number, gradient: Number, states: Mapping[str, Number], numbers: Sequence[Number]
    ) -> tuple[Number, Sequence[Number]]:
        kept, fresh, *rest = numbers
        moved, after = self.inner.each(weight, gradient, states, rest)
        return moved, [kept * states["ema"] + fresh * moved, *after]


@dataclass(frozen=True)
class Accumulated(Around):
    """An update for every `count` steps, from the sum of their gradients, or with `mean` its mean."""

    count: int
    mean: bool

    def shared(self) -> Mapping[str, float]:
        return {"micro_batches": 0.0, **self.inner.shared()}

    def states(self) -> Mapping[str, float]:
        return {"accumulated": 0.0, **self.inner.states()}

    def once(self, rate: Number, shared: Mapping[str, Number]) -> tuple[Sequence[Number], Sequence[Number]]:
        numbers, following = self.inner.once(rate, shared)
        done = shared["micro_batches"] + 1.0
        last = done == float(self.count)
        after = [
            select(last, value, shared[name])
            for name, value in zip(self.inner.shared(), following, strict=True)
        ]
        return [select(last, 1.0, 0.0), *numbers], [select(last, 0.0, done), *after]

    def each(
        self, weight: Number, gradient: Number, states: Mapping[str, Number], numbers: Sequence[Number]
    ) -> tuple[Number, Sequence[Number]]:
        total = states["accumulated"] + gradient
        whole = total * (1 / self.count) if self.mean else total
        moved, after = self.inner.each(weight, whole, states, numbers[1:])
        last = numbers[0] == 1.0
        kept = [states[name] for name in self.inner.states()]
        return select(last, moved, weight), [
            select(last, 0.0, total),
            *(select(last, new, old) for new, old in zip(after, kept, strict=True)),
        ]
