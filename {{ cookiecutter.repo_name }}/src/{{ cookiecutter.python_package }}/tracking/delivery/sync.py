"""``kedro metrics sync``: writes what waits in the outbox to the store that it belongs to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..names import METRICS_PER_REQUEST, OUTBOX_FILE, PARAMS_PER_REQUEST, Tag
from ..points import Point
from ..process.liveness import is_gone
from ..redaction import redact, without_credentials
from ..store.errors import TrackingError, as_tracking_error, is_transient, reason
from ..store.mlflow_store import MlflowStore, store_at
from ..store.sqlite import locked
from .outbox import outbox_store

if TYPE_CHECKING:
    from mlflow.entities import Run

BUSY = "Another `kedro metrics sync` is running; try again when it is done."
WAITS = f"; what waits stays in {OUTBOX_FILE}, try again when the store answers"
# Tags that the target run has already, or that mean nothing there.
_NOT_COPIED = {Tag.TARGET_STORE, Tag.TARGET_RUN, Tag.EXTERNAL, Tag.MACHINE, Tag.PROCESS}
_NOT_COPIED |= {Tag.IDEMPOTENCY_KEY}


def sync(
    tracking_uri: str, project_path: Path, report: Callable[[str], object], running: bool = False
) -> bool:
    """Write every run in the outbox to its target store; may be interrupted and repeated.

    A run is written as it was: experiment, name, start and end, status, parameters, tags, points
    and artifacts. It leaves the outbox (``mlflow gc`` would remove it for good) when all of its
    points have been read back from the target store. Returns whether nothing is left.

    Args:
        tracking_uri: The target store.
        project_path: The project's folder, which has the outbox.
        report: Called with a line about each run.
        running: Whether to write runs, too, that are not known to have ended, as KILLED.
    """
    path = project_path / OUTBOX_FILE
    if not path.exists():
        report(f"Nothing to sync: there is no {OUTBOX_FILE}.")
        return True
    outbox, target = outbox_store(path), store_at(tracking_uri)
    done = True
    lock = path.with_name(f"{OUTBOX_FILE}-sync")
    with locked(lock, busy=BUSY), as_tracking_error(outbox.uri, WAITS):
        outbox.open()
        runs = outbox.search_runs()
        if not runs:
            report(f"Nothing to sync: {OUTBOX_FILE} has no runs that wait.")
        for run in runs:
            synced, line = _sync_run(run, outbox, target, running)
            report(line)
            done &= synced
    return done


def _sync_run(
    run: Run, outbox: MlflowStore, target: MlflowStore, running: bool
) -> tuple[bool, str]:
    """Write one run; returns whether it was written, and a line about it."""
    name = run.info.run_name
    if obstacle := _obstacle(run, target.uri, running):
        return False, f"Left {name}: {obstacle}."
    with as_tracking_error(target.uri, WAITS):
        target.open()
        try:
            written = _write_run(run, outbox, target)
        except Exception as error:  # its target run has been deleted, say
            if is_transient(error):
                raise
            way_out = f"delete the run {run.info.run_id} in {OUTBOX_FILE} with `mlflow runs delete`"
            return False, f"Left {name}: {reason(error)}. Mend that, or {way_out}."
    return True, f"Synced {name}: {written} in {redact(target.uri)}."


def _obstacle(run: Run, uri: str, running: bool) -> str | None:
    belongs = run.data.tags.get(Tag.TARGET_STORE)  # none: a nested run of a node's own
    if belongs and belongs != without_credentials(uri):
        way_out = "set 'tracking_uri' to that and sync again"
        return redact(f"it belongs to {belongs}, not to {without_credentials(uri)}; {way_out}")
    if run.info.status == "RUNNING" and not running and not is_gone(run.data.tags):
        return "it is still running, or was on another machine (then: --running)"
    return None


def _write_run(run: Run, outbox: MlflowStore, target: MlflowStore) -> str:
    run_id = run.info.run_id
    run = outbox.get_run(run_id)  # it may have ended well meanwhile
    if run.info.status == "RUNNING":
        outbox.end_run(run_id, "KILLED", time.time_ns() // 1_000_000)
        run = outbox.get_run(run_id)
    target_id = _target_run(run, outbox, target)
    count = 0
    for key in run.data.metrics:
        points = _points(outbox, run_id, key)
        count += len(points)
        _write_points(target, target_id, key, points)
    _write_params_and_tags(run, target, target_id)
    outbox.call(lambda client: client.delete_run(run_id))
    return f"{count} points, to run {target_id}"


def _target_run(run: Run, outbox: MlflowStore, target: MlflowStore) -> str:
    """The id of the target run; created, once, if the store was unavailable when it began."""
    if target_id := run.data.tags.get(Tag.TARGET_RUN):
        return target_id
    tags = {key: value for key, value in run.data.tags.items() if key not in _NOT_COPIED}
    tags[Tag.IDEMPOTENCY_KEY] = run.data.tags.get(Tag.IDEMPOTENCY_KEY, run.info.run_id)
    if parent := tags.get(Tag.PARENT_RUN):  # a nested run of a node's
        tags[Tag.PARENT_RUN] = _target_run(outbox.get_run(parent), outbox, target)
    experiment = outbox.call(lambda client: client.get_experiment(run.info.experiment_id))
    target_experiment = target.experiment_id(experiment.name)
    created = target.create_run(target_experiment, tags, run.info.run_name, run.info.start_time)
    return str(created.info.run_id)


def _points(store: MlflowStore, run_id: str, key: str) -> list[Point]:
    metrics = store.call(lambda client: client.get_metric_history(run_id, key))
    return [Point(m.key, m.value, m.step, m.timestamp, m.model_id) for m in metrics]


def _write_points(target: MlflowStore, run_id: str, key: str, points: list[Point]) -> None:
    """Write the points of a key that are not there, until all of them are."""
    for _ in range(3):
        there = set(map(_identity, _points(target, run_id, key)))
        missing = [point for point in points if _identity(point) not in there]
        if not missing:
            return
        for start in range(0, len(missing), METRICS_PER_REQUEST):
            target.log_points(run_id, missing[start : start + METRICS_PER_REQUEST])
    raise TrackingError(f"{len(missing)} points of {key!r} were written, but are not there.")


def _identity(point: Point) -> tuple[int, int, float | None]:
    return point.timestamp, point.step, None if math.isnan(point.value) else point.value


def _write_params_and_tags(run: Run, target: MlflowStore, run_id: str) -> None:
    """Parameters, tags, artifacts and, if the target run is not an external one, the end."""
    from mlflow.utils.file_utils import local_file_uri_to_path

    there = target.get_run(run_id)
    params = [item for item in run.data.params.items() if item[0] not in there.data.params]
    tags = [
        (key, value)
        for key, value in run.data.tags.items()
        if key not in _NOT_COPIED and not (key.startswith("mlflow.") and key in there.data.tags)
    ]
    for start in range(0, max(len(params), len(tags)), PARAMS_PER_REQUEST):
        part = slice(start, start + PARAMS_PER_REQUEST)
        target.log_params_and_tags(run_id, dict(params[part]), dict(tags[part]))
    folder = Path(local_file_uri_to_path(run.info.artifact_uri))
    if folder.is_dir() and any(folder.iterdir()):
        target.call(lambda client: client.log_artifacts(run_id, str(folder)))
    ended = there.info.status, there.info.end_time
    if Tag.EXTERNAL not in run.data.tags and ended != (run.info.status, run.info.end_time):
        target.end_run(run_id, run.info.status, run.info.end_time)
        if Tag.ERROR in there.data.tags and Tag.ERROR not in run.data.tags:
            # Another run took it for dead: its process was gone, and its end was in the outbox.
            target.call(lambda client: client.delete_tag(run_id, Tag.ERROR))
