"""What an MLflow run says of its Kedro run, and what it keeps to itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import kedro
import pytest
from helpers import Lab
from hypothesis import given
from hypothesis import strategies as st
from kedro.framework.project import settings as project_settings
from kedro.runner import ThreadRunner
from lab.tracking.config import MlflowConfig
from lab.tracking.names import MAX_PARAM_LENGTH
from lab.tracking.provenance import run_name, source_tags
from lab.tracking.redaction import redact
from mlflow import MlflowClient
from omegaconf import OmegaConf

PROJECT = "[tool.kedro]\npackage_name = 'p'\nproject_name = 'P'\nkedro_init_version = '1.7.0'\n"


def test_the_run_has_the_facts_of_the_kedro_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/kedro", "run", "--params=a=b c"])

    lab.run("everything", runner=ThreadRunner(), node_names=["a"])

    (run,) = lab.runs()
    assert re.fullmatch(r"everything \d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", run.info.run_name)
    experiment = MlflowClient(f"sqlite:///{lab.store}").get_experiment(run.info.experiment_id)
    assert experiment.name == "lab"
    tags = run.data.tags
    assert tags["kedro.pipeline"] == "everything"
    assert tags["kedro.env"] == "local"
    assert tags["kedro.runner"] == "ThreadRunner"
    assert tags["kedro.version"] == kedro.__version__
    assert tags["kedro.run_id"].startswith("20")
    assert tags["kedro.command"] == "kedro run '--params=a=b c'"


def test_the_default_environment_is_the_one_that_settings_name(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lab.conf / "local").rename(lab.conf / "prod")
    monkeypatch.setitem(project_settings.CONFIG_LOADER_ARGS, "default_run_env", "prod")

    lab.run("everything", node_names=["a"])

    assert lab.runs()[0].data.tags["kedro.env"] == "prod"


def test_git_commit_and_whether_the_tree_was_dirty(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    (tmp_path / "pyproject.toml").write_text(PROJECT)
    assert "mlflow.source.git.commit" not in source_tags(tmp_path)
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    tags = source_tags(tmp_path)
    assert tags["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    assert tags["mlflow.source.git.dirty"] == "False"
    (tmp_path / "new.txt").touch()
    assert source_tags(tmp_path)["mlflow.source.git.dirty"] == "True"


def test_a_packaged_project_has_not_the_commit_of_the_repository_around_it(
    repository: Path,
) -> None:
    """Kedro takes the current folder for its project then: of an orchestrator's pipelines, say."""
    (repository / "pyproject.toml").write_text("[project]\nname = 'operations'\n")

    tags = source_tags(repository)

    assert not {name for name in tags if "git" in name}
    assert tags["mlflow.source.name"] == repository.name


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one commit, of a Kedro project."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    command = "git init -q && git add . && git -c user.name=a -c user.email=a@b commit -q -m first"
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    return tmp_path


def test_an_untracked_file_whose_name_is_not_utf_8(repository: Path) -> None:
    subprocess.run(["git", "config", "core.quotePath", "false"], cwd=repository, check=True)
    (repository / os.fsdecode(b"caf\xe9.txt")).touch()

    assert source_tags(repository)["mlflow.source.git.dirty"] == "True"


def test_a_folder_whose_name_is_not_utf_8_can_be_written(tmp_path: Path) -> None:
    tags = source_tags(tmp_path / os.fsdecode(b"caf\xe9"))

    assert tags["mlflow.source.name"].encode(errors="surrogateescape") == b"caf?"


def test_a_git_that_does_not_answer_is_not_waited_for(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows the commit, asks for a password then, and hears that there is nobody."""
    folder = repository / "bin"
    folder.mkdir()
    (folder / "git").write_text(
        '#!/bin/sh\n[ "$1" = status ] || { echo abc; exit; }\n'
        '[ "$GIT_TERMINAL_PROMPT$GIT_OPTIONAL_LOCKS" = 00 ] || exit 1\n'
        f"read answer || touch {folder}/asked\nexec sleep 60\n"
    )
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr("lab.tracking.provenance.GIT_SECONDS", 1.0)
    began = time.monotonic()

    tags = source_tags(repository)

    assert time.monotonic() - began < 20
    assert tags["mlflow.source.git.commit"] == "abc"
    assert "mlflow.source.git.dirty" not in tags
    assert (folder / "asked").exists()


def test_a_run_without_git_user_home_and_command(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> str:
        raise RuntimeError("nobody")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", fail)
    monkeypatch.setattr("getpass.getuser", fail)
    monkeypatch.setattr(sys, "argv", [])

    lab.run("everything", node_names=["a"])

    assert [run.info.status for run in lab.runs()] == ["FINISHED"]


def test_the_repository_is_the_projects_own_within_a_hook_of_another(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    subprocess.run(["git", "init", "-q"], cwd=other, check=True)
    own = source_tags(repository)

    monkeypatch.setenv("GIT_DIR", str(other / ".git"))  # as git does it
    monkeypatch.setenv("GIT_INDEX_FILE", "index")

    assert source_tags(repository) == own
    assert "mlflow.source.git.commit" in own


@pytest.mark.parametrize("name", ["2026_11_29", "12:30:00", "0042", "true", "0", "1e3", "nightly"])
def test_a_name_that_yaml_takes_for_something_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = f"a=1,mlflow_run_name={name},b=2"
    monkeypatch.setattr(sys, "argv", ["kedro", "run", f"--params={option}"])
    given = OmegaConf.to_container(OmegaConf.from_dotlist(option.split(",")))

    assert run_name(MlflowConfig("sqlite:///x", "lab", "base"), {"runtime_params": given}) == name


def test_a_broken_repository_is_none(repository: Path) -> None:
    (repository / ".git" / "HEAD").write_bytes(b"\xff\x00")

    assert "mlflow.source.git.commit" not in source_tags(repository)


PARAMETERS = """
model:
  depth: 3
  layers: [1, 2]
  nested: {rate: 0.1, empty: {}}
  "odd name (%)": 1
text: short
unused: 1
"""


def test_the_parameters_that_the_pipeline_uses_are_logged_flat(lab: Lab) -> None:
    (lab.conf / "base/parameters.yml").write_text(PARAMETERS)

    lab.run("parameters")

    (run,) = lab.runs()
    assert run.data.params == {
        "model.depth": "3",
        "model.layers": "[1, 2]",
        "model.nested.rate": "0.1",
        "model.nested.empty": "{}",
        "model.odd name ___": "1",
        "text": "short",
    }


def test_more_parameters_than_a_request_takes(lab: Lab) -> None:
    many = {"model": {f"p{index}": index for index in range(250)}, "text": "a"}

    lab.run("parameters", params=many)

    assert len(lab.runs()[0].data.params) == 251


def test_a_value_too_long_is_cut_with_a_warning(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.run("parameters", params={"model": {"a": 1}, "text": "x" * 7000})

    (run,) = lab.runs()
    assert run.info.status == "FINISHED"
    assert run.data.params["text"] == "x" * MAX_PARAM_LENGTH
    assert "The parameter 'text' has 7000 characters" in caplog.text


def test_an_external_run_keeps_the_parameters_that_it_has(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    lab.run("parameters", params={"model": {"a": 1}, "text": "first"})
    (run,) = lab.runs()

    lab.run(
        "parameters",
        params={"model": {"b": 2}, "text": "second", "mlflow_run_id": run.info.run_id},
    )

    (run,) = lab.runs()
    assert run.data.params == {"model.a": "1", "model.b": "2", "text": "first"}
    assert "'text' of the MLflow run stays 'first'" in caplog.text


def test_a_secret_that_an_external_run_has_is_in_no_line_of_the_log(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    client = MlflowClient(f"sqlite:///{lab.store}")
    run_id = client.create_run(client.create_experiment("lab")).info.run_id
    client.log_param(run_id, "model.password", "hunter2")

    lab.run(
        "parameters",
        params={"model": {"password": "hunter2"}, "text": "a", "mlflow_run_id": run_id},
    )

    assert "'model.password' of the MLflow run stays '***'" in caplog.text
    assert "hunter2" not in caplog.text


def test_parameters_can_be_left_out(lab: Lab) -> None:
    lab.configure(log_params=False)

    lab.run("parameters", params={"model": {"a": 1}, "text": "a"})

    assert lab.runs()[0].data.params == {}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql://user:hunter2@db/name", "postgresql://db/name"),
        ("https://ghp_token@github.com/a/b.git", "https://github.com/a/b.git"),
        ("https://u:p@ss@host/x", "https://host/x"),
        ("see https://a:b@c/d and s3://k:s@e/f!", "see https://c/d and s3://e/f!"),
        ("https://h/x?token=abc&a=1&sig=9", "https://h/x?token=***&a=1&sig=***"),
        ("https://h/x?api_key=abc#f", "https://h/x?api_key=***#f"),
        ("https://h/users/a@b", "https://h/users/a@b"),
        ("postgresql://user:pa/s#s?w'd@host/db", "postgresql://host/db"),
        ("mail a@b.c", "mail a@b.c"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
    ],
)
def test_a_url_is_kept_without_who_and_password(text: str, clean: str) -> None:
    assert redact(text) == clean


@given(st.text(), st.text())
def test_any_text_can_be_redacted(before: str, after: str) -> None:
    redact(f"{before}://{after}@{before}")


def test_a_password_in_a_parameter_or_command_reaches_no_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://user:hunter2@example.com/data"
    monkeypatch.setattr(sys, "argv", ["kedro", "run", f"--params=text={url}"])

    lab.run("parameters", params={"model": {"url": url}, "text": url})

    (run,) = lab.runs()
    assert run.data.params["model.url"] == "https://example.com/data"
    assert "hunter2" not in str(run.to_dictionary())
    assert b"hunter2" not in lab.store.read_bytes()
