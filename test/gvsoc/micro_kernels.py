"""Micro-kernels that both simulators run: what each takes, and what it leaves, is compared.

All kernels of a target are one program. Each runs three times on all cores between barriers, and the
last time is measured per core, so with warm instruction caches. What a kernel leaves in registers or memory
is reduced to a word per core.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))

from sim_tools import DUMP, build
from test_sim_devices import EVENT, HYPER, INCREMENT, TO_L1, TWO_D, dma, hyper
from traindeeploy.target import REDMULE_CODES

CORES = 8
L1, L2, L3 = 0x10000000, 0x1C080000, 0x40000
RESULTS = 0x1C060000  # two words per kernel and core: cycles, check
DATA_WORDS = 0x5000  # of L1 and of L2, filled with numbers that are finite in both formats


@dataclass(frozen=True)
class Kernel:
    """A piece of assembly that every core runs with its id in s11; `check` is memory that it leaves."""

    name: str
    body: str
    setup: str = ""
    check: tuple[int, int] | None = None


def loop(code: str, unroll: int = 8, times: int = 24) -> str:
    """Code that repeats, straight within a loop."""
    return f"  li t6, {times}\n3:\n" + f"  {code}\n" * unroll + "  addi t6, t6, -1\n  bnez t6, 3b\n"


def lead(code: str) -> str:
    """What core 0 alone runs."""
    return f"  bnez s11, 6f\n{code}6:\n"


def wait(event: int) -> str:
    """Sleeps until an event; the mask is that of barriers but for this time, as in the runtime."""
    mask = "  li t1, 1 << {}\n  sw t1, 0(s0)\n"
    return mask.format(event) + "  elw zero, 0x3c, s0\n" + mask.format(16)


WAIT_DMA = f"""
9:lw t1, 4(s1)
  srl t1, t1, s3
  andi t1, t1, 1
  beqz t1, 8f
{wait(8)}
  j 9b
8:li t1, 1
  sll t1, t1, s3
  sw t1, 4(s1)
"""
WAIT_REDMULE = f"7:\n{wait(12)}\n  lw t1, 0xc(s6)\n  bnez t1, 7b\n"


def redmule(kind: str, m: int, n: int, k: int, at: int = L1) -> tuple[str, tuple[int, int]]:
    """The start of a job on operands one after the other in L1, and where its result lies."""
    size = int(kind[2:]) // 8
    w = (at + m * n * size + 31) & ~31
    y = (w + n * k * size + 31) & ~31
    registers = {0x40: at, 0x44: w, 0x48: y, 0x4C: k << 16 | m, 0x50: n, 0x54: REDMULE_CODES[kind], 0: 0}
    code = "  li t1, 1 << 12\n  sw t1, 0x28(s0)\n"
    code += "".join(f"  li t1, {value}\n  sw t1, {offset}(s6)\n" for offset, value in registers.items())
    return code, (y, (m * k * size + 3) & ~3)


# What core i addresses: its own word, and its own 2 KiB.
OWN_WORD = f"  li s2, {L1}\n  slli t0, s11, 2\n  add s2, s2, t0\n"
OWN_PART = f"  li s2, {L1}\n  slli t0, s11, 11\n  add s2, s2, t0\n"
OWN_L2 = f"  li s2, {L2}\n  slli t0, s11, 8\n  add s2, s2, t0\n"


def core_kernels() -> Iterator[Kernel]:
    """Every class of instructions; a chain of dependent ones and independent ones."""
    floats = "  lw a1, 0(s2)\n  lw a2, 64(s2)\n  lw a3, 128(s2)\n  mv a4, a1\n  mv a5, a2\n  mv a6, a3\n"
    halves = floats
    integers = "  li a1, 12345\n  li a2, -678\n  li a3, 91\n  li a4, 5\n  li a5, 6\n  li a6, 7\n"
    chains = {
        "addi": (integers, "addi a1, a1, 3", "addi a4, a1, 3; addi a5, a2, 3"),
        "mul": (integers, "mul a1, a1, a2", "mul a4, a1, a2; mul a5, a2, a3"),
        "mulh": (integers, "mulh a1, a1, a2", "mulh a4, a1, a2; mulh a5, a2, a3"),
        "div": (integers, "div a1, a1, a4", "div a4, a1, a3; div a5, a2, a3"),
        "fadd.s": (floats, "fadd.s a1, a1, a2", "fadd.s a4, a1, a2; fadd.s a5, a2, a3"),
        "fmul.s": (floats, "fmul.s a1, a1, a2", "fmul.s a4, a1, a2; fmul.s a5, a2, a3"),
        "fmadd.s": (floats, "fmadd.s a1, a2, a3, a1", "fmadd.s a4, a1, a2, a4; fmadd.s a5, a2, a3, a5"),
        "fdiv.s": (floats, "fdiv.s a1, a1, a2", "fdiv.s a4, a1, a2; fdiv.s a5, a2, a3"),
        "fsqrt.s": (floats, "fsqrt.s a1, a1", "fsqrt.s a4, a1; fsqrt.s a5, a2"),
        "fmax.s": (floats, "fmax.s a1, a1, a2", "fmax.s a4, a1, a2; fmax.s a5, a2, a3"),
        "flt.s": (floats, "flt.s a1, a1, a2", "flt.s a4, a1, a2; flt.s a5, a2, a3"),
        "fcvt": (integers, "fcvt.s.w a1, a1; fcvt.w.s a1, a1", "fcvt.s.w a4, a1; fcvt.s.w a5, a2"),
        "fadd.h": (halves, "fadd.h a1, a1, a2", "fadd.h a4, a1, a2; fadd.h a5, a2, a3"),
        "fdiv.h": (halves, "fdiv.h a1, a1, a2", "fdiv.h a4, a1, a2; fdiv.h a5, a2, a3"),
        "vfmac.h": (halves, ".insn r 0x33, 2, 0x48, a1, a2, a3", ".insn r 0x33, 2, 0x48, a4, a2, a3"),
        "vfdotpex.s.h": (halves, ".insn r 0x33, 0, 0x4b, a1, a2, a3", ".insn r 0x33, 0, 0x4b, a4, a2, a3"),
        "vfcpka.h.s": (floats, ".insn r 0x33, 2, 0x58, a1, a2, a3", ".insn r 0x33, 2, 0x58, a4, a2, a3"),
        "p.mac": (integers, ".insn r 0x33, 0, 0x21, a1, a2, a3", ".insn r 0x33, 0, 0x21, a4, a2, a3"),
    }
    for name, (values, dependent, independent) in chains.items():
        for kind, code in (("dependent", dependent), ("independent", independent)):
            body = loop("\n  ".join(code.split("; ")))
            yield Kernel(f"{name} {kind}, 8 cores", body, OWN_WORD + values)
            yield Kernel(f"{name} {kind}, 1 core", lead(body), OWN_WORD + values)

    for name, code in {
        "lw": "lw a1, 0(s2)\n  lw a2, 32(s2)",
        "lw, used": "lw a1, 0(s2)\n  add a2, a2, a1",
        "lw, pointer": "lw a1, 0(s3)\n  add s3, s3, a1\n  sub s3, s3, a1",
        "lbu, lh": "lbu a1, 1(s2)\n  lh a2, 2(s2)",
        "sw": "sw a1, 1024(s2)\n  sw a2, 1056(s2)",
        "sw, lw": "sw a1, 1024(s2)\n  lw a2, 32(s2)",
    }.items():
        yield Kernel(f"{name} from L1", loop(code), OWN_WORD + "  mv s3, s2\n  li a1, 1\n  li a2, 2\n")
    for name, code in {"lw": "lw a1, 0(s2)", "sw": "sw s11, 0x400(s2)"}.items():
        yield Kernel(f"{name}, L2, 1 core", lead(loop(code)), OWN_L2)
        yield Kernel(f"{name}, L2, 8 cores", loop(code), OWN_L2)
    # Addresses of the cores so far apart: how many share a bank.
    for stride in (0, 4, 8, 16, 32, 64):
        setup = f"  li s2, {L1}\n  li t0, {stride}\n  mul t0, t0, s11\n  add s2, s2, t0\n"
        yield Kernel(f"lw, cores {stride} B apart", loop("lw a1, 0(s2)\n  addi a2, a2, 1"), setup)
        yield Kernel(f"sw, cores {stride} B apart", loop("sw s11, 1024(s2)\n  addi a2, a2, 1"), setup)
        walk = f"lw a1, 0(s2)\n  addi s2, s2, {stride}"
        yield Kernel(f"lw, steps of {stride} B", loop(walk), OWN_WORD)
    stream = ".insn i 0x0B, 2, a1, s2, 4\n  .insn i 0x0B, 2, a2, s3, 4\n  fmadd.s a3, a1, a2, a3"
    values = OWN_PART + f"  li s3, {L1 + 0x4000}\n  li a3, 0\n"
    yield Kernel("post-increment loads and fmadd.s", loop(stream), values)
    hardware = f"  .insn i 0x7B, 5, x0, x6, 100\n  {stream}\n"
    yield Kernel(
        "the same in a hardware loop", f"  .option push\n  .option norvc\n{hardware}  .option pop\n", values
    )

    branch = "beq a1, a2, 4f\n  addi a3, a3, 1\n4:"
    yield Kernel("branches taken", loop(branch), "  li a1, 1\n  li a2, 1\n  li a3, 0\n")
    yield Kernel("branches not taken", loop(branch), "  li a1, 1\n  li a2, 2\n  li a3, 0\n")
    yield Kernel("jumps", loop("j 4f\n  addi a3, a3, 1\n4:"), "  li a3, 0\n")
    yield Kernel(
        "call and return", loop("jal t5, 8f", 4) + "  j 9f\n8:addi a3, a3, 1\n  jr t5\n9:\n", "  li a3, 0\n"
    )
    yield Kernel("a short loop", loop("addi a3, a3, 1", 1, 100), "  li a3, 0\n")
    yield Kernel("csrr mcycle", loop("csrr t5, mcycle"))
    yield Kernel("barriers", loop("elw zero, 0x21c, s0", 4, 10))
    late = "  slli t5, s11, 4\n4:addi t5, t5, -1\n  bgez t5, 4b\n  elw zero, 0x21c, s0\n"
    yield Kernel("barriers, cores late", "  li t6, 10\n3:\n" + late + "  addi t6, t6, -1\n  bnez t6, 3b\n")
    yield Kernel("own event unit", loop("lw a1, 0(s0)\n  sw a1, 0(s0)"))


def dma_kernels() -> Iterator[Kernel]:
    """Copies of many sizes, in, out and both at once."""
    for size in (4, 60, 256, 1000, 4096, 16384, 32768):
        load = dma(size | TO_L1 | INCREMENT | EVENT, L1, L2)
        store = dma(size | INCREMENT | EVENT, L1 + 0x8000, L2 + 0x10000)
        yield Kernel(f"DMA in, {size} B", lead(load + WAIT_DMA), check=(L1, size & ~3))
        yield Kernel(f"DMA out, {size} B", lead(store + WAIT_DMA), check=(L2 + 0x10000, size & ~3))
        both = load + "  mv s4, s3\n" + store + WAIT_DMA + "  mv s3, s4\n" + WAIT_DMA
        yield Kernel(f"DMA both ways, {size} B", lead(both), check=(L1, size & ~3))
    for line in (4, 16, 64, 256, 516):
        size = line * 16
        load = dma(size | TO_L1 | INCREMENT | TWO_D | EVENT, L1, L2, line, 1024)
        store = dma(size | INCREMENT | TWO_D | EVENT, L1, L2 + 0x10000, line, 1024)
        yield Kernel(f"DMA in, 16 lines of {line} B", lead(load + WAIT_DMA), check=(L1, size))
        yield Kernel(f"DMA out, 16 lines of {line} B", lead(store + WAIT_DMA), check=(L2 + 0x10000, line))
    queue = "".join(dma(512 | TO_L1 | INCREMENT | EVENT, L1 + 512 * i, L2) for i in range(8))
    free = "  li t1, 0xffff\n  sw t1, 4(s1)\n"
    yield Kernel("DMA, 8 copies in the queues", lead(queue + WAIT_DMA + free))


def hyper_kernels() -> Iterator[Kernel]:
    """Transfers between L2 and L3."""
    setup = HYPER
    for size in (4, 64, 1000, 4096, 16384):
        for name, to_l3 in (("write", True), ("read", False)):
            at = L2 if to_l3 else L2 + 0x10000
            body = lead(hyper(to_l3, at, L3, size))
            check = None if to_l3 else (at, size & ~3)
            yield Kernel(f"HyperRAM {name}, {size} B", body, setup, check)
    # Many short lines show what a line costs, few long ones what a byte does.
    for lines, line in ((8, 16), (8, 64), (8, 512), (1200, 4), (1200, 8), (400, 20), (200, 64)):
        stride = max(1024, line) if lines == 8 else line + 16
        body = lead(hyper(False, L2 + 0x10000, L3, lines * line, twod=(line, stride)))
        yield Kernel(f"HyperRAM read, {lines} lines of {line} B", body, setup)
        body = lead(hyper(True, L2, L3 + 0x10000, lines * line, twod=(line, stride)))
        yield Kernel(f"HyperRAM write, {lines} lines of {line} B", body, setup)


SHAPES = (
    *((1, 1, 1), (1, 64, 10), (12, 16, 16), (13, 17, 31), (5, 33, 7), (64, 27, 64), (12, 64, 64)),
    *((24, 8, 48), (64, 64, 64), (60, 100, 32), (25, 70, 16), (1, 128, 128)),
)


def redmule_kernels(kind: str) -> Iterator[Kernel]:
    """GEMMs of many shapes, alone and beside DMA and cores."""
    for m, n, k in SHAPES:
        job, result = redmule(kind, m, n, k)
        yield Kernel(f"RedMulE {kind} {m}x{n}x{k}", lead(job + WAIT_REDMULE), check=result)
    m, n, k = 48, 64, 48
    job, result = redmule(kind, m, n, k)
    load = dma(16384 | TO_L1 | INCREMENT | EVENT, L1 + 0x10000, L2)
    store = dma(16384 | INCREMENT | EVENT, L1 + 0xC000, L2 + 0x10000)
    copies = load + "  mv s4, s3\n" + store
    finish = WAIT_DMA + "  mv s3, s4\n" + WAIT_DMA
    # Each engine's event wakes core 0 alone, so it looks at the other one afterwards.
    work = ".insn i 0x0B, 2, a1, s2, 4\n  .insn i 0x0B, 2, a2, s3, 4\n  fmadd.s a3, a1, a2, a3"
    values = OWN_PART + f"  li s3, {L1 + 0x8000}\n  li a3, 0\n"
    cores = "  beqz s11, 6f\n" + loop(work) + "  j 5f\n6:\n"
    # A job that its beats bound, as a convolution's are: it shows who comes first at a bank.
    bound, (at, size) = redmule(kind, 64, 27, 64)
    lines = dma(16384 | TO_L1 | INCREMENT | TWO_D | EVENT, L1 + 0x10000, L2, 128, 256)
    for name, before, after in (
        ("DMA in", load, WAIT_DMA),
        ("DMA in, lines of 128 B", lines, WAIT_DMA),
        ("DMA out", store, WAIT_DMA),
        ("DMA both ways", copies, finish),
    ):
        for first, second in (("RedMulE", bound + before), ("DMA", before + bound)):
            body = lead(second + WAIT_REDMULE + after)
            yield Kernel(f"RedMulE {kind} 64x27x64 beside {name}, {first} first", body, check=(at, size))
    yield Kernel(f"RedMulE {kind} beside DMA", lead(job + copies + WAIT_REDMULE + finish), check=result)
    beside = cores + bound + WAIT_REDMULE + "5:\n"
    yield Kernel(f"RedMulE {kind} 64x27x64 beside cores", beside, values, (at, size))
    yield Kernel(f"RedMulE {kind} beside cores", cores + job + WAIT_REDMULE + "5:\n", values, result)
    together = cores + job + copies + WAIT_REDMULE + finish + "5:\n"
    yield Kernel(f"RedMulE {kind} beside DMA and cores", together, values, result)
    yield Kernel(f"DMA beside cores, after {kind}", cores + copies + finish + "5:\n", values)


def kernels(target: str) -> list[Kernel]:
    """The micro-kernels of a target."""
    if target == "pulp-redmule-fp16":
        return list(redmule_kernels("fp16"))
    return [*core_kernels(), *dma_kernels(), *hyper_kernels(), *redmule_kernels("fp32")]


FILL = f"""
  mv s11, a0
  li s0, EU
  li s1, DMA
  li s6, REDMULE
  slli t0, s11, 2
  li t1, {L1}
  add t1, t1, t0
  li t2, {L2}
  add t2, t2, t0
  srli t0, t0, 2
  li t3, {DATA_WORDS}
1:li t4, 37
  mul t4, t4, t0
  andi t4, t4, 0x3ff
  li t5, 0x3f803c00
  or t4, t4, t5
  sw t4, 0(t1)
  sw t4, 0(t2)
  addi t1, t1, {4 * CORES}
  addi t2, t2, {4 * CORES}
  addi t0, t0, {CORES}
  blt t0, t3, 1b
"""


def source(chosen: list[Kernel]) -> str:
    """The program that runs kernels."""
    parts = ["main:\n", FILL]
    for index, kernel in enumerate(chosen):
        at = RESULTS + 8 * CORES * index
        if kernel.check:
            base, size = kernel.check
            check = f"""
  li a7, 0
  bnez s11, 2f
  li t0, {base}
  li t1, {base + size}
1:bgeu t0, t1, 2f
  lw t2, 0(t0)
  slli t3, a7, 5
  srli a7, a7, 27
  or a7, a7, t3
  xor a7, a7, t2
  addi t0, t0, 4
  j 1b
2:
"""
        else:
            check = "  xor a7, a1, a2\n  xor a7, a7, a3\n  xor a7, a7, a4\n  xor a7, a7, a5\n"
        clear = "".join(f"  li a{i}, 0\n" for i in range(1, 8))
        parts.append(f"""
  li s10, 3
.Lagain{index}:
{clear}{kernel.setup}
  elw zero, 0x21c, s0
  csrr s8, mcycle
{kernel.body}
  csrr s9, mcycle
  sub s9, s9, s8
  elw zero, 0x21c, s0
  addi s10, s10, -1
  bnez s10, .Lagain{index}
{check}
  li t0, {at}
  slli t1, s11, 3
  add t0, t0, t1
  sw s9, 0(t0)
  sw a7, 4(t0)
""")
    parts.append(f"""
  elw zero, 0x21c, s0
  beqz s11, 1f
  j .
1:li a1, {RESULTS}
  li a2, {8 * CORES * len(chosen)}
{DUMP}
""")
    return "".join(parts)


def program(target: str) -> Path:
    """The ELF of a target's micro-kernels."""
    return build(source(kernels(target)), cores=CORES)


def results(target: str, data: bytes) -> dict[str, dict[str, list[int]]]:
    """What each kernel took and left per core, from what the program wrote."""
    chosen = kernels(target)
    table = np.frombuffer(data, "<u4").reshape(len(chosen), CORES, 2)
    return {
        kernel.name: {"cycles": row[:, 0].tolist(), "check": row[:, 1].tolist()}
        for kernel, row in zip(chosen, table, strict=True)
    }
