"""Measures how far one store goes: writers at once, runs in an experiment, points in a table.

``make sizes`` runs this on a real PostgreSQL and MLflow's server with passwords, both on this
machine. What is compared is measured in turn; each figure is a median.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import numpy as np
import sqlalchemy
import yaml
from databases import Postgres
from helpers import KEDRO, bake
from lab.tracking import MlflowMetricsDataset
from lab.tracking.delivery.binding import Binding
from lab.tracking.delivery.route import Destination
from mlflow import MlflowClient
from team import ADMIN, TeamServer
from writers import Compared, Writers, writers

HERE = Path(__file__).parent
# A log_batch request holds two connections of its worker's pool, and a worker answers up to 40
# requests at once: with MLflow's 15 (3.17) they wait for each other, see docs/sizes.md.
POOL = {"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "5", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "45"}
WRITERS = {1: 6_000, 4: 4_000, 16: 3_000, 64: 2_000}  # by their number, how many points each
YIELDS = 1_000
SQLITE_POINTS = 400_000
RUNS = (10, 1_000, 100_000)


class Servers:
    """PostgreSQL, and MLflow's server on it."""

    def __init__(
        self, stack: ExitStack, workers: int = 2, postgres: Postgres | None = None
    ) -> None:
        self.postgres = postgres or stack.enter_context(_postgres())
        self.team = stack.enter_context(TeamServer(self.postgres, workers=workers))
        self.login = {
            "MLFLOW_TRACKING_USERNAME": ADMIN,
            "MLFLOW_TRACKING_PASSWORD": self.team.password,
        }

    def compared(self, number: int, work: Callable[[Writers], Compared]) -> Compared:
        """What so many writers take, in processes of their own."""
        pids = {"server": self.team.running.pid, "PostgreSQL": self.postgres.running.pid}
        with writers(number, self.team.url, self.login, pids) as each:
            return work(each)


def _postgres() -> Postgres:
    postgres = Postgres()
    postgres.command += ["--max_connections=300"]
    return postgres


def throughput(times: int) -> Iterator[str]:
    """Points a second, by the number of writers and of the server's workers."""
    yield (
        "| writers | server's workers | ours, points/s | `log_batch`, points/s | ratio"
        " | server's CPU for 1,000 points | cores busy |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    with ExitStack() as stack:
        servers = Servers(stack)
        for number, points in WRITERS.items():
            yield _rate(servers, number, points, 2, times if number < 64 else times // 2)
        for workers in (1, 4):
            with ExitStack() as inner:
                other = Servers(inner, workers, servers.postgres)
                yield _rate(other, 16, WRITERS[16], workers, times // 2)
        yield ""
        yield from _yields(servers)
        yield ""
        yield from _growth(servers)


def _rate(servers: Servers, number: int, points: int, workers: int, times: int) -> str:
    found = servers.compared(number, lambda each: each.compared("ours", "log_batch", points, times))
    ours, other = (number * points / seconds for seconds in (found.ours, found.other))
    cores = ", ".join(f"{name} {busy:.1f}" for name, busy in found.cores.items())
    cpu = " and ".join(f"{1e6 * each / number / points:.0f}" for each in found.cpu["server"])
    return (
        f"| {number} | {workers} | {ours:,.0f} | {other:,.0f} | {found.ratio:.2f}"
        f" | {cpu} ms | {cores} |"
    )


def _yields(servers: Servers) -> Iterator[str]:
    yield f"| writers, {YIELDS:,} yields of 3 metrics | ours | a `log_batch` a yield | ratio |"
    yield "| --- | --- | --- | --- |"
    found = servers.compared(
        1, lambda each: each.compared("our_yields", "yield_batches", YIELDS, 1)
    )
    yield f"| 1 | {found.ours:.1f} s | {found.other:.1f} s | {found.ratio:.0f} |"


def _growth(servers: Servers) -> Iterator[str]:
    """PostgreSQL's tables as the writers have left them, and an SQLite file."""
    yield "| store | points | size | a point | a million points |"
    yield "| --- | --- | --- | --- | --- |"
    database = servers.team.database
    size = "SELECT pg_total_relation_size('metrics') + pg_total_relation_size('latest_metrics')"
    count = servers.postgres.count(database)
    yield _grown("PostgreSQL", count, servers.postgres.execute(size, database=database)[0][0])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mlflow.db"
        uri = f"sqlite:///{file}"
        run = Destination(uri, MlflowClient(uri).create_run("0").info.run_id)
        empty = file.stat().st_size
        dataset = MlflowMetricsDataset()
        dataset.bind(Binding("bench", "bench", ".", run))
        dataset.save({"loss": np.arange(SQLITE_POINTS) / 7})
        yield _grown("SQLite", SQLITE_POINTS, file.stat().st_size - empty)


def _grown(store: str, points: int, size: int) -> str:
    each = size / points
    return f"| {store} | {points:,} | {size / 1e6:,.0f} MB | {each:.0f} bytes | {each:.0f} MB |"


def runs(times: int) -> Iterator[str]:
    """What a run's start and `kedro metrics show` take, by the runs that the experiment has."""
    yield (
        "| store | runs | open and close a run | MLflow's two requests | `kedro run`, one node"
        " | `kedro metrics show` |"
    )
    yield "| --- | --- | --- | --- | --- | --- |"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = Servers(stack)
        for store in ("SQLite", "server"):
            project = bake(folder / store, include_example="no")
            pipeline = project / "src" / "lab" / "pipelines" / "one"
            pipeline.mkdir(parents=True)
            shutil.copy(HERE / "pipelines" / "one.py", pipeline / "__init__.py")
            sql = f"sqlite:///{project / 'mlflow.db'}"
            if store == "server":
                _use(project, servers)
                sql = servers.postgres.uri(servers.team.database)
            _seconds(project, "run", "--pipelines=one")
            for before, number in zip((0, *RUNS), RUNS, strict=False):
                copy_run(sql, before, number)
                yield _start(project, store, number, times)


def _use(project: Path, servers: Servers) -> None:
    local = project / "conf" / "local"
    settings = {"tracking_uri": servers.team.url, "credentials": "mlflow"}
    (local / "mlflow.yml").write_text(yaml.safe_dump(settings))
    (local / "credentials.yml").write_text(yaml.safe_dump({"mlflow": servers.login}))


def _start(project: Path, store: str, number: int, times: int) -> str:
    whole = statistics.median(_seconds(project, "run", "--pipelines=one") for _ in range(times))
    shows = [_seconds(project, "metrics", "show") for _ in range(times)]
    environment = {**_environment(project), **_login(project)}
    printed = _call([sys.executable, HERE / "starts.py"], project, environment)
    ours, other = json.loads(printed.partition("RESULT")[2])
    show = statistics.median(shows)
    return f"| {store} | {number:,} | {ours:.3f} s | {other:.3f} s | {whole:.2f} s | {show:.2f} s |"


def _login(project: Path) -> dict[str, str]:
    credentials = project / "conf" / "local" / "credentials.yml"
    given = yaml.safe_load(credentials.read_text()) if credentials.exists() else None
    login: dict[str, str] = (given or {}).get("mlflow", {})
    return login


def _environment(project: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(project / "src")}


def _call(command: list[str | Path], project: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _seconds(project: Path, *arguments: str) -> float:
    start = time.perf_counter()
    _call([KEDRO, *arguments], project, _environment(project))
    return time.perf_counter() - start


def copy_run(uri: str, first: int, last: int) -> None:
    """Add copies of a run, from this number to that, which began before it."""
    engine = sqlalchemy.create_engine(uri)
    run_id = "printf('%032x', n)" if uri.startswith("sqlite") else "lpad(to_hex(n), 32, '0')"
    with engine.begin() as connection:
        original = "SELECT max(run_uuid) FROM latest_metrics"  # the copies' begin with zeros
        given = {"run": connection.exec_driver_sql(original).scalar_one(), "last": last - 1}
        for table in ("runs", "latest_metrics", "metrics", "tags"):
            found = sqlalchemy.inspect(connection).get_columns(table)
            columns = [column["name"] for column in found if column["name"] != "run_uuid"]
            names = ", ".join(f'"{name}"' for name in columns)
            chosen = ", ".join(f't."{name}"' for name in columns)
            chosen = chosen.replace('t."start_time"', 't."start_time" - 1 - n')
            connection.execute(
                sqlalchemy.text(
                    f"INSERT INTO {table} (run_uuid, {names}) WITH RECURSIVE copies(n) AS"
                    f" (SELECT {first} UNION ALL SELECT n + 1 FROM copies WHERE n < :last)"
                    f" SELECT {run_id}, {chosen} FROM copies, {table} t WHERE t.run_uuid = :run"
                ),
                given,
            )
    if not uri.startswith("sqlite"):
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")  # as autovacuum does within a minute
    engine.dispose()


PARTS = {"throughput": throughput, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="measurements of each")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    os.environ.update(POOL)
    names = ", ".join(f"{name} {version(name)}" for name in ("kedro", "mlflow", "sqlalchemy"))
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {names}, PostgreSQL 18\n")
    for part in options.only:
        for row in PARTS[part](options.times):
            print(row, flush=True)
        print()


if __name__ == "__main__":
    main()
