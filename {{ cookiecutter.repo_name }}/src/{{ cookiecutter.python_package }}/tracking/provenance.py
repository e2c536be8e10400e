"""What an MLflow run says of the Kedro run behind it: tags and parameters."""

from __future__ import annotations

import getpass
import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from .points import MAX_KEY_LENGTH, clean
from .redaction import redact, redact_command, without_secrets

logger = logging.getLogger(__name__)

# MLflow 3.17, mlflow.utils.validation; servers as old as 3.7 allow the same.
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000


def safe(text: str) -> str:
    """The text without what no terminal and not every database takes: control characters."""
    text = text.encode(errors="replace").decode()  # odd bytes of a file's name
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def pipeline_name(run_params: Mapping[str, Any]) -> str:
    """The name of the pipeline that runs; Kedro 1.0 has one, later versions may have several."""
    names = run_params.get("pipeline_names") or [run_params.get("pipeline_name")]
    return "+".join(name for name in names if name) or "__default__"


def kedro_tags(run_params: Mapping[str, Any]) -> dict[str, str]:
    """The Kedro run in tags: pipeline, environment, runner, version, run id and command."""
    # Kedro gives the runner as its repr, or "None" where the default is used.
    runner = re.search(r"(\w+) object at", str(run_params.get("runner")))
    tags = {
        "kedro.pipeline": pipeline_name(run_params),
        "kedro.env": run_params.get("env") or "local",
        "kedro.runner": runner[1] if runner else "SequentialRunner",
        "kedro.version": run_params["kedro_version"],
        "kedro.run_id": run_params.get("run_id") or run_params.get("session_id", ""),
        "kedro.command": _command(),
    }
    return {key: safe(str(value))[:MAX_TAG_LENGTH] for key, value in tags.items()}


def source_tags(project_path: Path) -> dict[str, str]:
    """Who ran which code, under the names that MLflow's own UI shows."""
    tags = {"mlflow.source.name": project_path.name, "mlflow.source.type": "LOCAL"}
    with suppress(ImportError, KeyError, OSError):  # a user without a name
        tags["mlflow.user"] = getpass.getuser()
    if commit := _git(project_path, "rev-parse", "HEAD"):
        tags["mlflow.source.git.commit"] = commit
        tags["mlflow.source.git.dirty"] = str(bool(_git(project_path, "status", "--porcelain")))
    return tags


def parameters(pipeline: Pipeline, catalog: DataCatalog) -> dict[str, str]:
    """The parameters that the pipeline uses, flattened: ``params:model`` gives ``model.depth``.

    What MLflow would refuse is made fit, with a warning: a value longer than 6,000 characters
    is cut.
    """
    found: dict[str, str] = {}
    for name in sorted(pipeline.inputs()):
        if name == "parameters" or name.startswith("params:"):
            dataset = catalog.get(name)
            if dataset is not None:
                found.update(_flat(name.removeprefix("params:"), dataset.load()))
    return {key: value for name, value in found.items() for key, value in [_fit(name, value)]}


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if hasattr(value, "model_dump"):  # Kedro 1.3 and later make Pydantic models of parameters
        value = value.model_dump()
    elif is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(str(key) if name == "parameters" else f"{name}.{key}", item)
    else:
        yield redact(name), safe(redact(str(without_secrets(name, value))))


def _fit(name: str, value: str) -> tuple[str, str]:
    key = clean(name)[:MAX_KEY_LENGTH]
    if len(value) > MAX_PARAM_LENGTH:
        logger.warning(
            "The parameter %r has %d characters; MLflow gets the first %d.",
            name,
            len(value),
            MAX_PARAM_LENGTH,
        )
    return key, value[:MAX_PARAM_LENGTH]


def _command() -> str:
    program = Path(sys.argv[0])
    start = f"python -m {program.parent.name}" if program.name == "__main__.py" else program.name
    return f"{start} {redact_command(sys.argv[1:])}".strip()


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
