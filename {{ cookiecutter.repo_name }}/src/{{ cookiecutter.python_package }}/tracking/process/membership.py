"""``Membership``: what makes a worker process take part in the MLflow run of the Kedro run."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import parent_process, util
from typing import Any

from . import active_runs, mlflow_globals
from .state import process_state


@dataclass(frozen=True)
class Membership:
    """An MLflow run whose worker processes take part in it. Plain values: it is pickled to them.

    Where it is unpickled in a process that ``multiprocessing`` has started from the one that made
    it, as ParallelRunner does, a node's own MLflow calls go to the run. Nowhere else anything
    happens: a run that is unpickled later, or on another machine, may have ended.
    """

    tracking_uri: str
    run: Mapping[str, Any]  # mlflow.entities.RunInfo, by field
    process_id: int

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle; a note is taken that other processes may write to the run."""
        process_state().runs_with_workers.add(self.run["run_id"])
        return self.__dict__

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take part, if this is a worker process."""
        self.__dict__.update(state)
        parent = parent_process()
        if parent and parent.pid == self.process_id != os.getpid():
            self._take_part()

    def _take_part(self) -> None:
        """Make the run the only active one of this thread, whatever the previous task has left."""
        from mlflow import ActiveRun
        from mlflow.entities import Run, RunData, RunInfo

        state = process_state()
        if state.membership != self:
            if state.membership is None:
                active_runs.on_new_threads(_stack_of_thread)
                # MLflow's exit handler would end the run. This is called before that handler,
                # and by workers whose exit calls none (multiprocessing/process.py, _bootstrap).
                util.Finalize(None, active_runs.clear_thread, exitpriority=0)
            state.membership = self
            mlflow_globals.use_store_in_run(self.tracking_uri)
            mlflow_globals.use_experiment_in_run(self.run["experiment_id"])
        state.active_in_worker = ActiveRun(Run(RunInfo(**self.run), RunData()))
        active_runs.clear_thread(state.active_in_worker)


def _stack_of_thread() -> list[Any]:
    """The run, where Kedro is at work on a thread of a worker process, as with ``is_async``."""
    import sys

    state = process_state()
    is_kedros = any(active_runs.kedro_objects(sys._getframe()))
    return [state.active_in_worker] if is_kedros else []
