"""What an MLflow run says of the Kedro run behind it: tags and parameters."""

import getpass
import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.utils import is_kedro_project

from .config import MlflowConfig
from .names import MAX_KEY_LENGTH, MAX_PARAM_LENGTH, MAX_TAG_LENGTH, Tag, given_text
from .points import allowed_name
from .process.mlflow_globals import environment, user_environment
from .redaction import HIDDEN, Secrets

logger = logging.getLogger(__name__)

# For how many seconds git is waited for, each time: no tag is worth a run's start.
GIT_SECONDS = 3.0
# What git sets for its hooks: with these, git would answer for the hook's repository.
OF_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR")
MOST_NAMES = 10  # of parameters that a line lists


def printable(text: str) -> str:
    """The text without what no terminal and not every database takes: control characters."""
    text = text.encode(errors="replace").decode()  # odd bytes of a file's name
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def pipeline_name(run_params: Mapping[str, Any]) -> str:
    """The name of the pipeline that runs; Kedro 1.0 has one, later versions may have several."""
    names = run_params.get("pipeline_names") or [run_params.get("pipeline_name")]
    return "+".join(name for name in names if name) or "__default__"


class Moment(datetime):
    """A date and time that is written so that a run's name is short, and its own."""

    def __str__(self) -> str:
        return self.isoformat(" ", "milliseconds").partition("-")[2]  # without the year


def run_name(config: MlflowConfig, run_params: Mapping[str, Any]) -> str:
    """The name of a new MLflow run: what the caller has given, else by the pattern.

    As for the run's id, a runtime parameter comes before the environment.
    """
    runtime = run_params.get("runtime_params") or {}
    given = runtime.get("mlflow_run_name")
    if given is not None and not isinstance(given, str):  # 2026_11_29 and 12:30 are numbers in YAML
        return given_text("mlflow_run_name", given) or str(given)
    if given := given or user_environment().get("MLFLOW_RUN_NAME"):
        return str(given)
    pipeline = pipeline_name(run_params).replace("__default__", "default")
    return config.run_name.format(pipeline=pipeline, env=config.env, time=Moment.now())


def kedro_tags(run_params: Mapping[str, Any], env: str, secrets: Secrets) -> dict[str, str]:
    """The Kedro run in tags: pipeline, environment, runner, version, run id and command."""
    # Kedro gives the runner as its repr, or "None" where the default is used.
    runner = re.search(r"(\w+) object at", str(run_params.get("runner")))
    tags = {
        Tag.PIPELINE: pipeline_name(run_params),
        Tag.ENV: env,
        Tag.RUNNER: runner[1] if runner else "SequentialRunner",
        Tag.KEDRO_VERSION: run_params["kedro_version"],
        Tag.KEDRO_RUN_ID: run_params.get("run_id") or run_params.get("session_id", ""),
        Tag.COMMAND: _command(secrets),
    }
    return {key: printable(str(value))[:MAX_TAG_LENGTH] for key, value in tags.items()}


def run_tags(
    config: MlflowConfig, run_params: Mapping[str, Any], project_path: Path
) -> dict[str, str]:
    """What the tags of a new MLflow run say: which Kedro run, and who ran which code."""
    kedros = kedro_tags(run_params, config.env, config.redactor)
    return kedros | source_tags(project_path)


def user_tags(config: MlflowConfig) -> dict[str, str]:
    """The tags of ``mlflow.yml``, as MLflow takes them; they may replace MLflow's own."""
    return {
        allowed_name(str(key))[:MAX_KEY_LENGTH]: printable(
            config.redactor.redact(str(value), MAX_TAG_LENGTH)
        )
        for key, value in config.tags.items()
    }


def source_tags(project_path: Path) -> dict[str, str]:
    """Who ran which code, under the names that MLflow's own UI shows; as far as it can be found."""
    tags = {Tag.SOURCE_NAME: project_path.name, Tag.SOURCE_TYPE: "LOCAL"}
    with suppress(Exception):  # a user without a name: another error on each system
        tags[Tag.USER] = getpass.getuser()
    # A packaged project takes the current folder for its own, which may be another repository's.
    is_project = is_kedro_project(project_path)
    if is_project and (commit := _git(project_path, "rev-parse", "HEAD")):
        tags[Tag.GIT_COMMIT] = commit
        if (changes := _git(project_path, "status", "--porcelain")) is not None:
            tags[Tag.GIT_DIRTY] = str(bool(changes))
    return {key: printable(value)[:MAX_TAG_LENGTH] for key, value in tags.items()}


def parameters(pipeline: Pipeline, catalog: DataCatalog, secrets: Secrets) -> dict[str, str]:
    """The parameters that the pipeline uses, flattened: ``params:model`` gives ``model.depth``.

    What MLflow would refuse is made fit; where a value is cut, with a warning.
    """
    found: dict[str, str] = {}
    hidden: list[str] = []
    for name in sorted(pipeline.inputs()):
        if name == "parameters" or name.startswith("params:"):
            dataset = catalog.get(name)
            if dataset is not None:
                for key, value in _flat(name.removeprefix("params:"), dataset.load()):
                    text, is_hidden = _text(key, value, secrets)
                    hidden += [key] if is_hidden else []
                    found[allowed_name(key)[:MAX_KEY_LENGTH]] = text
    if hidden:
        names = ", ".join(map(repr, hidden[:MOST_NAMES])) + (", ..." * (len(hidden) > MOST_NAMES))
        logger.info(
            f"{HIDDEN} stands for secrets in {len(hidden)} parameter(s) of the MLflow run: {names}."
            " Which words of a name make its value a secret is the key 'secrets' in mlflow.yml."
        )
    return found


def new_parameters(
    parameters: Mapping[str, str], known: Mapping[str, str], secrets: Secrets
) -> list[tuple[str, str]]:
    """Those of the parameters that an MLflow run does not have yet; MLflow changes none."""
    for key in parameters.keys() & known.keys():
        if parameters[key] != known[key]:
            stays = secrets.redact_parameter(key, known[key])  # maybe written by others
            logger.warning(
                f"The parameter {key!r} of the MLflow run stays {stays!r}; MLflow does not"
                f" change it to {parameters[key]!r}."
            )
    return [(key, value) for key, value in parameters.items() if key not in known]


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(value, "model_dump"):  # Kedro 1.3 and later make Pydantic models of parameters
        value = value.model_dump()
    elif is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            below = str(key) if name == "parameters" else f"{name}.{key}"
            yield from _flat(below, item)
    else:
        yield name, value


def _text(name: str, value: Any, secrets: Secrets) -> tuple[str, bool]:
    """What MLflow gets of a parameter, and whether something of it is hidden."""
    shown = secrets.redact_parameter(name, value, MAX_PARAM_LENGTH)
    whole, text = str(value), str(shown)
    if not isinstance(value, str):
        text = secrets.redact(text, MAX_PARAM_LENGTH)
    if len(whole) > MAX_PARAM_LENGTH and text != HIDDEN:
        what = f"has {len(whole)} characters; MLflow gets the first {MAX_PARAM_LENGTH}"
        logger.warning("The parameter %r %s.", name, what)
    return printable(text), text != whole[:MAX_PARAM_LENGTH]


def _command(secrets: Secrets) -> str:
    program = Path(sys.argv[0] if sys.argv else "")
    start = f"python -m {program.parent.name}" if program.name == "__main__.py" else program.name
    return f"{start} {secrets.redact_command(sys.argv[1:], MAX_TAG_LENGTH)}".strip()


def git_environment() -> dict[str, str]:
    """For git to find the repository of the folder, also within a hook of another repository."""
    found = {name: value for name, value in environment().items() if name not in OF_REPOSITORY}
    return {**found, "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None if there is no git, no repository or no answer in time."""
    with suppress(Exception):
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=git_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=GIT_SECONDS,
        )
        return done.stdout.decode(errors="replace").strip()
    return None
