"""A real tracking server that can be killed, and a proxy before it that fails."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = ("500", "429", "timeout", "cut", "refused")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Server:
    """A `mlflow server` on loopback, on an SQLite store; it can be killed and started again."""

    def __init__(self, store: Path, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it answers."""
        log = self.folder / "server.log"
        with log.open("a") as output:
            self.process = subprocess.Popen(
                [
                    Path(sys.executable).parent / "mlflow",
                    "server",
                    "--host=127.0.0.1",
                    f"--port={self.port}",
                    "--workers=1",
                    f"--backend-store-uri=sqlite:///{self.store}",
                    f"--default-artifact-root={self.folder / 'artifacts'}",
                ],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health").close()
                return
            except OSError:
                assert self.process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """Return when it has ended, with its workers."""
        if self.process:
            os.killpg(self.process.pid, how)
            self.process.wait(30)
            self.process = None


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to a server, but for a share of them, at random."""

    daemon_threads = True

    def __init__(self, target: str, share: float, patience: float, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.target = target
        self.share = share
        self.patience = patience  # the client's timeout
        self.random = random.Random(seed)
        self.always: int | None = None  # a status for every request from now on
        self.seen: dict[str, int] = dict.fromkeys(FAULTS, 0)
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


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy

    def do_GET(self) -> None:
        fault = self.server.fault()
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        if fault == "refused":  # the connection ends before the request is passed on
            self.connection.close()
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
            status, content = error.code, error.read()
        if fault == "timeout":  # after the server has done it
            time.sleep(self.server.patience + 1)
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
