"""SIGTERM ends a process at once and runs no ``finally``: MLflow runs are closed before that."""

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class TerminationWatch:
    """Calls a function when SIGTERM comes, and then lets the process die of it.

    The function runs on a thread of its own while the main thread goes on: it can wait for a lock
    of the main thread's, and a long call into C does not delay it, as it would delay a handler in
    Python (https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd).
    """

    def __init__(self) -> None:
        self._writer: socket.socket | None = None  # there while SIGTERM is watched for
        self._terminating = threading.Event()

    def start(self, close: Callable[[], None]) -> None:
        """Watch for SIGTERM, unless it has a handler or an event loop owns the wakeup fd."""
        if (
            self._writer
            or threading.current_thread() is not threading.main_thread()  # Python demands it
            or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        ):
            return
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
            reader.close()
            writer.close()
            return
        self._writer = writer
        signal.signal(signal.SIGTERM, self._handle)
        threading.Thread(
            target=self._wait, args=(reader, close), name="mlflow-sigterm", daemon=True
        ).start()

    def stop(self) -> None:
        """Leave SIGTERM to itself again."""
        if self._writer and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            self._writer.close()
            self._writer = None

    def wait_if_terminating(self) -> None:
        """If SIGTERM has come, wait for it to end the process, before the main thread does."""
        if self._terminating.is_set() and threading.current_thread() is threading.main_thread():
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
                if received[0] == signal.SIGTERM:
                    self._terminating.set()
                    _restore_default()  # so a second SIGTERM ends the process at once
                    try:
                        close()
                    finally:
                        os.kill(os.getpid(), signal.SIGTERM)


def _restore_default() -> None:
    import ctypes

    # signal.signal() is for the main thread alone, which may be deep in C; PyOS_setsig is not
    # (https://docs.python.org/3/c-api/sys.html#c.PyOS_setsig).
    ctypes.pythonapi.PyOS_setsig(int(signal.SIGTERM), None)
