"""``update`` brings ``tracking/`` to this version, with what its owner has changed in it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from adopting import (
    GIT,
    LAST_COMMIT,
    STRIDE,
    Adopted,
    assert_as_before_or_finished,
    commit,
    copy_of,
    killed_at,
    new_of,
    refused,
    require_history,
    snapshot,
    starter_before,
    tool,
)
from helpers import PACKAGE, STARTER, run_command

from kedro_mlflow_metrics_starter import update, versions

pytestmark = pytest.mark.bundled

BEFORE = "0.1.0"
NOW = versions.this_version()
THIS = {name: text.decode() for name, text in snapshot(PACKAGE / "tracking").items()}
DATASET = "src/lab/tracking/dataset.py"
STAYS = '    """Metrics in an MLflow run:'
MINE = '    """Ask Ada of metrics in an MLflow run:'
THEIRS = '        for argument, value in {"prefix": prefix, "run_id": run_id}.items():'


@pytest.fixture(scope="module")
def earlier(bake: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the ``tracking/`` of an earlier version, to copy."""
    path = copy_of(bake(include_example="no"), tmp_path_factory.mktemp("earlier"))
    folder = path / "src/lab/tracking"
    shutil.rmtree(folder)
    for name, text in versions.texts_of(BEFORE).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    commit(path)
    return path


@pytest.fixture
def project(earlier: Path, tmp_path: Path) -> Path:
    return copy_of(earlier, tmp_path)


def updated(path: Path, *options: str) -> str:
    done = tool("update", path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracking(path: Path) -> dict[str, str]:
    return {name: text.decode() for name, text in snapshot(path / "src/lab/tracking").items()}


def change(path: Path, old: str, new: str, file: str = DATASET) -> None:
    text = (path / file).read_bytes().decode()
    assert text.count(old) == 1
    (path / file).write_bytes(text.replace(old, new).encode())


def change_a_line_that_stays(path: Path) -> str:
    """Returns the text that the file shall have after the update."""
    change(path, STAYS, MINE)
    return THIS["dataset.py"].replace(STAYS, MINE)


# What is at hand


def test_every_earlier_version_is_kept() -> None:
    sections = (STARTER / "CHANGELOG.md").read_text().split("\n## ")[1:]
    for version in [section.split()[0] for section in sections][1:]:
        assert versions.version_in(versions.texts_of(version)["__init__.py"]) == version


def test_a_version_that_is_kept_is_as_it_was_committed() -> None:
    require_history()
    folder = (PACKAGE / "tracking").relative_to(STARTER).as_posix()
    for name, text in versions.texts_of(BEFORE).items():
        file = f"{LAST_COMMIT}:{folder}/{name}"
        assert run_command("git", "show", file, cwd=STARTER).stdout == text


# The update


def test_what_nobody_changed_is_taken_whole(project: Path) -> None:
    said = updated(project)

    assert tracking(project) == THIS
    assert said.endswith(f"{BEFORE} -> {NOW}\n")
    files = run_command("git", "status", "--porcelain", cwd=project).stdout.split("\n")[:-1]
    assert all("src/lab/tracking/" in file for file in files)


def test_the_second_time_nothing_changes(project: Path) -> None:
    change_a_line_that_stays(project)
    updated(project, "--force")
    before = snapshot(project)

    assert updated(project, "--force") == "Nothing to do.\n"
    assert snapshot(project) == before


def test_what_its_owner_changed_is_merged(project: Path) -> None:
    expected = change_a_line_that_stays(project)
    (project / "src/lab/tracking/ours.py").write_text("# The team's.\n")
    commit(project)

    said = updated(project)

    assert f"{DATASET} has your changes and the new ones." in said
    ours = {"ours.py": "# The team's.\n"}
    assert tracking(project) == {**THIS, "dataset.py": expected, **ours}


def test_a_change_that_stands_against_the_new_ones_is_named_and_left(project: Path) -> None:
    change(project, THEIRS, THEIRS.replace("argument", "name"))
    mine = (project / DATASET).read_text()
    commit(project)

    assert f"{DATASET} was changed where {NOW} changes, too; " in refused(project, command="update")
    kept = copy_of(project, project.parent / "kept")
    assert f"{DATASET} is left as it is." in updated(kept, f"--keep={DATASET}")
    assert tracking(kept) == {**THIS, "dataset.py": mine}
    updated(project, f"--take={DATASET}")
    assert tracking(project) == THIS


@pytest.mark.parametrize("option", ["--keep", "--take"])
def test_a_choice_that_is_no_file_is_refused(project: Path, option: str) -> None:
    said = refused(project, f"{option}=dataset.py", command="update")

    assert f"{option} dataset.py is no file of this version; write its path" in said


def test_a_file_that_its_owner_deleted_is_named(project: Path) -> None:
    (project / DATASET).unlink()
    commit(project)

    assert DATASET in refused(project, command="update")
    updated(project, "--keep=*/dataset.py")
    assert tracking(project) == {k: v for k, v in THIS.items() if k != "dataset.py"}


def test_a_merge_that_is_no_python_is_none() -> None:
    old, mine = "a = 1\nb = 2\nc = 3\nd = 4\n", "a = (\nb = 2\nc = 3\nd = 4\n"

    assert update.merged(old, mine, old.replace("4", "5")) is None
    assert update.merged(old, old.replace("1", "0"), old.replace("4", "5")) == (
        "a = 0\nb = 2\nc = 3\nd = 5\n"
    )


def test_line_ends_stay(project: Path) -> None:
    for file in (project / "src/lab/tracking").rglob("*.py"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    expected = change_a_line_that_stays(project)
    commit(project)

    updated(project)

    assert (project / DATASET).read_bytes() == expected.replace("\n", "\r\n").encode()
    texts = {name: text.replace("\r\n", "\n") for name, text in tracking(project).items()}
    assert texts == {**THIS, "dataset.py": expected}


def test_of_a_version_that_is_not_kept_every_file_is_named(project: Path) -> None:
    change(project, f'"{BEFORE}"', '"0.0.9"', "src/lab/tracking/__init__.py")
    commit(project)

    said = refused(project, command="update")
    assert "The text of 0.0.9 is not at hand" in said
    assert DATASET in said
    updated(project, "--take=src/lab/tracking/*")
    assert tracking(project) == THIS


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (f'"{BEFORE}"', '"9.0.0"', f"The project has 9.0.0, and this command {NOW}"),
        ('"""Metrics from', '"""Our metrics from', "has no src/lab/tracking of this starter"),
    ],
)
def test_what_is_not_ours_or_newer_is_refused(
    old: str, new: str, reason: str, project: Path
) -> None:
    change(project, old, new, "src/lab/tracking/__init__.py")

    assert reason in refused(project, "--force", command="update")


def test_changes_that_are_not_committed_are_refused(project: Path) -> None:
    change_a_line_that_stays(project)

    assert f"not committed ({DATASET})" in refused(project, command="update")


def test_diff_says_what_is_new_and_touches_nothing(project: Path) -> None:
    before = snapshot(project)
    printed = tool("diff", project).stdout
    assert snapshot(project) == before
    sections = (STARTER / "CHANGELOG.md").read_text().split("\n## ")[1:]
    news = [section for section in sections if not section.startswith(BEFORE)]
    assert printed.startswith(f"## {news[0]}")
    assert f"## {BEFORE}" not in printed

    copy = copy_of(project, project.parent / "copy")
    (project.parent / "new.diff").write_text(printed)
    run_command("git", "apply", "--whitespace=nowarn", project.parent / "new.diff", cwd=copy)
    assert tracking(copy) == THIS
    updated(project)
    assert tool("diff", project).stdout == ""


def test_diff_names_what_can_not_be_merged(project: Path) -> None:
    change(project, THEIRS, THEIRS.replace("argument", "name"))

    done = tool("diff", project)

    assert done.returncode == 0
    assert f"{DATASET} can't be merged" in done.stderr
    assert f"b/{DATASET}" not in done.stdout


# Interrupted


@pytest.fixture
def after(earlier: Path, tmp_path: Path) -> dict[str, bytes]:
    path = copy_of(earlier, tmp_path / "after")
    updated(path)
    return snapshot(path)


@pytest.mark.parametrize("number", [20, 70, 100])
def test_killed_at_any_write_the_project_is_as_before_or_soon_finished(
    number: int, earlier: Path, after: dict[str, bytes], tmp_path: Path
) -> None:
    assert assert_as_before_or_finished(number, earlier, after, tmp_path, "update")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_every_write_the_project_is_as_before_or_soon_finished(
    earlier: Path, after: dict[str, bytes], tmp_path: Path
) -> None:
    number = 0
    while assert_as_before_or_finished(number, earlier, after, tmp_path, "update"):
        number += STRIDE
    assert number > 100


def test_without_the_guard_the_next_call_finishes(
    earlier: Path, after: dict[str, bytes], tmp_path: Path
) -> None:
    path = copy_of(earlier, tmp_path)
    assert killed_at(20, path, "update", UNGUARDED="1", COUNTED="os.rename")
    found = {k: v for k, v in snapshot(path).items() if not k.startswith(".kedro-mlflow")}
    assert found not in (snapshot(earlier), after)

    assert updated(path, "--force") == "Finished what was interrupted.\nNothing to do.\n"
    assert snapshot(path) == after


# A project that the earlier version made


@pytest.fixture(scope="module")
def made_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of the last commit of the version before, to copy."""
    folder = tmp_path_factory.mktemp("before")
    lab = new_of(starter_before(folder), folder)
    commit(lab)
    return lab


@pytest.mark.slow
@pytest.mark.parametrize("is_changed", [False, True])
def test_a_project_of_the_version_before_is_updated_and_runs(
    is_changed: bool, made_before: Path, store: Path, tmp_path: Path
) -> None:
    lab = Adopted(copy_of(made_before, tmp_path / "copy"), "src", "lab")
    expected = change_a_line_that_stays(lab.path) if is_changed else THIS["dataset.py"]
    if is_changed:
        run_command(*GIT, "commit", "--quiet", "--all", "--message=Mine", cwd=lab.path)
    shutil.copy(store, lab.store)

    updated(lab.path)

    assert tracking(lab.path) == {**THIS, "dataset.py": expected}
    assert lab.kedro("metrics", "version").stdout.splitlines()[-1] == NOW
    lab.kedro("run")
    (run,) = lab.runs()
    assert (run.info.status, "my_model_metrics.accuracy" in run.data.metrics) == ("FINISHED", True)
    assert " passed" in lab.command(sys.executable, "-m", "pytest", "-q", PYTHONPATH="").stdout
