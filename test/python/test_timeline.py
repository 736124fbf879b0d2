"""Timelines: slices agree with the report, do not overlap on their track, and come through a trace."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import traindeeploy
from traindeeploy.driver import Program, Result
from traindeeploy.measurements import Accounting
from traindeeploy.memory_map import ALWAYS, arrays, stream
from traindeeploy.sim import DMA_JOB, HYPERRAM_JOB, MARKER, REDMULE_JOB, StepLogs
from traindeeploy.target import load_target
from traindeeploy.timeline import STEPS, TABLE, last_step, read_trace, slices
from traindeeploy.toolchain import Elf

SHAPE = (33, 61, 17)


@pytest.fixture(scope="module")
def trained() -> tuple[Program, Result]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(SHAPE[0], SHAPE[1]), torch.nn.ReLU(), torch.nn.Linear(SHAPE[1], SHAPE[2])
    )
    program = traindeeploy.compile(model, (torch.zeros(7, SHAPE[0]),), loss="mse", momentum=0.5)
    random = np.random.default_rng(0)
    data = {
        "input": random.standard_normal((14, SHAPE[0])).astype(np.float32),
        "target": random.standard_normal((14, SHAPE[2])).astype(np.float32),
    }
    return program, program.run(data, steps=3, lr=0.01, timeline_steps=2)


def test_slices_agree_with_the_report(trained: tuple[Program, Result]) -> None:
    program, result = trained
    steps = [item for item in result.timeline if item.track == STEPS]
    assert [item.name for item in steps] == ["step 2", "step 3"]
    assert steps[0].begin == 0
    for step, cycles in zip(steps, result.report["cycles_per_step"][1:], strict=True):
        assert 0 <= step.end - step.begin - cycles < 30
    by_track: dict[str, list[tuple[int, int]]] = {}
    for item in result.timeline:
        by_track.setdefault(item.track, []).append((item.begin, item.end))
        assert any(step.begin <= item.begin <= item.end <= step.end for step in steps)
    assert set(by_track) == {STEPS, "RedMulE", "DMA in", "DMA out", *(f"core {i}" for i in range(8))}
    for track, intervals in by_track.items():
        assert all(a[1] <= b[0] for a, b in pairwise(intervals)), track
    # Each core runs each call, in the same order.
    calls = [[item.operator for item in result.timeline if item.track == f"core {i}"] for i in range(8)]
    assert calls[0] and all(order == calls[0] for order in calls)
    # All steps are alike, so a mean is a step's.
    layers = result.report["layers"]
    for engine, tracks in (("dma", ("DMA in", "DMA out")), ("cores", ("core 0",))):
        busy = Counter[int]()
        for item in last_step(result.timeline):
            if item.track in tracks and item.name != TABLE:
                busy[item.operator] += item.end - item.begin
                assert item.name == layers[item.operator]["name"]
        for index, layer in enumerate(layers):
            assert busy[index] == pytest.approx(layer["measured"][engine], rel=0.1, abs=80), layer["name"]
    gemms = [item for item in last_step(result.timeline) if item.track == "RedMulE"]
    flop = sum(2 * np.prod([int(size) for size in str(item.details["shape"]).split("x")]) for item in gemms)
    assert 0 < flop <= program.manifest["flop"]


def test_traces_are_what_perfetto_reads(trained: tuple[Program, Result]) -> None:
    _, result = trained
    trace = json.loads(result.trace())
    events = trace["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    open_spans: dict[int, float] = {}
    for event in events:
        assert event["pid"] == 1
        if event["ph"] == "X":
            assert event["ts"] >= 0 and event["dur"] >= 0 and names[event["tid"]]
            cycles = event["args"]["cycles"]
            assert event["dur"] == pytest.approx(cycles * 1e6 / result.report["clock_hz"], abs=0.002)
        elif event["ph"] == "b":
            open_spans[event["id"]] = event["ts"]
        elif event["ph"] == "e":
            assert open_spans.pop(event["id"]) <= event["ts"]
        else:
            assert event["ph"] == "M"
    assert not open_spans
    assert read_trace(result.trace()) == result.timeline
    assert read_trace(result.trace(last=True)) == last_step(result.timeline)
    assert [item.name for item in last_step(result.timeline) if item.track == STEPS] == ["step 3"]


def test_accounting_of_steps() -> None:
    """Logs count to their operators in the order of the table, and a log that is not whole as nothing."""

    def log(dtype: np.dtype, rows: list[dict[str, int]]) -> np.ndarray:
        array = np.zeros(len(rows), dtype)
        for i, row in enumerate(rows):
            for key, value in row.items():
                array[i][key] = value
        return array

    def marks(*kinds: tuple[int, int]) -> np.ndarray:
        return log(MARKER, [{"cycle": cycle, "kind": kind} for cycle, kind in kinds])

    none = {"hyperram": log(HYPERRAM_JOB, []), "redmule": log(REDMULE_JOB, [])}
    gemm = log(REDMULE_JOB, [{"trigger": 140, "start": 150, "end": 190, "m": 2, "n": 3, "k": 4}])
    moved = [
        {"start": 105, "end": 110, "l1": 10, "to_l1": 1},
        {"start": 110, "end": 130, "l1": 5000, "to_l1": 1},
        {"start": 310, "end": 340, "l1": 5000, "to_l1": 1},
    ]
    # The second channel of L3 was started later, and served first.
    far = [
        {"trigger": 112, "start": 150, "end": 180, "bytes": 30},
        {"trigger": 114, "start": 115, "end": 150, "bytes": 35},
    ]
    steps = [
        StepLogs(
            markers=marks((100, 1), (120, 3), (150, 4), (200, 2)),
            dma=log(DMA_JOB, moved[:2]),
            **{**none, "redmule": gemm, "hyperram": log(HYPERRAM_JOB, far[::-1])},
        ),
        StepLogs(markers=marks((300, 1), (310, 3), (330, 4), (400, 2)), dma=log(DMA_JOB, moved[2:]), **none),
    ]
    manifest = {
        "l1_begin": 1000,
        "operators": [{"name": "a"}, {"name": "b"}],
        "stream": [0, "L.", 1, "CG."],
        "jobs": {"dma_load": [0, 1], "dma_store": [], "redmule": [1, 1], "hyperram": [0, 1, 1, 1]},
    }
    accounting = Accounting(manifest, load_target("pulp-redmule"), keep=5)
    for step in steps:
        accounting.add(step)
    assert accounting.operators["dma"].tolist() == [20 + 30, 0]
    # The second step's logs of RedMulE and L3 are not whole: they count as nothing.
    assert accounting.operators["redmule"].tolist() == [0, 50]
    assert accounting.operators["hyperram"].tolist() == [30, 35]
    assert accounting.engines["cores"] == 30 + 20
    items = slices(manifest, accounting.last, first=4)
    assert [(item.track, item.name, item.begin, item.end) for item in items] == [
        ("steps", "step 4", 0, 100),
        ("steps", "step 5", 200, 300),
        ("core 0", "b", 20, 50),
        ("core 0", "b", 210, 230),
        ("RedMulE", "b", 40, 90),
        ("DMA in", TABLE, 5, 10),
        ("DMA in", "a", 10, 30),
        ("DMA in", "a", 210, 240),
        ("uDMA", "b", 15, 50),
        ("uDMA", "a", 50, 80),
    ]
    assert slices(manifest, []) == []


def test_a_long_run_keeps_its_measurements(trained: tuple[Program, Result]) -> None:
    """Logs are summed up step by step: none is dropped, and only the last ones are kept."""
    program, result = trained
    many = program.run(
        {"input": np.zeros((7, SHAPE[0])), "target": np.zeros((7, SHAPE[2]))}, steps=40, lr=0.0
    )
    for a, b in zip(many.report["layers"], result.report["layers"], strict=True):
        # What the DMA waits at banks changes by some percent from step to step.
        assert a["measured"]["dma"] == pytest.approx(b["measured"]["dma"], rel=0.1)
    assert [item.name for item in many.timeline if item.track == STEPS] == ["step 40"]


def test_arrays_that_live_at_once_are_apart(trained: tuple[Program, Result]) -> None:
    manifest = Elf(trained[0].elf).manifest
    kinds, operators = stream(manifest)
    assert len(kinds) == len(operators) and set(kinds) <= set("CLSHG.")
    for kind, name in (("L", "dma_load"), ("S", "dma_store"), ("G", "redmule"), ("H", "hyperram")):
        assert kinds.count(kind) == sum(manifest["jobs"][name][1::2])
    known = arrays(manifest)
    assert {array.level for array in known} == {1, 2}
    assert {"parameter", "state", "input", "output", "temporary"} <= {array.role for array in known}
    for array in known:
        assert array.bytes > 0 and array.first <= array.last
        assert array.last == ALWAYS or (array.last < len(kinds) and array.role == "temporary")
    for i, a in enumerate(known):
        for b in known[:i]:
            apart = a.level != b.level or a.address + a.bytes <= b.address or b.address + b.bytes <= a.address
            assert apart or a.last < b.first or b.last < a.first, (a, b)


def test_step_logs_read_what_the_simulator_gives() -> None:
    raw = {
        "dma": b"\1" * DMA_JOB.itemsize,
        "hyperram": b"",
        "redmule": b"",
        "markers": b"\2" * MARKER.itemsize,
    }
    logs = StepLogs.read(raw)
    assert len(logs.dma) == len(logs.markers) == 1 and len(logs.redmule) == 0


def test_command_line(cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(0).standard_normal((4, 640)).astype(np.float32)
    np.savez(tmp_path / "d.npz", input=rng, target=rng)
    options = ["--data", "d.npz", "--steps", 2, "--lr", 0.1]
    done = cli("train", "deep-ae", "--loss", "mse", *options, "-o", "out", "--timeline", "t.json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "t.json").read_bytes() == (tmp_path / "out" / "timeline.json").read_bytes()
    both = ["--timeline", "out/both.json", "--timeline-steps", 2]
    done = cli("run", "out", *options, *both)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "t.json").read_bytes() == (tmp_path / "out" / "timeline.json").read_bytes()
    steps = [
        item.name for item in read_trace((tmp_path / "out/both.json").read_text()) if item.track == STEPS
    ]
    assert steps == ["step 1", "step 2"]
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    done = cli("run", "out", *options, "--timeline", "none/t.json")
    assert done.returncode == 1
    assert done.stderr.startswith("traindeeploy: error: cannot write none/t.json: there is no folder")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before
