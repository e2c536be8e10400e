"""``conf/<env>/mlflow.yml``, read and checked."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any

import click
from kedro.config import AbstractConfigLoader, MissingConfigException
from kedro.framework import project

from .redaction import SECRET_WORDS, Secrets, passwords_in, register, texts_in

SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
SQLITE = "sqlite:///"
MOST_ENTRIES = 10  # of credentials.yml that an error lists


class ConfigError(click.ClickException):
    """An invalid key or value in ``mlflow.yml``; Click prints just the message."""


@dataclass(frozen=True)
class MlflowConfig:
    """What ``mlflow.yml`` says, with a default for every key; the file explains each."""

    tracking_uri: str  # absolute, where it is an SQLite file
    experiment: str
    run_name: str | None = None  # the pipeline's
    separator: str = "."
    track: str = "auto"
    log_params: bool = True
    on_outage: str = "raise"
    secrets: Sequence[str] = SECRET_WORDS
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)  # variables to set
    redactor: Secrets = field(default_factory=Secrets, repr=False)  # values of credentials.yml, too


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _one_of(*values: str) -> tuple[str, Callable[[Any], bool]]:
    return "one of " + ", ".join(values), values.__contains__


# The keys of mlflow.yml; what each may be, in words and as a test.
_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "tracking_uri": ("a non-empty string", _is_text),
    "experiment": ("a non-empty string", _is_text),
    "run_name": ("a non-empty string", _is_text),
    "separator": ("one of '.' '/'", (".", "/").__contains__),
    "track": _one_of("auto", "always", "never"),
    "log_params": ("true or false", lambda value: isinstance(value, bool)),
    "on_outage": _one_of("raise", "spool"),
    "secrets": ("a list of words", _is_list_of_texts),
    "credentials": ("the name of an entry of credentials.yml", _is_text),
}


def register_context(loader: AbstractConfigLoader, project_path: Path) -> None:
    """Take note of a Kedro context that was created on this thread.

    Kedro gives its hooks the configuration with the context, and the pipeline later, without it.
    A context and its runs share a thread, and a process may have several of both.
    """
    from .process.state import process_state  # imported late: not every Kedro command needs it

    @cache  # read and checked once, and not before it is needed
    def load() -> MlflowConfig:
        config = load_config(loader, project_path)
        register(project_path, config.redactor)
        return config

    process_state().thread.load_config = load


def current_config() -> MlflowConfig | None:
    """The configuration of the context that was created last on this thread, if any was."""
    from .process.state import process_state

    load = getattr(process_state().thread, "load_config", None)
    return load() if load else None


def load_config(loader: AbstractConfigLoader, project_path: Path) -> MlflowConfig:
    """Read ``mlflow.yml`` of the loader's environments; all of it may be missing.

    Raises:
        ConfigError: An unknown key or a bad value, with the file that has it.
    """
    from .process.mlflow_globals import user_environment  # not every Kedro command needs it

    if hasattr(loader, "config_patterns"):
        loader.config_patterns.setdefault("mlflow", ["mlflow*", "mlflow*/**", "**/mlflow*"])
    given = _read(loader, "mlflow")
    for key, value in given.items():
        if problem := _problem(key, value):
            raise ConfigError(f"{_file_with(loader, key)}: {problem}")
    given = {key: value for key, value in given.items() if value is not None}
    entries = _read(loader, "credentials")
    if "credentials" in given:
        given["credentials"] = _credentials(loader, entries, given["credentials"])
    environment = user_environment()
    uri = given.pop("tracking_uri", None) or environment.get("MLFLOW_TRACKING_URI")
    experiment = given.pop("experiment", None) or environment.get("MLFLOW_EXPERIMENT_NAME")
    secret = [os.environ[name] for name in SECRET_VARIABLES if name in os.environ]
    secret += [*texts_in(entries), *passwords_in(uri or "")]
    return MlflowConfig(
        tracking_uri=_absolute(uri or SQLITE + "mlflow.db", project_path),
        experiment=experiment or project.PACKAGE_NAME or project_path.name,
        redactor=Secrets(secret, given.get("secrets", SECRET_WORDS)),
        **given,
    )


def _read(loader: AbstractConfigLoader, name: str) -> dict[str, Any]:
    with suppress(KeyError, MissingConfigException):
        return dict(loader[name])
    return {}


def _problem(key: Any, value: Any) -> str | None:
    allowed, is_allowed = _RULES.get(key, (None, None))
    if is_allowed is None:
        nearest = get_close_matches(str(key), _RULES, n=1, cutoff=0)[0]
        known = ", ".join(_RULES)
        return f"the key {short_repr(key)} is unknown; did you mean {nearest!r}? Known are {known}."
    if value is None or is_allowed(value):  # a key without a value has its default
        return None
    return f"{key!r} is {short_repr(value)} ({type(value).__name__}); it is {allowed}."


def _credentials(
    loader: AbstractConfigLoader, entries: Mapping[str, Any], name: str
) -> dict[str, str]:
    chosen = entries.get(name)
    if not isinstance(chosen, Mapping):
        found = ", ".join(map(short_repr, sorted(map(str, entries))[:MOST_ENTRIES])) or "none"
        raise ConfigError(
            f"{_file_with(loader, 'credentials')}: 'credentials' names {short_repr(name)}, which is"
            f" not a mapping of environment variables in credentials.yml (entries there: {found})."
        )
    return {str(variable): str(value) for variable, value in chosen.items()}


def _absolute(uri: str, project_path: Path) -> str:
    """An SQLite file is looked for from the project, wherever ``kedro run`` was typed."""
    if not uri.startswith(SQLITE) or uri == SQLITE + ":memory:":
        return uri
    if "?" in str(project_path):
        raise ConfigError(
            f"The project's folder {project_path} has a '?' in its name, where SQLite's URIs end;"
            " rename it, or set 'tracking_uri' in mlflow.yml to an absolute path."
        )
    return SQLITE + (project_path / uri.removeprefix(SQLITE)).as_posix()


def _file_with(loader: AbstractConfigLoader, key: Any) -> str:
    """The configuration file that sets the key: the environment's, if it does, else the base's."""
    sets_key = re.compile(rf"""^\s*["']?{re.escape(str(key))}["']?\s*:""", re.MULTILINE)
    source = Path(str(loader.conf_source))
    env = loader.env or getattr(loader, "default_run_env", "")
    for folder in (env, getattr(loader, "base_env", "")):
        for path in sorted((source / (folder or ".")).rglob("mlflow*")):
            if path.is_file() and sets_key.search(path.read_text(encoding="utf-8")):
                return f"{source.name}/{path.relative_to(source).as_posix()}"
    return "mlflow.yml"
