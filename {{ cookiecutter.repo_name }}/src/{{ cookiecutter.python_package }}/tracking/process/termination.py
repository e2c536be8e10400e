"""Signals that end a process at once and run no ``finally``: MLflow runs are closed before that."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType

# A scheduler's or container's SIGTERM, a closed terminal's SIGHUP, Ctrl-\'s SIGQUIT; Windows has
# not all of these signals.
_NAMES = ("SIGTERM", "SIGHUP", "SIGQUIT")
SIGNALS: Mapping[int, str] = MappingProxyType(
    {int(getattr(signal, name)): name for name in _NAMES if hasattr(signal, name)}
)
_WATCHER = "mlflow-sigterm"  # the thread that closes the runs
# A process has so many seconds to end by the signal that it sends to itself.
DEATH_SECONDS = 0.5


class TerminationWatch:
    """Calls a function when such a signal comes, and then lets the process die of it.

    The function runs on a thread of its own while the main thread goes on: it can wait for a lock
    of the main thread's, and a long call into C does not delay it, as it would delay a handler in
    Python (https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd).
    """

    def __init__(self) -> None:
        self._writer: socket.socket | None = None  # there while signals are watched for
        self._watched: list[int] = []
        self._terminating = threading.Event()

    def start(self, close: Callable[[], None]) -> None:
        """Watch for the signals that have no handler, unless an event loop owns the wakeup fd."""
        if hasattr(signal, "siginterrupt"):
            # MLflow (3.17) imports polars (2.1), if installed; with polars' handler Ctrl-C
            # wakes no thread that waits for a lock, as a runner does for its nodes.
            signal.siginterrupt(signal.SIGINT, True)
        if self._writer or threading.current_thread() is not threading.main_thread():
            return  # Python demands the main thread
        watched = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
        if not watched:
            return
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
            reader.close()
            writer.close()
            return
        self._writer, self._watched = writer, watched
        for number in watched:
            signal.signal(number, self._handle)
        threading.Thread(
            target=self._wait, args=(reader, close), name=_WATCHER, daemon=True
        ).start()

    def stop(self) -> None:
        """Leave the signals to themselves again."""
        if self._writer and threading.current_thread() is threading.main_thread():
            for number in self._watched:
                if signal.getsignal(number) == self._handle:  # and not a handler of a node's
                    signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            self._writer.close()
            self._writer = None

    def wait_if_terminating(self) -> None:
        """If a signal has come, wait for it to end the process; no thread begins or ends a run."""
        if self._terminating.is_set() and threading.current_thread().name != _WATCHER:
            threading.Event().wait()

    def _handle(self, signum: int, frame: object) -> None:
        """Python writes to the wakeup fd only for signals that have a handler.

        An event loop in a node may have taken the fd; so the watch is notified from here, too.
        """
        if writer := self._writer:
            with suppress(OSError):
                writer.send(bytes([signum]))

    def _wait(self, reader: socket.socket, close: Callable[[], None]) -> None:
        with reader:
            while received := reader.recv(1):  # nothing: the writer is closed
                number = received[0]
                if number in self._watched:
                    self._terminating.set()
                    for watched in self._watched:  # so a second signal ends the process at once
                        _restore_default(watched)
                    try:
                        close()
                    finally:
                        _die_of(number)


def _die_of(number: int) -> None:
    """End the process by a signal, or with the status that a shell gives to such an end."""
    os.kill(os.getpid(), number)
    # A container's first process goes on: the kernel sends it no signal without a handler
    # (https://man7.org/linux/man-pages/man7/pid_namespaces.7.html).
    time.sleep(DEATH_SECONDS)
    os._exit(128 + number)


def _restore_default(number: int) -> None:
    import ctypes

    # Only the main thread may call signal.signal(), and may be deep in C; any thread PyOS_setsig()
    # (https://docs.python.org/3/c-api/sys.html#c.PyOS_setsig).
    ctypes.pythonapi.PyOS_setsig(number, None)
