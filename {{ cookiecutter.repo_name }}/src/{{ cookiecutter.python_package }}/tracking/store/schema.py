"""Which MLflow's tables an SQL store has: this one's, an older or newer one's, half of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

# MLflow migrates version by version: if the version has not changed for so many seconds, no other
# process is migrating the store.
MIGRATION_QUIET_SECONDS = 3.0
# For how many seconds another process may create the store.
CREATE_SECONDS = 120.0


@dataclass(frozen=True)
class Schema:
    """What tables an SQL store has; ``version`` is the name of its last migration of MLflow's."""

    version: str | None
    tables: frozenset[str]
    is_used: bool = True  # has an experiment, which MLflow makes as soon as all tables are there

    @property
    def is_empty(self) -> bool:
        """Whether it has no tables, but for the one with the version, of an interrupted start."""
        return not any(table for table in self.tables if table != "alembic_version")

    @property
    def is_current(self) -> bool:
        """Whether the tables are those of the MLflow that is installed."""
        return self.version is not None and self.version == versions()[0]

    @property
    def is_mlflows(self) -> bool:
        """Whether the tables are MLflow's, of whatever version; other programs use Alembic, too."""
        return self.version is not None and {"experiments", "runs", "metrics"} <= self.tables


@cache  # 0.1 s
def versions() -> list[str]:
    """All versions of the tables that this MLflow knows, its own first."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    scripts = ScriptDirectory.from_config(_get_alembic_config(""))
    return [script.revision for script in scripts.walk_revisions()]


def settled(read: Callable[[], Schema]) -> Schema:
    """Wait until no other process (`mlflow ui`, say) is migrating the tables; return the schema."""
    schema = read()
    deadline = time.monotonic() + MIGRATION_QUIET_SECONDS
    while not schema.is_current and time.monotonic() < deadline:
        time.sleep(0.1)
        before, schema = schema, read()
        if schema != before:
            deadline = time.monotonic() + MIGRATION_QUIET_SECONDS
    return schema


def mismatch(schema: Schema, upgrade: str, way_out: str) -> str:
    """What is wrong with a store whose tables are not this MLflow's, and what to do."""
    import mlflow

    if not schema.is_mlflows:
        return f"it has other tables than MLflow's, or half of them; {way_out}"
    if schema.version in versions():
        return (
            f"its tables ({schema.version}) are of an older MLflow than this one"
            f" ({mlflow.__version__}); {upgrade}"
        )
    return (
        f"its tables ({schema.version}) are of a newer MLflow than this one ({mlflow.__version__});"
        " run `pip install --upgrade mlflow`"
    )
