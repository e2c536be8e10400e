"""MLflow's settings that are global in a process: store, experiment, environment."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..scanning.uris import absolute

STORE = "MLFLOW_TRACKING_URI"
EXPERIMENT_ID, EXPERIMENT_NAME = "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"
RUN_ID = "MLFLOW_RUN_ID"
# As JSON, the variables that a Kedro run has set, with its value and the user's for each: processes
# that a node starts inherit this one with the others.
SET_BY_RUN = "KEDRO_MLFLOW_SET_BY_RUN"
_VARIABLES = (STORE, EXPERIMENT_ID, EXPERIMENT_NAME, RUN_ID, SET_BY_RUN)


def set_environment(variables: Mapping[str, str | None]) -> None:
    """Set environment variables; None removes one."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def environment() -> dict[str, str]:
    """A copy of the environment. ``dict(os.environ)`` fails while another thread removes one."""
    found = {name: os.environ.get(name) for name in list(os.environ)}
    return {name: value for name, value in found.items() if value is not None}


class LentVariables:
    """Environment variables that several Kedro runs set at once: the last restores the user's."""

    def __init__(self) -> None:
        self._users: Counter[str] = Counter()  # by variable
        self._before: dict[str, str | None] = {}
        self._lock = threading.Lock()

    def lend(self, variables: Mapping[str, str]) -> None:
        """Set variables, except for those that another Kedro run has set already."""
        with self._lock:
            new = {name: value for name, value in variables.items() if not self._users[name]}
            self._before |= {name: os.environ.get(name) for name in new}
            self._users.update(variables.keys())
            set_environment(new)

    def take_back(self, variables: Mapping[str, str]) -> None:
        """Undo ``lend``, also where Ctrl-C has interrupted ``lend`` before it set a variable."""
        with self._lock:
            self._users.subtract(variables.keys())
            self._users = +self._users
            unused = variables.keys() & self._before.keys() - self._users.keys()
            set_environment({name: self._before.pop(name) for name in unused})

    @contextmanager
    def lent(self, variables: Mapping[str, str]) -> Iterator[None]:
        """Set variables within the block."""
        try:
            self.lend(variables)
            yield
        finally:
            self.take_back(variables)


def user_environment() -> dict[str, str]:
    """The environment without what a Kedro run has set, in this process or in one that it is in.

    What has been set since (a node calls ``mlflow.set_tracking_uri()``) counts as the user's.
    """
    found = environment()
    for name, (value, before) in json.loads(found.pop(SET_BY_RUN, "{}")).items():
        if found.get(name) == value:
            found.pop(name, None)
            found |= {} if before is None else {name: before}
    return found


def settings_restorer() -> Callable[[], None]:
    """Take note of MLflow's settings; returns a function that restores them."""
    import mlflow
    from mlflow.tracking import fluent

    before = {name: os.environ.get(name) for name in _VARIABLES}
    store = store_in_use()
    store = None if store == before[STORE] else store
    experiment = fluent._active_experiment_id

    def restore() -> None:
        mlflow.set_tracking_uri(store)  # type: ignore[arg-type]  # None: as if never set
        fluent._active_experiment_id = experiment
        set_environment(before)

    return restore


def use_store(tracking_uri: str | None) -> None:
    """Point MLflow's own functions at a store, and leave the environment as it is.

    ``mlflow.set_tracking_uri()`` writes to it, and the next project in this process would take
    that for the user's choice.
    """
    import mlflow

    variable = os.environ.get(STORE)
    mlflow.set_tracking_uri(tracking_uri)  # type: ignore[arg-type]  # None: as if never set
    set_environment({STORE: variable})


def use_store_in_run(tracking_uri: str) -> None:
    """Point MLflow's own functions at a store, here and in processes that a node starts.

    ``MLFLOW_RUN_ID`` goes: ``mlflow.start_run(nested=True)`` would resume that run, and end it.
    """
    use_store(tracking_uri)
    _set_for_run({STORE: tracking_uri, RUN_ID: None})


def use_experiment_in_run(experiment_id: str) -> None:
    """Make an experiment the active one, here and in processes that a node starts.

    A name in the environment would have to be that experiment's (MLflow 3.17, fluent.py,
    ``_get_experiment_id_from_env``). ``mlflow.set_experiment()`` would take a request.
    """
    from mlflow.tracking import fluent

    fluent._active_experiment_id = experiment_id  # type: ignore[assignment]
    _set_for_run({EXPERIMENT_ID: experiment_id, EXPERIMENT_NAME: None})


def _set_for_run(variables: Mapping[str, str | None]) -> None:
    user = user_environment()
    set_by_run = json.loads(os.environ.get(SET_BY_RUN, "{}"))
    set_by_run |= {name: (value, user.get(name)) for name, value in variables.items()}
    # First what says what was there: another thread may resolve its run just now.
    set_environment({SET_BY_RUN: json.dumps(set_by_run), **variables})


def store_in_use() -> str | None:
    """The store that MLflow's own functions were pointed at; None if they were not."""
    import mlflow

    return mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None


def _absolute_store_in_use() -> str | None:
    uri = store_in_use()
    return uri and absolute(uri, Path.cwd())


class DefaultExperiment:
    """Tells MLflow the experiment of runs in a store for which the user has named none.

    MLflow calls this object when it needs an experiment, so no store is asked before. MLflow takes
    such objects from plugins (``mlflow.tracking.default_experiment``), and only warns if one fails.
    """

    def __init__(self, tracking_uri: str, find: Callable[[], str]) -> None:
        self.tracking_uri = tracking_uri
        self.get_experiment_id = find

    def in_context(self) -> bool:
        """Whether MLflow's own functions are pointed at that store."""
        return store_in_use() == self.tracking_uri

    def register(self) -> None:
        """Be asked by MLflow from now on."""
        self._registry().register(lambda: self)

    def unregister(self) -> None:
        """Be asked no more."""
        with suppress(ValueError):
            self._registry()._registry.remove(self)

    def _registry(self) -> Any:
        from mlflow.tracking.default_experiment import registry

        return registry._default_experiment_provider_registry


@dataclass(frozen=True)
class Default:
    """What MLflow's own functions use while no Kedro run is open: ``start_run()`` in a cell.

    Attributes:
        find_experiment: Finds the id of the experiment, when it is needed.
        is_notebooks: Whether it is of the context that Kedro has made for a notebook.
    """

    tracking_uri: str = field(repr=False)
    credentials: Mapping[str, str] = field(repr=False)
    find_experiment: Callable[[], str]
    is_notebooks: bool = False


class DefaultStore:
    """Sets MLflow's default store; to set another one first undoes the last."""

    def __init__(self) -> None:
        self._default: Default | None = None
        self._experiment: DefaultExperiment | None = None
        self._undo = ExitStack()

    def set(self, default: Default) -> None:
        """Use this one, unless the user has pointed MLflow's functions at another store.

        The default of a notebook's context stays until Kedro makes the next such context.
        """
        before = self._default
        if before and before.is_notebooks and not default.is_notebooks:
            return
        if self._experiment:
            self._experiment.unregister()
        self._default = self._experiment = None
        self._undo.close()
        # The user's choice may be the project's: by the environment.
        own = {None, default.tracking_uri, before and before.tracking_uri}
        if _absolute_store_in_use() in own:
            values = {name: os.environ.get(name) for name in default.credentials}
            self._undo.callback(set_environment, values)
            set_environment(default.credentials)
            use_store(default.tracking_uri)
            self._experiment = DefaultExperiment(default.tracking_uri, default.find_experiment)
            self._experiment.register()
            self._default = default


def active_run() -> tuple[str, str] | None:
    """Store and id of the run that this thread has made active with ``mlflow.start_run()``."""
    if "mlflow" not in sys.modules:  # nothing can be active
        return None
    import mlflow  # waits where another thread is still importing it

    run = mlflow.active_run()
    return (absolute(mlflow.get_tracking_uri(), Path.cwd()), run.info.run_id) if run else None
