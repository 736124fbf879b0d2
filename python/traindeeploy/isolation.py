"""Work in a process of its own, so that an abort in native code ends in an error and not the user's process.

MLIR, torch-mlir and LLVM hold assertions: what they have not foreseen ends the process. So a compilation
runs in a fork of the caller, which has its model and modules at hand; what it makes comes back through a
pipe. If it is ended by a signal, it runs once more with what it works on written to a folder (`keep`) and
with the operator that it is at told (`at`), and the error names both.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import inspect
import os
import pickle
import re
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

from .errors import TrainDeeployError

P = ParamSpec("P")
T = TypeVar("T")
Message = Callable[[str], None]
Work = Callable[[Message, Message], T]
"""Gets what is told of progress and notices."""

_GRACE = 5.0
"""Seconds that an interrupted child has to clean up."""


@dataclass
class _Recording:
    """Where a repeated run keeps what it works on."""

    folder: Path
    tell: Callable[[str, Any], None]


_recording: _Recording | None = None


def isolated(load: Callable[[Any], None]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Makes a function run apart (`run_apart`); its arguments `progress` and `notice` are called here.

    load: imports what the function needs for its first argument, once for all calls.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        accepted = inspect.signature(function).parameters

        @functools.wraps(function)
        def apart(*args: P.args, **kwargs: P.kwargs) -> T:
            load(args[0] if args else kwargs.get("model"))
            told: dict[str, Any] = {name: kwargs.pop(name, _nobody) for name in ("progress", "notice")}

            def work(progress: Message, notice: Message) -> T:
                tell = {"progress": progress, "notice": notice}
                given = {name: tell[name] for name in tell if name in accepted}
                return function(*args, **kwargs, **given)  # type: ignore[arg-type]

            return run_apart(work, **told)

        return apart

    return decorate


def _nobody(text: str) -> None:
    """Is told in vain."""


def keep(name: str, content: Callable[[], str | bytes], note: str = "") -> None:
    """Where a crash is being reproduced, writes `content()` to the file `name`, instead of the one before."""
    if _recording is None:
        return
    for old in _recording.folder.iterdir():
        old.unlink()
    made = content()
    (_recording.folder / name).write_bytes(made.encode() if isinstance(made, str) else made)
    if note:
        (_recording.folder / "command").write_text(note + "\n")


def at(place: Callable[[], str]) -> None:
    """Where a crash is being reproduced, says which operator the compiler is at."""
    if _recording is not None:
        _recording.tell("at", place())


def is_recording() -> bool:
    """Whether this process reproduces a crash, so that more time may be taken to find its cause."""
    return _recording is not None


def _fork() -> int:
    """os.fork, with nothing left to print that both processes would."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # The caller's threads do not matter: the child takes none of their locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def survives(work: Callable[[], Any]) -> bool:
    """Whether `work` returns or raises, and does not end its process. For reproducing a crash."""
    child = _fork()
    if child == 0:
        global _recording
        _recording = None
        faulthandler.disable()
        with suppress(BaseException), open(os.devnull, "wb") as silence:
            os.dup2(silence.fileno(), 2)
            work()
        os._exit(0)
    return not os.WIFSIGNALED(os.waitpid(child, 0)[1])


@dataclass
class _Ended:
    """How a child ended: with an answer, or without one by a signal or an exit of native code."""

    answer: tuple[str, Any] | None = None
    status: int = 0
    said: str = ""
    """What it wrote to standard error."""
    stage: str = ""
    place: str = ""

    @property
    def signal(self) -> int:
        return os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0


def run_apart(work: Work[T], progress: Message, notice: Message) -> T:
    """Runs `work(progress, notice)` in a child and returns what it returns, or raises what it raises.

    Results and errors are pickled. With TRAINDEEPLOY_DEBUG set it runs here, for debuggers and tracebacks.
    Errors: TrainDeeployError if the child is ended by a signal.
    """
    if os.environ.get("TRAINDEEPLOY_DEBUG", "0") not in ("", "0") or not hasattr(os, "fork"):
        return work(progress, notice)
    ended = _run_child(work, progress, notice, None)
    if ended.answer is None and ended.signal in (signal.SIGKILL, signal.SIGTERM):
        raise TrainDeeployError(
            f"{_stage(ended)}the compiler was killed ({signal.Signals(ended.signal).name})"
            + ("; is there enough memory?" if ended.signal == signal.SIGKILL else "")
        )
    if ended.answer is None:
        folder = Path(tempfile.mkdtemp(prefix="traindeeploy-crash-"))
        again = _run_child(work, _nobody, _nobody, folder)
        if again.answer is None:
            (folder / "stderr").write_text(again.said or ended.said)
            raise TrainDeeployError(_explanation(again, folder))
        with suppress(OSError):  # it went well this time
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        ended = again
    assert ended.answer is not None
    kind, value = ended.answer
    if kind == "error":
        raise value
    return value  # type: ignore[no-any-return]


def _stage(ended: _Ended) -> str:
    return f"{ended.stage}: " if ended.stage else ""


def _explanation(ended: _Ended, folder: Path) -> str:
    found = re.search(r"(?:Assertion `(.*)' failed|LLVM ERROR: (.*)|Assertion failed: (.*))", ended.said)
    why = next((group for group in found.groups() if group), "") if found else ""
    name = signal.Signals(ended.signal).name if ended.signal else "itself"
    reason = f"at an assertion ({why})" if why else f"by {name}"
    place = f" at {ended.place}" if ended.place else ""
    return (
        f"{_stage(ended)}internal error: the compiler stopped {reason}{place};"
        f" what leads there is in {folder}, please report it"
    )


def _run_child(work: Work[Any], progress: Message, notice: Message, folder: Path | None) -> _Ended:
    receiver, sender = Pipe(duplex=False)
    # Values of parameters are large, and a pipe holds little: the answer goes through a file.
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as answer:
        child = _fork()
        if child == 0:
            receiver.close()
            os.dup2(said.fileno(), 2)
            _answer(work, sender, answer, folder)
        sender.close()
        ended = _Ended()
        status = None
        try:
            while ended.answer is None:
                try:
                    kind, value = receiver.recv()
                except EOFError:
                    break
                if kind == "progress":
                    ended.stage, ended.place = value, ""
                    progress(value)
                elif kind == "notice":
                    notice(value)
                elif kind == "at":
                    ended.place = value
                else:
                    answer.seek(0)
                    ended.answer = pickle.load(answer)
            status = os.waitpid(child, 0)[1]
        finally:
            receiver.close()
            if status is None:
                _stop(child)
        said.seek(0)
        ended.said = said.read().decode(errors="replace")
    ended.status = status
    if ended.answer is not None and ended.said:
        with suppress(OSError):
            os.write(2, ended.said.encode())
    return ended


def _stop(child: int) -> None:
    """Ends a child that nobody waits for, which may clean up first."""
    os.kill(child, signal.SIGINT)
    killer = threading.Timer(_GRACE, os.kill, (child, signal.SIGKILL))
    killer.start()
    try:
        os.waitpid(child, 0)
    finally:
        killer.cancel()


def _answer(work: Work[Any], sender: Connection, answer: IO[bytes], folder: Path | None) -> None:
    """The child: sends what the work tells and returns, and ends without cleaning up what is the caller's."""
    global _recording

    def tell(kind: str, value: Any) -> None:
        sender.send((kind, value))

    faulthandler.enable(2)  # what the caller has set up would not write to where this process does
    # What the caller has must not be freed here: its contexts' threads are not in this process.
    gc.freeze()
    # Nor are those of OpenMP's pool, which a child must not wait for.
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    if folder is not None:
        _recording = _Recording(folder, tell)
    try:
        try:
            made = ("result", work(lambda text: tell("progress", text), lambda text: tell("notice", text)))
        except KeyboardInterrupt:
            os._exit(1)
        except BaseException as error:
            made = ("error", _portable(error))
        pickle.dump(made, answer, pickle.HIGHEST_PROTOCOL)
        answer.flush()
        tell("answer", None)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # the caller is gone, or the result is no value
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _portable(error: BaseException) -> BaseException:
    """The error, or if it cannot be pickled one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        if isinstance(error, TrainDeeployError):
            return TrainDeeployError(str(error))
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
