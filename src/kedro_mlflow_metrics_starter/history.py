"""``adopt --import-history``: what Kedro-Viz's datasets have saved becomes finished MLflow runs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
from kedro.config import OmegaConfigLoader
from kedro.framework import project as kedro_project

from . import template
from .kedro_viz import Saved, is_metric
from .plan import Plan
from .project import Project
from .refusal import Refusal

FORMAT = "%Y-%m-%dT%H.%M.%S.%fZ"  # of Kedro's versions


def import_runs(plan: Plan) -> str:
    """One finished run for each Kedro run that has saved something; returns how many, in words.

    A second time nothing is imported: a run is found by its version.

    Raises:
        Refusal: A file can't be read, or the store can't be reached.
    """
    runs = _by_version(plan.history)
    config = _config(plan.project)
    tracking = template.tracking()
    store_module = tracking("store.mlflow_store")
    tracking("process.state").process_state().begin_tracking(
        config.tracking_uri, config.credentials
    )
    store = store_module.store_at(config.tracking_uri)
    number = 0
    try:
        with store.deadline():
            store.open()
            experiment = store.experiment_id(config.experiment)
        for version, saved in runs.items():
            with store.deadline():
                number += _import_run(store, experiment, config.separator, version, saved)
    except tracking("store.errors").TrackingError as error:
        raise Refusal(f"{error} Nothing of the project was changed.") from None
    return f"Imported {number} of {len(runs)} runs into the experiment {config.experiment!r}."


def _import_run(
    store: Any, experiment: str, separator: str, version: str, saved: Mapping[str, Any]
) -> bool:
    tracking = template.tracking()
    points, names = tracking("points"), tracking("names")
    began = round(_time_of(version).timestamp() * 1000)
    metrics, params = [], {}
    for dataset, content in saved.items():
        numbers, texts = _split(content)
        for key, metric in points.by_key(
            points.parse(numbers, separator), dataset, separator
        ).items():
            for step, value in enumerate(metric.values):
                metrics.append(points.Point(key, float(value), step=step, timestamp=began))
        for name, text in texts.items():
            key = points.allowed_name(f"{dataset}{separator}{name}")
            params[key] = text[: names.MAX_PARAM_LENGTH]
    tags = {names.Tag.IDEMPOTENCY_KEY: f"kedro-viz {version}", "kedro.save_version": version}
    run = store.create_run(experiment, tags, version, began)
    if run.info.status == "FINISHED":
        return False
    for at in range(0, len(metrics), names.METRICS_PER_REQUEST):
        store.log_points(run.info.run_id, metrics[at : at + names.METRICS_PER_REQUEST])
    for part in _parts(params, names.PARAMS_PER_REQUEST):
        store.log_params_and_tags(run.info.run_id, part)
    store.end_run(run.info.run_id, "FINISHED", began)
    return True


def _by_version(history: list[Saved]) -> dict[str, dict[str, Any]]:
    """What each Kedro run has saved, the oldest first."""
    runs: dict[str, dict[str, Any]] = defaultdict(dict)
    for saved in sorted(history, key=lambda saved: saved.version):
        _time_of(saved.version)
        content = saved.content()
        runs[saved.version][saved.dataset] = content if isinstance(content, dict) else {"": content}
    return runs


def _time_of(version: str) -> datetime:
    try:
        return datetime.strptime(version, FORMAT).replace(tzinfo=timezone.utc)
    except ValueError:
        raise Refusal(f"The folder {version} is not called by a time; move it away.") from None


def _split(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The numbers, which become metrics, and all else, which becomes parameters."""
    numbers: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            inner, others = _split(value)
            numbers |= {name: inner} if inner else {}
            texts |= {f"{name}.{key}": text for key, text in others.items()}
        elif is_metric(value):
            numbers[name] = value
        else:
            texts[name] = value if isinstance(value, str) else json.dumps(value)
    return numbers, texts


def _parts(params: Mapping[str, str], size: int) -> Iterator[dict[str, str]]:
    items = [*params.items()]
    for at in range(0, len(items), size):
        yield dict(items[at : at + size])


def _config(project: Project) -> Any:
    """What ``mlflow.yml`` says, as the project's runs read it."""
    # As `bootstrap_project` does, without an import of the project's settings.
    kedro_project.PACKAGE_NAME = project.name  # type: ignore[assignment]
    conf = project.path / project.conf
    loader = OmegaConfigLoader(
        str(conf), base_env=project.base_env, default_run_env=project.run_env
    )
    try:
        return template.tracking()("config").load_config(loader, Path(project.path))
    except click.ClickException as error:
        raise Refusal(error.message) from None
