"""DMA, HyperRAM, RedMulE, events: what they do, how long it takes, and what stops them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from sim_tools import DUMP, run, words
from test_sim_float import RNE, H, S, encode
from traindeeploy import _tdsim
from traindeeploy.errors import TrainDeeployError
from traindeeploy.sim import RunResult, SimulationError
from traindeeploy.target import REDMULE_CODES, Target, load_target, target_names

L1, L2 = 0x10000000, 0x1C080000

WAIT_DMA = """
9:lw t1, 4(s1)
  srl t1, t1, s3
  andi t1, t1, 1
  beqz t1, 8f
  elw zero, 0x3c, s0
  j 9b
8:li t1, 1
  sll t1, t1, s3
  sw t1, 4(s1)
"""


def dma(command: int, l1: int, l2: int, *lines: int) -> str:
    """Takes an id into s3 and enqueues one command."""
    pushes = "".join(f"  li t1, {word}\n  sw t1, 0(s1)\n" for word in (command, l1, l2, *lines))
    return f"  lw s3, 0(s1)\n{pushes}"


TO_L1, INCREMENT, TWO_D, EVENT = 1 << 17, 1 << 18, 1 << 19, 1 << 20
SETUP = "  li s0, EU\n  li s1, DMA\n  li t0, 1 << 8\n  sw t0, 8(s0)\n"


def memory_after(
    tmp_path, body: str, at: int, size: int, data: np.ndarray, **options
) -> tuple[RunResult, bytes]:
    """Runs with `data` at L2 and returns `size` bytes at `at` at the end."""
    loaded = f"""
main:
  la a1, input
  li a2, {L2}
  li a3, {data.nbytes // 4}
1:lw t0, 0(a1)
  sw t0, 0(a2)
  addi a1, a1, 4
  addi a2, a2, 4
  addi a3, a3, -1
  bnez a3, 1b
{body}
  li a1, {at}
  li a2, {size}
{DUMP}
  .data
  .balign 4
input:
{words(data)}
"""
    result = run(loaded, workdir=tmp_path, **options)
    return result, (tmp_path / "out.bin").read_bytes()


@pytest.mark.parametrize(("offset", "size"), [(0, 4096), (2, 1021), (1, 3), (0, 1)])
def test_dma_there_and_back(tmp_path, offset: int, size: int) -> None:
    data = np.random.default_rng(1).integers(0, 1 << 32, 1200, np.uint32)
    back = L2 + 0x10000
    body = (
        SETUP
        + dma(size | TO_L1 | INCREMENT | EVENT, L1 + offset, L2 + offset)
        + WAIT_DMA
        + dma(size | INCREMENT | EVENT, L1 + offset, back)
        + WAIT_DMA
    )
    result, memory = memory_after(tmp_path, body, back, size, data)
    assert memory == data.tobytes()[offset : offset + size]
    assert result.dma["bytes"].tolist() == [size, size]
    assert result.dma["to_l1"].tolist() == [1, 0]
    assert result.dma["l1"].tolist() == [L1 + offset] * 2


def test_dma_two_dimensional(tmp_path) -> None:
    data = np.arange(64 * 48, dtype=np.uint32).reshape(64, 48)
    back = L2 + 0x10000
    # A tile of 10 rows of 12 words into L1, packed, then out into rows of 80 bytes.
    size, line = 10 * 48, 48
    body = (
        SETUP
        + dma(size | TO_L1 | INCREMENT | TWO_D | EVENT, L1, L2 + 4 * (3 * 48 + 5), line, 192)
        + WAIT_DMA
        + dma(size | INCREMENT | TWO_D | EVENT, L1, back, line, 80)
        + WAIT_DMA
    )
    _, memory = memory_after(tmp_path, body, back, 800, data)
    out = np.frombuffer(memory, np.uint32).reshape(10, 20)
    assert (out[:, :12] == data[3:13, 5:17]).all()
    assert (out[:, 12:] == 0).all()


def dma_cycles(body: str) -> int:
    source = f"main:\n{SETUP}  csrr s8, mcycle\n{body}  csrr a0, mcycle\n  sub a0, a0, s8\n  exit_with a0\n"
    return run(source, free_fetch=True).exit_code


def test_dma_timing() -> None:
    """8 bytes a cycle each way at once, and about 30 cycles a transfer with its programming."""
    into = dma(32768 | TO_L1 | INCREMENT | EVENT, L1, L2)
    out = dma(32768 | INCREMENT | EVENT, L1 + 32768, L2 + 65536)
    assert abs(dma_cycles(into + WAIT_DMA) - 4149) < 0.02 * 4149
    assert abs(dma_cycles(out + WAIT_DMA) - 4283) < 0.05 * 4283
    both = into + "  mv s4, s3\n" + out + WAIT_DMA + "  mv s3, s4\n" + WAIT_DMA
    assert abs(dma_cycles(both) - 4147) < 0.04 * 4147
    assert 25 <= dma_cycles(dma(4 | TO_L1 | INCREMENT | EVENT, L1, L2) + WAIT_DMA) <= 45
    # Lines of one word: a burst a cycle.
    short = dma(256 | TO_L1 | INCREMENT | TWO_D | EVENT, L1, L2, 4, 256)
    one = dma(4 | TO_L1 | INCREMENT | TWO_D | EVENT, L1, L2, 4, 256)
    assert 60 <= dma_cycles(short + WAIT_DMA) - dma_cycles(one + WAIT_DMA) <= 75


def test_dma_queue_blocks_the_core() -> None:
    """More commands than the queues hold: the core waits for room, and all of them are done."""
    commands = "".join(dma(1024 | TO_L1 | INCREMENT | EVENT, L1 + 1024 * i, L2) for i in range(14))
    result = run(f"main:\n{SETUP}{commands}{WAIT_DMA}  li a0, 0\n  exit_with a0\n", free_fetch=True)
    assert len(result.dma) == 14
    assert result.cores[0].device_stalls > 200
    # Back to back: no gap between commands.
    assert result.dma["end"][-1] - result.dma["end"][0] <= 13 * 130


def hyper(
    to_l3: bool, l2: int, l3: int, size: int, twod: tuple[int, int] = (0, 0), l2d: tuple[int, int] = (0, 0)
) -> str:
    registers = {
        0x0C if to_l3 else 0x00: l2,
        0x10 if to_l3 else 0x04: size,
        0x18: 1 if to_l3 else 5,
        0x1C: l3,
        0x28: int(twod[0] > 0),
        0x2C: twod[0],
        0x30: twod[1],
        0x34: int(l2d[0] > 0),
        0x38: l2d[0],
        0x3C: l2d[1],
        0x14 if to_l3 else 0x08: 0x10,
    }
    code = "".join(f"  li t1, {value}\n  sw t1, {offset}(s5)\n" for offset, value in registers.items())
    return code + "9:lw t1, 0x24(s5)\n  andi t1, t1, 1\n  bnez t1, 9b\n"


HYPER = "  li t0, 0x1A102000\n  li t1, -1\n  sw t1, 0(t0)\n  li s5, 0x1A102480\n"


def test_hyperram(tmp_path) -> None:
    data = np.arange(2048, dtype=np.uint32)
    back = L2 + 0x10000
    body = (
        HYPER
        + hyper(True, L2, 0x123456, 8192)
        + hyper(False, back, 0x123456 + 400, 1000)
        # 20 lines of 40 bytes, 128 apart in L3, then packed lines spread over L2
        + hyper(False, back + 1000, 0x123456, 800, twod=(40, 128))
        + hyper(False, back + 1800, 0x123456, 80, l2d=(8, 16))
    )
    result, memory = memory_after(tmp_path, body, back, 2000, data)
    raw = data.tobytes()
    assert memory[:1000] == raw[400:1400]
    assert memory[1000:1800] == b"".join(raw[128 * i : 128 * i + 40] for i in range(20))
    assert b"".join(memory[1800 + 16 * i : 1808 + 16 * i] for i in range(10)) == raw[:80]
    durations = (result.hyperram["end"] - result.hyperram["start"]).tolist()
    assert abs(durations[0] - (8192 * 1.25 + 90)) < 100
    assert abs(durations[1] - (1000 + 90)) < 60
    assert result.hyperram["to_l3"].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("to_l3", [False, True])
def test_hyperram_of_many_short_lines(tmp_path, to_l3: bool) -> None:
    """A line that is read costs 10 cycles beyond its bytes, one that is written 12."""
    target = load_target("pulp-redmule").description["hyperram"]
    lines, line = 1200, 8
    body = HYPER + hyper(to_l3, L2, 0x4000, lines * line, twod=(line, 24))
    result, _ = memory_after(tmp_path, body, L2, 4, np.arange(2400, dtype=np.uint32))
    (job,) = result.hyperram
    byte, each = (1.25, 12) if to_l3 else (1.0, 10)
    assert job["end"] - job["start"] == target["start_cycles"] + lines * line * byte + (lines - 1) * each
    # GVSoC measures 21,580 cycles for this layer of reads, with programming.
    assert to_l3 or abs(int(job["end"] - job["start"]) / 21_580 - 1) < 0.01


def test_hyperram_serves_its_channels_in_turn(tmp_path) -> None:
    """Not in the order in which they were started; which of them did what is told by their triggers."""
    order = (5, 2, 7, 6)
    starts = ""
    for channel in order:
        start = hyper(True, L2, 0x4000 + 0x2000 * channel, 4096 + channel * 4).split("9:")[0]
        starts += f"  li s5, {0x1A102480 + 0x80 * channel}\n{start}"
    waits = "".join(
        f"  li s5, {0x1A102480 + 0x80 * channel}\n9:lw t1, 0x24(s5)\n  andi t1, t1, 1\n  bnez t1, 9b\n"
        for channel in order
    )
    result, _ = memory_after(tmp_path, HYPER + starts + waits, L2, 4, np.arange(1024, dtype=np.uint32))
    jobs = result.hyperram
    served = [(int(job["bytes"]) - 4096) // 4 for job in np.sort(jobs, order="start")]
    assert served == [5, 6, 7, 2]
    assert [(int(job["bytes"]) - 4096) // 4 for job in np.sort(jobs, order="trigger")] == list(order)
    ordered = np.sort(jobs, order="start")
    assert (ordered["start"][1:] == ordered["end"][:-1]).all() and (jobs["trigger"] <= jobs["start"]).all()


def redmule_job(code: int, x: int, w: int, y: int, m: int, n: int, k: int) -> str:
    registers = {0x40: x, 0x44: w, 0x48: y, 0x4C: k << 16 | m, 0x50: n, 0x54: code, 0x00: 0}
    program = "".join(f"  li t1, {value}\n  sw t1, {offset}(s6)\n" for offset, value in registers.items())
    return f"  li t1, 1 << 12\n  sw t1, 0x28(s0)\n{program}"


WAIT_REDMULE = "7:elw zero, 0x3c, s0\n  lw t1, 0xc(s6)\n  bnez t1, 7b\n"
REDMULE_SETUP = "  li s0, EU\n  li s6, REDMULE\n  li t0, 1 << 12\n  sw t0, 8(s0)\n"


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1, 1), (13, 17, 19), (12, 16, 16), (5, 33, 7), (25, 8, 34), (1, 50, 3)]
)
@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_redmule_numerics(tmp_path, kind: str, m: int, n: int, k: int, portable: bool) -> None:
    """Bit for bit a fused multiply-add in ascending N, one rounding a step."""
    f, dtype, target = (
        (S, np.float32, "pulp-redmule") if kind == "fp32" else (H, np.float16, "pulp-redmule-fp16")
    )
    random = np.random.default_rng(m * n * k)
    x, w, y = (random.standard_normal(s).astype(dtype) for s in ((m, n), (n, k), (m, k)))
    x.ravel()[:: 5 if x.size > 9 else 1] *= dtype(2e-4)  # subnormals of half among the products
    flat = [np.concatenate([v.ravel(), np.zeros(v.size % 2, dtype)]) for v in (x, w, y)]
    data = np.concatenate(flat).view(np.uint32)
    at = [L1, L1 + flat[0].nbytes, L1 + flat[0].nbytes + flat[1].nbytes]
    body = (
        SETUP
        + dma(data.nbytes | TO_L1 | INCREMENT | EVENT, L1, L2)
        + WAIT_DMA
        + REDMULE_SETUP
        + redmule_job(REDMULE_CODES[kind], *at, m, n, k)
        + WAIT_REDMULE
    )
    result, memory = memory_after(tmp_path, body, at[2], y.nbytes, data, target=target, portable=portable)
    integer = np.uint32 if kind == "fp32" else np.uint16
    xs, ws = x.view(integer), w.view(integer)
    expected = y.view(integer).copy()
    for i in range(m):
        for j in range(k):
            total = int(expected[i, j])
            for step in range(n):
                exact = f.value(int(xs[i, step])) * f.value(int(ws[step, j])) + f.value(total)
                total = encode(Fraction(exact), f, RNE)[0]
            expected[i, j] = total
    assert (np.frombuffer(memory, integer).reshape(m, k) == expected).all()
    job = result.redmule[0]
    assert (job["m"], job["n"], job["k"], job["format"]) == (m, n, k, int(kind[2:]))


@pytest.mark.parametrize("portable", [False, True])
def test_redmule_special_values(tmp_path, portable: bool) -> None:
    """NaN comes out canonical, infinity and signed zero as fmadd makes them."""
    x = np.array([[np.inf, 0], [1, -1], [np.nan, 1], [0.0, -0.0]], np.float32)
    w = np.array([[1, 0], [1, 2]], np.float32)
    y = np.array([[0, 0], [-0.0, 1], [1, 1], [-0.0, 5]], np.float32)
    data = np.concatenate([v.ravel() for v in (x, w, y)]).view(np.uint32)
    data[4] = 0x7FA12345  # a NaN with a payload
    body = (
        SETUP
        + dma(data.nbytes | TO_L1 | INCREMENT | EVENT, L1, L2)
        + WAIT_DMA
        + REDMULE_SETUP
        + redmule_job(0x482, L1, L1 + 32, L1 + 48, 4, 2, 2)
        + WAIT_REDMULE
    )
    _, memory = memory_after(tmp_path, body, L1 + 48, y.nbytes, data, portable=portable)
    got = np.frombuffer(memory, np.uint32).reshape(4, 2)
    bits = {v: int(np.float32(v).view(np.uint32)) for v in (-1, 5)}
    nan, inf = 0x7FC00000, 0x7F800000
    assert got.tolist() == [[inf, nan], [0, bits[-1]], [nan, nan], [0, bits[5]]]


def redmule_cycles(kind: str, m: int, n: int, k: int, **options) -> int:
    size = 2 if kind == "fp16" else 4
    w, y = L1 + m * n * size, L1 + (m * n + n * k) * size
    job = redmule_job(REDMULE_CODES[kind], L1, w, (y + 3) & ~3, m, n, k)
    timed = f"  csrr s8, mcycle\n{job}{WAIT_REDMULE}  csrr a0, mcycle\n  sub a0, a0, s8\n"
    source = f"main:\n{REDMULE_SETUP}{timed}  exit_with a0\n"
    return run(
        source, target="pulp-redmule" if kind == "fp32" else "pulp-redmule-fp16", free_fetch=True, **options
    ).exit_code


@pytest.mark.parametrize(
    ("kind", "m", "n", "k", "cycles"),
    [
        ("fp16", 96, 128, 64, 16485),
        ("fp16", 64, 64, 64, 6237),
        ("fp16", 1, 64, 10, 324),
        ("fp32", 60, 128, 64, 10666),
        ("fp32", 64, 128, 64, 12770),
        ("fp32", 64, 27, 64, 3580),
    ],
)
def test_redmule_timing(kind: str, m: int, n: int, k: int, cycles: int) -> None:
    assert abs(redmule_cycles(kind, m, n, k) - cycles) <= 0.05 * cycles


def test_redmule_and_cores_share_the_banks() -> None:
    """Cores that load from L1 all the time slow down a job, and it slows them."""
    job = redmule_job(0x482, L1, L1 + 0x8000, L1 + 0x10000, 60, 128, 64)
    source = f"""
main:
{REDMULE_SETUP}
  beqz a0, 1f
  slli a0, a0, 2
  li t0, {L1}
  add a0, a0, t0
2:lw t1, 0(a0)
  lw t2, 64(a0)
  j 2b
1:csrr s8, mcycle
{job}{WAIT_REDMULE}
  csrr a0, mcycle
  sub a0, a0, s8
  exit_with a0
"""
    alone = run(source).exit_code
    shared = run(source, cores=8)
    assert 1.02 * alone < shared.exit_code < 1.6 * alone
    assert shared.cores[1].bank_stalls > 100


def test_software_events_and_host_wake_up() -> None:
    """The host wakes core 0 by a software event; the core wakes the host from wfi."""
    source = """
main:
  csrr t0, mhartid
  bnez t0, host
  li s0, EU
  li t0, 1 << 2
  sw t0, 8(s0)
  elw a1, 0x3c, s0
  li t0, 0x1A109800
  li t1, 1 << 3
  sw t1, 0x10(t0)
  lw a2, 0x1c(s0)
  li t0, 0x1C090000
  slli a2, a2, 8
  or a1, a1, a2
  sw a1, 0(t0)
2:elw zero, 0x3c, s0
  j 2b
host:
  li t0, 0x10200040
  la t1, _start
  sw t1, 0(t0)
  li t0, 0x10200000
  li t1, 1
  sw t1, 8(t0)
  li t2, 300
1:addi t2, t2, -1
  bnez t2, 1b
  li t0, 0x10200800
  li t1, 1
  sw t1, 0x608(t0)
  li t0, 0x1A109800
  li t1, 1 << 3
  sw t1, 4(t0)
  wfi
  li t0, 0x1C090000
3:lw a0, 0(t0)
  beqz a0, 3b
  exit_with a0
"""
    # The event's bit in the wait's result, and cleared in the buffer.
    assert run(source, host_only=True).exit_code == 1 << 2


def test_markers_limit_the_log() -> None:
    transfer = dma(64 | TO_L1 | INCREMENT | EVENT, L1, L2) + WAIT_DMA
    body = f"{transfer}  li t0, 77\n  slti x0, t0, 1\n{transfer}{transfer}  slti x0, x0, 2\n{transfer}"
    source = f"main:\n{SETUP}{body}  li a0, 0\n  exit_with a0\n"
    result = run(source, job_log="marked")
    assert len(result.dma) == 2
    assert result.markers["kind"].tolist() == [1, 2] and result.markers["value"].tolist() == [77, 0]
    assert len(run(source).dma) == 4
    assert len(run(source, job_log="none").dma) == 0
    limited = run(source, job_log_limit=3)
    assert (len(limited.dma), limited.dropped_jobs) == (3, 1)


STOPS = {
    "RedMulE triggered while it is busy": REDMULE_SETUP
    + redmule_job(0x482, L1, L1 + 4096, L1 + 8192, 8, 8, 8)
    + "  sw x0, 0(s6)\n",
    "RedMulE arithmetic 0x480 is none that this target has": REDMULE_SETUP
    + redmule_job(0x480, L1, L1 + 4096, L1 + 8192, 8, 8, 8),
    "RedMulE job of size 0: M = 8, N = 0, K = 8": REDMULE_SETUP
    + redmule_job(0x482, L1, L1 + 4096, L1 + 8192, 8, 0, 8),
    r"RedMulE operand Y, 8 x 8 at 0x1001ff00, reaches outside of L1": REDMULE_SETUP
    + redmule_job(0x482, L1, L1 + 4096, L1 + 0x1FF00, 8, 8, 8),
    "DMA of 64 bytes between L1 0x1001ffe0 and L2 0x1c080000 leaves L1": SETUP
    + dma(64 | TO_L1 | INCREMENT, L1 + 0x1FFE0, L2),
    "DMA command of 0 bytes": SETUP + dma(TO_L1 | INCREMENT, L1, L2),
    "uDMA HyperRAM channel 0 triggered while it is busy": HYPER
    + hyper(False, L2, 0, 4096).split("9:")[0]
    + "  li t1, 0x10\n  sw t1, 8(s5)\n",
    "uDMA HyperRAM transfer of 64 bytes between L2 0x1c080000 and L3 0x01fffff0 leaves L3": HYPER
    + hyper(False, L2, 0x1FFFFF0, 64),
}


@pytest.mark.parametrize("message", STOPS)
def test_stops(message: str) -> None:
    with pytest.raises(SimulationError, match=message + r".*: core 0 at pc 0x1c01\w{4} \(main"):
        run("main:\n" + STOPS[message])


def test_targets() -> None:
    assert {"pulp", "pulp-redmule", "pulp-redmule-fp16"} <= set(target_names())
    machine = load_target("pulp-redmule")
    assert (machine.clock_hz, machine.l1_bytes, machine.peak_flop_per_cycle) == (360_000_000, 131072, 96)
    assert load_target("pulp").redmule_formats == ()
    assert REDMULE_CODES == {"fp16": _tdsim.REDMULE_FP16, "fp32": _tdsim.REDMULE_FP32}


def test_targets_that_are_wrong(tmp_path) -> None:
    good = dict(load_target("pulp-redmule").description)

    def failing(section: str, key: str, value: object) -> str:
        changed = {**good, section: {**good[section], key: value}}
        if value is None:
            del changed[section][key]
        with pytest.raises(TrainDeeployError) as error:
            Target("t", changed)
        return str(error.value)

    assert failing("cores", "mull", 3) == "target t: unknown key cores.mull"
    assert failing("cores", "mul", None) == "target t: key cores.mul is missing"
    assert failing("cores", "mul", "2") == "target t: cores.mul = '2' is not an integer from 1 to 255"
    assert (
        failing("redmule", "code_fp32", 0x600)
        == "target t: redmule.code_fp32 must be 0x482, the arithmetic code of fp32"
    )
    assert failing("redmule", "port_bytes", 128).endswith("is not an integer from 4 to 64")
    assert (
        failing("redmule", "read_ahead", 59)
        == "target t: redmule.read_ahead = 59 is too little: beats of redmule.port_bytes = 32 read up to 60"
        " bytes past the end of an operand; redmule.read_ahead = 60 would do"
    )
    half = {**good["redmule"], "formats": ["fp16"], "port_bytes": 64, "read_ahead": 61}
    with pytest.raises(TrainDeeployError, match="up to 62 bytes past the end"):
        Target("t", {**good, "redmule": half})
    with pytest.raises(TrainDeeployError, match="section fpu is missing"):
        Target("t", {k: v for k, v in good.items() if k != "fpu"})
    with pytest.raises(TrainDeeployError, match="no target named none; there are pulp, "):
        load_target("none")
    (tmp_path / "bad.toml").write_text("name =")
    with pytest.raises(TrainDeeployError, match="is not TOML"):
        load_target(tmp_path / "bad.toml")
