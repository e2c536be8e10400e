"""``kedro metrics sync``: writes what waits in the outbox to the store that it belongs to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import MlflowConfig
from ..names import METRICS_PER_REQUEST, OUTBOX_FILE, PARAMS_PER_REQUEST, Tag
from ..points import Point
from ..process.liveness import is_gone
from ..redaction import redact, without_credentials
from ..store.errors import TrackingError, as_tracking_error, is_outage, reason
from ..store.mlflow_store import MlflowStore, store_at
from ..store.sqlite import locked
from .drain import merged
from .outbox import Outbox, existing_outboxes, spool_store, spooled_runs
from .route import send

if TYPE_CHECKING:
    from mlflow.entities import Run

BUSY = "Another `kedro metrics sync` is running; try again when it is done."
WAITS = f"; what waits stays in {OUTBOX_FILE}, try again when the store answers"
# Tags that the target run has already, or that mean nothing there.
_NOT_COPIED = {Tag.TARGET_STORE, Tag.TARGET_RUN, Tag.EXTERNAL, Tag.MACHINE, Tag.PROCESS}
_NOT_COPIED |= {Tag.IDEMPOTENCY_KEY}


def sync(
    config: MlflowConfig,
    project_path: Path,
    report: Callable[[str], object],
    running: bool = False,
) -> bool:
    """Write all that waits to its target store; may be interrupted and repeated.

    What waits for a run of the target store is sent to it, and leaves the outbox when the store
    has confirmed it. A run that began in the outbox is written as it was: experiment, name, start
    and end, status, parameters, tags, points and artifacts. It is deleted there (``mlflow gc``
    would remove it for good) when all of its points have been read back. Returns whether nothing
    is left.

    Args:
        config: The project's, with the target store.
        project_path: The project's folder.
        report: Called with a line about each run.
        running: Whether to write runs, too, that are not known to have ended, as KILLED.
    """
    outboxes = existing_outboxes(config.outbox, project_path, config.tracking_uri)
    if not outboxes:
        report(f"Nothing to sync: there is no {OUTBOX_FILE}.")
    return all([_sync_outbox(outbox, report, running) for outbox in outboxes])


def discard(config: MlflowConfig, project_path: Path, run_id: str) -> int:
    """Forget what waits for a run; returns how many requests that were."""
    outboxes = existing_outboxes(config.outbox, project_path, config.tracking_uri)
    number = 0
    for outbox in outboxes:
        with _usable(outbox):
            number += outbox.discard(run_id)
    return number


@contextmanager
def _usable(outbox: Outbox) -> Iterator[None]:
    """Turn what goes wrong with the outbox itself into one sentence."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(
            f"{outbox.path} can't be used: {reason(error)}; mend that, or move the file away."
        ) from None


def _sync_outbox(outbox: Outbox, report: Callable[[str], object], running: bool) -> bool:
    target = store_at(outbox.target_uri)
    lock = outbox.path.with_name(f"{OUTBOX_FILE}-sync")
    lines: list[tuple[bool, str]] = []
    with _usable(outbox), locked(lock, busy=BUSY):
        for synced, line in _each(outbox, target, running):
            report(line)
            lines.append((synced, line))
    if not lines:
        report(f"Nothing to sync: {OUTBOX_FILE} has no runs that wait.")
    return all(synced for synced, _ in lines)


def _each(outbox: Outbox, target: MlflowStore, running: bool) -> Iterator[tuple[bool, str]]:
    """Write run by run; yields for each whether that succeeded, and a line for the user."""
    for store, run_id in outbox.runs():
        obstacle = _obstacle(store, target.uri)
        way_out = f"forget what waits for it with `kedro metrics sync --discard {run_id}`"
        write = partial(_send, outbox, run_id, target)
        yield _attempt(f"the run {run_id}", target, obstacle, way_out, write)
    spool = spool_store(outbox.path)
    for run in spooled_runs(outbox.path):
        tags = _tags(run, spool)
        obstacle = _obstacle(tags.get(Tag.TARGET_STORE, ""), target.uri)
        if run.info.status == "RUNNING" and not running and not is_gone(tags):
            obstacle = "it is still running, or was on another machine (then: --running)"
        way_out = f"delete the run {run.info.run_id} in {OUTBOX_FILE} with `mlflow runs delete`"
        write = partial(_write_run, run, spool, target)
        yield _attempt(str(run.info.run_name), target, obstacle, way_out, write)


def _tags(run: Run, spool: MlflowStore) -> dict[str, str]:
    """A run's tags, and its parent's: a nested run of a node's own has no store and process."""
    parent = _spooled_parent(run)
    return {**(_tags(spool.get_run(parent), spool) if parent else {}), **run.data.tags}


def _spooled_parent(run: Run) -> str | None:
    """The run around a node's own one, which began here as well; a Kedro run's is in the target."""
    return None if Tag.TARGET_STORE in run.data.tags else run.data.tags.get(Tag.PARENT_RUN)


def _obstacle(store: str, uri: str) -> str | None:
    if store and store != without_credentials(uri):
        way_out = "set 'tracking_uri' to that and sync again"
        return redact(f"it belongs to {store}, not to {without_credentials(uri)}; {way_out}")
    return None


def _attempt(
    name: str, target: MlflowStore, obstacle: str | None, way_out: str, write: Callable[[], str]
) -> tuple[bool, str]:
    """Write one run; returns whether that succeeded, and a line for the user."""
    if obstacle:
        return False, f"Left {name}: {obstacle}."
    with as_tracking_error(target.uri, WAITS):
        target.open()
        try:
            written = write()
        except Exception as error:  # its target run has been deleted, say
            if is_outage(error):
                raise
            return False, f"Left {name}: {reason(error)}. Mend that, or {way_out}."
    return True, f"Synced {name}: {written} in {redact(target.uri)}."


def _send(outbox: Outbox, run_id: str, target: MlflowStore) -> str:
    """Send what waits for a run of the target store, and end the run if its process is gone."""
    count, has_end, error = 0, False, ""
    while rows := outbox.waiting(run_id):
        for ids, request in merged(rows):
            send(request, target, run_id)
            outbox.remove(ids)
            count += len(request.points)
            if request.end:
                has_end, error = True, request.end.error
    run = target.get_run(run_id)
    if has_end and not error and Tag.ERROR in run.data.tags:
        # Another run found this run's process gone, and its end was in the outbox only.
        target.delete_tag(run_id, Tag.ERROR)
    elif run.info.status == "RUNNING" and is_gone(run.data.tags):
        target.end_run(run_id, "KILLED")
    return f"{count} points"


def _write_run(run: Run, spool: MlflowStore, target: MlflowStore) -> str:
    """Write a run that began in the outbox."""
    run_id = run.info.run_id
    run = spool.get_run(run_id)  # the run may have ended well meanwhile
    if run.info.status == "RUNNING":
        spool.end_run(run_id, "KILLED")
        run = spool.get_run(run_id)
    target_id = _target_run(run, spool, target)
    may_repeat = Tag.SHARED in target.get_run(target_id).data.tags
    count = 0
    for key in run.data.metrics:
        points = _points(spool, run_id, key)
        count += len(points)
        _write_points(target, target_id, key, points, may_repeat)
    _write_facts(run, target, target_id)
    spool.call(lambda client: client.delete_run(run_id))
    return f"{count} points, to run {target_id}"


def _target_run(run: Run, spool: MlflowStore, target: MlflowStore) -> str:
    """The id of the target run: an external one, or one that is created, once."""
    if target_id := run.data.tags.get(Tag.TARGET_RUN):
        return target_id
    tags = {key: value for key, value in run.data.tags.items() if key not in _NOT_COPIED}
    tags[Tag.IDEMPOTENCY_KEY] = run.data.tags.get(Tag.IDEMPOTENCY_KEY, run.info.run_id)
    if parent := _spooled_parent(run):
        tags[Tag.PARENT_RUN] = _target_run(spool.get_run(parent), spool, target)
    experiment = spool.call(lambda client: client.get_experiment(run.info.experiment_id))
    target_experiment = target.experiment_id(experiment.name)
    name, start = run.info.run_name, run.info.start_time
    created = target.create_run(target_experiment, tags, name, start)
    return str(created.info.run_id)


def _points(store: MlflowStore, run_id: str, key: str) -> list[Point]:
    metrics = store.call(lambda client: client.get_metric_history(run_id, key))
    return [Point(m.key, m.value, m.step, m.timestamp, m.model_id) for m in metrics]


def _write_points(
    target: MlflowStore, run_id: str, key: str, points: list[Point], may_repeat: bool
) -> None:
    """Write the points of a key that the store does not have, and check that it has them then."""
    identity = itemgetter(1, 2) if may_repeat else itemgetter(0, 1, 2)  # a try has its own time
    for is_last in (False, True):
        there = {identity(_identity(point)) for point in _points(target, run_id, key)}
        missing = [point for point in points if identity(_identity(point)) not in there]
        if not missing:
            return
        if is_last:
            raise TrackingError(f"{len(missing)} points of {key!r} were written, but are not there")
        for start in range(0, len(missing), METRICS_PER_REQUEST):
            target.log_points(run_id, missing[start : start + METRICS_PER_REQUEST])


def _identity(point: Point) -> tuple[int, int, float | None]:
    return point.timestamp, point.step, None if math.isnan(point.value) else point.value


def _write_facts(run: Run, target: MlflowStore, run_id: str) -> None:
    """Parameters, tags, artifacts and, if the target run is not an external one, the end."""
    from mlflow.utils.file_utils import local_file_uri_to_path

    there = target.get_run(run_id)
    params = [item for item in run.data.params.items() if item[0] not in there.data.params]
    external = Tag.EXTERNAL in run.data.tags
    tags = [
        (key, value)
        for key, value in run.data.tags.items()
        if key not in _NOT_COPIED and not (key.startswith("mlflow.") and key in there.data.tags)
        # An external run gets an error and the tags of mlflow.yml, as when its store answers.
        if not external or key == Tag.ERROR or not key.startswith(("kedro.", "mlflow."))
    ]
    for start in range(0, max(len(params), len(tags)), PARAMS_PER_REQUEST):
        part = slice(start, start + PARAMS_PER_REQUEST)
        target.log_params_and_tags(run_id, dict(params[part]), dict(tags[part]))
    folder = Path(local_file_uri_to_path(run.info.artifact_uri))
    if folder.is_dir() and any(folder.iterdir()):
        target.call(lambda client: client.log_artifacts(run_id, str(folder)))
    ended = there.info.status, there.info.end_time
    if not external and ended != (run.info.status, run.info.end_time):
        target.end_run(run_id, run.info.status, run.info.end_time)
