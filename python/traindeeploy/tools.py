"""Programs that the compiler and its tests run: where they are installed."""

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from .errors import TrainDeeployError


def _folders() -> list[Path]:
    """Where the wheels put their programs, without importing them."""
    folders = [Path(__file__).parent / "bin"]
    for package in ("llvm", "mlir"):
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            folders.append(Path(place) / "bin")
    return folders


def find_program(name: str) -> Path:
    """The path of td-opt or of a tool of the llvm and mlir wheels, or else of PATH.

    Raises TrainDeeployError when it is nowhere.
    """
    for folder in _folders():
        if (folder / name).is_file():
            return folder / name
    # A build tree puts td-opt on PATH; this launcher itself is there, too, when installed.
    launcher = Path(sys.argv[0]).absolute()
    found = shutil.which(name)
    if found and Path(found).absolute() != launcher:
        return Path(found)
    raise TrainDeeployError(f"{name} is not installed; `pip install traindeeploy` brings it")


def td_opt() -> None:
    """Entry point of the installed command td-opt: becomes the compiled program."""
    try:
        program = str(find_program("td-opt"))
    except TrainDeeployError as error:
        sys.exit(f"td-opt: error: {error}")
    os.execv(program, [program, *sys.argv[1:]])
