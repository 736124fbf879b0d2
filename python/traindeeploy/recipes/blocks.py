"""A model's blocks: parts that are repeated with parameters of their own, such as a transformer's layers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from traindeeploy.frontend.model import ImportedModel

from .graph import Step, steps_of

BY_NAMES = "the names of parameters"
BY_OPERATORS = "the names of operators"
BY_STRUCTURE = "the repeated structure of the graph"


@dataclass(frozen=True)
class Blocks:
    """members: the parameters of each block, blocks in their order; found_by: what told them."""

    members: tuple[tuple[str, ...], ...]
    found_by: str


def find_blocks(model: ImportedModel) -> Blocks | None:
    """The model's blocks, of two or more weights each; None if it has none.

    By names they are modules that only a number tells apart; of several such lists it is the one with the
    most weights. A parameter whose name says no module (an exporter has lost it) is named after the
    parameters of its layer or else after the operator that reads it. Without such names blocks are
    repetitions in the graph: see `_repeated`.
    """
    weights = {name for name in model.trainable_names() if model.parameters[name].ndim > 1}
    lost = _without_module(model)
    steps = steps_of(model) if lost else []
    modules, from_operators = _modules(model, steps)
    if members := _numbered(modules, weights):
        inside = {name for block in members for name in block}
        members = _with_enclosed(members, steps, [name for name in lost if name not in inside])
        found_by = BY_NAMES if inside.isdisjoint(from_operators) else BY_OPERATORS
        return Blocks(tuple(_in_order(model, block) for block in members), found_by)
    steps = steps or steps_of(model)
    found = [_repeated(order, model, weights) for order in (steps, _depth_first(steps))]
    best = max(found, key=lambda blocks: _count(blocks, weights))
    return Blocks(tuple(_in_order(model, block) for block in best), BY_STRUCTURE) if best else None


def module_names(model: ImportedModel) -> dict[str, str]:
    """Names of the parameters that can be trained, by symbol; what an exporter has lost is found anew."""
    return _modules(model, steps_of(model) if _without_module(model) else [])[0]


def _without_module(model: ImportedModel) -> list[str]:
    """Parameters of an ONNX model whose names say no module. (In PyTorch that is a name like others.)"""
    return [name for name in model.trainable_names() if "." not in name] if model.onnx else []


def _modules(model: ImportedModel, steps: Sequence[Step]) -> tuple[dict[str, str], set[str]]:
    """Names with a module, where there is one, by symbol; and the symbols named after operators."""
    modules = {name: name for name in model.trainable_names()}
    if not model.onnx:
        return modules, set()
    modules |= _of_layers(model)
    scopes = {name: scope for name, scope in _scopes(steps).items() if "." not in modules[name]}
    modules |= {name: f"{scope}.{name}" for name, scope in scopes.items()}
    return modules, set(scopes)


def _in_order(model: ImportedModel, names: Iterable[str]) -> tuple[str, ...]:
    position = {name: i for i, name in enumerate(model.parameters)}
    return tuple(sorted(names, key=position.__getitem__))


def _count(blocks: Iterable[Iterable[str]], weights: set[str]) -> int:
    """How many weights the blocks have."""
    return sum(len(weights.intersection(block)) for block in blocks)


def _numbered(modules: Mapping[str, str], weights: set[str]) -> list[list[str]]:
    """Groups of names whose modules only a number tells apart; modules: a dotted name by name."""
    groups: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, module in modules.items():
        for match in re.finditer(r"(?:^|(?<=\.))(\d+)\.", module):
            groups[module[: match.start()]][int(match.group(1))].append(name)
    best: list[list[str]] = []
    for members in groups.values():
        blocks = [members[number] for number in sorted(members)]
        if min(_count([block], weights) for block in blocks) > 1 and _count(blocks, weights) > _count(
            best, weights
        ):
            best = blocks
    return best


def _of_layers(model: ImportedModel) -> dict[str, str]:
    """Names for parameters without a module, after another parameter of their layer that has one."""
    found: dict[str, str] = {}
    for layer in model.layers:
        modules = {name.rpartition(".")[0] for name in layer.parameters if "." in name}
        if len(modules) == 1:
            module = modules.pop()
            found |= {name: f"{module}.{name}" for name in layer.parameters if "." not in name}
    return found


def _scopes(steps: Iterable[Step]) -> dict[str, str]:
    """Modules of parameters by the operators that read them: "layers.0.fc" of "/layers.0/fc/MatMul"."""
    found: dict[str, str] = {}
    for step in steps:
        place = step.place.partition(" (")[0]
        *parts, _ = place.split("/" if "/" in place else ".")
        modules: list[str] = []
        for part in filter(None, parts):
            # The child "0" of a sequence "net" is "net/net.0".
            if modules and part.startswith(f"{modules[-1]}."):
                modules.pop()
            modules.append(part)
        if modules:
            for name in step.parameters:
                found.setdefault(name, ".".join(modules))
    return found


def _with_enclosed(blocks: list[list[str]], steps: Sequence[Step], lost: Sequence[str]) -> list[list[str]]:
    """Blocks with the lost parameters that are read only between the first and the last step of theirs."""
    if not lost:
        return blocks
    read: dict[str, list[int]] = defaultdict(list)
    for at, step in enumerate(steps):
        for name in step.parameters:
            read[name].append(at)
    spans = []
    for block in blocks:
        own = [at for name in block for at in read[name]]
        spans.append(range(min(own, default=0), max(own, default=-1) + 1))
    for name in lost:
        around = [i for i, span in enumerate(spans) if read[name] and all(at in span for at in read[name])]
        if len(around) == 1:
            blocks[around[0]].append(name)
    return blocks


def _depth_first(steps: Sequence[Step]) -> list[Step]:
    """The same steps, each right behind its operands: an order that files written in any other have, too."""
    order: list[int] = []
    done: set[int] = set()
    stack = [(at, False) for at in range(len(steps))]
    while stack:
        at, operands_done = stack.pop()
        if at in done:
            continue
        if operands_done:
            done.add(at)
            order.append(at)
        else:
            stack.append((at, True))
            stack.extend((operand, False) for operand in reversed(steps[at].operands))
    position = {at: i for i, at in enumerate(order)}
    return [
        replace(s, operands=tuple(position[operand] for operand in s.operands))
        for s in (steps[at] for at in order)
    ]


def _repeated(steps: Sequence[Step], model: ImportedModel, weights: set[str]) -> list[list[str]]:
    """Parameters of the largest repetition among the steps; [] if there is none.

    A repetition is two or more neighbouring stretches of the same operators with the same shapes. Each has
    two or more weights that no other stretch reads, passes one value to the next, and has a path around its
    weights (the residual connection, without which it is a chain of layers). Together they have at
    least half of the model's weights.
    """
    shapes = {name: value.shape for name, value in model.parameters.items()}
    kinds: dict[tuple[object, ...], int] = {}
    keys = [(s.operator, s.shape, tuple(shapes[name] for name in s.parameters)) for s in steps]
    tokens = np.array([kinds.setdefault(key, len(kinds)) for key in keys], np.int64)
    last_use = list(range(len(steps)))
    for at, step in enumerate(steps):
        for operand in step.operands:
            last_use[operand] = at
    if steps:
        last_use[-1] = len(steps)
    runs: list[tuple[int, int, int]] = []
    best: list[list[str]] = []
    for period in range(1, len(steps) // 2 + 1):
        same = np.concatenate(([0], tokens[:-period] == tokens[period:], [0]))
        starts, ends = np.flatnonzero(np.diff(same) == 1), np.flatnonzero(np.diff(same) == -1)
        for start, end in zip(map(int, starts), map(int, ends + period), strict=True):
            if end - start < 2 * period:
                continue
            if any(period % p == 0 and s <= start and end <= e for s, e, p in runs):
                continue  # several repetitions at once
            runs.append((start, end, period))
            blocks = _stretches(steps, last_use, range(start, end), period, weights)
            if _count(blocks, weights) > max(_count(best, weights), (len(weights) - 1) // 2):
                best = blocks
    return best


def _stretches(
    steps: Sequence[Step], last_use: Sequence[int], run: range, period: int, weights: set[str]
) -> list[list[str]]:
    """Parameters of the stretches of `period` steps in `run`, [] if they are no blocks."""

    def read(first: int, behind: int) -> list[str]:
        return list(dict.fromkeys(name for step in steps[first:behind] for name in step.parameters))

    def passed(border: int) -> list[int]:
        """Steps of the run whose results are needed behind the border."""
        return [at for at in range(run.start, border) if last_use[at] >= border]

    def has_way_around(first: int, behind: int) -> bool:
        """Whether the result of a stretch depends on a value before it without a weight in between."""
        ways = passed(behind)
        for at in ways:  # grows
            if not weights.isdisjoint(steps[at].parameters):
                continue
            for operand in steps[at].operands:
                if operand < first:
                    return True
                if operand not in ways:
                    ways.append(operand)
        return False

    own, following = (set(read(run[i], run[i] + period)) & weights for i in (0, period))
    if len(own) < 2 or not own.isdisjoint(following):
        return []
    found: list[tuple[int, int]] = []  # first step, number of stretches
    for first in run[: min(period, len(run) - 2 * period + 1)]:
        count = (run.stop - first) // period
        borders = range(first + period, first + (count + 1) * period, period)
        if all(len(passed(border)) == 1 for border in borders) and has_way_around(first, borders[0]):
            found.append((first, count))
    if not found:
        return []
    most = max(count for _, count in found)
    firsts = [first for first, count in found if count == most]
    # What is before the first weight may be what ends a stretch: the later start is the better one.
    first = max(later for later in firsts if weights.isdisjoint(read(firsts[0], later)))
    blocks: list[list[str]] = []
    seen: set[str] = set()
    for at in range(first, first + most * period, period):
        names = [name for name in read(at, at + period) if name not in seen]
        if len(weights.intersection(names)) < 2:
            return []
        blocks.append(names)
        seen.update(names)
    return blocks
