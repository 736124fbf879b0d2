"""The command traindeeploy: train, compile, run, evaluate, infer, report, inspect, graph, link, ..."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from . import __version__
from .errors import TrainDeeployError, UsageError
from .interrupts import interrupts_held
from .losses import IGNORED
from .optimizers import OPTIMIZERS, ParameterGroup, choose, method
from .output import reason
from .precision import PRECISIONS, DynamicScale, loss_scale
from .schedules import SCHEDULES

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all errors of this command."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def _number(kind: Callable[[str], Any], check: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    """An argparse type: a number for which `check` holds."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not check(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


_positive = _number(int, lambda n: 0 < n < 2**63, "a positive whole number of 63 bits")
_natural = _number(int, lambda n: 0 <= n < 2**63, "a whole number of 63 bits that is at least 0")
_rate = _number(float, math.isfinite, "a finite number")
_momentum = _number(float, lambda x: 0 <= x < 1, "a number from 0 up to, but not including, 1")

_decay = _momentum
_bound = _number(float, lambda x: math.isfinite(x) and x > 0, "a number above 0")


def _multiple(text: str) -> tuple[str, float]:
    """An argparse type: RE=X."""
    pattern, equals, factor = text.rpartition("=")
    if not equals or not pattern:
        raise argparse.ArgumentTypeError(f"{text!r} is not RE=X")
    return pattern, _number(float, lambda x: math.isfinite(x) and x >= 0, "a factor of at least 0")(factor)


def _counted(name: str, number: Callable[[str], Any]) -> Callable[[str], tuple[str, int]]:
    """An argparse type: RE=N."""

    def parse(text: str) -> tuple[str, int]:
        pattern, equals, count = text.rpartition("=")
        if not equals or not pattern:
            raise argparse.ArgumentTypeError(f"{text!r} is not RE={name}")
        return pattern, number(count)

    return parse


_frozen = _counted("N", _natural)
_channels = _counted("K", _positive)


def _method(text: str) -> str:
    """An argparse type: the text of a method."""
    try:
        method(text)
    except TrainDeeployError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _loss_scale(text: str) -> float | DynamicScale:
    """An argparse type: a number, or dynamic."""
    try:
        return loss_scale(text)
    except TrainDeeployError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _optimizer(text: str) -> str:
    """An argparse type: the text of an optimizer."""
    try:
        choose(text)
    except TrainDeeployError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _label(text: str) -> int | None:
    """An argparse type: a whole number, or "none"."""
    if text == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number or none") from None


def _names(text: str) -> list[str]:
    """An argparse type: names with commas between."""
    return [name.strip() for name in text.split(",")]


_share = _number(float, lambda x: 0 <= x <= 1, "a number from 0 to 1")


def _add_model_options(parser: argparse.ArgumentParser, compiled: bool = False) -> None:
    """compiled: the folder of a program is taken, too."""
    parser.add_argument(
        "model",
        metavar="MODEL|OUT" if compiled else "MODEL",
        help="file.onnx, package.module:callable (returns nn.Module, example inputs)"
        " or built-in: cct2, deep-ae, resnet8"
        + ("; or the output folder of train or compile" if compiled else ""),
    )
    parser.add_argument(
        "--batch-size", type=_positive, metavar="B", help="samples a step (default: the model's own)"
    )
    parser.add_argument(
        "--untie",
        nargs="+",
        metavar="PATTERN",
        default=(),
        help="parameters of an ONNX model that several layers read: each layer gets its own ('*' for all)",
    )


def _add_recipe_options(parser: argparse.ArgumentParser) -> None:
    recipe = parser.add_mutually_exclusive_group()
    recipe.add_argument(
        "--recipe",
        metavar="R",
        help="which parameters to train: full (default), linear-probe, last:N (layers), blocks:N (weight"
        " matrices of the last blocks, and the layers behind), bias-only, norm-only, lora or lora:N"
        " (adapters to those of all or the last blocks, and the layers behind)",
    )
    recipe.add_argument(
        "--trainable", nargs="+", metavar="PATTERN", help="names or patterns of the parameters to train"
    )
    recipe.add_argument("--trainable-file", type=Path, metavar="F", help="a file with such names, one a line")
    parser.add_argument(
        "--lora-rank", type=_positive, metavar="R", help="rank of LoRA's adapters (default: 4)"
    )
    parser.add_argument("--lora-alpha", type=_rate, metavar="X", help="LoRA's alpha (default: its rank)")
    parser.add_argument(
        "--lora-targets",
        nargs="+",
        metavar="PATTERN",
        help="only these weights or modules get adapters: names, patterns, or their ends (q_proj,v_proj)",
    )
    parser.add_argument("--lora-seed", type=_natural, metavar="SEED", help="of the adapters' first values")


def _add_loss_options(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument(
        "--loss",
        required=required,
        choices=["mse", "l1", "bce-with-logits", "cross-entropy", "model"],
        help="what is attached to the model's output; model: the output is the loss already",
    )
    parser.add_argument(
        "--output",
        dest="outputs",
        nargs="+",
        metavar="NAME",
        help="of several outputs the one that the loss is of; with --loss model some, which are added,"
        " each NAME or NAME=WEIGHT",
    )
    parser.add_argument("--loss-reduction", default="mean", choices=["mean", "sum"])
    parser.add_argument(
        "--label-smoothing", type=_share, default=0.0, metavar="X", help="of cross-entropy, from 0 to 1"
    )
    parser.add_argument(
        "--ignore-index",
        type=_label,
        default=IGNORED,
        metavar="LABEL",
        help=f"label that cross-entropy does not count (default: {IGNORED}; none: all labels count)",
    )
    parser.add_argument(
        "--class-weights",
        type=_rate,
        nargs="+",
        metavar="W",
        help="a weight for each class, of cross-entropy",
    )
    parser.add_argument(
        "--class-axis",
        type=int,
        metavar="A",
        help="axis of the output that holds the classes of cross-entropy (default: the last one of three, the"
        " second one of other outputs)",
    )


def _add_precision_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=PRECISIONS,
        help="mixed: products of matrices in FP16, on a target whose RedMulE reads that (default: fp32)",
    )


def _add_graph_options(parser: argparse.ArgumentParser, loss_required: bool = True) -> None:
    _add_model_options(parser)
    _add_loss_options(parser, loss_required)
    parser.add_argument(
        "--dropout",
        type=_natural,
        metavar="SEED",
        help="dropout as in training, from this seed (default: off)",
    )
    parser.add_argument(
        "--batch-norm",
        default="frozen",
        choices=["frozen", "batch"],
        help="with the running statistics (default), or those of the batch, which the running ones follow",
    )
    parser.add_argument(
        "--optimizer",
        type=_optimizer,
        default="sgd",
        metavar="O",
        help=f"NAME or NAME:KEY=VALUE,...: {', '.join(OPTIMIZERS)} (default: sgd; docs/optimizers.md)",
    )
    parser.add_argument(
        "--momentum", type=_momentum, default=0.0, metavar="X", help="short for --optimizer sgd:momentum=X"
    )
    parser.add_argument(
        "--no-decay",
        metavar="RE",
        help="no weight decay for parameters whose names this is found in: norm|bias",
    )
    parser.add_argument(
        "--lr-multiple",
        nargs="+",
        type=_multiple,
        default=(),
        metavar="RE=X",
        help="X times the learning rate for parameters in whose names the regular expression RE is found",
    )
    parser.add_argument(
        "--freeze",
        nargs="+",
        type=_frozen,
        default=(),
        metavar="RE=N",
        help="keep parameters in whose names the regular expression RE is found for the first N updates",
    )
    parser.add_argument(
        "--last-channels",
        nargs="+",
        type=_channels,
        default=(),
        metavar="RE=K",
        help="train the last K channels (of the first axis) of parameters in whose names RE is found",
    )
    parser.add_argument(
        "--method",
        type=_method,
        default="backpropagation",
        metavar="M",
        help="backpropagation (default), or zeroth-order[:eps=1e-3,directions=1,one_sided=false,"
        "rademacher=false,seed=0]: forward passes only (docs/zeroth-order.md)",
    )
    parser.add_argument(
        "--clip-value", type=_bound, metavar="X", help="clip the elements of gradients to -X and X"
    )
    parser.add_argument(
        "--clip-norm", type=_bound, metavar="X", help="clip the norm of all gradients together to X"
    )
    parser.add_argument(
        "--accumulate",
        type=_positive,
        default=1,
        metavar="N",
        help="one update for the gradients of N steps (default: 1)",
    )
    parser.add_argument(
        "--ema", type=_decay, metavar="D", help="average the weights over updates with this decay"
    )
    _add_precision_option(parser)
    parser.add_argument(
        "--loss-scale",
        type=_loss_scale,
        metavar="S",
        help="multiply gradients by this power of two until the update (default: 1024 with mixed, else 1);"
        " dynamic[:init=65536,growth_interval=2000]: it follows what overflows",
    )
    _add_recipe_options(parser)


def _add_target_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target",
        default="pulp-redmule",
        metavar="T",
        help="pulp-redmule (default), pulp-redmule-fp16, pulp, a file.toml",
    )


def _add_metrics_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics",
        type=_names,
        metavar="M,...",
        help="what evaluate computes: loss, accuracy, topK (top5), mae (default: what the loss has)",
    )


def _add_compile_options(parser: argparse.ArgumentParser, loss_required: bool = True) -> None:
    _add_graph_options(parser, loss_required)
    parser.add_argument(
        "--entries",
        type=_names,
        default=["train"],
        metavar="E,...",
        help="what the program can do: train (default), evaluate, infer (docs/entries.md)",
    )
    parser.add_argument(
        "--infer-batch-size",
        type=_positive,
        metavar="B",
        help="samples that evaluate and infer take at a time (default: that of --batch-size)",
    )
    _add_metrics_option(parser)
    _add_target_option(parser)
    parser.add_argument("--dump-ir", action="store_true", help="write the IR at each border to OUT/ir")


def _add_machine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--simulator", default="tdsim", choices=["tdsim", "gvsoc"], help="what to run on (default: tdsim)"
    )
    parser.add_argument(
        "--gvsoc", type=Path, metavar="DIR", help="GVSoC's folder (default: $TRAINDEEPLOY_GVSOC)"
    )
    parser.add_argument(
        "--max-cycles", type=_positive, metavar="N", help="stop with an error after N simulated cycles"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        default=None,
        help="stop at the first access to memory that is not right (slower)",
    )


def _add_entry_options(parser: argparse.ArgumentParser, entry: str) -> None:
    """Options of the commands `infer` and `evaluate`."""
    _add_model_options(parser, compiled=True)
    if entry == "evaluate":
        _add_loss_options(parser, False)
    else:
        parser.add_argument(
            "--output", dest="outputs", nargs=1, metavar="NAME", help="of several outputs the one to infer"
        )
    _add_precision_option(parser)
    _add_target_option(parser)
    # What a program that is compiled has decided already.
    decided = {a.option_strings[0]: (a.dest, a.default) for a in parser._actions if a.option_strings}
    del decided["-h"]
    parser.add_argument(
        "--data", required=True, type=Path, metavar="D.npz", help="samples by input name (and target)"
    )
    parser.add_argument(
        "--params",
        type=Path,
        metavar="P.npz",
        help="parameters, as params.npz of a run has them (default: OUT/params.npz, or the model's own)",
    )
    _add_machine_options(parser)
    parser.set_defaults(entry=entry, decided=decided)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", required=True, type=Path, metavar="D.npz", help="samples by input name, and target"
    )
    parser.add_argument("--steps", required=True, type=_positive, metavar="N")
    parser.add_argument("--lr", required=True, type=_rate, metavar="X", help="learning rate")
    parser.add_argument(
        "--schedule",
        metavar="S",
        help=f"of the learning rate, NAME or NAME:KEY=VALUE,...: {', '.join(SCHEDULES)} (docs/schedules.md)",
    )
    parser.add_argument(
        "--warmup", type=_natural, default=0, metavar="N", help="steps that lead up to the rate first"
    )
    parser.add_argument("--shuffle", type=_natural, metavar="SEED", help="permute each pass over the samples")
    parser.add_argument(
        "--init",
        type=Path,
        metavar="FILE.npz",
        help="start from the parameters and optimizer state of another run",
    )
    parser.add_argument(
        "--start-sample",
        type=_natural,
        metavar="K",
        help="first sample in the order (default: where the run of --init stopped, or 0)",
    )
    parser.add_argument(
        "--validate",
        type=Path,
        metavar="V.npz",
        help="data to evaluate parameters on as the run goes on; the best ones are kept (docs/entries.md)",
    )
    parser.add_argument(
        "--validate-every", type=_positive, metavar="N", help="steps between (default: a pass over the data)"
    )
    parser.add_argument(
        "--patience", type=_positive, metavar="K", help="stop when K evaluations in a row are no better"
    )
    _add_machine_options(parser)
    parser.add_argument(
        "--timeline", type=Path, metavar="FILE", help="write what each engine did, as a trace for Perfetto"
    )
    parser.add_argument(
        "--save-onnx",
        type=Path,
        metavar="FILE",
        help="write the ONNX model with the trained parameters (with --ema, their averages)",
    )
    parser.add_argument(
        "--timeline-steps", type=_positive, default=1, metavar="N", help="last steps in it (default: 1)"
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="traindeeploy", description=__doc__)
    parser.add_argument("--version", action="version", version=f"traindeeploy {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    train = commands.add_parser("train", help="compile a model and train it on the simulated SoC")
    _add_compile_options(train)
    _add_run_options(train)
    train.add_argument("-o", dest="output", required=True, type=Path, metavar="OUT", help="output folder")
    train.set_defaults(action=_train)

    compiler = commands.add_parser("compile", help="compile a model and print the plan, without simulating")
    _add_compile_options(compiler, loss_required=False)
    compiler.add_argument("-o", dest="output", required=True, type=Path, metavar="OUT", help="output folder")
    compiler.set_defaults(action=_compile)

    graph = commands.add_parser(
        "graph", help="print the decomposed training graph of a model, before any plan"
    )
    _add_graph_options(graph)
    graph.set_defaults(action=_graph)

    link = commands.add_parser(
        "link", help="make an ELF from the LLVM IR that td-opt and mlir-translate wrote"
    )
    link.add_argument("llvm_ir", metavar="FILE.ll", type=Path)
    _add_target_option(link)
    link.add_argument("-o", dest="output", required=True, type=Path, metavar="FILE.elf")
    link.set_defaults(action=_link)

    run = commands.add_parser("run", help="run a compiled program on the simulated SoC")
    run.add_argument("program", type=Path, metavar="PROGRAM", help="output folder of compile or train")
    _add_run_options(run)
    run.add_argument("-o", dest="output", type=Path, metavar="OUT", help="output folder (default: PROGRAM)")
    run.set_defaults(action=_run)

    evaluate = commands.add_parser(
        "evaluate", help="loss and accuracy of a model or a compiled program on the simulated SoC"
    )
    _add_entry_options(evaluate, "evaluate")
    _add_metrics_option(evaluate)
    evaluate.set_defaults(action=_evaluate)

    infer = commands.add_parser("infer", help="outputs of a model or a compiled program on the simulated SoC")
    _add_entry_options(infer, "infer")
    infer.add_argument(
        "-o", dest="output", required=True, type=Path, metavar="FILE.npz", help="where the outputs go"
    )
    infer.set_defaults(action=_infer)

    report = commands.add_parser("report", help="show runs in a browser: one HTML file, runs side by side")
    report.add_argument("folders", type=Path, nargs="+", metavar="OUT", help="output folders of train or run")
    report.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="FILE",
        help="the file (default: report.html in the first OUT)",
    )
    report.set_defaults(action=_report)

    inspect = commands.add_parser(
        "inspect", help="list a model's inputs and parameters, and what a recipe trains"
    )
    _add_model_options(inspect)
    _add_recipe_options(inspect)
    inspect.add_argument(
        "--rank-layers",
        action="store_true",
        help="rank layers by their Fisher information on --data, which the host computes with --loss",
    )
    inspect.add_argument("--data", type=Path, metavar="D.npz", help="samples to rank layers on")
    inspect.add_argument("--loss", choices=["mse", "l1", "bce-with-logits", "cross-entropy", "model"])
    inspect.add_argument(
        "--samples", type=_positive, metavar="N", help="how many of them, the first ones (default: 32)"
    )
    inspect.add_argument(
        "--budget",
        type=_positive,
        metavar="BYTES",
        help="of the parameters to train and their optimizer states (default: all)",
    )
    inspect.add_argument(
        "--optimizer", type=_optimizer, metavar="O", help="whose states count (default: sgd, which has none)"
    )
    inspect.set_defaults(action=_inspect)

    completion = commands.add_parser(
        "completion", help="print a script by which a shell completes this command: eval it, or save it"
    )
    completion.add_argument("shell", choices=["bash", "zsh"])
    completion.set_defaults(action=_completion)
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser


def _recipe(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the driver that say what is trained."""
    given = {
        name: value
        for name in ("rank", "alpha", "targets", "seed")
        if (value := getattr(options, f"lora_{name}")) is not None
    }
    lora = None
    if given:
        from .recipes import LoraOptions

        lora = LoraOptions(**given)
    return {
        "recipe": options.recipe,
        "trainable": options.trainable,
        "trainable_file": options.trainable_file,
        "lora": lora,
    }


def _updates(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the driver that say what is done with gradients."""
    groups = [ParameterGroup(pattern, lr=factor) for pattern, factor in options.lr_multiple]
    groups += [ParameterGroup(pattern, frozen=count) for pattern, count in options.freeze]
    groups += [ParameterGroup(pattern, last_channels=count) for pattern, count in options.last_channels]
    if options.no_decay is not None:
        groups.append(ParameterGroup(options.no_decay, weight_decay=0.0))
    return {
        "optimizer": options.optimizer,
        "momentum": options.momentum,
        "groups": groups,
        "clip_value": options.clip_value,
        "clip_norm": options.clip_norm,
        "accumulate": options.accumulate,
        "method": options.method,
        "ema": options.ema,
    }


def _notice(message: str) -> None:
    print(f"traindeeploy: {message}", file=sys.stderr)


class _Progress:
    """One line on a terminal that says what goes on; nothing in a pipe."""

    def __init__(self) -> None:
        self.enabled = sys.stderr.isatty()
        self.shown = False

    def __call__(self, message: str) -> None:
        if self.enabled:
            print(f"\r\x1b[K{message}", end="", file=sys.stderr, flush=True)
            self.shown = True

    def clear(self) -> None:
        if self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self.shown = False


def _compiled(options: argparse.Namespace, progress: _Progress, data: Any = None) -> Any:
    """The program; `data`, if it is there, tells what the labels are like."""
    with interrupts_held():
        from .driver import compile as compile_model

    labels = None if data is None else data.get("labels", data.get("target"))
    if options.loss is None and [*options.entries] != ["infer"]:
        raise UsageError("--loss is needed by every entry but infer (see `traindeeploy compile --help`)")
    return compile_model(
        options.model,
        label_shape=None if labels is None else labels.shape[1:],
        loss=options.loss,
        loss_reduction=options.loss_reduction,
        label_smoothing=options.label_smoothing,
        ignore_index=options.ignore_index,
        class_weights=options.class_weights,
        class_axis=options.class_axis,
        output=options.outputs,
        dropout=options.dropout,
        batch_norm=options.batch_norm,
        **_updates(options),
        precision=options.precision,
        loss_scale=options.loss_scale,
        **_recipe(options),
        target=options.target,
        batch_size=options.batch_size,
        entries=options.entries,
        infer_batch_size=options.infer_batch_size,
        metrics=options.metrics,
        untie=options.untie,
        keep_ir=options.dump_ir,
        progress=progress,
        notice=_notice,
    )


def _loaded(options: argparse.Namespace, micro: int) -> dict[str, Any]:
    """The files of a run. They are read first: what is wrong with them is said before long work.

    micro: steps whose gradients make up an update.
    """
    with interrupts_held():
        from .data import check_numbers, load_npz
        from .driver import STEPS_KEY, check_micro_batches
        from .schedules import rates
        from .validation import check_validation

    check_numbers(options.steps, options.lr, options.start_sample or 0)
    if options.simulator == "gvsoc":
        with interrupts_held():
            from .gvsoc import Gvsoc

        Gvsoc(options.gvsoc)
    _check_outputs(options)
    init = None if options.init is None else load_npz(options.init, "--init")
    done = init.get(STEPS_KEY) if init is not None else None
    first = int(done) if done is not None and done.shape == () else 0
    check_micro_batches(options.steps, first, micro)
    check_validation(options.validate is not None, options.validate_every, options.patience, micro)
    rates(options.schedule, options.lr, options.warmup, first // micro, options.steps // micro)
    held_out = None if options.validate is None else load_npz(options.validate, "--validate")
    return {"data": load_npz(options.data, "data"), "init": init, "validate": held_out}


def _check_outputs(options: argparse.Namespace) -> None:
    """An error if --timeline or --save-onnx could not be written; they may be in the output folder."""
    from .output import check_file, is_ours

    folder = Path(os.path.abspath(options.output or options.program))
    paths = [path for path in (options.timeline, options.save_onnx) if path is not None]
    places = [Path(os.path.realpath(path)) for path in paths]
    if len(set(places)) < len(places):
        raise TrainDeeployError(f"--timeline and --save-onnx both name {paths[0]}")
    for path, place in zip(paths, places, strict=True):
        if place == Path(os.path.realpath(folder)):
            raise TrainDeeployError(f"cannot write {path}: it is the output folder")
        if place.parent != Path(os.path.realpath(folder)):
            check_file(path)
        elif is_ours(place.name):
            raise TrainDeeployError(f"cannot write {path}: it is a file of the output folder itself")
        elif place.is_dir():
            raise TrainDeeployError(f"cannot write {path}: it is a folder")


def _result(program: Any, files: dict[str, Any], options: argparse.Namespace, progress: _Progress) -> Any:
    if options.save_onnx:
        program.onnx_source()  # refused before long work
    return program.run(
        **files,
        steps=options.steps,
        lr=options.lr,
        schedule=options.schedule,
        warmup=options.warmup,
        shuffle=options.shuffle,
        start_sample=options.start_sample,
        validate_every=options.validate_every,
        patience=options.patience,
        simulator=options.simulator,
        gvsoc=options.gvsoc,
        max_cycles=options.max_cycles,
        check=options.check,
        timeline_steps=options.timeline_steps,
        progress=progress,
        notice=_notice,
    )


def _write_files(program: Any, result: Any, options: argparse.Namespace) -> None:
    """Writes the files of --timeline and --save-onnx; they may be in the output folder."""
    from .output import write_file

    if options.timeline:
        write_file(options.timeline, result.trace())
    if options.save_onnx:
        program.save_onnx(options.save_onnx, result.ema or None)


class Shown(NamedTuple):
    """What a command prints: text for people, or with --json the same as data."""

    text: str
    data: dict[str, Any]


def _train(options: argparse.Namespace, progress: _Progress) -> Shown:
    from .output import output_folder

    if "train" not in options.entries:
        raise UsageError("train needs the entry train (see `traindeeploy train --help`)")
    if options.validate is not None and "evaluate" not in options.entries:
        options.entries = [*options.entries, "evaluate"]
    files = _loaded(options, options.accumulate)
    with output_folder(options.output) as folder:
        program = _compiled(options, progress, files["data"])
        result = _result(program, files, options, progress)
        program.write(folder, dump_ir=options.dump_ir)
        result.write(folder)
    _write_files(program, result, options)
    return Shown(result.summary(), result.report)


def _compile(options: argparse.Namespace, progress: _Progress) -> Shown:
    from .output import output_folder

    with output_folder(options.output) as folder:
        program = _compiled(options, progress)
        program.write(folder, dump_ir=options.dump_ir)
    return Shown(program.plan_table(), program.plan())


def _graph(options: argparse.Namespace, progress: _Progress) -> Shown:
    with interrupts_held():
        from .driver import training_graph

    text, _ = training_graph(
        options.model,
        loss=options.loss,
        loss_reduction=options.loss_reduction,
        label_smoothing=options.label_smoothing,
        ignore_index=options.ignore_index,
        class_weights=options.class_weights,
        class_axis=options.class_axis,
        output=options.outputs,
        dropout=options.dropout,
        batch_norm=options.batch_norm,
        **_updates(options),
        precision=options.precision,
        loss_scale=options.loss_scale,
        **_recipe(options),
        batch_size=options.batch_size,
        untie=options.untie,
    )
    return Shown(text.rstrip("\n"), {"graph": text})


def _link(options: argparse.Namespace, progress: _Progress) -> Shown:
    from .output import check_file, explained, write_file
    from .target import load_target
    from .toolchain import Elf, build_elf

    check_file(options.output)
    target = load_target(options.target)
    with explained(f"cannot read {options.llvm_ir}"):
        text = options.llvm_ir.read_text(errors="replace")
    progress("compiling: machine code")
    elf = build_elf(text, target)
    compiled_for = Elf(elf).manifest["target"]
    if compiled_for != target.name:
        raise TrainDeeployError(f"{options.llvm_ir} was compiled for {compiled_for}, not for {target.name}")
    write_file(options.output, elf)
    return Shown("", {"program": str(options.output), "bytes": len(elf)})


def _run(options: argparse.Namespace, progress: _Progress) -> Shown:
    with interrupts_held():
        from .driver import Program
    from .output import output_folder

    program = Program.load(options.program)
    if options.validate is not None:
        program.entry("evaluate")
    files = _loaded(options, program.accumulated)
    with output_folder(options.output or options.program) as folder:
        result = _result(program, files, options, progress)
        program.write(folder, dump_ir=bool(program.ir))
        result.write(folder)
    _write_files(program, result, options)
    return Shown(result.summary(), result.report)


def _entry(options: argparse.Namespace, data: Any, progress: _Progress) -> tuple[Any, Any]:
    """The program that has the entry, from a folder or compiled now, and the parameters to give it."""
    with interrupts_held():
        from .data import load_npz
        from .driver import Program
        from .driver import compile as compile_model

    params = None if options.params is None else load_npz(options.params, "--params")
    if Path(options.model).is_dir():
        for option, (name, default) in options.decided.items():
            if getattr(options, name) != default:
                raise UsageError(
                    f"{option} is for a model, and {options.model} holds a compiled program"
                    f" (see `traindeeploy {options.entry} --help`)"
                )
        program = Program.load(options.model)
        program.entry(options.entry)
        trained = Path(options.model) / "params.npz"
        if params is None and trained.is_file():
            _notice(f"the parameters are those of {trained}")
            params = load_npz(trained, "--params")
        return program, params
    arguments: dict[str, Any] = {}
    if options.entry == "evaluate":
        if options.loss is None:
            raise UsageError("--loss is needed to evaluate a model (see `traindeeploy evaluate --help`)")
        labels = data.get("labels", data.get("target"))
        arguments = {
            "loss": options.loss,
            "loss_reduction": options.loss_reduction,
            "label_smoothing": options.label_smoothing,
            "ignore_index": options.ignore_index,
            "class_weights": options.class_weights,
            "class_axis": options.class_axis,
            "label_shape": None if labels is None else labels.shape[1:],
            "metrics": options.metrics,
        }
    program = compile_model(
        options.model,
        output=options.outputs,
        precision=options.precision,
        target=options.target,
        batch_size=options.batch_size,
        untie=options.untie,
        entries=(options.entry,),
        progress=progress,
        notice=_notice,
        **arguments,
    )
    return program, params


def _entry_run(options: argparse.Namespace, progress: _Progress, **arguments: Any) -> Any:
    """What the entry gives on the data."""
    with interrupts_held():
        from .data import load_npz

    data = load_npz(options.data, "data")
    program, params = _entry(options, data, progress)
    progress("simulating")
    return getattr(program, options.entry)(
        data,
        params,
        simulator=options.simulator,
        gvsoc=options.gvsoc,
        max_cycles=options.max_cycles,
        check=options.check,
        notice=_notice,
        **arguments,
    )


def _evaluate(options: argparse.Namespace, progress: _Progress) -> Shown:
    found = _entry_run(options, progress, metrics=options.metrics)
    return Shown(found.summary(), found.report)


def _infer(options: argparse.Namespace, progress: _Progress) -> Shown:
    from .output import check_file, write_file

    check_file(options.output)
    found = _entry_run(options, progress)
    write_file(options.output, found.npz())
    return Shown(found.summary(), found.report)


def _report(options: argparse.Namespace, progress: _Progress) -> Shown:
    with interrupts_held():
        from .output import write_file
        from .report_page import page

    path = options.output or options.folders[0] / "report.html"
    write_file(path, page(options.folders))
    return Shown(str(path), {"page": str(path)})


def _inspect(options: argparse.Namespace, progress: _Progress) -> Shown:
    with interrupts_held():
        from .driver import inspection, inspection_table

    if options.rank_layers:
        return _ranked(options)
    for name in ("data", "loss", "samples", "budget", "optimizer"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} is of --rank-layers")
    found = inspection(options.model, batch_size=options.batch_size, untie=options.untie, **_recipe(options))
    return Shown(inspection_table(found), found)


def _ranked(options: argparse.Namespace) -> Shown:
    with interrupts_held():
        from dataclasses import asdict

        from .ranking import rank_layers, ranking_table

    if options.data is None or options.loss is None:
        raise UsageError("--rank-layers needs --data and --loss")
    if options.batch_size is not None:
        raise UsageError("--rank-layers takes samples one by one; --batch-size is of other commands")
    ranked = rank_layers(
        options.model,
        options.data,
        loss=options.loss,
        budget=options.budget,
        samples=options.samples or 32,
        optimizer=options.optimizer or "sgd",
        untie=options.untie,
        **_recipe(options),
    )
    return Shown(ranking_table(ranked), {"layers": [asdict(layer) for layer in ranked]})


def _completion(options: argparse.Namespace, progress: _Progress) -> Shown:
    import shtab

    script = shtab.complete(_parser(), options.shell)
    return Shown(script, {"script": script})


class _Terminated(BaseException):
    """SIGTERM arrived: everything is cleaned up on the way out, as after Ctrl-C."""


def _terminated(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated


def _forget_output() -> None:
    """Sends what is still to be printed nowhere: it cannot be."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C."""
    debug = os.environ.get("TRAINDEEPLOY_DEBUG", "") not in ("", "0")
    progress = _Progress()
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names need not be text
    try:
        options = None
        with suppress(SystemExit):  # after --help and --version
            options = _parser().parse_args(arguments)
        if options is not None:
            shown = options.action(options, progress)
            progress.clear()
            if options.json:
                print(json.dumps(shown.data, indent=2, sort_keys=True))
            elif shown.text:
                print(shown.text)
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except UsageError as error:
        print(f"traindeeploy: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (KeyboardInterrupt, _Terminated) as interrupt:
        progress.clear()
        print("traindeeploy: interrupted, nothing was written", file=sys.stderr)
        return EXIT_TERMINATED if isinstance(interrupt, _Terminated) else EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away; what was asked for is done.
        _forget_output()
        return 0
    except Exception as error:
        progress.clear()
        if debug:
            traceback.print_exc()
        if isinstance(error, TrainDeeployError):
            message = str(error)
        elif isinstance(error, MemoryError):
            message = "out of memory"
        elif isinstance(error, OSError) and error.filename is None:
            # Files are opened where their names are said; this is what was printed.
            _forget_output()
            message = f"cannot write to standard output: {reason(error)}"
        else:
            detail = re.sub(r"\s+", " ", str(error)).strip()
            message = (
                f"internal error: {type(error).__name__}{': ' if detail else ''}{detail}"
                " (TRAINDEEPLOY_DEBUG=1 shows where; please report it)"
            )
        print(f"traindeeploy: error: {message}", file=sys.stderr)
        return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main())
