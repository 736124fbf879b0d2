"""What is installed: the wheel's content, its commands, and nothing that it should not need."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import traindeeploy
from traindeeploy.tools import find_program

PACKAGE = Path(traindeeploy.__file__).parent


def test_td_opt_lists_the_pipelines() -> None:
    text = subprocess.run(
        [find_program("td-opt"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    for border in ("graph", "plan", "tile", "cluster", "llvm", "compile"):
        assert f"--td-{border}" in text


def test_the_package_has_its_parts() -> None:
    for pattern in (
        "_td.*.so",
        "_tdsim.*.so",
        "targets/pulp-redmule.toml",
        "targets/pulp.toml",
        "dialects/_*_ops_gen.py",
    ):
        assert list(PACKAGE.glob(pattern)), pattern


def test_the_package_is_small() -> None:
    size = sum(path.stat().st_size for path in PACKAGE.rglob("*") if path.suffix != ".pyc" and path.is_file())
    assert size < 16 << 20


def test_torch_is_an_extra() -> None:
    required = metadata.requires("traindeeploy") or []
    torch = [line for line in required if line.replace(" ", "").startswith("torch==")]
    assert torch and all("extra" in line for line in torch)


def test_importing_the_package_is_cheap() -> None:
    script = "import sys, traindeeploy.cli; print(sorted({'torch', 'mlir', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
