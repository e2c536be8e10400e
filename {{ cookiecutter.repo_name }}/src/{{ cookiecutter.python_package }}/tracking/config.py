"""``conf/<env>/mlflow.yml``, read and checked."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from reprlib import repr as short
from typing import Any

import click
from kedro.config import AbstractConfigLoader, MissingConfigException
from kedro.framework import project

from .redaction import SECRET_WORDS, hide, passwords_in

SEPARATORS = (".", "/")
TRACK = ("auto", "always", "never")
ON_OUTAGE = ("raise", "spool")
SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


class ConfigError(click.ClickException):
    """A key or a value in ``mlflow.yml`` that means nothing. The message says what would.

    Click's exception: on the command line it is that one sentence, not a traceback.
    """


@dataclass(frozen=True)
class MlflowConfig:
    """What ``mlflow.yml`` says, with a default for every key.

    Attributes:
        tracking_uri: Where MLflow keeps its runs; absolute, where it is an SQLite file.
        experiment: The name of the MLflow experiment.
        run_name: The MLflow run's name; the pipeline's if None.
        separator: Stands between a prefix and a metric's name. With ``/`` the MLflow UI groups
            the charts by prefix.
        track: ``auto`` opens an MLflow run for pipelines with a metrics dataset; ``always``,
            ``never``.
        log_params: Whether the parameters that a pipeline uses are logged.
        on_outage: What a run does whose store can't be reached when it starts: ``raise``, or
            ``spool`` to be written to a store in the project until ``kedro metrics sync``.
        secrets: Words that say of a parameter's name that its value is not to be told.
        credentials: Environment variables for MLflow's client, such as
            ``MLFLOW_TRACKING_PASSWORD``.
    """

    tracking_uri: str
    experiment: str
    run_name: str | None = None
    separator: str = "."
    track: str = "auto"
    log_params: bool = True
    on_outage: str = "raise"
    secrets: Sequence[str] = SECRET_WORDS
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)


# Kedro gives its hooks the configuration with the context, and the pipeline later, without it; a
# context and its runs share a thread, and a process may have several of both.
_latest = threading.local()


def remember(loader: AbstractConfigLoader, project_path: Path) -> None:
    """The context that was created last on this thread has this configuration."""
    _latest.load = partial(load_config, loader, project_path)


def current_config() -> MlflowConfig | None:
    """The configuration of the context that was created last on this thread, if any was."""
    load = getattr(_latest, "load", None)
    return load() if load else None


def current_separator() -> str:
    """The separator for a dataset outside of a pipeline."""
    config = current_config()
    return config.separator if config else "."


def load_config(loader: AbstractConfigLoader, project_path: Path) -> MlflowConfig:
    """Read ``mlflow.yml`` of the loader's environments; all of it may be missing.

    Raises:
        ConfigError: An unknown key or a bad value, with the file that has it.
    """
    if hasattr(loader, "config_patterns"):
        loader.config_patterns.setdefault("mlflow", ["mlflow*", "mlflow*/**", "**/mlflow*"])
    try:
        given = dict(loader["mlflow"])
    except (KeyError, MissingConfigException):
        given = {}
    known = [key.name for key in fields(MlflowConfig)]
    for key, value in given.items():
        if problem := _unknown(key, known) or _misfit(key, value):
            raise ConfigError(f"{_file_with(loader, key)}: {problem}")
    given = {key: value for key, value in given.items() if value is not None}
    entries = _entries(loader)
    if "credentials" in given:
        given["credentials"] = _credentials(loader, entries, given["credentials"])
    uri = given.pop("tracking_uri", None) or os.environ.get("MLFLOW_TRACKING_URI")
    mine = [os.environ[name] for name in SECRET_VARIABLES if name in os.environ]
    hide([*_texts(entries), *passwords_in(uri or ""), *mine], given.get("secrets", SECRET_WORDS))
    experiment = given.pop("experiment", None) or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    return MlflowConfig(
        tracking_uri=_absolute(uri or "sqlite:///mlflow.db", project_path),
        experiment=experiment or project.PACKAGE_NAME or project_path.name,
        **given,
    )


def _unknown(key: str, known: list[str]) -> str | None:
    if key in known:
        return None
    nearest = get_close_matches(str(key), known, n=1, cutoff=0)[0]
    return f"the key {key!r} is unknown; did you mean {nearest!r}? Known are {', '.join(known)}."


def _misfit(key: str, value: Any) -> str | None:
    if value is None:  # a key without a value: its default
        return None
    if key == "separator" and value not in SEPARATORS:
        allowed = "one of " + " ".join(map(repr, SEPARATORS))
    elif key == "track" and value not in TRACK:
        allowed = "one of " + ", ".join(TRACK)
    elif key == "on_outage" and value not in ON_OUTAGE:
        allowed = "one of " + ", ".join(ON_OUTAGE)
    elif key == "secrets" and not (isinstance(value, list) and all(map(_is_text, value))):
        allowed = "a list of words"
    elif key == "log_params" and not isinstance(value, bool):
        allowed = "true or false"
    elif key in ("tracking_uri", "experiment", "run_name") and not _is_text(value):
        allowed = "a non-empty string"
    elif key == "credentials" and not _is_text(value):
        allowed = "the name of an entry of credentials.yml"
    else:
        return None
    return f"{key!r} is {short(value)} ({type(value).__name__}); it is {allowed}."


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _entries(loader: AbstractConfigLoader) -> dict[str, Any]:
    try:
        return dict(loader["credentials"])
    except (KeyError, MissingConfigException):
        return {}


def _texts(value: Any) -> Iterator[str]:
    """All texts and numbers below a value of ``credentials.yml``."""
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _credentials(
    loader: AbstractConfigLoader, entries: Mapping[str, Any], name: str
) -> dict[str, str]:
    chosen = entries.get(name)
    if not isinstance(chosen, Mapping):
        found = ", ".join(sorted(entries)) or "none"
        raise ConfigError(
            f"{_file_with(loader, 'credentials')}: 'credentials' names {name!r}, which is not a"
            f" mapping of environment variables in credentials.yml (entries there: {found})."
        )
    return {str(variable): str(value) for variable, value in chosen.items()}


def _absolute(uri: str, project_path: Path) -> str:
    """An SQLite file is looked for from the project, wherever ``kedro run`` was typed."""
    start = "sqlite:///"
    if not uri.startswith(start) or uri == start + ":memory:":
        return uri
    if "?" in str(project_path):
        raise ConfigError(
            f"The project's folder {project_path} has a '?' in its name, where SQLite's URIs end;"
            " rename it, or set 'tracking_uri' in mlflow.yml to an absolute path."
        )
    return start + (project_path / uri.removeprefix(start)).as_posix()


def _file_with(loader: AbstractConfigLoader, key: str) -> str:
    """The configuration file that sets the key: the environment's, if it does, else the base's."""
    sets_key = re.compile(rf"""^\s*["']?{re.escape(str(key))}["']?\s*:""", re.MULTILINE)
    source = Path(str(loader.conf_source))
    env = loader.env or getattr(loader, "default_run_env", "")
    for folder in (env, getattr(loader, "base_env", "")):
        for path in sorted((source / (folder or ".")).rglob("mlflow*")):
            if path.is_file() and sets_key.search(path.read_text(encoding="utf-8")):
                return f"{source.name}/{path.relative_to(source).as_posix()}"
    return "mlflow.yml"
