"""GVSoC: runs a program on the field's simulator of PULP, with this project's target of it.

The target (`gvsoc_target`) builds on GVSoC's own PULP-open; RedMulE in FP32 and the probes that log
what the engines do are C++ components, compiled against the user's GVSoC when they are first needed.
docs/gvsoc.md says how to get a GVSoC.
"""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tty
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .errors import TrainDeeployError
from .output import explained
from .sim import DMA_JOB, HYPERRAM_JOB, MARKER, REDMULE_JOB
from .target import Target

PATH_VARIABLE = "TRAINDEEPLOY_GVSOC"
PYTHON_VARIABLE = "TRAINDEEPLOY_GVSOC_PYTHON"
COMMITS = {"": "209c147c", "core": "f3784bc9", "pulp": "748a706d", "gvrun": "7d26e6fc"}
"""Commits that this was written for and tested with, by folder of GVSoC's tree."""

_COMPONENTS = ("redmule", "probe")
_OWN = ("pulp", "gvsoc", "gapylib", "gvrun")
"""Modules that are GVSoC's own."""
_HEADERS = Path("core/engine/include")
_HELP = "docs/gvsoc.md says how to get one"
_DEBUG = ("-DVP_TRACE_ACTIVE=1", "-DCONFIG_GVSOC_EVENT_ACTIVE=1", "-DVP_MEMCHECK_ACTIVE=1")

_SILENCE = 120.0
"""Seconds of host time without a sign of simulated time passing after which GVSoC counts as hanging."""
_PREPARATION = 120.0
"""Seconds that GVSoC may take to describe the machine, and a compiler to compile a component."""

# Layouts of the logs of the HyperRAM's probes (probe.cpp); times of bursts are picoseconds.
_TIMED_JOB = np.dtype([*HYPERRAM_JOB.descr, ("time", "<u8"), ("period", "<u8")])
_BURST = np.dtype([("start", "<u8"), ("end", "<u8"), ("bytes", "<u4"), ("padding", "<u4")])
_COMMAND_BYTES = 6  # that begin each burst on the HyperRAM's bus


def target_folder() -> Path:
    """The folder of our target: installed with the package, or the source tree's."""
    installed = Path(__file__).parent / "gvsoc_target"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "lib" / "Sim" / "gvsoc"


@dataclass(frozen=True)
class GvsocResult:
    """A run that ended by the program's own exit. The logs are those of `sim.RunResult`."""

    exit_code: int
    host_seconds: float
    """How long the simulation itself took, with GVSoC's start."""
    dma: np.ndarray = field(repr=False)
    hyperram: np.ndarray = field(repr=False)
    redmule: np.ndarray = field(repr=False)
    markers: np.ndarray = field(repr=False)


class Gvsoc:
    """An installed GVSoC, checked for what a run needs."""

    def __init__(self, path: str | Path | None = None):
        """path: GVSoC's source tree, built and installed below it; None takes TRAINDEEPLOY_GVSOC.

        Raises TrainDeeployError that says what is missing.
        """
        named = path or os.environ.get(PATH_VARIABLE)
        if not named:
            raise TrainDeeployError(
                f"GVSoC is needed: name its folder by --gvsoc or {PATH_VARIABLE}; {_HELP}"
            )
        self.root = Path(named).expanduser().resolve()
        if not self.root.is_dir():
            raise TrainDeeployError(f"there is no GVSoC at {self.root}: no such folder; {_HELP}")
        self.install = self.root / "install"
        for needed in ("bin/gapy", "bin/gvsoc_launcher", "generators/pulp/chips/pulp_open/cluster.py"):
            if not (self.install / needed).exists():
                raise TrainDeeployError(
                    f"the GVSoC at {self.root} is not built: install/{needed} is missing; {_HELP}"
                )
        if not (self.root / _HEADERS / "vp/vp.hpp").is_file():
            raise TrainDeeployError(
                f"the GVSoC at {self.root} has no headers ({_HEADERS}): keep the sources it was built from"
            )
        for part, commit in COMMITS.items():
            found = self._commit(part)
            if not found.startswith(commit):
                raise TrainDeeployError(
                    f"the GVSoC at {self.root} is another one: {part or 'gvsoc'} is at"
                    f" {found[:8] or 'no known commit'}, {commit} is needed; check that out and build again"
                )

    def _commit(self, part: str) -> str:
        """The commit of a part of the tree; empty when it is none of git."""
        folder = self.root / part
        if not (folder / ".git").exists():
            return ""
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True
            )
        except OSError:
            raise TrainDeeployError("git is needed to check GVSoC's commits, and was not found") from None
        return done.stdout.strip() if done.returncode == 0 else ""

    @cached_property
    def commits(self) -> dict[str, str]:
        """Commits of the parts, as in `COMMITS`."""
        return {part or "gvsoc": self._commit(part)[:8] for part in COMMITS}

    @cached_property
    def python(self) -> str:
        """The interpreter that runs GVSoC's own Python."""
        return os.environ.get(PYTHON_VARIABLE) or sys.executable

    def models(self, debug: bool = False) -> Path:
        """The folder of our components, compiled for this GVSoC. debug: for traced runs."""
        compiler = os.environ.get("CXX") or next(
            (name for name in ("c++", "g++", "clang++") if shutil.which(name)), None
        )
        if compiler is None or shutil.which(compiler.split()[0]) is None:
            raise TrainDeeployError(
                "GVSoC needs a C++ compiler for our RedMulE, and none was found: install g++, or set CXX"
            )
        flags = ["-std=c++20", "-O3", "-fPIC", "-shared", "-fno-strict-aliasing", "-ffp-contract=off"]
        flags += ["-D__GVSOC__", *(_DEBUG if debug else ())]
        key = hashlib.sha256(json.dumps([str(self.root), compiler, flags, self.commits]).encode())
        for name in _COMPONENTS:
            key.update((target_folder() / f"{name}.cpp").read_bytes())
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "traindeeploy" / "gvsoc" / key.hexdigest()[:16]
        package = folder / ("debug/traindeeploy" if debug else "traindeeploy")
        with explained(f"cannot write the cache folder {package}"):
            package.mkdir(parents=True, exist_ok=True)
            for name in _COMPONENTS:
                if not (package / f"{name}.so").exists():
                    self._compile([*compiler.split(), *flags], name, package)
        return folder

    def _compile(self, compiler: list[str], name: str, package: Path) -> None:
        """Compiles one component; it appears whole or not at all."""
        descriptor, partial = tempfile.mkstemp(prefix=f".{name}.", dir=package)
        os.close(descriptor)
        try:
            command = [
                *compiler,
                f"-I{self.root / _HEADERS}",
                str(target_folder() / f"{name}.cpp"),
                "-o",
                partial,
            ]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=_PREPARATION)
            except subprocess.TimeoutExpired:
                raise TrainDeeployError(f"the compiler {compiler[0]} hangs on {name}.cpp") from None
            if done.returncode:
                lines = done.stderr.splitlines()
                reason = next((line for line in lines if "error" in line), "") or f"exit {done.returncode}"
                raise TrainDeeployError(f"cannot compile {name}.cpp for GVSoC with {compiler[0]}: {reason}")
            os.replace(partial, package / f"{name}.so")
        finally:
            with suppress(FileNotFoundError):
                os.unlink(partial)

    def _prepare(self, target: Target, elf: Path, folder: Path, max_cycles: int) -> None:
        """Lets GVSoC's Python describe the machine, in gvsoc_config.json of `folder`."""
        (folder / "target.json").write_text(json.dumps(dict(target.description)))
        environment = {
            **os.environ,
            "TRAINDEEPLOY_GVSOC_TARGET": str(folder / "target.json"),
            "TRAINDEEPLOY_GVSOC_CYCLES": str(max_cycles),
            "PYTHONPATH": str(self.install / "python"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [
            *(self.python, str(self.install / "bin/gapy"), "--platform=gvsoc"),
            *(f"--target-dir={self.install / 'generators'}", f"--target-dir={target_folder()}"),
            *(f"--model-dir={self.install / 'models'}", f"--model-dir={self.models()}"),
            *("--target=traindeeploy_soc", f"--work-dir={folder}", f"--binary={elf}", "prepare"),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, cwd=folder, timeout=_PREPARATION
            )
        except OSError as error:
            raise TrainDeeployError(
                f"cannot run GVSoC's Python with {self.python}: {error.strerror}"
            ) from None
        except subprocess.TimeoutExpired:
            raise TrainDeeployError("GVSoC hangs while it describes the machine") from None
        if done.returncode or not (folder / "gvsoc_config.json").is_file():
            lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            reason = lines[-1].strip() if lines else f"exit {done.returncode}"
            missing = re.search(r"(?:No module named|Dependency) '([\w.]+)'", reason)
            if missing and missing.group(1).split(".")[0] not in _OWN:
                raise TrainDeeployError(
                    f"GVSoC's Python needs the package {missing.group(1)}, which {self.python} has not:"
                    f" pip install 'traindeeploy[gvsoc]', or name an interpreter by {PYTHON_VARIABLE}"
                )
            raise TrainDeeployError(f"GVSoC cannot describe the machine: {reason}")

    def run(
        self,
        target: Target,
        elf: Path,
        workdir: Path,
        *,
        stdout: Callable[[str], object],
        max_cycles: int,
    ) -> GvsocResult:
        """Runs a program until it exits; see `sim.Simulator.run`.

        Raises TrainDeeployError when GVSoC cannot run it, crashes, hangs, or comes to `max_cycles`.
        """
        with tempfile.TemporaryDirectory(prefix="traindeeploy-gvsoc-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            self._prepare(target, elf, folder, max_cycles)
            begin = time.perf_counter()
            code = self._launch(folder / "gvsoc_config.json", workdir, stdout)
            seconds = time.perf_counter() - begin
            return _result(folder, code, seconds)

    def _launch(self, config: Path, workdir: Path, stdout: Callable[[str], object]) -> int:
        """Runs the simulator itself. Whatever ends this, no process is left."""
        libraries = [str(self.install / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
        environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, libraries))}
        # On a terminal of its own GVSoC prints each line as it comes. Its signs of life go through a pipe,
        # so that it ends by itself should this process be killed.
        terminal, slave = pty.openpty()
        tty.setraw(slave)
        try:
            process = subprocess.Popen(
                [str(self.install / "bin/gvsoc_launcher"), f"--config={config}"],
                cwd=workdir,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=slave,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            os.close(terminal)
            raise TrainDeeployError(f"cannot start GVSoC: {error.strerror}") from None
        finally:
            os.close(slave)
        try:
            return _watch(process, terminal, stdout)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(terminal)
            assert process.stderr is not None
            process.stderr.close()


def _watch(process: subprocess.Popen[bytes], terminal: int, stdout: Callable[[str], object]) -> int:
    """Passes on what GVSoC prints until it ends, and returns its exit code."""
    assert process.stderr is not None
    errors = process.stderr.fileno()
    pending = {terminal: b"", errors: b""}
    messages: list[str] = []
    cycles = 0
    heard = time.monotonic()
    while pending:
        ready, _, _ = select.select(list(pending), [], [], 1.0)
        if not ready and time.monotonic() - heard > _SILENCE:
            raise TrainDeeployError(
                f"GVSoC hangs: no sign of life for {_SILENCE:.0f} s after cycle {cycles:,}; it was stopped"
            )
        for source in ready:
            try:
                data = os.read(source, 1 << 16)
            except OSError:  # the terminal's other end is closed
                data = b""
            if not data:
                messages.append(pending.pop(source).decode(errors="replace"))
                continue
            heard = time.monotonic()
            *lines, pending[source] = (pending[source] + data).split(b"\n")
            for line in (line.decode(errors="replace") for line in lines):
                sign = re.fullmatch(r"@traindeeploy (cycles|limit) (\d+)", line)
                if sign:
                    cycles = int(sign.group(2))
                    if sign.group(1) == "limit":
                        raise TrainDeeployError(f"the program did not end within {cycles:,} cycles on GVSoC")
                elif source == errors or not re.match(r"loss |trap: |the ", line):
                    messages.append(line)
                if source == terminal:
                    stdout(line + "\n")
    code = process.wait()
    if code < 0:
        text = re.sub(r"\x1b\[[\d;]*m", "", " ".join(messages)).strip()
        lacking = re.search(r"Couldn't find component \(name: ([\w/]+)", text)
        if lacking:
            raise TrainDeeployError(
                f"this GVSoC lacks component {lacking.group(1)}: build it with the targets of docs/gvsoc.md"
            )
        how = signal.Signals(-code).name
        raise TrainDeeployError(f"GVSoC crashed after cycle {cycles:,} ({how}): {text[-300:]}".rstrip(": "))
    return code


def _result(folder: Path, code: int, seconds: float) -> GvsocResult:
    """The logs that the components have written."""

    def read(name: str, layout: np.dtype[Any]) -> np.ndarray:
        path = folder / f"{name}.log"
        return np.frombuffer(path.read_bytes() if path.exists() else b"", layout)

    with explained("cannot read GVSoC's logs"):
        return GvsocResult(
            exit_code=code,
            host_seconds=seconds,
            dma=read("dma", DMA_JOB),
            hyperram=_transfers(read("hyperram", _TIMED_JOB), read("bus", _BURST)),
            redmule=read("redmule", REDMULE_JOB),
            markers=read("marks", MARKER),
        )


def _transfers(jobs: np.ndarray, bursts: np.ndarray) -> np.ndarray:
    """Jobs with the times at which the bus worked for them: it takes them one after the other.

    jobs: _TIMED_JOB, at the cycles at which they were programmed; bursts: _BURST. Returns HYPERRAM_JOB.
    """
    bursts = bursts[bursts["bytes"] > _COMMAND_BYTES]
    payload = bursts["bytes"].astype(np.int64) - _COMMAND_BYTES
    timed = np.zeros(jobs.size, HYPERRAM_JOB)
    for name in HYPERRAM_JOB.names or ():
        timed[name] = jobs[name]
    following = 0
    ended = 0
    for job, programmed in zip(timed, jobs, strict=True):
        # The host's own transfers, outside of the steps, are on the bus, too, but not among the jobs.
        first = max(following, int(np.searchsorted(bursts["start"], programmed["time"])))
        moved = np.cumsum(payload[first : first + int(job["bytes"]) + 1])
        following = min(first + int(np.searchsorted(moved, job["bytes"])) + 1, bursts.size)
        job["start"] = max(int(job["start"]), ended)
        if following > first:
            after = int(bursts["end"][following - 1]) - int(programmed["time"])
            job["end"] = ended = int(programmed["start"]) + after // int(programmed["period"])
    return timed
