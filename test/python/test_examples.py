"""The examples run as their documentation says."""

import os
import subprocess
import sys

import pytest

from examples_path import EXAMPLES


def run(*command, folder=None):
    """Output of a command that must succeed; this interpreter's programs come first on its PATH."""
    paths = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_own_pipeline():
    lines = run(sys.executable, EXAMPLES / "own_pipeline.py", "deep-ae", "--recipe", "last:2").splitlines()
    assert lines[2].split()[0] == "fused" and lines[3].split()[:2] == ["not", "fused"]
    assert int(lines[2].split()[1]) < int(lines[3].split()[2])


def test_from_text_to_an_elf_without_the_driver(tmp_path):
    output = run("sh", EXAMPLES / "from_text" / "build.sh", tmp_path / "out", folder=tmp_path)
    first, second = (float(line.split("loss ")[1].split(",")[0]) for line in output.splitlines())
    assert second < first
    assert (tmp_path / "out" / "program.elf").read_bytes()[:4] == b"\x7fELF"
    assert "tile.group" in (tmp_path / "out" / "2-plan.mlir").read_text()


def test_digits():
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    script = [sys.executable, EXAMPLES / "digits.py", "--epochs", "0", "--steps", "4", "--measured", "5"]
    output = run(*script, "--recipe", "blocks:1")
    last = output.splitlines()[-2:]
    assert last[0].split("loss")[1] == last[1].split("loss")[1], last
    assert "steps on the SoC" in run(*script, "--recipe", "lora:1")
