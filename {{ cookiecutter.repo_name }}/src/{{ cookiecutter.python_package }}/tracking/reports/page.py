"""MLflow's page of a project's store, and the store's upgrade."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO

import click

from ..config import MlflowConfig
from ..delivery.outbox import existing_outboxes
from ..redaction import redact
from ..scanning.uris import LOCAL_PAGE, VIEW, sqlite_path
from ..store.client import require_mlflow
from ..store.sqlite import has_tables, upgrade

# MLflow (3.17) starts three more workers, and seven processes for jobs of its own, which take
# minutes on a busy machine and outlive it for a while. Its charts need none of them.
JOBS = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
LAST_LINES = 20  # of what a server says that has ended
NO_FILE = "The store is no SQLite file; save a copy, and run `mlflow db upgrade` with its URI"
SERVER = ("-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1")


def open_page(config: MlflowConfig, experiment: str, port: int | None, browser: bool) -> None:
    """Open an experiment's charts; serve them until Ctrl-C, unless the store is a server."""
    page = f"#/experiments/{experiment}/runs?{VIEW}&compareRunsMode=CHART"
    uri = config.tracking_uri
    if uri.startswith("http"):
        _open(f"{uri.rstrip('/')}/{page}", browser)
        return
    port = _free_port(port)
    url = f"http://127.0.0.1:{port}"
    # The URI may have a password, and a command line is for all to see.
    environment = {JOBS: "false", **os.environ, **config.credentials}
    environment["MLFLOW_BACKEND_STORE_URI"] = uri
    click.echo("MLflow's server starts, which takes some seconds ...")
    with (
        tempfile.TemporaryFile() as log,
        _running([*SERVER, "--port", str(port)], environment, log) as server,
    ):
        while not _answers(url) and server.poll() is None:
            time.sleep(0.1)
        if server.poll() is None:
            _open(f"{url}/{page}", browser)
            click.echo("Ctrl-C ends it.")
        server.wait()
        log.seek(0)
        lines = log.read().decode(errors="replace").splitlines()[-LAST_LINES:]
        raise click.ClickException(
            redact("\n".join(["MLflow's server has ended. Its last lines:", *lines]))
        )


@contextmanager
def _running(
    arguments: Sequence[str], environment: Mapping[str, str], log: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of Python's that is ended with the block, which Ctrl-C leaves without an error."""
    for name in ("SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.default_int_handler)
    # In a session of its own: at a terminal's Ctrl-C it would print a traceback.
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield process
    except KeyboardInterrupt:
        pass
    finally:
        _end(process)


def _end(server: subprocess.Popen[bytes]) -> None:
    """End a server and its own processes, which the one of MLflow 3.7 would leave behind."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
    else:
        server.terminate()
    server.wait()


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        direct.open(f"{url}/health", timeout=1).close()
    except OSError:
        return False
    return True


def _free_port(wanted: int | None) -> int:
    """The wanted port; if none is, MLflow's own or, where another program has it, any."""
    for port in [wanted] if wanted else [int(LOCAL_PAGE.rpartition(":")[2]), 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found: int = probe.getsockname()[1]
                return found
    raise click.ClickException(
        f"Another program has the port {wanted}; give another one, or none for a free one."
    )


def _open(url: str, browser: bool) -> None:
    click.echo(f"The charts of the runs:\n{redact(url)}")
    if browser:
        webbrowser.open(url)


def upgrade_files(config: MlflowConfig, report: Callable[[str], object]) -> None:
    """Upgrade the store, and what waits for it, where they are SQLite files."""
    path = sqlite_path(config.tracking_uri)
    outboxes = existing_outboxes(config.outbox, config.project_path, config.tracking_uri)
    files = [*filter(None, [path]), *(outbox.path for outbox in outboxes)]
    if not files:
        raise click.ClickException(f"{NO_FILE}.")
    require_mlflow(f"sqlite:///{files[0]}")
    for file in files:
        if not has_tables(file):
            report(f"{file.name}: nothing to upgrade.")
        elif saved := upgrade(file):
            report(f"{file.name} is upgraded; a copy of it, as it was, is {saved}.")
        else:
            report(f"{file.name} is up to date.")
    if path is None:
        report(f"{NO_FILE}, where it is of an older MLflow.")
