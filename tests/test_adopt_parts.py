"""The parts of ``adopt`` that are pure functions: text in, text out."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import tomlkit
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from post_gen_project import add_command

from kedro_mlflow_metrics_starter import dependencies, template, textfile
from kedro_mlflow_metrics_starter.adopt import ignore
from kedro_mlflow_metrics_starter.refusal import Refusal

# cli.py

START = '"""Commands."""\nimport click\nfrom kedro.framework.cli.project import run\n\n'
GROUP = "@click.group()\ndef cli():\n    pass\n"
COMMAND = "\n\n@cli.command()\ndef launch():\n    click.echo('up')\n"


def commands(text: str) -> Mapping[str, click.Command]:
    """The commands of a cli.py, when it is imported as Kedro does."""
    space: dict[str, Any] = {"__name__": "lab.cli", "__package__": "lab"}
    exec(compile(text, "cli.py", "exec"), space)
    cli: click.Group = space["cli"]
    return cli.commands


@pytest.mark.parametrize(
    "text",
    [
        START + GROUP + COMMAND,
        GROUP.join(("import click\n", COMMAND)),
        "from click import group, echo\n@group(name='x')\ndef cli(): ...\n",
        START + GROUP + COMMAND + '\nif __name__ == "__main__":\n    cli()\n',
        START + "cli = click.Group('lab')" + COMMAND,
        START + GROUP + "\n\ndef metrics_of(a):\n    return a\n",
        START + "import click as c\n\n@c.group(invoke_without_command=True)\ndef cli(): pass",
        "# nothing but\n" + START.replace("\n\n", "\n") + GROUP,
    ],
)
def test_a_projects_own_commands_are_joined_by_metrics(text: str) -> None:
    changed = add_command(text)

    assert changed
    before = commands(text)
    after = commands(changed)
    assert after.keys() == {*before, "metrics"}
    assert "compare" in CliRunner().invoke(after["metrics"], ["--help"]).output
    assert add_command(changed) == changed
    lines = iter(changed.split("\n"))
    assert all(line in lines for line in text.removesuffix("\n").split("\n"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        START,
        START + "from lab.commands import cli\n",
        START + "cli = make()\n",
        START + "@click.command()\ndef cli():\n    pass\n",
        START + "@click.group(chain=True)\ndef cli():\n    pass\n",
        START + "if run:\n    cli = click.Group()\n",
        START + GROUP + "\n\n@cli.command()\ndef metrics():\n    pass\n",
        START + GROUP + "\n\n@cli.group('metrics')\ndef ours():\n    pass\n",
        START + GROUP + "\n\n@cli.group(name='metrics')\ndef ours():\n    pass\n",
        "from lab import metrics\n" + START + GROUP,
        START + GROUP + "metrics = 1\n",
    ],
)
def test_a_cli_that_cannot_be_changed_safely_is_left(text: str) -> None:
    assert add_command(text) is None


# Line ends and the like


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"new\n"),
        (b"a\nb\n", b"a\nnew\nb\n"),
        (b"a\r\nb\r\n", b"a\r\nnew\r\nb\r\n"),
        (b"a\nb", b"a\nnew\nb"),
        (b"a\r\nb", b"a\r\nnew\r\nb"),
        (b"\xef\xbb\xbfa\r\nb\r\n", b"\xef\xbb\xbfa\r\nnew\r\nb\r\n"),
        (b"a\nb\r\nc\r\nd\r\n", b"a\nnew\r\nb\r\nc\r\nd\r\n"),
        (b"a\r\nb\nc\nd\n", b"a\r\nnew\nb\nc\nd\n"),
    ],
)
def test_a_line_more_is_all_that_changes(before: bytes, after: bytes) -> None:
    def add(text: str) -> str:
        lines = text.split("\n")
        new = "\n".join([*lines[:1], "new", *lines[1:]]) if text else "new\n"
        return new if new.endswith("\n") else new + "\n"

    assert textfile.edited(before, add) == after
    assert textfile.edited(before, lambda text: text) == before


@given(st.lists(st.sampled_from(["a", "b", "", "c\r", "d\r", "\r"])), st.integers(0, 9))
def test_lines_that_were_there_keep_their_bytes(lines: list[str], at: int) -> None:
    before = "\n".join(lines).encode()

    def add(text: str) -> str:
        old = text.split("\n")
        return "\n".join([*old[:at], "new", *old[at:], ""])

    after = textfile.edited(before, add)

    added = [line for line in after.split(b"\n") if line.rstrip(b"\r") == b"new"]
    assert len(added) == 1
    left = [line for line in after.split(b"\n") if line != added[0]]
    old = before.split(b"\n")
    assert [line.rstrip(b"\r") for line in left if line.strip()] == [
        line.rstrip(b"\r") for line in old if line.strip()
    ]


# Dependencies

WANTED = {"kedro": "kedro>=1.0,<2", "mlflow": "mlflow>=3.7,<4  # why"}
PYPROJECTS = {
    "lines": '[project]\ndependencies = [\n  "kedro~=1.0", # why\n]\nname = "a"\n',
    "lines without a comma": '[project]\ndependencies = [\n    "kedro~=1.0"\n]\n',
    "one line": '[project]\ndependencies = ["kedro~=1.0"] # all\n',
    "none": "[project]\ndependencies = []\n",
    "a comment below a last item without a comma": (
        '[project]\ndependencies = [\n  "kedro~=1.0"\n  # why\n]\nname = "a"\n'
    ),
    "a comment beside and below it": (
        '[project]\ndependencies = [\n  "kedro~=1.0" # why, all\n\n  # all]\n\n] # all\n'
    ),
    "a comment beside the first line": '[project]\ndependencies = ["kedro~=1.0" # why\n]\n',
    "a comment before a comma": '[project]\ndependencies = [\n"kedro~=1.0"\n# why\n,\n]\n',
    "nothing but a comment": '[project]\ndependencies = [ # all\n]\noptional = ["kedro"] # why\n',
    "keys with dots": 'project.dependencies = ["kedro~=1.0"] # why\nproject.name = "a"\n',
    "braces": 'project = {dependencies = ["kedro~=1.0"], name = "a"} # why\n',
    "another name for it": '[project]\ndependencies = ["Kedro[viz]>=1"]\n',
}


@pytest.mark.parametrize("case", PYPROJECTS)
def test_a_static_list_gets_what_is_missing(case: str) -> None:
    before = PYPROJECTS[case]

    after = dependencies.add_to_pyproject(before, WANTED)

    names = [dependencies.name_of(line) for line in tomlkit.parse(after)["project"]["dependencies"]]
    assert names == ["kedro", "mlflow"]
    assert 'mlflow>=3.7,<4"' in after
    assert all(comment in after for comment in ("# why", "# all") if comment in before)
    rest = [tomlkit.parse(text).unwrap() for text in (before, after)]
    assert [project["project"].pop("dependencies") for project in rest]
    assert rest[0] == rest[1]
    assert dependencies.add_to_pyproject(after, WANTED) == after


@pytest.mark.parametrize(
    "text",
    [
        '[project]\ndependencies = [\n"kedro"\n# why\n,"a"\n,\n]\n',
        '[tool.poetry]\ndependencies = ["kedro"]\n',
    ],
)
def test_a_list_that_cannot_be_added_to_is_left_to_its_owner(text: str) -> None:
    with pytest.raises(Refusal, match=r"^pyproject\.toml .* add .* mlflow>=3\.7,<4\.$"):
        dependencies.add_to_pyproject(text, WANTED)


def test_a_list_that_cannot_be_taken_from_is_left_to_its_owner() -> None:
    with pytest.raises(Refusal, match=r"^pyproject\.toml .* remove kedro from it yourself\.$"):
        dependencies.remove_from_pyproject('[tool.poetry]\ndependencies = ["kedro"]\n', "kedro")


def test_a_list_of_poetry_gets_what_is_missing() -> None:
    before = '[tool.poetry.dependencies]\npython = "^3.10"\nkedro = "^1.0"  # why\n'

    after = dependencies.add_to_pyproject(before, WANTED)

    assert after.startswith(before)
    assert tomlkit.parse(after)["tool"]["poetry"]["dependencies"]["mlflow"] == "<4,>=3.7"


def test_what_an_included_file_requires_is_not_missing() -> None:
    files = {"requirements.txt": "-r base/a.txt\n", "base/a.txt": "-r b.txt\nKedro\n"}
    files["base/b.txt"] = "MLflow==3.8\n"

    lines = dependencies.lines_of("requirements.txt", files.get)

    assert dependencies.missing(lines, WANTED) == []


def test_a_list_that_is_none_of_poetrys_is_passed_over() -> None:
    pyproject = {"tool": {"poetry": {"dependencies": ["kedro"]}}}

    assert dependencies.listed(pyproject, lambda _: None) == []


@pytest.mark.parametrize(
    ("version", "requirement"),
    [
        ("^1.0", "kedro!=2,==1.*,>=1.0"),
        ("1.0", "kedro==1.0"),
        ("*", "kedro"),
        (">=1,<2", "kedro<2,>=1"),
        ("~0.19.3", "kedro==0.*,>=0.19.3"),
    ],
)
def test_notations_of_poetry_are_understood(version: str, requirement: str) -> None:
    pyproject = {"tool": {"poetry": {"dependencies": {"kedro": version}}}}

    (found,) = dependencies.listed(pyproject, lambda _: None)

    assert set(str(found).removeprefix("kedro").split(",")) <= {
        *requirement.removeprefix("kedro").split(","),
        "",
    }


# .gitignore


def test_what_mlflow_writes_is_ignored_once() -> None:
    before = "*.log\n\n# MLflow\nmlruns/*\n"

    after = ignore(before)

    assert after.startswith(before)
    assert after.count("mlruns") == 1
    assert "\n*.db\n" in after
    assert ignore(after) == after
    assert ignore("") == ignore("\n").lstrip("\n")


@pytest.mark.parametrize("before", ["", (template.PROJECT / ".gitignore").read_text(), "*.log\n"])
def test_git_sees_no_store_of_any_name(before: str, tmp_path: Path) -> None:
    """An environment of its own has a store of another name, and files lie beside each."""
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text(ignore(before), encoding="utf-8")
    for name in ("mlflow", "prod", "mlflow-spool", "store/team"):
        folder, stem = (path := tmp_path / name).parent, path.name
        folder.mkdir(exist_ok=True)
        for beside in (f"{stem}.db", f"{stem}.db-journal", f".{stem}.db-lock", f".{stem}.db-new"):
            (folder / beside).touch()
    (tmp_path / "mine.dbml").touch()

    seen = ["git", "status", "--porcelain", "--untracked-files=all"]
    listed = subprocess.run(seen, cwd=tmp_path, check=True, capture_output=True, text=True)

    assert listed.stdout.split("\n") == ["?? .gitignore", "?? mine.dbml", ""]
