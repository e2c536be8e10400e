"""Keys that MySQL and MariaDB take for one: they differ in case, in accents or in a last space."""

from __future__ import annotations

import logging
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..points import PointsError
from .errors import StoreUnavailableError
from .mlflow_store import MlflowStore, store_at

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

# A server's own default: of MariaDB 10.11 utf8mb4_general_ci, of 11.5 and later
# utf8mb4_uca1400_ai_ci, of MySQL 8 utf8mb4_0900_ai_ci. MLflow's tables set no other.
USUAL_COLLATION = "utf8mb4_general_ci"
COLLATION_SECONDS = 2.0
RUNS_REMEMBERED = 100  # with their keys
_COLLATION = (
    "SELECT COLLATION_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE()"
    " AND TABLE_NAME = 'latest_metrics' AND COLUMN_NAME = 'key'"
)


def check_keys(
    uri: str, run_id: str, keys: Iterable[str], earlier: Callable[[], Iterable[str]]
) -> None:
    """Raise an error if the store would take one of the keys for another of the same run.

    Args:
        uri: The store's, a MySQL or MariaDB database.
        run_id: The run's.
        keys: What is to be written.
        earlier: Gives the keys that the run has in the store; called once for a run.

    Raises:
        PointsError: Both keys, and what to do.
    """
    book = _book_of(store_at(uri))
    with book.lock:
        known = book.keys.get(run_id)
        if known is None:
            if len(book.keys) >= RUNS_REMEMBERED:
                book.keys.pop(next(iter(book.keys)))
            known = {_folded(key, book.collation): key for key in earlier()}
        new = dict(known)
        for key in keys:
            if (twin := new.setdefault(_folded(key, book.collation), key)) != key:
                raise PointsError(
                    f"The keys {twin!r} and {key!r} are one for the MLflow store, a MySQL or"
                    f" MariaDB database ({book.collation}); rename one, or let the database compare"
                    " them byte by byte (COLLATE utf8mb4_bin)."
                )
        book.keys[run_id] = new


def distinct(uri: str, names: Iterable[str], earlier: Iterable[str]) -> Iterator[str]:
    """The names of parameters that the store does not take for others'; with warnings."""
    if not uri.startswith("mysql"):
        yield from names
        return
    collation = _book_of(store_at(uri)).collation
    known = {_folded(name, collation): name for name in earlier}
    for name in names:
        if (twin := known.setdefault(_folded(name, collation), name)) == name:
            yield name
        else:
            text = "The parameter %r is not logged: for the MLflow store, a MySQL or MariaDB"
            logger.warning(text + " database, its name is the same as %r.", name, twin)


@dataclass
class _Book:
    """What is known of a store."""

    collation: str  # how its database compares keys
    keys: dict[str, dict[str, str]] = field(default_factory=dict)  # by run, by what is compared
    lock: threading.Lock = field(default_factory=threading.Lock)


def _book_of(store: MlflowStore) -> _Book:
    if store.keys is None:

        def request(client: MlflowClient) -> str:
            with client._tracking_client.store.engine.connect() as connection:
                return str(connection.exec_driver_sql(_COLLATION).scalar() or USUAL_COLLATION)

        try:
            with store.deadline(COLLATION_SECONDS):
                store.keys = _Book(store.call(request))
        except StoreUnavailableError:  # what goes to the outbox now must fit here later
            store.keys = _Book(USUAL_COLLATION)
    book: _Book = store.keys
    return book


def _folded(key: str, collation: str) -> str:
    """What the collation compares, nearly: https://dev.mysql.com/doc/refman/8.4/en/charset-collation-names.html."""
    if "_ci" in collation:
        key = unicodedata.normalize("NFKD", key.casefold())
        if "_as_" not in collation:
            key = "".join(character for character in key if not unicodedata.combining(character))
    pads = "_0900_" not in collation and "nopad" not in collation
    return key.rstrip(" ") if pads else key
