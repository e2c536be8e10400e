"""``ProcessState``: the one owner of everything that is per process."""

import atexit
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType, ModuleType
from typing import Any

from . import active_runs, mlflow_globals
from .termination import TerminationWatch

logger = logging.getLogger(__name__)

MOST_IDLE = 8  # deliveries to runs that are written to outside of Kedro runs


class ProcessState:
    """What this process knows apart from any run; the modules named here fill it."""

    def __init__(self) -> None:
        self.open_runs: list[Any] = []  # run.py: TrackedRun, while in use; threads change it
        self.deliveries: dict[Any, Any] = {}  # delivery.delivery: Delivery by destination
        self.breakers: dict[str, Any] = {}  # delivery.breaker: CircuitBreaker by the store's URI
        self.stores: dict[str, Any] = {}  # store.mlflow_store: MlflowStore by URI
        self.secrets: dict[Any, Any] = {}  # redaction.py: Secrets by project folder
        self.runs_with_workers: set[str] = set()  # process.membership, dask.runner: ids
        self.membership: Any = None  # process.membership: Membership, in a worker process
        self.active_in_worker: Any = None  # the MLflow ActiveRun in a worker process
        self.thread = threading.local()  # contexts.py: the configuration of the thread's context
        self.configs: dict[int, Any] = _keeper().configs  # contexts.py: what reads them, by catalog
        self.environment = mlflow_globals.LentVariables()
        self.termination = TerminationWatch()
        self.gc_paused_by: set[int] = set()  # ids of threads
        self.live_lines = threading.Lock()  # reports.live: of the run that shows its lines
        self._lock = threading.Lock()
        self._users: set[object] = set()
        self._credentials: Mapping[str, str] = {}
        self._tracking_uri = self._experiment_id = ""
        self._undo = ExitStack()

    def has_opened(self, run_id: str) -> bool:
        """Whether this MLflow run was opened for a Kedro run of this process, and is still open."""
        return any(run.owned_run_id == run_id for run in _all_open_runs())

    def uses(self, run_id: str) -> bool:
        """Whether a Kedro run of this process uses this MLflow run."""
        return any(run.destination and run.destination.run_id == run_id for run in _all_open_runs())

    def delivery(self, destination: Any, make: Callable[[Any], Any]) -> Any:
        """The delivery to a destination; of those that nobody has opened the last few are kept."""
        found = self.deliveries.get(destination)
        if found is None:
            found = self.deliveries.setdefault(destination, make(destination))
            for key, other in [*self.deliveries.items()][:-MOST_IDLE]:
                if not other.users and self.deliveries.get(key) is other:
                    self.deliveries.pop(key, None)
        return found

    def run_of(self, catalog_id: int) -> Any:
        """The open run of the Kedro run with this catalog; None if there is none."""
        return next((run for run in list(self.open_runs) if run.catalog_id == catalog_id), None)

    def run_in(self, frame: FrameType) -> Any:
        """The open run of the Kedro run that these frames execute; None if there is none."""
        ids = active_runs.kedro_objects(frame) if self.open_runs else ()
        return next(filter(None, map(self.run_of, ids)), None)

    def kill_open_runs(self) -> None:
        """Close every open run as KILLED."""
        for run in list(self.open_runs):
            run.close_quietly()

    def kill_interrupted_runs(self) -> None:
        """Close as KILLED the runs, also of other projects, whose session is executed no more."""
        _close_interrupted()

    def begin_tracking(
        self, tracking_uri: str, credentials: Mapping[str, str], user: object = None
    ) -> None:
        """Set the process for a store: MLflow's own functions, the environment, SIGTERM, the exit.

        MLflow's client takes its credentials from the environment. Ctrl-C may come at any point:
        each thing is registered for ``end_tracking`` to undo, and then done.
        """
        with self._lock:
            if not self._users:
                self._users.add(user)
                self._tracking_uri, self._credentials = tracking_uri, credentials
                undo = self._undo.callback
                undo(mlflow_globals.settings_restorer())
                undo(self.environment.take_back, credentials)
                self.environment.lend(credentials)
                mlflow_globals.use_store_in_run(tracking_uri)
                undo(active_runs.on_new_threads(self._stack_of_thread))
                undo(self.termination.stop)
                # Registered last, so called first: MLflow's handler ends an active run as FINISHED.
                undo(atexit.unregister, self.kill_open_runs)
                atexit.register(self.kill_open_runs)
            elif self._tracking_uri != tracking_uri:
                logger.warning(
                    "Two MLflow stores are in use at the same time in this process. The metrics"
                    " datasets write to their own; a node's own MLflow calls, to the first."
                )
            if self._credentials != credentials:
                logger.warning(
                    "Two Kedro runs of this process have different 'credentials' in mlflow.yml."
                    " MLflow takes them from the environment: while both run, those of the first."
                )
            self._users.add(user)
            self.termination.start(self.kill_open_runs)  # the first may be on another thread

    def begin_experiment(self, experiment_id: str) -> None:
        """Make an experiment the active one until ``end_tracking``, if it is the first."""
        with self._lock:
            if not self._experiment_id:
                self._experiment_id = experiment_id
                mlflow_globals.use_experiment_in_run(experiment_id)

    def end_tracking(self, user: object = None) -> None:
        """Undo ``begin_tracking``, when the last of its users has ended."""
        with self._lock:
            self._users.discard(user)
            if not self._users:
                self._experiment_id = ""
                self._undo.close()

    def set_default_store(self, default: mlflow_globals.Default) -> None:
        """Point MLflow's own functions at a store (``DefaultStore``), unless a run is open."""
        self.kill_interrupted_runs()  # an interrupted run's settings are not the user's choice
        with self._lock:  # a service may make contexts on several threads
            if not _all_open_runs():
                _keeper().default_store.set(default)

    def watch_cells(self, shell: Any) -> None:
        """Close interrupted runs before each cell of IPython: its stop button tells no hook."""
        keeper = _keeper()
        if keeper.shell is not shell:
            keeper.shell = shell
            shell.events.register("pre_run_cell", lambda *_: _close_interrupted())

    def shut_down(self) -> None:
        """Close what is open and undo what was set: another state takes over."""
        self.kill_open_runs()
        # A run that was closed on another thread has left the signal handled.
        self.termination.stop()

    def abandon(self) -> None:
        """In a forked process: the runs, and the SIGTERM that is watched for, are its parent's."""
        self.open_runs.clear()
        self.termination.stop()
        if self.gc_paused_by:  # the parent's threads, which would turn it on, are not here
            gc.enable()

    def _stack_of_thread(self) -> list[Any]:
        """MLflow's stack of active runs of this thread, which has none yet."""
        run = self.run_in(sys._getframe())
        return run.stack_of_new_thread() if run else []


def process_state() -> ProcessState:
    """The state of this process; a forked process begins with a new state."""
    states = _states()
    return states.get(ProcessState) or states.setdefault(ProcessState, ProcessState())


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the collector: objects are made by the thousand, and none is garbage."""
    if not gc.isenabled():  # turned off by the user, or by another thread in this function
        yield
        return
    paused, thread = process_state().gc_paused_by, threading.get_ident()
    paused.add(thread)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        paused.discard(thread)


@contextmanager
def gc_paused_for_import() -> Iterator[None]:
    """Pause the collector while MLflow and its store are imported.

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
# All projects of a process share that module: an interrupted run may be of another project.
_STATE_MODULE = "_metrics_tracking"


def _keeper() -> Any:
    """The module with the states by their class: objects of deleted modules go on with theirs."""
    keeper: Any = sys.modules.get(_STATE_MODULE)
    if keeper is None:
        new: Any = ModuleType(_STATE_MODULE)
        new.states, new.default_store = {}, mlflow_globals.DefaultStore()
        new.shell = None  # IPython's, whose cells are watched
        new.configs = {}  # of catalogs that live on, too, when the modules are reloaded
        keeper = sys.modules.setdefault(_STATE_MODULE, new)
        if keeper is new and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=partial(_abandon, new))
    return keeper


def _states() -> dict[type, ProcessState]:
    states: dict[type, ProcessState] = _keeper().states
    return states


def _all_open_runs() -> list[Any]:
    return [run for state in list(_states().values()) for run in list(state.open_runs)]


def _close_interrupted() -> None:
    for run in _all_open_runs():
        if run.is_interrupted():
            run.close_quietly()


def _abandon(keeper: Any) -> None:
    for state in keeper.states.values():
        state.abandon()
    keeper.states.clear()


for _kind, _state in list(_states().items()):
    if _kind.__module__ == __name__:  # of the modules that these ones replace
        _state.shut_down()
        del _states()[_kind]
