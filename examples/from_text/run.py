"""Runs an ELF on the embedded simulator with random values: python run.py program.elf TARGET."""

import sys
from pathlib import Path

import numpy as np

from traindeeploy.program import execute
from traindeeploy.target import load_target
from traindeeploy.toolchain import Elf


def main(path: str, target: str) -> None:
    elf = Path(path).read_bytes()
    random = np.random.default_rng(0)
    feed, values = {}, {}
    for buffer in Elf(elf).manifest["buffers"]:
        shape = buffer["shape"]
        if buffer["role"] == "input":
            feed[buffer["name"]] = np.asarray(
                random.integers(0, 4, shape) if buffer["type"] == "i32" else random.standard_normal(shape),
                "int32" if buffer["type"] == "i32" else "float32",
            )
        elif buffer["role"] in ("parameter", "state"):
            scale = 0.3 if buffer["role"] == "parameter" else 0.0
            values[buffer["name"]] = (scale * random.standard_normal(shape)).astype(np.float32)
    feed["lr"] = np.asarray(0.1, np.float32)
    outcome = execute(elf, load_target(target), values, [feed, feed])
    for step, (outputs, cycles) in enumerate(zip(outcome.outputs, outcome.cycles, strict=True)):
        print(f"step {step + 1}: loss {float(outputs['loss']):.6f}, {cycles:,} cycles")


if __name__ == "__main__":
    main(*sys.argv[1:])
