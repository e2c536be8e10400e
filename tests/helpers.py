"""What the tests share: projects made of the template, runs of them, processes to wait for."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import mlflow
import pytest
import yaml
from click.testing import CliRunner, Result
from cookiecutter.main import cookiecutter
from kedro.framework.context import KedroContext
from kedro.framework.session import KedroSession
from kedro.framework.startup import ProjectMetadata
from mlflow import MlflowClient
from mlflow.entities import Run

if TYPE_CHECKING:
    from typing_extensions import Self

STARTER = Path(__file__).parents[1]
TEMPLATE = STARTER / "{{ cookiecutter.repo_name }}"
PACKAGE = TEMPLATE / "src" / "{{ cookiecutter.python_package }}"
KEDRO = Path(sys.executable).parent / "kedro"
# mypy takes 20 s for what a project imports; it is the same for all of them.
MYPY_CACHE = STARTER / ".venv" / "mypy"
# `make explore`: new examples, and more of them; else the same ones every time.
EXPLORING = os.environ.get("HYPOTHESIS_PROFILE") == "explore"
# `make combinations`: all of what can be combined; else so many that each choice is tried.
ALL_COMBINATIONS = os.environ.get("COMBINATIONS") == "all"

Points = dict[str, list[tuple[int, float]]]  # (step, value), by key
T = TypeVar("T")


def examples(number: int) -> int:
    """How many examples a test tries that must not try many: ten times as many in exploring."""
    return 10 * number if EXPLORING else number


def flat(text: str) -> str:
    """The text in one line: a terminal's lines are of a certain length."""
    return " ".join(text.split())


# Waiting


def wait_until(
    condition: Callable[[], T], seconds: float = 60, still: Callable[[], object] = lambda: None
) -> T:
    """Wait until a condition holds, and return what it returned.

    ``still`` is called meanwhile, to raise an error if there is nothing more to wait for.
    """
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        still()
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(0.02)
    return result


# Processes


_processes = itertools.count()


class Process:
    """A command in a group of processes of its own, which ends with the block."""

    def __init__(
        self,
        command: Iterable[str | Path],
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.command = [str(word) for word in command]
        self.log = log  # what it prints
        self.cwd = cwd
        self.env = env
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("a") as log:
            self.popen = subprocess.Popen(
                self.command,
                cwd=self.cwd,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it, and the processes that it has started; return when it has ended."""
        if self.popen is None:
            return
        self.signal_group(how)
        try:
            self.popen.wait(30)
        finally:
            self.signal_group(signal.SIGKILL)  # workers that outlive it
            self.popen.wait()
            self.popen = None

    def __enter__(self) -> Self:
        try:
            self.start()  # which may wait for it, in vain
        except BaseException:
            self.stop(signal.SIGKILL)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop(signal.SIGKILL)

    @property
    def running(self) -> subprocess.Popen[bytes]:
        """The process itself."""
        assert self.popen is not None
        return self.popen

    @property
    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text()

    def signal(self, number: int) -> None:
        """Send a signal to the process that was started, and no other."""
        self.running.send_signal(number)

    def signal_group(self, number: int) -> None:
        """Send a signal to it and to all that it has started, as Ctrl-C in a terminal does."""
        with suppress(ProcessLookupError):
            os.killpg(self.running.pid, number)

    def wait(self, seconds: float = 60) -> int:
        """Wait for its end; returns the exit status."""
        return self.running.wait(seconds)

    def wait_until(self, condition: Callable[[], T], seconds: float = 120) -> T:
        """Wait until a condition holds, as long as the process is there."""

        def still() -> None:
            assert self.running.poll() is None, self.output

        return wait_until(condition, seconds, still)


class HttpProcess(Process):
    """A server on 127.0.0.1; it can be stopped and started again."""

    def __init__(
        self,
        command: Iterable[str | Path],
        url: str,
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(command, log, cwd, env)
        self.url = url

    def start(self) -> None:
        """Return when it answers."""
        super().start()
        self.wait_until(self.answers)

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
        except OSError:
            return False
        return True


# Below the ports that systems give to connections (Linux: from 32,768 on; macOS: from 49,152), and
# some for each test process: a server may take half a minute until it listens, and one that was
# killed listens again after a while. Nobody else shall have got its port by then.
_PORTS_EACH = 500
_ports = itertools.cycle(range(_PORTS_EACH))


def free_port() -> int:
    """A port on 127.0.0.1 on which nothing listens, and that nobody else is given."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 20
    for number in itertools.islice(_ports, _PORTS_EACH):
        port = 20_000 + process * _PORTS_EACH + (os.getpid() + number) % _PORTS_EACH
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


# Stores


def runs_in(store: Path) -> list[Run]:
    """All MLflow runs of an SQLite store, the oldest first."""
    return runs_of(f"sqlite:///{store}")


def runs_of(uri: str) -> list[Run]:
    """All MLflow runs of a store, the oldest first."""
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, order_by=["attributes.start_time"]))


def points_in(store: Path, run: Run) -> Points:
    """All points of a run in an SQLite store, (step, value), by key."""
    return points_of(f"sqlite:///{store}", run)


def points_of(uri: str, run: Run) -> Points:
    """All points of a run, (step, value), by key."""
    client = MlflowClient(uri)
    return {
        key: sorted((p.step, p.value) for p in client.get_metric_history(run.info.run_id, key))
        for key in run.data.metrics
    }


FLOW_KEYS = 200  # of lab/flow.py and lab/endless.py
FLOW_YIELDS = 5  # of the fixture ``project``: 1,000 points


def flow_points(yields: int, name: str = "flow_metrics") -> Points:
    """All points of the pipeline ``flow``."""
    return {
        f"{name}.k{key}": [(step, key + step / 1000) for step in range(yields)]
        for key in range(FLOW_KEYS)
    }


# Projects

# What tracks in them: bundled, or the package beside this file; `make test-package` says so.
TRACKING = os.environ.get("TRACKING", "bundled")
BESIDE = [str(STARTER / "tests" / "package")] if TRACKING == "package" else []


def bake(folder: Path, **answers: Any) -> Path:
    """Make a project of the template in a folder, with these answers."""
    answers = {"project_name": "Lab", "tracking": TRACKING, **answers}
    return Path(
        cookiecutter(str(STARTER), no_input=True, extra_context=answers, output_dir=str(folder))
    )


def run_command(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder and wait for it; it must succeed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


class Project:
    """A project on disk, with a store, run as its users do: by the command line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.package = next((path / "src").iterdir()).name
        self.store = path / "mlflow.db"
        self.outbox = path / "mlflow-spool.db"

    def write(self, file: str, text: str) -> None:
        """Write a file of the project; PACKAGE in the text is its package's name."""
        path = self.path / file.replace("PACKAGE", self.package)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("PACKAGE", self.package))

    def add_pipeline(self, name: str) -> None:
        """Add one of the pipelines of ``lab/``."""
        text = (STARTER / "tests" / "lab" / f"{name}.py").read_text()
        self.write(f"src/PACKAGE/pipelines/{name}/__init__.py", text)

    def command(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's folder and wait for it; it must succeed."""
        done = self.attempt(*arguments, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def attempt(
        self, *arguments: str | Path, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's folder and wait for it."""
        return subprocess.run(
            arguments,
            cwd=cwd or self.path,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            check=False,
        )

    def started(self, *arguments: str | Path, **environment: str) -> Process:
        """A command in the project's folder, for a ``with``: not waited for."""
        log = self.path.parent / f"process-{next(_processes)}.log"
        return Process(arguments, log, self.path, self.environment(**environment))

    def environment(self, **more: str) -> dict[str, str]:
        path = os.pathsep.join([str(self.path / "src"), *BESIDE])
        own = {"PYTHONPATH": path, "COLUMNS": "200", "MYPY_CACHE_DIR": str(MYPY_CACHE)}
        return {**os.environ, **own, **more}

    def kedro(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.command(KEDRO, *arguments, **options)

    def runs(self) -> list[Run]:
        return runs_in(self.store)


def run_at_once(project: Project, number: int) -> None:
    """Run so many processes at the same time; all must succeed."""
    with ExitStack() as stack:
        processes = [stack.enter_context(project.started(KEDRO, "run")) for _ in range(number)]
        statuses = [process.wait(600) for process in processes]
    assert statuses == [0] * number, [process.output for process in processes]


def register_hooks(monkeypatch: pytest.MonkeyPatch, *more: object, order: int = 1) -> None:
    """Have Kedro register other hooks after the project's; ``order`` -1: before them."""

    def register(manager: Any, hooks: Any) -> None:
        for hook in (*hooks, *more)[::order]:
            manager.register(hook)

    for session in ("session", "service_session"):
        with suppress(ModuleNotFoundError):  # Kedro before 1.4 has no service session
            monkeypatch.setattr(f"kedro.framework.session.{session}._register_hooks", register)


class Lab:
    """Runs of the lab project in this process, with configuration and store of a test's own."""

    def __init__(self, path: Path, folder: Path, store: Path) -> None:
        self.path = path
        self.store = store
        self.outbox = path / "mlflow-spool.db"  # where points wait while their store is unavailable
        self.conf = shutil.copytree(path / "conf", folder / "conf")
        self.configure(tracking_uri=f"sqlite:///{store}")

    def configure(self, **keys: Any) -> None:
        """Set keys of mlflow.yml."""
        path = self.conf / "local" / "mlflow.yml"
        before = yaml.safe_load(path.read_text()) if path.exists() else {}
        path.write_text(yaml.safe_dump({**before, **keys}))

    def add(self, file: str, text: str) -> None:
        """Add to a file of the configuration."""
        with (self.conf / file).open("a") as target:
            target.write(text)

    def session(self, **runtime_params: Any) -> KedroSession:
        session = KedroSession.create(
            project_path=self.path, conf_source=str(self.conf), runtime_params=runtime_params
        )
        assert isinstance(session, KedroSession)
        return session

    def context(self) -> KedroContext:
        """A Kedro context of the lab, without a run."""
        with self.session() as session:
            assert isinstance(session, KedroSession)
            return session.load_context()

    def run(self, pipeline: str, *, params: Any = None, **options: Any) -> dict[str, Any]:
        with self.session(**(params or {})) as session:
            assert isinstance(session, KedroSession)
            return session.run(pipeline_names=[pipeline], **options)

    def command(self, pipeline: str, *options: str) -> Process:
        """`kedro run` in a process of its own, for a ``with``."""
        source = f"--conf-source={self.conf}"
        return Project(self.path).started(KEDRO, "run", f"--pipelines={pipeline}", source, *options)

    def sync(self, **options: bool) -> tuple[bool, list[str]]:
        """What `kedro metrics sync` does, and the lines that it prints."""
        from lab.tracking.config import current_config
        from lab.tracking.delivery.sync import sync
        from lab.tracking.process.state import process_state

        self.context()
        config = current_config()
        assert config is not None
        lines: list[str] = []
        process_state().begin_tracking(config.tracking_uri, config.credentials)
        try:
            return sync(config, self.path, lines.append, **options), lines
        finally:
            process_state().end_tracking()

    def runs(self) -> list[Run]:
        return runs_in(self.store)

    def points(self) -> Points:
        """The points of the only run."""
        (run,) = self.runs()
        return points_in(self.store, run)

    def close(self) -> None:
        """Leave MLflow and the package as they are in a new process."""
        from lab.tracking.process import state

        while mlflow.active_run():
            mlflow.end_run()
        for left in state._states().values():
            left.shut_down()
            left.termination.stop()
        state._states().clear()
        if self.outbox.exists():  # all tests share the project's folder
            MlflowClient(f"sqlite:///{self.outbox}")._tracking_client.store.engine.dispose()
            self.outbox.unlink()
        forget_store()


def forget_store() -> None:
    """Let MLflow's own functions have no store again.

    ``mlflow.set_tracking_uri(None)`` leaves the environment as it is where no other is set: after a
    Kedro run, which puts back what was there.
    """
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def waiting_in(outbox: Path) -> list[tuple[str, str]]:
    """The requests that wait, the oldest first: for which run, and what."""
    query = "SELECT run_id, request FROM kedro_waiting_requests ORDER BY id"
    with closing(sqlite3.connect(outbox, timeout=30)) as database:
        try:
            return database.execute(query).fetchall()
        except sqlite3.OperationalError as error:
            assert "no such table" in str(error)  # the file is there for a moment without it
            return []


def metrics(lab: Lab, *arguments: str) -> Result:
    """Run a command of `kedro metrics` in this process."""
    from lab.tracking.cli import metrics as group

    project = ProjectMetadata(
        config_file=lab.path / "pyproject.toml",
        package_name="lab",
        project_name="Lab",
        project_path=lab.path,
        source_dir=lab.path / "src",
        kedro_init_version="1.0.0",
        tools=[],
        example_pipeline="no",
    )
    # What it says of the project goes to Kedro's console, which is not the runner's.
    command, *more = arguments
    options = [command, f"--conf-source={lab.conf}", *more]
    result = CliRunner().invoke(group, options, obj=project)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def data(lab: Lab, *arguments: str) -> Any:
    """What a command prints as JSON."""
    result = metrics(lab, *arguments, "--json")
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.output[result.output.index("{") :])
