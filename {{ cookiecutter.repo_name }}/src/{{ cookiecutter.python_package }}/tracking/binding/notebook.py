"""Points MLflow's own functions at the project's store, in a notebook with a Kedro context."""

from __future__ import annotations

import logging
import sys
from functools import partial
from importlib.util import find_spec
from typing import Any

from ..config import ConfigError, MlflowConfig

logger = logging.getLogger(__name__)


def set_notebook(config: MlflowConfig, shell: Any) -> None:
    """Point MLflow's own functions at the project's store, for ``mlflow.start_run()`` in a cell.

    ``shell`` is IPython's, whose stop button tells no hook.
    """
    if find_spec("mlflow") is None:  # the first use of it says so
        return
    from ..delivery.opening import find_experiment
    from ..process.mlflow_globals import Default
    from ..process.state import process_state

    try:
        credentials = config.credentials
    except ConfigError as error:  # a notebook that reads data needs none
        logger.warning("MLflow gets no credentials: %s", error.message)
        credentials = {}
    find, state = partial(find_experiment, config), process_state()
    state.watch_cells(shell)
    state.set_default_store(Default(config.tracking_uri, credentials, find, _is_the_notebooks()))


def _is_the_notebooks() -> bool:
    """Whether ``%load_ext kedro.ipython`` or ``%reload_kedro`` makes the context, and no cell."""
    from ..process.active_runs import with_callers

    frames = with_callers(sys._getframe())
    return any(frame.f_globals.get("__name__") == "kedro.ipython" for frame in frames)
