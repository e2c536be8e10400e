"""The same against a real tracking server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Lab
from kedro.runner import ParallelRunner
from mlflow import MlflowClient


@pytest.fixture
def server(lab: Lab, tmp_path: Path) -> Iterator[str]:
    """A `mlflow server` on loopback, on the lab's store; it ends with the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(
        [
            Path(sys.executable).parent / "mlflow",
            "server",
            "--host=127.0.0.1",
            f"--port={port}",
            "--workers=1",
            f"--backend-store-uri=sqlite:///{lab.store}",
            f"--default-artifact-root={tmp_path / 'artifacts'}",
        ],
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{url}/health").close()
                break
            except OSError:
                assert process.poll() is None, Path(log.name).read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_a_tracking_server(lab: Lab, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.configure(tracking_uri=server)
    result = lab.run("everything")
    stream = result["stream_metrics"].load()["loss"]
    assert [point["step"] for point in stream] == list(range(20))
    assert result["one.part_metrics"].load() == {
        "score": {"value": 0.5, "step": 0},
        "curve": [{"value": 0.1, "step": 0}, {"value": 0.2, "step": 1}],
    }

    monkeypatch.setenv("KEDRO_MP_CONTEXT", "spawn")
    lab.run("everything", runner=ParallelRunner())

    first, second = lab.runs()
    assert [run.info.status for run in (first, second)] == ["FINISHED", "FINISHED"]
    assert first.data.metrics == second.data.metrics
    with pytest.raises(ValueError, match="the data is gone"):
        lab.run("ends", params={"end": "error"})
    failed = lab.runs()[-1]
    assert failed.info.status == "FAILED"
    assert MlflowClient(server).get_run(failed.info.run_id).data.metrics == {
        "before_metrics.score": 0.5
    }
