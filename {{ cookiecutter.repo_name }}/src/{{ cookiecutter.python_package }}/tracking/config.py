"""``conf/<env>/mlflow.yml``, read and checked."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any

import click
from kedro.config import AbstractConfigLoader, MissingConfigException
from kedro.framework import project
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from .names import Tag, known_words, shown
from .redaction import (
    BY_NAME,
    SECRET_WORDS,
    Secrets,
    credentials_secrets,
    register,
    secrets_of,
    secrets_of_environment,
    without_credentials,
)
from .scanning.uris import SQLITE, absolute, uri_problem

SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
MOST_ENTRIES = 10  # of credentials.yml that an error lists


class ConfigError(click.ClickException):
    """A wrong setting, mostly in ``mlflow.yml``; Click prints just the message."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_tags(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _is_text(name)
        and not (name.startswith("kedro.") or name == Tag.RUN_NAME)
        and isinstance(text, str | int | float)
        for name, text in value.items()
    )


def _is_name(value: Any) -> bool:
    with suppress(ValueError, TypeError, LookupError, AttributeError):
        return _is_text(value) and bool(value.format(pipeline="a", env="b", time=datetime.now()))
    return False


def _one_of(*values: str) -> tuple[str, Callable[[Any], bool]]:
    return "one of " + ", ".join(values), values.__contains__


_BOOLEAN = "true or false", lambda value: isinstance(value, bool)


@dataclass(frozen=True)
class MlflowConfig:
    """What ``mlflow.yml`` says, with a default for every key; the file explains each."""

    tracking_uri: str  # absolute, where it is an SQLite file
    experiment: str
    env: str  # the configuration environment that was used
    options: str = ""  # with which a command of Kedro's reads the same configuration
    project_path: Path = Path()
    run_name: str = "{pipeline} {time}"
    tags: Mapping[str, str] = field(default_factory=dict)
    separator: str = "."
    track: str = "auto"
    log_params: bool = True
    summary: bool = True
    system_metrics: bool = False
    on_outage: str = "raise"  # of the store at the start; later ones end no run
    outbox: str | None = None  # None: the project's folder or, if not writable, the user's
    require_delivery: bool = False
    secrets: Sequence[str] = SECRET_WORDS
    read_credentials: Callable[[], Mapping[str, str]] = field(default=dict, repr=False)
    read_catalog: Callable[[], Mapping[str, Any]] = field(default=dict, repr=False)
    redactor: Secrets = field(default_factory=Secrets, repr=False)  # values of credentials.yml, too

    @property
    def credentials(self) -> Mapping[str, str]:
        """The variables to set, or a ConfigError; asked for where a store is opened."""
        return self.read_credentials()


# The keys of mlflow.yml, named as their fields above; what each may be, in words and as a test.
_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "tracking_uri": ("a non-empty string", _is_text),
    "experiment": ("a non-empty string", _is_text),
    "run_name": (
        "a non-empty string, in which {pipeline}, {env} and {time:%Y-%m-%d %H:%M} may stand",
        _is_name,
    ),
    "tags": ("a mapping of names, but 'kedro.*' and 'mlflow.runName', to texts", _are_tags),
    "separator": ("one of '.' '/'", (".", "/").__contains__),
    "track": _one_of("auto", "always", "never"),
    "log_params": _BOOLEAN,
    "summary": _BOOLEAN,
    "system_metrics": _BOOLEAN,
    "on_outage": _one_of("raise", "spool"),
    "outbox": ("the path of a folder", _is_text),
    "require_delivery": _BOOLEAN,
    "secrets": ("a list of words", lambda v: isinstance(v, list) and all(map(_is_text, v))),
    "credentials": ("the name of an entry of credentials.yml", _is_text),
}


def register_context(
    loader: AbstractConfigLoader, project_path: Path
) -> Callable[[], MlflowConfig]:
    """Take note of a Kedro context that was created on this thread; returns what reads its files.

    Kedro gives its hooks the configuration with the context, and the pipeline later, without it.
    """
    from .process import contexts  # imported late: not every Kedro command needs it

    @cache  # read and checked once, when it is first needed
    def load() -> MlflowConfig:
        config = load_config(loader, project_path)
        register(project_path, config.redactor)
        return config

    contexts.register_context(load)
    return load


def current_config() -> MlflowConfig | None:
    """The configuration of the context whose catalog is used here, else of this thread's last."""
    from .process.contexts import current_context

    load = current_context()
    return load() if load else None


def load_config(loader: AbstractConfigLoader, project_path: Path) -> MlflowConfig:
    """Read ``mlflow.yml`` of the loader's environments; all of it may be missing.

    Raises:
        ConfigError: An unknown key or a bad value, with the file that has it.
    """
    from .process.mlflow_globals import user_environment  # not every Kedro command needs it

    if hasattr(loader, "config_patterns"):
        loader.config_patterns.setdefault("mlflow", ["mlflow*", "mlflow*/**", "**/mlflow*"])
    given = _checked(loader)
    entries = _read(loader, "credentials")
    if name := given.pop("credentials", None):
        given["read_credentials"] = partial(_credentials, loader, entries, name)
    environment = user_environment()
    uri = given.pop("tracking_uri", None)
    subject = f"{_file_with(loader, 'tracking_uri')}: 'tracking_uri'" if uri else ""
    uri = uri or environment.get("MLFLOW_TRACKING_URI") or SQLITE + "mlflow.db"
    if problem := uri_problem(uri):
        subject = subject or "The environment's MLFLOW_TRACKING_URI"
        raise ConfigError(f"{subject} is {short_repr(without_credentials(uri))}; {problem}.")
    experiment = given.pop("experiment", None) or environment.get("MLFLOW_EXPERIMENT_NAME", "")
    words = given.get("secrets", SECRET_WORDS)
    secret = [*secrets_of_environment(SECRET_VARIABLES), *secrets_of(uri)]
    return MlflowConfig(
        # An SQLite file is looked for from the project, wherever ``kedro run`` was typed.
        tracking_uri=absolute(uri, project_path),
        experiment=experiment or project.PACKAGE_NAME or project_path.name,
        project_path=project_path,
        env=_env(loader) or getattr(loader, "base_env", "") or "base",
        options=f" --env={loader.env}" if loader.env and loader.env != _default_env(loader) else "",
        redactor=Secrets([*secret, *credentials_secrets(entries, words)], words),
        read_catalog=partial(_read, loader, "catalog"),
        **given,
    )


def _checked(loader: AbstractConfigLoader) -> dict[str, Any]:
    source, env = Path(str(loader.conf_source)), _env(loader)
    if (source / getattr(loader, "base_env", "")).is_dir() and not (source / env).is_dir():
        raise ConfigError(f"There is no folder {source.name}/{env}; correct --env, or make it.")
    try:
        given = _read(loader, "mlflow")
    except OmegaConfBaseException as error:  # ${...} without a value
        raise ConfigError(f"mlflow.yml: {str(error).partition(chr(10))[0]}") from None
    except YAMLError as error:  # Kedro's own, with the file and the line
        raise ConfigError(str(error).strip()) from None
    for key, value in given.items():
        if problem := _problem(key, value):
            raise ConfigError(f"{_file_with(loader, key)}: {problem}")
    return {key: value for key, value in given.items() if value is not None}


def _read(loader: AbstractConfigLoader, name: str) -> dict[str, Any]:
    with suppress(KeyError, MissingConfigException):
        return dict(loader[name])
    return {}


def _env(loader: AbstractConfigLoader) -> str:
    return loader.env or _default_env(loader)


def _default_env(loader: AbstractConfigLoader) -> str:
    return str(getattr(loader, "default_run_env", ""))


def _problem(key: Any, value: Any) -> str | None:
    if key not in _RULES:
        return f"the key {short_repr(key)} is unknown; {known_words(key, _RULES)}."
    allowed, is_allowed = _RULES[key]
    if value is None or is_allowed(value):  # a key without a value has its default
        return None
    return f"{key!r} is {shown(BY_NAME.redact_parameter(key, value))}; it is {allowed}."


def _credentials(
    loader: AbstractConfigLoader, entries: Mapping[str, Any], name: str
) -> dict[str, str]:
    chosen = entries.get(name)
    if not isinstance(chosen, Mapping):
        found = ", ".join(map(short_repr, sorted(map(str, entries))[:MOST_ENTRIES])) or "none"
        source = Path(str(loader.conf_source)).name
        raise ConfigError(
            f"{_file_with(loader, 'credentials')}: 'credentials' names {short_repr(name)}, which is"
            f" not a mapping of environment variables in credentials.yml (entries there: {found});"
            f" add it to {source}/{_env(loader)}/credentials.yml, or leave 'credentials' empty in"
            f" {source}/{_env(loader)}/mlflow.yml."
        )
    return {str(variable): str(value) for variable, value in chosen.items()}


def _file_with(loader: AbstractConfigLoader, key: Any) -> str:
    """The configuration file that sets the key: the environment's, if it does, else the base's."""
    sets_key = re.compile(rf"""^\s*["']?{re.escape(str(key))}["']?\s*:""", re.MULTILINE)
    source = Path(str(loader.conf_source))
    for folder in (_env(loader), getattr(loader, "base_env", "")):
        for path in sorted((source / (folder or ".")).rglob("mlflow*")):
            if path.is_file() and sets_key.search(path.read_text(encoding="utf-8")):
                return f"{source.name}/{path.relative_to(source).as_posix()}"
    return "mlflow.yml"
