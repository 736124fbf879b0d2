"""The command line on good input: what it prints and what it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]

MODELS = """
import torch
from torch import nn

def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)).eval(), (torch.zeros(2, 7),)
"""


@pytest.fixture
def mlp(tmp_path: Path) -> list[object]:
    """A model, its data and the options to train it."""
    (tmp_path / "models.py").write_text(MODELS)
    random = np.random.default_rng(0)
    arrays = {"input": random.standard_normal((6, 7)), "target": random.standard_normal((6, 3))}
    np.savez(tmp_path / "data.npz", **{name: value.astype(np.float32) for name, value in arrays.items()})
    return ["models:mlp", "--loss", "mse", "--momentum", 0.9]


RUN = ["--data", "data.npz", "--lr", 0.1]


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


def test_a_schedule_goes_on(cli: Command, tmp_path: Path, mlp: list[object]) -> None:
    schedule = ["--schedule", "cosine:T_max=6", "--warmup", 1]
    done = cli("train", *mlp, *RUN, *schedule, "--steps", 3, "-o", "out")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["learning_rate"] == pytest.approx([0.05, 0.1, 0.1 * (1 + np.cos(np.pi / 6)) / 2])
    run = ["run", "out", *RUN, *schedule, "--init", "out/params.npz"]
    done = cli(*run, "--steps", 4, "-o", "more")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "more" / "report.json").read_text())
    assert report["learning_rate"][-1] == pytest.approx(0.1 * (1 + np.cos(np.pi * 5 / 6)) / 2)
    assert arrays(tmp_path / "more" / "params.npz")["optimizer/steps"] == 7
    done = cli(*run, "--steps", 5, "-o", "again")
    assert done.returncode == 1
    says = "schedule cosine has 6 steps, but the run needs 7 behind a warm-up of 1, of which 3 are done"
    assert done.stderr == f"traindeeploy: error: {says}\n"


def test_train_writes_a_program_parameters_and_a_report(
    cli: Command, tmp_path: Path, mlp: list[object]
) -> None:
    done = cli("train", *mlp, *RUN, "--steps", 4, "-o", "a/b/out", "--dump-ir")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    out = tmp_path / "a" / "b" / "out"
    assert (out / "program.elf").read_bytes()[:4] == b"\x7fELF"
    borders = [path.name for path in sorted((out / "ir").iterdir())]
    assert borders == [
        "0-model.mlir",
        "1-graph.mlir",
        "2-plan.mlir",
        "3-tile.mlir",
        "4-cluster.mlir",
        "5-llvm.mlir",
        "6-program.ll",
    ]
    params = arrays(out / "params.npz")
    trained = {name: value.shape for name, value in params.items() if not name.startswith("optimizer/")}
    assert trained == {"0.weight": (5, 7), "0.bias": (5,), "2.weight": (3, 5), "2.bias": (3,)}
    assert params["optimizer/0.weight/momentum"].shape == (5, 7)
    report = json.loads((out / "report.json").read_text())
    assert report["target"] == "pulp-redmule" and report["simulator"] == "tdsim"
    assert report["steps"] == 4 and len(report["loss"]) == 4 and report["loss"][3] < report["loss"][0]
    assert report["cycles"] > 0 and report["clock_hz"] > 0
    # Forward and weight gradients of both layers, and the input's gradient of the second one.
    assert report["flop"] == 2 * 2 * (2 * (7 * 5 + 5 * 3) + 5 * 3)
    assert report["flop_per_cycle"] == pytest.approx(report["flop"] / report["cycles"])
    assert report["updates_per_second"] == pytest.approx(report["clock_hz"] / report["cycles"])
    assert report["memory"]["trained_parameters"] == report["memory"]["parameters"] == 4 * (40 + 18)
    for level in ("l1", "l2", "l3"):
        assert 0 <= report["memory"][level]["peak"] <= report["memory"][level]["capacity"]
    assert report["transfers"]["l2_to_l1"] > 0
    assert {"cores", "dma", "redmule"} <= report["engines"].keys()
    for layer in report["layers"]:
        assert layer["name"] and layer["engine"] and layer["predicted"]["total"] > 0
        assert layer["measured"]["total"] > 0


def test_compile_prints_the_plan_and_run_is_the_other_half(
    cli: Command, tmp_path: Path, mlp: list[object]
) -> None:
    compiled = cli("compile", *mlp, "-o", "program")
    assert compiled.returncode == 0, compiled.stderr
    heading = compiled.stdout.splitlines()[0]
    for word in ("operator", "engine", "tile", "bytes moved", "predicted cycles"):
        assert word in heading
    assert "lower bound" in compiled.stdout
    assert not (tmp_path / "program" / "report.json").exists()
    ran = cli("run", "program", *RUN, "--steps", 4, "-o", "ran")
    trained = cli("train", *mlp, *RUN, "--steps", 4, "-o", "trained")
    assert ran.returncode == trained.returncode == 0, ran.stderr + trained.stderr
    for name in ("program.elf", "params.npz", "report.json"):
        assert (tmp_path / "ran" / name).read_bytes() == (tmp_path / "trained" / name).read_bytes()
    # One program serves any data and learning rate, and by default its folder takes the results.
    assert cli("run", "program", "--data", "data.npz", "--lr", 0.5, "--steps", 1).returncode == 0
    assert (tmp_path / "program" / "params.npz").exists()
    assert (tmp_path / "program" / "program.elf").read_bytes() == (
        tmp_path / "ran" / "program.elf"
    ).read_bytes()


def test_init_goes_on_where_a_run_has_stopped(cli: Command, tmp_path: Path, mlp: list[object]) -> None:
    steps = [
        cli("train", *mlp, *RUN, "--shuffle", 3, "--steps", 4, "-o", "whole"),
        cli("train", *mlp, *RUN, "--shuffle", 3, "--steps", 2, "-o", "half"),
        cli("train", *mlp, *RUN, "--shuffle", 3, "--steps", 2, "--init", "half/params.npz", "-o", "half"),
    ]
    assert [step.returncode for step in steps] == [0, 0, 0]
    assert (tmp_path / "half" / "params.npz").read_bytes() == (tmp_path / "whole" / "params.npz").read_bytes()


def test_arrays_that_nothing_asks_for_are_said_and_ignored(
    cli: Command, tmp_path: Path, mlp: list[object]
) -> None:
    data = arrays(tmp_path / "data.npz")
    np.savez(tmp_path / "data.npz", **data, recorded_at=np.arange(3))
    done = cli("train", *mlp, *RUN, "--steps", 1, "-o", "out")
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1 and "recorded_at" in done.stderr


def test_the_same_input_gives_the_same_bytes(cli: Command, tmp_path: Path, mlp: list[object]) -> None:
    outputs = []
    for number, seed in enumerate(("0", "12345")):
        folder = tmp_path / f"folder{number}" / ("deep" * number)
        cache = tmp_path / f"cache{number}"
        folder.mkdir(parents=True)
        cache.mkdir()
        for name in ("models.py", "data.npz"):
            (folder / name).write_bytes((tmp_path / name).read_bytes())
        environment = {**os.environ, "PYTHONHASHSEED": seed, "XDG_CACHE_HOME": str(cache), "HOME": str(cache)}
        done = cli("train", *mlp, *RUN, "--steps", 2, "-o", "out", "--dump-ir", cwd=folder, env=environment)
        assert done.returncode == 0, done.stderr
        outputs.append(
            {path.name: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
        )
    assert outputs[0].keys() == outputs[1].keys()
    for name in outputs[0]:
        assert outputs[0][name] == outputs[1][name], name


def test_inspect_lists_what_a_recipe_trains(cli: Command, mlp: list[object]) -> None:
    done = cli("inspect", "models:mlp", "--recipe", "last:1")
    assert done.returncode == 0, done.stderr
    marks = {line.split()[1]: line.split()[-1] for line in done.stdout.splitlines() if "parameter" in line}
    assert marks == {"0.weight": "frozen", "0.bias": "frozen", "2.weight": "trained", "2.bias": "trained"}


def test_every_command_prints_json(cli: Command, tmp_path: Path, mlp: list[object]) -> None:
    def printed(*arguments: object) -> dict[str, object]:
        done = cli(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    plan = printed("compile", *mlp, "-o", "out", "--dump-ir")
    assert isinstance(plan["operators"], list) and plan["predicted_cycles"] == sum(
        operator["predicted"]["total"] for operator in plan["operators"]
    )
    report = printed("run", "out", *RUN, "--steps", 2)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert printed("train", *mlp, *RUN, "--steps", 2, "-o", "trained") == report
    assert printed("report", "out", "-o", "page.html") == {"page": "page.html"}
    assert "func.func @step" in str(printed("graph", *mlp)["graph"])
    linked = printed("link", "out/ir/6-program.ll", "-o", "linked.elf")
    assert linked == {"program": "linked.elf", "bytes": (tmp_path / "linked.elf").stat().st_size}
    found = printed("inspect", "models:mlp", "--recipe", "last:1")
    assert found["inputs"] == [{"name": "input", "shape": [2, 7]}]
    bias = {"name": "2.bias", "shape": [3], "bytes": 12, "trained": True, "recipe": "trained", "last": 1}
    assert found["parameters"][3] == {**bias, "block": None}  # type: ignore[index]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(cli: Command, tmp_path: Path, shell: str) -> None:
    done = cli("completion", shell)
    assert done.returncode == 0 and "--label-smoothing" in done.stdout
    if shell == "bash":
        (tmp_path / "completion.sh").write_text(done.stdout)
        subprocess.run(["bash", "-n", "completion.sh"], cwd=tmp_path, check=True)


def test_the_compiler_and_simulator_never_import_torch(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np, traindeeploy\n"
        "program = traindeeploy.compile('deep-ae', loss='mse', batch_size=1)\n"
        "x = np.ones((1, 640), np.float32)\n"
        "program.run({'input': x, 'target': x}, steps=1, lr=0.1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_help_and_version(cli: Command) -> None:
    for command in ([], ["train"], ["compile"], ["run"], ["inspect"]):
        done = cli(*command, "--help")
        assert done.returncode == 0 and "usage: traindeeploy" in done.stdout
    assert cli("--version").stdout.startswith("traindeeploy 0.")
