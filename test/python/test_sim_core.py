"""The cores: integer and PULP instructions, timing, counters, traps, and what stops a run."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time

import numpy as np
import pytest

from sim_tools import build, run
from test_sim_float import execute
from traindeeploy.errors import TrainDeeployError
from traindeeploy.pipes import Sink
from traindeeploy.sim import SimulationError, Simulator
from traindeeploy.target import load_target

M32 = 0xFFFFFFFF


def signed(v: int) -> int:
    return v - (1 << 32) if v >> 31 else v


def division(a: int, b: int, is_signed: bool) -> tuple[int, int]:
    """Quotient and remainder as RISC-V defines them."""
    if b == 0:
        return M32, a
    x, y = (signed(a), signed(b)) if is_signed else (a, b)
    quotient = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
    return quotient & M32, (x - quotient * y) & M32


INTEGER = {
    "add a6, a3, a4": lambda a, b, c: a + b,
    "sub a6, a3, a4": lambda a, b, c: a - b,
    "sll a6, a3, a4": lambda a, b, c: a << (b & 31),
    "srl a6, a3, a4": lambda a, b, c: a >> (b & 31),
    "sra a6, a3, a4": lambda a, b, c: signed(a) >> (b & 31),
    "slt a6, a3, a4": lambda a, b, c: signed(a) < signed(b),
    "sltu a6, a3, a4": lambda a, b, c: a < b,
    "xor a6, a3, a4": lambda a, b, c: a ^ b,
    "or a6, a3, a4": lambda a, b, c: a | b,
    "and a6, a3, a4": lambda a, b, c: a & b,
    "addi a6, a3, -1234": lambda a, b, c: a - 1234,
    "slti a6, a3, -7": lambda a, b, c: signed(a) < -7,
    "sltiu a6, a3, -7": lambda a, b, c: a < M32 - 6,
    "xori a6, a3, -1": lambda a, b, c: ~a,
    "ori a6, a3, 0x555": lambda a, b, c: a | 0x555,
    "andi a6, a3, -256": lambda a, b, c: a & ~255,
    "slli a6, a3, 13": lambda a, b, c: a << 13,
    "srli a6, a3, 13": lambda a, b, c: a >> 13,
    "srai a6, a3, 13": lambda a, b, c: signed(a) >> 13,
    "lui a6, 0xABCDE": lambda a, b, c: 0xABCDE000,
    "mul a6, a3, a4": lambda a, b, c: a * b,
    "mulh a6, a3, a4": lambda a, b, c: signed(a) * signed(b) >> 32,
    "mulhsu a6, a3, a4": lambda a, b, c: signed(a) * b >> 32,
    "mulhu a6, a3, a4": lambda a, b, c: a * b >> 32,
    "div a6, a3, a4": lambda a, b, c: division(a, b, True)[0],
    "divu a6, a3, a4": lambda a, b, c: division(a, b, False)[0],
    "rem a6, a3, a4": lambda a, b, c: division(a, b, True)[1],
    "remu a6, a3, a4": lambda a, b, c: division(a, b, False)[1],
    # Xpulpv2; a6 starts as a5 where it accumulates.
    "mv a6, a5; .insn r 0x33, 0, 0x21, a6, a3, a4": lambda a, b, c: c + a * b,
    "mv a6, a5; .insn r 0x33, 1, 0x21, a6, a3, a4": lambda a, b, c: c - a * b,
    ".insn r 0x33, 0, 2, a6, a3, x0": lambda a, b, c: abs(signed(a)),
    ".insn r 0x33, 2, 2, a6, a3, a4": lambda a, b, c: signed(a) <= signed(b),
    ".insn r 0x33, 3, 2, a6, a3, a4": lambda a, b, c: a <= b,
    ".insn r 0x33, 4, 2, a6, a3, a4": lambda a, b, c: min(signed(a), signed(b)),
    ".insn r 0x33, 5, 2, a6, a3, a4": lambda a, b, c: min(a, b),
    ".insn r 0x33, 6, 2, a6, a3, a4": lambda a, b, c: max(signed(a), signed(b)),
    ".insn r 0x33, 7, 2, a6, a3, a4": lambda a, b, c: max(a, b),
    ".insn r 0x33, 4, 8, a6, a3, x0": lambda a, b, c: (a & 0xFFFF ^ 0x8000) - 0x8000,
    ".insn r 0x33, 5, 8, a6, a3, x0": lambda a, b, c: a & 0xFFFF,
    ".insn r 0x33, 6, 8, a6, a3, x0": lambda a, b, c: (a & 0xFF ^ 0x80) - 0x80,
    ".insn r 0x33, 7, 8, a6, a3, x0": lambda a, b, c: a & 0xFF,
    # Compressed; a6 is no register of the short encodings, so s0 and s1 work.
    "mv s0, a3; mv s1, a4; c.sub s0, s1; mv a6, s0": lambda a, b, c: a - b,
    "mv s0, a3; mv s1, a4; c.xor s0, s1; mv a6, s0": lambda a, b, c: a ^ b,
    "mv s0, a3; mv s1, a4; c.or s0, s1; mv a6, s0": lambda a, b, c: a | b,
    "mv s0, a3; mv s1, a4; c.and s0, s1; mv a6, s0": lambda a, b, c: a & b,
    "mv s0, a3; c.srli s0, 9; mv a6, s0": lambda a, b, c: a >> 9,
    "mv s0, a3; c.srai s0, 9; mv a6, s0": lambda a, b, c: signed(a) >> 9,
    "mv s0, a3; c.andi s0, -5; mv a6, s0": lambda a, b, c: a & -5,
    "c.mv a6, a3; c.add a6, a4": lambda a, b, c: a + b,
    "c.mv a6, a3; c.addi a6, -31": lambda a, b, c: a - 31,
    "c.mv a6, a3; c.slli a6, 21": lambda a, b, c: a << 21,
    "c.li a6, -32": lambda a, b, c: -32,
    "c.lui a6, 0xFFFE1": lambda a, b, c: 0xFFFE1000,
    "mv s0, a3; li a6, 1; c.beqz s0, 9f; c.li a6, 2; 9:": lambda a, b, c: 1 if a == 0 else 2,
    "mv s0, a3; li a6, 1; c.bnez s0, 9f; c.li a6, 2; 9:": lambda a, b, c: 2 if a == 0 else 1,
    "c.li a6, 3; c.j 9f; c.li a6, 4; 9:": lambda a, b, c: 3,
    # Branches.
    "li a6, 1; beq a3, a4, 9f; li a6, 0; 9:": lambda a, b, c: a == b,
    "li a6, 1; bne a3, a4, 9f; li a6, 0; 9:": lambda a, b, c: a != b,
    "li a6, 1; blt a3, a4, 9f; li a6, 0; 9:": lambda a, b, c: signed(a) < signed(b),
    "li a6, 1; bge a3, a4, 9f; li a6, 0; 9:": lambda a, b, c: signed(a) >= signed(b),
    "li a6, 1; bltu a3, a4, 9f; li a6, 0; 9:": lambda a, b, c: a < b,
    "li a6, 1; bgeu a3, a4, 9f; li a6, 0; 9:": lambda a, b, c: a >= b,
}


def test_integer_instructions(tmp_path) -> None:
    random = np.random.default_rng(0)
    edges = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0x80000001, M32, 0xFFFF8000, 0x8000, 0xFFFF]
    triples = [(a, b, a ^ b) for a in edges for b in edges]
    triples += [tuple(int(v) for v in row) for row in random.integers(0, 1 << 32, (200, 3))]
    results = execute(tmp_path, [code.replace(";", "\n  ") for code in INTEGER], triples)
    for (code, reference), per_mode in zip(INTEGER.items(), results, strict=True):
        expected = [int(reference(*triple)) & M32 for triple in triples]
        assert per_mode[0, :, 0].tolist() == expected, code


def exits(source: str, **options) -> int:
    return run("main:\n" + source + "\n  exit_with a0\n", **options).exit_code


def test_memory_and_post_increment() -> None:
    """Each load and store form writes or reads the bytes at the right place and moves its pointer."""
    assert (
        exits("""
  li a1, 0x10000100
  li t0, 0x8182F3F4
  mv a2, a1
  .insn s 0x2B, 2, t0, 4(a2)      # p.sw t0, 4(a2!)
  sub a3, a2, a1
  li a0, 4
  bne a3, a0, fail
  li t1, 2
  mv a2, a1
  .insn r 0x0B, 7, 0x00, a3, a2, t1  # p.lb  a3, t1(a2!)
  li t2, -12
  bne a3, t2, fail
  .insn r 0x0B, 7, 0x28, a3, a2, t1  # p.lhu a3, t1(a2!)
  li t2, 0x8182
  bne a3, t2, fail
  sub a3, a2, a1
  li t2, 4
  bne a3, t2, fail
  mv a2, a1
  .insn i 0x0B, 1, a3, a2, 2      # p.lh a3, 2(a2!)
  li t2, -3084
  bne a3, t2, fail
  .insn i 0x0B, 4, a3, a2, 1      # p.lbu a3, 1(a2!)
  li t2, 0x82
  bne a3, t2, fail
  .insn r 0x03, 7, 0x10, a3, a1, x0  # p.lw a3, x0(a1)
  bne a3, t0, fail
  .insn s 0x2B, 0, t0, -1(a2)     # p.sb t0, -1(a2!) at +3
  lw a3, 0(a1)
  li t2, 0xF482F3F4
  bne a3, t2, fail
  sub a3, a2, a1
  li t2, 2
  bne a3, t2, fail
  li a4, 8
  .insn r 0x2B, 6, 0, a4, a1, t0  # p.sw t0, a4(a1!)
  lw a3, -8(a1)
  bne a3, t0, fail
  sw zero, 0(a1)
  li a4, 2
  .insn r 0x23, 5, 0, a4, a1, t0  # p.sh t0, a4(a1)
  lw a3, 0(a1)
  li t2, 0xF3F40000
  bne a3, t2, fail
  lw a3, 1(a1)                    # misaligned: the core splits it
  li t2, 0xF3F400
  lhu a4, 5(a1)
  bne a3, t2, fail
  li a0, 0
  j done
fail: li a0, 1
done:""")
        == 0
    )


def test_hardware_loops_nest_without_overhead() -> None:
    source = """
  li a0, 0
  li a2, 0
  li t2, 7
  csrr a3, mcycle
  .option push
  .option norvc
  .insn i 0x7B, 4, x1, t2, 8       # lp.setup 1, t2: ends 16 bytes on
  .insn i 0x7B, 5, x0, x4, 50      # lp.setupi 0, 50: ends 8 bytes on
  addi a0, a0, 1
  addi a2, a2, 1
  addi a0, a0, 2
  .option pop
  csrr a4, mcycle
  sub a4, a4, a3
  li t0, 7 * 50 + 2 * 7
  bne a0, t0, 1f
  mv a0, a4
  j 2f
1: li a0, 0
2:"""
    # 7 * (setupi + 100 + 1), the setup and one csrr
    assert exits(source, free_fetch=True) == 7 * 102 + 2


@pytest.mark.parametrize(
    ("code", "cycles"),
    [
        ("fadd.s a1, a1, a2; fadd.s a1, a1, a2", 2),
        ("fmadd.s a1, a1, a2, a3; fmul.s a1, a1, a2", 2),
        (".insn r 0x33, 2, 0x48, a1, a2, a3; .insn r 0x33, 0, 0x4b, a1, a2, a3", 2),
        ("fdiv.s a1, a1, a2", 14),
        ("fsqrt.s a1, a1", 14),
        ("fdiv.h a1, a1, a2", 10),
        ("mul a1, a1, a2; addi a3, a3, 1", 3),
        ("mul a1, a1, a2; addi a1, a1, 1", 4),
        ("li a2, 3; div a1, a1, a2", 1 + 33),
        ("li a2, 1; div a1, a1, a2", 1 + 34),
        ("li a2, -300; div a1, a1, a2", 1 + 26),
        ("mulh a1, a1, a2; addi a3, a3, 1", 6),
        ("lw a1, 0(s0); addi a2, a2, 1", 2),
        ("lw a1, 0(s0); addi a1, a1, 1", 3),
        ("lw a1, 0(s1)", 15),
        ("sw a1, 0(s1)", 15),
        ("beqz x0, 9f; 9:", 3),
        ("bnez x0, 9f; 9:", 1),
        ("elw zero, 0x21c, s2", 5),
    ],
)
def test_timing(code: str, cycles: int) -> None:
    body = code.replace(";", "\n  ")
    source = f"""
  li s0, 0x10000000
  li s1, 0x1C080000
  li s2, EU
  csrr s3, mcycle
  {body}
  csrr s4, mcycle
  sub a0, s4, s3
"""
    assert exits(source, free_fetch=True) == cycles + 1


def test_shared_floating_point_units() -> None:
    """Eight cores on four units: two cycles each, and no core starves."""
    body = "  fmadd.s a1, a2, a3, a1\n" * 200
    source = f"""
main:
  li s2, EU
  elw zero, 0x21c, s2
  csrr s3, mcycle
{body}
  csrr s4, mcycle
  sub s4, s4, s3
  slli t0, a0, 2
  li t1, 0x10000000
  add t1, t1, t0
  sw s4, 0(t1)
  elw zero, 0x21c, s2
  bnez a0, .
  li t1, 0x10000000
  lw a1, 0(t1)
  lw a2, 16(t1)
  slli a2, a2, 16
  or a0, a1, a2
  exit_with a0
"""
    code = run(
        source.replace("bnez a0, .", "bnez a0, 1f") + "1: elw zero, 0x21c, s2\n", cores=8, free_fetch=True
    ).exit_code
    assert 395 <= (code & 0xFFFF) <= 405
    assert 395 <= (code >> 16) <= 405


def test_bank_conflicts() -> None:
    """Eight cores that load from one bank get one access a cycle between them."""
    loads = "  lw a1, 0(s1)\n" * 100
    source = f"""
main:
  li s2, EU
  li s1, 0x10000000
  {{shift}}
  elw zero, 0x21c, s2
  csrr s3, mcycle
{loads}
  elw zero, 0x21c, s2
  csrr s4, mcycle
  sub s4, s4, s3
  bnez a0, 1f
  mv a0, s4
  exit_with a0
1: elw zero, 0x21c, s2
"""
    together = run(source.replace("{shift}", ""), cores=8, free_fetch=True).exit_code
    apart = run(
        source.replace("{shift}", "slli t0, a0, 2\n  add s1, s1, t0"), cores=8, free_fetch=True
    ).exit_code
    assert 800 <= together <= 830
    assert 100 <= apart <= 115


def test_counters_and_counter_csrs() -> None:
    source = """
main:
  li s0, 0x10000000
  li t0, 0x7
  csrw 0xCC0, t0
  csrw 0x79F, x0
  li t1, 10
1: lw a1, 0(s0)
  addi a1, a1, 1
  addi t1, t1, -1
  bnez t1, 1b
  csrr a1, 0x780
  csrr a2, 0x781
  csrr a0, 0x782
  slli a2, a2, 8
  or a0, a0, a2
  exit_with a0
"""
    result = run(source)
    assert result.exit_code & 0xFF == 10  # load-use stalls
    assert 41 <= result.exit_code >> 8 <= 43  # instructions
    core, host = result.cores[0], result.cores[-1]
    assert core.load_use_stalls == 10
    assert (core.taken_branches, core.branches) == (9 + 1, 10 + 1)
    assert host.asleep_cycles == 0 and result.mips > 0
    assert sum(c.instructions for c in result.cores) == result.instructions


def test_caches_off_cost_a_refill_for_each_line() -> None:
    body = "  addi a1, a1, 1\n" * 64  # compressed: 8 lines of 16 bytes
    source = f"""
  li t0, 0x10201400
  sw x0, 0(t0)
  csrr s3, mcycle
{body}
  csrr s4, mcycle
  sub a0, s4, s3
"""
    assert 64 + 80 <= exits(source) <= 64 + 110


def test_traps() -> None:
    source = """
  la t0, handler
  csrw mtvec, t0
  li a0, 0
  ecall
  j out
  .balign 4
handler:
  csrr a0, mcause
  csrr t1, mepc
  addi t1, t1, 4
  csrw mepc, t1
  mret
out:"""
    assert exits(source) == 11


STOPS = {
    "unmapped": (
        "li t0, 0x30000000\n lw a0, 0(t0)",
        r"load from 0x30000000, where nothing is mapped: core 0 at pc 0x1c01\w+ \(main\+0x\w+\), cycle \d+",
    ),
    "store": ("li t0, 0x1C200000\n sw a0, 0(t0)", "store to 0x1c200000, where nothing is mapped"),
    "misaligned": ("li t0, EU\n lw a0, 2(t0)", "misaligned device register"),
    "illegal": (".word 0xFFFFFFFF", "illegal instruction 0xffffffff: core 0 at pc"),
    "zero": (".2byte 0", "illegal instruction 0x"),
    "jump": ("li t0, 0x100\n jr t0", "jump to 0x00000100, which is not memory"),
    "csr": ("csrr a0, 0x5C0", "CSR 0x5c0 does not exist"),
    "ebreak": ("ebreak", "ebreak with no trap handler"),
    "register": ("li t0, REDMULE\n sw a0, 0x20(t0)", "no RedMulE register"),
    "deadlock": (
        "li t0, EU\n elw zero, 0x3c, t0",
        "deadlock at cycle .*: every core waits and no engine is at work: core 0",
    ),
    "gate": ("li t0, 0x1A102480\n sw a0, 0(t0)", "clock gate"),
}


@pytest.mark.parametrize("name", STOPS)
def test_stops(name: str) -> None:
    code, message = STOPS[name]
    with pytest.raises(SimulationError, match=message) as error:
        run("main:\n" + code + "\n")
    assert "\n" not in str(error.value)
    assert error.value.partial is not None and error.value.partial.cycles > 0


def test_cycle_limit() -> None:
    with pytest.raises(SimulationError, match="cycle limit of 5000 reached"):
        run("main: j main\n", max_cycles=5000)


def test_output_is_delivered_by_line() -> None:
    lines: list[str] = []
    source = """
main:
  la a1, text
  li t0, 0x1A10F000
1: lbu t1, 0(a1)
  beqz t1, 2f
  sb t1, 0(t0)
  addi a1, a1, 1
  j 1b
2: li a0, 3
  exit_with a0
  .data
text: .asciz "one\\ntwo\\nthr"
"""
    assert run(source, stdout=lines.append).exit_code == 3
    assert lines == ["one\n", "two\n", "thr"]
    assert run(source).stdout == "one\ntwo\nthr"


def test_semihosting_stays_in_the_work_directory(tmp_path) -> None:
    source = """
main:
  la a1, block
  li a0, 1
  slli x0, x0, 31
  ebreak
  srai x0, x0, 7
  exit_with a0
  .data
  .balign 4
block: .word name, 0, 9
name: .asciz "../secret"
"""
    source = source.replace("  slli", "  .option norvc\n  slli")
    with pytest.raises(SimulationError, match=r'"\.\./secret" is outside of the work directory'):
        run(source, workdir=tmp_path)
    with pytest.raises(TrainDeeployError, match="does not exist"):
        run(source, workdir=tmp_path / "none")


def test_a_file_ends_within_the_run(tmp_path) -> None:
    """What is left of it goes into a full pipe while the reader, a thread of this interpreter, can run."""
    source = """
  .macro semihosting operation, argument
  la a1, \\argument
  li a0, \\operation
  .option push
  .option norvc
  .balign 4
  slli x0, x0, 31
  ebreak
  srai x0, x0, 7
  .option pop
  .endm
main:
  semihosting 1, file
  la a1, piece
  sw a0, 0(a1)
  li s0, 100
1: semihosting 5, piece
  addi s0, s0, -1
  bnez s0, 1b
  li a0, 0
  exit_with a0
  .data
  .balign 4
file: .word name, 5, 3
piece: .word 0, bytes, 2001
name: .asciz "out"
bytes: .zero 2001
"""
    received = bytearray()

    def take(data: bytes) -> None:
        time.sleep(0.01)
        received.extend(data)

    with Sink(tmp_path / "out", take), open(tmp_path / "out", "r+b", buffering=0) as pipe:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
        assert run(source, workdir=tmp_path).exit_code == 0
    assert received == bytes(100 * 2001)


def test_errors_before_the_run(tmp_path) -> None:
    simulator = Simulator(load_target("pulp"))
    (tmp_path / "text").write_text("no program")
    with pytest.raises(TrainDeeployError, match=r"not a 32-bit little-endian RISC-V ELF|truncated"):
        simulator.run(tmp_path / "text", tmp_path)
    with pytest.raises(TrainDeeployError, match="cannot open"):
        simulator.run(tmp_path / "none", tmp_path)


def test_two_runs_are_equal(tmp_path) -> None:
    source = """
main:
  li s0, 0x10000000
  slli t0, a0, 5
  add s0, s0, t0
  li t1, 300
1: lw a1, 0(s0)
  fadd.s a1, a1, a1
  sw a1, 4(s0)
  mul a2, a1, a1
  addi t1, t1, -1
  bnez t1, 1b
  li t1, EU
  elw zero, 0x21c, t1
  bnez a0, 2f
  exit_with a0
2: elw zero, 0x21c, t1
"""
    simulator, elf = Simulator(load_target("pulp-redmule")), build(source, cores=8)
    first, second = (simulator.run(elf, tmp_path) for _ in range(2))
    assert (first.cycles, first.instructions, first.cores) == (
        second.cycles,
        second.instructions,
        second.cores,
    )


def test_progress_and_interrupt(tmp_path) -> None:
    seen: list[int] = []

    def stop(cycle: int) -> None:
        seen.append(cycle)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("main: j main\n", on_progress=stop, max_cycles=10**12)
    assert len(seen) == 1 and seen[0] > 0


def test_control_c() -> None:
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run("main: j main\n", max_cycles=10**12)
    timer.join()
