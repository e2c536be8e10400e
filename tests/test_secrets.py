"""What is secret is in no store, no outbox, no log line and no error message."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from faults import Server
from helpers import KEDRO, Lab, Project, free_port
from hypothesis import given
from hypothesis import strategies as st
from lab.tracking.names import MAX_PARAM_LENGTH, MAX_TAG_LENGTH
from lab.tracking.redaction import SECRET_WORDS, Secrets, credentials_secrets, redact
from lab.tracking.scanning.known import basic_auth
from lab.tracking.store.sqlite import locked, make_or_check

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


@pytest.mark.slow
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


@pytest.mark.slow
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
@pytest.mark.slow
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
    lab.add("local/credentials.yml", "account: {token: 424242, path: /x/s3cr3t-value}")
    model = {"account": 424242, "where": Path("/x/s3cr3t-value"), "longer": 4242420}
    lab.run("parameters", params={"model": model, "text": "a"})

    params = lab.runs()[0].data.params
    assert params["model.account"] == "***"
    assert params["model.where"] == "***"
    assert params["model.longer"] == "4242420"


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
        aws_access_key_id APIKey api_key_2 password2 PGPASSWORD authtoken dbPASSWORD userPwd pwd
        passcode storage.accountKey session_cookie
    """
    assert [name for name in names.split() if not Secrets().names_secret(name, "abc")] == []


def test_names_of_others() -> None:
    names = """
        user keyboard depth tokenizer secretary keystone n_keyframes tokenized primary_key
        foreign_key key_column sort_key partition_key monkey turkey
        num_key_value_heads
    """
    assert [name for name in names.split() if Secrets().names_secret(name, "abc")] == []


@pytest.mark.parametrize("value", [512, "512", -1, 1e5, "-1", "1e5"])
def test_a_number_of_tokens_is_no_secret(value: object) -> None:
    for name in ("max_tokens", "token_limit", "password_length", "pad_token_id"):
        assert not Secrets().names_secret(name, value)
    for name in ("password", "db.password.value", "x.token.y"):
        assert Secrets().names_secret(name, value)
    assert Secrets().names_secret("max_tokens", "a1")


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
        ("pwd=abc passcode: 12, x", "pwd=*** passcode: ***, x"),
        ("PGPASSWORD=x psql", "PGPASSWORD=*** psql"),
        ("mysql -u me -p abc db", "mysql -u me -p *** db"),
        ("kedro run -p training", "kedro run -p training"),
        ("password == 'abc'", "password == ***"),
        ("password=b'abc' x", "password=*** x"),
        ("os.environ['PASSWORD'] = 'abc'", "os.environ['PASSWORD'] = ***"),
        ("password: 'abc def", "password: ***"),
        ('password = """a "b" c""" x', "password = *** x"),
        (r'{"password": "a\"b", "x": 1}', '{"password": ***, "x": 1}'),
        (r'{"password": "a\\", "x": "b"}', '{"password": ***, "x": "b"}'),
        (r'"{\"password\": \"a\\\"b\", \"x\": 1}"', r'"{\"password\": ***, \"x\": 1}"'),
        ('{"token": {"value": "x}y"}} z', '{"token": ***} z'),
        ('{"passwords": ["a", ["b"]], "x": 1}', '{"passwords": ***, "x": 1}'),
        ("{'passwords': ['a', 'b", "{'passwords': ***"),
        ("curl -H 'Authorization: Digest a b' x", "curl -H 'Authorization: ***' x"),
        ("X-Api-Key: abc x", "X-Api-Key: *** x"),
        ("Cookie: a=b; c=d\nHost: x", "Cookie: ***\nHost: x"),
        ("Set-Cookie: sid=1; Path=/", "Set-Cookie: ***"),
        ("https://b/x?X-Amz-Signature=fe&x=1", "https://b/x?X-Amz-Signature=***&x=1"),
        ("https://b/x?sv=1&sig=a%3D#f", "https://b/x?sv=1&sig=***#f"),
        ("SharedAccessSignature=sv=1&sig=2", "SharedAccessSignature=***&sig=***"),
        ("AccountKey=abc==;Endpoint=x", "AccountKey=***;Endpoint=x"),
        ("http://joe:p@ss/word@host", "http://host"),
        ("n_estimators: 1000, primary_key=id", "n_estimators: 1000, primary_key=id"),
        ("max_tokens: -1", "max_tokens: -1"),
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


# In two parts, for pre-commit's hook, which looks for a key in this file.
_KIND = "PRIVATE KEY"
KEY = f"-----BEGIN {_KIND}-----\nMIIEvQIBADANBgkqhkiG\nq2b8Zk0P\n-----END {_KIND}-----\n"
PASSWORD = """p@ss/w'rd "x\\y"""


@pytest.mark.parametrize(
    "written",
    [
        PASSWORD,
        repr(PASSWORD),
        repr({"x": [PASSWORD]}),
        repr(repr(PASSWORD)),
        json.dumps(PASSWORD),
        json.dumps(json.dumps({"x": PASSWORD})),
        shlex.quote(PASSWORD),
        quote(PASSWORD),
        quote(PASSWORD, safe="").lower(),
        quote_plus(PASSWORD),
        f"x%3D{quote(PASSWORD)}",
        f"\\n{PASSWORD}\\n",
    ],
)
def test_a_known_secret_in_another_form(written: str) -> None:
    text = Secrets([PASSWORD]).redact(f"it failed: {written}, so")

    assert "rd" not in text
    assert text.startswith("it failed: ")
    assert text.endswith(", so")


def test_what_any_private_key_has_is_no_secret() -> None:
    """Its first and last line, and a line so short that it is met elsewhere."""
    text = f"-----BEGIN {_KIND}----- of 4 letters: Zk0P"

    assert Secrets([KEY.replace("q2b8Zk0P", "Zk0P")]).redact(text) == text


def test_a_secret_that_is_known_in_a_url_only() -> None:
    secrets = Secrets(["postgresql://joe:p%40ss%2Fword@host/db"])

    assert secrets.redact("no login with p@ss/word or p%40ss%2Fword") == "no login with *** or ***"
    assert secrets.redact(f"sent Basic {basic_auth('joe', 'p%40ss%2Fword')}") == "sent Basic ***"


@pytest.mark.parametrize("text", [KEY, repr(KEY), KEY[28:56], repr(KEY[:57]), "q2b8Zk0P"])
def test_lines_of_a_secret(text: str) -> None:
    text = Secrets([KEY]).redact(f"a\n{text}\nb")

    assert not any(line in text for line in KEY.splitlines() if "----" not in line)


CREDENTIALS_YML = {
    "db_credentials": {
        "username": "data",
        "host": "alpha",
        "port": 1000,
        "password": "s3cret",
        "con": "postgresql://joe:hunter2@host/db",
        "client": {"tokens": ["tok1", {"value": "tok2"}]},
    },
    "s3": {"key": "AKIA", "region": "ap-northeast-1", "dsn": "x" * 15},
    "api_keys": {"one": "key1"},
}


def test_which_values_of_credentials_are_secret() -> None:
    found = set(credentials_secrets(CREDENTIALS_YML, []))

    plain = {value for value in found if not value.endswith("=") and len(value) < 16}
    assert plain == {"s3cret", "hunter2", "tok1", "tok2", "AKIA", "x" * 15, "key1"}
    assert basic_auth("data", "s3cret") in found
    assert basic_auth("joe", "hunter2") in found


def test_what_is_no_secret_is_logged(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.add(
        "local/credentials.yml",
        "db: {username: data, host: alpha, port: 1000, password: beta, pin_token: 1234}",
    )
    model = {"data": 1, "alpha": 2, "beta": 3, "beta_data": "data", "n_estimators": 1000}
    model |= {"primary_key": "id", "max_tokens": -1, "depth": 12345, "word": "alphabeta"}
    with caplog.at_level("INFO"):
        lab.run("parameters", params={"model": {**model, "db": "beta"}, "text": "a 1234 b"})

    logged = lab.runs()[0].data.params
    assert logged == {
        **{f"model.{name}": str(value) for name, value in model.items()},
        "model.db": "***",
        "text": "a *** b",
    }
    (line,) = [r.getMessage() for r in caplog.records if "stands for secrets" in r.getMessage()]
    assert "2 parameter(s)" in line
    assert "'model.db', 'text'" in line
    assert "the key 'secrets' in mlflow.yml" in line
    assert "beta'" not in line


def test_a_word_of_mlflow_yml_may_have_several_parts() -> None:
    secrets = Secrets(words=["salt", "api_key"])

    for name in ("salt", "api_key", "api-key", "my_api_keys", "apiKey", "apikey"):
        assert secrets.names_secret(name), name
    for name in ("basalt", "api", "key", "password"):
        assert not secrets.names_secret(name), name


@pytest.mark.parametrize("start", ["x" * MAX_PARAM_LENGTH, "https://a:bcd@host " * 600])
@pytest.mark.parametrize(
    "secret", ["hunter2-is-known", "password=hunter2", "http://joe:hunter2@host", "token='hunter2"]
)
def test_no_part_of_a_secret_is_left_at_the_cut(start: str, secret: str) -> None:
    secrets = Secrets(["hunter2-is-known"])
    for shift in range(len(secret)):
        text = f"{start[: MAX_PARAM_LENGTH - shift]} {secret} and more" + " x" * 10_000
        assert "hun" not in secrets.redact(text, MAX_PARAM_LENGTH)
        assert len(secrets.redact(text, MAX_PARAM_LENGTH)) <= MAX_PARAM_LENGTH


SHAPES = (
    *("0123456789abcdef", "a:", "://", "@", "'", '"', "\\", "x=", " ", "--a", "--a ", "QUJDRA=="),
    *("hunter2 ", "hunter2", "a a ", "xxxxxxxxxxxxxxxxxx ", "token=", "token: [", "token: '"),
    *('token=\\"', "://u:@", "://h?token=a&", "token_a_", "tokens=1", "'Cookie: ", "?a=", "aA."),
)


@pytest.fixture(scope="module")
def many_secrets() -> Secrets:
    values = [f"hunter2{number}" for number in range(5000)]
    return Secrets([*values, "hunter2", "a a a a a a a a b", "@@@@@@@@@@@@b", "x" * 20])


def seconds(secrets: Secrets, shape: str, length: int) -> float:
    """Of the processor's time, the least of some tries: others may use the machine."""
    text = shape * (length // len(shape))
    tries = []
    for _ in range(3 if length < 500_000 else 1):
        start = time.process_time()
        secrets.redact(text)
        tries.append(time.process_time() - start)
    return min(tries)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_the_time_grows_with_the_length(many_secrets: Secrets, shape: str) -> None:
    """Ten times the length takes about ten times as long; a hundred times, if it is quadratic."""
    assert seconds(many_secrets, shape, 20_000) < 30 * seconds(many_secrets, shape, 2_000) + 0.1
    assert seconds(many_secrets, shape, 1_000_000) < 30 * seconds(many_secrets, shape, 100_000)


def test_what_is_cut_is_not_read(many_secrets: Secrets) -> None:
    text = "0123456789abcdef token=a://b " * 1_000
    start = time.process_time()
    for _ in range(3):
        many_secrets.redact(text[: MAX_TAG_LENGTH + 1000])
    once = time.process_time() - start
    start = time.process_time()
    many_secrets.redact(text * 300, MAX_TAG_LENGTH)
    many_secrets.redact_parameter("x", text * 300, MAX_TAG_LENGTH)
    many_secrets.redact_command(["a"], MAX_TAG_LENGTH)
    assert time.process_time() - start < 10 * once + 0.1


def redact_in_worker(uri: str, text: str, answer: Queue[str]) -> None:
    from lab.tracking.store.mlflow_store import store_at

    store_at(uri)
    answer.put(redact(text))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12: there are threads
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_worker_process_knows_the_secrets_of_its_store(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    lab.add("local/credentials.yml", CREDENTIALS)
    lab.context()  # the parent has a project, the worker has none
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRETS["credential"])
    uri = f"http://me:{SECRETS['uri']}@127.0.0.1:1/?token={SECRETS['option']}"
    text = f"refused {SECRETS['credential']} and {SECRETS['uri']} or {SECRETS['option']}"
    context: Any = multiprocessing.get_context(method)
    answer = context.Queue()
    worker = context.Process(target=redact_in_worker, args=(uri, text, answer))
    worker.start()

    assert answer.get(timeout=120) == "refused *** and *** or ***"
    worker.join()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_store_is_its_owners_alone(tmp_path: Path) -> None:
    """Whatever the umask; the mode of a file that is there is left alone, and its lock has it."""
    new, shared = tmp_path / "new.db", tmp_path / "shared.db"
    shared.touch()
    shared.chmod(0o660)
    before = os.umask(0o022)
    try:
        for path in (new, shared):
            assert make_or_check(path) is None
            with locked(path), closing(sqlite3.connect(path)) as database:
                database.execute("BEGIN IMMEDIATE")
                database.execute("UPDATE experiments SET name = 'x'")
                files = {file.name: mode(file) for file in tmp_path.glob(f"*{path.name}*")}
                assert files.keys() >= {path.name, f"{path.name}-journal", f".{path.name}-lock"}
                assert set(files.values()) == {0o600 if path == new else 0o660}, files
    finally:
        os.umask(before)
