"""Which MLflow run a Kedro run uses, as its caller has given it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..names import given_text, shown
from ..store.errors import TrackingError

ID_LENGTH = 32  # of MLflow's ids of runs
_OF_PARAMETER, _OF_ENVIRONMENT = "the runtime parameter ", "the environment's "


@dataclass(frozen=True)
class Resolved:
    """Which MLflow run a Kedro run uses: an external one, or a new one, which may have a parent.

    ``named_by`` says who has given the id of the one or the other.
    """

    tracking_uri: str
    run_id: str | None = None
    named_by: str = ""
    parent_id: str | None = None


def resolve(
    tracking_uri: str,
    run_params: Mapping[str, Any],
    environment: Mapping[str, str],
    active: tuple[str, str] | None,
) -> Resolved:
    """Decide which MLflow run a Kedro run uses.

    In this order: ``mlflow_run_id`` among the runtime parameters, a new one within their
    ``mlflow_parent_run_id``, the environment's ``MLFLOW_RUN_ID``, a new one within its
    ``MLFLOW_PARENT_RUN_ID``, the run (store, id) that the caller has made active, else a new one.

    Raises:
        TrackingError: What is given is no id.
    """
    given = run_params.get("runtime_params") or {}
    if run_id := _id_of("mlflow_run_id", given):
        return Resolved(tracking_uri, run_id, _OF_PARAMETER + "mlflow_run_id")
    if parent_id := _id_of("mlflow_parent_run_id", given):
        named_by = _OF_PARAMETER + "mlflow_parent_run_id"
        return Resolved(tracking_uri, None, named_by, parent_id)
    if run_id := environment.get("MLFLOW_RUN_ID"):
        return Resolved(tracking_uri, run_id, _OF_ENVIRONMENT + "MLFLOW_RUN_ID")
    if parent_id := environment.get("MLFLOW_PARENT_RUN_ID"):
        named_by = _OF_ENVIRONMENT + "MLFLOW_PARENT_RUN_ID"
        return Resolved(tracking_uri, None, named_by, parent_id)
    return Resolved(*active, "the active run") if active else Resolved(tracking_uri)


def _id_of(name: str, given: Mapping[str, Any]) -> str | None:
    """The id that a runtime parameter gives.

    Kedro (1.7) reads ``--params`` as YAML: an id of digits is a number there, perhaps an octal one,
    and one of digits around an ``e`` is a float. Which it was, the command line says.
    """
    value = given.get(name)
    if value is None or isinstance(value, str):
        return value or None
    text = given_text(name, value)
    if text and len(text) == ID_LENGTH and re.fullmatch("[0-9a-f]+", text):
        return text
    if type(value) is int and len(str(value)) == ID_LENGTH:
        return str(value)
    raise TrackingError(
        f"The runtime parameter {name} is {shown(value)}, and no id of an MLflow run; write an id"
        f" that YAML takes for a number in quotes, \"{name}='...'\", or set the environment's"
        f" {name.upper()}."
    )
