"""Runs micro-kernels and whole training steps on GVSoC and on tdsim, and compares them.

Usage: python test/gvsoc/agreement.py [--gvsoc DIR]    (or `make test-gvsoc`)

Results must be the same bits. Cycles may differ by 10% for a micro-kernel, by 5% for a step, and by 10% for
each engine in a layer of more than 2% of a step. What GVSoC measured is kept in benchmarks/gvsoc.json, which
test/python/test_agreement.py holds tdsim to where there is no GVSoC.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import micro_kernels
import numpy as np

import traindeeploy
from traindeeploy.gvsoc import Gvsoc
from traindeeploy.plan_table import table
from traindeeploy.program import SIMULATORS
from traindeeploy.sim import Simulator
from traindeeploy.target import load_target

RECORD = Path(__file__).parents[2] / "benchmarks" / "gvsoc.json"
TARGETS = ("pulp-redmule", "pulp-redmule-fp16")
KERNEL, STEP, ENGINE, LAYER = 0.10, 0.05, 0.10, 0.02
FASTER = 25
"""How many times faster than GVSoC tdsim has to be."""
STEPS = 2
LIMIT = 100_000_000


def odd_mlp() -> tuple[Any, Any]:
    """An MLP of prime sizes and its example inputs."""
    import torch

    torch.manual_seed(1)
    sizes = (17, 31, 1, 13)
    layers: list[Any] = []
    for before, after in pairwise(sizes):
        layers += [torch.nn.Linear(before, after), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1]).eval(), (torch.zeros(5, sizes[0]),)


CASES = {
    f"{model}, batch {batch}, {target}": (model, batch, target)
    for model, batch in (("deep-ae", 1), ("deep-ae", 16), ("17-31-1-13", 5))
    for target in ("pulp-redmule", "pulp")
}


def compiled(model: str, batch: int, target: str) -> traindeeploy.Program:
    """The program of a case."""
    if model == "deep-ae":
        return traindeeploy.compile(model, loss="mse", target=target, batch_size=batch)
    module, inputs = odd_mlp()
    return traindeeploy.compile(module, inputs, loss="mse", target=target)


def step(program: traindeeploy.Program, **options: Any) -> dict[str, Any]:
    """What a case measures on a simulator."""
    random = np.random.default_rng(0)
    data = {
        field.name: random.standard_normal((STEPS * field.shape[0], *field.shape[1:])).astype(np.float32)
        for field in program.fields
    }
    result = program.run(data, steps=STEPS, lr=0.01, **options)
    bits = hashlib.sha256(b"".join(value.tobytes() for value in result.params.values()))
    return {
        "program": hashlib.sha256(program.elf).hexdigest(),
        "parameters": bits.hexdigest(),
        "losses": result.losses,
        "cycles": result.report["cycles"],
        "engines": result.report["engines"],
        "layers": {
            f"{number} {layer['name']}": layer["measured"]
            for number, layer in enumerate(result.report["layers"])
        },
    }


def kernels(target: str, gvsoc: Gvsoc | None = None) -> dict[str, dict[str, list[int]]]:
    """What the micro-kernels of a target take and leave on tdsim, or on a GVSoC."""
    elf = micro_kernels.program(target)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if gvsoc:
            gvsoc.run(load_target(target), elf, folder, stdout=lambda text: None, max_cycles=LIMIT)
        else:
            Simulator(load_target(target)).run(elf, folder, max_cycles=LIMIT)
        return micro_kernels.results(target, (folder / "out.bin").read_bytes())


def differences_of_kernels(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What is wrong between two runs of micro-kernels. The slowest core counts."""
    wrong = [f"{name}: only one of both has it" for name in ours.keys() ^ theirs.keys()]
    for name in ours.keys() & theirs.keys():
        a, b = (max(run[name]["cycles"]) for run in (ours, theirs))
        if ours[name]["check"] != theirs[name]["check"]:
            wrong.append(f"{name}: other results")
        if abs(a - b) > KERNEL * b:
            wrong.append(f"{name}: {a} cycles on tdsim, {b} on GVSoC")
    return wrong


def differences_of_steps(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What is wrong between two runs of a step."""
    wrong = []
    if ours["parameters"] != theirs["parameters"] or ours["losses"] != theirs["losses"]:
        wrong.append(f"{name}: other parameters or losses")
    a, b = ours["cycles"], theirs["cycles"]
    if abs(a - b) > STEP * b:
        wrong.append(f"{name}: {a:.0f} cycles on tdsim, {b:.0f} on GVSoC ({a / b - 1:+.1%})")
    for layer, measured in theirs["layers"].items():
        if measured["total"] <= LAYER * b:
            continue
        for engine, cycles in measured.items():
            mine = ours["layers"][layer][engine]
            if engine != "total" and abs(mine - cycles) > ENGINE * cycles:
                wrong.append(f"{name}: {layer}: {engine} {mine:.0f} cycles on tdsim, {cycles:.0f} on GVSoC")
    return wrong


def speed(program: traindeeploy.Program, gvsoc: Path) -> dict[str, float]:
    """Seconds that a case takes on both simulators, one after the other, and processor time of both."""
    times = {}
    for name in SIMULATORS:
        begin = [time.perf_counter(), *processor_times()]
        step(program, simulator=name, gvsoc=gvsoc)
        wall, own, child = (
            now - was for now, was in zip([time.perf_counter(), *processor_times()], begin, strict=True)
        )
        times[f"{name}_seconds"] = round(wall, 2)
        times[f"{name}_processor_seconds"] = round(own + child, 2)
    return {**times, "faster": round(times["gvsoc_seconds"] / times["tdsim_seconds"], 1)}


def processor_times() -> list[float]:
    """Processor time of this process and of its children, seconds."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return [usage.ru_utime + usage.ru_stime for usage in usages]


def main() -> int:
    """Runs all, writes the record if all agrees, and says what does not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gvsoc", type=Path)
    gvsoc = Gvsoc(parser.parse_args().gvsoc)
    wrong: list[str] = []
    rows: list[list[str]] = []
    record: dict[str, Any] = {"gvsoc": gvsoc.commits, "kernels": {}, "steps": {}}
    for target in TARGETS:
        ours, theirs = kernels(target), kernels(target, gvsoc)
        wrong += differences_of_kernels(ours, theirs)
        record["kernels"][target] = theirs
        ratios = [max(ours[name]["cycles"]) / max(theirs[name]["cycles"]) for name in theirs]
        worst = max(ratios, key=lambda ratio: abs(ratio - 1))
        rows.append([f"{len(ratios)} micro-kernels, {target}", "", "", f"{worst - 1:+.1%} at worst"])
    for name, case in CASES.items():
        program = compiled(*case)
        ours, theirs = step(program), step(program, simulator="gvsoc", gvsoc=gvsoc.root)
        wrong += differences_of_steps(name, ours, theirs)
        record["steps"][name] = theirs
        a, b = ours["cycles"], theirs["cycles"]
        rows.append([name, f"{a:,.0f}", f"{b:,.0f}", f"{a / b - 1:+.1%}"])
    record["speed"] = speed(compiled("deep-ae", 16, "pulp-redmule"), gvsoc.root)
    if record["speed"]["faster"] < FASTER:
        wrong.append(f"tdsim is only {record['speed']['faster']} times faster than GVSoC")
    print(table(["", "tdsim", "GVSoC", "difference"], rows, "lrrr"))
    print(", ".join(f"{name} {value}" for name, value in record["speed"].items()))
    for line in wrong:
        print(f"DIFFERENT: {line}")
    if not wrong:
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        print(f"written: {RECORD.name}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
