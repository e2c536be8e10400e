"""The starter's own tools: one version of each, wherever it is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

STARTER = Path(__file__).parents[1]
TEMPLATE = STARTER / "{{ cookiecutter.repo_name }}"


def ruff_of_pre_commit(folder: Path) -> set[str]:
    config = yaml.safe_load((folder / ".pre-commit-config.yaml").read_text())
    needed = [hook["additional_dependencies"] for hook in config["repos"][0]["hooks"]]
    return {version for names in needed for version in names if version.startswith("ruff")}


@pytest.mark.parametrize("folder", [STARTER, TEMPLATE], ids=["starter", "template"])
def test_pre_commit_has_the_ruff_of_make_lint(folder: Path) -> None:
    project = (folder / "pyproject.toml").read_text()

    assert set(re.findall(r'"(ruff[^"]*)"', project)) == ruff_of_pre_commit(folder)
    assert ruff_of_pre_commit(folder) == ruff_of_pre_commit(STARTER)


def test_what_goes_together_is_said_where_it_is_installed_and_tested() -> None:
    """MLflow 3.7 and 3.8 import what SQLAlchemy 2.1 has not."""
    requirements = (TEMPLATE / "requirements.txt").read_text()
    (oldest,) = re.findall(r"^mlflow>=([\d.]+),<4", requirements, re.MULTILINE)
    makefile = (STARTER / "Makefile").read_text()
    (tested,) = re.findall(r'"mlflow==([\d.]+)" "(sqlalchemy<2.1)"', makefile)

    assert tested[0].startswith(f"{oldest}.")
    sentence = "MLflow 3.7 and 3.8 need sqlalchemy<2.1"
    for file in ("requirements.txt", "pyproject.toml", "README.md"):
        assert sentence in (TEMPLATE / file).read_text().replace("`", ""), file
    assert sentence in (STARTER / "README.md").read_text().replace("`", "")


def test_every_target_of_the_makefile_says_what_it_is_for() -> None:
    makefile = (STARTER / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    documented = re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE)

    assert set(documented) == set(phony.split()) - {"env"}


def test_the_workflows_name_the_same_actions() -> None:
    ours = actions(STARTER / ".github/workflows/ci.yml")
    theirs = actions(TEMPLATE / ".github/workflows/checks.yml")

    assert theirs
    assert theirs <= ours
    assert all(re.fullmatch(r"\S+@[0-9a-f]{40} # v[\d.]+", action) for action in ours)


def actions(workflow: Path) -> set[str]:
    return set(re.findall(r"uses: (.*)", workflow.read_text()))


def test_the_changelog_begins_with_the_version_of_the_bundled_part() -> None:
    (bundled,) = TEMPLATE.glob("src/*/tracking/__init__.py")
    (version,) = re.findall(r'^__version__ = "(.*)"$', bundled.read_text(), re.MULTILINE)
    sections = re.findall(r"^## (\S+)", (STARTER / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert sections[0] == version
    assert len(set(sections)) == len(sections)
