"""Runs a compiled program on a simulator: writes its feed, reads its results.

docs/runtime.md has the formats of the two files that the program opens by semihosting. They are pipes.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, islice
from math import prod
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .errors import TrainDeeployError
from .interrupts import interrupts_held
from .measurements import Accounting
from .output import explained, temporary_folder
from .pipes import Sink, Source
from .target import Target
from .toolchain import Elf
from .waterfall import Waterfall

Array = npt.NDArray[np.generic]

SIMULATORS = ("tdsim", "gvsoc")

_STUCK_FACTOR, _STUCK_CYCLES = 100, 10**9
"""A program on GVSoC that takes this many times its prediction, and these cycles more, is stuck."""

_FEED_MAGIC = b"TDF1"
_RESULT_MAGIC = b"TDR1"
_DTYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "i32": np.dtype("<i4")}
_COUNTERS = 3
"""Words that the device counts per operator (lib/Runtime/jobs.h): in its jobs, in kernels, in GEMM jobs."""
_EXIT_LOSS = 3
_EXITS = {
    2: "a core trapped",
    4: "the feed cannot be read",
    5: "the results cannot be written",
}


@dataclass(frozen=True)
class Outcome:
    """What a run of a program gives, all steps together."""

    values: dict[str, Array]
    """Parameters and optimizer states after the last step, by symbol."""
    outputs: Sequence[dict[str, Array]]
    """Per step, the program's outputs by symbol (the loss is the first one)."""
    cycles: Sequence[int]
    """Cycles of each step: from the sample in L2 to the last update written."""
    engines: dict[str, int]
    """Busy cycles of `cores`, `dma`, `redmule`, `hyperram`; `dma_hidden`: of the DMA's, those beside work."""
    operators: list[dict[str, int]]
    """Per operator of the plan: cycles `total` (of the steps, spent in its jobs), and the busy cycles for
    it of `cores`, `dma`, `redmule` and `hyperram`."""
    waterfall: Waterfall
    """Why the steps took their cycles."""
    logs: list[Any] = field(default_factory=list, repr=False)
    """What the engines did in the last steps (`sim.StepLogs`)."""


def joined(parts: Sequence[Outcome], keep_logs: int) -> Outcome:
    """Parts of a run, each of which began with the values of the one before, as one; at least one part."""
    waterfall = parts[0].waterfall
    for part in parts[1:]:
        waterfall.include(part.waterfall)
    added = [Counter(counts) for counts in parts[0].operators]
    engines = Counter(parts[0].engines)
    for part in parts[1:]:
        engines.update(part.engines)
        for total, counts in zip(added, part.operators, strict=True):
            total.update(counts)
    return Outcome(
        parts[-1].values,
        list(chain.from_iterable(part.outputs for part in parts)),
        list(chain.from_iterable(part.cycles for part in parts)),
        dict(engines),
        [dict(total) for total in added],
        waterfall,
        list(chain.from_iterable(part.logs for part in parts))[-keep_logs:],
    )


@dataclass(frozen=True)
class _Buffer:
    """A buffer of the program that the host reads or writes."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def padded_bytes(self) -> int:
        """Bytes in the files, which hold whole words."""
        return (prod(self.shape) * self.dtype.itemsize + 3) // 4 * 4

    def encode(self, arrays: Mapping[str, Array], what: str) -> bytes:
        """The bytes of this buffer's array for a file."""
        if self.name not in arrays:
            raise TrainDeeployError(f"{what} '{self.name}' is missing")
        array = np.asarray(arrays[self.name])
        if array.shape != self.shape or array.dtype != self.dtype:
            raise TrainDeeployError(
                f"{what} '{self.name}' is {array.dtype} of shape {array.shape},"
                f" but the program takes {self.dtype.name} of shape {self.shape}"
            )
        return array.astype(self.dtype).tobytes().ljust(self.padded_bytes, b"\0")

    def decode(self, data: bytes) -> Array:
        """The array in a file's bytes."""
        count = prod(self.shape)
        return np.frombuffer(data, self.dtype, count).reshape(self.shape).copy()


def _buffers(manifest: Mapping[str, Any], *roles: str) -> list[_Buffer]:
    """Buffers of some roles, in the order of their declaration."""
    return [
        _Buffer(buffer["name"], tuple(buffer["shape"]), _DTYPES[buffer["type"]])
        for buffer in manifest["buffers"]
        if buffer["role"] in roles
    ]


def execute(
    elf: bytes,
    target: Target,
    values: Mapping[str, Array],
    feeds: Iterable[Mapping[str, Array]],
    *,
    steps: int | None = None,
    simulator: str = "tdsim",
    gvsoc: str | Path | None = None,
    finished: Callable[[int, float], None] | None = None,
    max_cycles: int | None = None,
    check: bool | None = None,
    keep_logs: int = 1,
) -> Outcome:
    """Runs a program for some steps. Feed and results stream: a run may be of any length.

    values: arrays of all parameters and optimizer states, by symbol.
    feeds: per step, the arrays of its inputs by name; they are asked for as the program comes to them.
    steps: how many, at most data.MOST_STEPS; without it, as many as the list `feeds` has.
    simulator: "tdsim" or "gvsoc".
    gvsoc: GVSoC's folder; without it, the environment names it (docs/gvsoc.md).
    finished: called after each step with its index and its loss; what it raises ends the run.
    max_cycles: end the run with an error after so many simulated cycles. GVSoC, which does not see that
        a program is stuck, always has a limit.
    check: stop at the first access that is not right (docs/simulator.md); by default, if the variable
        TRAINDEEPLOY_CHECK is set to something else than 0.
    keep_logs: the number of steps, the last ones, whose logs are kept.

    Raises TrainDeeployError for arrays that do not fit the program, a loss that is not finite (if
    `finished` did not), and whatever stops the simulator.
    """
    if simulator not in SIMULATORS:
        raise TrainDeeployError(f"unknown simulator '{simulator}'; there are: {', '.join(SIMULATORS)}")
    with interrupts_held():
        from .gvsoc import Gvsoc
        from .memory_map import memory_map
        from .sim import Simulator

    installed = Gvsoc(gvsoc) if simulator == "gvsoc" else None
    if check and installed:
        raise TrainDeeployError("GVSoC checks no accesses; tdsim does")
    if check is None:
        check = os.environ.get("TRAINDEEPLOY_CHECK", "") not in ("", "0")
    program = Elf(elf)
    manifest = program.manifest
    if steps is None:
        feeds = list(feeds)
        steps = len(feeds)
    console = _Console(finished)
    accounting = Accounting(manifest, target, keep_logs)
    results = _Results(manifest, steps)
    pieces = _feed(manifest, values, feeds, steps)
    # What does not fit is most likely to be seen before the simulator starts.
    begin = b"".join(islice(pieces, 1 + len(_buffers(manifest, "parameter", "state", "input"))))
    with temporary_folder("the simulator") as folder, ExitStack() as pipes:
        with explained("cannot write temporary files for the simulator"):
            (folder / "program.elf").write_bytes(elf)
            pipes.enter_context(Source(folder / "feed.bin", chain((begin,), pieces)))
            pipes.enter_context(Sink(folder / "result.bin", results.take))
        result: Any
        if installed:
            predicted = sum(operator["predicted"][0] for operator in manifest["operators"])
            result = installed.run(
                target,
                folder / "program.elf",
                folder,
                stdout=console.take,
                max_cycles=max_cycles or _STUCK_FACTOR * steps * predicted + _STUCK_CYCLES,
                on_step=accounting.add,
            )
        else:
            result = Simulator(target).run(
                folder / "program.elf",
                folder,
                stdout=console.take,
                max_cycles=max_cycles,
                check=memory_map(program, target) if check else False,
                on_step=accounting.add,
                kernels=[program.symbols[name] for name in manifest["kernels"] if name in program.symbols],
            )
    if result.exit_code == _EXIT_LOSS:
        raise TrainDeeployError(f"the loss is not finite at step {console.steps} of {steps}")
    if result.exit_code:
        reason = _EXITS.get(result.exit_code, f"it exited with code {result.exit_code}")
        raise TrainDeeployError(f"the program stopped: {reason}: {' '.join(console.messages)}".rstrip(": "))
    return results.outcome(accounting)


def _feed(
    manifest: Mapping[str, Any],
    values: Mapping[str, Array],
    feeds: Iterable[Mapping[str, Array]],
    steps: int,
) -> Iterator[bytes]:
    """The feed, an array at a time."""
    yield struct.pack("<4sI", _FEED_MAGIC, steps)
    for buffer in _buffers(manifest, "parameter", "state"):
        yield buffer.encode(values, "value of")
    inputs = _buffers(manifest, "input")
    for arrays in islice(feeds, steps):
        for buffer in inputs:
            yield buffer.encode(arrays, "input")


class _Console:
    """What the program prints: `loss <bits>` after each step, and messages."""

    def __init__(self, finished: Callable[[int, float], None] | None):
        self.finished = finished
        self.steps = 0
        self.messages: list[str] = []
        self._line = ""
        self._ended = False

    def take(self, text: str) -> None:
        """Takes text as it comes; after `finished` has raised, what is still printed does not count."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            kind, _, bits = line.partition(" ")
            if kind != "loss":
                self.messages.append(line)
                continue
            step, self.steps = self.steps, self.steps + 1
            if self.finished and not self._ended:
                (loss,) = struct.unpack("<f", struct.pack("<I", int(bits, 16)))
                self._ended = True
                self.finished(step, loss)
                self._ended = False


class _Records(Sequence[dict[str, Array]]):
    """Arrays of steps, kept as the bytes that the program wrote and read when they are asked for."""

    def __init__(self, buffers: Sequence[_Buffer]):
        self.buffers = buffers
        self.size = sum(buffer.padded_bytes for buffer in buffers)
        self.data = bytearray()
        self.steps = 0

    def append(self, data: bytes) -> None:
        """Takes the bytes of the next step."""
        self.data += data
        self.steps += 1

    def __len__(self) -> int:
        return self.steps

    @overload
    def __getitem__(self, index: int) -> dict[str, Array]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Array]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Array] | list[dict[str, Array]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.steps))]
        if not -self.steps <= index < self.steps:
            raise IndexError(index)
        begin = index % self.steps * self.size
        return _decode(self.buffers, bytes(self.data[begin : begin + self.size]))


def _decode(buffers: Iterable[_Buffer], data: bytes) -> dict[str, Array]:
    """Arrays that lie one after the other."""
    arrays, at = {}, 0
    for buffer in buffers:
        arrays[buffer.name] = buffer.decode(data[at : at + buffer.padded_bytes])
        at += buffer.padded_bytes
    return arrays


class _Results:
    """Takes the result file as it comes."""

    def __init__(self, manifest: Mapping[str, Any], steps: int):
        self.steps = steps
        self.values = _buffers(manifest, "parameter", "state")
        self.outputs = _Records(_buffers(manifest, "output"))
        self.cycles = array("Q")
        self.counters = np.zeros((len(manifest["operators"]), _COUNTERS), np.int64)
        self._pending = bytearray()
        self._started = False

    def take(self, data: bytes) -> None:
        """Takes the next bytes of the file."""
        self._pending += data
        if not self._started and len(self._pending) >= len(_RESULT_MAGIC):
            if self._taken(len(_RESULT_MAGIC)) != _RESULT_MAGIC:
                raise TrainDeeployError("the results of the program are damaged")
            self._started = True
        step = 4 + self.outputs.size + 4 * self.counters.size
        while self._started and len(self.cycles) < self.steps and len(self._pending) >= step:
            (cycles,) = struct.unpack("<I", self._taken(4))
            self.cycles.append(cycles)
            self.outputs.append(self._taken(self.outputs.size))
            counted = np.frombuffer(self._taken(4 * self.counters.size), "<u4")
            self.counters += counted.reshape(self.counters.shape)

    def _taken(self, count: int) -> bytes:
        data = bytes(self._pending[:count])
        del self._pending[:count]
        return data

    def outcome(self, accounting: Accounting) -> Outcome:
        """What the file says, once it is whole."""
        last = sum(buffer.padded_bytes for buffer in self.values)
        if len(self.cycles) < self.steps or len(self._pending) < last:
            raise TrainDeeployError("the results of the program are incomplete")
        measured = [
            {
                "total": int(counters[0]),
                "cores": int(counters[1]),
                **{name: int(busy[i]) for name, busy in accounting.operators.items()},
            }
            for i, counters in enumerate(self.counters)
        ]
        return Outcome(
            _decode(self.values, bytes(self._pending)),
            self.outputs,
            self.cycles,
            dict(accounting.engines),
            measured,
            accounting.waterfall,
            list(accounting.last),
        )
