"""What is secret is in no store, no outbox, no log line and no error message."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from faults import Server
from helpers import KEDRO, Lab, Project, free_port
from hypothesis import given
from hypothesis import strategies as st
from lab.tracking.redaction import SECRET_WORDS, Secrets, redact

# One for each place; what a test finds tells where it leaked.
SECRETS = {
    place: f"hunter2{place}"
    for place in (
        "credential",
        "uri",
        "remote",
        "runtime",
        "option",
        "parameter",
        "nested",
        "listed",
        "error",
    )
}

CREDENTIALS = f"""
mlflow: {{MLFLOW_TRACKING_TOKEN: {SECRETS["credential"]}}}
database: {{con: "db://me:{SECRETS["error"]}@host"}}
"""
PARAMETERS = f"""
model:
  api_key: {SECRETS["parameter"]}
  db: {{user: me, password: {{value: {SECRETS["nested"]}}}}}
  servers: [{{url: "https://me:{SECRETS["uri"]}@host", token: {SECRETS["listed"]}}}]
  max_tokens: 512
  note: con is {SECRETS["credential"]}
text: short
"""
NODE = """
from typing import Any

from kedro.pipeline import Node, Pipeline


def use(model: dict[str, Any], text: str) -> dict[str, float]:
    return {"size": len(text)}


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline([Node(use, ["params:model", "params:text"], "use_metrics", name="use")])
"""


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    """A project with a secret in every place where one can be."""
    project = make_project()
    project.write("src/PACKAGE/pipelines/use/__init__.py", NODE)
    project.write("conf/base/parameters.yml", PARAMETERS)
    project.write("conf/local/credentials.yml", CREDENTIALS)
    project.write("conf/local/mlflow.yml", "credentials: mlflow\n")
    remote = f"https://me:{SECRETS['remote']}@example.com/a.git"
    for command in (["init", "-q"], ["remote", "add", "origin", remote]):
        subprocess.run(["git", *command], cwd=project.path, check=True)
    return project


COMMAND = (
    "run",
    f"--params=model.secret_key={SECRETS['runtime']} and more,"
    f"text=a,option.token={SECRETS['option']}",
)


def leaks(*texts: str | bytes) -> list[str]:
    found = b"\n".join(t if isinstance(t, bytes) else t.encode() for t in texts)
    return [place for place, secret in SECRETS.items() if secret.encode() in found]


def everything_in(store: Path) -> str:
    with closing(sqlite3.connect(store)) as database:
        return "\n".join(database.iterdump())


def test_an_sqlite_store(project: Project) -> None:
    done = project.kedro(*COMMAND)

    assert leaks(done.stdout, done.stderr, everything_in(project.store)) == []
    assert leaks(project.store.read_bytes()) == []
    (run,) = project.runs()
    assert run.data.params["model.api_key"] == "***"
    assert run.data.params["model.max_tokens"] == "512"
    assert run.data.params["model.db.user"] == "me"
    assert run.data.params["model.secret_key"] == "***"
    assert run.data.params["model.note"] == "con is ***"
    assert "model.secret_key=***" in run.data.tags["kedro.command"]
    assert "text=a" in run.data.tags["kedro.command"]


def test_a_server_that_is_there_and_one_that_is_not(project: Project, tmp_path: Path) -> None:
    server = Server(project.store, tmp_path)
    address = server.url.replace("http://", f"http://me:{SECRETS['uri']}@")
    project.write(
        "conf/local/mlflow.yml",
        f"credentials: mlflow\ntracking_uri: {address}\non_outage: spool\n",
    )
    waiting = project.kedro(*COMMAND)
    assert leaks(waiting.stdout, waiting.stderr, everything_in(project.outbox)) == []
    assert leaks(project.outbox.read_bytes()) == []
    with server:
        written = project.kedro(*COMMAND)
        synced = project.kedro("metrics", "sync")

    assert len(project.runs()) == 2
    outputs = [written.stdout, written.stderr, synced.stdout, synced.stderr]
    assert leaks(*outputs, everything_in(project.store)) == []
    assert server.url in "".join(synced.stdout.split())


@pytest.mark.parametrize(
    ("scheme", "end"), [("http", f"?token={SECRETS['option']}"), ("mysql+pymysql", "")]
)
def test_the_error_of_a_store_that_does_not_answer(project: Project, scheme: str, end: str) -> None:
    address = f"{scheme}://me:{SECRETS['uri']}@127.0.0.1:{free_port()}/x{end}"
    project.write("conf/local/mlflow.yml", f"credentials: mlflow\ntracking_uri: {address}\n")

    done = project.attempt(KEDRO, *COMMAND)

    assert done.returncode == 1
    assert "can't be reached" in done.stdout + done.stderr
    assert leaks(done.stdout, done.stderr) == []


def test_the_error_of_a_node(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError(f"can't log in: password={SECRETS['nested']}, or {SECRETS['error']}")

    lab.add("local/credentials.yml", CREDENTIALS)
    monkeypatch.setattr("lab.pipelines.ends.sys.exit", fail)
    with pytest.raises(ValueError, match="can't log in"):
        lab.run("ends", params={"end": "exit"})

    (run,) = lab.runs()
    assert leaks(everything_in(lab.store)) == []
    assert run.data.tags["kedro.error"] == "ValueError: can't log in: password=***, or ***"


def test_values_that_are_no_text(lab: Lab) -> None:
    lab.add("local/credentials.yml", "account: {number: 424242, path: /x/s3cr3t-value}")
    model = {"account": 424242, "where": Path("/x/s3cr3t-value"), "424242": 1}
    lab.run("parameters", params={"model": model, "text": "a"})

    params = lab.runs()[0].data.params
    assert params["model.account"] == "***"
    assert params["model.where"] == "***"
    assert "424242" not in everything_in(lab.store)


def test_the_words_can_be_chosen(lab: Lab) -> None:
    lab.configure(secrets=["salt"])
    lab.run("parameters", params={"model": {"salt": "a", "key": "b"}, "text": "a"})

    assert lab.runs()[0].data.params == {"model.salt": "***", "model.key": "b", "text": "a"}


def test_credentials_are_taken_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.add("local/credentials.yml", CREDENTIALS)
    lab.configure(credentials="mlflow")
    seen = []
    monkeypatch.setattr("lab.pipelines.ends.sys.exit", lambda code: seen.append(dict(os.environ)))
    lab.run("ends", params={"end": "exit"})

    assert seen[0]["MLFLOW_TRACKING_TOKEN"] == SECRETS["credential"]
    assert "MLFLOW_TRACKING_TOKEN" not in os.environ


def test_names_of_secrets() -> None:
    names = """
        password db.password dbPassword PASSWORD db_passwd apikey api-key API_KEYS accessToken
        aws_secret_access_key client_secret credentials key x.token.y key_phrase tokens
    """
    assert [name for name in names.split() if not Secrets().names_secret(name, "abc")] == []


def test_names_of_others() -> None:
    names = "user keyboard depth tokenizer secretary keystone n_keyframes tokenized"
    assert [name for name in names.split() if Secrets().names_secret(name, "abc")] == []


@pytest.mark.parametrize(("value", "secret"), [(512, False), ("512", False), ("a1", True)])
def test_a_number_of_tokens_is_no_secret(value: object, secret: bool) -> None:
    assert Secrets().names_secret("max_tokens", value) is secret


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("{'password': 'a b', 'x': 1}", "{'password': ***, 'x': 1}"),
        ('{"apiKey": "abc"}', '{"apiKey": ***}'),
        ("--token abc --env prod", "--token *** --env prod"),
        ("KeyError: 'loss'", "KeyError: 'loss'"),
        ("the key is missing", "the key is missing"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("x=1, password = abc; y", "x=1, password = ***; y"),
    ],
)
def test_text(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.parametrize(
    ("words", "clean"),
    [
        (["--params=a.password=one two,b=3"], "'--params=a.password=***,b=3'"),
        (["--params", "x:1,apiKey=q z"], "--params 'x:1,apiKey=***'"),
        (["--token", "one two", "-e", "prod"], "--token *** -e prod"),
    ],
)
def test_command(words: list[str], clean: str) -> None:
    assert Secrets().redact_command(words) == clean


secret = st.text(st.characters(min_codepoint=48, max_codepoint=122), min_size=6).map("Q7z".__add__)


@given(secret, st.sampled_from(SECRET_WORDS), st.text(max_size=5))
def test_no_structure_lets_a_secret_through(secret: str, word: str, other: str) -> None:
    redact_parameter = Secrets().redact_parameter
    for value in (secret, [secret], {"a": secret}, [{"b": (secret,)}], {other: [secret]}):
        assert secret not in str(redact_parameter(f"model.{word}", value))
        assert secret not in str(redact_parameter("model", {f"my_{word}": value}))
        assert secret not in str(redact_parameter("model", [{word.upper(): value}]))
