"""``ProcessState``: the one owner of everything that is per process."""

import atexit
import gc
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from . import mlflow_globals
from .termination import TerminationWatch

logger = logging.getLogger(__name__)


class ProcessState:
    """What this process knows apart from any run; the modules named here fill it."""

    def __init__(self) -> None:
        self.open_runs: list[Any] = []  # run.py: TrackedRun, while a Kedro run uses it
        self.deliveries: dict[Any, Any] = {}  # delivery.delivery: Delivery by destination
        self.breakers: dict[str, Any] = {}  # delivery.route: CircuitBreaker by the store's URI
        self.stores: dict[str, Any] = {}  # store.mlflow_store: MlflowStore by URI
        self.secrets: dict[Any, Any] = {}  # redaction.py: Secrets by project folder
        self.thread = threading.local()  # config.py: the configuration of the thread's context
        self.termination = TerminationWatch()
        self._lock = threading.Lock()
        self._users = 0
        self._tracking_uri = ""
        self._default_uri: str | None = None
        self._undo = ExitStack()
        self._undo_default = ExitStack()

    def has_opened(self, run_id: str) -> bool:
        """Whether this MLflow run was opened for a Kedro run of this process, and is still open."""
        return any(run.owned_run_id == run_id for run in self.open_runs)

    def kill_open_runs(self) -> None:
        """Close every open run as KILLED."""
        for run in list(self.open_runs):
            run.close_quietly()

    def begin_tracking(self, tracking_uri: str, credentials: Mapping[str, str]) -> None:
        """Set the process for a store: MLflow's own functions, the environment, SIGTERM, the exit.

        MLflow's client takes its credentials from the environment.
        """
        with self._lock:
            if self._users == 0:
                self._tracking_uri = tracking_uri
                undo = self._undo.callback
                undo(mlflow_globals.set_environment, mlflow_globals.set_environment(credentials))
                undo(mlflow_globals.use_store, mlflow_globals.use_store(tracking_uri))
                self.termination.start(self.kill_open_runs)
                undo(self.termination.stop)
                # Registered after MLflow's own exit handler, which closes an active run as
                # FINISHED; so called before it.
                atexit.register(self.kill_open_runs)
                undo(atexit.unregister, self.kill_open_runs)
            elif self._tracking_uri != tracking_uri:
                logger.warning(
                    "Two MLflow stores are in use at the same time in this process. The metrics"
                    " datasets write to their own; a node's own MLflow calls, to the first."
                )
            self._users += 1

    def end_tracking(self) -> None:
        """Undo ``begin_tracking``, if this is the last of those who called it."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._undo.close()

    def set_default_store(self, tracking_uri: str, credentials: Mapping[str, str]) -> None:
        """Point MLflow's own functions at a store, unless the user has pointed them at another."""
        if mlflow_globals.store_in_use() in (None, self._default_uri):
            self._undo_default.close()
            undo = self._undo_default.callback
            undo(mlflow_globals.set_environment, mlflow_globals.set_environment(credentials))
            mlflow_globals.use_store(tracking_uri)
            self._default_uri = tracking_uri

    def shut_down(self) -> None:
        """Close what is open and undo what was set: another state takes over."""
        self.kill_open_runs()
        if self._default_uri and mlflow_globals.store_in_use() == self._default_uri:
            mlflow_globals.use_store(None)
        self._undo_default.close()
        # A run that was closed on another thread has left the signal handled.
        self.termination.stop()

    def abandon(self) -> None:
        """In a forked process: the runs, and the SIGTERM that is watched for, are its parent's."""
        self.open_runs.clear()
        self.termination.stop()


def process_state() -> ProcessState:
    """The state of this process; a forked process begins with a new one."""
    states = _states()
    return states.get(ProcessState) or states.setdefault(ProcessState, ProcessState())


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause Python's garbage collector: objects are made by the thousand, and none is garbage."""
    if not gc.isenabled():  # the user has turned it off
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def gc_paused_for_import() -> Iterator[None]:
    """Pause the garbage collector while MLflow and its store are imported.

    They are 360,000 objects that stay; to traverse them again and again took 0.2 s of 1.3 s (MLflow
    3.17). To freeze and unfreeze moves them to the oldest generation; each alone would cost later.
    """
    with gc_paused():
        yield
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()


# IPython's `%reload_kedro` deletes the project's modules, all whose names begin with the package's
# (kedro.ipython._remove_cached_modules): what has to survive it is in a module of another name.
_STATE_MODULE = "_metrics_tracking_of_" + __name__.partition(".")[0]


def _states() -> dict[type, ProcessState]:
    """The state by its class: objects of deleted modules go on with theirs."""
    keeper: Any = sys.modules.get(_STATE_MODULE)
    if keeper is None:
        new: Any = ModuleType(_STATE_MODULE)
        new.states = {}
        keeper = sys.modules.setdefault(_STATE_MODULE, new)
        if keeper is new and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=partial(_abandon, new.states))
    states: dict[type, ProcessState] = keeper.states
    return states


def _abandon(states: dict[type, ProcessState]) -> None:
    for state in states.values():
        state.abandon()
    states.clear()


for _kind, _state in list(_states().items()):  # of the modules that these ones replace
    _state.shut_down()
    del _states()[_kind]
