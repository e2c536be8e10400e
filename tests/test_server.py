"""The same against a real tracking server."""

from __future__ import annotations

import pytest
from faults import Server
from helpers import Lab
from kedro.runner import ParallelRunner
from mlflow import MlflowClient


def test_a_tracking_server(lab: Lab, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.configure(tracking_uri=server.url)
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
    assert MlflowClient(server.url).get_run(failed.info.run_id).data.metrics == {
        "before_metrics.score": 0.5
    }


def test_the_end_says_where_the_charts_are(
    lab: Lab, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.configure(tracking_uri=server.url.replace("http://", "http://me:hunter2@"))

    lab.run("everything", node_names=["a"])

    (run,) = lab.runs()
    page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/model-metrics"
    out = capsys.readouterr().out
    assert out.splitlines()[-2:] == [
        "Its charts:",
        f"{server.url}/{page}?workflowType=machine_learning",
    ]
    assert "hunter2" not in out
