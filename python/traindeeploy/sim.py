"""The embedded simulator: runs a program on the machine that a target describes.

Time is simulated cycles of the target's clock. `docs/simulator.md` says what is modelled and how.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from . import _tdsim
from .errors import TrainDeeployError
from .memory_map import MemoryMap
from .target import Target

JobLog = Literal["none", "marked", "all"]

# Layouts of the job logs in lib/Sim/Machine.h. Times in cycles, sizes in bytes.
DMA_JOB = np.dtype(
    [
        ("start", "<u8"),
        ("end", "<u8"),
        ("bytes", "<u4"),
        ("to_l1", "<u4"),
        ("l1", "<u4"),
        ("l2", "<u4"),
    ]
)
HYPERRAM_JOB = np.dtype(
    [
        ("trigger", "<u8"),
        ("start", "<u8"),
        ("end", "<u8"),
        ("bytes", "<u4"),
        ("to_l3", "<u4"),
        ("l2", "<u4"),
        ("l3", "<u4"),
    ]
)
REDMULE_JOB = np.dtype(
    [
        ("trigger", "<u8"),
        ("start", "<u8"),
        ("end", "<u8"),
        ("m", "<u4"),
        ("n", "<u4"),
        ("k", "<u4"),
        ("format", "<u4"),  # bits of an element: 16 or 32
        ("waited", "<u4"),  # cycles that the banks of L1 made it longer; GVSoC does not say
        ("padding", "<u4"),
    ]
)
MARKER = np.dtype([("cycle", "<u8"), ("core", "<u4"), ("kind", "<u4"), ("value", "<u4"), ("padding", "<u4")])


class SimulationError(TrainDeeployError):
    """The program did something that stops the run; the message says what, where and when."""

    def __init__(self, message: str, partial: RunResult | None = None):
        super().__init__(message)
        self.partial = partial
        """What was measured until then."""


@dataclass(frozen=True)
class CoreCounters:
    """What one core did. The host core is the last one of a machine. Stalls are in cycles."""

    instructions: int
    active_cycles: int
    """Cycles since the core was started in which it was not asleep."""
    asleep_cycles: int
    loads: int
    stores: int
    jumps: int
    branches: int
    taken_branches: int
    load_use_stalls: int
    bank_stalls: int
    """Waiting for a bank of L1 that another core, the DMA or RedMulE was using."""
    fpu_stalls: int
    """Waiting for a shared floating-point unit or the divider."""
    l2_stalls: int
    device_stalls: int
    icache_stalls: int


@dataclass(frozen=True)
class StepLogs:
    """What the engines did in one step, and its markers."""

    dma: np.ndarray = field(repr=False)
    hyperram: np.ndarray = field(repr=False)
    redmule: np.ndarray = field(repr=False)
    markers: np.ndarray = field(repr=False)

    @classmethod
    def read(cls, raw: Mapping[str, bytes]) -> StepLogs:
        """From bytes by the name of a log."""
        layouts = {"dma": DMA_JOB, "hyperram": HYPERRAM_JOB, "redmule": REDMULE_JOB, "markers": MARKER}
        return cls(**{name: np.frombuffer(raw[name], layout) for name, layout in layouts.items()})


@dataclass(frozen=True)
class RunResult:
    """A run that ended by the program's own exit."""

    exit_code: int
    cycles: int
    instructions: int
    """Of all cores."""
    host_seconds: float
    """How long the simulation itself took."""
    stdout: str
    """What the program printed, unless a function was given for it."""
    cores: tuple[CoreCounters, ...]
    dma: np.ndarray = field(repr=False)
    hyperram: np.ndarray = field(repr=False)
    redmule: np.ndarray = field(repr=False)
    markers: np.ndarray = field(repr=False)
    dropped_jobs: int = 0
    """Entries that the logs had no room for."""

    @property
    def mips(self) -> float:
        """Millions of simulated instructions a second of host time."""
        return self.instructions / max(self.host_seconds, 1e-9) / 1e6


class Simulator:
    """A machine to run programs on. Each run starts from reset and is independent of the others."""

    def __init__(self, target: Target):
        self.target = target

    def run(
        self,
        elf: str | Path,
        workdir: str | Path,
        *,
        max_cycles: int | None = None,
        stdout: Callable[[str], object] | None = None,
        on_progress: Callable[[int], object] | None = None,
        job_log: JobLog = "all",
        job_log_limit: int = 1 << 20,
        portable: bool = False,
        check: bool | MemoryMap = False,
        on_step: Callable[[StepLogs], object] | None = None,
        kernels: Iterable[int] = (),
    ) -> RunResult:
        """Runs a program until it exits.

        workdir: the directory in which semihosting opens files; it cannot leave it.
        max_cycles: stop with an error after that many simulated cycles.
        stdout: called with text as the program prints it; without it, `RunResult.stdout` has it all.
        on_progress: called a few times a second of host time with the cycle that was reached.
        job_log: which jobs of the engines to list: all, only those that end between marker 1
            (`slti x0, x0, 1`) and marker 2 (`slti x0, x0, 2`) in program time, or none.
        job_log_limit: the most entries that a list takes; `RunResult.dropped_jobs` counts the rest.
        check: stop at the first access that is not right (docs/simulator.md); with a MemoryMap, also at
            those outside of its arrays and stacks. Slower, with the same results.
        on_step: called with the logs of each step (from marker 1 to marker 2), which are then dropped: so a
            run may be of any length.
        kernels: entry points; calls of these on cores other than 0, which marks its own, are noted as
            markers 3 and 4, at no cost to the program.
        portable: use no vector or fused instructions of the host; slower, with the same results.

        Raises SimulationError when the program is stopped (an access outside of memory, an illegal
        instruction, a deadlock, the cycle limit, ...), TrainDeeployError when the file is no program
        for this machine, KeyboardInterrupt on Ctrl-C.
        """
        workdir = Path(workdir)
        if not workdir.is_dir():
            raise TrainDeeployError(f"work directory {workdir} does not exist")
        if job_log not in ("none", "marked", "all"):
            raise ValueError(f"job_log is none, marked or all, not {job_log!r}")
        printed: list[bytes] = []

        def collect(text: bytes) -> None:
            if stdout is None:
                printed.append(text)
            else:
                stdout(text.decode(errors="replace"))

        try:
            raw = _tdsim.simulate(
                self.target.simulator_config,
                str(elf),
                str(workdir),
                max_cycles,
                job_log,
                job_log_limit,
                collect,
                on_progress,
                portable,
                MemoryMap() if check is True else check or None,
                on_step and (lambda raw: on_step(StepLogs.read(raw))),
                list(kernels),
            )
        except RuntimeError as error:
            raise TrainDeeployError(str(error)) from None
        result = RunResult(
            exit_code=raw["exit_code"],
            cycles=raw["cycles"],
            instructions=raw["instructions"],
            host_seconds=raw["host_seconds"],
            stdout=b"".join(printed).decode(errors="replace"),
            cores=tuple(CoreCounters(**core) for core in raw["cores"]),
            **vars(StepLogs.read(raw)),
            dropped_jobs=raw["dropped"],
        )
        if raw["error"]:
            raise SimulationError(raw["error"], result)
        return result


if sys.byteorder != "little":
    raise ImportError("the embedded simulator needs a little-endian host")
