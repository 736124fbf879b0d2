"""The runtime on the simulator: data movement, overlap, counters, errors; and the toolchain's bytes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime_tools import ADD_ONE, llvm_ir, random_array, run, target_with
from traindeeploy.errors import TrainDeeployError
from traindeeploy.program import execute
from traindeeploy.sim import SimulationError
from traindeeploy.target import load_target
from traindeeploy.toolchain import Elf, ProgramTooLarge, build_elf

L1, L2 = 0x1000_4000, 0x1C04_0000


def memref(shape: tuple[int, ...], level: int, element: str = "f32") -> str:
    return f"memref<{'x'.join(map(str, shape))}x{element}, #l{level}>"


def listed(values: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, values))}]"


def window(offsets: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))


WINDOWS = [
    # shape, offsets, sizes
    ((1,), (0,), (1,)),
    ((37,), (5,), (31,)),
    ((13, 17), (2, 3), (7, 11)),
    ((13, 17), (0, 16), (13, 1)),
    ((13, 17), (4, 0), (5, 17)),
    ((5, 7, 11), (1, 2, 3), (3, 4, 5)),
    ((5, 7, 11), (1, 0, 3), (3, 7, 5)),
    ((9, 7, 11), (0, 1, 0), (9, 1, 11)),
    ((3, 4, 5, 6), (1, 1, 1, 1), (2, 3, 3, 4)),
    ((20, 6, 8), (0, 1, 1), (20, 3, 5)),
]


def test_windows_of_any_rank_move_both_ways() -> None:
    """Windows go to L1 and from there into the same window of another array; the rest stays."""
    lines, values = [], {}
    address = L2
    for i, (shape, offsets, sizes) in enumerate(WINDOWS):
        for name in ("from", "to"):
            lines.append(f'%{name}{i} = tile.buffer parameter "{name}{i}" at {address} : {memref(shape, 2)}')
            values[f"{name}{i}"] = random_array(shape, 2 * i + (name == "to"))
            address += 4 * math.prod(shape)
        lines.append(f'%tile{i} = tile.alloc "tile{i}" at {L1 + 0x1000 * i} : {memref(sizes, 1)}')
        types = f"{memref(shape, 2)}, {memref(sizes, 1)}"
        window_text = f"{listed(offsets)} {listed(sizes)}, %tile{i}"
        lines.append(f"%load{i} = tile.copy %from{i} {window_text} load true operator 0 : {types}")
    for i, (shape, offsets, sizes) in enumerate(WINDOWS):
        types = f"{memref(shape, 2)}, {memref(sizes, 1)}"
        window_text = f"{listed(offsets)} {listed(sizes)}, %tile{i}"
        lines.append(f"tile.wait %load{i}")
        lines.append(f"%store{i} = tile.copy %to{i} {window_text} load false operator 0 : {types}")
    body = "\n".join(lines)
    outcome = run(
        f'tile.program @p target "t" {{ tile.operator "o" predicted [0, 0, 0, 0]\n{body}\n}}', values
    )
    for i, (_, offsets, sizes) in enumerate(WINDOWS):
        expected = values[f"to{i}"].copy()
        expected[window(offsets, sizes)] = values[f"from{i}"][window(offsets, sizes)]
        np.testing.assert_array_equal(outcome.values[f"to{i}"], expected)
        np.testing.assert_array_equal(outcome.values[f"from{i}"], values[f"from{i}"])
    # Each transfer is accounted to its operator; the copies of the table are not.
    assert outcome.operators[0]["dma"] > 0


def test_more_bytes_than_a_command_moves() -> None:
    target = target_with(memory__l1__size=0x8_0000)
    shape = (3, 100_003 // 3)
    type2, type1 = memref(shape, 2), memref(shape, 1)
    values = {"a": random_array(shape, 0), "b": random_array(shape, 1)}
    outcome = run(
        f"""tile.program @p target "t" {{
          tile.operator "o" predicted [0, 0, 0, 0]
          %a = tile.buffer parameter "a" at {L2} : {type2}
          %b = tile.buffer parameter "b" at {L2 + 0x8_0000} : {type2}
          %t = tile.alloc "t" at {L1} : {type1}
          %0 = tile.copy %a [0, 0] {listed(shape)}, %t load true operator 0 : {type2}, {type1}
          tile.wait %0
          %1 = tile.copy %b [0, 0] {listed(shape)}, %t load false operator 0 : {type2}, {type1}
        }}""",
        values,
        target=target,
    )
    np.testing.assert_array_equal(outcome.values["b"], values["a"])


def test_l3_both_ways_and_larger_than_the_window() -> None:
    """Parameters in L3 arrive from the feed; windows of them move to L2, L1 and back; all is saved."""
    shape, offsets, sizes = (301, 257), (100, 3), (99, 250)
    type3, type2, type1 = memref(shape, 3), memref(sizes, 2), memref(sizes, 1)
    values = {"a": random_array(shape, 0), "b": random_array(shape, 1)}
    place = f"{listed(offsets)} {listed(sizes)}"
    outcome = run(
        f"""tile.program @p target "t" {{
          tile.operator "o" predicted [0, 0, 0, 0]
          %a = tile.buffer parameter "a" at 4096 : {type3}
          %b = tile.buffer state "b" at 1048576 : {type3}
          %n = tile.alloc "n" at {L2} : {type2}
          %m = tile.alloc "m" at {L2 + 0x4_0000} : {type2}
          %t = tile.alloc "t" at {L1} : {type1}
          %0 = tile.copy %a {place}, %n load true operator 0 : {type3}, {type2}
          tile.wait %0
          %1 = tile.copy %n [0, 0] {listed(sizes)}, %t load true operator 0 : {type2}, {type1}
          tile.wait %1
          %2 = tile.copy %m [0, 0] {listed(sizes)}, %t load false operator 0 : {type2}, {type1}
          tile.wait %2
          %3 = tile.copy %b {place}, %m load false operator 0 : {type3}, {type2}
        }}""",
        values,
    )
    expected = values["b"].copy()
    expected[window(offsets, sizes)] = values["a"][window(offsets, sizes)]
    np.testing.assert_array_equal(outcome.values["a"], values["a"])
    np.testing.assert_array_equal(outcome.values["b"], expected)
    assert outcome.engines["hyperram"] > 0


OVERLAP = """
tile.program @p target "t" {{
  tile.operator "gemm" predicted [0, 0, 0, 0]
  tile.operator "cores" predicted [0, 0, 0, 0]
  tile.operator "copy" predicted [0, 0, 0, 0]
  %x = tile.buffer input "x" at {x} : memref<48x48xf32, #l2>
  %w = tile.buffer parameter "w" at {w} : memref<48x48xf32, #l2>
  %y = tile.buffer output "y" at {y} : memref<48x48xf32, #l2>
  %big = tile.buffer parameter "big" at {big} : memref<4096xf32, #l2>
  pulp.dma_start slot 0 load true l1 {x1} l2 {x} bytes 9216 operator 0
  pulp.dma_start slot 1 load true l1 {w1} l2 {w} bytes 9216 operator 0
  pulp.dma_start slot 2 load true l1 {y1} l2 {x} bytes 9216 operator 0
  pulp.dma_start slot 3 load true l1 {scratch} l2 {big} bytes 4096 operator 0
  pulp.dma_wait slot 0 operator 0
  pulp.dma_wait slot 1 operator 0
  pulp.dma_wait slot 2 operator 0
  pulp.dma_wait slot 3 operator 0
  pulp.barrier operator 0
  pulp.dma_start slot 0 load true l1 {big1} l2 {big} bytes 16384 operator 2
  redmule.start x {x1} w {w1} z {y1} m 48 n 48 k 48 format f32 operator 0
  pulp.call @add_one [{scratch}, 1024] operator 1
  redmule.wait operator 0
  pulp.dma_start slot 1 load false l1 {y1} l2 {y} bytes 9216 operator 0
  pulp.dma_wait slot 0 operator 2
  pulp.dma_wait slot 1 operator 0
}}
"""
PLACES = {
    "x": L2,
    "w": L2 + 0x4000,
    "y": L2 + 0x8000,
    "big": L2 + 0xC000,
    "x1": L1,
    "w1": L1 + 0x2400,
    "y1": L1 + 0x4800,
    "big1": L1 + 0x8000,
    "scratch": L1 + 0xC000,
}


def overlap_inputs() -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    values = {"w": random_array((48, 48), 1), "big": random_array((4096,), 2)}
    return values, [{"x": random_array((48, 48), 3)}, {"x": random_array((48, 48), 4)}]


def test_engines_overlap_and_are_accounted() -> None:
    values, feeds = overlap_inputs()
    outcome = run(ADD_ONE + OVERLAP.format(**PLACES), values, feeds)
    for feed, output in zip(feeds, outcome.outputs, strict=True):
        x = feed["x"].astype(np.float64)
        np.testing.assert_allclose(output["y"], x + x @ values["w"], atol=2e-5)
    # The second step finds its code in the instruction caches.
    assert 0.9 * outcome.cycles[0] < outcome.cycles[1] < outcome.cycles[0]
    busy = outcome.engines
    assert sum(outcome.cycles) < busy["dma"] + busy["redmule"] + busy["cores"]
    assert busy["dma_hidden"] > 0
    gemm, cores, copy = outcome.operators
    assert gemm["redmule"] == busy["redmule"]
    assert gemm["cores"] == 0 and cores["cores"] > 0
    assert cores["dma"] == 0 and copy["dma"] > 2 * 16384 / 8
    # The operators' time is the step's, but for fetching the table and meeting at the end.
    total = sum(operator["total"] for operator in outcome.operators)
    assert 0 <= sum(outcome.cycles) - total < 2 * 300


@pytest.mark.parametrize("roll", ["never", "always"])
def test_long_tables_are_fetched_in_chunks_and_loops_run(roll: str) -> None:
    """200 calls, each on the next tile, and a counter that is counted up by all of them."""
    calls = "\n".join(
        f"pulp.call @add_one [{L1 + 64 * i}, 16] operator 0\n"
        f"pulp.call @add_one [{L1 + 0x8000}, {i % 2}] operator 0\npulp.barrier operator 0"
        for i in range(200)
    )
    text = f"""{ADD_ONE}
    tile.program @p target "t" {{
      tile.operator "o" predicted [0, 0, 0, 0]
      %a = tile.buffer parameter "a" at {L2} : memref<3200xf32, #l2>
      %n = tile.buffer parameter "n" at {L2 + 0x8000} : memref<4xf32, #l2>
      pulp.dma_start slot 0 load true l1 {L1} l2 {L2} bytes 12800 operator 0
      pulp.dma_start slot 1 load true l1 {L1 + 0x8000} l2 {L2 + 0x8000} bytes 16 operator 0
      pulp.dma_wait slot 0 operator 0
      pulp.dma_wait slot 1 operator 0
      pulp.barrier operator 0
      {calls}
      pulp.dma_start slot 0 load false l1 {L1} l2 {L2} bytes 12800 operator 0
      pulp.dma_start slot 1 load false l1 {L1 + 0x8000} l2 {L2 + 0x8000} bytes 16 operator 0
      pulp.dma_wait slot 0 operator 0
      pulp.dma_wait slot 1 operator 0
    }}"""
    values = {"a": random_array((3200,), 0), "n": np.zeros(4, np.float32)}
    outcome = run(text, values, [{}, {}], roll=roll)
    np.testing.assert_array_equal(outcome.values["a"], values["a"] + np.float32(1) + np.float32(1))
    np.testing.assert_array_equal(outcome.values["n"], [200, 0, 0, 0])
    per_call = (max(outcome.cycles) - 2000) / 400
    assert per_call < 150  # three records: two calls on 16 and 1 elements, one barrier


def test_constants_and_halves() -> None:
    """Constants are placed by the host; buffers of no whole number of words keep their neighbours."""
    outcome = run(
        f"""tile.program @p target "t" {{
          tile.operator "o" predicted [0, 0, 0, 0]
          %c = tile.buffer constant "c" at {L2} init dense<[1.5, -2.0, 3.0]> : tensor<3xf32>
             : memref<3xf32, #l2>
          %o = tile.buffer output "o" at {L2} : memref<3xf32, #l2>
          %h = tile.buffer parameter "h" at {L2 + 64} : memref<3xf16, #l2>
          %i = tile.buffer parameter "i" at {L2 + 70} : memref<1xf16, #l2>
        }}""",
        {"h": np.array([1, 2, 3], np.float16), "i": np.array([4], np.float16)},
        check=False,  # the output is where the constant is, and nobody writes it
    )
    np.testing.assert_array_equal(outcome.outputs[0]["o"], [1.5, -2.0, 3.0])
    np.testing.assert_array_equal(outcome.values["h"], [1, 2, 3])
    np.testing.assert_array_equal(outcome.values["i"], [4])


def program_that_executes(assembly: str) -> str:
    return f"""
    llvm.func @bad(%args: !llvm.ptr, %core: i32) {{
      llvm.inline_asm has_side_effects "{assembly}", "" : () -> ()
      llvm.return
    }}
    tile.program @p target "t" {{
      tile.operator "o" predicted [0, 0, 0, 0]
      pulp.call @bad [] operator 0
    }}"""


def test_illegal_instruction_is_reported_with_its_place() -> None:
    with pytest.raises(SimulationError, match=r"illegal instruction.*bad"):
        run(program_that_executes(".word 0xffffffff"))


def test_trap_is_reported() -> None:
    with pytest.raises(
        TrainDeeployError, match=r"a core trapped: trap: core 0000000\d cause 0000000b pc 1c01"
    ):
        run(program_that_executes("ecall"))


def test_loss_that_is_not_finite_ends_the_run() -> None:
    # The loss is where the input is.
    text = f"""tile.program @p target "t" {{
      tile.operator "o" predicted [0, 0, 0, 0]
      %x = tile.buffer input "x" at {L2} : memref<f32, #l2>
      %loss = tile.buffer output "loss" at {L2} : memref<f32, #l2>
    }}"""
    target = load_target("pulp-redmule")
    elf = build_elf(llvm_ir(text, target), target)
    feeds = [{"x": np.asarray(value, np.float32)} for value in (1.5, float("nan"), 2.0)]
    with pytest.raises(TrainDeeployError, match="the loss is not finite at step 2 of 3"):
        execute(elf, target, {}, feeds, check=False)
    seen: list[tuple[int, float]] = []
    two = [feeds[0], feeds[2]]
    execute(elf, target, {}, two, finished=lambda step, loss: seen.append((step, loss)), check=False)
    assert seen == [(0, 1.5), (1, 2.0)]

    def stop(step: int, loss: float) -> None:
        raise TrainDeeployError(f"enough after {step}")

    with pytest.raises(TrainDeeployError, match="enough after 0"):
        execute(elf, target, {}, feeds, finished=stop, check=False)
    with pytest.raises(TrainDeeployError, match="input 'x' is missing"):
        execute(elf, target, {}, [{}])
    with pytest.raises(TrainDeeployError, match=r"input 'x' is float64 of shape \(2,\)"):
        execute(elf, target, {}, [{"x": np.zeros(2)}])
    with pytest.raises(TrainDeeployError, match="unknown simulator 'qemu'"):
        execute(elf, target, {}, [], simulator="qemu")


def test_same_bytes_in_any_folder_with_any_hash_seed(tmp_path: Path) -> None:
    target = load_target("pulp-redmule")
    text = llvm_ir(ADD_ONE + OVERLAP.format(**PLACES), target)
    (tmp_path / "module.ll").write_text(text)
    script = (
        "import sys\nfrom traindeeploy.toolchain import build_elf\n"
        "from traindeeploy.target import load_target\n"
        "sys.stdout.buffer.write(build_elf(open(sys.argv[1]).read(), load_target('pulp-redmule')))"
    )
    other = tmp_path / "another folder"
    other.mkdir()
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TMPDIR": str(other), "HOME": "/nonexistent"}
    arguments = [sys.executable, "-c", script, str(tmp_path / "module.ll")]
    elf = subprocess.run(arguments, env=environment, cwd=other, capture_output=True, check=True).stdout
    assert elf == build_elf(text, target)
    assert str(other).encode() not in elf
    assert Elf(elf).symbols["add_one"] >= 0x1C01_0000
    assert list(other.iterdir()) == []


def test_code_that_does_not_fit_is_refused() -> None:
    small = target_with(runtime__l2_reserved=2048)
    with pytest.raises(ProgramTooLarge, match=r"need \d+ bytes of L2, and the arrays leave 2048") as caught:
        build_elf(llvm_ir(program_that_executes("nop"), small), small)
    assert caught.value.needed > 2048


def test_stack_that_is_too_small_is_refused() -> None:
    small = target_with(runtime__core_stack=64)
    with pytest.raises(TrainDeeployError, match=r"needs \d+ bytes of stack, and a core has 64"):
        build_elf(llvm_ir(program_that_executes("nop"), small), small)


def test_compiler_errors_are_one_line() -> None:
    with pytest.raises(TrainDeeployError, match=r"compiling kernels failed: .*error") as caught:
        build_elf("this is no module", load_target("pulp-redmule"))
    assert "\n" not in str(caught.value)
