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
from collections.abc import Iterator
from dataclasses import dataclass
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
FASTER = 20
"""How many times less processor time than GVSoC tdsim has to take for a step on the cores. On a quiet machine
it is 25; beside other work, caches are shared and clocks are lower."""
_TRIES = 3
"""Runs of tdsim, of which the fastest counts: it is so short that what else runs would show."""
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


def small_cnn() -> tuple[Any, Any]:
    """Convolutions with poolings that share their tiles, and its example inputs."""
    import torch
    from torch import nn

    torch.manual_seed(1)
    layers: list[Any] = []
    for before, after in pairwise((3, 32, 64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 10)).eval(), (torch.zeros(1, 3, 32, 32),)


def large_mlp() -> tuple[Any, Any]:
    """An MLP whose parameters, 6 MB, lie in L3, and its example inputs."""
    import torch
    from torch import nn

    torch.manual_seed(1)
    layers = [nn.Linear(1000, 1024), nn.ReLU(), nn.Linear(1024, 500)]
    return nn.Sequential(*layers).eval(), (torch.zeros(3, 1000),)


def large_norm() -> tuple[Any, Any]:
    """A batch norm whose values, 2.6 MB, go through L3, and its example inputs."""
    import torch
    from torch import nn

    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 20, 1), nn.BatchNorm2d(20), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(1280, 10)).eval(), (torch.zeros(8, 3, 64, 64),)


ODD, CNN, LARGE, NORM = "17-31-1-13", "cnn", "6 MB MLP", "batch norm"
MODULES = {ODD: odd_mlp, CNN: small_cnn, LARGE: large_mlp, NORM: large_norm}


@dataclass(frozen=True)
class Case:
    """A training step that both simulators run."""

    model: str
    target: str
    batch: int = 1
    recipe: str = "full"
    loss: str = "mse"
    precision: str = "fp32"
    batch_norm: str = "frozen"
    steps: int = 2
    """Layers of a few hundred cycles need more: instruction caches replace lines at random."""

    def __str__(self) -> str:
        recipe = "" if self.recipe == "full" else f"{self.recipe}, "
        precision = "" if self.precision == "fp32" else f", {self.precision}"
        return f"{self.model}, {recipe}batch {self.batch}, {self.target}{precision}"


MIXED = ("pulp-redmule-fp16", "mixed")
STRATEGIES = ("linear-probe", "blocks:1", "lora:1", "blocks:2", "lora:2")
CASES = {
    str(case): case
    for case in (
        *(
            Case(model, target, batch, precision=precision, steps=steps)
            for model, batch, steps in (("deep-ae", 1, 2), ("deep-ae", 16, 2), (ODD, 5, 8))
            for target, precision in (("pulp-redmule", "fp32"), ("pulp", "fp32"), MIXED)
        ),
        *(
            Case("cct2", target, recipe=recipe, loss="cross-entropy", precision=precision)
            for target, precision in (("pulp-redmule", "fp32"), MIXED)
            for recipe in STRATEGIES
        ),
        *(
            Case(CNN, target, recipe="linear-probe", loss="cross-entropy", steps=8)
            for target in ("pulp-redmule", "pulp")
        ),
        *(Case(LARGE, target, batch=3, steps=1) for target in ("pulp-redmule", "pulp")),
        Case(NORM, "pulp-redmule", batch=8, loss="cross-entropy", batch_norm="batch", steps=1),
    )
}


def compiled(case: Case) -> traindeeploy.Program:
    """The program of a case."""
    options: dict[str, Any] = {
        "loss": case.loss,
        "recipe": case.recipe,
        "target": case.target,
        "precision": case.precision,
        "batch_norm": case.batch_norm,
    }
    if case.model not in MODULES:
        return traindeeploy.compile(case.model, batch_size=case.batch, **options)
    module, inputs = MODULES[case.model]()
    return traindeeploy.compile(module, inputs, **options)


def step(program: traindeeploy.Program, steps: int, **options: Any) -> dict[str, Any]:
    """What a case measures on a simulator."""
    random = np.random.default_rng(0)
    data = {}
    for field in program.fields:
        shape = (steps * field.shape[0], *field.shape[1:])
        if field.classes:
            data[field.name] = random.integers(0, field.classes, shape)
        else:
            data[field.name] = random.standard_normal(shape).astype(np.float32)
    result = program.run(data, steps=steps, lr=0.01, **options)
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
    for layer, engine, mine, cycles in engines(ours, theirs):
        if abs(mine - cycles) > ENGINE * cycles:
            wrong.append(
                f"{name}: {layer}: {engine} {mine:.0f} cycles on tdsim, {cycles:.0f} on GVSoC"
                f" ({mine / cycles - 1:+.1%})"
            )
    return wrong


def engines(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    """Busy cycles in both of each engine in each layer of more than 2% of a step."""
    for layer, measured in theirs["layers"].items():
        if measured["total"] > LAYER * theirs["cycles"]:
            for engine, cycles in measured.items():
                if engine != "total":
                    yield layer, engine, ours["layers"][layer][engine], cycles


def speed(case: Case, steps: int, gvsoc: Path) -> dict[str, float]:
    """Seconds that a case takes on both simulators, one after the other, and processor time of both."""
    program = compiled(case)
    times: dict[str, float] = {}
    for name in SIMULATORS:
        taken = []
        for _ in range(_TRIES if name == "tdsim" else 1):
            begin = [time.perf_counter(), *processor_times()]
            step(program, steps, simulator=name, gvsoc=gvsoc)
            end = [time.perf_counter(), *processor_times()]
            wall, own, child = (now - was for now, was in zip(end, begin, strict=True))
            taken.append((own + child, wall))
        times[f"{name}_processor_seconds"], times[f"{name}_seconds"] = min(taken)
    faster = times["gvsoc_processor_seconds"] / times["tdsim_processor_seconds"]
    return {**{key: round(seconds, 4) for key, seconds in times.items()}, "faster": round(faster, 1)}


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
        rows.append([f"{len(ratios)} micro-kernels, {target}", "", "", f"{worst - 1:+.1%} at worst", ""])
    for name, case in CASES.items():
        print(name, flush=True)
        program = compiled(case)
        ours = step(program, case.steps)
        theirs = step(program, case.steps, simulator="gvsoc", gvsoc=gvsoc.root)
        wrong += differences_of_steps(name, ours, theirs)
        record["steps"][name] = theirs
        a, b = ours["cycles"], theirs["cycles"]
        ratios = [mine / cycles for _, _, mine, cycles in engines(ours, theirs) if cycles]
        worst = max(ratios, key=lambda ratio: abs(ratio - 1))
        rows.append([name, f"{a:,.0f}", f"{b:,.0f}", f"{a / b - 1:+.1%}", f"{worst - 1:+.1%}"])
    # With the start of the simulators, which is most of GVSoC's time for the second.
    bound, *others = (
        Case("cct2", "pulp", recipe="blocks:2", loss="cross-entropy"),
        Case("deep-ae", "pulp-redmule"),
        Case("cct2", "pulp-redmule", recipe="blocks:2", loss="cross-entropy"),
    )
    record["speed"] = {str(case): speed(case, 1, gvsoc.root) for case in (bound, *others)}
    faster = record["speed"][str(bound)]["faster"]
    if faster < FASTER:
        wrong.append(f"{bound}: tdsim is only {faster} times faster than GVSoC")
    print(table(["", "tdsim", "GVSoC", "difference", "of an engine"], rows, "lrrrr"))
    for name, times in record["speed"].items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in times.items()))
    for line in wrong:
        print(f"DIFFERENT: {line}")
    if not wrong:
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        print(f"written: {RECORD.name}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
