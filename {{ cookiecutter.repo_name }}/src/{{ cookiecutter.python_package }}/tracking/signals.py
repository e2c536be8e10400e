"""SIGTERM ends a process at once and runs no ``finally``: close the MLflow run before that."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

_writers: list[socket.socket] = []  # one while SIGTERM is watched for
_dying = threading.Event()


def on_termination(close: Callable[[], None]) -> None:
    """Call ``close`` when SIGTERM comes, then die of it, as the process would have.

    Only where nobody else handles SIGTERM, and only from the main thread, as Python demands.
    ``close`` runs on a thread of its own while the main thread goes on: it can wait for a lock
    or a database transaction of the main thread's, and a long call into C does not delay it, as
    it would delay a handler in Python (https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd).
    """
    if (
        _writers
        or threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    if before != -1:  # an event loop has it
        signal.set_wakeup_fd(before)
        return
    signal.signal(signal.SIGTERM, _leave_it_to_the_watch)
    _writers.append(writer)
    threading.Thread(target=_wait, args=(reader, close), name="mlflow-sigterm", daemon=True).start()


def stop() -> None:
    """Undo ``on_termination``."""
    if not _writers or threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    _writers.pop().close()


def wait_if_dying() -> None:
    """If SIGTERM has come, let it end the process before the main thread does."""
    if _dying.is_set() and threading.current_thread() is threading.main_thread():
        threading.Event().wait()


def _leave_it_to_the_watch(signum: int, frame: object) -> None:
    """Python writes to the wakeup fd only for signals that have a handler.

    An event loop in a node may have taken the fd; so the watch is told from here, too.
    """
    with suppress(OSError, IndexError):
        _writers[-1].send(bytes([signum]))


def _wait(reader: socket.socket, close: Callable[[], None]) -> None:
    with reader:
        while received := reader.recv(1):  # nothing: the writer is closed
            if received[0] == signal.SIGTERM:
                _dying.set()
                _restore_default()  # so a second SIGTERM ends the process at once
                try:
                    close()
                finally:
                    os.kill(os.getpid(), signal.SIGTERM)


def _restore_default() -> None:
    # signal.signal() is for the main thread alone, which may be deep in C; what it calls is not
    # (https://docs.python.org/3/c-api/sys.html#c.PyOS_setsig).
    ctypes.pythonapi.PyOS_setsig(int(signal.SIGTERM), None)


if hasattr(os, "register_at_fork"):  # a child shares the socket, but not the run
    os.register_at_fork(after_in_child=stop)
