"""What the simulator's tests share: small programs, built with the cross compiler from PyPI."""

from __future__ import annotations

import copy
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from traindeeploy.sim import RunResult, Simulator
from traindeeploy.target import Target, load_target

_BUILD = Path(tempfile.mkdtemp(prefix="tdsim-tests-"))

LINK = """
ENTRY(_start)
SECTIONS {
  .tables 0x1001C000 : { *(.tables) }
  . = 0x1C010000;
  .text : { *(.text.start) *(.text*) }
  .data : { *(.data*) *(.rodata*) *(.sdata*) *(.srodata*) }
  .bss : { *(.bss*) *(.sbss*) *(COMMON) }
  . = ALIGN(16);
  _end = .;
  /DISCARD/ : { *(.riscv.attributes) *(.comment) *(.eh_frame*) }
}
"""

# The host starts the cluster with the caches on and leaves; core 0 calls main.
START = r"""
  .equ EXIT, 0x1A1040A0
  .equ EU, 0x10204000
  .equ DMA, 0x10204400
  .equ REDMULE, 0x10201000
  .macro exit_with reg
    li t0, 0x80000000
    or \reg, \reg, t0
    li t0, EXIT
    sw \reg, 0(t0)
    j .
  .endm
  .macro elw rd, offset, base
    .insn i 0x03, 6, \rd, \offset(\base)
  .endm
  .section .text.start
  .global _start
_start:
  csrr t0, mhartid
  li t1, 0x3E0
  bne t0, t1, cluster
  li t1, 1
  .ifndef FREE_FETCH
  li t0, 0x10201400
  sw t1, 0(t0)
  .endif
  li t0, 0x1A108800
  sw t1, 0(t0)
  .ifdef HOST_ONLY
  li sp, 0x1C010000
  j main
  .endif
  li t0, 0x10200040
  la t1, _start
  li t2, 8
1:sw t1, 0(t0)
  addi t0, t0, 4
  addi t2, t2, -1
  bnez t2, 1b
  li t0, 0x10200000
  li t1, CORES
  sw t1, 8(t0)
2:wfi
  j 2b
cluster:
  li sp, 0x10020000 - 256
  slli t1, t0, 10
  sub sp, sp, t1
  li t1, EU
  li t2, 1 << 16
  sw t2, 8(t1)
  li t2, CORES
  sw t2, 0x200(t1)
  sw t2, 0x20C(t1)
  elw zero, 0x21C, t1
  mv a0, t0
  j main
  .text
"""


def build(
    source: str, *, cores: int = 1, host_only: bool = False, free_fetch: bool = False, language: str = "S"
) -> Path:
    """An ELF from assembly whose `main` runs on every started core with its id in a0, or from C."""
    options = [f"-Wa,--defsym,CORES={(1 << cores) - 1}"] + (["-Wa,--defsym,HOST_ONLY=1"] if host_only else [])
    options += ["-Wa,--defsym,FREE_FETCH=1"] if free_fetch else []
    key = hashlib.sha256("\0".join([source, *options, language, START]).encode()).hexdigest()[:16]
    elf = _BUILD / f"{key}.elf"
    if not elf.exists():
        start, code = _BUILD / f"{key}-start.S", _BUILD / f"{key}-main.{language}"
        macros = START.split("  .section")[0]
        start.write_text(START)
        code.write_text(source if language == "c" else macros + "  .text\n  .global main\n" + source)
        script = _BUILD / "link.ld"
        script.write_text(LINK)
        # fmt: off
        command = [
            sys.executable, "-m", "ziglang", "cc", "-target", "riscv32-freestanding-none",
            "-mcpu=generic_rv32+m+c+zicsr+zfinx+zhinx", "-O3", "-nostdlib", "-ffreestanding",
            "-fno-sanitize=all", *options, "-T", str(script), str(start), str(code), "-o", str(elf),
        ]
        # fmt: on
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return elf


def with_free_fetch(machine: Target) -> Target:
    """The machine for programs that leave the cluster's instruction caches off, at no cost."""
    description = copy.deepcopy(dict(machine.description))
    description["cores"]["icache_off_line"] = 0
    return Target(machine.name, description)


def run(source: str, *, target: str = "pulp-redmule", workdir: Path | None = None, **options) -> RunResult:
    """Builds and runs; keyword arguments of `build` and of `Simulator.run`.

    free_fetch: instructions come at no cost, also the first time; what is timed is what they do.
    """
    building = {k: options.pop(k) for k in ("cores", "host_only", "language", "free_fetch") if k in options}
    elf = build(source, **building)
    options.setdefault("max_cycles", 50_000_000)
    machine = load_target(target)
    if building.get("free_fetch"):
        machine = with_free_fetch(machine)
    return Simulator(machine).run(elf, workdir or _BUILD, **options)


def words(values: np.ndarray) -> str:
    """Data directives for an array of 32-bit words."""
    flat = np.ascontiguousarray(values).view(np.uint32).ravel()
    lines = [
        "  .word " + ", ".join(f"{value:#x}" for value in flat[i : i + 16]) for i in range(0, len(flat), 16)
    ]
    return "\n".join(lines)


# Writes a2 bytes at a1 to the file out.bin in the work directory, and exits with 0.
DUMP = r"""
dump_and_exit:
  la t0, dump_block
  la t1, dump_name
  sw t1, 0(t0)
  li t1, 5
  sw t1, 4(t0)
  li t1, 7
  sw t1, 8(t0)
  sw a1, 16(t0)
  sw a2, 20(t0)
  li a0, 1
  mv a1, t0
  call semihost
  la t0, dump_block
  sw a0, 12(t0)
  li a0, 5
  addi a1, t0, 12
  call semihost
  la t0, dump_block
  li a0, 2
  addi a1, t0, 12
  call semihost
  li a0, 0
  exit_with a0
  .balign 16
  .option push
  .option norvc
semihost:
  slli x0, x0, 31
  ebreak
  srai x0, x0, 7
  ret
  .option pop
  .data
  .balign 4
dump_block:
  .space 32
dump_name:
  .asciz "out.bin"
  .text
"""
