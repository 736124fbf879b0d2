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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .errors import TrainDeeployError
from .measurements import STEP_BEGIN, STEP_END
from .output import explained, temporary_folder
from .pipes import Sink
from .sim import DMA_JOB, HYPERRAM_JOB, MARKER, REDMULE_JOB, StepLogs
from .target import Target
from .toolchain import how_ended

PATH_VARIABLE = "TRAINDEEPLOY_GVSOC"
PYTHON_VARIABLE = "TRAINDEEPLOY_GVSOC_PYTHON"
COMMITS = {
    "": "209c147c",
    "core": "f3784bc9",
    "pulp": "748a706d",
    "gvrun": "7d26e6fc",
    "gvtest": "39785acc",
    "pulpos": "8cd918a4",
}
"""Commits that this was written for and tested with, by folder of GVSoC's tree."""

_COMPONENTS = ("redmule", "probe")
_OWN = ("pulp", "gvsoc", "gapylib", "gvrun")
"""Modules that are GVSoC's own."""
_HEADERS = Path("core/engine/include")
_LIBRARY, _ENGINE = "lib/libpulpvp.so", "core/engine"
"""What is built of which sources: if these are newer, the build is of others."""
_GENERATORS = ("pulp", "core/models")
"""Folders of GVSoC's Python, of which `install/generators` has copies."""
_HELP = "docs/gvsoc.md says how to get one"
_DEBUG = ("-DVP_TRACE_ACTIVE=1", "-DCONFIG_GVSOC_EVENT_ACTIVE=1", "-DVP_MEMCHECK_ACTIVE=1")

_SILENCE = 120.0
"""Seconds of host time without a sign of simulated time passing after which GVSoC counts as hanging."""
_PREPARATION = 120.0
"""Seconds that GVSoC may take to describe the machine, and a compiler to compile a component."""

# Entries of the log (lib/Sim/gvsoc/log.h); `time`, `period` and the times of bursts are picoseconds.
_ENTRY = np.dtype([("kind", "<u8"), ("payload", "V48")])
_TIMED_JOB = np.dtype(
    [
        *(("trigger", "<u8"), ("time", "<u8"), ("period", "<u8")),
        *(("bytes", "<u4"), ("to_l3", "<u4"), ("l2", "<u4"), ("l3", "<u4")),
    ]
)
_BURST = np.dtype(
    [
        *(("start", "<u8"), ("end", "<u8")),
        *(("bytes", "<u4"), ("write", "<u4"), ("address", "<u4"), ("padding", "<u4")),
    ]
)
_LAYOUTS = (MARKER, DMA_JOB, REDMULE_JOB, _TIMED_JOB, _BURST)
"""Of the payload, by kind."""
_COMMAND_BYTES = 6  # that begin each burst on the HyperRAM's bus


def target_folder() -> Path:
    """The folder of our target: installed with the package, or the source tree's."""
    installed = Path(__file__).parent / "gvsoc_target"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "lib" / "Sim" / "gvsoc"


@dataclass(frozen=True)
class GvsocResult:
    """A run that ended by the program's own exit."""

    exit_code: int
    host_seconds: float
    """How long the simulation itself took, with GVSoC's start."""


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
        for part in COMMITS:
            edited = self._git(part, "diff", "--name-only", "--diff-filter=M", "--ignore-submodules", "HEAD")
            if edited:
                first = Path(part) / edited.splitlines()[0]
                raise TrainDeeployError(
                    f"the sources of the GVSoC at {self.root} were edited: {first}; undo that and build again"
                )
        if stale := self._stale():
            raise TrainDeeployError(
                f"the GVSoC at {self.root} was built from other sources than are there: {stale};"
                " build and install it again"
            )

    def _git(self, part: str, *arguments: str) -> str:
        """What git says of a part of the tree; empty when it is none of git."""
        folder = self.root / part
        if not (folder / ".git").exists():
            return ""
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                env={**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
            )
        except OSError:
            raise TrainDeeployError("git is needed to check GVSoC's commits, and was not found") from None
        if "dubious ownership" in done.stderr:
            raise TrainDeeployError(
                f"the GVSoC at {self.root} belongs to another user, so git does not tell its commits;"
                f" `git config --global --add safe.directory '{self.root}/*'` (and one without /*) lets it"
            )
        return done.stdout.strip() if done.returncode == 0 else ""

    def _commit(self, part: str) -> str:
        """The commit of a part of the tree; empty when it is none of git."""
        return self._git(part, "rev-parse", "HEAD")

    def _stale(self) -> str:
        """A source that is not the one that was built, or nothing."""
        library = self.install / _LIBRARY
        built = library.stat().st_mtime if library.exists() else 0.0
        for path in (self.root / _ENGINE).rglob("*.[ch]pp"):
            if path.stat().st_mtime > built:
                return f"{path.relative_to(self.root)} is newer than {library.relative_to(self.root)}"
        for folder in _GENERATORS:
            for path in (self.root / folder).rglob("*.py"):
                copy = self.install / "generators" / path.relative_to(self.root / folder)
                if copy.exists() and copy.read_bytes() != path.read_bytes():
                    return f"{path.relative_to(self.root)} is another than {copy.relative_to(self.root)}"
        return ""

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
        for name in ("log.h", *(f"{name}.cpp" for name in _COMPONENTS)):
            key.update((target_folder() / name).read_bytes())
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
        on_step: Callable[[StepLogs], object] | None = None,
    ) -> GvsocResult:
        """Runs a program until it exits; see `sim.Simulator.run`. `on_step` is called in another thread.

        Raises TrainDeeployError when GVSoC cannot run it, crashes, hangs, or comes to `max_cycles`.
        """
        with temporary_folder("GVSoC") as folder:
            with explained("cannot write temporary files for GVSoC"):
                self._prepare(target, elf, folder, max_cycles)
                log = Sink(folder / "log", _Log(on_step).take)
            begin = time.perf_counter()
            with log:
                code = self._launch(folder / "gvsoc_config.json", workdir, stdout)
            return GvsocResult(code, time.perf_counter() - begin)

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
        raise TrainDeeployError(
            f"GVSoC crashed after cycle {cycles:,} ({how_ended(code)}): {text[-300:]}".rstrip(": ")
        )
    return code


class _Log:
    """Takes the log as it comes, and hands it on a step at a time."""

    def __init__(self, on_step: Callable[[StepLogs], object] | None):
        self.on_step = on_step
        self._bytes = bytearray()
        self._entries: list[np.ndarray] = []

    def take(self, data: bytes) -> None:
        """Takes the next bytes of the log."""
        if self.on_step is None:
            return
        self._bytes += data
        whole = len(self._bytes) // _ENTRY.itemsize * _ENTRY.itemsize
        entries = np.frombuffer(bytes(self._bytes[:whole]), _ENTRY)
        del self._bytes[:whole]
        marks = np.flatnonzero(entries["kind"] == _LAYOUTS.index(MARKER))
        done = 0
        for end in marks[_payload(entries[marks], MARKER)["kind"] == STEP_END]:
            self._entries.append(entries[done : end + 1])
            self.on_step(_step(np.concatenate(self._entries)))
            self._entries = []
            done = end + 1
        self._entries.append(entries[done:])


def _payload(entries: np.ndarray, layout: np.dtype[Any]) -> np.ndarray:
    """The payload of entries of one kind."""
    rows = np.frombuffer(entries["payload"].tobytes(), np.uint8).reshape(
        len(entries), _ENTRY["payload"].itemsize
    )
    return np.frombuffer(rows[:, : layout.itemsize].tobytes(), layout)


def _step(entries: np.ndarray) -> StepLogs:
    """The logs of a step, from the entries up to its end."""
    markers, dma, redmule, jobs, bursts = (
        _payload(entries[entries["kind"] == kind], layout) for kind, layout in enumerate(_LAYOUTS)
    )
    begin = markers["cycle"][markers["kind"] == STEP_BEGIN][-1]
    return StepLogs(
        dma=dma[dma["start"] >= begin],
        hyperram=_transfers(jobs[jobs["trigger"] >= begin], bursts),
        redmule=redmule[redmule["trigger"] >= begin],
        markers=markers[markers["cycle"] >= begin],
    )


def _transfers(jobs: np.ndarray, bursts: np.ndarray) -> np.ndarray:
    """Jobs with the times at which the bus worked for them.

    It takes a job after the other, those of several channels in turn, so what a burst belongs to is told by
    where it begins in L3 and its direction. The host's own transfers, outside of steps, are on the bus, too.

    jobs: _TIMED_JOB, in the order of programming; bursts: _BURST. Returns HYPERRAM_JOB in the same order.
    """
    timed = np.zeros(jobs.size, HYPERRAM_JOB)
    for name in ("trigger", "bytes", "to_l3", "l2", "l3"):
        timed[name] = jobs[name]
    timed["start"] = timed["end"] = timed["trigger"]
    waiting = list(range(jobs.size))
    current, left, ended = -1, 0, 0
    for burst in bursts:
        if not left:
            starts = (
                i
                for i in waiting
                if jobs["l3"][i] == burst["address"]
                and jobs["to_l3"][i] == burst["write"]
                and jobs["time"][i] <= burst["start"]
            )
            current = next(starts, -1)
            if current < 0:
                continue
            waiting.remove(current)
            left = int(jobs["bytes"][current])
            timed["start"][current] = max(int(jobs["trigger"][current]), ended)
        left = max(0, left - (int(burst["bytes"]) - _COMMAND_BYTES))
        after = int(burst["end"]) - int(jobs["time"][current])
        ended = int(jobs["trigger"][current]) + after // int(jobs["period"][current])
        timed["end"][current] = ended
    return timed
