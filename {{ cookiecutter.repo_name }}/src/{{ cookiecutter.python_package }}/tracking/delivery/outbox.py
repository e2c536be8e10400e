"""``Outbox``: where points wait while their store is unavailable, in the project's folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import sqlite_uri
from ..names import OUTBOX_FILE, Tag
from ..redaction import without_credentials
from ..store.errors import reason
from ..store.mlflow_store import MlflowStore, store_at
from ..store.sqlite import locked

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outbox:
    """The outbox of one Kedro run, its worker processes included. Plain values: can be pickled.

    It is an ordinary MLflow store, an SQLite file. What can't be written to the run's target store
    goes to a *part* of the run in here, with the same experiment and name.
    """

    path: Path
    target_uri: str = field(repr=False)  # the store that the run belongs to
    experiment: str
    run_name: str
    process: tuple[tuple[str, str], ...]  # tags of the process that runs Kedro, not of a worker
    external: bool = False  # the target run is an external one, whose end is not written

    @property
    def store(self) -> MlflowStore:
        """The outbox as a store."""
        return outbox_store(self.path)

    def waiting_runs(self) -> list[Run]:
        """All runs in the outbox, if there is one and it can be read."""
        try:
            return self._opened_store().search_runs() if self.path.exists() else []
        except Exception as error:
            logger.warning("%s can't be read: %s", OUTBOX_FILE, reason(error))
            return []

    def find_part(self, run_id: str, running: bool = False) -> str | None:
        """The id of the part of a target run, if it has one; ``running``: if that has not ended."""
        if not self.path.exists():
            return None
        owner = dict(self.process)[Tag.PROCESS]
        search = f"tags.`{Tag.TARGET_RUN}` = '{run_id}' and tags.`{Tag.PROCESS}` = '{owner}'"
        search += " and attributes.status = 'RUNNING'" if running else ""
        parts = self._opened_store().search_runs(search)
        return parts[0].info.run_id if parts else None

    def open_part(self, run_id: str) -> str:
        """The id of the running part of a target run; all processes of a Kedro run share it."""
        store = self._opened_store()
        with locked(self.path):
            if part := self.find_part(run_id, running=True):
                return part
            tags = self.target_tags(run_id) | dict(self.process)
            experiment = store.experiment_id(self.experiment)
            return str(store.create_run(experiment, tags, self.run_name).info.run_id)

    def target_tags(self, run_id: str | None) -> dict[str, str]:
        """What ``kedro metrics sync`` has to know of a run in here; its target run, if there."""
        tags = {Tag.TARGET_STORE: without_credentials(self.target_uri)}
        tags |= {Tag.TARGET_RUN: run_id} if run_id else {}
        return tags | ({Tag.EXTERNAL: "yes"} if self.external else {})

    def _opened_store(self) -> MlflowStore:
        self.store.open()
        return self.store


def outbox_store(path: Path) -> MlflowStore:
    """The store in an outbox's file."""
    return store_at(sqlite_uri(path))
