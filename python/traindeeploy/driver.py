"""From a model to a program, and from a program and data to trained parameters.

`compile` runs the pipelines of docs/architecture.md in process, one border after the other, and reads
from the IR in between what reports and the plan's table need. `Program.run` feeds the program on a
simulator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from .data import COUNTER, Arrays, DataSet, Field, check_numbers, load_npz, npz_bytes, read_npz
from .entries import (
    ENTRIES,
    SAMPLES,
    Evaluation,
    Machine,
    Metrics,
    Prediction,
    check_entries,
    dataset_of,
    evaluated,
    predicted,
)
from .errors import TrainDeeployError
from .interrupts import interrupts_held, let_interrupts_arrive
from .isolation import isolated, keep
from .losses import IGNORED, WEIGHTS, Labels, Loss, notes_on_activation
from .losses import TARGETS as LOSS_TARGETS
from .optimizers import Optimizer, ParameterGroup, Updates, ZerothOrder, attach, choose
from .optimizers import method as chosen_method
from .optimizers.zeroth_order import MOST_DRAWN
from .output import MANIFEST, explained, output_folder, read_summed, reason, write_summed
from .plan_table import Operator, plan_table, table
from .precision import DynamicScale, Precision
from .report import build_report, lower_bound, summary, transfers
from .schedules import Schedule, rates
from .schema import check_json
from .timeline import Slice, last_step, slices, trace

if TYPE_CHECKING:
    from .frontend.model import ImportedModel, Mode
    from .recipes import LoraOptions
    from .target import Target

FORMAT = 7
"""Version of what Program.write writes; Program.load refuses others."""


class Traffic(TypedDict):
    """Bytes of parameters that a step moves."""

    loaded: int
    stored: int


class Memory(TypedDict):
    """Bytes that a program takes (ir_facts.memory)."""

    peak: dict[str, int]
    state: int
    dynamic_peak: int


class Input(TypedDict):
    """An argument of the step."""

    name: str
    shape: list[int]
    type: str
    rows: NotRequired[int]
    ignored: NotRequired[int]


class Numbers(TypedDict):
    """The precision of products."""

    name: str
    loss_scale: float
    dynamic: NotRequired[dict[str, float]]


class State(TypedDict):
    """An optimizer's state: its symbol in the program, its name in params.npz, and its first value.

    parameter: whose shape it has; it is one number without.
    """

    symbol: str
    key: str
    first: float
    parameter: NotRequired[str]


class PlannedOperator(TypedDict):
    """An operator of the plan, see plan_table.Operator."""

    name: str
    operator: str
    engine: str
    domain: list[int]
    tile: list[int]
    predicted: dict[str, int]
    transfers: dict[str, int]


class Manifest(TypedDict):
    """program.json: what the host knows of a compiled program."""

    format: int
    entry: NotRequired[str]
    entries: NotRequired[list[str]]
    metrics: NotRequired[list[str]]
    output_name: NotRequired[str]
    model: str
    target: dict[str, Any]
    batch: int
    loss: str
    loss_options: dict[str, Any]
    optimizer: dict[str, Any]
    precision: Numbers
    inputs: list[Input]
    output: list[int]
    parameters: dict[str, bool]
    states: list[State]
    adapters: list[dict[str, Any]]
    running: list[str]
    layouts: dict[str, list[int]]
    flop: int
    parameter_traffic: Traffic
    memory: Memory
    operators: list[PlannedOperator]


PERTURB = "perturb"
"""Zeroth order, two-sided: whether another run comes behind this one (docs/zeroth-order.md)."""
ADDED: dict[str, tuple[str, ...]] = {"train": ("lr", PERTURB, COUNTER), "evaluate": (SAMPLES,), "infer": ()}
"""Inputs by entry that a program has beside the model's and the loss's."""
STATE_PREFIX = "optimizer/"
SAMPLES_KEY, STEPS_KEY = STATE_PREFIX + "samples", STATE_PREFIX + "steps"

Array = npt.NDArray[np.generic]
Message = Callable[[str], None]


def _silent(message: str) -> None:
    """Says nothing."""


def _diagnosed(error: Exception) -> TrainDeeployError:
    """The first error that MLIR diagnosed, with the place in the model, as one line."""
    from . import ir_facts

    for diagnostic in getattr(error, "error_diagnostics", []):
        place = ir_facts.location_name(diagnostic.location)
        notes = [
            note.message for note in diagnostic.notes if not note.message.startswith("see current operation")
        ]
        message = "; ".join([diagnostic.message, *notes])
        return TrainDeeployError(f"{place}: {message}" if place else message)
    return TrainDeeployError(f"the compiler failed without saying why: {error}")


def _load_compiler(model: Any) -> None:
    """Imports what a compilation of the model needs, which the processes that it runs in then share."""
    with interrupts_held():
        from mlir import ir, passmanager  # noqa: F401
        from mlir.dialects import llvm  # noqa: F401

        from . import _td, frontend, ir_facts, recipes, target_attribute, toolchain  # noqa: F401

        with suppress(Exception):  # what is missing is said by what needs it
            frontend.load_route(model)


@dataclass
class _Lowering:
    """A module on its way down, and what is kept of it."""

    module: Any
    keep_ir: bool
    progress: Message
    texts: dict[str, str] = field(default_factory=dict)

    def run(self, border: str, options: str = "") -> None:
        """Runs the named pipeline of a border, in place."""
        from mlir.ir import MLIRError
        from mlir.passmanager import PassManager

        self.progress(f"compiling: {border}")
        pipeline = f"builtin.module(td-{border}{{{options}}})" if options else f"builtin.module(td-{border})"
        keep(
            f"{border}.mlir",
            lambda: self.module.operation.get_asm(enable_debug_info=True),
            f"td-opt {border}.mlir --pass-pipeline='{pipeline}'",
        )
        try:
            with self.module.context:
                PassManager.parse(pipeline).run(self.module.operation)
        except MLIRError as error:
            raise _diagnosed(error) from None
        self.keep(border)
        let_interrupts_arrive()

    def keep(self, border: str) -> None:
        """Keeps the text of the module under the name of the border that it has crossed."""
        if self.keep_ir:
            self.texts[border] = self.module.operation.get_asm(enable_debug_info=True)


def _fields(
    inputs: Sequence[Mapping[str, Any]],
    loss: str,
    options: Mapping[str, Any],
    output: Sequence[int],
    added: Sequence[str],
) -> list[Field]:
    """The data fields of a step, from the inputs of its program; those `added` to the model are no data."""
    dtypes = {"f32": "float32", "i32": "int32"}
    fields = []
    for item in inputs:
        name = item["name"]
        if name in added:
            continue
        targets = LOSS_TARGETS.get(loss, ())
        is_target = name in targets
        names = targets if is_target else (name,)
        whole = item["type"] == "i32"
        what, hint = ("label" if whole else "target") if is_target else "index", ""
        if what == "label" and len(output) > 2:
            axis = options["class_axis"]
            hint = f"; the classes are axis {axis} of the output of shape {list(output)} (--class-axis)"
        fields.append(
            Field(
                name,
                tuple(item["shape"]),
                dtypes[item["type"]],
                tuple(n for n in names if n != name),
                item.get("rows"),
                what,
                item.get("ignored"),
                hint,
            )
        )
    return fields


def _lower(
    graph: str, context: Any, machine: Target, lowering: _Lowering
) -> tuple[bytes, list[Operator], dict[str, Any]]:
    """From a decomposed training step to an ELF, the operators of its plan, and the memory that it takes.

    Raises ProgramTooLarge when code and job tables exceed what the arrays leave of L2.
    """
    from mlir import ir
    from mlir.dialects.llvm import translate_module_to_llvmir

    from . import ir_facts
    from .target_attribute import mlir_attribute
    from .toolchain import Elf, build_elf

    with interrupts_held(), context:
        module = lowering.module = ir.Module.parse(graph)
        module.operation.attributes["tile.target"] = ir.Attribute.parse(
            mlir_attribute(dict(machine.description))
        )
        lowering.run("plan")
        operators = ir_facts.plan_operators(module)
        lowering.run("tile")
        ir_facts.add_jobs(operators, module)
        memory = ir_facts.memory(module, machine)
        lowering.run("cluster")
        lowering.run("llvm")
        llvm_ir = translate_module_to_llvmir(module.operation)
    if lowering.keep_ir:
        lowering.texts["program"] = llvm_ir
    lowering.progress("compiling: machine code")
    elf = build_elf(llvm_ir, machine)
    memory["peak"]["l2"] += Elf(elf).program_bytes
    return elf, operators, memory


def _state_key(name: str, state: Mapping[str, Any]) -> str:
    """The name of an optimizer's state in params.npz (ir_facts.parameters says what a state is)."""
    if "parameter" in state:
        return f"{STATE_PREFIX}{state['parameter']}/{name}"
    # Those of further groups of parameters have a number, as their optimizers.
    return STATE_PREFIX + name + state["symbol"].removeprefix("optimizer").removesuffix(f".{name}")


@dataclass
class _Step:
    """A decomposed step (level 2) on its way down, and the model that it is of."""

    imported: ImportedModel
    labels: Labels | None
    lowering: _Lowering


@dataclass(frozen=True)
class _Source:
    """A model, as the arguments of `compile` say what is to be made of it. Entries have it in common."""

    model: Any
    example_inputs: Sequence[Any] | None
    loss: Loss | None
    label_shape: Sequence[int] | None
    outputs: Sequence[str]
    precision: Precision
    recipe: str | None
    trainable: Sequence[str] | None
    trainable_file: str | Path | None
    lora: LoraOptions | None
    untie: Sequence[str] = ()
    keep_ir: bool = False
    progress: Message = _silent
    notice: Message = _silent


def _imported(
    source: _Source, batch_size: int | None, mode: Mode, loss: Loss | None
) -> tuple[ImportedModel, Labels | None, list[str]]:
    """The model in a mode, for a loss or none, the loss's labels, and the names of what is trained."""
    with interrupts_held():
        from .frontend import import_model
        from .frontend.batch import check_samples
        from .recipes import apply_recipe

    notice = source.notice
    source.progress("importing the model")
    imported = import_model(source.model, source.example_inputs, batch_size, mode, source.untie)
    for note in imported.notes:
        notice(note)
    known = len(imported.notes)
    if imported.batch_size is None:
        shapes = ", ".join(f"'{spec.name}' {list(spec.shape)}" for spec in imported.inputs)
        raise TrainDeeployError(f"axis 0 of every input counts samples, but they disagree: {shapes}")
    shape = imported.output.shape
    of_samples = loss.name == "cross-entropy" if loss else imported.batch_size > 1
    if of_samples and shape and shape[0] != imported.batch_size:
        check_samples(imported, mode.batch_statistics)  # tokens of a sample must be one after the other
    label_shape = source.label_shape
    labels = None
    if loss is not None:
        labels = loss.labels(shape, imported.batch_size, None if label_shape is None else tuple(label_shape))
    adapted = source.recipe is not None and source.recipe.partition(":")[0] == "lora"
    chosen: list[str] = []
    if adapted or not mode.inference:  # adapters are part of the model, whatever is made of it
        imported, chosen = apply_recipe(
            imported, source.recipe, source.trainable, source.trainable_file, source.lora
        )
    for note in imported.notes[known:]:
        notice(note)
    if loss is not None and loss.class_weights is not None:
        weights = np.asarray(loss.class_weights, np.float32)
        imported = replace(
            imported,
            parameters={**imported.parameters, WEIGHTS: weights},
            constants=imported.constants | {WEIGHTS},
        )
    return imported, labels, chosen


def _parsed(imported: ImportedModel) -> Any:
    """The module of a model, in a context of its own."""
    from mlir import ir

    from . import _td

    context = ir.Context()
    context.emit_error_diagnostics = False
    with context:
        _td.register_dialects(context)
        try:
            return ir.Module.parse(imported.module_text)
        except ir.MLIRError as error:
            raise _diagnosed(error) from None


def _training_step(
    source: _Source, batch_size: int | None, *, dropout: int | None, batch_norm: str, updates: Updates
) -> _Step:
    """Imports a model and lowers it to its training step. Arguments and errors are those of `compile`."""
    with interrupts_held():
        from mlir import ir

        from . import ir_facts
        from .frontend import training_mode

    loss, precision = source.loss, source.precision
    if loss is None:
        raise TrainDeeployError("an entry that trains needs a loss")
    if precision.loss_scale is not None and updates.zeroth_order is not None:
        raise TrainDeeployError("zeroth-order and a loss scale do not go together: there are no gradients")
    mode = training_mode(dropout, batch_norm, source.outputs, loss.name == "model")
    imported, labels, chosen = _imported(source, batch_size, mode, loss)
    with interrupts_held():
        module = _parsed(imported)
    with interrupts_held(), module.context:
        # Marked here and not by an option of the pipeline: names may hold what options cannot.
        for note in notes_on_activation(*ir_facts.last_activation(module), loss.name):
            source.notice(note)
        marked = set(chosen)
        channels = updates.last_channels({name: imported.parameters[name].shape for name in chosen})
        for op in module.body.operations:
            if op.operation.name == "train.parameter" and (name := op.attributes["sym_name"].value) in marked:
                op.operation.attributes["trainable"] = ir.UnitAttr.get()
                if name in channels:
                    count = ir.IntegerAttr.get(ir.IntegerType.get_signless(64), channels[name])
                    op.operation.attributes["train.last_channels"] = count
        if precision.dynamic:
            for text in precision.dynamic.states.splitlines():
                module.body.append(ir.Operation.parse(text))
        mean, dynamic = loss.reduction == "mean", precision.dynamic is not None
        attach(module, updates.by_parameter(chosen, mean, dynamic))
        lowering = _Lowering(module, source.keep_ir, source.progress)
        lowering.keep("model")
        lowering.run(
            "graph",
            f"{loss.options(labels)} {updates.options(mean, dynamic)} {precision.options}",
        )
    return _Step(imported, labels, lowering)


def _entry_step(
    source: _Source, batch_size: int | None, entry: str, names: Sequence[str] | None
) -> tuple[_Step, Metrics | None]:
    """Imports a model and lowers it to a step that infers or evaluates, with the metrics `names`."""
    with interrupts_held():
        from .frontend import training_mode

    loss = source.loss if entry == "evaluate" else None
    own_loss = source.loss is not None and source.loss.name == "model"
    mode = training_mode(None, "frozen", source.outputs, own_loss)
    imported, labels, _ = _imported(source, batch_size, replace(mode, inference=True), loss)
    options, metrics = "entry=infer", None
    if entry == "evaluate":
        if loss is None:
            raise TrainDeeployError("the entry evaluate needs a loss")
        metrics = Metrics.chosen(names, loss, labels)
        options = f"entry=evaluate {loss.options(labels)} {metrics.options}"
    with interrupts_held():
        module = _parsed(imported)
    with interrupts_held(), module.context:
        lowering = _Lowering(module, source.keep_ir, source.progress)
        lowering.keep("model")
        lowering.run("entry", f"{options} precision={source.precision.name}")
    return _Step(imported, labels, lowering), metrics


def _loss(
    name: str,
    reduction: str,
    smoothing: float,
    ignored: int | None,
    weights: Sequence[float] | None,
    axis: int | None,
) -> Loss:
    """The loss that the arguments of `compile` say."""
    numbers = None if weights is None else tuple(float(weight) for weight in weights)
    return Loss(name, reduction, smoothing, ignored, numbers, axis)


@isolated(_load_compiler)
def training_graph(
    model: Any,
    example_inputs: Sequence[Any] | None = None,
    *,
    loss: str,
    loss_reduction: str = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int | None = IGNORED,
    class_weights: Sequence[float] | None = None,
    class_axis: int | None = None,
    label_shape: Sequence[int] | None = None,
    output: str | Sequence[str] | None = None,
    dropout: int | None = None,
    batch_norm: str = "frozen",
    optimizer: str | Optimizer = "sgd",
    momentum: float = 0.0,
    groups: Sequence[ParameterGroup] = (),
    clip_value: float | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    method: str | ZerothOrder = "backpropagation",
    precision: str = "fp32",
    loss_scale: float | DynamicScale | None = None,
    recipe: str | None = None,
    trainable: Sequence[str] | None = None,
    trainable_file: str | Path | None = None,
    lora: LoraOptions | None = None,
    untie: Sequence[str] = (),
    batch_size: int | None = None,
    notice: Message = _silent,
) -> tuple[str, ImportedModel]:
    """The decomposed training step of a model as text (level 2), and the model with its parameters' values.

    What a planner gets, to look at and for `host.HostStep`. Arguments and errors are those of `compile`.
    """
    attached = _loss(loss, loss_reduction, label_smoothing, ignore_index, class_weights, class_axis)
    source = _Source(
        model,
        example_inputs,
        loss=attached,
        label_shape=label_shape,
        outputs=(output,) if isinstance(output, str) else tuple(output or ()),
        precision=Precision(precision, loss_scale),
        recipe=recipe,
        trainable=trainable,
        trainable_file=trainable_file,
        lora=lora,
        untie=untie,
        notice=notice,
    )
    updates = Updates(
        choose(optimizer, momentum), groups, clip_value, clip_norm, accumulate, ema, chosen_method(method)
    )
    step = _training_step(source, batch_size, dropout=dropout, batch_norm=batch_norm, updates=updates)
    return step.lowering.module.operation.get_asm(enable_debug_info=True), step.imported


@isolated(_load_compiler)
def compile(
    model: Any,
    example_inputs: Sequence[Any] | None = None,
    *,
    loss: str | None = None,
    loss_reduction: str = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int | None = IGNORED,
    class_weights: Sequence[float] | None = None,
    class_axis: int | None = None,
    label_shape: Sequence[int] | None = None,
    output: str | Sequence[str] | None = None,
    dropout: int | None = None,
    batch_norm: str = "frozen",
    optimizer: str | Optimizer = "sgd",
    momentum: float = 0.0,
    groups: Sequence[ParameterGroup] = (),
    clip_value: float | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    method: str | ZerothOrder = "backpropagation",
    precision: str = "fp32",
    loss_scale: float | DynamicScale | None = None,
    recipe: str | None = None,
    trainable: Sequence[str] | None = None,
    trainable_file: str | Path | None = None,
    lora: LoraOptions | None = None,
    untie: Sequence[str] = (),
    target: str | Path = "pulp-redmule",
    batch_size: int | None = None,
    entries: Sequence[str] = ("train",),
    infer_batch_size: int | None = None,
    metrics: Sequence[str] | None = None,
    keep_ir: bool = False,
    progress: Message = _silent,
    notice: Message = _silent,
) -> Program:
    """Compiles the training step of a model, and other entries, into a program for a target.

    model: an nn.Module (with `example_inputs`, a sequence of tensors), or what the command line takes:
        the path of an .onnx file, "package.module:callable", or the name of a built-in model.
    loss: "mse", "l1", "bce-with-logits" or "cross-entropy", or "model", whose output is the loss then;
        `loss_reduction` is "mean" or "sum". Of
        cross-entropy: `label_smoothing` from 0 to 1, `ignore_index`, the label that does not count (None: all
        do), `class_weights`, a number for each class, and `class_axis` of the output, for which
        `label_shape`, that of a sample's labels, can speak as well (losses.Loss).
    output: of several outputs the name of the one that the loss is of; with the loss "model" several, which
        are added, each with a weight: "NAME" or "NAME=WEIGHT".
    dropout: a seed turns dropout on (the same bits on every simulator); it is off without one.
    batch_norm: "frozen" (running statistics) or "batch": those of the batch, and the running ones
        follow, as part of the trained parameters.
    optimizer: one of optimizers.OPTIMIZERS with its hyperparameters ("adamw:weight_decay=0.1"), or an
        optimizers.Optimizer; `momentum` is short for that of "sgd" (docs/optimizers.md).
    groups: optimizers.ParameterGroup, of parameters with another rate or weight decay.
    clip_value, clip_norm: largest magnitude of a gradient's elements, and of all gradients as a vector.
    accumulate: steps whose gradients make up one update. ema: decay of an average of the weights.
    method: "backpropagation", or "zeroth-order", which makes an update from losses alone, with its options:
        "zeroth-order:eps=1e-3,directions=1" or an optimizers.ZerothOrder (docs/zeroth-order.md).
    precision: "fp32", or "mixed": products of matrices in FP16, on a target whose RedMulE reads that; with
        `loss_scale`, a power of two that gradients are multiplied by until the update (default: 1024), or a
        precision.DynamicScale.
    recipe: "full" (default), "linear-probe", "last:N", "blocks:N", "lora" or "lora:N" with the options
        `lora`; or `trainable`, names or patterns of parameters, or `trainable_file`, a file with one of
        these a line.
    untie: names or patterns of an ONNX model's parameters that several layers read; each layer gets its own.
    target: "pulp-redmule", "pulp" or the path of a target description.
    batch_size: samples a step; None takes the model's own.
    entries: of "train" (default), "evaluate" and "infer" those that the program has (docs/entries.md);
        "infer" alone needs no loss.
    infer_batch_size: samples that "evaluate" and "infer" take at a time (default: `batch_size`).
    metrics: what "evaluate" computes, of "loss", "accuracy", "topK", "mae" (default: what the loss has).
    keep_ir: keep the text of the IR at each border in `Program.ir`.
    progress: is told what goes on; notice: is told what the user should know.

    Raises TrainDeeployError for whatever cannot be compiled, with the place in the model.
    """
    with interrupts_held():
        from .target import load_target

    given = check_entries(entries)
    if loss is None and given != ("infer",):
        raise TrainDeeployError(f"the entry {given[0]} needs a loss")
    machine = load_target(target)
    chosen = Precision(precision, loss_scale)
    chosen.check(machine)
    updates = Updates(
        choose(optimizer, momentum), groups, clip_value, clip_norm, accumulate, ema, chosen_method(method)
    )
    attached = None
    if loss is not None:
        attached = _loss(loss, loss_reduction, label_smoothing, ignore_index, class_weights, class_axis)
    source = _Source(
        model,
        example_inputs,
        loss=attached,
        label_shape=label_shape,
        outputs=(output,) if isinstance(output, str) else tuple(output or ()),
        precision=chosen,
        recipe=recipe,
        trainable=trainable,
        trainable_file=trainable_file,
        lora=lora,
        untie=untie,
        keep_ir=keep_ir,
        progress=progress,
        notice=notice,
    )
    programs = []
    for entry in given:
        if entry == "train":
            step = _training_step(source, batch_size, dropout=dropout, batch_norm=batch_norm, updates=updates)
            about: dict[str, Any] = {"optimizer": updates.to_json()}
        else:
            step, computed = _entry_step(source, infer_batch_size or batch_size, entry, metrics)
            about = {"entry": entry, "optimizer": {}, "metrics": computed.names if computed else []}
        programs.append(_program(step, source, machine, about))
        source = replace(source, notice=_silent)  # what there is to know of the model has been said
    program, *others = programs
    if others:
        program.manifest["entries"] = [other.manifest["entry"] for other in others]
    for other in others:
        # One set of parameters, whatever each entry made of the model's own.
        first = program.initial
        other.initial = {name: first.get(name, value) for name, value in other.initial.items()}
        other.onnx = None
        program.others[other.manifest["entry"]] = other
    return program


def _program(step: _Step, source: _Source, machine: Target, about: Mapping[str, Any]) -> Program:
    """Lowers a decomposed step; `about`: what its manifest says beside what it finds itself."""
    with interrupts_held():
        from . import ir_facts
        from .toolchain import ProgramTooLarge

    imported, lowering, chosen = step.imported, step.lowering, source.precision
    attached = None if about.get("entry") == "infer" else source.loss
    loss = attached.name if attached else ""
    targets = LOSS_TARGETS.get(loss, ())
    shape = imported.output.shape
    if targets[:1] == ("target",) and shape[:1] != (imported.batch_size,):
        raise TrainDeeployError(
            f"axis 0 of the model's output of shape {list(shape)} does not count the"
            f" {imported.batch_size} samples of the inputs"
        )
    batch = imported.batch_size or 1
    if not attached and batch > 1 and (not shape or shape[0] % batch):
        raise TrainDeeployError(
            f"axis 0 of the model's output of shape {list(shape)} does not count the {batch}"
            " samples of the inputs, so predictions cannot be told apart; --infer-batch-size 1 may help"
        )
    module = lowering.module
    with interrupts_held(), module.context:
        trained, states = ir_facts.parameters(module)
        layouts = ir_facts.layouts(module)
        inputs = ir_facts.step_inputs(module)
        flop = ir_facts.flop(module)
        traffic = ir_facts.parameter_traffic(module)
        graph = module.operation.get_asm(enable_debug_info=True)
    # The size of the job tables is known at the link only: a program whose tables exceed what the plan
    # left for them is planned again with more.
    for last in (False, False, True):
        try:
            elf, operators, memory = _lower(graph, module.context, machine, lowering)
            break
        except ProgramTooLarge as error:
            if last:
                raise
            machine = machine.with_l2_reserved(-(-(error.needed + error.needed // 16) // 4096) * 4096)
    rows = {
        spec.name: {
            key: value for key, value in (("rows", spec.rows), ("ignored", spec.ignored)) if value is not None
        }
        for spec in imported.inputs
    }
    options: dict[str, Any] = {}
    if attached is not None:
        options |= {"reduction": attached.reduction, "label_smoothing": attached.label_smoothing}
    if attached is not None and step.labels is not None:
        rows["labels"] = {"rows": step.labels.classes}
        if attached.ignore_index is not None:
            rows["labels"]["ignored"] = attached.ignore_index
        options |= {
            "class_axis": step.labels.axis,
            "ignore_index": attached.ignore_index,
            "class_weights": None if attached.class_weights is None else list(attached.class_weights),
        }
    manifest = {
        **about,
        "format": FORMAT,
        "model": imported.name,
        "target": dict(machine.description),
        "batch": imported.batch_size,
        "loss": loss,
        "loss_options": options,
        "precision": {
            "name": chosen.name,
            "loss_scale": chosen.scale,
            **({"dynamic": asdict(chosen.dynamic)} if chosen.dynamic else {}),
        },
        "inputs": [
            {"name": name, "shape": list(shape), "type": element, **rows.get(name, {})}
            for name, shape, element in inputs
        ],
        "output": list(shape),
        **({"output_name": imported.output.name} if "entry" in about else {}),
        "parameters": trained,
        "states": [{**state, "key": _state_key(name, state)} for name, state in states],
        "adapters": [asdict(adapter) for adapter in imported.adapters],
        "running": sorted(imported.running),
        "layouts": layouts,
        "flop": flop,
        "parameter_traffic": {"loaded": traffic[0], "stored": traffic[1]},
        "memory": memory,
        "operators": [operator.to_json() for operator in operators],
    }
    return Program(elf, manifest, dict(imported.parameters), lowering.texts, imported.onnx)


@isolated(_load_compiler)
def inspection(
    model: Any,
    *,
    batch_size: int | None = None,
    recipe: str | None = None,
    trainable: Sequence[str] | None = None,
    trainable_file: str | Path | None = None,
    lora: LoraOptions | None = None,
    untie: Sequence[str] = (),
) -> dict[str, Any]:
    """A model's inputs, output and parameters, with what a recipe trains of them, ready for JSON.

    Of a parameter "last" and "block" say which of the last layers and blocks it belongs to, as last:N and
    blocks:N count them; None for none.
    """
    with interrupts_held():
        from mlir import ir

        from . import _td, ir_facts
        from .frontend import import_model
        from .recipes import apply_recipe, places

    imported = import_model(model, None, batch_size, untie=untie)
    with ir.Context() as context:
        _td.register_dialects(context)
        ends = ir_facts.last_activation(ir.Module.parse(imported.module_text))
    found = places(imported)
    imported, names = apply_recipe(imported, recipe, trainable, trainable_file, lora)
    beside = {name: adapter.weight for adapter in imported.adapters for name in (adapter.a, adapter.b)}
    marks = dict.fromkeys(imported.constants, "constant")
    marks |= {adapter.weight: "adapted" for adapter in imported.adapters} | dict.fromkeys(names, "trained")
    return {
        "inputs": [{"name": spec.name, "shape": list(spec.shape)} for spec in imported.inputs],
        "output": {"name": imported.output.name, "shape": list(imported.output.shape)},
        "parameters": [
            {
                "name": name,
                "shape": list(value.shape),
                "bytes": value.nbytes,
                "trained": name in names,
                "recipe": marks.get(name, "frozen"),
                "last": found.layers.get(beside.get(name, name)),
                "block": found.blocks.get(beside.get(name, name)),
            }
            for name, value in imported.parameters.items()
        ],
        "notes": [*found.summary, *imported.notes, *notes_on_activation(*ends)],
    }


def inspection_table(found: Mapping[str, Any]) -> str:
    """What `inspection` found, as a table."""
    specs = [*(("input", spec) for spec in found["inputs"]), ("output", found["output"])]
    rows = [[kind, spec["name"], "x".join(map(str, spec["shape"])), "", "", "", ""] for kind, spec in specs]
    total = trained = 0
    for item in found["parameters"]:
        shape = "x".join(map(str, item["shape"])) or "1"
        numbers = ["" if item[key] is None else str(item[key]) for key in ("last", "block")]
        rows.append(["parameter", item["name"], shape, f"{item['bytes']:,}", *numbers, item["recipe"]])
        total += item["bytes"]
        trained += item["bytes"] if item["trained"] else 0
    rows.append(["", "total", "", f"{total:,}", "", "", ""])
    share = f"{100 * trained / total:.1f}%" if total else ""
    rows.append(["", "trained", "", f"{trained:,}", "", "", share])
    heads = ["", "name", "shape", "bytes", "last", "block", "recipe"]
    return "\n".join([table(heads, rows, "lllrrrr"), *found["notes"]])


@dataclass
class Result:
    """What a run of a program gives."""

    params: dict[str, Array]
    """Trained parameters, by name."""
    state: dict[str, Array]
    """Optimizer state as in params.npz: "optimizer/<parameter>/<state>", "optimizer/<state>" of what all
    parameters share, "optimizer/samples", "optimizer/steps"."""
    losses: list[float]
    """Loss of each step, before its update."""
    report: dict[str, Any]
    """The content of report.json, see docs/report.md."""
    all_params: dict[str, Array]
    """All parameters as the program left them in memory, the frozen ones too."""
    ema: dict[str, Array]
    """The average of each trained parameter over the steps, if the program makes one."""
    make_timeline: Callable[[], list[Slice]] = field(repr=False)
    """Makes `timeline`."""

    @cached_property
    def timeline(self) -> list[Slice]:
        """What each part of the SoC did in the last step, or steps; made when it is first asked for."""
        return self.make_timeline()

    def write(self, folder: Path) -> None:
        """Writes params.npz, report.json and timeline.json into an existing folder."""
        with explained(f"cannot write into {folder}"):
            # Some names could be those of savez's own arguments, so no keywords.
            (folder / "params.npz").write_bytes(npz_bytes({**self.params, **self.state}))
            (folder / "report.json").write_text(_json(self.report))
            (folder / "timeline.json").write_text(self.trace(last=True))

    def trace(self, *, last: bool = False) -> str:
        """The timeline as a trace that Perfetto shows; `last`: of the last step alone."""
        process = f"{self.report['model']}, {self.report['target']} on {self.report['simulator']}"
        chosen = last_step(self.timeline) if last else self.timeline
        return trace(chosen, self.report["clock_hz"], process)

    def summary(self) -> str:
        """A few lines for a person."""
        return summary(self.report)


@dataclass
class Program:
    """A compiled training program: one ELF for any data, parameters and learning rate."""

    elf: bytes
    manifest: dict[str, Any]
    initial: dict[str, Array]
    """Values of all parameters before the first step, by name."""
    ir: dict[str, str] = field(default_factory=dict)
    """IR by border ("model", "graph" or "entry", "plan", "tile", "cluster", "llvm", "program"), if kept."""
    onnx: bytes | None = None
    """The ONNX model that it was compiled from, serialized; None for a PyTorch model."""
    trained: dict[str, Array] = field(default_factory=dict)
    """Parameters that the last run has trained, by name."""
    others: dict[str, Program] = field(default_factory=dict)
    """Further entries by name: programs of the same model and parameters."""

    def entry(self, name: str) -> Program:
        """What runs the entry `name` ("train", "evaluate", "infer"): this program or one of `others`.

        Raises TrainDeeployError when the program was compiled without it.
        """
        own = self.manifest.get("entry", "train")
        if name == own:
            return self
        if name not in self.others:
            have = [entry for entry in ENTRIES if entry == own or entry in self.others]
            wanted = ",".join(entry for entry in ENTRIES if entry in (*have, name))
            raise TrainDeeployError(
                f"the program of {self.manifest['model']} has no entry {name}, only {' and '.join(have)};"
                f" compile it with --entries {wanted}"
            )
        return self.others[name]

    @property
    def operators(self) -> list[Operator]:
        """The operators of the plan, in execution order."""
        return [Operator(**operator) for operator in self.manifest["operators"]]

    @property
    def accumulated(self) -> int:
        """Steps whose gradients make up an update."""
        count: int = self.manifest["optimizer"].get("accumulate", 1)
        return count

    @property
    def zeroth_order(self) -> ZerothOrder | None:
        """How gradients are estimated from losses, if they are not computed."""
        given = self.manifest["optimizer"].get("zeroth_order")
        return ZerothOrder(**given) if given is not None else None

    @property
    def fields(self) -> list[Field]:
        """The arrays that a step needs."""
        manifest = self.manifest
        added = ADDED[manifest.get("entry", "train")]
        return _fields(
            manifest["inputs"], manifest["loss"], manifest["loss_options"], manifest["output"], added
        )

    @property
    def target(self) -> Target:
        """The machine that the program was compiled for."""
        from .target import Target

        return Target(self.manifest["target"]["name"], self.manifest["target"])

    def plan_table(self) -> str:
        """The plan as a table: operator, engine, tile, bytes moved, predicted cycles. One for each entry."""
        own = plan_table(self.operators, self.lower_bound())
        if not self.others:
            return own
        entries = {self.manifest.get("entry", "train"): own}
        entries |= {name: other.plan_table() for name, other in self.others.items()}
        return "\n\n".join(f"entry {name}\n\n{text}" for name, text in entries.items())

    def plan(self) -> dict[str, Any]:
        """The plan as data: its operators, the predicted cycles of a step, bytes that it takes and moves."""
        entries = {name: other.plan() for name, other in self.others.items()}
        return {
            **({"entries": entries} if entries else {}),
            "operators": self.manifest["operators"],
            "predicted_cycles": sum(operator.predicted["total"] for operator in self.operators),
            "lower_bound_cycles": self.lower_bound(),
            "flop": self.manifest["flop"],
            "memory": self.manifest["memory"],
            "transfers": transfers(self.operators),
        }

    def lower_bound(self) -> int:
        """Cycles that no plan for this target can beat."""
        traffic = self.manifest["parameter_traffic"]
        return lower_bound(self.target, self.manifest["flop"], traffic["loaded"], traffic["stored"])

    def save(self, folder: str | Path) -> None:
        """Writes the program to `folder`, whole or not at all; see `load`."""
        with output_folder(Path(folder)) as staging:
            self.write(staging, dump_ir=bool(self.ir))

    def write(self, folder: Path, *, dump_ir: bool = False) -> None:
        """Writes what `load` reads, and ir/ if asked, into an existing folder."""
        files = {
            "program.elf": self.elf,
            MANIFEST: _json(self.manifest).encode(),
            "initial.npz": npz_bytes(self.initial),
        }
        if self.onnx is not None:
            files["model.onnx"] = self.onnx
        if dump_ir:
            for number, (border, text) in enumerate(self.ir.items()):
                suffix = "ll" if border == "program" else "mlir"
                files[f"ir/{number}-{border}.{suffix}"] = text.encode()
        for name, other in self.others.items():
            # What the entries have in common is there once.
            own = {key: value for key, value in other.initial.items() if key not in self.initial}
            files |= {
                f"{name}/program.elf": other.elf,
                f"{name}/{MANIFEST}": _json(other.manifest).encode(),
                f"{name}/initial.npz": npz_bytes(own),
            }
            for number, (border, text) in enumerate(other.ir.items() if dump_ir else ()):
                suffix = "ll" if border == "program" else "mlir"
                files[f"{name}/{number}-{border}.{suffix}"] = text.encode()
        write_summed(folder, files)

    @classmethod
    def load(cls, folder: str | Path) -> Program:
        """A program that `save` or the command line wrote.

        Raises TrainDeeployError when the folder holds none, one of another version, or one of which a
        file is not as it was written.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
        except OSError as error:
            raise TrainDeeployError(f"{folder} holds no compiled program: {reason(error)}") from None
        except (ValueError, RecursionError):
            raise TrainDeeployError(f"{folder / MANIFEST} is damaged; compile again") from None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise TrainDeeployError(f"{folder} was written by another version of traindeeploy; compile again")
        files = read_summed(folder, ("program.elf", MANIFEST, "initial.npz"))
        check_json(manifest, Manifest, str(folder / MANIFEST))
        initial = read_npz(BytesIO(files["initial.npz"]), f"program file {folder / 'initial.npz'}")
        texts = {
            Path(name).stem.split("-", 1)[1]: content.decode()
            for name, content in sorted(files.items())
            if name.startswith("ir/")
        }
        program = cls(files["program.elf"], manifest, initial, texts, files.get("model.onnx"))
        for name in manifest.get("entries", ()):
            program.others[name] = program._other(folder, files, name)
        return program

    def _other(self, folder: Path, files: Mapping[str, bytes], name: str) -> Program:
        """The entry `name` from the files of `folder`."""
        needed = [f"{name}/{file}" for file in ("program.elf", MANIFEST, "initial.npz")]
        if name not in ENTRIES or not files.keys() >= set(needed):
            raise TrainDeeployError(f"{folder / MANIFEST} is damaged; compile again")
        elf, manifest, own = (files[file] for file in needed)
        try:
            about = json.loads(manifest)
        except (ValueError, RecursionError):
            raise TrainDeeployError(f"{folder / needed[1]} is damaged; compile again") from None
        check_json(about, Manifest, str(folder / needed[1]))
        values = {**self.initial, **read_npz(BytesIO(own), f"program file {folder / needed[2]}")}
        texts = {
            Path(file).stem.split("-", 1)[1]: content.decode()
            for file, content in sorted(files.items())
            if file.startswith(f"{name}/") and file not in needed
        }
        return Program(elf, about, {key: values[key] for key in about["parameters"]}, texts)

    def model_parameters(self, params: str | Path | Mapping[str, Array] | None = None) -> dict[str, Array]:
        """The model's own parameters that training changed; LoRA's adapters are merged into their weights.

        params: values by name, or the path of a params.npz; by default what the last `run` of this
            object has trained.
        """
        from .frontend.model import Adapter
        from .trained_model import merge_adapters

        if params is None:
            params = self.trained
        elif isinstance(params, str | Path):
            params = load_npz(Path(params), "parameters")
        values, *_ = self._start(params, _silent)
        adapters = [Adapter(**adapter) for adapter in self.manifest["adapters"]]
        changed = {name for adapter in adapters for name in (adapter.weight, adapter.a, adapter.b)}
        changed.update(params)
        return merge_adapters({n: values[n] for n in self.initial if n in changed}, adapters)

    def load_into(self, module: Any, params: str | Path | Mapping[str, Array] | None = None) -> None:
        """Copies trained parameters into an nn.Module; `params` is that of `model_parameters`.

        Raises TrainDeeployError for a parameter that the module does not have in this shape.
        """
        from .trained_model import load_into_module

        load_into_module(module, self.model_parameters(params))

    def save_onnx(self, path: str | Path, params: str | Path | Mapping[str, Array] | None = None) -> None:
        """Writes the ONNX model with trained parameters; `params` is that of `model_parameters`.

        Raises TrainDeeployError when the model came from PyTorch, which has `load_into`.
        """
        from .output import write_file
        from .trained_model import onnx_with

        write_file(Path(path), onnx_with(self.onnx_source(), self.model_parameters(params)))

    def onnx_source(self) -> bytes:
        """The ONNX model that the program was compiled from; raises TrainDeeployError if there is none."""
        if self.onnx is None:
            raise TrainDeeployError(
                f"{self.manifest['model']} came from PyTorch, so there is no ONNX file to save;"
                " Program.load_into brings the parameters back into the module"
            )
        return self.onnx

    def _start(self, init: Mapping[str, Array], notice: Message) -> tuple[dict[str, Array], int, int]:
        """Values of parameters and states by symbol to start from, and samples and steps already taken."""
        source = getattr(init, "source", "init")
        values = dict(self.initial)
        shapes = {name: array.shape for name, array in values.items()}
        keys = {name: name for name in self.manifest["parameters"]}
        for state in self.manifest["states"]:
            symbol = state["symbol"]
            shapes[symbol] = shapes[state["parameter"]] if "parameter" in state else ()
            values[symbol] = np.full(shapes[symbol], state["first"], np.float32)
            keys[state["key"]] = symbol
        counts = {SAMPLES_KEY: 0, STEPS_KEY: 0}
        for key, array in init.items():
            if key in counts:
                if array.shape != () or not np.issubdtype(array.dtype, np.integer) or int(array) < 0:
                    what = key.removeprefix(STATE_PREFIX)
                    raise TrainDeeployError(f"'{key}' of {source} is not a count of {what}")
                counts[key] = int(array)
                continue
            found = keys.get(key)
            if found is None and key.startswith(STATE_PREFIX):
                raise TrainDeeployError(
                    f"{source} has '{key}', which is no state of optimizer"
                    f" {self.manifest['optimizer']['name']} as the program was compiled; without"
                    f" {STATE_PREFIX}... it gives parameters alone"
                )
            if found is None:
                raise TrainDeeployError(
                    f"{source} has '{key}', which is no parameter of {self.manifest['model']}"
                )
            if array.shape != shapes[found] or array.dtype != np.float32:
                raise TrainDeeployError(
                    f"'{key}' of {source} is {array.dtype} of shape {array.shape},"
                    f" but float32 of shape {shapes[found]} is needed"
                )
            values[found] = array
        return values, counts[SAMPLES_KEY], counts[STEPS_KEY]

    def stored(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Values of parameters and states as they lie in the program's memory."""
        layouts = self.manifest["layouts"]
        return {
            name: np.asarray(array.transpose(layouts[name]), order="C") if name in layouts else array
            for name, array in values.items()
        }

    def restored(self, stored: Mapping[str, Array]) -> dict[str, Array]:
        """Values of parameters and states in the model's shapes: what `stored` undoes."""
        layouts = self.manifest["layouts"]
        return {
            name: np.asarray(array.transpose(np.argsort(layouts[name])), order="C")
            if name in layouts
            else array
            for name, array in stored.items()
        }

    def values_of(self, entry: Program, params: str | Path | Mapping[str, Array] | None) -> dict[str, Array]:
        """The values of the parameters of one of the program's entries.

        params: values by name, or the path of a params.npz, of which optimizer state does not count; by
            default what the last `run` of this object has trained.
        """
        if params is None:
            params = self.trained
        elif isinstance(params, str | Path):
            params = load_npz(Path(params), "--params")
        given = Arrays((n, v) for n, v in params.items() if not n.startswith(STATE_PREFIX))
        given.source = getattr(params, "source", "params")
        values, *_ = self._start(given, _silent)
        return {name: values.get(name, value) for name, value in entry.initial.items()}

    def infer(
        self,
        data: str | Path | Mapping[str, Array],
        params: str | Path | Mapping[str, Array] | None = None,
        *,
        simulator: str = "tdsim",
        gvsoc: str | Path | None = None,
        max_cycles: int | None = None,
        check: bool | None = None,
        notice: Message = _silent,
    ) -> Prediction:
        """Runs the entry "infer" on simulated hardware: the model's output for each sample of the data.

        data: as for `run`; labels and targets may be there and are not used.
        params: parameters by name, or the path of a params.npz; by default what the last `run` of this
            object has trained. Those that it does not have keep the model's values.

        Raises TrainDeeployError for a program without that entry, wrong data or parameters, and a
        program that the simulator stops.
        """
        return predicted(self, data, params, Machine(simulator, gvsoc, max_cycles, check), notice)

    def evaluate(
        self,
        data: str | Path | Mapping[str, Array],
        params: str | Path | Mapping[str, Array] | None = None,
        *,
        metrics: Sequence[str] | None = None,
        simulator: str = "tdsim",
        gvsoc: str | Path | None = None,
        max_cycles: int | None = None,
        check: bool | None = None,
        notice: Message = _silent,
    ) -> Evaluation:
        """Runs the entry "evaluate" on simulated hardware: loss and metrics over all samples of the data.

        data, params: as for `infer`; labels or targets are needed.
        metrics: those to return, of the ones that the program computes (default: all).

        Raises TrainDeeployError as `infer` does, and for a loss that is not finite.
        """
        return evaluated(self, data, params, metrics, Machine(simulator, gvsoc, max_cycles, check), notice)

    def run(
        self,
        data: str | Path | Mapping[str, Array],
        *,
        steps: int,
        lr: float,
        schedule: str | Schedule | Callable[[int], float] | Any | None = None,
        warmup: int = 0,
        shuffle: int | None = None,
        init: str | Path | Mapping[str, Array] | None = None,
        start_sample: int | None = None,
        validate: str | Path | Mapping[str, Array] | None = None,
        validate_every: int | None = None,
        patience: int | None = None,
        simulator: str = "tdsim",
        gvsoc: str | Path | None = None,
        max_cycles: int | None = None,
        check: bool | None = None,
        timeline_steps: int = 1,
        progress: Message = _silent,
        notice: Message = _silent,
    ) -> Result:
        """Trains for some steps on simulated hardware.

        data: arrays by input name and `labels` or `target`, or the path of an .npz file of them; the
            first axis counts samples. They are taken in order, from the start again when they run
            out; `shuffle`, a seed, permutes each pass.
        lr: the learning rate; `schedule` says what becomes of it over the steps: a schedules.Schedule or
            the text of one ("cosine", "step:step_size=30"), a function from the step to its rate, or a
            torch.optim.lr_scheduler.LRScheduler, which goes on from where it stands (and stays there).
            `warmup` steps lead up to it first.
        init: parameters and optimizer state to start from, as params.npz has them; the run goes on in
            the data where that one has stopped, or at `start_sample`, and in the schedule.
        validate: data, as `data`, for the program's entry "evaluate": before the first step, every
            `validate_every` steps (default: those of one pass over the data) and after the last one. The
            result has the parameters and states of the evaluation with the lowest loss; `patience`, a
            number of evaluations in a row that are no better, ends the run.
        simulator: "tdsim", or "gvsoc", which `gvsoc` names the folder of (or TRAINDEEPLOY_GVSOC).
        max_cycles: end with an error after so many simulated cycles.
        check: stop at the first access to memory that is not right (docs/simulator.md); by default, if
            the variable TRAINDEEPLOY_CHECK is set to something else than 0.
        timeline_steps: how many steps, the last ones, `Result.timeline` has.

        Where gradients of several steps make up an update, the schedule counts updates. With zeroth order a
        step is an update, of several runs of the program on the same samples.

        Raises TrainDeeployError for wrong data, a loss that is not finite (with the step), steps that are
        no whole updates, and a program that the simulator stops.
        """
        with interrupts_held():
            from .program import Outcome, execute, joined
            from .toolchain import Elf
            from .validation import Validation, check_validation

        self.entry("train")
        check_numbers(steps, lr)
        if isinstance(data, str | Path):
            data = load_npz(Path(data), "data")
        if isinstance(init, str | Path):
            init = load_npz(Path(init), "--init")
        values, samples, before = self._start(init or {}, notice)
        micro = self.accumulated
        check_micro_batches(steps, before, micro)
        next_rates = (
            rate
            for rate in rates(schedule, lr, warmup, before // micro, steps // micro)
            for _ in range(micro)
        )
        differences = self.zeroth_order
        if differences and (before + steps) * differences.directions > MOST_DRAWN:
            raise TrainDeeployError(
                f"{before + steps} steps of {differences.directions} directions are more than the"
                f" {MOST_DRAWN} directions that the device counts"
            )
        cycle = _Cycle(differences)
        learning_rates: list[float] = []
        if start_sample is not None:
            samples = start_sample
        batch = self.manifest["batch"]
        check_numbers(steps, lr, samples, batch)
        dataset = DataSet(data, self.fields, notice=notice)
        every = check_validation(
            validate is not None, validate_every, patience, micro, -(-dataset.samples // batch)
        )
        validation = None
        if validate is not None:
            held_out = dataset_of(self.entry("evaluate"), validate, notice)
            machine = Machine(simulator, gvsoc, max_cycles, check)
            validation = Validation(self, held_out, machine, every, patience, progress)
        span = steps if validation is None else every
        losses: list[float] = []
        of_step: list[float] = []
        advice = "a smaller learning rate may help"
        if (scale := self.manifest["precision"]["loss_scale"]) > 1:
            advice += f", or a smaller loss scale than {scale:.0f}"

        def finished(run: int, loss: float) -> None:
            of_step.append(loss)
            if np.isfinite(loss) and not cycle.ends(run):
                return
            loss = loss if not np.isfinite(loss) else cycle.loss(of_step)
            of_step.clear()
            losses.append(loss)
            if not np.isfinite(loss):
                raise TrainDeeployError(f"the loss is {loss} at step {len(losses)} of {steps}; {advice}")
            progress(f"step {len(losses)} of {steps}: loss {loss:.6g}")

        def feeds() -> Iterator[dict[str, Array]]:
            for step, arrays in enumerate(dataset.batches(batch, samples, shuffle)):
                rate = next(next_rates)
                if not abs(rate) <= np.finfo(np.float32).max:
                    raise TrainDeeployError(
                        f"learning rate {rate} at step {step + 1} is not a finite number of float32"
                    )
                learning_rates.append(rate)
                # Dropout goes on where another run has stopped, as the samples do.
                counter = np.asarray((samples + step * batch) % 2**31, np.int32)
                begins, ends = step % span == 0, (step + 1) % span == 0 or step + 1 == steps
                for more in cycle.feeds(begins, ends):
                    yield {**arrays, "lr": np.asarray(rate, np.float32), COUNTER: counter, **more}

        stream = feeds()

        def part(values: Mapping[str, Array], count: int) -> Outcome:
            return execute(
                self.elf,
                self.target,
                self.stored(values),
                stream,
                steps=cycle.runs(count),
                simulator=simulator,
                gvsoc=gvsoc,
                finished=finished,
                max_cycles=max_cycles,
                check=check,
                keep_logs=timeline_steps,
            )

        kept = steps
        if validation is None:
            outcome = part(values, steps)
            values = self.restored(outcome.values)
        else:
            parts: list[Outcome] = []
            validation.take(0, values)
            while len(losses) < steps:
                parts.append(part(values, min(every, steps - len(losses))))
                values = self.restored(parts[-1].values)
                if not validation.take(len(losses), values):
                    break
            outcome = joined(parts, timeline_steps)
            values, kept = validation.values, validation.best
        # In the model's order, which `initial` has.
        trained = self.manifest["parameters"]
        changed = {name for name, is_trained in trained.items() if is_trained} | set(self.manifest["running"])
        params = {name: values[name] for name in self.initial if name in changed}
        for name, array in params.items():
            if not np.isfinite(array).all():
                raise TrainDeeployError(f"'{name}' is not finite after step {kept}; {advice}")
        state: dict[str, Array] = {item["key"]: values[item["symbol"]] for item in self.manifest["states"]}
        state[SAMPLES_KEY] = np.asarray(samples + kept * batch, np.int64)
        state[STEPS_KEY] = np.asarray(before + kept, np.int64)
        report = build_report(
            self.target, self.manifest, self.operators, self.lower_bound(), simulator, losses, outcome
        )
        report["learning_rate"] = learning_rates
        if validation is not None:
            report["validation"] = validation.report()
        if differences:
            runs = cycle.runs(span)
            of_updates = [c for run, c in enumerate(outcome.cycles) if run % runs >= cycle.ahead]
            report["updates_per_second"] = self.target.clock_hz * len(losses) / sum(outcome.cycles)
            report["zeroth_order"] = {
                "updates": len(losses),
                "runs_per_update": differences.runs,
                "cycles_per_update": sum(of_updates) / len(losses),
            }
        if "clip_norm" in self.manifest["optimizer"]:
            norms = [float(outputs["output1"]) for outputs in outcome.outputs[micro - 1 :: micro]]
            norms = [norm for norm in norms if np.isfinite(norm)]  # but those of steps that are left out
            report["gradient_norm"] = {
                "mean": sum(norms) / len(norms) if norms else None,
                "max": max(norms, default=None),
            }
        if "dynamic" in self.manifest["precision"]:
            flag = "output2" if "clip_norm" in self.manifest["optimizer"] else "output1"
            used = sum(bool(outputs[flag]) for outputs in outcome.outputs)
            report["loss_scale"] = {
                "last": float(values["optimizer.loss_scale"]),
                "skipped": len(losses) // micro - used,
            }
        everything = {name: values[name] for name in self.manifest["parameters"]}
        self.trained = params
        first = len(outcome.cycles) - len(outcome.logs) + 1
        timeline = partial(slices, Elf(self.elf).manifest, outcome.logs, first)
        averages = {
            item["parameter"]: values[item["symbol"]]
            for item in self.manifest["states"]
            if item["key"].endswith("/ema") and "parameter" in item and "ema" in self.manifest["optimizer"]
        }
        return Result(params, state, losses, report, everything, averages, timeline)


class _Cycle:
    """The runs of the program that make up a step: one, but for zeroth order."""

    def __init__(self, differences: ZerothOrder | None):
        self.each = differences.runs if differences else 1
        self.two_sided = differences is not None and not differences.one_sided
        # Two-sided, a run at the parameters themselves goes ahead, behind which they are first moved.
        self.ahead = 1 if self.two_sided else 0

    def runs(self, steps: int) -> int:
        """Runs that so many steps take."""
        return self.ahead + self.each * steps

    def ends(self, run: int) -> bool:
        """Whether a step ends with this run."""
        return (run - self.ahead) % self.each == self.each - 1 and run >= self.ahead

    def loss(self, losses: Sequence[float]) -> float:
        """The loss of a step at its parameters: the mean of both sides, which is that but for eps^2."""
        if not self.two_sided:
            return losses[0]
        taken = losses[-self.each :]
        return sum(taken) / len(taken)

    def feeds(self, first: bool, last: bool) -> Iterator[dict[str, Array]]:
        """What the runs of a step get beside its samples; behind the last step parameters are not moved."""
        runs = self.each + (self.ahead if first else 0)
        for run in range(runs):
            onward = not (last and run == runs - 1)
            yield {PERTURB: np.asarray(onward, np.float32)} if self.two_sided else {}


def check_micro_batches(steps: int, before: int, micro: int) -> None:
    """Raises TrainDeeployError unless steps, and those done before, are whole updates of `micro` steps."""
    for count, what in ((steps, ""), (before, " that are done")):
        if count % micro:
            raise TrainDeeployError(
                f"{count} steps{what} are no multiple of the {micro} that accumulate gradients for an update"
            )


def _json(value: Any) -> str:
    """Text of a JSON file: the same bytes for the same content."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
