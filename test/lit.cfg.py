"""lit: the compiler's tests on text. Run by `make test`, or `lit test` with td-opt on PATH."""

import os
from pathlib import Path

import lit.formats

from traindeeploy.tools import find_program

config.name = "traindeeploy"  # noqa: F821
config.test_format = lit.formats.ShTest(execute_external=False)  # noqa: F821
config.suffixes = [".mlir", ".test"]  # noqa: F821
config.excludes = ["python", "Inputs"]  # noqa: F821
config.test_source_root = os.path.dirname(__file__)  # noqa: F821
config.test_exec_root = str(Path(__file__).resolve().parent.parent / "build" / "lit")  # noqa: F821

folders = []
for name in ("td-opt", "FileCheck", "mlir-translate"):
    folder = str(find_program(name).parent)
    if folder not in folders:
        folders.append(folder)
config.environment["PATH"] = os.pathsep.join([*folders, os.environ["PATH"]])  # noqa: F821
for name in ("PYTHONPATH", "TRAINDEEPLOY_DEBUG"):
    if name in os.environ:
        config.environment[name] = os.environ[name]  # noqa: F821
