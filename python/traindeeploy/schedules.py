"""Learning rates over the steps of a run, with the names and values of torch.optim.lr_scheduler.

A schedule is listed in SCHEDULES, as a dataclass whose fields are its parameters; nothing else names one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from .choices import chosen
from .errors import TrainDeeployError


def parameter(default: Any, kind: Callable[[str], Any], text: str) -> Any:
    """A parameter of a schedule: `kind` reads it from text; without a default (...) it has to be given."""
    return field(default=MISSING if default is ... else default, metadata={"kind": kind, "text": text})


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _milestones(text: str) -> tuple[int, ...]:
    return tuple(sorted(_positive(part) for part in text.split("+")))


@dataclass(frozen=True)
class Schedule:
    """A learning rate over steps. A field `length` of None becomes the steps that there are."""

    name: ClassVar[str]
    torch: ClassVar[str]
    """The class of torch.optim.lr_scheduler that has these values."""

    def rate(self, step: int, lr: float) -> float:
        """The rate of a step, counted from 0, of a base rate."""
        raise NotImplementedError

    def steps(self) -> int | None:
        """How many steps it is for; None: any number."""
        return None


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate always."""

    name, torch = "constant", "none"

    def rate(self, step: int, lr: float) -> float:
        return lr


@dataclass(frozen=True)
class Step(Schedule):
    """Times gamma every step_size steps."""

    name, torch = "step", "StepLR"
    step_size: int = parameter(..., _positive, "steps between changes")
    gamma: float = parameter(0.1, _number, "factor of a change")

    def rate(self, step: int, lr: float) -> float:
        return lr * self.gamma ** (step // self.step_size)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """Times gamma at each milestone."""

    name, torch = "multi-step", "MultiStepLR"
    milestones: tuple[int, ...] = parameter(..., _milestones, "steps of changes, with + between them")
    gamma: float = parameter(0.1, _number, "factor of a change")

    def rate(self, step: int, lr: float) -> float:
        return lr * self.gamma ** bisect_right(self.milestones, step)


@dataclass(frozen=True)
class Exponential(Schedule):
    """Times gamma every step."""

    name, torch = "exponential", "ExponentialLR"
    gamma: float = parameter(..., _number, "factor of a step")

    def rate(self, step: int, lr: float) -> float:
        return lr * self.gamma**step


@dataclass(frozen=True)
class Linear(Schedule):
    """From start_factor to end_factor times the rate, and on with that."""

    name, torch = "linear", "LinearLR"
    start_factor: float = parameter(1 / 3, _number, "factor of the first step")
    end_factor: float = parameter(1.0, _number, "factor at the end")
    total_iters: int = parameter(5, _positive, "steps until then")

    def rate(self, step: int, lr: float) -> float:
        part = min(step, self.total_iters) / self.total_iters
        return lr * (self.start_factor + (self.end_factor - self.start_factor) * part)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """(1 - t / total_iters)^power, to zero."""

    name, torch = "polynomial", "PolynomialLR"
    total_iters: int | None = parameter(None, _positive, "steps to zero (default: all)")
    power: float = parameter(1.0, _number, "the exponent")

    def rate(self, step: int, lr: float) -> float:
        assert self.total_iters
        return lr * (1 - step / self.total_iters) ** self.power

    def steps(self) -> int | None:
        return self.total_iters


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a period of a cosine, to eta_min."""

    name, torch = "cosine", "CosineAnnealingLR"
    T_max: int | None = parameter(None, _positive, "steps to the end (default: all)")
    eta_min: float = parameter(0.0, _number, "rate at the end")

    def rate(self, step: int, lr: float) -> float:
        assert self.T_max
        return self.eta_min + (lr - self.eta_min) * (1 + math.cos(math.pi * step / self.T_max)) / 2

    def steps(self) -> int | None:
        return self.T_max


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """A cosine that starts again, each time T_mult times as long."""

    name, torch = "cosine-restarts", "CosineAnnealingWarmRestarts"
    T_0: int = parameter(..., _positive, "steps to the first restart")
    T_mult: int = parameter(1, _positive, "factor of the steps to the next one")
    eta_min: float = parameter(0.0, _number, "rate before a restart")

    def rate(self, step: int, lr: float) -> float:
        period = self.T_0
        while step >= period:
            if self.T_mult == 1:
                step %= period
                break
            step, period = step - period, period * self.T_mult
        return self.eta_min + (lr - self.eta_min) * (1 + math.cos(math.pi * step / period)) / 2


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to the rate, and down to almost nothing, both along a cosine."""

    name, torch = "one-cycle", "OneCycleLR"
    total_steps: int | None = parameter(None, _positive, "steps of the cycle (default: all)")
    pct_start: float = parameter(0.3, _number, "share of the steps that go up")
    div_factor: float = parameter(25.0, _number, "the rate over that of the first step")
    final_div_factor: float = parameter(1e4, _number, "the first step's rate over that of the last one")

    def __post_init__(self) -> None:
        if not 0 <= self.pct_start <= 1:
            raise TrainDeeployError(f"pct_start of schedule one-cycle is from 0 to 1, not {self.pct_start:g}")

    def rate(self, step: int, lr: float) -> float:
        assert self.total_steps
        first = lr / self.div_factor
        top, end = self.pct_start * self.total_steps - 1, self.total_steps - 1
        if step <= top:
            begin, low, high, until = 0.0, first, lr, top
        else:
            begin, low, high, until = top, lr, first / self.final_div_factor, end
        part = (step - begin) / (until - begin) if until != begin else 0.0
        return high + (low - high) / 2 * (1 + math.cos(math.pi * part))

    def steps(self) -> int | None:
        return self.total_steps


def _rates(path: str) -> tuple[float, ...]:
    """The numbers of a text file, one a line."""
    try:
        lines = Path(path).read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise TrainDeeployError(f"cannot read the rates of {path}: {reason}") from None
    rates = []
    for line in lines:
        try:
            rates.append(_number(line))
        except ValueError:
            raise TrainDeeployError(f"{path}: {line!r} is not a finite number") from None
    return tuple(rates)


@dataclass(frozen=True)
class Table(Schedule):
    """The rates of a text file, one a line; the base rate is not used."""

    name, torch = "table", "none"
    file: tuple[float, ...] = parameter(..., _rates, "the file")

    def rate(self, step: int, lr: float) -> float:
        return self.file[step]

    def steps(self) -> int | None:
        return len(self.file)


SCHEDULES: dict[str, type[Schedule]] = {
    kind.name: kind
    for kind in (
        Constant,
        Step,
        MultiStep,
        Exponential,
        Linear,
        Polynomial,
        Cosine,
        CosineRestarts,
        OneCycle,
        Table,
    )
}


def parse(text: str) -> Schedule:
    """The schedule that NAME or NAME:KEY=VALUE,... says; errors are those of choices.chosen."""
    schedule = chosen("schedule", SCHEDULES, text)
    assert isinstance(schedule, Schedule)
    return schedule


def rates(
    schedule: str | Schedule | Callable[[int], float] | Any | None,
    lr: float,
    warmup: int,
    first: int,
    steps: int,
) -> Iterator[float]:
    """The rates of the steps from the `first` one on of a run.

    schedule: a Schedule, or its text; a function from the step to its rate; a
        torch.optim.lr_scheduler.LRScheduler, from where it stands on, which stays as it is.
    warmup: so many steps lead up to the rate before the schedule begins: (t + 1) / (warmup + 1) of it.

    Raises TrainDeeployError for a schedule that is shorter than the run.
    """
    if warmup < 0:
        raise TrainDeeployError(f"a warm-up of {warmup} steps")
    if hasattr(schedule, "get_last_lr"):
        if warmup:
            raise TrainDeeployError("a warm-up is part of a torch.optim.lr_scheduler, if it has one")
        return _of_torch(schedule, steps)
    if schedule is None or isinstance(schedule, str | Schedule):
        named = parse(schedule or "constant") if not isinstance(schedule, Schedule) else schedule
        whole = max(1, first + steps - warmup)
        unset = [item.name for item in fields(named) if getattr(named, item.name) is None]
        named = type(named)(**{**named.__dict__, **dict.fromkeys(unset, whole)})
        length = named.steps()
        if length is not None and length + warmup < first + steps:
            raise TrainDeeployError(
                f"schedule {named.name} has {length} steps, but the run needs {first + steps - warmup}"
                + (f" behind a warm-up of {warmup}" if warmup else "")
                + (f", of which {first} are done" if first else "")
            )
        function: Callable[[int], float] = lambda step: named.rate(step, lr)  # noqa: E731
    else:
        function = schedule
    return (
        lr * (step + 1) / (warmup + 1) if step < warmup else function(step - warmup)
        for step in range(first, first + steps)
    )


def _of_torch(scheduler: Any, steps: int) -> Iterator[float]:
    """The rates of a copy of a torch.optim.lr_scheduler.LRScheduler."""
    import copy
    import warnings

    scheduler = copy.deepcopy(scheduler)
    for step in range(steps):
        if step:
            with warnings.catch_warnings():
                # It has no optimizer that steps before it.
                warnings.simplefilter("ignore")
                try:
                    scheduler.step()
                except ValueError as error:
                    raise TrainDeeployError(f"the schedule ends after step {step}: {error}") from None
        yield float(scheduler.get_last_lr()[0])
