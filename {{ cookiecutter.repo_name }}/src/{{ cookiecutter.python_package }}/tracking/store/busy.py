"""A busy store: few threads begin at once, and wait longer while it answers other threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

# How many threads of this process open runs in a store at the same time.
MOST_AT_ONCE = 4


@dataclass
class Deadline:
    """The ``end`` of a thread's requests; up to ``latest``, while the store answers others."""

    end: float
    seconds: float  # how long the store may answer no thread at all
    latest: float

    def extend(self, seconds: float) -> None:
        """Move the end to so many seconds later."""
        self.end += seconds
        self.latest += seconds


def postpone(deadlines: Mapping[int, Deadline]) -> None:
    """Move other threads' deadlines: a store that answers this thread is busy, not down."""
    now = time.monotonic()
    for thread, each in deadlines.items():
        if thread != threading.get_ident():
            each.end = max(each.end, min(now + each.seconds, each.latest))


class Turns:
    """Lets a few of this process's threads open runs in a store at once; the others wait.

    MLflow's server (3.17) takes 0.3 s of computing to check a password, and each of its workers
    remembers which ones are right (``auth_cache_ttl_seconds``): a hundred threads at once would
    take all of it, and find that the server does not answer in time.
    """

    def __init__(self, answers: Callable[[], int]) -> None:
        self._answers = answers  # how many requests the store has answered
        self._free = threading.BoundedSemaphore(MOST_AT_ONCE)

    @contextmanager
    def take(self, seconds: float) -> Iterator[None]:
        """Wait for a turn; go on without one if the store has answered nobody for so long."""
        before, is_mine = -1, False
        while not is_mine and before != self._answers():
            before = self._answers()
            is_mine = self._free.acquire(timeout=seconds)
        try:
            yield
        finally:
            if is_mine:
                self._free.release()
