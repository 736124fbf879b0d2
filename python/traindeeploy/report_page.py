"""The report of runs as one page of HTML, which needs nothing else: docs/report.md says what it shows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .driver import Program
from .errors import TrainDeeployError
from .memory_map import ALWAYS, LEVELS, Array, arrays, stream
from .output import explained
from .report import Report
from .schema import check_json
from .timeline import DMA_IN, DMA_OUT, REDMULE, STEPS, TABLE, UDMA, Slice, core_track, read_trace
from .toolchain import Elf

_TEMPLATE = Path(__file__).with_name("report_page.html")
_PLACE = "/*DATA*/null"
_MOST_POINTS = 1000
"""Points of a curve of the loss; a longer one is thinned out."""


def page(folders: Sequence[Path]) -> str:
    """The page for some output folders of `train` or `run`, side by side.

    Raises TrainDeeployError, with the folder, for one that holds no run or a damaged one.
    """
    names = _names(folders)
    runs = [_run(folder, name) for folder, name in zip(folders, names, strict=True)]
    # Nothing in the data may end the script element that it is in.
    text = f'{{"runs":[{",".join(runs)}]}}'
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return _TEMPLATE.read_text(encoding="utf-8").replace(_PLACE, text)


def _names(folders: Sequence[Path]) -> list[str]:
    """What the runs are called: their folders' names, or their paths where these are the same."""
    short = [folder.absolute().name for folder in folders]
    count = Counter(short)
    return [name if count[name] == 1 else str(folder) for name, folder in zip(short, folders, strict=True)]


def _read(folder: Path, name: str) -> str:
    if not (folder / name).is_file():
        raise TrainDeeployError(f"{folder} holds no {name}: `traindeeploy run {folder}` writes it")
    with explained(f"cannot read {folder / name}"):
        return (folder / name).read_text(encoding="utf-8")


def _run(folder: Path, name: str) -> str:
    """What the page shows of a run, as JSON."""
    program = Program.load(folder)
    manifest = Elf(program.elf).manifest
    try:
        report = json.loads(_read(folder, "report.json"))
        check_json(report, Report, str(folder / "report.json"))
        items = read_trace(_read(folder, "timeline.json"))
        losses = report["loss"]
        stride = -(-len(losses) // _MOST_POINTS)
        picked = sorted({*range(0, len(losses), stride), len(losses) - 1})
        shown = {
            "name": name,
            "report": {key: value for key, value in report.items() if key not in ("loss", "cycles_per_step")},
            "peak_flop": program.target.peak_flop_per_cycle,
            "domains": [operator.domain for operator in program.operators],
            "loss": [[step + 1, losses[step]] for step in picked],
            "timeline": _timeline(items),
            "memory": _memory(program, manifest, items),
        }
        return json.dumps(shown, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except UnicodeDecodeError:
        raise TrainDeeployError(f"{folder} holds a file that is damaged; run it again") from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise TrainDeeployError(
            f"report.json or timeline.json in {folder} is damaged or of another version; run it again"
        ) from None


def _timeline(items: Sequence[Slice]) -> dict[str, Any]:
    """Tracks, and per track its slices: operator, begin, end, details."""
    tracks: dict[str, list[Any]] = {}
    for item in items:
        if item.track != STEPS:
            details = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in item.details.items())
            tracks.setdefault(item.track, []).append([item.operator, item.begin, item.end, details])
    cycles = max(item.end for item in items if item.track == STEPS)
    return {"cycles": cycles, "tracks": [{"name": name, "slices": rows} for name, rows in tracks.items()]}


def _times(manifest: Mapping[str, Any], items: Sequence[Slice]) -> tuple[str, list[int], list[int]]:
    """The stream's kinds, and when each of its records begins and ends, as far as it can be told: a job
    when its engine begins with it, another record at the next job's time."""
    kinds, _ = stream(manifest)
    cycles = max(item.end for item in items if item.track == STEPS)
    by_kind: dict[str, list[Slice]] = {}
    tracks = {core_track(0): "C", DMA_IN: "L", DMA_OUT: "S", UDMA: "H", REDMULE: "G"}
    for item in items:
        if item.track in tracks and item.name != TABLE:
            by_kind.setdefault(tracks[item.track], []).append(item)
    begins, ends = [cycles] * (len(kinds) + 1), [cycles] * (len(kinds) + 1)
    # The channels of L3 are served in turn, not in the order in which jobs were started.
    by_kind.get("H", []).sort(key=lambda item: item.begin - int(item.details["waited"]))
    count = {kind: len(rows) for kind, rows in by_kind.items()}
    for position in range(len(kinds) - 1, -1, -1):
        kind = kinds[position]
        begins[position] = ends[position] = begins[position + 1]
        if count.get(kind):
            count[kind] -= 1
            item = by_kind[kind][count[kind]]
            begins[position] = min(item.begin, begins[position + 1])
            if kind == "C":
                ends[position] = item.end
    return kinds, begins, ends


def _memory(program: Program, manifest: Mapping[str, Any], items: Sequence[Slice]) -> list[dict[str, Any]]:
    """Per level in use: arrays with name, role, offset, bytes, begin and end of life in cycles."""
    kinds, begins, ends = _times(manifest, items)
    description = program.target.description
    cycles = begins[-1]
    known = arrays(manifest)
    roles = {array.name: array.role for array in known if array.host}
    levels = []
    for level, number in LEVELS.items():
        mine = [array for array in known if array.level == number]
        if not mine:
            continue
        base = description["memory"][level].get("base", 0)
        reserved = manifest.get(f"{level}_begin", base) - base
        if level == "l2":
            # The arrays are at the end of L2: what is free lies in between, and is not drawn.
            used = Elf(program.elf).program_bytes
            base += reserved - used
            reserved = used
        rows = []
        for array in sorted(mine, key=lambda a: (a.first, a.address)):
            born = 0 if array.host else begins[array.first]
            dies = cycles if array.last == ALWAYS else ends[min(array.last, len(kinds))]
            role = roles.get(array.name, array.role)  # a tile's is that of its array
            rows.append([array.name, role, array.address - base, array.bytes, born, max(dies, born)])
        levels.append(
            {
                "name": level.upper(),
                "capacity": program.target.capacity(level),
                "reserved": reserved,
                "peak": max(array.address + array.bytes for array in mine) - base,
                "live": _peak_live(mine),
                "arrays": rows,
            }
        )
    return levels


def _peak_live(mine: Sequence[Array]) -> int:
    """The most bytes that are live at once."""
    changes: Counter[int] = Counter()
    for array in mine:
        changes[array.first] += array.bytes
        if array.last != ALWAYS:
            changes[array.last + 1] -= array.bytes
    places = sorted(changes)
    live = most = 0
    for place in places:
        live += changes[place]
        most = max(most, live)
    return most
