"""Named pipes to a simulated program: what it reads and writes takes no disk, however long it runs."""

from __future__ import annotations

import array
import fcntl
import os
import select
import termios
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

_CHUNK = 1 << 16
"""Bytes that are moved at a time."""
_EMPTIED = 0.01
"""Seconds between two looks at a pipe that the program has yet to empty."""


class _Pipe:
    """A named pipe that a thread works on until `stop`.

    Both of its ends are open here, so neither side waits for the other to open it.
    """

    def __init__(self, path: Path):
        os.mkfifo(path, 0o600)
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._woken, self._waker = os.pipe()
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, name=f"pipe {path.name}", daemon=True)

    def _guarded(self) -> None:
        try:
            self._work()
        except BaseException as error:  # it is raised where the thread is waited for
            self._error = error
            self._failed()

    def _work(self) -> None:
        """What the thread does."""
        raise NotImplementedError

    def _failed(self) -> None:
        """What it does when `_work` has raised, so that the program does not wait for ever."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the thread. What it raised is what counts: an error of the program follows from it."""
        self._stopped = True
        os.write(self._waker, b"\0")
        self._thread.join()
        for descriptor in (self._pipe, self._woken, self._waker):
            if descriptor >= 0:
                os.close(descriptor)
        if self._error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
            raise self._error from None


class Source(_Pipe):
    """Writes pieces into a pipe, as fast as the program takes them."""

    def __init__(self, path: Path, pieces: Iterable[bytes]):
        super().__init__(path)
        self._pieces = pieces

    def _work(self) -> None:
        for piece in self._pieces:
            rest = memoryview(piece)
            while rest:
                select.select([self._woken], [self._pipe], [])
                if self._stopped:
                    return
                try:
                    rest = rest[os.write(self._pipe, rest[:_CHUNK]) :]
                except BlockingIOError:
                    continue

        self._end()

    def _failed(self) -> None:
        self._end()

    def _end(self) -> None:
        """Lets the program see the end of what it reads, once it has read what there is."""
        left = array.array("i", [1])
        while left[0] and not self._stopped:
            select.select([self._woken], [], [], _EMPTIED)
            fcntl.ioctl(self._pipe, termios.FIONREAD, left)
        os.close(self._pipe)
        self._pipe = -1


class Sink(_Pipe):
    """Hands what comes out of a pipe to a function, until the program has ended."""

    def __init__(self, path: Path, take: Callable[[bytes], object]):
        super().__init__(path)
        self._take = take

    def _work(self) -> None:
        while data := self._read():
            self._take(data)

    def _failed(self) -> None:
        """Throws the rest away: the program is not to wait for us."""
        while self._read():
            pass

    def _read(self) -> bytes:
        """Waits for bytes; none are left when `stop` was called and the pipe is empty."""
        while True:
            select.select([self._pipe, self._woken], [], [])
            try:
                return os.read(self._pipe, _CHUNK)
            except BlockingIOError:
                if self._stopped:
                    return b""
