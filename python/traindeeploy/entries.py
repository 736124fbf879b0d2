"""Entries of a program that do not train: the model's answers, and how good they are. See docs/entries.md.

`Program.infer` and `Program.evaluate` come here. What is summed over the samples of a batch is summed on the
device; here the batches' sums are added, and divided by what they are means of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .data import MOST_STEPS, DataSet, load_npz, npz_bytes
from .errors import TrainDeeployError
from .interrupts import interrupts_held
from .losses import TARGETS, Labels, Loss
from .plan_table import table
from .report import build_report

if TYPE_CHECKING:
    from .driver import Program
    from .program import Outcome

Array = npt.NDArray[np.generic]
Message = Callable[[str], None]

ENTRIES = ("train", "evaluate", "infer")

SAMPLES = "samples"
"""The input of an evaluation that says how many samples of a batch count."""

_PREDICTION = "prediction"
_TOP = re.compile(r"top([1-9]\d{0,8})")


def check_entries(names: Sequence[str]) -> tuple[str, ...]:
    """The entries that are asked for, in the order of `ENTRIES`.

    Raises TrainDeeployError for none, one that is unknown, or one named twice.
    """
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",")]
    for name in names:
        if name not in ENTRIES:
            raise TrainDeeployError(f"unknown entry '{name}'; there are: {', '.join(ENTRIES)}")
        if list(names).count(name) > 1:
            raise TrainDeeployError(f"entry '{name}' is named twice")
    if not names:
        raise TrainDeeployError(f"a program needs an entry; there are: {', '.join(ENTRIES)}")
    return tuple(entry for entry in ENTRIES if entry in names)


@dataclass(frozen=True)
class Metrics:
    """What an evaluation computes.

    names: "loss" first; "accuracy", "top<k>" (of labels), "mae" (of targets).
    """

    names: list[str]

    @classmethod
    def chosen(cls, names: Sequence[str] | None, loss: Loss, labels: Labels | None) -> Metrics:
        """The metrics `names` for a loss; without names, those that it has.

        Raises TrainDeeployError for one that is unknown, or that the loss does not have.
        """
        if labels is not None:
            fitting = ["loss", "accuracy", *(["top5"] if labels.classes > 5 else [])]
        else:
            fitting = ["loss", "mae"] if loss.name in ("mse", "l1") else ["loss"]
        if names is None:
            return cls(fitting)
        for name in names:
            top = _TOP.fullmatch(name)
            if name not in ("loss", "accuracy", "mae") and not top:
                raise TrainDeeployError(
                    f"unknown metric '{name}'; there are: loss, accuracy, topK (top5), mae"
                )
            if name not in fitting and not (top and labels is not None):
                raise TrainDeeployError(
                    f"metric '{name}' is not one of {loss.name}, which has: {', '.join(fitting)}"
                )
            if top and labels is not None and int(top[1]) > labels.classes:
                raise TrainDeeployError(f"metric '{name}': the model has {labels.classes} classes")
        return cls(list(dict.fromkeys(["loss", *names])))

    @property
    def options(self) -> str:
        """As options of the pipeline td-entry."""
        tops = sorted({_rank(name) for name in self.names} - {0})
        text = f"top={','.join(map(str, tops))}" if tops else ""
        return f"{text} absolute-error" if "mae" in self.names else text


def _rank(metric: str) -> int:
    """The k of a metric that looks for the label among the k largest logits; 0 for others."""
    top = _TOP.fullmatch(metric)
    return 1 if metric == "accuracy" else int(top[1]) if top else 0


@dataclass(frozen=True)
class Machine:
    """What a program runs on; see `program.execute`."""

    simulator: str = "tdsim"
    gvsoc: str | Path | None = None
    max_cycles: int | None = None
    check: bool | None = None


@dataclass(frozen=True)
class Prediction:
    """What a run of the entry "infer" gives."""

    output: Array
    """The model's output; samples are along axis 0."""
    name: str
    """The output's name in the model."""
    report: dict[str, Any]
    """What it took, see docs/report.md."""

    def npz(self) -> bytes:
        """The content of an .npz file with the output under its name."""
        return npz_bytes({self.name: self.output})

    def summary(self) -> str:
        """A few lines for a person."""
        return _summary(self.report, [["output", f"'{self.name}' {list(self.output.shape)}"]])


@dataclass(frozen=True)
class Evaluation:
    """What a run of the entry "evaluate" gives."""

    metrics: dict[str, float]
    """By name, over all samples: "loss", "accuracy" and "top<k>" as shares from 0 to 1, "mae"."""
    counts: dict[str, int]
    """Of labels: "rows", how many count, and how many of these "accuracy" and "top<k>" have found."""
    report: dict[str, Any]
    """What it took, see docs/report.md; "metrics" and "counts" are in it, too."""

    def line(self) -> str:
        """The metrics on one line."""
        return ", ".join(self._texts(" "))

    def summary(self) -> str:
        """A few lines for a person."""
        return _summary(self.report, [text.split("\t") for text in self._texts("\t")])

    def _texts(self, separator: str) -> list[str]:
        texts = []
        for name, value in self.metrics.items():
            if name in self.counts:
                number = f"{100 * value:.2f}% ({self.counts[name]} of {self.counts['rows']})"
            else:
                number = f"{value:.6g}"
            texts.append(f"{name}{separator}{number}")
        return texts


def _summary(report: Mapping[str, Any], first: list[list[str]]) -> str:
    rows = [
        ["target", f"{report['target']} on {report['simulator']} (simulated)"],
        ["samples", f"{report['samples']}, {report['batch']} at a time"],
        *first,
        ["cycles a call", f"{report['cycles']:,.0f} ({report['predicted_cycles']:,} predicted)"],
        ["samples a second", f"{report['samples_per_second']:,.1f} at {report['clock_hz'] / 1e6:g} MHz"],
        ["FLOP a cycle", f"{report['flop_per_cycle']:.2f}"],
    ]
    return table(["", ""], rows, "ll").split("\n", 2)[2]


def dataset_of(program: Program, data: str | Path | Mapping[str, Array], notice: Message) -> DataSet:
    """The data of an entry. Labels that are not asked for are nothing to speak of."""
    if isinstance(data, str | Path):
        data = load_npz(Path(data), "data")
    fields = program.fields
    known = {name for names in TARGETS.values() for name in names} - {field.name for field in fields}
    aliases = {alias for field in fields for alias in field.aliases}
    source = getattr(data, "source", "the data")

    def said(message: str) -> None:
        prefix = f"{source}: ignored, nothing asks for: "
        if message.startswith(prefix):
            names = [name for name in message.removeprefix(prefix).split(", ") if name not in known - aliases]
            message = prefix + ", ".join(names) if names else ""
        if message:
            notice(message)

    return DataSet(data, fields, notice=said)


def _execute(
    entry: Program, values: Mapping[str, Array], dataset: DataSet, machine: Machine
) -> tuple[Outcome, dict[str, Any]]:
    """Runs an entry on all samples, a batch after the other, and begins its report.

    A last batch that is not full is filled up with samples from the start.
    """
    with interrupts_held():
        from .program import execute

    batch = entry.manifest["batch"]
    calls = -(-dataset.samples // batch)
    if calls > MOST_STEPS:
        raise TrainDeeployError(f"{calls} batches: a run takes up to {MOST_STEPS}")

    def feeds() -> Iterator[dict[str, Array]]:
        for call, arrays in zip(range(calls), dataset.batches(batch), strict=False):
            yield {SAMPLES: np.asarray(min(batch, dataset.samples - call * batch), np.int32), **arrays}

    outcome = execute(
        entry.elf,
        entry.target,
        entry.stored(values),
        feeds(),
        steps=calls,
        simulator=machine.simulator,
        gvsoc=machine.gvsoc,
        max_cycles=machine.max_cycles,
        check=machine.check,
    )
    report = build_report(
        entry.target, entry.manifest, entry.operators, entry.lower_bound(), machine.simulator, [], outcome
    )
    for training in ("loss", "steps", "updates_per_second"):
        del report[training]
    cycles = sum(outcome.cycles)
    report |= {
        "entry": entry.manifest["entry"],
        "calls": calls,
        "samples": dataset.samples,
        "samples_per_second": dataset.samples * report["clock_hz"] / cycles,
    }
    return outcome, report


def predicted(
    program: Program,
    data: str | Path | Mapping[str, Array],
    params: str | Path | Mapping[str, Array] | None,
    machine: Machine,
    notice: Message,
) -> Prediction:
    """The outputs of a program's entry "infer"; see `Program.infer`."""
    entry = program.entry("infer")
    dataset = dataset_of(entry, data, notice)
    outcome, report = _execute(entry, program.values_of(entry, params), dataset, machine)
    batch, shape = entry.manifest["batch"], entry.manifest["output"]
    outputs = np.stack([outputs[_PREDICTION] for outputs in outcome.outputs])
    if shape:
        outputs = outputs.reshape(-1, *shape[1:])[: dataset.samples * (shape[0] // batch)]
    return Prediction(outputs, entry.manifest["output_name"], report)


def evaluated(
    program: Program,
    data: str | Path | Mapping[str, Array] | DataSet,
    params: str | Path | Mapping[str, Array] | None,
    metrics: Sequence[str] | None,
    machine: Machine,
    notice: Message,
) -> Evaluation:
    """The metrics of a program's entry "evaluate"; see `Program.evaluate`."""
    entry = program.entry("evaluate")
    manifest = entry.manifest
    names = list(dict.fromkeys(manifest["metrics"] if metrics is None else metrics))
    for name in names:
        if name not in manifest["metrics"]:
            raise TrainDeeployError(
                f"the program of {manifest['model']} computes no '{name}',"
                f" but: {', '.join(manifest['metrics'])}"
            )
    dataset = data if isinstance(data, DataSet) else dataset_of(entry, data, notice)
    batch = manifest["batch"]
    own = manifest["loss"] == "model"
    if own and dataset.samples % batch:
        raise TrainDeeployError(
            f"{dataset.samples} samples are no multiple of the batch of {batch}, and a model that computes"
            " its own loss does not tell those of a batch apart; --infer-batch-size 1 takes any number"
        )
    parameters = program.values_of(entry, params)
    outcome, report = _execute(entry, parameters, dataset, machine)
    sums: dict[str, float] = {}
    for outputs in outcome.outputs:
        for name, value in outputs.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    rows, divisor = _weights(entry, parameters, dataset)
    if own:
        divisor = len(outcome.outputs)
    elif manifest["loss_options"]["reduction"] == "sum":
        divisor = 1
    values: dict[str, float] = {}
    counts: dict[str, int] = {}
    for name in names:
        if name == "loss":
            values[name] = sums[name] / divisor if divisor else 0.0
        elif name == "mae":
            values[name] = sums["absolute_error"] / rows
        else:
            counts["rows"] = rows
            counts[name] = int(sums[f"top{_rank(name)}"])
            values[name] = counts[name] / rows if rows else 0.0
    report |= {"metrics": values, "counts": counts}
    return Evaluation(values, counts, report)


def _weights(entry: Program, values: Mapping[str, Array], dataset: DataSet) -> tuple[int, float]:
    """How many rows of classes, or elements, a metric counts, and what the mean of the loss is divided by."""
    from .losses import WEIGHTS

    options = entry.manifest["loss_options"]
    if "labels" not in dataset.arrays or entry.manifest["loss"] != "cross-entropy":
        elements = dataset.samples * prod(entry.manifest["output"][1:])
        return elements, elements
    labels = dataset.arrays["labels"]
    if options["ignore_index"] is not None:
        labels = labels[labels != options["ignore_index"]]
    if options["class_weights"] is None:
        return labels.size, labels.size
    return labels.size, float(values[WEIGHTS].astype(np.float64)[labels].sum())
