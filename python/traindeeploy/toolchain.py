"""LLVM IR to an ELF: the cross compiler, the runtime's sources, and nothing of this machine in the result."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .errors import TrainDeeployError
from .output import explained
from .target import Target

ISA = ["-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m+c+zicsr+zfinx+zhinx", "-mabi=ilp32"]
COMPILE = ["cc", *ISA, "-c", "-O3", "-g0", "-ffreestanding", "-fno-builtin", "-ffunction-sections"]
COMPILE += ["-fno-asynchronous-unwind-tables", "-fno-stack-protector"]
# Zig's defaults for C: checks that trap, and a warning for each module without a target triple.
COMPILE += ["-fno-sanitize=all", "-Wno-override-module"]
# In a step of its own: together with -g0 the symbols would go, and the simulator names them.
LINK = ["cc", *ISA, "-nostdlib", "-static", "-Wl,--gc-sections", "-Wl,--build-id=none"]


def runtime_folder() -> Path:
    """Where the runtime's sources are: in the installed package, or in the source tree beside it."""
    package = Path(__file__).parent
    for folder in (package / "runtime", package.parent.parent / "lib" / "Runtime"):
        if folder.is_dir():
            return folder
    raise TrainDeeployError(
        "the runtime's sources are missing from this installation; install traindeeploy again"
    )


def target_header(target: Target) -> str:
    """C macros of a target description: TD_<SECTION>_<KEY> for each of its integers."""
    lines: list[str] = []

    def define(path: Sequence[str], value: Any) -> None:
        if isinstance(value, Mapping):
            for key in sorted(value):
                define([*path, key], value[key])
        elif isinstance(value, int) and not isinstance(value, bool):
            lines.append(f"#define {'_'.join(['TD', *path]).upper()} {value:#x}")

    define([], target.description)
    return "\n".join(lines) + "\n"


def _compiler() -> str:
    """The zig program of the ziglang wheel."""
    spec = find_spec("ziglang")
    for place in (spec.submodule_search_locations or []) if spec else []:
        program = Path(place) / "zig"
        if program.is_file():
            return str(program)
    raise TrainDeeployError("the cross compiler is missing: `pip install ziglang`")


def _run(arguments: Sequence[str], folder: Path, what: str) -> str:
    """Runs the compiler in `folder` and returns what it prints; nothing of it outlives this call."""
    # Caches in the temporary folder: no state of the machine gets in, and none is left behind.
    environment = {
        **os.environ,
        "ZIG_GLOBAL_CACHE_DIR": str(folder / "cache"),
        "ZIG_LOCAL_CACHE_DIR": str(folder / "cache"),
        "TMPDIR": str(folder),
    }
    with explained("cannot run the cross compiler"):
        process = subprocess.Popen(
            [_compiler(), *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # A group of its own, so that it ends with all that it has started.
            start_new_session=True,
        )
    try:
        output, errors = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode:
        lines = [line for line in errors.splitlines() if "error:" in line] or errors.strip().splitlines()
        detail = lines[0] if lines else f"exit code {process.returncode}"
        raise TrainDeeployError(f"{what}: {detail}")
    return output


def build_elf(llvm_ir: str, target: Target) -> bytes:
    """Compiles and links a program's LLVM IR with the runtime for `target`.

    The same arguments give the same bytes, whatever the folders and caches of the machine. Raises
    TrainDeeployError when the program does not fit into the memory that the target reserves for it.
    """
    with explained("cannot write temporary files for the cross compiler"):
        temporary = tempfile.TemporaryDirectory(prefix="traindeeploy-", ignore_cleanup_errors=True)
    with temporary as name, explained("cannot write temporary files for the cross compiler"):
        folder = Path(name)
        names = []
        for source in sorted(runtime_folder().iterdir()):
            if source.suffix in (".c", ".S", ".h", ".ld"):
                (folder / source.name).write_bytes(source.read_bytes())
                names.append(source.name)
        (folder / "program.ll").write_text(llvm_ir)
        (folder / "target.h").write_text(target_header(target))
        preprocess = ["cc", *ISA, "-E", "-P", "-x", "assembler-with-cpp", "-include", "target.h", "link.ld"]
        script = _run([*preprocess, "-o", "-"], folder, "the linker script does not preprocess")
        (folder / "program.ld").write_text(script)
        objects = []
        for source in [*(name for name in names if name.endswith((".c", ".S"))), "program.ll"]:
            objects.append(f"{Path(source).stem}.o")
            header = [] if source == "program.ll" else ["-include", "target.h"]
            _run([*COMPILE, *header, source, "-o", objects[-1]], folder, f"{source} does not compile")
        _run([*LINK, "-T", "program.ld", *objects, "-o", "program.elf"], folder, "the program does not link")
        return (folder / "program.elf").read_bytes()
