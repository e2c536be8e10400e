"""While a pipeline runs: one line for each stream of metrics."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from ..process.state import process_state

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

# How often the lines change.
REFRESH_SECONDS = 0.1
# From this version on, a node may show a live display of its own (rich.progress, say) within ours;
# before, rich refuses the second one.
NESTING_RICH = (14, 1)


class LiveLines:
    """Lines below the log in a terminal, each with the step and the latest values of a dataset.

    Of several Kedro runs of a process one shows its lines: each of two would take the other's
    wrapper of standard output for the output itself, and wait for the other's lock.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._texts: dict[str, str] = {}
        self._live: Live | None = None
        self._streams: dict[str, _Watched] = {}  # by their names in sys
        self._is_mid_line = False  # a node has written half a line: a question, a progress bar
        self._next = 0.0
        self._is_over = False
        self._lock = threading.RLock()
        self._only_one = process_state().live_lines

    def update(self, name: str, latest: Callable[[], str]) -> None:
        """Show the latest of a dataset, from its second save on."""
        with self._lock:
            is_first = name not in self._texts
            is_busy = self._is_mid_line or time.monotonic() < self._next
            if self._is_over or (is_busy and not is_first):
                return
            self._texts[name] = latest()
            if is_first or not (self._streams or self._only_one.acquire(blocking=False)):
                return
            from rich.text import Text

            live = self._live or self._start()
            lines = "\n".join(f"{name}  {text}" for name, text in self._texts.items())
            live.update(Text(lines, no_wrap=True, overflow="ellipsis"), refresh=True)
            self._next = time.monotonic() + REFRESH_SECONDS

    def make_room(self, text: str) -> None:
        """Take the lines away before a node writes a text; the next update brings them back."""
        with self._lock:
            self._halt()
            if text:
                self._is_mid_line = not text.endswith("\n")

    def stop(self, for_good: bool = False) -> None:
        """Take the lines away, and watch the node's output no more."""
        with self._lock:
            self._is_over = self._is_over or for_good
            self._halt()
            self._texts.clear()
            self._is_mid_line = False
            for name, stream in self._streams.items():
                if getattr(sys, name) is stream:
                    setattr(sys, name, stream.rich_proxied_file)
            if self._streams:
                self._only_one.release()
            self._streams.clear()

    def _start(self) -> Live:
        from rich.live import Live

        if not self._streams:
            for name in ("stdout", "stderr"):
                self._streams[name] = stream = _Watched(getattr(sys, name), self)
                setattr(sys, name, stream)
        # rich's own way with a node's output is to end each line: also that of a question.
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        return self._live

    def _halt(self) -> None:
        if self._live:
            self._live.stop()
        self._live = None


class _Watched:
    """Standard output, or error, that makes room before something is written or asked there."""

    def __init__(self, stream: Any, lines: LiveLines) -> None:
        self.rich_proxied_file = stream  # rich looks for this name, and writes its lines there
        self._lines = lines

    def write(self, text: str) -> int:
        self._lines.make_room(text)
        return cast("int", self.rich_proxied_file.write(text))

    def writelines(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.write(text)

    def flush(self) -> None:
        self._lines.make_room("")  # `input` writes its question past this
        self.rich_proxied_file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def live_lines(console: Console | None) -> LiveLines | None:
    """Lines for this console; None if it is no terminal, or rich is too old."""
    if console is None or not console.is_terminal or console.is_dumb_terminal:
        return None
    rich = tuple(map(int, version("rich").split(".")[:2]))
    is_file = not getattr(console.file, "isatty", lambda: False)()  # FORCE_COLOR
    return None if is_file or console.is_jupyter or rich < NESTING_RICH else LiveLines(console)
