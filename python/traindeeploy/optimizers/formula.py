"""Formulas on numbers, written in Python and traced to the text of `arith` and `math` operations."""

from __future__ import annotations

import math
from collections.abc import Sequence


class Formula:
    """The text of a region of `train.optimizer`: its arguments, operations, and what it yields."""

    def __init__(self, element: str):
        self.element = element
        self.arguments: list[Number] = []
        self.lines: list[str] = []

    def argument(self, name: str) -> Number:
        """The next argument; its name is for people who read the IR."""
        word = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
        self.arguments.append(Number(self, f"%{word}_{len(self.arguments)}"))
        return self.arguments[-1]

    def operation(self, text: str, type_: str | None = None) -> str:
        """Appends an operation whose last word is its type, and returns its result's name."""
        name = f"%{len(self.lines)}"
        self.lines.append(f"{name} = {text} : {type_ or self.element}")
        return name

    def number(self, value: Number | float) -> Number:
        """A number of this formula: itself, or a constant."""
        if isinstance(value, Number):
            if value.formula is not self:
                raise ValueError("a number of another formula: pass it as a result of `once`")
            return value
        if not math.isfinite(value):
            raise ValueError(f"the constant {value} is not finite")
        return Number(self, self.operation(f"arith.constant {float(value):.17e}"))

    def region(self, results: Sequence[Number | float]) -> str:
        """The region's text."""
        numbers = [self.number(value) for value in results]
        arguments = ", ".join(f"{number.name}: {self.element}" for number in self.arguments)
        names = ", ".join(number.name for number in numbers)
        types = ", ".join([self.element] * len(numbers))
        end = f"train.yield {names} : {types}" if numbers else "train.yield"
        return "{\n" + "\n".join([f"^bb0({arguments}):", *self.lines, end]) + "\n}"


class Number:
    """A floating-point number of a formula. Operators with it and Python's numbers give further ones."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, formula: Formula, name: str):
        self.formula = formula
        self.name = name

    def _apply(self, operation: str, *others: Number | float, first: bool = True) -> Number:
        names = [self.formula.number(other).name for other in others]
        operands = [self.name, *names] if first else [*names, self.name]
        return Number(self.formula, self.formula.operation(f"{operation} {', '.join(operands)}"))

    def __add__(self, other: Number | float) -> Number:
        return self._apply("arith.addf", other)

    def __radd__(self, other: float) -> Number:
        return self._apply("arith.addf", other, first=False)

    def __sub__(self, other: Number | float) -> Number:
        return self._apply("arith.subf", other)

    def __rsub__(self, other: float) -> Number:
        return self._apply("arith.subf", other, first=False)

    def __mul__(self, other: Number | float) -> Number:
        return self._apply("arith.mulf", other)

    def __rmul__(self, other: float) -> Number:
        return self._apply("arith.mulf", other, first=False)

    def __truediv__(self, other: Number | float) -> Number:
        """The quotient, to 2 units in the last place: a reciprocal, and a product."""
        return self._quotient(other, first=True)

    def __rtruediv__(self, other: float) -> Number:
        return self._quotient(other, first=False)

    def _quotient(self, other: Number | float, first: bool) -> Number:
        other = self.formula.number(other)
        x, y = (self, other) if first else (other, self)
        return Number(
            self.formula, self.formula.operation(f"arith.divf {x.name}, {y.name} fastmath<arcp,afn>")
        )

    def __neg__(self) -> Number:
        return self._apply("arith.negf")

    def __eq__(self, other: Number | float) -> Condition:  # type: ignore[override]
        return self._compare("oeq", other)

    def __lt__(self, other: Number | float) -> Condition:
        return self._compare("olt", other)

    def __gt__(self, other: Number | float) -> Condition:
        return self._compare("ogt", other)

    def _compare(self, predicate: str, other: Number | float) -> Condition:
        name = self.formula.number(other).name
        return Condition(self.formula, self.formula.operation(f"arith.cmpf {predicate}, {self.name}, {name}"))


class Condition:
    """What a comparison of numbers gives, for `select`; false if one of them is NaN."""

    def __init__(self, formula: Formula, name: str):
        self.formula = formula
        self.name = name

    def __bool__(self) -> bool:
        raise TypeError("a condition of a formula has no value yet: use select()")


def fma(x: Number, y: Number | float, z: Number | float) -> Number:
    """x y + z, rounded once. Sums of products become this by themselves."""
    return x._apply("math.fma", y, z)


def sqrt(x: Number) -> Number:
    """The square root, to 2 units in the last place."""
    return Number(x.formula, x.formula.operation(f"math.sqrt {x.name} fastmath<afn>"))


def expm1(x: Number) -> Number:
    """e^x - 1."""
    return x._apply("math.expm1")


def maximum(x: Number, y: Number | float) -> Number:
    """The larger one; NaN if one is."""
    return x._apply("arith.maximumf", y)


def minimum(x: Number, y: Number | float) -> Number:
    """The smaller one; NaN if one is."""
    return x._apply("arith.minimumf", y)


def select(condition: Condition, x: Number | float, y: Number | float) -> Number:
    """x where the condition holds, and y elsewhere."""
    formula = condition.formula
    names = [formula.number(value).name for value in (x, y)]
    return Number(formula, formula.operation(f"arith.select {condition.name}, {', '.join(names)}"))
