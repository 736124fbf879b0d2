"""Checked execution: programs that do what is wrong stop, and say who did what, where."""

from __future__ import annotations

import re

import numpy as np
import pytest

import runtime_tools
from runtime_tools import ADD_ONE, llvm_ir
from sim_tools import run
from test_sim_devices import (
    EVENT,
    HYPER,
    INCREMENT,
    L1,
    L2,
    REDMULE_SETUP,
    SETUP,
    TO_L1,
    TWO_D,
    WAIT_DMA,
    WAIT_REDMULE,
    dma,
    hyper,
    redmule_job,
)
from traindeeploy.memory_map import Array, MemoryMap
from traindeeploy.program import execute
from traindeeploy.sim import RunResult, SimulationError
from traindeeploy.target import load_target
from traindeeploy.toolchain import build_elf

FP32 = 0x482
END = "  li a0, 0\n  exit_with a0\n"


def fill(address: int, size: int) -> str:
    """Stores words to `size` bytes."""
    return f"""
  li t1, {address}
  li t2, {address + size}
6:sw zero, 0(t1)
  addi t1, t1, 4
  bltu t1, t2, 6b
"""


def stopped(body: str, check: MemoryMap | bool = True, **options) -> str:
    """The message that stops a program, which runs to its end unchecked."""
    with pytest.raises(SimulationError) as caught:
        run(f"main:\n{body}{END}", check=check, **options)
    return str(caught.value)


def finishes(body: str, check: MemoryMap | bool = True, **options) -> RunResult:
    result = run(f"main:\n{body}{END}", check=check, **options)
    assert result.exit_code == 0
    return result


def map_of(*arrays: tuple[str, int, int], stacks: tuple[tuple[int, int], ...] = ()) -> MemoryMap:
    """A map in which the lower half of L1 and the upper half of L2 hold these arrays only."""
    return MemoryMap(
        planned=((1, L1, 0x1_0000), (2, L2, 0x4_0000), (3, 0, 0x200_0000)),
        arrays=tuple(
            Array(name, 2 if address >= L2 else 1 if address >= L1 else 3, address, size, role="input")
            for name, address, size in arrays
        ),
        stacks=stacks,
    )


PLACE = r": core 0 at pc 0x1c01\w+ \(main\+0x\w+\), cycle \d+$"


def test_a_core_reads_what_nothing_wrote() -> None:
    message = stopped(f"  li a1, {L1 + 64}\n  lw a2, 0(a1)\n")
    assert re.search(r"^a core reads 4 bytes at 0x10000040 in L1, which nothing wrote" + PLACE, message)
    # One byte of four.
    part = f"  li a1, {L1}\n  sh zero, 0(a1)\n  sb zero, 2(a1)\n"
    assert "reads 4 bytes" in stopped(part + "  lw a2, 0(a1)\n")
    assert "reads 1 byte at" in stopped(part + "  lb a2, 3(a1)\n")
    finishes(part + "  lhu a2, 0(a1)\n  lb a2, 2(a1)\n")
    # Misaligned, post-incremented, in L2, and what the program brings with it.
    assert "reads 4 bytes at 0x10000001" in stopped(part + "  lw a2, 1(a1)\n")
    assert "reads 4 bytes" in stopped(f"  li a1, {L1}\n  .insn i 0x0b, 2, a2, 4(a1)\n")
    assert f"at {L2:#x} in L2" in stopped(f"  li a1, {L2}\n  lw a2, 0(a1)\n")
    finishes("  la a1, data\n  lw a2, 0(a1)\n  j 1f\n  .data\ndata:\n  .word 1\n  .text\n1:\n")


def test_a_core_leaves_its_buffers() -> None:
    check = map_of(("left", L1, 64), ("right", L1 + 128, 64), ("far", L2, 64))
    finishes(fill(L1, 64) + fill(L1 + 128, 64) + fill(L2, 64), check)
    message = stopped(fill(L1, 68), check)
    assert re.search(r"^a core writes 4 bytes at 0x10000040 in L1, outside of every buffer" + PLACE, message)
    # Half of it in the buffer.
    assert "outside" in stopped(f"  li a1, {L1 + 62}\n  sw zero, 0(a1)\n", check)
    assert "outside" in stopped(f"  li a1, {L2 - 4}\n  sw zero, 68(a1)\n", check)
    # Not the plan's: the program's own data and stack.
    finishes(f"  addi sp, sp, -16\n  sw a0, 4(sp)\n  li a1, {L2 - 4}\n  sw a0, 0(a1)\n", check)


def test_a_core_meets_a_dma_transfer() -> None:
    into = SETUP + fill(L2, 256) + dma(256 | TO_L1 | INCREMENT | EVENT, L1, L2)
    after = f"  li a1, {L1 + 8}\n  lw a2, 0(a1)\n"
    message = stopped(into + after + WAIT_DMA)
    assert re.search(
        r"^a core reads 4 bytes at 0x10000008 in L1, which a DMA transfer in flight since cycle \d+ writes"
        + PLACE,
        message,
    )
    assert "a core writes 4 bytes" in stopped(into + f"  li a1, {L1}\n  sw zero, 0(a1)\n" + WAIT_DMA)
    # It may read what the transfer reads, not write it.
    finishes(into + f"  li a1, {L2}\n  lw a2, 0(a1)\n" + WAIT_DMA)
    assert "which a DMA transfer" in stopped(into + f"  li a1, {L2}\n  sw zero, 0(a1)\n" + WAIT_DMA)
    # Long after its end, as nobody has waited for it.
    sleep = "  li t1, 1000\n5:addi t1, t1, -1\n  bnez t1, 5b\n"
    assert "in flight" in stopped(into + sleep + after + WAIT_DMA)
    finishes(into + WAIT_DMA + after)
    # Between the lines of a transfer is nothing of it.
    lines = SETUP + fill(L1, 64) + dma(64 | INCREMENT | TWO_D | EVENT, L1, L2, 16, 64)
    finishes(lines + f"  li a1, {L2 + 16}\n  sw zero, 0(a1)\n" + WAIT_DMA)
    assert "in flight" in stopped(lines + f"  li a1, {L2 + 64 + 12}\n  sw zero, 0(a1)\n" + WAIT_DMA)


def test_dma_transfers() -> None:
    into = dma(256 | TO_L1 | INCREMENT | EVENT, L1, L2)
    message = stopped(SETUP + fill(L2, 252) + into + WAIT_DMA)
    assert re.search(
        r"^a DMA transfer reads its L2 side, 4 bytes at 0x1c0800fc in L2, which nothing wrote" + PLACE,
        message,
    )
    # Two that meet.
    prepare = SETUP + fill(L2, 256)
    out = dma(16 | INCREMENT | EVENT, L1 + 248 - 8, L2 + 512)
    assert "which a DMA transfer in flight" in stopped(prepare + into + "  mv s4, s3\n" + out + WAIT_DMA)
    same = into + "  mv s4, s3\n" + dma(64 | TO_L1 | INCREMENT | EVENT, L1 + 1024, L2)
    finishes(prepare + same + WAIT_DMA + "  mv s3, s4\n" + WAIT_DMA)
    # Both have read the same bytes, and only one is waited for.
    write = f"  li a1, {L2}\n  sw zero, 0(a1)\n"
    assert "reads" in stopped(prepare + same + WAIT_DMA + write)
    # Out of its buffer, on either side.
    data = prepare + into + WAIT_DMA
    finishes(data, map_of(("tile", L1, 256), ("array", L2, 256)))
    message = stopped(data, map_of(("tile", L1, 252), ("array", L2, 256)))
    assert re.search(
        r"^a DMA transfer writes its L1 side, 256 bytes at 0x10000000 in L1, buffer 'tile', outside of the "
        r"buffer that it has there" + PLACE,
        message,
    )
    # Across two buffers.
    split = map_of(("tile", L1, 256), ("a", L2, 128), ("b", L2 + 128, 128))
    assert "buffer 'a', outside of the buffer" in stopped(data, split)


def test_redmule_and_the_others() -> None:
    m, n, k = 5, 7, 3
    x, w, y = L1, L1 + 0x400, L1 + 0x800
    prepare = REDMULE_SETUP + fill(x, 4 * m * n) + fill(w, 4 * n * k) + fill(y, 4 * m * k)
    job = redmule_job(FP32, x, w, y, m, n, k)
    # Lanes that the accelerator drops lie beyond the operands: nothing wrote them.
    finishes(prepare + job + WAIT_REDMULE + f"  li a1, {y}\n  lw a2, 0(a1)\n")
    for operand, address, name in (("X", x, "reads"), ("W", w, "reads"), ("Y", y, "reads and writes")):
        sizes = {x: m * n, w: n * k, y: m * k}
        missing = "".join(fill(a, 4 * size - (4 if a == address else 0)) for a, size in sizes.items())
        message = stopped(REDMULE_SETUP + missing + job + WAIT_REDMULE)
        assert re.search(
            rf"^RedMulE {name} its {operand}, 4 bytes at \w+ in L1, which nothing wrote", message
        )
    # Cores beside it.
    finishes(prepare + job + f"  li a1, {x}\n  lw a2, 0(a1)\n" + WAIT_REDMULE)
    message = stopped(prepare + job + f"  li a1, {w}\n  sw a2, 0(a1)\n" + WAIT_REDMULE)
    assert re.search(
        r"^a core writes 4 bytes at 0x10000400 in L1, which RedMulE in flight since cycle \d+ reads" + PLACE,
        message,
    )
    assert "which RedMulE" in stopped(prepare + job + f"  li a1, {y}\n  lw a2, 0(a1)\n" + WAIT_REDMULE)
    # The DMA beside it, and before it.
    dma_in = SETUP.replace("1 << 8", "1 << 8 | 1 << 12") + fill(L2, 256)
    load = dma(64 | TO_L1 | INCREMENT | EVENT, x, L2)
    message = stopped(prepare + dma_in + job + load + WAIT_DMA + WAIT_REDMULE)
    assert "a DMA transfer writes its L1 side, 1 byte at 0x10000000 in L1, which RedMulE" in message
    message = stopped(prepare + dma_in + load + job + WAIT_DMA + WAIT_REDMULE)
    assert "RedMulE reads its X, 1 byte at 0x10000000 in L1, which a DMA transfer" in message
    # Operands that overlap, and one outside of its buffer.
    message = stopped(prepare + redmule_job(FP32, x, w, w, n, 1, k) + WAIT_REDMULE)
    assert "which it reads as its W" in message
    check = map_of(("x", x, 4 * m * n), ("w", w, 4 * n * k - 4), ("y", y, 4 * m * k), ("rest", w + 128, 64))
    assert "outside" in stopped(prepare.replace(fill(w, 4 * n * k), fill(w, 4 * n * k - 4)) + job, check)


def test_udma_transfers() -> None:
    there = HYPER + fill(L2, 128) + hyper(True, L2, 0x1000, 128)
    back = hyper(False, L2 + 256, 0x1000, 128)
    finishes(there + back + f"  li a1, {L2 + 256}\n  lw a2, 0(a1)\n")
    message = stopped(there + hyper(False, L2 + 256, 0x1004, 128))
    assert re.search(
        r"^a uDMA transfer reads its L3 side, 4 bytes at 0x00001080 in L3, which nothing wrote" + PLACE,
        message,
    )
    started = back.split("9:")[0]
    message = stopped(there + started + f"  li a1, {L2 + 256}\n  lw a2, 0(a1)\n")
    assert re.search(
        r"a core reads 4 bytes at 0x1c080100 in L2, which a uDMA transfer in flight .* writes", message
    )
    check = map_of(("l3", 0x1000, 128), ("a", L2, 128), ("b", L2 + 256, 64))
    assert "outside of the buffer" in stopped(there + back, check)


def test_waits_that_no_job_answers() -> None:
    wait = "  elw zero, 0x3c, s0\n"
    message = stopped(SETUP + "  li t1, 1 << 8\n  sw t1, 0(s0)\n" + wait)
    assert re.search(r"^a core waits for the DMA, and nothing will end the wait" + PLACE, message)
    assert "a core waits for RedMulE, and nothing" in stopped(
        REDMULE_SETUP + "  li t1, 1 << 12\n  sw t1, 0(s0)\n" + wait
    )
    # A transfer that raises no event.
    silent = SETUP + fill(L2, 64) + "  li t1, 1 << 8\n  sw t1, 0(s0)\n"
    assert "waits for the DMA" in stopped(silent + dma(64 | TO_L1 | INCREMENT, L1, L2) + wait)
    # Identifiers.
    assert "identifier 3 is waited for and freed, and no transfer has it" in stopped(
        SETUP + "  li t1, 1 << 3\n  sw t1, 4(s1)\n"
    )
    freed = SETUP + fill(L2, 64) + dma(64 | TO_L1 | INCREMENT | EVENT, L1, L2)
    assert "identifier 0 is freed, and its transfer is in flight" in stopped(
        freed + "  li t1, 1\n  sw t1, 4(s1)\n"
    )
    # The second event of RedMulE's last job.
    job = REDMULE_SETUP + fill(L1, 64) + redmule_job(FP32, L1, L1 + 16, L1 + 32, 1, 1, 1)
    only = "  li t1, 1 << 12\n  sw t1, 0(s0)\n"
    assert "ends by an old event" in stopped(job + only + WAIT_REDMULE + "  nop\n" * 9 + wait)
    # Engines that are started again, luckily after their end.
    later = "  li t1, 9999\n5:addi t1, t1, -1\n  bnez t1, 5b\n"
    again = redmule_job(FP32, L1, L1 + 16, L1 + 32, 1, 1, 1)
    assert "RedMulE is triggered, and nobody has waited" in stopped(job + later + again + WAIT_REDMULE)
    started = hyper(True, L2, 0, 64).split("9:")[0]
    message = stopped(HYPER + fill(L2, 64) + started + later + started)
    assert "uDMA HyperRAM channel 0 is triggered, and nobody has waited" in message
    # A barrier that a core never comes to, while the host would wait for ever.
    barrier = "  li s0, EU\n  beqz a0, 7f\n  li t1, 1 << 8\n  sw t1, 0(s0)\n7:elw zero, 0x21c, s0\n"
    message = stopped(barrier, cores=2)
    assert re.search(
        r"a core waits (at a barrier|for the DMA), and nothing will end the wait: core [01]", message
    )
    # What does end: an event of another core, a barrier, a transfer.
    software = "  li s0, EU\n  bnez a0, 7f\n  li t1, 2\n  sw t1, 0(s0)\n  elw zero, 0x3c, s0\n  j 8f\n"
    software += (
        "7:li t1, 300\n6:addi t1, t1, -1\n  bnez t1, 6b\n  li t1, 1\n  sw t1, 0x104(s0)\n9:wfi\n  j 9b\n8:"
    )
    finishes(software, cores=2)


def test_a_stack_runs_out() -> None:
    recursion = (
        "  li s1, 20\n  call deeper\n"
        + END
        + """
deeper:
  addi sp, sp, -64
  sw ra, 60(sp)
  addi s1, s1, -1
  beqz s1, 1f
  call deeper
1:lw ra, 60(sp)
  addi sp, sp, 64
  ret
"""
    )
    top = 0x10020000 - 256

    def stacks(size: int) -> MemoryMap:
        return MemoryMap(stacks=((top - size, top),))

    finishes(recursion, stacks(20 * 64))
    message = stopped(recursion, stacks(20 * 64 - 4))
    assert re.search(
        r"^the stack of core 0 runs out: sp is 0x\w+, 4 bytes below the stack's end at 0x\w+: core 0 at pc "
        r"0x\w+ \(deeper\), cycle \d+$",
        message,
    )
    assert "popped beyond its start" in stopped("  addi sp, sp, 16\n", stacks(1024))


PROGRAM = """
#array = #tile.memory<l2>
tile.program @p target "t" attributes {{tile.arrays = [
    {{name = "x", role = "input", level = 2, address = {x}, bytes = 160, first = 0, last = 3}},
    {{name = "y", role = "output", level = 2, address = {y}, bytes = 160, first = 6, last = 7}},
    {{name = "a", role = "temporary", level = 1, address = {a}, bytes = 160, first = 0, last = {a_ends}}},
    {{name = "b", role = "temporary", level = 1, address = {b}, bytes = 160, first = 1, last = {b_ends}}},
    {{name = "c", role = "temporary", level = 1, address = {a}, bytes = 160, first = {c_begins}, last = 8}}
  ]}} {{
  tile.operator "first" predicted [0, 0, 0, 0]
  tile.operator "second" predicted [0, 0, 0, 0]
  %x = tile.buffer input "x" at {x} : memref<40xf32, #array>
  %y = tile.buffer output "y" at {y} : memref<40xf32, #array>
  pulp.dma_start slot 0 load true l1 {a} l2 {x} bytes 160 operator 0
  pulp.dma_start slot 1 load true l1 {b} l2 {x} bytes 160 operator 0
  pulp.dma_wait slot 0 operator 0
  pulp.dma_wait slot 1 operator 0
  pulp.barrier operator 0
  pulp.call @add_one [{a}, {n}] operator 1
  pulp.barrier operator 1
  pulp.dma_start slot 0 load false l1 {a} l2 {y} bytes 160 operator 1
  pulp.dma_wait slot 0 operator 1
}}
"""


def compiled(n: int = 40, a_ends: int = 7, b_ends: int = 3) -> bytes:
    """A program whose kernel adds 1 to n elements of 40."""
    a = 0x1000_8000
    places = {"x": 0x1C10_0000, "y": 0x1C10_1000, "a": a, "b": a + 160}
    text = PROGRAM.format(**places, n=n, a_ends=a_ends, b_ends=b_ends, c_begins=a_ends + 1)
    target = load_target("pulp-redmule")
    return build_elf(llvm_ir(ADD_ONE + text, target), target)


def execute_checked(elf: bytes, check: bool | None = True) -> None:
    x = np.arange(40, dtype=np.float32)
    outcome = execute(
        elf, load_target("pulp-redmule"), {}, [{"x": x}, {"x": x}], check=check, max_cycles=10**7
    )
    np.testing.assert_array_equal(outcome.outputs[1]["y"], x + 1)


def test_a_kernel_leaves_the_buffers_of_its_call() -> None:
    execute_checked(compiled())
    # A kernel that goes on behind its tile, into another one.
    for b_ends, buffer in ((8, ", buffer 'b'"), (3, "")):
        elf = compiled(n=48, b_ends=b_ends)
        execute_checked(elf, check=False)
        with pytest.raises(SimulationError) as caught:
            execute_checked(elf)
        assert re.search(
            rf"^a core reads 4 bytes at 0x100080\w\w in L1{buffer}, operator 'second', outside of the "
            r"buffers of its kernel: core \d at pc 0x1c01\w+ \(add_one\+0x\w+\), cycle \d+$",
            str(caught.value),
        )


def test_a_tile_has_no_value_when_its_life_begins() -> None:
    """What lay there before is not the tile's."""
    with pytest.raises(SimulationError) as caught:
        execute_checked(compiled(a_ends=4))
    assert "in L1, buffer 'c', operator 'second', which nothing wrote: core " in str(caught.value)


def test_an_output_that_nothing_writes() -> None:
    text = """tile.program @p target "t" {
      tile.operator "o" predicted [0, 0, 0, 0]
      %y = tile.buffer output "y" at 470810624 : memref<f32, #l2>
    }"""
    with pytest.raises(
        SimulationError, match=r"semihosting: the host core reads 4 bytes .*, which nothing wrote"
    ):
        runtime_tools.run(text)


def test_the_environment_asks_for_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    elf = compiled(n=41)
    for value, wrong in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("TRAINDEEPLOY_CHECK", value)
        if wrong:
            with pytest.raises(SimulationError, match="outside of the buffers of its kernel"):
                execute_checked(elf, check=None)
        else:
            execute_checked(elf, check=None)


def test_checks_change_nothing_else() -> None:
    elf = compiled()
    x = np.arange(40, dtype=np.float32)
    feeds = [{"x": x}, {"x": x}]
    outcomes = [execute(elf, load_target("pulp-redmule"), {}, feeds, check=check) for check in (False, True)]
    assert outcomes[0].cycles == outcomes[1].cycles
    assert outcomes[0].engines == outcomes[1].engines
    assert outcomes[0].operators == outcomes[1].operators
