"""Ranks a model's layers by how much the loss on given data depends on them, for a budget of memory.

The measure is the empirical Fisher information: of each parameter the mean over samples of the squared
gradient of that sample's loss (Kirkpatrick et al., arXiv:1612.00796; for what to train under a budget of
memory: Kwon et al., TinyTrain, arXiv:2307.09988). The host computes the gradients, with the devices' step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .data import COUNTER, DataSet, load_npz
from .errors import TrainDeeployError
from .optimizers import Number, Optimizer, choose
from .plan_table import table


@dataclass(frozen=True)
class _Kept(Optimizer):
    """Changes no weight and keeps its gradient."""

    def states(self) -> Mapping[str, float]:
        return {"gradient": 0.0}

    def each(
        self, weight: Number, gradient: Number, states: Mapping[str, Number], numbers: Sequence[Number]
    ) -> tuple[Number, Sequence[Number]]:
        return weight, [gradient]


@dataclass(frozen=True)
class Ranked:
    """A layer: its trained parameters, their Fisher information summed up, and what training them takes.

    bytes: of these parameters and their optimizer states. chosen: whether they are in the budget.
    """

    name: str
    parameters: list[str]
    fisher: float
    bytes: int
    chosen: bool


def rank_layers(
    model: Any,
    data: str | Path | Mapping[str, Any],
    *,
    loss: str,
    budget: int | None = None,
    samples: int = 32,
    optimizer: str | Optimizer = "sgd",
    example_inputs: Sequence[Any] | None = None,
    **options: Any,
) -> list[Ranked]:
    """Layers with parameters, most Fisher information a byte first.

    data: as Program.run takes it; the first `samples` are used. budget: bytes of trained parameters and of
    the states that `optimizer` keeps of them; layers are taken in their order as long as they fit, or all.
    example_inputs, options: further arguments of `compile`, such as `recipe`, of which layers are ranked.

    Raises TrainDeeployError for data that do not fit, a budget too small, and what cannot be compiled.
    """
    from mlir import ir

    from . import ir_facts
    from .driver import ADDED, _fields, training_graph
    from .host import HostStep, make_context

    if samples < 1:
        raise TrainDeeployError(f"{samples} samples rank no layers")
    states = len(choose(optimizer).states())
    text, imported = training_graph(
        model, example_inputs, loss=loss, optimizer=_Kept(), batch_size=1, **options
    )
    with make_context(), ir.Location.unknown():
        module = ir.Module.parse(text)
        inputs = [
            {"name": name, "shape": list(shape), "type": element}
            for name, shape, element in ir_facts.step_inputs(module)
        ]
        trained = [name for name, is_trained in ir_facts.parameters(module)[0].items() if is_trained]
    class_axis = options.get("class_axis") or 1
    fields = _fields(inputs, loss, {"class_axis": class_axis}, imported.output.shape, ADDED["train"])
    arrays = load_npz(Path(data), "data") if isinstance(data, str | Path) else data
    dataset = DataSet(arrays, fields)
    step = HostStep(text)
    values = {**step.initial_state(), **imported.parameters}
    fisher = dict.fromkeys(trained, 0.0)
    count = min(samples, dataset.samples)
    for number, sample in enumerate(islice(dataset.batches(1), count)):
        counter = np.asarray(number, np.int32)
        lost, after = step(values, {**sample, "lr": np.zeros((), np.float32), COUNTER: counter})
        if not np.isfinite(lost):
            raise TrainDeeployError(f"the loss of sample {number} is {lost}")
        for name in trained:
            fisher[name] += float(np.square(after[f"{name}.gradient"].astype(np.float64)).sum()) / count
    # What several layers read is of the first one.
    free = dict.fromkeys(trained)
    layers = []
    for layer in imported.layers:
        layers.append((layer.name, [name for name in dict.fromkeys(layer.parameters) if name in free]))
        for name in layer.parameters:
            free.pop(name, None)
    layers += [(name, [name]) for name in free]
    found = [
        (
            name,
            names,
            sum(fisher[n] for n in names),
            sum(imported.parameters[n].nbytes for n in names) * (1 + states),
        )
        for name, names in layers
        if names
    ]
    found.sort(key=lambda item: -item[2] / item[3])
    left = sum(item[3] for item in found) if budget is None else budget
    ranked = []
    for name, names, information, size in found:
        fits = size <= left
        left -= size if fits else 0
        ranked.append(Ranked(name, names, information, size, fits))
    if not any(layer.chosen for layer in ranked):
        smallest = min(layer.bytes for layer in ranked)
        raise TrainDeeployError(f"no layer fits a budget of {budget} bytes; the smallest takes {smallest}")
    return ranked


def ranking_table(ranked: Sequence[Ranked]) -> str:
    """Layers by rank, and what to write for those that are chosen."""
    rows = [
        [
            str(number),
            layer.name,
            f"{layer.bytes:,}",
            f"{layer.fisher:.3g}",
            f"{layer.fisher / layer.bytes:.3g}",
            "train" if layer.chosen else "",
        ]
        for number, layer in enumerate(ranked, 1)
    ]
    names = " ".join(f"'{name}'" for layer in ranked if layer.chosen for name in layer.parameters)
    heads = ["", "layer", "bytes", "Fisher", "a byte", ""]
    return "\n".join([table(heads, rows, "llrrrl"), f"--trainable {names}"])
