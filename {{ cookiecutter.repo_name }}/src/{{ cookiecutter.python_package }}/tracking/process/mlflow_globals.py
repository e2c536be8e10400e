"""MLflow's settings that are global in a process: store, environment, active runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import ActiveRun


def set_environment(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    """Set environment variables, None removes one; returns what they were before."""
    before = {name: os.environ.get(name) for name in variables}
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return before


def use_store(tracking_uri: str | None) -> str | None:
    """Point MLflow's own functions at a store; returns the one they were pointed at before.

    The environment stays as it is: ``mlflow.set_tracking_uri()`` writes to it, and the next
    project in this process would take that for the user's choice.
    """
    import mlflow

    variable = os.environ.get("MLFLOW_TRACKING_URI")
    before = store_in_use()
    mlflow.set_tracking_uri(tracking_uri)  # type: ignore[arg-type]  # None: as if never set
    set_environment({"MLFLOW_TRACKING_URI": variable})
    return None if before == variable else before


def store_in_use() -> str | None:
    """The store that MLflow's own functions were pointed at; None if they were not."""
    import mlflow

    return mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None


def active_run() -> tuple[str, str] | None:
    """Store and id of the run that this thread has made active with ``mlflow.start_run()``."""
    if "mlflow" not in sys.modules:  # nothing can be active
        return None
    import mlflow  # waits where another thread is still importing it

    run = mlflow.active_run()
    return (mlflow.get_tracking_uri(), run.info.run_id) if run else None


def activate(run: ActiveRun, is_ours: Callable[[str], bool]) -> list[Any]:
    """Make a run the active one of this thread, on top of ours, but not of the caller's.

    ``mlflow.start_run()`` would take three requests, and only ``mlflow.end_run()``, which closes
    the run, would undo it. Returns the thread's stack of active runs, to take the run from.
    """
    from mlflow.tracking import fluent

    stack: list[Any] = fluent._active_run_stack.get()  # MLflow has no public way to do this
    if run not in stack and all(is_ours(other.info.run_id) for other in stack):
        stack.append(run)
    return stack
