"""`mlflow.yml` and the store: what is wrong is one sentence, before any node runs."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import sqlite3
import subprocess
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any
from urllib.parse import unquote, urlparse

import mlflow
import pytest
import yaml
from click import ClickException
from helpers import (
    Lab,
    examples,
    flat,
    metrics,
    register_hooks,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DatasetError
from lab.tracking.config import _RULES, ConfigError, MlflowConfig, current_config
from lab.tracking.process.mlflow_globals import LentVariables
from lab.tracking.scanning.uris import absolute
from mlflow import MlflowClient
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException


def refused(lab: Lab, **params: Any) -> str:
    """Run, be refused before any node runs, and return the sentence."""
    with pytest.raises(ClickException) as caught:
        lab.run("ends", params={"end": "well", **params})
    message = caught.value.format_message()
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite:////project/mlflow.db"),
        ("sqlite:///a/b.db?timeout=5", "sqlite:////project/a/b.db?timeout=5"),
        ("sqlite:////elsewhere/mlflow.db", "sqlite:////elsewhere/mlflow.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite:///file::memory:?uri=true", "sqlite:///file::memory:?uri=true"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("mlruns", "mlruns"),
    ],
)
def test_only_an_sqlite_file_is_taken_from_a_folder(uri: str, expected: str) -> None:
    assert absolute(uri, Path("/project")) == expected


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"trakcing_uri": "a"}, "'trakcing_uri' is unknown; did you mean 'tracking_uri'?"),
        ({"Experiment": "a"}, "'Experiment' is unknown; did you mean 'experiment'?"),
        (
            {"labels": {}},
            "'labels' is unknown; known are tracking_uri, experiment, run_name, tags, separator",
        ),
        ({"tracking_uri": "htp://a:5000"}, "'tracking_uri' is 'htp://a:5000'; it is sqlite:///"),
        ({"tracking_uri": "127.0.0.1:5000"}, "it is sqlite:///mlflow.db, http(s)://host:port, "),
        ({"tracking_uri": "postgres://a:b@c/d"}, "'tracking_uri' is 'postgres://c/d'; it is "),
        ({"tracking_uri": "databricks-uc"}, "it is sqlite:///mlflow.db, http(s)://host:port, "),
        *(
            (
                {"tracking_uri": uri},
                f"'tracking_uri' is {short_repr(uri)}; an SQLite store is a file",
            )
            for uri in (
                "sqlite://",
                "sqlite:///",
                "sqlite:///:memory:",
                "sqlite:///?timeout=5",
                "sqlite+pysqlite:///:memory:",
                "sqlite+pysqlite:///mlflow.db",
                "sqlite:///file:store?mode=memory&uri=true",
                "sqlite:///store.db?mode=memory&uri=true",
                "sqlite:///file::memory:?uri=true",
                "sqlite://mlflow.db",
            )
        ),
        ({"separator": "-"}, "'separator' is '-' (str); it is one of '.' '/'"),
        ({"track": "sometimes"}, "'track' is 'sometimes' (str); it is one of auto, always, never"),
        ({"track": False}, "'track' is False (bool); it is one of auto, always, never"),
        ({"log_params": "yes"}, "'log_params' is 'yes' (str); it is true or false"),
        ({"experiment": 7}, "'experiment' is 7 (int); it is a non-empty string"),
        ({"experiment": " "}, "'experiment' is ' ' (str); it is a non-empty string"),
        ({"run_name": ["a"]}, "'run_name' is ['a'] (list); it is a non-empty string"),
        ({"run_name": "{pipelin}"}, "{pipeline}, {env} and {time:%Y-%m-%d %H:%M} may stand"),
        ({"run_name": "{pipeline[x]}"}, "'run_name' is '{pipeline[x]}' (str); it is a non-empty"),
        ({"run_name": "{time"}, "'run_name' is '{time' (str); it is a non-empty string, in which"),
        ({"tags": {"kedro.env": "a"}}, "a mapping of names, but 'kedro.*' and"),
        ({"tags": {"mlflow.runName": "a"}}, "'kedro.*' and 'mlflow.runName', to texts"),
        ({"tags": {"team": ["a"]}}, "a mapping of names, but 'kedro.*' and"),
        ({"summary": "no"}, "'summary' is 'no' (str); it is true or false"),
        ({"system_metrics": 1}, "'system_metrics' is 1 (int); it is true or false"),
        ({"credentials": {"A": "b"}}, "it is the name of an entry of credentials.yml"),
        ({"credentials": "nobody"}, "names 'nobody', which is not a mapping"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_key_or_value_is_refused_with_its_file(lab: Lab, keys: Any, part: str) -> None:
    lab.configure(**keys)

    message = refused(lab)

    assert message.startswith("conf/local/mlflow.yml: ")
    assert part in message
    assert lab.runs() == []


@pytest.mark.parametrize(
    "keys",
    [
        {"credentials": {"MLFLOW_TRACKING_PASSWORD": "hunter2"}},
        {"credentials": {"LOGIN": "hunter2"}},
        {"credentials": ["hunter2"]},
        {"tags": {"token": ["hunter2"]}},
        {"tracking_uri": ["postgresql://me:hunter2@host/db"]},
    ],
    ids=str,
)
def test_no_error_about_a_value_has_its_secrets(lab: Lab, keys: Any) -> None:
    lab.configure(**keys)

    message = refused(lab)

    assert "hunter2" not in message


def test_the_file_that_is_named_is_the_one_that_has_the_key(lab: Lab) -> None:
    lab.add("base/mlflow.yml", "\ntrack: sometimes\n")

    assert refused(lab).startswith("conf/base/mlflow.yml: ")


def test_a_key_without_a_value_has_its_default(lab: Lab) -> None:
    lab.configure(experiment=None, separator=None)

    lab.run("everything", node_names=["a"])

    assert set(lab.points()) == {"a_metrics.score", "a_metrics.curve"}


def test_all_keys_have_a_default(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("base/mlflow.yml", "local/mlflow.yml"):
        (lab.conf / file).unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{lab.store}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the environment")

    lab.run("everything", node_names=["a"])

    (run,) = lab.runs()
    experiment = MlflowClient(f"sqlite:///{lab.store}").get_experiment(run.info.experiment_id)
    assert experiment.name == "from the environment"


def test_the_configuration_comes_before_the_environment(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    lab.configure(experiment="configured", run_name="named")

    lab.run("everything", node_names=["a"])

    (run,) = lab.runs()
    assert run.info.run_name == "named"
    assert not (tmp_path / "other.db").exists()


def test_a_run_leaves_the_environment_as_it_was(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.add("local/credentials.yml", "server: {MLFLOW_TRACKING_PASSWORD: hunter2}\n")
    lab.configure(credentials="server")
    before = dict(os.environ)

    lab.run("own_calls")

    assert dict(os.environ) == before
    assert not mlflow.is_tracking_uri_set()
    assert [run.info.status for run in lab.runs()] == ["FINISHED"]


def test_credentials_are_environment_variables_while_a_node_runs(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        "lab.pipelines.ends.Path.touch",
        lambda path: seen.append(os.environ.get("MLFLOW_TRACKING_PASSWORD")),
    )
    lab.add("local/credentials.yml", "server: {MLFLOW_TRACKING_PASSWORD: hunter2}\n")
    lab.configure(credentials="server")

    lab.run("ends", params={"end": "wait:nowhere"})

    assert seen == ["hunter2"]


ANN = "Basic " + b64encode(b"ann:hunter2").decode()


@pytest.fixture
def logins(lab: Lab) -> Iterator[list[str | None]]:
    """The logins of all requests to the lab's server, which refuses them."""
    seen = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_error(403)

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        lab.configure(tracking_uri=f"http://127.0.0.1:{server.server_port}", credentials="server")
        login = "{MLFLOW_TRACKING_USERNAME: ann, MLFLOW_TRACKING_PASSWORD: hunter2}"
        lab.add("local/credentials.yml", f"server: {login}\n")
        yield seen
        server.shutdown()
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ


def test_the_first_request_has_the_credentials(lab: Lab, logins: list[str | None]) -> None:
    message = refused(lab)

    assert logins == [ANN]
    assert "can't be used" in message


@pytest.mark.parametrize(
    ("entry", "act"),
    [
        ("run_id: a1", lambda dataset: dataset.load()),
        ("load_args: {run: last}", lambda dataset: dataset.load()),
        ("metadata: {}", lambda dataset: dataset.load()),
        ("metadata: {}", lambda dataset: dataset.preview()),
        ("run_id: a1", lambda dataset: dataset.exists()),
        ("run_id: a1", lambda dataset: dataset.save({"loss": 1.0})),
    ],
    ids=["a run", "a named run", "the last run", "preview", "exists", "save"],
)
def test_requests_outside_of_a_kedro_run_have_the_credentials(
    lab: Lab, logins: list[str | None], entry: str, act: Callable[[Any], object]
) -> None:
    kind = "lab.tracking.MlflowMetricsDataset"
    lab.add("base/catalog.yml", f"kept_metrics: {{type: {kind}, {entry}}}\n")
    dataset = lab.context().catalog.get("kept_metrics")

    with pytest.raises((DatasetError, ClickException)):
        act(dataset)

    assert set(logins) == {ANN}


def test_what_another_run_has_is_read_with_the_credentials_where_nothing_is_tracked(
    lab: Lab, logins: list[str | None]
) -> None:
    kind = "lab.tracking.MlflowMetricsDataset"
    lab.add("base/catalog.yml", f"chain_metrics: {{type: {kind}, load_args: {{run: last}}}}\n")
    lab.configure(track="never")

    with pytest.raises((DatasetError, ClickException)):
        lab.run("chain", params={"judge": "ok"}, node_names=["judge"])

    assert set(logins) == {ANN}


@pytest.mark.parametrize("command", ["show", "open"])
def test_an_environment_without_a_folder_is_an_error(lab: Lab, command: str) -> None:
    """And not one without settings, where the base's have been left out, too."""
    result = metrics(lab, command, "--env=typo")

    assert result.exit_code == 1
    assert "There is no folder conf/typo; correct --env, or make it." in flat(result.output)
    assert lab.runs() == []


@pytest.mark.parametrize("own", [None, "mine"])
def test_variables_that_are_lent_to_several_are_put_back_by_the_last(
    monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    monkeypatch.delenv("LENT", raising=False)
    if own:
        monkeypatch.setenv("LENT", own)
    variables = LentVariables()

    variables.take_back({"LENT": "a"})  # interrupted before it was lent
    variables.lend({"LENT": "a"})
    variables.lend({"LENT": "b"})
    variables.take_back({"LENT": "a"})
    assert os.environ["LENT"] == "a"
    variables.take_back({"LENT": "b"})
    assert os.environ.get("LENT") == own
    variables.take_back({"LENT": "b"})
    assert os.environ.get("LENT") == own


CREDENTIALS = "server: {MLFLOW_TRACKING_PASSWORD: hunter2}\n"


def test_credentials_are_asked_for_where_a_store_is_opened(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.add("base/mlflow.yml", "\ncredentials: server\n")
    lab.add("local/credentials.yml", CREDENTIALS)
    (lab.conf / "prod").mkdir()
    lab.add("prod/mlflow.yml", f"tracking_uri: sqlite:///{lab.store}\n")
    monkeypatch.setenv("KEDRO_ENV", "prod")

    lab.run("plain")
    message = refused(lab)
    lab.add("prod/mlflow.yml", "track: never\n")
    lab.run("everything", node_names=["a"])

    assert message.startswith("conf/base/mlflow.yml: 'credentials' names 'server', which is not")
    assert (
        "add it to conf/prod/credentials.yml, or leave 'credentials' empty in conf/prod" in message
    )
    assert lab.runs() == []


class _Late:
    """A hook of the user's that prepares the configuration, as late as it can."""

    def __init__(self, store: Path) -> None:
        self.store = store

    @hook_impl(trylast=True)
    def after_context_created(self, context: KedroContext) -> None:
        OmegaConf.register_new_resolver("lab.store", lambda: str(self.store), replace=True)
        OmegaConf.register_new_resolver("lab.prefix", lambda: "resolved", replace=True)
        patterns = context.config_loader.config_patterns  # type: ignore[attr-defined]
        patterns["mlflow"] = ["tracking*"]


@pytest.mark.parametrize("order", [1, -1])
def test_the_configuration_is_read_after_the_hooks_of_others(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    register_hooks(monkeypatch, _Late(lab.store), order=order)
    entry = "{type: lab.tracking.MlflowMetricsDataset, prefix: '${lab.prefix:}'}"
    lab.add("base/catalog.yml", f"\na_metrics: {entry}\n")
    lab.add("base/tracking.yml", "tracking_uri: sqlite:///${lab.store:}\nrun_name: late\n")
    (lab.conf / "local/mlflow.yml").unlink()

    lab.run("everything", node_names=["a", "b"])

    (run,) = lab.runs()
    assert run.info.run_name == "late"
    assert set(lab.points()) == {
        *("resolved.score", "resolved.curve", "b_metrics.score", "b_metrics.curve")
    }


def test_a_value_that_is_not_given_is_one_sentence(lab: Lab) -> None:
    lab.configure(tracking_uri="sqlite:///${runtime_params:store}")

    assert "mlflow.yml: Runtime parameter 'store' not found" in refused(lab)

    lab.run("everything", node_names=["a"], params={"store": str(lab.store)})
    assert len(lab.runs()) == 1


ODD = ["per%cent", "a%20b", "50%", "a b", "a#b", "a&b", "ümlaut", "a+b", "it's", 'a"b', "a?b", "$x"]


@pytest.mark.parametrize("name", [" ".join(ODD), *ODD])
def test_a_project_in_an_odd_folder(lab: Lab, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "odd" / name / "deep"
    shutil.copytree(lab.path / "conf", folder / "conf")
    odd = Lab(folder, tmp_path / "settings", lab.store)
    if name in ODD:
        shutil.copy(lab.store, folder / "mlflow.db")
    odd.configure(tracking_uri=None)
    try:
        odd.run("own_calls")
    finally:
        odd.close()

    shutil.copy(folder / "mlflow.db", lab.store)  # where the tests' own MLflow finds it
    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert set(run.data.metrics) == {"own.one", "own.two", "one_metrics.score", "two_metrics.score"}
    assert len(list(folder.glob("mlartifacts/lab/*/artifacts/*.json"))) == 2
    assert [path.name for path in (tmp_path / "odd").iterdir()] == [name]


def test_a_question_mark_with_an_older_sqlalchemy(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Below 2.1, there is no URI of such a path; a store elsewhere can be used."""
    monkeypatch.setattr("lab.tracking.scanning.uris.version", lambda name: "2.0.45")
    shutil.copytree(lab.path / "conf", tmp_path / "a?b" / "conf")
    odd = Lab(tmp_path / "a?b", tmp_path / "settings", lab.store)

    odd.run("everything", node_names=["a"])
    assert len(lab.runs()) == 1

    odd.configure(tracking_uri=None)
    assert "has a '?', where SQLite's URIs end" in refused(odd)


def test_every_key_has_a_rule_a_field_and_a_place_in_the_file_of_a_new_project(lab: Lab) -> None:
    text = (lab.path / "conf/base/mlflow.yml").read_text()
    fields = {field.name.removeprefix("read_") for field in dataclasses.fields(MlflowConfig)}

    assert fields - {"env", "options", "redactor", "project_path", "catalog"} == set(_RULES)
    assert set(_RULES) <= set(re.findall(r"^(?:# )?([a-z_]+): ", text, re.MULTILINE))


@pytest.fixture
def relative(lab: Lab) -> Path:
    """Where `sqlite:///store/mlflow.db` is: below the project, not below this process's folder."""
    lab.configure(tracking_uri="sqlite:///store/mlflow.db")
    return lab.path / "store" / "mlflow.db"


def test_a_relative_sqlite_path_is_taken_from_the_project(lab: Lab, relative: Path) -> None:
    relative.parent.mkdir(exist_ok=True)
    relative.write_bytes(lab.store.read_bytes())
    try:
        lab.run("everything", node_names=["a"])
        lab.store = relative
        assert len(lab.runs()) == 1
    finally:
        relative.unlink()
        relative.parent.rmdir()


def test_a_store_in_a_folder_that_does_not_exist(lab: Lab, relative: Path) -> None:
    message = refused(lab)

    assert (
        f"sqlite:///{relative} can't be opened: the folder {relative.parent} does not exist"
        in message
    )
    assert "'tracking_uri'" in message
    assert not relative.parent.exists()


def test_a_store_that_is_no_database(lab: Lab) -> None:
    lab.store.write_text("not a database, but a text that is long enough")

    assert "can't be opened: file is not a database" in refused(lab)


def test_a_store_that_may_not_be_written(lab: Lab) -> None:
    # On /proc nobody may write, not even root.
    lab.configure(tracking_uri="sqlite:////proc/mlflow.db")

    assert "/proc/mlflow.db can't be opened: unable to open database file" in refused(lab)


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Nobody may write to the folder: for root, too, to whom permissions mean nothing."""
    lock, unlock = (["chmod", "a-w"], ["chmod", "u+w"])
    if os.geteuid() == 0:
        lock, unlock = (["chattr", "+i"], ["chattr", "-i"])
    subprocess.run([*lock, folder], check=True)
    try:
        yield
    finally:
        subprocess.run([*unlock, folder], check=True)


def test_an_unwritable_project_with_the_default_store(lab: Lab) -> None:
    (lab.conf / "local/mlflow.yml").unlink()

    with unwritable(lab.path):
        message = refused(lab)

    assert f"sqlite:///{lab.path}/mlflow.db can't be opened: there is no permission" in message
    assert "set another 'tracking_uri' in mlflow.yml" in message


def test_a_database_of_something_else(lab: Lab) -> None:
    lab.store.unlink()
    with closing(sqlite3.connect(lab.store)) as database, database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('of another program')")

    message = refused(lab)

    assert message.startswith(f"The MLflow store sqlite:///{lab.store} can't be opened: ")
    assert "it has other tables than MLflow's, or half of them; move the file away" in message


def test_a_store_of_the_environment_is_checked_too(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.configure(tracking_uri=None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://user:hunter2@example.com/store")

    message = refused(lab)

    assert message.startswith("The environment's MLFLOW_TRACKING_URI is 'ftp://example.com/store'")
    assert "hunter2" not in message


@pytest.mark.parametrize(
    "uri",
    [
        *("http://a:5000", "https://a/b", "databricks", "databricks://profile", "ours://store"),
        *("postgresql+psycopg2://a@b/c", "mysql://a@b/c", "mssql+pyodbc://a@b/c"),
        *("sqlite:////tmp/a.db?timeout=5", "file:///tmp/mlruns", "./mlruns"),
    ],
)
def test_a_store_of_any_form_that_mlflow_or_a_plugin_knows(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    plugin = tmp_path / "site" / "plugin-1.0.dist-info"
    plugin.mkdir(parents=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (plugin / "entry_points.txt").write_text("[mlflow.tracking_store]\nours = plugin:Store\n")
    monkeypatch.syspath_prepend(plugin.parent)
    lab.configure(tracking_uri=uri)

    lab.context()

    config = current_config()
    assert config is not None
    assert config.tracking_uri == uri


def test_a_deleted_experiment(lab: Lab) -> None:
    client = MlflowClient(f"sqlite:///{lab.store}")
    client.delete_experiment(client.create_experiment("lab"))

    assert "The MLflow experiment 'lab' is deleted; restore it with" in refused(lab)


@pytest.mark.parametrize("entry", ["prefix: 2024", "prefx: a"])
def test_a_bad_catalog_entry_is_kedros_error_and_opens_no_run(lab: Lab, entry: str) -> None:
    lab.add(
        "base/catalog.yml", f"\na_metrics: {{type: lab.tracking.MlflowMetricsDataset, {entry}}}\n"
    )

    with pytest.raises(DatasetError, match="'a_metrics'"):
        lab.run("everything", node_names=["a"])

    assert lab.runs() == []


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
near = st.sampled_from(
    [
        "sqlite:///mlflow.db",
        "sqlite:///../x.db",
        "sqlite://",
        "http://[::1",
        "http://127.0.0.1:1",
        "file:///tmp",
        "{{ 7 * 7 }}",
        "${oc.env:HOME}",
        "../../etc",
        "a\u202eb",
        "a\x00b",
        "!!python/object:os.system",
        "spool",
        "never",
        "/",
        ["key"],
        "x" * 600,
    ]
)
keys = st.sampled_from(
    [
        *("tracking_uri", "experiment", "run_name", "separator", "track", "log_params"),
        *("on_outage", "secrets", "credentials", "trakcing_uri", "x"),
    ]
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=1000, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(keys, junk | near, max_size=4))
def test_any_mlflow_yml_is_a_sentence_or_a_success(lab: Lab, keys: dict[str, Any]) -> None:
    (lab.conf / "local/mlflow.yml").write_text(yaml.safe_dump(keys))
    try:
        lab.context()
        config = current_config()
    except ClickException as error:
        assert "\n" not in error.format_message()
        assert len(error.format_message()) < 500
        return
    except OmegaConfBaseException:  # ${...}, which is Kedro's own
        return
    assert config is not None
    assert set(keys) <= set(_RULES)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=examples(60), suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["experiment", "run_name"]), st.text(min_size=1, max_size=20) | near)
def test_any_name_is_a_sentence_or_a_run(lab: Lab, key: str, name: Any) -> None:
    (lab.conf / "local/mlflow.yml").write_text(
        yaml.safe_dump({"tracking_uri": f"sqlite:///{lab.store}", key: name})
    )
    before = len(lab.runs())
    try:
        lab.run("everything", node_names=["a"])
    except ClickException as error:
        assert "\n" not in error.format_message()
        assert len(lab.runs()) == before
        return
    except OmegaConfBaseException:
        return
    runs = lab.runs()
    assert len(runs) == before + 1
    artifacts = Path(unquote(urlparse(runs[-1].info.artifact_uri or "").path))
    assert lab.store.parent in artifacts.resolve().parents


def test_a_file_that_is_no_yaml_is_one_sentence(lab: Lab) -> None:
    path = lab.conf / "local" / "mlflow.yml"
    path.write_text("tracking_uri: a: b\n")

    with pytest.raises(ConfigError, match=r"Invalid YAML or JSON file .*/mlflow\.yml"):
        lab.run("everything", node_names=["a"])
