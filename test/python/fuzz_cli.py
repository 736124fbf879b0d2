"""Mutates what the command line reads, and says where it does not end in one clear line.

Usage: python test/python/fuzz_cli.py [SEED [COUNT]]

A case is one mutation: of a file (bits, length, another file, a folder, nothing), of a value in a file of
JSON, TOML or arrays, or of an option. All run in this process, so that a case takes milliseconds. The same
seed makes the same cases.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from traindeeploy.cli import main as command
from traindeeploy.target import load_target

RUN = ["run", "program", "--data", "data.npz", "--steps", "2", "--lr", "0.1", "--max-cycles", "2000000"]
COMPILE = ["compile", "net.onnx", "--loss", "mse", "-o", "out"]

NUMBERS = [
    *("0", "-1", "1", "3", str(2**31), str(2**32), str(2**63 - 1), str(2**63), str(2**64), "9" * 400),
    *(
        "nan",
        "inf",
        "-inf",
        "1e39",
        "-1e39",
        "1e308",
        "1e-400",
        "0.5",
        "",
        " ",
        "x",
        "1_0",
        "٣",
        "0x10",
        "é\n",
    ),
]
PATHS = [
    "",
    ".",
    "..",
    "/",
    "/dev/null",
    "data.npz",
    "net.onnx",
    "program",
    "absent",
    "absent/x",
    "a" * 300,
    "é",
    "x\udcff",
]
VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 2**31, 2**64, 2**200, 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "é\u2028</script>", [], [1], [[]], {}, {"a": 1}),
]
ARRAYS = [
    np.zeros(0, np.float32),
    np.zeros((3, 0, 5), np.float32),
    np.zeros((3, 5), "U3"),
    np.zeros((3, 5), "datetime64[s]"),
    np.zeros((3, 5), [("a", "<f4"), ("b", "<i4")]),
    np.zeros((3, 5), np.complex64),
    np.full((3, 5), np.nan),
    np.full((3, 5), 1e300),
    np.asarray(2**63 - 1),
    np.asarray(2**64 - 1, np.uint64),
    np.asarray(-5),
    np.zeros((3, 5), ">f8"),
    np.zeros((1,) * 32, np.float32),
]

Case = tuple[str, list[str]]


def prepare() -> None:
    """Files that are right: a model, data, a target, a program with a run."""
    random_numbers = np.random.default_rng(0)
    weights = random_numbers.standard_normal((5, 7)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "net",
        [helper.make_tensor_value_info("x", 1, (3, 5))],
        [helper.make_tensor_value_info("y", 1, (3, 7))],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), "net.onnx")
    shapes = {"x": (6, 5), "target": (6, 7)}
    np.savez(
        "data.npz", **{k: random_numbers.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    )
    description = load_target("pulp-redmule").description
    lines = [
        f"{key} = {json.dumps(value)}" for key, value in description.items() if not isinstance(value, dict)
    ]
    for section, table in description.items():
        if section == "memory":
            for level, rows in table.items():
                lines += [
                    f"[memory.{level}]",
                    *(f"{key} = {json.dumps(value)}" for key, value in rows.items()),
                ]
        elif isinstance(table, dict):
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    Path("target.toml").write_text("\n".join(lines) + "\n")
    tomllib.loads(Path("target.toml").read_text())
    Path("names.txt").write_text("w\n")
    train = ["train", "net.onnx", "--loss", "mse", "--momentum", "0.5", *RUN[2:], "-o", "program"]
    assert command(train) == 0


def mutate_file(chance: random.Random, path: Path) -> str:
    """Changes a file in one of the ways in which files break; says how."""
    content = path.read_bytes()
    kinds = ["flip", "truncate", "empty", "folder", "absent", "noise", "longer", "other"]
    kind = chance.choice(kinds)
    if kind == "flip":
        changed = bytearray(content)
        for _ in range(chance.choice((1, 1, 1, 8))):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
    elif kind == "truncate":
        path.write_bytes(content[: chance.randrange(len(content))])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "noise":
        path.write_bytes(chance.randbytes(chance.randrange(1, 200)))
    elif kind == "longer":
        path.write_bytes(content + chance.randbytes(10))
    elif kind == "other":
        others = sorted(p for p in Path().rglob("*") if p.is_file() and p != path)
        path.write_bytes(chance.choice(others).read_bytes())
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
    return f"{path}: {kind}"


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All containers within a JSON value, each with the keys that it has."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def mutate_json(chance: random.Random, path: Path) -> str:
    """Another value, or none, at some place of a file of JSON."""
    value = json.loads(path.read_text())
    container, key = chance.choice(list(places(value)))
    if chance.random() < 0.3:
        del container[key]
        how = "nothing"
    else:
        container[key] = chance.choice(VALUES)
        how = repr(container[key])
    path.write_text(json.dumps(value))
    return f"{path}: {how} at {key!r}"


def mutate_toml(chance: random.Random, path: Path) -> str:
    """Another line in place of one."""
    lines = path.read_text().splitlines()
    at = chance.randrange(len(lines))
    name = lines[at].split("=")[0]
    value = chance.choice(
        ["-1", "0", "1", "7", "true", '""', '"é\\u0000"', "[]", "{}", "nan", "1e400", "9" * 5000, str(2**70)]
    )
    lines[at] = chance.choice(
        [f"{name}= {value}", "", "[", lines[at] + "\n" + lines[at], f"[{'a.' * 2000}a]", "x = " + "[" * 3000]
    )
    path.write_text("\n".join(lines))
    return f"{path}: {lines[at][:60]!r}"


def mutate_arrays(chance: random.Random, path: Path) -> str:
    """Another array, or none, or one more."""
    with np.load(path) as archive:
        arrays = dict(archive)
    name = chance.choice([*arrays, "other", "optimizer/samples", "optimizer/w/momentum", "../x", ""])
    arrays.pop(name, None)
    array = chance.choice([None, *ARRAYS])
    if array is not None:
        arrays[name] = array
    with contextlib.suppress(ValueError):  # names that numpy cannot write
        np.savez(path, **arrays)
    return f"{path}: {name!r} is {None if array is None else array.dtype.str + str(array.shape)}"


def option_case(chance: random.Random) -> Case:
    """An option with another value."""
    arguments = list(chance.choice([RUN, COMPILE]))
    names = {"run": ["--steps", "--lr", "--shuffle", "--start-sample", "--max-cycles", "--timeline-steps"]}
    names["compile"] = [
        *("--batch-size", "--lora-rank", "--lora-alpha", "--lora-seed", "--label-smoothing"),
        *("--dropout", "--momentum", "--loss-scale"),
    ]
    paths = {"run": ["--data", "--init", "--timeline", "--save-onnx", "-o"]}
    paths["compile"] = ["-o", "--target", "--trainable-file", "--recipe", "--trainable"]
    kind = arguments[0]
    if chance.random() < 0.6:
        name, value = chance.choice(names[kind]), chance.choice(NUMBERS)
    else:
        name, value = chance.choice(paths[kind]), chance.choice(PATHS)
    if name.startswith("--lora"):
        arguments += ["--recipe", "lora"]
    return f"{name} {value[:40]!r}", [
        *arguments,
        f"{name}={value}" if name.startswith("--") else f"{name}{value}",
    ]


def file_case(chance: random.Random) -> Case:
    """A file that is not as it should be, and a command that reads it."""
    mutations: list[tuple[Callable[[random.Random, Path], str], str, list[str]]] = [
        *((mutate_file, f"program/{name}", RUN) for name in ("program.elf", "program.json", "initial.npz")),
        *((mutate_file, f"program/{name}", RUN) for name in ("model.onnx", "SHA256SUMS")),
        (mutate_json, "program/program.json", RUN),
        (mutate_file, "data.npz", RUN),
        (mutate_arrays, "data.npz", RUN),
        (mutate_file, "program/params.npz", [*RUN, "--init", "program/params.npz"]),
        (mutate_arrays, "program/params.npz", [*RUN, "--init", "program/params.npz"]),
        (mutate_file, "program/report.json", ["report", "program"]),
        (mutate_file, "program/timeline.json", ["report", "program"]),
        (mutate_json, "program/report.json", ["report", "program"]),
        (mutate_json, "program/timeline.json", ["report", "program"]),
        (mutate_toml, "target.toml", [*COMPILE, "--target", "target.toml"]),
        (mutate_file, "target.toml", [*COMPILE, "--target", "target.toml"]),
        (mutate_file, "names.txt", [*COMPILE, "--trainable-file", "names.txt"]),
        (mutate_file, "net.onnx", COMPILE),
    ]
    mutate, path, arguments = chance.choice(mutations)
    return mutate(chance, Path(path)), arguments


def listing(folder: Path) -> dict[str, str]:
    """All files of a folder, with what they hold."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def captured(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and standard error of the command; whatever writes to the descriptor is in it."""
    saved = [os.dup(1), os.dup(2)]
    with (folder / "stdout").open("wb") as output, (folder / "stderr").open("wb") as errors:
        os.dup2(output.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        try:
            code = command(arguments)
        except SystemExit as exit:
            code = -1 if exit.code is None else int(exit.code)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, number in zip(saved, (1, 2), strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)
    return code, (folder / "stderr").read_text(errors="replace")


def wrong(code: int, errors: str, before: dict[str, str], after: dict[str, str]) -> str:
    """What is wrong with how a command ended, or nothing."""
    lines = errors.splitlines()
    said = [line for line in lines if line.startswith("traindeeploy: error: ")]
    if any(not line.startswith("traindeeploy: ") for line in lines):
        return "something else than its own lines on standard error"
    if "internal error" in errors:
        return "an internal error"
    if code not in (0, 1, 2) or len(said) != (code != 0) or (said and lines[-1] != said[0]):
        return f"exit code {code} with {len(said)} lines of error"
    return "what it has changed is left" if code and before != after else ""


def run(seed: int, count: int) -> list[str]:
    """Runs so many cases; returns what is wrong."""
    found = []
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        (root / "tmp").mkdir()
        (root / "right").mkdir()
        tempfile.tempdir = str(root / "tmp")
        os.chdir(root / "right")
        prepare()
        for number in range(seed, seed + count):
            chance = random.Random(number)
            os.chdir(root)
            shutil.rmtree("case", ignore_errors=True)
            shutil.copytree("right", "case")
            os.chdir("case")
            what, arguments = (option_case if chance.random() < 0.35 else file_case)(chance)
            before = listing(root / "case")
            code, errors = captured(arguments, root)
            problem = wrong(code, errors, before, listing(root / "case"))
            if not problem and any((root / "tmp").iterdir()):
                problem = "temporary files are left"
            if problem:
                last = errors.strip().splitlines()[-1:] or [""]
                found.append(f"{number}: {what}: {problem}: {last[0][:300]}")
        os.chdir(home)
        tempfile.tempdir = None
    return found


if __name__ == "__main__":
    seed, count = (*map(int, sys.argv[1:3]), *(0, 300)[len(sys.argv) - 1 :])
    problems = run(seed, count)
    print("\n".join(problems))
    print(f"{count} cases from seed {seed}, {len(problems)} wrong")
    sys.exit(1 if problems else 0)
