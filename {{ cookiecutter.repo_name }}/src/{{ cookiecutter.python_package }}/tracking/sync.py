"""``kedro metrics sync``: brings home what waits in the spool."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .client import ORIGIN, PARAMS_PER_REQUEST, connect, end_run, experiment_id, make_run
from .errors import TrackingError, explained, reason
from .liveness import ERROR, MACHINE, PROCESS, is_gone
from .patience import AT_START, is_passing, patiently
from .redaction import public, redact
from .spool import FILE, GIVEN, HOME, HOME_RUN, spooled_runs
from .sqlite import LOCKED, locked, prepare
from .store import METRICS_PER_REQUEST

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

    from .config import MlflowConfig

PARENT = "mlflow.parentRunId"
WAITS = f"; what waits stays in {FILE}, try again when it is there"
# Tags that a run at home has already, or that mean nothing there.
_OWN = {HOME, HOME_RUN, GIVEN, ORIGIN, MACHINE, PROCESS}


def sync(
    config: MlflowConfig,
    project_path: Path,
    tell: Callable[[str], object],
    *,
    running: bool = False,
) -> bool:
    """Bring every spooled run to the store that it belongs to; may be interrupted and repeated.

    A run is written as it was: experiment, name, start and end, status, parameters, tags, points
    and artifacts. It leaves the spool (``mlflow gc`` would remove it for good) when all of its
    points have been read back at home.

    Args:
        config: Of the store, as in ``mlflow.yml``.
        project_path: The project's folder, which has the spool.
        tell: Called with a line about each run.
        running: Whether to bring runs, too, that are not known to have ended, as KILLED.

    Returns:
        Whether nothing is left in the spool.

    Raises:
        TrackingError: A store can't be reached or opened.
    """
    path = project_path / FILE
    if not path.exists():
        tell(f"Nothing to bring home: there is no {FILE}.")
        return True
    uri, spool_uri = config.tracking_uri, f"sqlite:///{path.as_posix()}"
    done = True
    with _alone(path), explained(spool_uri, WAITS):
        prepare(spool_uri)
        spool = connect(spool_uri)
        runs = spooled_runs(spool)
        if not runs:
            tell(f"Nothing to bring home: {FILE} has no runs that wait.")
        for run in runs:
            if obstacle := _obstacle(run, uri, running=running):
                tell(f"Left {run.info.run_name}: {obstacle}.")
                done = False
                continue
            with explained(uri, WAITS):
                prepare(uri)
                try:
                    brought = _bring(run, spool, connect(uri))
                except Exception as error:
                    if is_passing(error):
                        raise
                    # Its run at home has been deleted, say.
                    tell(
                        f"Left {run.info.run_name}: {reason(error)}. Mend that, or delete the run"
                        f" {run.info.run_id} in {FILE} with `mlflow runs delete`."
                    )
                    done = False
                    continue
            tell(f"Brought {run.info.run_name}: {brought} in {redact(uri)}.")
    return done


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    import sqlite3

    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path.with_name(f"{FILE}-sync"), LOCKED))
        except sqlite3.OperationalError:
            raise TrackingError(
                "Another `kedro metrics sync` is running; try again when it is done."
            ) from None
        yield


def _obstacle(run: Run, uri: str, *, running: bool) -> str | None:
    belongs = run.data.tags.get(HOME)  # none: a node has made it, within a run that has one
    if belongs and belongs != public(uri):
        told = f"it belongs to {belongs}, not to {public(uri)}; set 'tracking_uri' to that and sync"
        return redact(f"{told} again")
    if run.info.status == "RUNNING" and not running and not is_gone(run.data.tags):
        return "it is still running, or was on another machine (then: --running)"
    return None


def _bring(run: Run, spool: MlflowClient, home: MlflowClient) -> str:
    run = spool.get_run(run.info.run_id)  # it may have ended well meanwhile
    if run.info.status == "RUNNING":
        end_run(spool, run.info.run_id, "KILLED")
        run = spool.get_run(run.info.run_id)
    home_id = _at_home(run, spool, home)
    points = 0
    for key in run.data.metrics:
        history = spool.get_metric_history(run.info.run_id, key)
        points += len(history)
        _bring_points(home, home_id, key, history)
    _bring_facts(run, home, home_id)
    spool.delete_run(run.info.run_id)
    return f"{points} points, to run {home_id}"


def _at_home(run: Run, spool: MlflowClient, home: MlflowClient) -> str:
    """The id of the run at home; made there, once, if the store was away when it began."""
    if home_id := run.data.tags.get(HOME_RUN):
        return home_id
    experiment = spool.get_experiment(run.info.experiment_id).name
    tags = {key: value for key, value in run.data.tags.items() if key not in _OWN}
    tags[ORIGIN] = run.data.tags.get(ORIGIN, run.info.run_id)
    if parent := tags.get(PARENT):  # a nested run of a node's
        tags[PARENT] = _at_home(spool.get_run(parent), spool, home)
    made = make_run(
        home,
        patiently(lambda: experiment_id(home, experiment), AT_START),
        tags,
        run_name=run.info.run_name,
        start_time=run.info.start_time,
    )
    return str(made.info.run_id)


def _bring_points(home: MlflowClient, home_id: str, key: str, history: list[Metric]) -> None:
    """Write the points of a key that are not there, until all of them are."""
    for _ in range(3):
        there = {_point(p) for p in patiently(lambda: home.get_metric_history(home_id, key))}
        missing = [point for point in history if _point(point) not in there]
        if not missing:
            return
        for start in range(0, len(missing), METRICS_PER_REQUEST):
            batch = missing[start : start + METRICS_PER_REQUEST]
            patiently(partial(home.log_batch, home_id, metrics=batch, synchronous=True))
    raise TrackingError(f"{len(missing)} points of {key!r} were written, but are not there.")


def _point(metric: Metric) -> tuple[int, int, float | None]:
    return metric.timestamp, metric.step, None if math.isnan(metric.value) else metric.value


def _bring_facts(run: Run, home: MlflowClient, home_id: str) -> None:
    """Parameters, tags, artifacts and, if the run is not another's, the end."""
    from mlflow.entities import Param, RunTag
    from mlflow.utils.file_utils import local_file_uri_to_path

    there = patiently(lambda: home.get_run(home_id))
    params = [Param(k, v) for k, v in run.data.params.items() if k not in there.data.params]
    tags = [
        RunTag(key, value)
        for key, value in run.data.tags.items()
        if key not in _OWN and not (key.startswith("mlflow.") and key in there.data.tags)
    ]
    for start in range(0, max(len(params), len(tags)), PARAMS_PER_REQUEST):
        part = slice(start, start + PARAMS_PER_REQUEST)
        patiently(partial(home.log_batch, home_id, params=params[part], tags=tags[part]))
    folder = Path(local_file_uri_to_path(run.info.artifact_uri))
    if folder.is_dir() and any(folder.iterdir()):
        patiently(lambda: home.log_artifacts(home_id, str(folder)))
    ended = there.info.status, there.info.end_time
    if GIVEN not in run.data.tags and ended != (run.info.status, run.info.end_time):
        patiently(partial(end_run, home, home_id, run.info.status, run.info.end_time))
        if ERROR in there.data.tags and ERROR not in run.data.tags:
            # Another run took it for dead: its process was gone, and its end was here.
            patiently(lambda: home.delete_tag(home_id, ERROR))
