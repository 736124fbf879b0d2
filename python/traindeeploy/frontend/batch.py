"""Another batch size for an imported model: which axis of each value counts samples, and its new size.

A dataflow over the training graph. Each operator has a rule that says where samples are in its result if
they are in its operands so, or that it mixes them. What no input reaches may have to have them, too: a
class token that was repeated for each sample, zeros to start from, a mask. If every operator treats samples
alike and apart from each other, the graph with another number of them computes for each what it computed
before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NoReturn

import numpy as np
from mlir import ir

from .model import BatchSizeError, ImportedModel, check_batch_size, check_size

MOST_TRIES = 200
"""Ways to read reshapes that are tried: of a batch of one sample there may be several."""


@dataclass(frozen=True)
class Samples:
    """Where samples are in a value: index i along `axis` belongs to sample (i // inner) % batch.

    `inner` is 1 unless others than samples share the axis.
    """

    axis: int
    inner: int = 1


class _Mixed(Exception):
    """An operator that does not treat samples apart from each other; the reason."""


class _Forced(Exception):
    """A value that no input reaches has samples after all; the walk begins again."""


def shape_of(value: ir.Value) -> tuple[int, ...]:
    return tuple(ir.RankedTensorType(value.type).shape)


def _place(operation: ir.Operation) -> str:
    text = str(operation.location)
    return text.removeprefix('loc("').removesuffix('")')


class _Walk:
    """Where samples are in each value of a function, by the rules of its operators.

    States of values are what a walk in order finds; `forced` ones were asked for by an operator behind them.
    """

    def __init__(self, model: ImportedModel, batch: int, statistics: bool = False):
        """statistics: batch norm takes those of the batch, which is not to be refused."""
        self.model, self.batch, self.statistics = model, batch, statistics
        context = ir.Context()
        from .. import _td

        _td.register_dialects(context)
        self.module = ir.Module.parse(model.module_text, context)
        self.function = next(
            op.operation for op in self.module.body.operations if op.operation.name == "func.func"
        )
        self.block = self.function.regions[0].blocks[0]
        self.operations = [op.operation for op in self.block.operations]
        self.forced: dict[ir.Value, Samples] = {}
        self.states: dict[ir.Value, Samples | None] = {}
        self.choices: list[tuple[int, int]] = []
        self.parts: dict[str, Samples] = {}
        self.repeated: list[tuple[ir.Operation, int, Samples]] = []

    # The search.

    def run(self) -> None:
        """Finds states of all values. Raises BatchSizeError, with the first reading's reason."""
        first: BatchSizeError | None = None
        picks: list[int] = []
        for _ in range(MOST_TRIES):
            try:
                self._read(picks)
                return
            except BatchSizeError as error:
                first = first or error
            # The last reshape that has another reading left takes it; those after it begin anew.
            while self.choices and self.choices[-1][0] + 1 >= self.choices[-1][1]:
                self.choices.pop()
            if not self.choices:
                break
            picks = [pick for pick, _ in self.choices]
            picks[-1] += 1
        assert first is not None
        raise first

    def _read(self, picks: Sequence[int]) -> None:
        """One reading of the graph, in which the n-th ambiguous reshape takes the reading picks[n]."""
        self.forced, self.parts = {}, {}
        while True:
            self.states, self.choices, self.repeated = {}, [], []
            self._picks = list(picks)
            try:
                self._walk()
                return
            except _Forced:
                continue

    def _walk(self) -> None:
        for argument in self.block.arguments:
            shape = shape_of(argument)
            self.states[argument] = Samples(0) if shape else None  # dropout's counter has none
        for operation in self.operations:
            if operation.name == "func.return":
                self._check_output(operation.operands[0])
            else:
                self.visit(operation)

    def visit(self, operation: ir.Operation) -> None:
        """Finds the states of an operator's results."""
        rule = RULES.get(operation.name)
        try:
            if rule is None:
                raise _Mixed("has no rule for other numbers of samples")
            state = rule(self, operation)
        except _Mixed as reason:
            raise BatchSizeError(f"'{_place(operation)}' {reason}") from None
        for result in operation.results:
            wanted = self.forced.get(result)
            if wanted is not None and state is not None and state != wanted:
                raise BatchSizeError(f"'{_place(operation)}' has samples along two axes")
            self.states[result] = wanted or state

    def _check_output(self, value: ir.Value) -> None:
        samples, shape = self.states[value], shape_of(value)
        if samples is None:
            raise BatchSizeError("the output does not depend on the samples")
        if samples.axis != 0 or shape[0] != self.batch * samples.inner:
            raise BatchSizeError(
                f"axis 0 of the output of shape {list(shape)} does not count samples one after the other"
            )

    def pick(self, candidates: int) -> int:
        """Which of several readings the next ambiguous reshape takes."""
        number = len(self.choices)
        taken = self._picks[number] if number < len(self._picks) else 0
        self.choices.append((taken, candidates))
        return taken

    # What rules ask.

    def state(self, value: ir.Value) -> Samples | None:
        return self.states[value]

    def demand(self, operation: ir.Operation, index: int, wanted: Samples) -> None:
        """Operand `index`, which has no samples yet, must have them; a size of 1 is repeated there."""
        value = operation.operands[index]
        state = self.states[value]
        if state == wanted:
            return
        if state is not None:
            raise _Mixed(f"has samples along axes {state.axis} and {wanted.axis} of its operands")
        size = shape_of(value)[wanted.axis]
        if size == 1 and wanted.inner == 1:
            self.repeated.append((operation, index, wanted))
            return
        if size % (self.batch * wanted.inner):
            raise _Mixed("mixes the samples of a batch")
        self.forced[value] = wanted
        raise _Forced

    def wanted(self, operation: ir.Operation) -> Samples | None:
        """What an operator behind this one has asked for."""
        return self.forced.get(operation.results[0])


Rule = Callable[[_Walk, ir.Operation], Samples | None]
RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for name in names:
            RULES[name] = rule
        return rule

    return register


def _mixes() -> NoReturn:
    raise _Mixed("mixes the samples of a batch")


def _integers(operation: ir.Operation, name: str) -> list[int]:
    return list(ir.DenseI64ArrayAttr(operation.attributes[name]))


@_rule("train.read")
def _read(walk: _Walk, operation: ir.Operation) -> Samples | None:
    wanted = walk.wanted(operation)
    if wanted is None:
        return None
    name = ir.FlatSymbolRefAttr(operation.attributes["parameter"]).value
    values = walk.model.parameters[name]
    if name not in walk.model.constants:
        raise _Mixed(
            f"has a part of the parameter '{name}' {list(values.shape)} for each of {walk.batch} samples"
        )
    parts = _by_samples(values, wanted, walk.batch)
    if not all((part == parts[0]).all() for part in parts):
        raise _Mixed(f"has the constant '{name}' {list(values.shape)}, which is another one for each sample")
    if walk.parts.setdefault(name, wanted) != wanted:
        raise _Mixed(f"has samples along two axes of the constant '{name}'")
    return wanted


def _by_samples(values: np.ndarray, samples: Samples, batch: int) -> np.ndarray:
    """The parts of `values` by sample, along axis 0."""
    axis, shape = samples.axis, values.shape
    outer = shape[axis] // (batch * samples.inner)
    split = values.reshape(*shape[:axis], outer, batch, samples.inner, *shape[axis + 1 :])
    return np.moveaxis(split, axis + 1, 0)


def _resized(values: np.ndarray, samples: Samples, batch: int, new: int) -> np.ndarray:
    """`values`, which are the same for all samples, for another number of them."""
    part = _by_samples(values, samples, batch)[:1]
    whole = np.moveaxis(np.repeat(part, new, axis=0), 0, samples.axis + 1)
    shape = list(values.shape)
    shape[samples.axis] = shape[samples.axis] // batch * new
    return np.ascontiguousarray(whole.reshape(shape))


@_rule("arith.constant", "tensor.empty", "linalg.fill")
def _constant(walk: _Walk, operation: ir.Operation) -> Samples | None:
    wanted = walk.wanted(operation)
    if wanted is not None and operation.name == "linalg.fill":
        walk.demand(operation, 1, wanted)
    if wanted is not None and operation.name == "arith.constant":
        attribute = ir.DenseElementsAttr(operation.attributes["value"])
        if not attribute.is_splat:
            values = np.array(attribute)
            parts = _by_samples(values, wanted, walk.batch)
            if not all((part == parts[0]).all() for part in parts):
                raise _Mixed("has constants that are others for each sample")
    return wanted


@_rule("train.relu", "train.sigmoid", "train.tanh", "train.exp", "train.log", "train.sqrt", "train.rsqrt")
@_rule("train.erf", "train.abs", "train.gelu", "train.clamp", "train.pow", "train.dropout")
@_rule("train.round", "train.detach", "train.from_integers")
def _function(walk: _Walk, operation: ir.Operation) -> Samples | None:
    wanted = walk.wanted(operation)
    if wanted is not None:
        walk.demand(operation, 0, wanted)
    return walk.state(operation.operands[0])


@_rule("train.add", "train.sub", "train.mul", "train.div", "train.broadcast", "train.compare", "train.select")
def _broadcasting(walk: _Walk, operation: ir.Operation) -> Samples | None:
    """Operands are aligned at the last axis; what has no samples is repeated, or forced to have them."""
    return _aligned(walk, operation, range(len(operation.operands)), len(shape_of(operation.results[0])))


def _aligned(walk: _Walk, operation: ir.Operation, indices: Sequence[int], rank: int) -> Samples | None:
    """Samples of the shape of rank `rank` that operands broadcast to."""
    shape = shape_of(operation.results[0])
    found = walk.wanted(operation)
    for index in indices:
        state = walk.state(operation.operands[index])
        if state is not None:
            own = replace(state, axis=state.axis + rank - len(shape_of(operation.operands[index])))
            if found is not None and own != found:
                _mixes()
            found = own
    if found is None:
        return None
    for index in indices:
        value = operation.operands[index]
        own_shape = shape_of(value)
        axis = found.axis - (rank - len(own_shape))
        size = shape[found.axis] if len(shape) == rank else 0
        if walk.state(value) is not None:
            if size and own_shape[axis] != size:
                _mixes()
        elif axis >= 0 and own_shape[axis] != 1:
            walk.demand(operation, index, Samples(axis, found.inner))
    return found


@_rule("train.linear")
def _linear(walk: _Walk, operation: ir.Operation) -> Samples | None:
    if any(walk.state(value) is not None for value in list(operation.operands)[1:]):
        raise _Mixed("multiplies with a weight that depends on the samples")
    wanted = walk.wanted(operation)
    last = len(shape_of(operation.results[0])) - 1
    if wanted is not None and wanted.axis == last:
        _mixes()
    if wanted is not None:
        walk.demand(operation, 0, wanted)
    state = walk.state(operation.operands[0])
    if state is not None and state.axis == last:
        _mixes()
    return state


@_rule("linalg.matmul")
def _matrix_product(walk: _Walk, operation: ir.Operation) -> Samples | None:
    loops = [[0, 2], [2, 1], [0, 1]]
    if "indexing_maps" in operation.attributes:
        texts = [
            str(item).rpartition("->")[2] for item in ir.ArrayAttr(operation.attributes["indexing_maps"])
        ]
        loops = [[int(loop) for loop in re.findall(r"d(\d+)", text)] for text in texts]
    found: tuple[int, int] | None = None  # the loop that counts samples, and how many others share it
    for index in (0, 1):
        state = walk.state(operation.operands[index])
        if state is None:
            continue
        own = (loops[index][state.axis], state.inner)
        if own[0] == 2 or found is not None:
            _mixes()
        found = own
    wanted = walk.wanted(operation)
    if wanted is not None and found is None:
        index = next(i for i in (0, 1) if loops[2][wanted.axis] in loops[i])
        walk.demand(operation, index, Samples(loops[index].index(loops[2][wanted.axis]), wanted.inner))
    if found is None:
        return None
    result = Samples(loops[2].index(found[0]), found[1])
    walk.demand(operation, 2, result)
    return result


@_rule("train.matmul")
def _batched_product(walk: _Walk, operation: ir.Operation) -> Samples | None:
    """Batches broadcast; of the matrices only rows of the left and columns of the right are apart."""
    shape = shape_of(operation.results[0])
    rank = len(shape)
    turned = ["transpose_lhs" in operation.attributes, "transpose_rhs" in operation.attributes]
    found: Samples | None = walk.wanted(operation)
    for index in (0, 1):
        value = operation.operands[index]
        state = walk.state(value)
        if state is None:
            continue
        axis = state.axis + rank - len(shape_of(value))
        if axis >= rank - 2:
            free = rank - 1 - index if turned[index] else rank - 2 + index
            if axis != free or walk.state(operation.operands[1 - index]) is not None:
                _mixes()
            axis = rank - 2 + index
        own = Samples(axis, state.inner)
        if found is not None and own != found:
            _mixes()
        found = own
    if found is None or found.axis >= rank - 2:
        if found is not None and found == walk.wanted(operation):
            _mixes()
        return found
    for index in (0, 1):
        value = operation.operands[index]
        own_shape = shape_of(value)
        axis = found.axis - (rank - len(own_shape))
        if walk.state(value) is None and axis >= 0 and own_shape[axis] != 1:
            walk.demand(operation, index, Samples(axis, found.inner))
        elif walk.state(value) is not None and own_shape[axis] != shape[found.axis]:
            _mixes()
    return found


@_rule("train.reshape")
def _reshape(walk: _Walk, operation: ir.Operation) -> Samples | None:
    source = operation.operands[0]
    wanted, state = walk.wanted(operation), walk.state(source)
    if state is None and wanted is not None:
        back = _moved(wanted, shape_of(operation.results[0]), shape_of(source), walk.batch)
        if not back:
            _mixes()
        walk.demand(operation, 0, back[walk.pick(len(back)) if len(back) > 1 else 0])
    if state is None:
        return wanted
    candidates = _moved(state, shape_of(source), shape_of(operation.results[0]), walk.batch)
    if wanted is not None:
        candidates = [candidate for candidate in candidates if candidate == wanted]
    if not candidates:
        _mixes()
    return candidates[walk.pick(len(candidates)) if len(candidates) > 1 else 0]


def _stride(samples: Samples, shape: tuple[int, ...]) -> int:
    """Elements from one sample to the next."""
    return samples.inner * prod(shape[samples.axis + 1 :])


def _moved(samples: Samples, before: tuple[int, ...], after: tuple[int, ...], batch: int) -> list[Samples]:
    """Where samples may be after a reshape, the most likely place first.

    They repeat every so many elements. Of more than one sample there is one axis with such steps, or none.
    Of one there may be several, and an axis of size 1 may have been any other one: transposes of such are
    reshapes.
    """
    stride = _stride(samples, before)
    found = []
    for axis, size in enumerate(after):
        right = prod(after[axis + 1 :])
        if stride % right == 0 and size % (batch * (stride // right)) == 0:
            found.append(Samples(axis, stride // right))
    if before[samples.axis] == batch == 1:
        own = [Samples(axis) for axis, size in enumerate(after) if size == 1]
        found += [item for item in own if item not in found]
    # An axis of their own first, of these one at the same steps; then the outer part of an axis, or inner.
    outer = {s: after[s.axis] // (batch * s.inner) for s in found}
    return sorted(
        found,
        key=lambda s: (
            after[s.axis] != batch,
            _stride(s, after) != stride,
            outer[s] != 1,
            s.inner != 1,
            abs(s.axis - samples.axis),
        ),
    )


@_rule("train.permute")
def _permute(walk: _Walk, operation: ir.Operation) -> Samples | None:
    order = _integers(operation, "permutation")
    wanted = walk.wanted(operation)
    if wanted is not None:
        walk.demand(operation, 0, replace(wanted, axis=order[wanted.axis]))
    state = walk.state(operation.operands[0])
    return None if state is None else replace(state, axis=order.index(state.axis))


@_rule("train.slice", "train.embed")
def _part(walk: _Walk, operation: ir.Operation) -> Samples | None:
    wanted = walk.wanted(operation)
    before, after = shape_of(operation.operands[0]), shape_of(operation.results[0])
    if wanted is not None:
        if before[wanted.axis] != after[wanted.axis]:
            _mixes()
        walk.demand(operation, 0, wanted)
    state = walk.state(operation.operands[0])
    if state is not None and before[state.axis] != after[state.axis]:
        what = "takes" if operation.name == "train.slice" else "adds"
        raise _Mixed(f"{what} some of the samples of a batch")
    return state


@_rule("train.concat")
def _concat(walk: _Walk, operation: ir.Operation) -> Samples | None:
    axis = ir.IntegerAttr(operation.attributes["axis"]).value
    found = walk.wanted(operation)
    for value in operation.operands:
        state = walk.state(value)
        if state is not None:
            if found is not None and found != state:
                _mixes()
            found = state
    if found is None:
        return None
    if found.axis == axis:
        _mixes()
    for index in range(len(operation.operands)):
        walk.demand(operation, index, found)
    return found


@_rule("train.sum", "train.max")
def _reduction(walk: _Walk, operation: ir.Operation) -> Samples | None:
    axes = _integers(operation, "axes")
    wanted = walk.wanted(operation)
    rank = len(shape_of(operation.operands[0]))
    kept = [axis for axis in range(rank) if axis not in axes]
    if wanted is not None:
        walk.demand(operation, 0, replace(wanted, axis=kept[wanted.axis]))
    state = walk.state(operation.operands[0])
    if state is None:
        return None
    if state.axis in axes and walk.statistics:
        return None  # what the running statistics of batch norm follow
    if state.axis in axes:
        _mixes()
    return replace(state, axis=kept.index(state.axis))


@_rule("train.assign")
def _assign(walk: _Walk, operation: ir.Operation) -> Samples | None:
    if walk.state(operation.operands[0]) is not None:
        raise _Mixed("keeps what depends on the samples")
    return None


@_rule("train.softmax", "train.log_softmax")
def _softmax(walk: _Walk, operation: ir.Operation) -> Samples | None:
    state = _function(walk, operation)
    if state is not None and state.axis == ir.IntegerAttr(operation.attributes["axis"]).value:
        _mixes()
    return state


@_rule("train.normalize")
def _normalize(walk: _Walk, operation: ir.Operation) -> Samples | None:
    rank = len(shape_of(operation.results[0]))
    state = _aligned(walk, operation, range(len(operation.operands)), rank)
    if state is not None and walk.state(operation.operands[0]) is None:
        walk.demand(operation, 0, state)
    if state is not None and state.axis in _integers(operation, "axes") and not walk.statistics:
        _mixes()
    return state


@_rule("train.embedding")
def _embedding(walk: _Walk, operation: ir.Operation) -> Samples | None:
    if walk.state(operation.operands[1]) is not None:
        raise _Mixed("looks up rows of what depends on the samples")
    wanted = walk.wanted(operation)
    if wanted is not None:
        if wanted.axis == len(shape_of(operation.results[0])) - 1:
            _mixes()
        walk.demand(operation, 0, wanted)
    return walk.state(operation.operands[0])


@_rule("train.conv2d", "train.conv2d_input_vjp", "train.max_pool2d", "train.avg_pool2d")
def _windows(walk: _Walk, operation: ir.Operation) -> Samples | None:
    """Images are apart; so are the channels of a pooling."""
    if len(operation.operands) > 1 and walk.state(operation.operands[1]) is not None:
        raise _Mixed("has a filter that depends on the samples")
    state = _function(walk, operation)
    apart = (0, 3) if "pool" in operation.name else (0,)
    if state is not None and state.axis not in apart:
        _mixes()
    return state


# What is done with it.


def check_samples(model: ImportedModel, statistics: bool = False) -> None:
    """Refuses a model that does not treat the samples of a batch alike and apart from each other.

    statistics: batch norm may take those of the batch.
    Errors: BatchSizeError, with the place of the operator that mixes them.
    """
    if model.batch_size is None:
        shapes = ", ".join(f"'{spec.name}' {list(spec.shape)}" for spec in model.inputs)
        raise BatchSizeError(f"axis 0 of the inputs disagrees: {shapes}")
    if model.batch_size > 1:  # else there is nothing to mix
        _Walk(model, model.batch_size, statistics).run()


@_rule("train.recurrence")
def _recurrence(walk: _Walk, operation: ir.Operation) -> Samples | None:
    """Samples are behind time: along axis 1 of what is stacked over time, axis 0 of what a step sees."""
    inputs, initials, _ = ir.DenseI32ArrayAttr(operation.attributes["operandSegmentSizes"])
    operands = [walk.state(value) for value in operation.operands]
    stacked, step = Samples(1), Samples(0)
    wanted = any(result in walk.forced for result in operation.results)
    if not wanted and all(state is None for state in operands):
        return None
    if any(state is not None for state in operands[inputs + initials :]):
        raise _Mixed("multiplies with a weight that depends on the samples")
    for index in range(inputs + initials):
        walk.demand(operation, index, stacked if index < inputs else step)
    body = operation.regions[0].blocks[0]
    for index, argument in enumerate(body.arguments):
        walk.states[argument] = step if index < inputs + initials else None
    for inner in (op.operation for op in body.operations):
        if inner.name == "train.recurrence_next":
            for index in range(len(inner.operands)):
                walk.demand(inner, index, step)
        else:
            walk.visit(inner)
    return stacked


def rebatched(model: ImportedModel, new: int) -> ImportedModel:
    """The model with `new` samples in a batch.

    Errors: BatchSizeError, with the place of an operator that mixes samples, or that has a part for each
    of them.
    """
    batch = model.batch_size
    if batch == new:
        return model
    if batch is None:
        raise BatchSizeError("the inputs have no common size of axis 0, so the batch size cannot be changed")
    check_batch_size(new, max(4 * prod(spec.shape[1:]) for spec in model.inputs))
    walk = _Walk(model, batch)
    try:
        walk.run()
    except BatchSizeError as error:
        raise BatchSizeError(
            f"the model cannot be changed from batch size {batch} to {new}: {error}"
        ) from None
    parameters = dict(model.parameters)
    with walk.module.context, ir.Location.unknown():
        for operation, index, samples in walk.repeated:
            _repeat(operation, index, samples, new)
        moves = [op for op in walk.operations if op.name == "train.reshape" and _moves_samples(walk, op)]
        for value, samples in _values(walk):
            shape = _grown(shape_of(value), samples, batch, new)
            check_size("an array at this batch size", shape)
            element = ir.RankedTensorType(value.type).element_type
            type_ = ir.RankedTensorType.get(list(shape), element)
            owner = value.owner
            if isinstance(owner, ir.Operation | ir.OpView) and owner.operation.name == "arith.constant":
                _resize_constant(owner.operation, type_, samples, batch, new)
            value.set_type(type_)
        moved = [(walk.states[op.operands[0]], walk.states[op.results[0]]) for op in moves]
        for operation, (before, after) in zip(moves, moved, strict=True):
            assert before is not None and after is not None
            _reshape_apart(operation, before, after)
        for name, samples in walk.parts.items():
            parameters[name] = _resized(parameters[name], samples, batch, new)
            for op in walk.module.body.operations:
                if op.operation.name == "train.parameter" and op.attributes["sym_name"].value == name:
                    type_ = ir.RankedTensorType.get(list(parameters[name].shape), ir.F32Type.get())
                    op.operation.attributes["type"] = ir.TypeAttr.get(type_)
        returned = walk.operations[-1].operands[0]
        function_type = ir.FunctionType.get([a.type for a in walk.block.arguments], [returned.type])
        walk.function.attributes["function_type"] = ir.TypeAttr.get(function_type)
    walk.module.operation.verify()
    return replace(
        model,
        module_text=walk.module.operation.get_asm(enable_debug_info=True),
        parameters=parameters,
        inputs=tuple(replace(spec, shape=(new, *spec.shape[1:])) for spec in model.inputs),
        output=replace(model.output, shape=shape_of(returned)),
        batch_size=new,
    )


def _values(walk: _Walk) -> Iterator[tuple[ir.Value, Samples]]:
    for value, samples in walk.states.items():
        if samples is not None:
            yield value, samples


def _grown(shape: tuple[int, ...], samples: Samples, batch: int, new: int) -> tuple[int, ...]:
    size = shape[samples.axis] // batch * new
    return (*shape[: samples.axis], size, *shape[samples.axis + 1 :])


def _moves_samples(walk: _Walk, operation: ir.Operation) -> bool:
    """Whether a reshape has the axis of its samples, which is one of size 1, at another place."""
    source, result = operation.operands[0], operation.results[0]
    before, after = walk.states.get(source), walk.states[result]
    if before is None or after is None:
        return False
    return _stride(before, shape_of(source)) != _stride(after, shape_of(result))


def _reshape_apart(operation: ir.Operation, before: Samples, after: Samples) -> None:
    """A reshape that moves the axis of samples, as a reshape of the rest behind it and permutes."""
    source, result = operation.operands[0], operation.results[0]
    element = ir.RankedTensorType(result.type).element_type

    def made(
        name: str, value: ir.Value, shape: Sequence[int], order: Sequence[int] | None = None
    ) -> ir.Value:
        attributes = {"permutation": ir.DenseI64ArrayAttr.get(list(order))} if order is not None else {}
        return ir.Operation.create(
            name,
            results=[ir.RankedTensorType.get(list(shape), element)],
            operands=[value],
            attributes=attributes,
            loc=operation.location,
            ip=ir.InsertionPoint(operation),
        ).result

    old, new = shape_of(source), shape_of(result)
    first = [before.axis, *(axis for axis in range(len(old)) if axis != before.axis)]
    front = made("train.permute", source, [old[axis] for axis in first], first)
    rest = [size for axis, size in enumerate(new) if axis != after.axis]
    flat = made("train.reshape", front, [new[after.axis], *rest])
    back = list(range(1, len(new)))
    back.insert(after.axis, 0)
    result.replace_all_uses_with(made("train.permute", flat, new, back))


def _repeat(operation: ir.Operation, index: int, samples: Samples, new: int) -> None:
    """Repeats an operand of size 1 where samples are needed."""
    value = operation.operands[index]
    shape = list(shape_of(value))
    shape[samples.axis] = new
    type_ = ir.RankedTensorType.get(shape, ir.RankedTensorType(value.type).element_type)
    repeated = ir.Operation.create(
        "train.broadcast",
        results=[type_],
        operands=[value],
        loc=operation.location,
        ip=ir.InsertionPoint(operation),
    )
    operation.operands[index] = repeated.result


def _resize_constant(operation: ir.Operation, type_: Any, samples: Samples, batch: int, new: int) -> None:
    attribute = ir.DenseElementsAttr(operation.attributes["value"])
    if attribute.is_splat:
        resized = ir.DenseElementsAttr.get_splat(type_, attribute.get_splat_value())
    else:
        values = _resized(np.array(attribute), samples, batch, new)
        resized = ir.DenseElementsAttr.get(values, type=type_)
    operation.attributes["value"] = resized
