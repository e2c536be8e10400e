"""PostgreSQL and MariaDB as stores: made once, left as they are, explained, and out of order."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import click
import psycopg
import pymysql
import pytest
import sqlalchemy
from databases import PASSWORD, Database, MariaDb, Postgres
from faults import SOON, FaultyProxy
from helpers import (
    FLOW_YIELDS,
    Lab,
    Project,
    flat,
    flow_points,
    points_of,
    run_at_once,
    runs_of,
    wait_until,
)
from kedro.io import DatasetError
from lab.tracking import MlflowMetricsDataset
from lab.tracking.delivery.binding import Binding
from lab.tracking.delivery.nested import end_created
from lab.tracking.delivery.outbox import Outbox
from lab.tracking.delivery.route import Destination
from lab.tracking.process.state import process_state
from lab.tracking.store.errors import (
    StoreUnavailableError,
    TrackingError,
    is_outage,
    is_refused,
    is_transient,
    reason,
    refined,
)
from lab.tracking.store.mlflow_store import MlflowStore
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

OLDER = "0584bdc529eb"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDb]:
    with MariaDb() as server:
        yield server


@pytest.fixture(params=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> Database:
    """Each of the two, one after the other."""
    found: Database = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of a database for the test alone."""
    return f"d{abs(hash(request.node.nodeid))}"


@pytest.fixture
def empty(server: Database, name: str) -> str:
    """The URI of an empty database."""
    server.execute(f"CREATE DATABASE {name}")
    return server.uri(name)


@pytest.fixture
def made(empty: str) -> str:
    """The URI of a database with MLflow's tables."""
    SqlAlchemyStore(empty, "mlruns").engine.dispose()
    return empty


def refused(lab: Lab, uri: str) -> str:
    """The sentence that ends a run."""
    lab.configure(tracking_uri=uri)
    with pytest.raises(click.ClickException) as caught:
        lab.run("everything", node_names=["a"])
    message = caught.value.format_message()
    assert "\n" not in message
    assert PASSWORD not in message
    return message


# The first runs


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_8_first_runs_at_once(project: Project, empty: str) -> None:
    project.write("conf/local/mlflow.yml", f"tracking_uri: {empty}\non_outage: spool\n")

    run_at_once(project, 8)

    runs = runs_of(empty)
    assert [run.info.status for run in runs] == ["FINISHED"] * 8
    assert [points_of(empty, run) for run in runs] == [flow_points(FLOW_YIELDS)] * 8
    # What the busy server did not confirm in time was there, and has been sent.
    assert Outbox(project.outbox, empty).runs() == []


MAKE = """
from {package}.tracking.store.mlflow_store import MlflowStore
MlflowStore({uri!r}).open()
"""


@pytest.mark.slow
def test_who_is_killed_while_making_the_tables(
    project: Project, lab: Lab, server: Database, empty: str, name: str
) -> None:
    """PostgreSQL undoes it; MariaDB can't, and half a store has to be removed by hand."""
    script = MAKE.format(package=project.package, uri=empty)
    enough = 5 if isinstance(server, Postgres) else 12

    def is_at_it() -> bool:
        return len(server.tables(name)) >= enough

    with project.started(sys.executable, "-c", script) as process:
        process.wait_until(is_at_it)
        process.signal(signal.SIGKILL)
        process.wait(30)

    if isinstance(server, Postgres):
        MlflowStore(empty).open()
        assert server.execute("SELECT version_num FROM alembic_version", database=name) == [
            (_get_latest_schema_revision(),)
        ]
    else:
        message = refused(lab, empty)
        assert "a process was interrupted while it made MLflow's tables" in message
        assert f"run `DROP DATABASE {name}; CREATE DATABASE {name}`" in message


@pytest.mark.slow
def test_looking_for_an_interrupted_run_makes_no_tables(
    server: Database, empty: str, name: str
) -> None:
    end_created(None, empty, "key")

    assert server.tables(name) == []


# Stores of other versions


@pytest.mark.slow
def test_a_store_of_another_mlflow_is_refused_and_left_as_it_is(
    lab: Lab, server: Database, made: str, name: str
) -> None:
    last = "DROP TABLE webhook_events"  # a table that came late: MLflow would migrate
    server.execute(last, f"UPDATE alembic_version SET version_num = '{OLDER}'", database=name)

    message = refused(lab, made)

    assert f"its tables ({OLDER}) are of an older MLflow than this one" in message
    without_login = made.replace(f"{server.admin}:{PASSWORD}@", "")
    assert f"save a copy and run `mlflow db upgrade {without_login}`" in message
    version = "SELECT version_num FROM alembic_version"
    assert server.execute(version, database=name) == [(OLDER,)]

    server.execute("UPDATE alembic_version SET version_num = 'fedcba987654'", database=name)
    message = refused(lab, made)
    assert "its tables (fedcba987654) are of a newer MLflow than this one" in message
    assert "pip install --upgrade mlflow" in message


@pytest.mark.slow
def test_a_database_with_the_tables_of_another_program_is_left_alone(
    lab: Lab, server: Database, empty: str, name: str
) -> None:
    another = "CREATE TABLE alembic_version (version_num VARCHAR(32))"
    insert = "INSERT INTO alembic_version VALUES ('abc')"
    server.execute("CREATE TABLE invoices (id INT)", another, insert, database=name)

    assert "it has other tables than MLflow's" in refused(lab, empty)

    assert server.tables(name) == ["alembic_version", "invoices"]


# What is refused


def refusals_in(server: Database) -> int:
    text = server.log.read_text()
    return text.count("password authentication failed for user") + text.count("Access denied for")


@pytest.mark.slow
def test_a_refused_login_is_tried_once(lab: Lab, server: Database, empty: str) -> None:
    before = refusals_in(server)

    message = refused(lab, empty.replace(PASSWORD, "wrong-password"))

    assert "can't be used: it refuses the login (" in message
    assert "; check user name and password, in 'tracking_uri'" in message
    assert "wrong-password" not in message
    assert "start it" not in message
    assert wait_until(lambda: refusals_in(server) - before) == 1


@pytest.mark.slow
def test_the_password_may_be_among_the_credentials(lab: Lab, postgres: Postgres, name: str) -> None:
    """PostgreSQL takes it from the environment, also when the store is looked at first."""
    postgres.execute(f"CREATE DATABASE {name}")
    lab.add("local/credentials.yml", f"store: {{PGPASSWORD: {PASSWORD}}}\n")
    lab.configure(tracking_uri=postgres.uri(name, password=""), credentials="store")

    lab.run("everything", node_names=["a"])

    (run,) = runs_of(postgres.uri(name))
    assert run.info.status == "FINISHED"
    assert "PGPASSWORD" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_what_either_driver_of_postgres_says(lab: Lab, postgres: Postgres, driver: str) -> None:
    postgres.execute("DROP ROLE IF EXISTS one")
    postgres.execute(f"CREATE ROLE one LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 0")

    def at(uri: str) -> str:
        return uri.replace("+psycopg", f"+{driver}")

    assert "it refuses the login (" in refused(lab, at(postgres.uri("postgres", password="no")))
    message = refused(lab, at(postgres.uri("nowhere")))
    assert 'the database is not there (database "nowhere" does not exist); create it' in message
    store = MlflowStore(at(postgres.uri("postgres", user="one")))
    with store.deadline(1), pytest.raises(StoreUnavailableError) as caught:
        store.open()
    assert 'it has no free connection (too many connections for role "one")' in str(caught.value)


@pytest.mark.slow
def test_a_missing_database_is_an_error_at_once(lab: Lab, mariadb: MariaDb) -> None:
    message = refused(lab, mariadb.uri("nowhere"))

    assert "the database is not there (Unknown database 'nowhere'); create it" in message


@pytest.mark.slow
def test_a_user_who_may_not_create_the_tables(lab: Lab, server: Database, empty: str) -> None:
    name = empty.rpartition("/")[2]
    reader = f"reader{abs(hash(empty)) % 10**6}"
    if isinstance(server, Postgres):
        server.execute(f"CREATE ROLE {reader} LOGIN PASSWORD '{PASSWORD}'")
    else:
        server.execute(
            f"CREATE USER {reader}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'",
            f"GRANT SELECT ON {name}.* TO {reader}@'127.0.0.1'",
        )

    message = refused(lab, server.uri(name, reader))

    assert "it does not permit this user to do that (" in message
    assert "; grant the user what is missing" in message


@pytest.mark.slow
def test_a_user_who_may_no_longer_write(
    lab: Lab, server: Database, made: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on, in the outbox, and is synced when the user may write again."""
    writer = f"writer{abs(hash(made)) % 10**6}"
    if isinstance(server, Postgres):
        server.execute(
            f"CREATE ROLE {writer} LOGIN PASSWORD '{PASSWORD}'",
            f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {writer}",
            f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {writer}",
            database=name,
        )
        who, what = writer, "metrics"
    else:
        who, what = f"{writer}@'127.0.0.1'", f"{name}.metrics"
        server.execute(
            f"CREATE USER {who} IDENTIFIED BY '{PASSWORD}'",
            f"GRANT SELECT, UPDATE ON {name}.* TO {who}",
            # A privilege for a whole database is taken away from new connections only.
            *(f"GRANT INSERT ON {name}.{table} TO {who}" for table in server.tables(name)),
        )
    lab.configure(tracking_uri=server.uri(name, writer))

    with at(
        200,
        server,
        name,
        lambda: server.execute(f"REVOKE INSERT ON {what} FROM {who}", database=name),
    ):
        lab.run("flow", params={"yields": 20, "pause": 0.1})

    (warning,) = [r.getMessage() for r in caplog.records if "The run goes on" in r.getMessage()]
    assert "it does not permit this user to do that" in warning
    server.execute(f"GRANT INSERT ON {what} TO {who}", database=name)
    assert lab.sync()[0]
    (run,) = runs_of(made)
    assert run.info.status == "FINISHED"
    assert points_of(made, run) == flow_points(20)


def test_a_driver_that_is_not_installed_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for driver, command in {
        "postgresql+psycopg": "`pip install 'psycopg[binary]'`",
        "postgresql+psycopg2": "`pip install psycopg2-binary`",
        "mysql+pymysql": "`pip install pymysql`",
        "mysql": "`pip install mysqlclient`, or `pip install pymysql` and let",
    }.items():
        monkeypatch.setitem(sys.modules, driver.partition("+")[2] or "MySQLdb", None)

        message = refused(lab, f"{driver}://me:{PASSWORD}@127.0.0.1:1/mlflow")

        assert f"is not installed; run {command}" in message


def sql_error(orig: Exception) -> Exception:
    """What MLflow's SQL stores raise for an error of the database's driver."""
    error = MlflowException(f"[SQL: INSERT {PASSWORD}]")
    error.__cause__ = sqlalchemy.exc.DBAPIError("INSERT", {}, orig)
    return error


@pytest.mark.parametrize(
    ("error", "text", "refused", "outage"),
    [
        (psycopg.errors.DiskFull("no space"), "it has no space left", True, True),
        (pymysql.err.OperationalError(1114, "full"), "it has no space left", True, True),
        (psycopg.errors.ReadOnlySqlTransaction("x"), "it is read-only", True, True),
        (pymysql.err.OperationalError(1290, "x"), "it is read-only", True, True),
        (pymysql.err.OperationalError(1142, "x"), "it does not permit", True, True),
        (pymysql.err.OperationalError(1040, "x"), "it has no free connection", False, True),
        (psycopg.errors.TooManyConnections("x"), "it has no free connection", False, True),
        (psycopg.errors.AdminShutdown("ends"), "ends", False, True),
        (psycopg.errors.DeadlockDetected("deadlock"), "deadlock", False, True),
        (pymysql.err.OperationalError(1213, "deadlock"), "deadlock", False, True),
        (pymysql.err.OperationalError(2013, "lost"), "lost", False, True),
        (psycopg.errors.UniqueViolation("twice"), "twice", False, False),
        (pymysql.err.IntegrityError(1062, "Duplicate entry 'a' for key"), "Duplic", False, False),
    ],
)
def test_what_an_error_of_a_database_means(
    error: Exception, text: str, refused: bool, outage: bool
) -> None:
    wrapped = sql_error(error)

    assert reason(wrapped).startswith(text)
    assert is_refused(wrapped) == refused
    assert is_outage(wrapped) == outage
    assert is_transient(wrapped) == (outage and not refused)
    shown = refined("postgresql://a:b@c/d", wrapped)
    assert PASSWORD not in str(shown)
    assert is_refused(shown) == refused
    assert is_outage(shown) == outage


# What answers in the place of a tracking server


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, "it refuses the login (status 401 Unauthorized); check user name and password"),
        (403, "it does not permit this user to do that (status 403 Forbidden)"),
        (404, "what answers there is not an MLflow server (status 404 Not Found); check"),
        (405, "what answers there is not an MLflow server (status 405 Method Not Allowed)"),
        (413, "refuses a request of this size (status 413 Request Entity Too Large); raise"),
        (200, "what answers there is not an MLflow server (status 200 OK, with a page in HTML)"),
    ],
)
def test_an_answer_that_no_other_try_changes(lab: Lab, status: int, text: str) -> None:
    with FaultyProxy("nowhere", share=0, timeout=1) as proxy:
        proxy.always = status
        store = MlflowStore(proxy.url)

        with pytest.raises(TrackingError) as caught:
            store.experiment_id("lab")

    error = caught.value
    assert text in str(error)
    assert not isinstance(error, StoreUnavailableError)
    assert is_refused(error)
    assert is_outage(error) == (status != 413)


# Keys that MariaDB takes for one


@pytest.fixture(scope="module")
def maria_store(mariadb: MariaDb) -> str:
    mariadb.execute("CREATE DATABASE store")
    SqlAlchemyStore(mariadb.uri("store"), "mlruns").engine.dispose()
    return mariadb.uri("store")


@pytest.mark.slow
@pytest.mark.parametrize("twins", [("loss", "Loss"), ("cafe", "café"), ("a", "a ")])
def test_keys_that_mariadb_takes_for_one(
    lab: Lab, maria_store: str, twins: tuple[str, str]
) -> None:
    run_id = MlflowClient(maria_store).create_run("0").info.run_id
    lab.configure(tracking_uri=maria_store)
    lab.context()
    first, second = twins

    def dataset() -> MlflowMetricsDataset:
        dataset = MlflowMetricsDataset()
        dataset.bind(Binding("m", "m", ".", Destination(maria_store, run_id)))
        return dataset

    with pytest.raises(DatasetError) as caught:
        dataset().save({"other": 1.0, **{name: list(range(2000)) for name in twins}})
    assert f"The keys 'm.{first}' and 'm.{second}' are one for the MLflow store" in str(
        caught.value
    )
    assert "Nothing of 'm' was written." in str(caught.value)
    assert MlflowClient(maria_store).get_run(run_id).data.metrics == {}

    dataset().save({first: 1.0})
    with pytest.raises(DatasetError, match="are one for the MLflow store"):  # of an earlier save
        dataset().save({second: 2.0, "other": 1.0})
    process_state().stores.clear()  # as in another process, which asks the store
    with pytest.raises(DatasetError, match="are one for the MLflow store"):
        dataset().save({second: 2.0, "other": 1.0})
    assert MlflowClient(maria_store).get_run(run_id).data.metrics == {f"m.{first}": 1.0}


@pytest.mark.slow
def test_parameters_that_mariadb_takes_for_one(
    lab: Lab, maria_store: str, caplog: pytest.LogCaptureFixture
) -> None:
    lab.configure(tracking_uri=maria_store, experiment="parameters")
    lab.add("base/parameters.yml", "model: {depth: 3, Depth: 4, width: 5}\ntext: hello\n")

    lab.run("parameters")

    assert "The parameter 'model.Depth' is not logged: for the MLflow store" in caplog.text
    assert "its name is the same as 'model.depth'" in caplog.text
    (run,) = [r for r in runs_of(maria_store) if str(r.info.run_name).startswith("parameters ")]
    assert run.data.params == {"model.depth": "3", "model.width": "5", "text": "hello"}


# An outage of PostgreSQL


@contextmanager
def at(
    points: int, server: Database, database: str, action: Callable[[], object]
) -> Iterator[None]:
    """Do something when the store has so many points, while the block runs."""

    def watch() -> None:
        wait_until(lambda: server.count(database) >= points)
        action()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(watch)
        yield
        done.result()


def assert_all_there(lab: Lab, uri: str, yields: int) -> None:
    """Every point once, at once or after a sync."""
    if lab.outbox.exists():
        assert lab.sync()[0]
    (run,) = runs_of(uri)
    assert run.info.status == "FINISHED"
    assert points_of(uri, run) == flow_points(yields)
    histories = [
        MlflowClient(uri).get_metric_history(run.info.run_id, key) for key in run.data.metrics
    ]
    assert sum(map(len, histories)) == yields * len(run.data.metrics)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [3, 25])
def test_a_database_server_killed_in_a_stream_and_started_again(
    lab: Lab, tmp_path: Path, seconds: int
) -> None:
    """And nothing that is printed has SQL, values or the password."""
    with Postgres() as server:
        server.execute("CREATE DATABASE store")
        uri = server.uri("store")
        SqlAlchemyStore(uri, "mlruns").engine.dispose()
        lab.configure(tracking_uri=uri)

        def restart() -> None:
            server.stop(signal.SIGQUIT)  # as `pg_ctl stop -m immediate`
            time.sleep(seconds)
            server.start()

        pause = (seconds + 10) / 100
        with (
            lab.command("flow", f"--params=yields=100,pause={pause}") as process,
            at(2000, server, "store", restart),
        ):
            assert process.wait(200) == 0, process.output
        output = process.output

        assert len(output) < 20_000 + 100 * 400  # Kedro has a line or two for each yield
        for hidden in ("INSERT INTO", "Traceback", "parameters:", PASSWORD):
            assert hidden not in output
        if seconds > 20:
            assert "The run goes on" in flat(output)
        assert_all_there(lab, uri, 100)


# psycopg warns of a connection that is deleted, and not closed: those that hung, or were cut, are.
cut_connections = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@cut_connections
@pytest.mark.slow
def test_a_database_server_that_hangs(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.tracking.store.mlflow_store.RETRY_SECONDS", 3)
    with Postgres() as server:
        server.execute("CREATE DATABASE store")
        uri = server.uri("store")
        SqlAlchemyStore(uri, "mlruns").engine.dispose()
        lab.configure(tracking_uri=uri)
        ended = threading.Event()

        def hang() -> None:
            with server.hung():
                ended.wait(60)

        with at(2000, server, "store", hang):
            start = time.monotonic()
            lab.run("flow", params={"yields": 50, "pause": 0.1})
            ended.set()
        assert time.monotonic() - start < 60
        assert lab.outbox.exists()
        assert_all_there(lab, uri, 50)


@cut_connections
@pytest.mark.slow
def test_a_server_that_hangs_at_the_start(lab: Lab, postgres: Postgres) -> None:
    lab.configure(tracking_uri=postgres.uri("postgres"))
    start = time.monotonic()
    with (
        postgres.hung(),
        pytest.raises(click.ClickException, match="can't be reached: it does not answer in time"),
    ):
        lab.run("everything", node_names=["a"])
    assert time.monotonic() - start < SOON


@cut_connections
@pytest.mark.slow
def test_a_database_server_with_no_free_connection(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process has connections of its own; those of this one are closed by the server."""
    monkeypatch.setattr("lab.tracking.store.mlflow_store.RETRY_SECONDS", 2)
    with Postgres() as server:
        server.execute(
            "CREATE DATABASE store", f"CREATE ROLE writer SUPERUSER LOGIN PASSWORD '{PASSWORD}'"
        )
        uri = server.uri("store", "writer")
        SqlAlchemyStore(uri, "mlruns").engine.dispose()
        lab.configure(tracking_uri=uri)

        def refuse() -> None:
            server.execute(
                "ALTER ROLE writer NOSUPERUSER",
                "ALTER DATABASE store CONNECTION LIMIT 0",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'writer'",
            )
            wait_until(lab.outbox.exists)
            server.execute(
                "ALTER DATABASE store CONNECTION LIMIT -1", "ALTER ROLE writer SUPERUSER"
            )

        with at(1000, server, "store", refuse):
            lab.run("flow", params={"yields": 50, "pause": 0.2})
        assert_all_there(lab, uri, 50)
