"""What each part of the SoC did when, as slices on tracks, and as a trace that Perfetto shows.

docs/report.md says what is on the tracks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .measurements import CALL_BEGIN, CALL_END, STEP_BEGIN, STEP_END, commands, marked
from .memory_map import called_operators

STEPS, DMA_IN, DMA_OUT, UDMA, REDMULE = "steps", "DMA in", "DMA out", "uDMA", "RedMulE"
TABLE = "job table"
"""Name of slices that move the table of jobs, which is no operator's."""


@dataclass(frozen=True)
class Slice:
    """Something that took time on a track. Times are cycles since the first step of the timeline began."""

    track: str
    name: str
    begin: int
    end: int
    details: dict[str, int | float | str] = field(default_factory=dict)
    operator: int = -1
    """Index of the operator of the plan, or -1."""


def core_track(core: int) -> str:
    return f"core {core}"


def slices(manifest: Mapping[str, Any], steps: Sequence[Any], first: int = 1) -> list[Slice]:
    """The slices of some steps, in the order of tracks.

    manifest: that of the program (`toolchain.Elf.manifest`).
    steps: logs of consecutive steps, as `sim.StepLogs` or with arrays of the same names and layouts.
    first: the number of the first of these steps.
    """
    if not steps:
        return []
    names = [operator["name"] for operator in manifest["operators"]]
    called = called_operators(manifest)
    origin = int(marked(steps[0].markers, STEP_BEGIN, STEP_END)[0, 0])
    by_track: dict[str, list[Slice]] = {}

    def add(
        track: str, operator: int, begin: Any, end: Any, name: str = "", **details: int | float | str
    ) -> None:
        by_track.setdefault(track, []).append(
            Slice(
                track,
                name or names[operator],
                int(begin) - origin,
                int(end) - origin,
                details,
                -1 if name else operator,
            )
        )

    for number, logs in enumerate(steps, first):
        begin, end = marked(logs.markers, STEP_BEGIN, STEP_END)[0]
        add(STEPS, -1, begin, end, f"step {number}")
    for core in sorted({int(core) for logs in steps for core in np.unique(logs.markers["core"])}):
        for logs in steps:
            mine = logs.markers[logs.markers["core"] == core]
            calls, ends = (mine["cycle"][mine["kind"] == kind] for kind in (CALL_BEGIN, CALL_END))
            # Every core runs every call, in the order of the stream.
            if len(calls) == len(ends) == len(called):
                for operator, begin, end in zip(called, calls, ends, strict=True):
                    add(core_track(core), operator, begin, end)
    for logs in steps:
        jobs = commands(manifest, logs)
        for job, operator in zip(*jobs["redmule"], strict=True):
            m, n, k = (int(job[key]) for key in "mnk")
            cycles = max(1, int(job["end"] - job["trigger"]))
            shape, rate = f"{m}x{n}x{k}", round(2 * m * n * k / cycles, 2)
            add(REDMULE, operator, job["trigger"], job["end"], shape=shape, flop_per_cycle=rate)
        for engine, track in (("dma_load", DMA_IN), ("dma_store", DMA_OUT)):
            for job, operator in zip(*jobs[engine], strict=True):
                near, far, size = hex(job["l1"]), hex(job["l2"]), int(job["bytes"])
                add(track, operator, job["start"], job["end"], bytes=size, l1=near, l2=far)
        for job in logs.dma[logs.dma["l1"] < manifest["l1_begin"]]:
            add(DMA_IN, -1, job["start"], job["end"], TABLE, bytes=int(job["bytes"]))
        for job, operator in zip(*jobs["hyperram"], strict=True):
            near, far, size = hex(job["l2"]), hex(job["l3"]), int(job["bytes"])
            way = "to L3" if job["to_l3"] else "from L3"
            waited = int(job["start"] - job["trigger"])
            add(UDMA, operator, job["start"], job["end"], way=way, bytes=size, l2=near, l3=far, waited=waited)
    # A transfer starts while bursts of the one before are on their way: its slice begins at the end of that.
    for track in (DMA_IN, DMA_OUT):
        ended = 0
        ordered = sorted(by_track.get(track, []), key=lambda s: s.begin)
        for i, item in enumerate(ordered):
            ordered[i] = replace(item, begin=min(max(item.begin, ended), item.end))
            ended = max(ended, ordered[i].end)
        if ordered:
            by_track[track] = ordered
    tracks = [STEPS, *sorted(t for t in by_track if t.startswith("core ")), REDMULE, DMA_IN, DMA_OUT, UDMA]
    return [item for track in tracks for item in sorted(by_track.get(track, []), key=lambda s: s.begin)]


def last_step(items: Sequence[Slice]) -> list[Slice]:
    """The slices of the last step, in time from its begin."""
    begin = max((item.begin for item in items if item.track == STEPS), default=0)
    return [
        replace(item, begin=item.begin - begin, end=item.end - begin) for item in items if item.begin >= begin
    ]


def trace(items: Iterable[Slice], clock_hz: int, process: str) -> str:
    """A trace in the JSON format that Perfetto (ui.perfetto.dev) and chrome://tracing read.

    Time in it is the SoC's, at its clock; the cycles are among the arguments of each slice. Beside the
    tracks, each operator has a bar from its first job to its last one.
    """
    items = list(items)
    tracks = list(dict.fromkeys(item.track for item in items))
    number = {track: i for i, track in enumerate(tracks, 1)}

    def microseconds(cycle: int) -> float:
        return round(cycle * 1e6 / clock_hz, 3)

    def event(**fields: Any) -> dict[str, Any]:
        return {"pid": 1, **fields}

    events = [event(ph="M", name="process_name", args={"name": process})]
    for track in tracks:
        place = number[track]
        events.append(event(ph="M", tid=place, name="thread_name", args={"name": track}))
        events.append(event(ph="M", tid=place, name="thread_sort_index", args={"sort_index": place}))
    spans: dict[int, tuple[str, int, int]] = {}
    for item in items:
        begin, end = microseconds(item.begin), microseconds(item.end)
        details = {**item.details, "cycle": item.begin, "cycles": item.end - item.begin}
        if item.operator >= 0:
            details["operator"] = item.operator
            name, first, last = spans.get(item.operator, (item.name, item.begin, item.end))
            spans[item.operator] = (name, min(first, item.begin), max(last, item.end))
        events.append(
            event(
                ph="X",
                tid=number[item.track],
                cat=item.track,
                name=item.name,
                ts=begin,
                dur=round(end - begin, 3),
                args=details,
            )
        )
    for operator, (name, first, last) in sorted(spans.items()):
        for phase, cycle in (("b", first), ("e", last)):
            events.append(
                event(ph=phase, tid=0, cat="operators", id=operator, name=name, ts=microseconds(cycle))
            )
    lines = ",\n".join(json.dumps(e, sort_keys=True, separators=(",", ":")) for e in events)
    return f'{{"displayTimeUnit":"ns","otherData":{{"clock_hz":{clock_hz}}},"traceEvents":[\n{lines}\n]}}\n'


def read_trace(text: str) -> list[Slice]:
    """The slices of a trace that `trace` has written. Raises ValueError or KeyError for other text."""
    events = json.loads(text)["traceEvents"]
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    items = []
    for item in events:
        if item["ph"] != "X":
            continue
        details = dict(item["args"])
        begin, cycles = details.pop("cycle"), details.pop("cycles")
        operator = details.pop("operator", -1)
        items.append(Slice(tracks[item["tid"]], item["name"], begin, begin + cycles, details, operator))
    return items
