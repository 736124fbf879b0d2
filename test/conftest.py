"""Fixtures that the Python tests share."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Started in the background of a script, everything ignores Ctrl-C, and so would the programs under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Programs run under checked execution, those of the command in a process of its own, too.
os.environ.setdefault("TRAINDEEPLOY_CHECK", "1")

sys.path.insert(0, str(Path(__file__).parent / "python"))


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command traindeeploy in a process of its own, in a temporary folder."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "traindeeploy", *map(str, arguments)]
        settings: dict[str, object] = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300}
        return subprocess.run(command, **{**settings, **options})  # type: ignore[call-overload,no-any-return]

    return run
