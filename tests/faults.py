"""A real tracking server that can be killed, and a proxy before it that fails."""

from __future__ import annotations

import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import KEDRO, HttpProcess, free_port

FAULTS = ("500", "429", "timeout", "cut", "refused")
# How long a start takes whose store does not answer: its deadline of 8 s, and what a busy machine
# takes beside. Two such deadlines would be 16 s.
SOON = 15.0


@contextmanager
def outage_after(seconds: float) -> Iterator[None]:
    """Requests are tried for so many seconds instead of 20."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("store.mlflow_store", "delivery.route", "delivery.nested"):
            patch.setattr(f"lab.tracking.{module}.RETRY_SECONDS", seconds)
        yield


class Server(HttpProcess):
    """A `mlflow server` on loopback, on an SQLite store; it can be killed and started again."""

    def __init__(self, store: Path, folder: Path) -> None:
        port = free_port()
        command = [
            str(KEDRO.with_name("mlflow")),
            "server",
            "--host=127.0.0.1",
            f"--port={port}",
            "--workers=1",
            f"--backend-store-uri=sqlite:///{store}",
            f"--default-artifact-root={folder / 'artifacts'}",
        ]
        # Without the dozen processes for jobs of MLflow's own.
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        super().__init__(command, f"http://127.0.0.1:{port}", folder / "server.log", env=env)

    def answers(self) -> bool:
        """Whether its store does, too, which it opens for the first request that needs it."""
        if not super().answers():
            return False
        experiment = f"{self.url}/api/2.0/mlflow/experiments/get?experiment_id=0"
        try:
            urllib.request.urlopen(experiment, timeout=60).close()
        except OSError as error:  # the store answers that the experiment has been deleted, say
            return isinstance(error, urllib.error.HTTPError)
        return True


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to a server, but for a share of them, at random."""

    daemon_threads = True

    def __init__(self, target: str, share: float, timeout: float, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.target = target
        self.share = share
        self.timeout_of_client = timeout
        self.random = random.Random(seed)
        self.always: int | None = None  # a status for every request from now on
        self.delays: dict[str, float] = {}  # for how many seconds one request of such a path waits
        self.too_large = b""  # a request with this in it gets the status 413
        self.seen: dict[str, int] = dict.fromkeys(FAULTS, 0)
        self.paths: list[str] = []  # of all requests
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    def fault(self) -> str | None:
        if self.random.random() >= self.share:
            return None
        chosen = self.random.choice(FAULTS)
        self.seen[chosen] += 1
        return chosen

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is what this is about."""

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy

    def do_GET(self) -> None:
        fault = self.server.fault()
        self.server.paths.append(self.path)
        for part in [part for part in self.server.delays if part in self.path]:
            time.sleep(self.server.delays.pop(part, 0))
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        if fault == "refused":  # the connection ends before the request is passed on
            self.connection.close()
            return
        if self.server.too_large and self.server.too_large in (body or b""):
            self.answer(413, b"<html>too large</html>")
            return
        if self.server.always or fault in ("500", "429"):
            self.answer(self.server.always or int(str(fault)), b"<html>not today</html>")
            return
        request = urllib.request.Request(
            self.server.target + self.path, data=body, method=self.command
        )
        request.add_header("Content-Type", self.headers.get("Content-Type") or "application/json")
        try:
            with urllib.request.urlopen(request) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, content = error.code, error.read()
        if fault == "timeout":  # after the server has done it
            time.sleep(self.server.timeout_of_client + 1)
        self.answer(status, content, cut=fault == "cut")

    do_POST = do_PATCH = do_DELETE = do_GET

    def answer(self, status: int, content: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)

    def log_message(self, *arguments: object) -> None:
        """Silent."""
