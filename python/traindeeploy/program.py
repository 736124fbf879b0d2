"""Runs a compiled program on a simulator: writes its feed, reads its results.

docs/runtime.md has the formats of the two files that the program opens by semihosting.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import TrainDeeployError
from .interrupts import interrupts_held
from .measurements import Accounting, steps_of
from .output import explained
from .target import Target
from .toolchain import Elf

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
    outputs: list[dict[str, Array]]
    """Per step, the program's outputs by symbol (the loss is the first one)."""
    cycles: list[int]
    """Cycles of each step: from the sample in L2 to the last update written."""
    engines: dict[str, int]
    """Busy cycles of `cores`, `dma`, `redmule`, `hyperram`; `dma_hidden`: of the DMA's, those beside work."""
    operators: list[dict[str, int]]
    """Per operator of the plan: cycles `total` (of the steps, spent in its jobs), and the busy cycles for
    it of `cores`, `dma`, `redmule` and `hyperram`."""
    logs: list[Any] = field(default_factory=list, repr=False)
    """What the engines did in the last steps (`sim.StepLogs`)."""


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
    simulator: str = "tdsim",
    gvsoc: str | Path | None = None,
    finished: Callable[[int, float], None] | None = None,
    max_cycles: int | None = None,
    check: bool | None = None,
    keep_logs: int = 1,
) -> Outcome:
    """Runs a program for as many steps as `feeds` has.

    values: arrays of all parameters and optimizer states, by symbol.
    feeds: per step, the arrays of its inputs by name.
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
    with explained("cannot write temporary files for the simulator"):
        temporary = tempfile.TemporaryDirectory(prefix="traindeeploy-", ignore_cleanup_errors=True)
    with temporary as name:
        folder = Path(name)
        with explained("cannot write temporary files for the simulator"):
            (folder / "program.elf").write_bytes(elf)
            with (folder / "feed.bin").open("wb") as file:
                steps = _write_feed(file, manifest, values, feeds)
        console = _Console(finished)
        accounting = Accounting(manifest, keep_logs)
        result: Any
        if installed:
            predicted = sum(operator["predicted"][0] for operator in manifest["operators"])
            limit = max_cycles or _STUCK_FACTOR * steps * predicted + _STUCK_CYCLES
            result = installed.run(
                target, folder / "program.elf", folder, stdout=console.take, max_cycles=limit
            )
            for logs in steps_of(result):
                accounting.add(logs)
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
            raise TrainDeeployError(
                f"the program stopped: {reason}: {' '.join(console.messages)}".rstrip(": ")
            )
        with explained("cannot read the results of the simulator"):
            data = (folder / "result.bin").read_bytes()
    return _read_results(data, manifest, steps, accounting)


def _write_feed(
    file: BinaryIO,
    manifest: Mapping[str, Any],
    values: Mapping[str, Array],
    feeds: Iterable[Mapping[str, Array]],
) -> int:
    """Writes the feed and returns its number of steps."""
    file.write(struct.pack("<4sI", _FEED_MAGIC, 0))
    for buffer in _buffers(manifest, "parameter", "state"):
        file.write(buffer.encode(values, "value of"))
    inputs = _buffers(manifest, "input")
    steps = 0
    for arrays in feeds:
        for buffer in inputs:
            file.write(buffer.encode(arrays, "input"))
        steps += 1
    file.seek(0)
    file.write(struct.pack("<4sI", _FEED_MAGIC, steps))
    return steps


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


def _read_results(data: bytes, manifest: Mapping[str, Any], steps: int, accounting: Accounting) -> Outcome:
    """Parses the result file."""
    if data[:4] != _RESULT_MAGIC:
        raise TrainDeeployError("the results of the program are damaged")
    at = 4

    def take(count: int) -> bytes:
        nonlocal at
        if at + count > len(data):
            raise TrainDeeployError("the results of the program are incomplete")
        at += count
        return data[at - count : at]

    operators = len(manifest["operators"])
    counters = np.zeros((operators, _COUNTERS), np.int64)
    cycles: list[int] = []
    outputs: list[dict[str, Array]] = []
    for _ in range(steps):
        (count,) = struct.unpack("<I", take(4))
        cycles.append(count)
        outputs.append({b.name: b.decode(take(b.padded_bytes)) for b in _buffers(manifest, "output")})
        counters += np.frombuffer(take(4 * operators * _COUNTERS), "<u4").reshape(operators, _COUNTERS)
    values = {b.name: b.decode(take(b.padded_bytes)) for b in _buffers(manifest, "parameter", "state")}
    measured = [
        {
            "total": int(counters[i, 0]),
            "cores": int(counters[i, 1]),
            **{name: int(busy[i]) for name, busy in accounting.operators.items()},
        }
        for i in range(operators)
    ]
    return Outcome(values, outputs, cycles, dict(accounting.engines), measured, list(accounting.last))
