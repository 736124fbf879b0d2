"""Runs every check of the project and ends with one line that counts them.

Usage: python tools/run_tests.py    (from `make test`, which installs what it needs)

Environment: TD_TEST_JOBS, tests at a time (default: the machine's cores, at most 4).
"""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
JOBS = os.environ.get("TD_TEST_JOBS") or str(min(4, os.cpu_count() or 1))


def listed(*patterns: str) -> list[str]:
    """The files under version control that match."""
    output = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return output.stdout.split()


def run(title: str, command: list[str]) -> tuple[int, str]:
    """Runs a check, shows its output as it comes, and returns its exit code and output."""
    print(f"==> {title}", flush=True)
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    return process.wait(), "".join(lines)


def counts(output: str) -> Counter[str]:
    """Outcomes in what lit or pytest printed: "passed", "failed", "skipped"."""
    found: Counter[str] = Counter()
    lit_names = {"Passed": "passed", "Failed": "failed", "Unsupported": "skipped", "Unresolved": "failed"}
    for name, number in re.findall(r"^ +([A-Z]\w+) *: (\d+)(?: \(|$)", output, re.MULTILINE):
        if name in lit_names:
            found[lit_names[name]] += int(number)
    summary = re.findall(r"^=* ?(.*(?:passed|failed|error).* in [\d.]+s.*)$", output, re.MULTILINE)
    for number, name in re.findall(r"(\d+) (passed|failed|errors?|skipped)", summary[-1] if summary else ""):
        found["failed" if name.startswith("error") else name] += int(number)
    return found


def main() -> int:
    """Runs everything, also after a failure; returns the exit code."""
    start = time.time()
    python = [sys.executable, "-m"]
    cxx = listed("*.cpp", "*.h", "*.c")
    checks = [
        ("ruff check", [*python, "ruff", "check", "--no-cache", "."]),
        ("ruff format", [*python, "ruff", "format", "--check", "."]),
        ("mypy", [*python, "mypy"]),
        ("clang-format", ["clang-format", "--dry-run", "--Werror", *cxx]),
        ("lit", ["lit", f"-j{JOBS}", "-q" if os.environ.get("TD_TEST_QUIET") else "-s", "test"]),
        ("pytest", [*python, "pytest", "-n", JOBS, "--color=no", "test/python"]),
    ]
    total: Counter[str] = Counter()
    broken = []
    for title, command in checks:
        code, output = run(title, command)
        found = counts(output)
        total.update(found or {"failed" if code else "passed": 1})
        if code:
            broken.append(title)
            if not found["failed"]:
                total["failed"] += 1 if found else 0
    print(f"==> {'failed: ' + ', '.join(broken) if broken else 'all checks are green'}")
    line = ", ".join(f"{total[name]} {name}" for name in ("failed", "passed", "skipped") if total[name])
    print(f"===== {line} in {time.time() - start:.0f}s =====")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
