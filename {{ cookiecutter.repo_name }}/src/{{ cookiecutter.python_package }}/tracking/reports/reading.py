"""Reads metrics back: from which MLflow run, and as what."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework import project
from kedro.io import DatasetError
from kedro.utils import find_kedro_project

from ..config import MlflowConfig, current_config, load_config
from ..delivery.binding import Binding
from ..delivery.delivery import Delivery
from ..delivery.route import Destination
from ..names import best_start
from ..process.mlflow_globals import active_run
from ..process.state import process_state
from ..store.errors import TrackingError
from .rules import Rule
from .runs import NotFoundError, Runs, catalog_rules

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run

    from ..store.queries import History


@contextmanager
def access(may_look: bool = False) -> Iterator[None]:
    """With the project's credentials, which MLflow's client takes from the environment.

    A Kedro run has set them already, and its worker processes inherit them. ``may_look``: also of
    the project around the current folder.
    """
    state = process_state()
    config = current_config()  # also within a Kedro run: another run's end may undo its variables
    if config is None and may_look and not state.open_runs:
        config = _project_config()
    credentials = config.credentials if config else {}
    with state.environment.lent(credentials):
        yield


def unbound(prefix: str, run_id: str | None, key: str | None) -> Binding:
    """A binding made without the hook: to ``run_id`` in the project's store, or the active run.

    Raises:
        DatasetError: There is none.
    """
    config = current_config()
    destination = _run_at_hand(run_id, config)
    if destination is None:
        raise DatasetError(
            f"The metrics dataset {_name(prefix, key)!r} has no MLflow run;"
            " use it in a pipeline or inside `with mlflow.start_run():`, or give it a 'run_id'."
        )
    separator = config.separator if config else "."
    return Binding(_name(prefix, key), prefix, separator, destination, key=key)


def bound_to_read(  # noqa: PLR0913
    prefix: str,
    run_id: str | None,
    name: str | None,
    rules: Sequence[Rule],
    key: str | None = None,
    *,
    last: Run | None = None,
) -> Binding:
    """A binding to the run to read: the one that ``name`` means (see ``Runs.find``).

    Without a name it is the run with this id, else the active run, else the last finished one that
    has the metrics. ``last``: the run that the name "last" means; the newest if None.

    Raises:
        DatasetError: There is none.
    """
    config = current_config() or _project_config()
    if config is None and name:
        raise DatasetError(
            f"In which store the MLflow run {name!r} is, which the metrics dataset"
            f" {_name(prefix, key)!r} reads, nothing says here; load it within a Kedro project."
        )
    if config is None:  # outside of a Kedro project
        return unbound(prefix, run_id, key)
    destination = None if name else _run_at_hand(run_id, config)
    binding = Binding(_name(prefix, key), prefix, config.separator, destination, key=key)
    if destination is None:
        own = [replace(rule, start=binding.start) for rule in rules]
        runs = Runs(config, [*catalog_rules(config), *own] if name else own, last)
        try:
            with runs.reading():
                found = runs.find(name).info.run_id if name else runs.last_with(binding)
        except NotFoundError as error:
            what = f"The metrics dataset {binding.name!r} can't be read"
            raise DatasetError(f"{what}: {error}") from None
        return replace(binding, destination=Destination(config.tracking_uri, found))
    return binding


def with_named_source(
    binding: Binding, run_id: str | None, name: str, rules: Sequence[Rule], last: Run | None
) -> Binding:
    """The binding, with the run of this name as its source; or with why there is no such run."""
    try:
        named = bound_to_read(binding.prefix, run_id, name, rules, binding.key, last=last)
    except (DatasetError, TrackingError) as error:
        return replace(binding, no_source=str(error))
    return replace(binding, sources=(named.destination,) if named.destination else ())


def _name(prefix: str, key: str | None) -> str:
    """What to call a dataset that no pipeline has named."""
    return prefix or key or "(without a prefix)"


def _run_at_hand(run_id: str | None, config: MlflowConfig | None) -> Destination | None:
    if run_id and config:
        return Destination(config.tracking_uri, run_id)
    if run_id:
        import mlflow  # outside of a Kedro project

        return Destination(mlflow.get_tracking_uri(), run_id)
    active = active_run()
    return Destination(*active) if active else None


def _deliveries(binding: Binding) -> list[Delivery]:
    """The runs to read, the first that has what is wanted; this process may write to one."""
    if binding.no_source:
        raise DatasetError(binding.no_source)
    runs = [*filter(None, binding.sources or [binding.destination])]
    if not runs:
        raise DatasetError(f"{binding.name!r} has no metrics: mlflow.yml says 'track: never'.")
    open_ones: dict[tuple[str, str], Delivery] = {
        (own.tracking_uri, own.run_id): delivery
        for own, delivery in [*process_state().deliveries.items()]
    }
    return [open_ones.get((run.tracking_uri, run.run_id)) or Delivery(run) for run in runs]


def points_of(binding: Binding) -> tuple[str, History]:
    """The id of the first run that has the metrics, and their points by key, in step order."""
    best, run_id = best_start(binding.separator), ""
    for delivery in _deliveries(binding):
        found, run_id = delivery.histories(binding.start), delivery.destination.run_id
        # The best values have keys of their own.
        own = filter(binding.has, found)
        keys = [key for key in own if (bare := key.removeprefix(best)) == key or bare not in found]
        if keys:
            may_repeat = delivery.destination.may_repeat
            return run_id, {key: _in_step_order(found[key], may_repeat) for key in keys}
    return run_id, {}


def _in_step_order(
    points: list[tuple[int, int, float]], may_repeat: bool
) -> list[tuple[int, int, float]]:
    """Points by step; where an earlier try may have written some of them, the latest of each."""
    if may_repeat:
        latest = {step: timestamp for timestamp, step, _ in sorted(points)}
        points = [point for point in points if point[0] == latest[point[1]]]
    return sorted(points, key=lambda point: point[1])


def exists(binding: Binding) -> bool:
    """Whether a run has the metrics."""
    from mlflow.exceptions import MlflowException

    try:
        keys = [key for delivery in _deliveries(binding) for key in delivery.last_steps()]
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return any(map(binding.has, keys))


def shaped(points: list[tuple[int, int, float]]) -> dict[str, Any] | list[dict[str, Any]]:
    """Points in the shape in which a node returns them."""
    shaped = [{"value": value, "step": step} for _, step, value in points]
    return shaped[0] if len(shaped) == 1 else shaped


def frame(run_id: str, history: History) -> pd.DataFrame:
    """One row a point: key, step, value, timestamp, run."""
    import pandas as pd

    rows = [
        (key, step, value, timestamp, run_id)
        for key, points in history.items()
        for timestamp, step, value in points
    ]
    table = pd.DataFrame(rows, columns=["key", "step", "value", "timestamp", "run"])
    table["timestamp"] = pd.to_datetime(table["timestamp"], unit="ms", utc=True, errors="coerce")
    return table


def figure(run_id: str, history: History) -> dict[str, Any]:
    """Curves, as Plotly draws them."""
    curves = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": key,
            "x": [step for _, step, _ in points],
            "y": [value for _, _, value in points],
        }
        for key, points in history.items()
    ]
    layout = {"title": {"text": f"MLflow run {run_id[:8]}"}, "xaxis": {"title": {"text": "step"}}}
    return {"data": curves, "layout": layout}


def _project_config() -> MlflowConfig | None:
    """The configuration of the project around the current folder, without its hooks, if any.

    For who builds a catalog without them: Kedro-Viz, or a script.
    """
    settings = project.settings
    path = find_kedro_project(Path.cwd())
    if path is None or project.PACKAGE_NAME is None:
        return None
    loader = settings.CONFIG_LOADER_CLASS(
        conf_source=str(path / settings.CONF_SOURCE),
        env=os.environ.get("KEDRO_ENV"),
        **settings.CONFIG_LOADER_ARGS,
    )
    return load_config(loader, path)
