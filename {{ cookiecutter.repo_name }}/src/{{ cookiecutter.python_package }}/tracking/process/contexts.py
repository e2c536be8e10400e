"""Which Kedro context's configuration holds: for a catalog, or else on a thread."""

import sys
import weakref
from collections.abc import Callable
from typing import Any

from .active_runs import kedro_objects
from .state import process_state


def register_context(load_config: Callable[[], Any]) -> None:
    """Take note of a context that was created on this thread, by what reads its configuration."""
    process_state().thread.load_config = load_config


def register_catalog(catalog: object) -> None:
    """Take note that a catalog is of the context that was created last on this thread."""
    if load_config := _of_thread():
        configs = process_state().configs
        configs[id(catalog)] = load_config
        weakref.finalize(catalog, configs.pop, id(catalog), None).atexit = False


def current_context() -> Callable[[], Any] | None:
    """What reads the configuration of the catalog with which Kedro is at work here.

    Else of the context that was created last on this thread, if any was.
    """
    ids = kedro_objects(sys._getframe())
    return next(filter(None, map(process_state().configs.get, ids)), None) or _of_thread()


def _of_thread() -> Callable[[], Any] | None:
    return getattr(process_state().thread, "load_config", None)
