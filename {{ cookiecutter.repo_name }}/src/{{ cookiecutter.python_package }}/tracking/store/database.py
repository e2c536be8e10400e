"""A database server's store: made by one process at a time, checked before MLflow changes it."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..redaction import redact, without_credentials
from .errors import NO_ANSWER, TrackingError
from .problems import is_lock_timeout
from .schema import CREATE_SECONDS, Schema, mismatch, settled

if TYPE_CHECKING:
    from logging import LogRecord

    from sqlalchemy import Connection, Engine

T = TypeVar("T")

LEAST_SECONDS = 0.5  # for a request
# The key of PostgreSQL's advisory lock: "mlflow" in ASCII. Each database has locks of its own;
# MariaDB's and MySQL's locks are the server's: their names have a hash of the database's name.
LOCK = 0x6D6C666C6F77
_LOCK_POSTGRES = (
    f"SET LOCAL lock_timeout = '{CREATE_SECONDS:.0f}s'",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    f"SELECT pg_advisory_xact_lock({LOCK}) IS NOT NULL",
)
_LOCK_MYSQL = (f"SELECT GET_LOCK(CONCAT('mlflow.', MD5(DATABASE())), {CREATE_SECONDS:.0f})",)
_HAVE_TIMEOUT = {"psycopg", "psycopg2", "pymysql", "mysqldb"}  # that is called connect_timeout
# By the module that a driver is missing; MLflow installs none.
_PACKAGES = {
    "psycopg": "`pip install 'psycopg[binary]'`",
    "psycopg2": "`pip install psycopg2-binary`",
    "pymysql": "`pip install pymysql`",
    "MySQLdb": (
        "`pip install mysqlclient`, or `pip install pymysql` and let 'tracking_uri' begin with"
        " mysql+pymysql://"
    ),
}


def dialect(uri: str) -> str:
    """The kind of database server behind a URI, as SQLAlchemy calls it; "" for other stores."""
    name = uri.partition(":")[0].partition("+")[0]
    return name if name in ("postgresql", "mysql", "mssql") else ""


def within(seconds: float, request: Callable[[], T]) -> T:
    """What a request returns; a ``TimeoutError`` if it takes longer.

    A server that hangs keeps a request for ever: psycopg and psycopg2 have no limit for an answer.
    So it runs on a thread of its own, which is left behind.
    """
    outcome: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome.set_result(context.run(request))
        except BaseException as error:
            outcome.set_exception(error)

    try:
        threading.Thread(target=run, name="mlflow-request", daemon=True).start()
    except RuntimeError:  # a limit of threads is reached, or, in Python 3.12, the process exits
        run()
    wait([outcome], max(seconds, LEAST_SECONDS))
    if not outcome.done():
        raise TimeoutError(NO_ANSWER)
    return outcome.result()


class Retry(Protocol):
    """What is used of ``mlflow_store.Retry``."""

    def deadline(self, seconds: float) -> AbstractContextManager[None]: ...  # noqa: D102
    def seconds_left(self) -> float: ...  # noqa: D102
    def lets_log(self, record: LogRecord) -> bool: ...  # noqa: D102


def request(make: Callable[[], T], retry: Retry) -> T:
    """What a request returns; a ``TimeoutError`` if the deadline comes first."""
    seconds = retry.seconds_left()

    def on_thread() -> T:
        with retry.deadline(seconds):
            return make()

    return within(seconds, on_thread)


def make_or_check(uri: str, seconds: float) -> str | None:
    """Make the store in an empty database; check the one that is there.

    Returns what is wrong with it. MLflow itself (3.17) would try to connect for 100 s, break where
    several processes make the tables at once, and migrate an older version's, unasked. A SQL
    Server is only asked whether it answers: nothing here has been tried on one.
    """
    if dialect(uri) == "mssql":
        probe(uri, seconds)
        return None
    with _engine(uri, seconds) as engine:
        schema = within(seconds, partial(_schema, engine))
        if schema.is_current and schema.is_used:
            return None
        with _locked(engine, uri):
            return _make_or_check(uri, engine)


def probe(uri: str, seconds: float) -> None:
    """Check that the server answers: MLflow's client would try for 100 s, or for ever."""
    with _engine(uri, seconds) as engine:
        within(seconds, lambda: _connect(engine).close())


@contextmanager
def _engine(uri: str, seconds: float) -> Iterator[Engine]:
    """An engine as MLflow's own (MLFLOW_MYSQL_SSL_CA and others), whose connections are ours."""
    from mlflow.store.db.utils import create_sqlalchemy_engine
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    if url.get_driver_name() in _HAVE_TIMEOUT and "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": str(max(int(seconds), 2))})
    try:
        engine: Engine = create_sqlalchemy_engine(url.render_as_string(hide_password=False))
    except ImportError as error:
        driver = url.get_driver_name()
        package = _PACKAGES.get(error.name or driver, f"`pip install {error.name or driver}`")
        raise TrackingError(
            f"The MLflow store {redact(uri)} can't be used: {driver!r}, the Python driver of its"
            f" database, is not installed; run {package}."
        ) from None
    try:
        yield engine
    finally:
        engine.dispose()


def _connect(engine: Engine) -> Connection:
    """A connection outside the pool, so that one that comes too late is closed, too."""
    connection = engine.connect()
    connection.detach()
    return connection


@contextmanager
def _locked(engine: Engine, uri: str) -> Iterator[None]:
    """One process at a time; the lock ends with its connection, and that with the process."""
    from sqlalchemy.exc import DBAPIError

    lock = _LOCK_POSTGRES if engine.dialect.name == "postgresql" else _LOCK_MYSQL

    def take() -> Connection:
        connection = _connect(engine)
        for statement in lock:
            result = connection.exec_driver_sql(statement)
            is_taken = not result.returns_rows or bool(result.scalar())
        if not is_taken:
            raise TimeoutError
        return connection

    try:
        connection = within(CREATE_SECONDS + 10, take)
    except (TimeoutError, DBAPIError) as error:
        if isinstance(error, DBAPIError) and not is_lock_timeout(error):
            raise
        raise TrackingError(
            f"Another process has been making the MLflow store {redact(uri)} for"
            f" {CREATE_SECONDS:.0f} s; wait until it is done, or end it, and run again."
        ) from None
    try:
        yield
    finally:
        with suppress(DBAPIError):  # the server may have gone
            connection.close()


def _make_or_check(uri: str, engine: Engine) -> str | None:
    """Make or check the tables, while no other process of this kind does."""
    read = partial(within, CREATE_SECONDS, partial(_schema, engine))
    schema = read()
    failure: Exception | None = None
    if schema.is_empty or _is_rolled_back(schema, engine):
        try:
            within(CREATE_SECONDS, partial(_make, uri))
        except Exception as error:  # `mlflow server`, which takes no lock, may be faster
            failure = error
    schema = settled(read)
    if schema.is_current:
        return None
    is_postgres, database = engine.dialect.name == "postgresql", engine.url.database
    if failure and (schema.is_empty or is_postgres):
        raise failure
    if "experiments" in schema.tables and not schema.is_used:
        return (
            "a process was interrupted while it made MLflow's tables, and half of them are there;"
            f" if nothing else is in it, run `DROP DATABASE {database}; CREATE DATABASE {database}`"
        )
    command = f"save a copy and run `mlflow db upgrade {without_credentials(uri)}`"
    return mismatch(schema, command, "name an empty database")


def _is_rolled_back(schema: Schema, engine: Engine) -> bool:
    """Whether a process was killed while it made the tables of a PostgreSQL store.

    MLflow (3.17) makes a few tables, then migrates them, all in one transaction.
    """
    from mlflow.store.tracking.dbmodels.initial_models import Base

    rolled_back = schema.version is None and schema.tables <= set(Base.metadata.tables)
    return rolled_back and not schema.is_used and engine.dialect.name == "postgresql"


def _make(uri: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri, "mlruns").engine.dispose()


def _schema(engine: Engine) -> Schema:
    from sqlalchemy import inspect

    with _connect(engine) as connection:
        tables = frozenset(inspect(connection).get_table_names())
        version, experiment = None, None
        if "alembic_version" in tables:
            version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        if "experiments" in tables:
            one = "SELECT experiment_id FROM experiments LIMIT 1"
            experiment = connection.exec_driver_sql(one).scalar()
        return Schema(version, tables, experiment is not None)
