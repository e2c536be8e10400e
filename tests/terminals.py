"""A command in a real terminal: a pseudo-terminal, and what its screen shows."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pyte
from helpers import wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

# Ctrl-C reaches who has the terminal as its own.
TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"  # the cursor


class Terminal:
    """A terminal of 80 columns with a command in it, which ends with the block."""

    def __init__(
        self, *command: str | Path, cwd: Path, env: Mapping[str, str], columns: int = 80
    ) -> None:
        self.raw = b""  # what the command has written
        self.screens: list[list[str]] = []  # what was to be seen, after each piece of output
        self.screen = pyte.HistoryScreen(columns, 50, history=10_000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.settings = termios.tcgetattr(self._slave)
        os.set_blocking(self._master, False)
        environment = {**env, "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *map(str, command)],
            cwd=cwd,
            env=environment,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def type(self, text: str) -> None:
        """Type on its keyboard; ``\\x03`` is Ctrl-C."""
        os.write(self._master, text.encode())

    def read(self) -> bool:
        """Read what has been written since; whether there was something."""
        try:
            piece = os.read(self._master, 65536)
        except BlockingIOError:
            return False
        self.raw += piece
        self._stream.feed(piece)
        self.screens.append(self.rows())
        return True

    def rows(self) -> list[str]:
        """What can be seen now, without the empty rows at the end."""
        return "\n".join(row.rstrip() for row in self.screen.display).rstrip().split("\n")

    def wait_for(self, condition: Callable[[list[str]], object], seconds: float = 120) -> None:
        """Wait until the screen shows something."""

        def shown() -> bool:
            while self.read():
                if condition(self.rows()):
                    return True
            return False

        def still() -> None:
            assert self.process.poll() is None, self.raw.decode()

        wait_until(shown, seconds, still)

    def wait(self, seconds: float = 120) -> int:
        """Wait for the command's end; returns its exit status."""

        def ended() -> bool:
            while self.read():
                pass
            return self.process.poll() is not None

        wait_until(ended, seconds)
        while self.read():
            pass
        return self.process.returncode

    def text(self) -> list[str]:
        """All rows that have been on the screen, also those that have left it above."""
        above = [
            "".join(row[x].data for x in range(self.screen.columns))
            for row in self.screen.history.top
        ]
        return [row.rstrip() for row in above] + self.rows()

    @property
    def is_sane(self) -> bool:
        """Whether the cursor is visible, and the terminal is set as it was."""
        is_visible = self.raw.rfind(SHOW) >= self.raw.rfind(HIDE)
        return is_visible and termios.tcgetattr(self._slave) == self.settings
