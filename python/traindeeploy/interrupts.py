"""Ctrl-C and SIGTERM beside native code."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = {signal.SIGINT, signal.SIGTERM}


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Makes Ctrl-C and SIGTERM wait until the block has ended.

    Extension modules import others while they load, and MLIR's bindings load the classes of a dialect
    when its first op appears and call back when a pass reports: an exception that a signal handler
    raises there meets C++ frames that know none, and the process crashes. No process is to be started
    inside: it would inherit the mask.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_interrupts_arrive() -> None:
    """Lets Ctrl-C and SIGTERM that wait have their effect here, between two pieces of native code."""
    if threading.current_thread() is threading.main_thread():
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS))
