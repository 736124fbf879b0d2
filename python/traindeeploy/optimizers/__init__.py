"""Optimizers: a file each, with hyperparameters, states, and the formulas of a step; nothing else names one.

One more is a subclass of `Optimizer`, handed to `traindeeploy.compile` as it is (docs/optimizers.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..choices import chosen
from ..errors import TrainDeeployError
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .base import Optimizer, Range, hyperparameter
from .formula import Number, expm1, fma, maximum, minimum, select, sqrt
from .lion import Lion
from .rmsprop import RMSprop
from .sgd import SGD
from .updates import ParameterGroup, Updates
from .zeroth_order import ZerothOrder, method

OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    kind.name: kind for kind in (SGD, Adam, AdamW, RMSprop, Adagrad, Lion)
}

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Lion",
    "Number",
    "Optimizer",
    "ParameterGroup",
    "RMSprop",
    "Range",
    "Updates",
    "ZerothOrder",
    "attach",
    "choose",
    "expm1",
    "fma",
    "hyperparameter",
    "maximum",
    "method",
    "minimum",
    "select",
    "sqrt",
]


def choose(optimizer: str | Optimizer, momentum: float = 0.0) -> Optimizer:
    """The optimizer that NAME or NAME:KEY=VALUE,... says, or the one that is given.

    momentum: short for that of sgd.

    Raises TrainDeeployError for what is no optimizer, and a momentum of another one.
    """
    if not isinstance(optimizer, Optimizer):
        optimizer = chosen("optimizer", OPTIMIZERS, optimizer)
        assert isinstance(optimizer, Optimizer)
    if momentum != 0:
        if not isinstance(optimizer, SGD) or optimizer.momentum:
            raise TrainDeeployError(
                f"a momentum beside optimizer {optimizer.title} is of sgd without one; write NAME:momentum=X"
            )
        optimizer = replace(optimizer, momentum=momentum)
    return optimizer


def attach(
    module: Any,
    optimizer: Optimizer | Mapping[str, Optimizer],
    element: str = "f32",
) -> None:
    """Adds optimizers to a module (of the `mlir` package) with parameters.

    optimizer: one for all that are trained, or those of each parameter by name.

    Raises TrainDeeployError for formulas that are none.
    """
    from mlir import ir

    by_name = optimizer if isinstance(optimizer, Mapping) else {}
    kinds = [optimizer] if isinstance(optimizer, Optimizer) else list(dict.fromkeys(by_name.values()))
    symbols = {kind: f"optimizer_{i}" if i else "optimizer" for i, kind in enumerate(kinds)}
    with module.context, ir.Location.unknown():
        if len(kinds) > 1:
            for op in module.body.operations:
                if op.operation.name == "train.parameter":
                    name = ir.StringAttr(op.attributes["sym_name"]).value
                    if name in by_name:
                        symbol = symbols[by_name[name]]
                        op.operation.attributes["optimizer"] = ir.FlatSymbolRefAttr.get(symbol)
        for kind, symbol in symbols.items():
            text = f'{kind.text(symbol, element)} loc("optimizer ({kind.title})")'
            try:
                module.body.append(ir.Operation.parse(text))
            except ir.MLIRError as error:
                raise TrainDeeployError(f"optimizer {kind.title} has no formula: {error}") from None
