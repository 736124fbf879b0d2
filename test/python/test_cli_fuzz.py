"""Mutated files and options: whatever the command line reads, it ends in one line, and leaves nothing behind.

`python test/python/fuzz_cli.py SEED COUNT` tries more.
"""

import subprocess
import sys
from pathlib import Path


def test_mutations() -> None:
    script = Path(__file__).with_name("fuzz_cli.py")
    done = subprocess.run(
        [sys.executable, str(script), "0", "200"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
