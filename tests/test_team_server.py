"""A team's server: PostgreSQL, directly and behind MLflow's server with basic auth."""

from __future__ import annotations

import json
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from databases import PASSWORD, Postgres
from helpers import (
    KEDRO,
    STARTER,
    HttpProcess,
    Lab,
    Points,
    Process,
    Project,
    flat,
    flow_points,
    free_port,
    points_of,
    runs_of,
    wait_until,
)
from kedro.runner import ParallelRunner, SequentialRunner, ThreadRunner
from mlflow import MlflowClient
from mlflow.entities import Run
from team import ADMIN, TeamServer
from test_runs import ALL_BUT_STREAM, NO_GENERATOR, STREAM

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="module")
def team(postgres: Postgres) -> Iterator[TeamServer]:
    with TeamServer(postgres) as server:
        yield server


class Store:
    """A store as a test reads it: the database, whatever a run writes to."""

    def __init__(self, database: str, experiment: str) -> None:
        self.uri = database
        self.experiment = experiment

    def runs(self) -> list[Run]:
        found = MlflowClient(self.uri).get_experiment_by_name(self.experiment)
        return [
            run
            for run in runs_of(self.uri)
            if found and run.info.experiment_id == found.experiment_id
        ]

    def points(self, run: Run) -> Points:
        return points_of(self.uri, run)


def use(lab: Lab, server: TeamServer, password: str | None = None) -> None:
    """Let the lab use the server, with the three lines of the documentation."""
    lab.configure(tracking_uri=server.url, credentials="mlflow")
    login = {
        "MLFLOW_TRACKING_USERNAME": ADMIN,
        "MLFLOW_TRACKING_PASSWORD": server.password if password is None else password,
    }
    (lab.conf / "local" / "credentials.yml").write_text(yaml.safe_dump({"mlflow": login}))


@pytest.fixture(params=["directly", "behind the server"])
def stored(request: pytest.FixtureRequest, lab: Lab, postgres: Postgres, team: TeamServer) -> Store:
    """PostgreSQL, as the store of the lab."""
    experiment = f"e{abs(hash(request.node.nodeid))}"
    lab.configure(experiment=experiment)
    if request.param == "directly":
        lab.configure(tracking_uri=postgres.uri(team.database))
    else:
        use(lab, team)
    return Store(postgres.uri(team.database), experiment)


@pytest.mark.parametrize(
    ("make_runner", "nodes", "context"),
    [
        pytest.param(SequentialRunner, None, "fork", id="sequential"),
        pytest.param(ThreadRunner, None, "fork", id="thread"),
        pytest.param(ParallelRunner, None, "fork", id="fork"),
        pytest.param(ParallelRunner, None, "spawn", id="spawn"),
        pytest.param(
            lambda: ParallelRunner(is_async=True), NO_GENERATOR, "forkserver", id="forkserver-async"
        ),
    ],
)
def test_every_runner_fills_exactly_one_run(  # noqa: PLR0917
    lab: Lab,
    stored: Store,
    monkeypatch: pytest.MonkeyPatch,
    make_runner: Callable[[], Any],
    nodes: list[str] | None,
    context: str,
) -> None:
    monkeypatch.setenv("KEDRO_MP_CONTEXT", context)

    lab.run("everything", runner=make_runner(), node_names=nodes)

    (run,) = stored.runs()
    assert run.info.status == "FINISHED"
    assert stored.points(run) == ALL_BUT_STREAM | ({} if nodes else STREAM)


def test_on_a_dask_cluster(lab: Lab, team: TeamServer, postgres: Postgres) -> None:
    """The workers get the password with the node."""
    use(lab, team)
    lab.configure(experiment="dask")
    options = "--runner=lab.tracking.dask.DaskRunner", "--runner-params=max_workers=2"
    with lab.command("everything", *options) as process:
        assert process.wait(120) == 0, process.output

    store = Store(postgres.uri(team.database), "dask")
    (run,) = store.runs()
    assert (run.info.status, store.points(run)) == ("FINISHED", ALL_BUT_STREAM | STREAM)


@pytest.mark.parametrize(("password", "part"), [("hunter3", "hunter3"), ("", "")])
def test_a_wrong_or_missing_password_is_one_sentence(
    lab: Lab, team: TeamServer, password: str, part: str
) -> None:
    use(lab, team, password)
    with pytest.raises(click.ClickException) as caught:
        lab.run("everything", node_names=["a"])

    message = caught.value.format_message()
    assert team.url in message
    assert "\n" not in message
    assert not part or part not in message
    assert team.password not in message


@pytest.mark.parametrize("who", ["server", "database"])
@pytest.mark.parametrize("seconds", [3, 25])
def test_killed_in_a_stream_and_started_again(lab: Lab, who: str, seconds: int) -> None:
    with Postgres() as postgres, TeamServer(postgres) as server:
        use(lab, server)
        uri = postgres.uri(server.database)

        def restart() -> None:
            wait_until(lambda: postgres.count(server.database) >= 2000)
            if who == "server":
                server.stop(signal.SIGKILL)
            else:
                postgres.stop(signal.SIGQUIT)  # as `pg_ctl stop -m immediate`
            time.sleep(seconds)
            (server if who == "server" else postgres).start()

        pause = (seconds + 10) / 100
        with (
            lab.command("flow", f"--params=yields=100,pause={pause}") as process,
            ThreadPoolExecutor(1) as pool,
        ):
            done = pool.submit(restart)
            assert process.wait(200) == 0, process.output
            done.result()

        for hidden in ("INSERT INTO", "Traceback", PASSWORD, server.password):
            assert hidden not in process.output
        if lab.outbox.exists():
            assert lab.sync()[0]
        (run,) = runs_of(uri)
        assert run.info.status == "FINISHED"
        assert points_of(uri, run) == flow_points(100)
        histories = [
            MlflowClient(uri).get_metric_history(run.info.run_id, k) for k in run.data.metrics
        ]
        assert sum(map(len, histories)) == 100 * len(run.data.metrics)


def test_a_server_whose_database_has_no_free_connection(lab: Lab) -> None:
    with Postgres() as postgres, TeamServer(postgres) as server:
        use(lab, server)

        def refuse() -> None:
            wait_until(lambda: postgres.count(server.database) >= 1000)
            postgres.execute(
                f"ALTER DATABASE {server.database} ALLOW_CONNECTIONS false",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE datname = '{server.database}'",
            )
            wait_until(lab.outbox.exists)
            postgres.execute(f"ALTER DATABASE {server.database} ALLOW_CONNECTIONS true")

        with lab.command("flow", "--params=yields=50,pause=0.2") as process:
            refuse()
            assert process.wait(200) == 0, process.output
        if lab.outbox.exists():
            assert lab.sync()[0]
        uri = postgres.uri(server.database)
        (run,) = runs_of(uri)
        assert (run.info.status, points_of(uri, run)) == ("FINISHED", flow_points(50))


@pytest.mark.timeout(600)
def test_64_requests_at_once_to_kedro_server(
    lab: Lab, team: TeamServer, postgres: Postgres
) -> None:
    use(lab, team)
    lab.configure(experiment="requests")
    port = free_port()
    command: list[str | Path] = [
        KEDRO,
        "server",
        "start",
        f"--port={port}",
        f"--conf-source={lab.conf}",
    ]
    url = f"http://127.0.0.1:{port}"

    def run_one(number: int) -> Any:
        params = {"model": {"number": number}, "text": "x" * number}
        body = {"pipeline_names": ["parameters"], "params": params}
        request = urllib.request.Request(
            f"{url}/run", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)

    log = lab.conf / "server.log"
    environment = Project(lab.path).environment()
    with HttpProcess(command, url, log, lab.path, environment), ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(run_one, range(64)))

    failed = [answer for answer in answers if answer["status"] != "success"]
    assert not failed, failed
    store = Store(postgres.uri(team.database), "requests")
    runs = store.runs()
    assert [run.info.status for run in runs] == ["FINISHED"] * 64
    found = {int(run.data.params["model.number"]): store.points(run) for run in runs}
    assert found == {n: {"use_metrics.size": [(0, n + 1.0)]} for n in range(64)}


def test_the_command_that_starts_one_says_how_it_is_used(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves nothing behind."""
    port = free_port()
    script: list[str | Path] = [
        sys.executable,
        STARTER / "scripts" / "team_server.py",
        f"--port={port}",
    ]
    environment = project.environment(PYTHONPATH=str(STARTER / "tests"))
    with Process(script, tmp_path / "log", STARTER, environment) as process:
        process.wait_until(lambda: "Ctrl-C ends it" in process.output)
        _, settings, login = process.output.split("# conf/")
        for part in (settings, login):
            file, _, text = part.partition("\n")
            project.write(f"conf/{file}", text.partition("\n\n")[0] + "\n")
        project.kedro("run")
        shown = project.kedro("metrics", "show", "--json").stdout
        process.signal(signal.SIGINT)
        assert process.wait() == 0
    assert json.loads(shown[shown.index("{\n") :])["run"]["status"] == "FINISHED"
    assert "FINISHED" in shown
    assert not flat(process.output).count("Traceback")
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
