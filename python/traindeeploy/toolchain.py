"""From LLVM IR to an ELF for the target: the cross compiler of the ziglang wheel, the runtime, the linker.

The compiler's own clang and lld are called directly: they need no cache, and what they write depends on
their input alone. Files have the same names in every run, so no path reaches the ELF.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

from .errors import TrainDeeployError
from .output import explained, temporary_folder
from .schema import check_json
from .target import Target

_ARCHITECTURE = ("--target=riscv32-unknown-elf", "-march=rv32imc_zicsr_zfinx_zhinx", "-mabi=ilp32")
_RUNTIME_SOURCES = ("crt0.S", "executor.c", "host.c")
_WITHOUT_LOSS = "td_without_loss"
"""Symbol of a module whose first output is no loss (td-lower-table)."""
_EXECUTOR = ("cluster_main", "lead", "follow", "job_call")
"""Functions of the runtime that can be on a core's stack below a kernel."""


class Manifest(TypedDict):
    """What docs/runtime.md lists."""

    program: str
    target: str
    l1_begin: int
    l2_begin: int
    operators: list[dict[str, Any]]
    jobs: dict[str, list[int]]
    stream: list[int | str]
    kernels: dict[str, int]
    buffers: list[dict[str, Any]]


class ProgramTooLarge(TrainDeeployError):
    """Code and tables need more of L2 than the plan's arrays leave."""

    def __init__(self, needed: int, available: int):
        super().__init__(
            f"code and job tables need {needed} bytes of L2, and the arrays leave {available}"
            f" (runtime.l2_reserved of the target is the least)"
        )
        self.needed = needed
        """Bytes."""
        self.available = available
        """Bytes."""


def runtime_folder() -> Path:
    """The folder of the runtime's sources: installed with the package, or the source tree's."""
    installed = Path(__file__).parent / "runtime"
    folder = installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "lib" / "Runtime"
    if not (folder / "link.ld").is_file():
        raise TrainDeeployError("the runtime's sources are not installed; reinstall traindeeploy")
    return folder


def target_header(target: Target) -> str:
    """Text of target.h, the numbers of the target description that the runtime needs."""
    description = target.description
    devices = description["devices"]
    numbers = {
        "CORES": description["cores"]["count"],
        "L1_BASE": description["memory"]["l1"]["base"],
        "CORE_STACK": description["runtime"]["core_stack"],
        "EVENT_UNIT": devices["event_unit"],
        "EVENT_UNIT_HOST": devices["event_unit_host"],
        "DMA": devices["dma"],
        "HYPERRAM": devices["udma_hyperram"],
        "UDMA_CLOCK_GATE": devices["udma_clock_gate"],
        "CLUSTER_ICACHE": devices["cluster_icache"],
        "HOST_ICACHE": devices["host_icache"],
        "CLUSTER_CONTROL": devices["cluster_control"],
        "STANDARD_OUTPUT": devices["standard_output"],
        "EXIT": devices["exit"],
    }
    if target.redmule_formats:
        numbers["REDMULE"] = devices["redmule"]
    return "".join(f"#define TARGET_{name} {value:#x}\n" for name, value in numbers.items())


def _zig() -> str:
    """The path of the zig executable."""
    spec = find_spec("ziglang")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "zig").is_file():
            return str(Path(place) / "zig")
    raise TrainDeeployError("the cross compiler is not installed; `pip install ziglang` brings it")


class _Tools:
    """Runs compiler and linker in a folder, some at the same time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.zig = _zig()
        self.running: list[tuple[str, subprocess.Popen[str]]] = []

    def start(self, what: str, *arguments: str) -> None:
        """Starts `zig arguments...`."""
        # No variable of the user's environment may change what is built.
        environment = {"LC_ALL": "C", "HOME": str(self.folder), "TMPDIR": str(self.folder)}
        with explained("cannot run the cross compiler"):
            process = subprocess.Popen(
                [self.zig, *arguments],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                # A group of its own, so that it ends with all that it has started.
                start_new_session=True,
            )
        self.running.append((what, process))

    def finish(self) -> None:
        """Waits for what was started; raises TrainDeeployError with the first error."""
        failure = None
        for what, process in self.running:
            _, text = process.communicate()
            if process.returncode and failure is None:
                failure = f"{what} failed: {_first_error(text) or how_ended(process.returncode)}"
        self.running = []
        if failure:
            raise TrainDeeployError(failure)

    def stop(self) -> None:
        """Ends what still runs, and all that it has started."""
        for _, process in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def how_ended(code: int) -> str:
    """How a process ended, from its return code."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    causes = {
        "SIGBUS": "a full disk can be why",
        "SIGKILL": "too little memory can be why",
        "SIGXFSZ": "a limit on the size of files is why",
    }
    return f"killed by {name}" + (f" ({causes[name]})" if name in causes else "")


def _first_error(text: str) -> str:
    """The first line of a tool's output that tells of an error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")


def build_elf(llvm_ir: str, target: Target) -> bytes:
    """Compiles a program and the runtime, and links them.

    llvm_ir: text of the module that td-llvm leaves: kernels, `td_program`, `td_manifest`.
    Returns the ELF's bytes, the same for the same arguments.

    Raises ProgramTooLarge when code and tables reach into the plan's part of L2, and TrainDeeployError when
    a core's stack is too small, when the compiler fails, or is not installed.
    """
    user = "the cross compiler"
    with temporary_folder(user) as folder, explained(f"cannot write temporary files for {user}"):
        (folder / "module.ll").write_text(llvm_ir)
        (folder / "target.h").write_text(target_header(target))
        for source in runtime_folder().iterdir():
            if source.suffix in (".c", ".S", ".ld", ".h"):
                shutil.copyfile(source, folder / source.name)
        tools = _Tools(folder)
        try:
            defines = ["-DTD_WITHOUT_LOSS"] if f"@{_WITHOUT_LOSS} =" in llvm_ir else []
            _compile_and_link(tools, target, defines)
        finally:
            tools.stop()
        elf = (folder / "program.elf").read_bytes()
    _check(Elf(elf), target)
    return elf


def _compile_and_link(tools: _Tools, target: Target, defines: Sequence[str]) -> None:
    common = ("clang", *_ARCHITECTURE, "-fno-pic", "-fdata-sections", "-fstack-size-section", "-c")
    # -O2 unrolls and schedules float loops as -O3 does; the kernels' structure is the compiler's own.
    tools.start("compiling kernels", *common, "-O3", "-Wno-override-module", "module.ll", "-o", "module.o")
    headers = str(Path(tools.zig).parent / "lib" / "include")
    flags = ("-O2", "-ffreestanding", "-fno-builtin", "-fno-jump-tables", "-isystem", headers)
    tools.start("compiling the runtime", *common, *flags, *defines, *_RUNTIME_SOURCES)
    tools.finish()
    memory = target.description["memory"]
    symbols = {
        "L2_BASE": memory["l2"]["base"],
        "L2_PRIVATE_BASE": memory["l2_private"]["base"],
        "L2_PRIVATE_SIZE": memory["l2_private"]["size"],
    }
    tools.start(
        "linking",
        "ld.lld",
        *("-m", "elf32lriscv", "-T", "link.ld", "--build-id=none", "--gc-sections", "-o", "program.elf"),
        *(f"--defsym={name}={value:#x}" for name, value in symbols.items()),
        *(Path(source).stem + ".o" for source in _RUNTIME_SOURCES),
        "module.o",
    )
    tools.finish()


def _check(elf: Elf, target: Target) -> None:
    """Checks code size and stacks."""
    runtime = target.description["runtime"]
    base = target.description["memory"]["l2"]["base"]
    available = elf.manifest["l2_begin"] - base
    if elf.program_bytes > available:
        raise ProgramTooLarge(elf.program_bytes, available)
    frames = elf.stack_sizes()
    executor = sum(frames.pop(name, 0) for name in _EXECUTOR)
    # A kernel may call memset or memcpy, and nothing else.
    kernel = max(frames, key=lambda name: frames[name])
    helper = max(frames.get("memset", 0), frames.get("memcpy", 0))
    stack = executor + frames[kernel] + helper
    if stack > runtime["core_stack"]:
        raise TrainDeeployError(
            f"{kernel} needs {stack} bytes of stack, and a core has {runtime['core_stack']}"
            f" (runtime.core_stack of the target)"
        )


@dataclass(frozen=True)
class Elf:
    """A program, as far as this package reads it back: sections, symbols, the manifest."""

    content: bytes

    def __post_init__(self) -> None:
        if self.content[:6] != b"\x7fELF\x01\x01" or len(self.content) < 52:
            raise TrainDeeployError("the program is no 32-bit little-endian ELF file")

    @cached_property
    def sections(self) -> dict[str, tuple[int, int]]:
        """Offset and size in the file, by name."""
        (table,) = struct.unpack_from("<I", self.content, 32)
        entry, count, names = struct.unpack_from("<HHH", self.content, 46)
        headers = [struct.unpack_from("<10I", self.content, table + i * entry) for i in range(count)]
        return {self._text(headers[names][4] + header[0]): (header[4], header[5]) for header in headers}

    def section(self, name: str) -> bytes:
        """The bytes of a section; empty when there is none of that name."""
        offset, size = self.sections.get(name, (0, 0))
        return self.content[offset : offset + size]

    def _text(self, offset: int) -> str:
        return self.content[offset : self.content.index(b"\0", offset)].decode()

    def _symbols(self) -> Iterator[tuple[str, int, int]]:
        """Name, value and kind of each symbol."""
        names = self.sections[".strtab"][0]
        for name, value, _, info, _, _ in struct.iter_unpack("<IIIBBH", self.section(".symtab")):
            yield self._text(names + name), value, info & 15

    @cached_property
    def symbols(self) -> dict[str, int]:
        """Value of each symbol."""
        return {name: value for name, value, _ in self._symbols()}

    @property
    def program_bytes(self) -> int:
        """Bytes of code, constants and job tables."""
        return self.symbols["td_program_end"] - self.symbols["_start"]

    def stack_sizes(self) -> dict[str, int]:
        """Bytes of each function's stack frame."""
        function = 2
        names = {value: name for name, value, kind in self._symbols() if kind == function}
        data, at, frames = self.section(".stack_sizes"), 0, {}
        while at + 5 <= len(data):
            (address,) = struct.unpack_from("<I", data, at)
            at += 4
            size, shift = 0, 0
            while True:  # ULEB128
                byte = data[at]
                at += 1
                size |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            frames[names.get(address, f"function at {address:#x}")] = size
        return frames

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What td-lower-table says of the program; docs/runtime.md lists it."""
        text = self.section(".traindeeploy")
        if not text:
            raise TrainDeeployError(
                "the program was not made by traindeeploy: section .traindeeploy is missing"
            )
        try:
            manifest: dict[str, Any] = json.loads(text)
        except (ValueError, RecursionError):
            raise TrainDeeployError("the program's section .traindeeploy is damaged") from None
        check_json(manifest, Manifest, "the program's section .traindeeploy")
        return manifest
