"""Pipes to a program: all arrives, in pieces of any size, and neither side waits for one that has ended."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from traindeeploy.pipes import Sink, Source


def program(code: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Runs Python on the files `in` and `out`."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, timeout=60, check=False
    )


@pytest.mark.parametrize("count", [0, 1, 3, 4096, 1_000_003])
def test_all_arrives(tmp_path: Path, count: int) -> None:
    sent = bytes(i * 7 % 251 for i in range(count))
    pieces = (sent[at : at + 99_991] for at in range(0, count, 99_991))
    received = bytearray()
    copy = "import shutil; shutil.copyfileobj(open('in', 'rb'), open('out', 'wb'), 1000)"
    with Source(tmp_path / "in", (b"x", *pieces)), Sink(tmp_path / "out", received.extend):
        assert program(copy, tmp_path).returncode == 0
    assert received == b"x" + sent


def test_pieces_are_made_as_they_are_needed(tmp_path: Path) -> None:
    made = 0

    def pieces() -> Iterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield bytes(1000)

    with Source(tmp_path / "in", pieces()):
        assert program("open('in', 'rb', buffering=0).read(500)", tmp_path).returncode == 0
    assert 1 <= made < 1000


def test_nobody_reads_or_writes(tmp_path: Path) -> None:
    begin = time.monotonic()
    with Source(tmp_path / "in", (bytes(10**6),)), Sink(tmp_path / "out", print):
        pass
    assert time.monotonic() - begin < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pipe ")]


def test_an_error_while_pieces_are_made(tmp_path: Path) -> None:
    """The program reads what there was, then the end; the error counts, not what follows from it."""

    def pieces() -> Iterator[bytes]:
        yield bytes(100_000)
        raise ValueError("no more samples")

    with pytest.raises(ValueError, match="no more samples"), Source(tmp_path / "in", pieces()):
        done = program("print(len(open('in', 'rb').read()))", tmp_path)
        assert done.stdout == b"100000\n"
        raise RuntimeError("the program read too little")


def test_an_error_while_results_are_taken(tmp_path: Path) -> None:
    """The program is not held up."""

    def take(data: bytes) -> None:
        raise ValueError("no such result")

    with pytest.raises(ValueError, match="no such result"), Sink(tmp_path / "out", take):
        assert program("open('out', 'wb').write(bytes(10**6))", tmp_path).returncode == 0
