"""``adopt --from-kedro-mlflow``: what a project has of the plugin kedro-mlflow becomes ours."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from . import dependencies, template
from .conversion import catalogs, convert_entries
from .entries import Edits, Entry, as_yaml
from .plan import Plan
from .project import PYPROJECT, Project
from .refusal import Refusal
from .source import imports

NAME, MODULE = "kedro-mlflow", "kedro_mlflow"
# Kedro knows a plugin by the name in its metadata: of kedro-mlflow 2.0 that is its module's.
PLUGINS = f'"{MODULE}", "{NAME}"'
METRICS = re.compile(
    rf"{MODULE}\.io\.metrics(\.\w+)?\.Mlflow(Metric|MetricHistory|MetricsHistory|Metrics)Data[sS]et"
)
# What a mlflow.yml of kedro-mlflow (2.0) says besides, and how else it is done; its defaults are
# those of no effect.
WITHOUT_COUNTERPART: Mapping[str, tuple[object, str]] = {
    "server.mlflow_registry_uri": (None, "set MLFLOW_REGISTRY_URI"),
    "server.request_header_provider.type": (None, "register it as a plugin of MLflow's"),
    "tracking.disable_tracking.pipelines": ([], "a pipeline without metrics opens no run"),
    "tracking.disable_tracking.disable_autologging": (True, "call mlflow.autolog() yourself"),
    "tracking.experiment.create_experiment_kwargs.artifact_location": (
        None,
        "make the experiment with `mlflow experiments create` first",
    ),
    "tracking.experiment.create_experiment_kwargs.tags": (None, "`tags` are those of runs"),
    "tracking.experiment.restore_if_deleted": (True, "use `mlflow experiments restore`"),
    "tracking.run.id": (None, "use --params=mlflow_run_id=ID or MLFLOW_RUN_ID"),
    "tracking.run.nested": (True, "runs in nodes are nested"),
    "tracking.params.dict_params.sep": (".", "nested parameters are joined by a dot"),
    "tracking.params.long_params_strategy": ("fail", "long values are cut, with a warning"),
    "ui.port": ("5000", "use kedro metrics ui --port"),
    "ui.host": ("127.0.0.1", "kedro metrics ui serves on 127.0.0.1"),
}


def check(project: Project, *, converting: bool) -> None:
    """Refuse a project in which two hooks would open an MLflow run each.

    Raises:
        Refusal: kedro-mlflow is there, and active, or registered by the project itself.
    """
    settings = f"{project.package}/settings.py"
    if project.imports(MODULE):
        raise Refusal(f"{settings} imports {MODULE} itself; take that out, then adopt.")
    if converting or MODULE in project.disabled_plugins:
        return
    if reason := _where(project):
        raise Refusal(
            f"{NAME} is active in the project ({reason}), and would open a second MLflow run; add"
            f" --from-kedro-mlflow, or disable it in {settings}: DISABLE_HOOKS_FOR_PLUGINS ="
            f" ({PLUGINS})"
        )


def convert(plan: Plan) -> None:
    """Entries, ``mlflow.yml``, ``settings.py`` and dependencies; remarks about what is left."""
    convert_entries(plan, _convert_entry)
    for name in plan.project.configs(plan.project.conf, "mlflow"):
        _convert_config(plan, name)
    disable = template.wiring().extend_setting
    settings = f"{plan.project.package}/settings.py"
    if MODULE not in plan.project.disabled_plugins:
        plan.edit(settings, lambda text: disable(text, "DISABLE_HOOKS_FOR_PLUGINS", PLUGINS))
    _drop_dependency(plan)


def _convert_entry(entry: Entry, edits: Edits, ours: str) -> Iterator[str]:
    """Change an entry if it is of metrics; remarks about it, if it is of kedro-mlflow."""
    if not (found := METRICS.fullmatch(entry.type)):
        if entry.type.startswith(f"{MODULE}."):
            yield f"{entry.name} is a {entry.type}, which has no counterpart: it stays"
        return
    if found[2] in ("MetricsHistory", "Metrics"):
        edits.change(entry, ours)
        return
    key = {} if entry.value("key") else {"key": entry.name}
    if entry.name.startswith("_"):
        key = {}
    drop = ("load_args", "save_args")
    if not edits.change(entry, ours, drop, key):
        yield f"{entry.name} is written in braces with comments: change it by hand"
        return
    for name in drop:
        if (given := entry.value(name)) and (name == "load_args" or "step" in given):
            yield f"{entry.name} had {name}: {given}, which have no counterpart"
    yield (f"{entry.name}: a node that loads it gets {{'value': v, 'step': s}}, or a list of these")


def _convert_config(plan: Plan, name: str) -> None:
    project = plan.project
    theirs = plan.yaml(name) or {}
    if not isinstance(theirs, dict):
        return
    referred_to = {key: value for key, value in theirs.items() if str(key).startswith("_")}
    keys = theirs.keys() - referred_to.keys()
    if not keys <= {"server", "tracking", "ui"} or (referred_to and not keys):
        return
    for key, (default, instead) in WITHOUT_COUNTERPART.items():
        if (value := _get(theirs, key)) is not None and value != default:
            plan.remark(f"{name}: {key} has no counterpart ({instead}).")
    uri = str(_get(theirs, "server.mlflow_tracking_uri") or "mlruns")
    uri = uri if not uri.startswith("file:") else uri.removeprefix("file://")
    ours = {
        "tracking_uri": uri if re.search("://|[$]{|^databricks", uri) else None,
        "experiment": _get(theirs, "tracking.experiment.name"),
        "run_name": _run_name(_get(theirs, "tracking.run.name")),
        "credentials": _get(theirs, "server.credentials"),
    }
    for key, value in ours.items():
        if value is not None and "${km." in str(value):
            plan.remark(f"{name}: {key} was {value}, a resolver of {NAME}; choose another.")
            ours[key] = None
    given = {key: str(value) for key, value in ours.items() if value is not None}
    text = "".join(f"{key}: {as_yaml(value)}\n" for key, value in given.items())
    if name.startswith(f"{project.base}/"):
        text = template.mlflow_yml(project.name, given)
        if "tracking_uri" not in given and "${" not in uri:
            plan.remark(_OLD_RUNS.format(uri))
    text += "".join(f"{key}: {as_yaml(value)}\n" for key, value in referred_to.items())
    plan.edit(name, lambda _: text or "# As in the base environment\n")


_OLD_RUNS = (
    "MLflow 3 writes to no folder such as {0} any more: the store is mlflow.db. The runs in the"
    " folder come along by: mlflow migrate-filestore --source {0} --target sqlite:///mlflow.db"
)


def _drop_dependency(plan: Plan) -> None:
    """Remove the plugin from the dependencies, unless something of the project still uses it."""
    project = plan.project
    users = [name for name, text in project.sources.items() if imports(text, MODULE)]
    for name in catalogs(project):
        # Also in a value that entries refer to, `_type: kedro_mlflow...`, maybe by an anchor.
        used = rf"^[^#\n]*:\s*(&\S+\s+)?['\"]?{MODULE}\."
        if re.search(used, plan.text(name) or "", re.MULTILINE):
            users.append(name)
    if users:
        plan.remark(f"{', '.join(users)} still use {NAME}: it stays in the dependencies.")
        return
    plan.edit(PYPROJECT, lambda text: dependencies.remove_from_pyproject(text, NAME))
    for name in dependencies.requirement_files(project.pyproject, plan.text):
        if dependencies.has_hashes(plan.text(name) or ""):
            plan.remark(f"{name} is a lock with hashes: make it anew, without {NAME}.")
        else:
            plan.edit(name, lambda text: dependencies.remove(text, NAME))


def _where(project: Project) -> str:
    """Where the plugin is: in the dependencies, or installed; nothing if it is nowhere."""
    for requirement in dependencies.listed(project.pyproject, project.text):
        if dependencies.name_of(str(requirement)) == NAME:
            return "its dependencies name it"
    variables = [os.environ.get(name, "") for name in ("VIRTUAL_ENV", "CONDA_PREFIX")]
    for folder in (
        project.path / ".venv",
        project.path / "venv",
        *map(Path, filter(None, variables)),
    ):
        if [
            *folder.glob(f"lib/python*/site-packages/{MODULE}-*"),
            *folder.glob(f"Lib/site-packages/{MODULE}-*"),
        ]:
            return f"it is installed in {folder}"
    try:
        distribution(NAME)
    except PackageNotFoundError:
        return ""
    return "it is installed"


def _get(mapping: Any, path: str) -> Any:
    for key in path.split("."):
        mapping = mapping.get(key) if isinstance(mapping, dict) else None
    return mapping


def _run_name(name: str | None) -> str | None:
    """The name as a pattern; what is read from elsewhere, ``${globals:name}``, stays as it is."""
    if name is None:
        return None
    parts = re.split(r"(\$\{[^{}]*\})", str(name))
    return "".join(
        part if number % 2 else part.replace("{", "{{").replace("}", "}}")
        for number, part in enumerate(parts)
    )
