"""MLflow's page of a project's store, and the store's upgrade."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Callable

import click

from ..config import MlflowConfig
from ..delivery.outbox import existing_outboxes
from ..scanning.uris import LOCAL_PAGE, VIEW, sqlite_path
from ..store.client import require_mlflow
from ..store.sqlite import has_tables, upgrade

# MLflow (3.17) starts three more workers, and seven processes for jobs of its own, which take
# minutes on a busy machine and outlive it for a while. Its charts need none of them.
JOBS = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
SERVER = ("-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1")


def open_page(config: MlflowConfig, experiment: str, port: int | None, browser: bool) -> None:
    """Open the charts of an experiment's runs; serve them until Ctrl-C, if no server does."""
    page = f"#/experiments/{experiment}/runs?{VIEW}&compareRunsMode=CHART"
    uri = config.tracking_uri
    if uri.startswith("http"):
        _open(f"{uri.rstrip('/')}/{page}", browser)
        return
    port = port or _free_port(int(LOCAL_PAGE.rpartition(":")[2]))
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, *SERVER, "--port", str(port)]
    # The URI may have a password, and a command line is for all to see.
    environment = {JOBS: "false", **os.environ, **config.credentials}
    environment["MLFLOW_BACKEND_STORE_URI"] = uri
    click.echo("MLflow's server starts, which takes some seconds ...")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server is not to outlive this
    server = subprocess.Popen(command, env=environment, stdout=sys.stderr)
    try:
        _wait_for(server, url)
        _open(f"{url}/{page}", browser)
        click.echo("Ctrl-C ends it.")
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
            server.wait()


def _wait_for(server: subprocess.Popen[bytes], url: str) -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise click.ClickException("MLflow's server has ended; it says above why.")


def _free_port(wanted: int) -> int:
    """The wanted port or, where another program has it, any."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise click.ClickException("There is no free port.")


def _open(url: str, browser: bool) -> None:
    click.echo(f"The charts of the runs:\n{url}")
    if browser:
        webbrowser.open(url)


def upgrade_files(config: MlflowConfig, report: Callable[[str], object]) -> None:
    """Upgrade the store, and what waits for it, where they are SQLite files."""
    path = sqlite_path(config.tracking_uri)
    if path is None:
        raise click.ClickException(
            "The store is no SQLite file; save a copy, and run `mlflow db upgrade` with its URI."
        )
    require_mlflow(config.tracking_uri)
    outboxes = existing_outboxes(config.outbox, config.project_path, config.tracking_uri)
    for file in (path, *(outbox.path for outbox in outboxes)):
        if not has_tables(file):
            report(f"{file.name}: nothing to upgrade.")
        elif saved := upgrade(file):
            report(f"{file.name} is upgraded; a copy of it, as it was, is {saved}.")
        else:
            report(f"{file.name} is up to date.")
