"""What ``adopt`` adds to the configuration of a project's own ruff, mypy and coverage."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from adopting import adopt, changes, commit, copy_of
from helpers import STARTER

from kedro_mlflow_metrics_starter import checks
from kedro_mlflow_metrics_starter.plan import Plan
from kedro_mlflow_metrics_starter.project import find_project

ROCKETS = STARTER / "tests" / "projects" / "rockets"
KEDRO = "[tool.kedro]\npackage_name = 'lab'\nkedro_init_version = '1.0.0'\n"
KEDRO_AND = "tool.kedro = {package_name = 'lab', kedro_init_version = '1.0.0'}\n"
OURS = {
    "ruff": {"extend-exclude": ["src/lab/tracking", "templates/pipeline"]},
    "coverage": {"run": {"omit": ["src/lab/tracking/*"]}},
    "mypy": {"overrides": [{"module": "lab.tracking.*", "ignore_errors": True}]},
}
OVERRIDES = "[tool.mypy]\noverrides = [\n  {module = 'a.*'}%s\n]\nstrict = true\n"

WRITTEN = [
    OVERRIDES % "",
    OVERRIDES % ",",
    OVERRIDES % ", # a\n  # and b",
    OVERRIDES % "\n  # a, [b]",
    "[tool.mypy]\nstrict = true\n\n[[tool.mypy.overrides]]\nmodule = 'a.*'\n\n[tool.a]\nb = 1\n",
    "[tool.mypy]\nstrict = true\n\n[other]\nx = 1\n\n[tool.a]\nb = 1\n",
    "[tool]\nmypy.strict = true\na.b = 1\n",
    "[tool]\nmypy.strict = true\nmypy.overrides = [{module = 'a.*'}]\na.b = 1\n",
    "[tool]\nmypy = {strict = true}\na.b = 1\n",
    "tool.mypy.strict = true\ntool.a.b = 1\n",
    "[tool.coverage.report]\nfail_under = 90\n\n[tool.a]\nb = 1\n",
    "[tool.coverage]\nreport.fail_under = 90\n\n[tool.a]\nb = 1\n",
    "[tool.coverage.run]\nomit = [\n  'a' # why\n  # and why not\n]\nbranch = true\n",
    "[tool.coverage.run]\nomit = ['a', # why\n]\nbranch = true\n",
    "[tool]\ncoverage.report.fail_under = 90\na.b = 1\n",
    "[tool]\ncoverage = {report = {fail_under = 90}}\na.b = 1\n",
    "[tool]\ncoverage = {run = {omit = ['a']}}\na.b = 1\n",
    "tool.coverage.report.fail_under = 90\ntool.a.b = 1\n",
    "[tool.ruff.lint]\nselect = ['ALL']\n\n[other]\nx = 1\n\n[tool.ruff.format]\nx = 1\n",
    "[tool.ruff]\nextend-exclude = [\n  '''a\n#''', \"#\" # why\n  # 'b'\n] # all\nx = 1\n",
    "[tool]\nruff.line-length = 99\na.b = 1\n",
    "[tool]\nruff = {}\na.b = 1\n",
]


def project_with(path: Path, pyproject: str) -> Plan:
    """A plan for a project that has no more than this ``pyproject.toml``."""
    (path / "src/lab").mkdir(parents=True)
    (path / "src/lab/settings.py").touch()
    (path / "pyproject.toml").write_text(pyproject)
    return Plan(find_project(path))


def with_ours(there: Any, ours: Any) -> Any:
    """Data, and at the ends of its lists our own."""
    if isinstance(ours, dict):
        more = {key: with_ours(there.get(key, type(value)()), value) for key, value in ours.items()}
        return {**there, **more}
    return [*there, *ours] if isinstance(ours, list) else ours


def loaded(text: str) -> dict[str, Any]:
    """What a text of TOML says, also to Python's own reader."""
    data: dict[str, Any] = tomlkit.parse(text).unwrap()
    if sys.version_info >= (3, 11):
        import tomllib

        assert tomllib.loads(text) == data
    return data


@pytest.mark.parametrize("text", WRITTEN)
def test_tools_leave_ours_out_however_they_are_configured(text: str, tmp_path: Path) -> None:
    before = KEDRO_AND + text if text.startswith("tool.") else f"{text}\n{KEDRO}"
    plan = project_with(tmp_path, before)

    checks.leave_out(plan)

    data = loaded(before)
    ours = {tool: value for tool, value in OURS.items() if tool in data["tool"]}
    after = plan.text("pyproject.toml") or ""
    assert loaded(after) == with_ours(data, {"tool": ours})
    assert plan.remarks == []
    assert all(comment in after for comment in re.findall("# .*", before))
    checks.leave_out(plan)
    assert plan.text("pyproject.toml") == after


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.ruff]\nextend-exclude = 'a'\n", "[tool.ruff] extend-exclude = "),
        ("[tool.coverage]\nrun = 1\n", '[tool.coverage.run] omit = ["src/lab/tracking/*"]'),
        (
            "[tool.mypy]\noverrides = 1\n",
            '[tool.mypy] overrides = [{module = "lab.tracking.*", ignore_errors = true}]',
        ),
    ],
)
def test_what_cannot_be_added_is_left_to_the_owner(text: str, said: str, tmp_path: Path) -> None:
    plan = project_with(tmp_path, text + KEDRO)

    checks.leave_out(plan)

    (remark,) = plan.remarks
    assert remark.startswith("pyproject.toml is written in a way that this command can't add to")
    assert said in remark
    assert plan.files == {}


def test_an_adopted_project_can_be_read_and_says_the_rest(tmp_path: Path) -> None:
    path = copy_of(ROCKETS, tmp_path)
    with (path / "pyproject.toml").open("a") as pyproject:
        pyproject.write(f"\n{OVERRIDES % ','}\n[tool.ruff]\nextend-exclude = 'a'\n")
    commit(path)

    said = adopt(path)

    assert 'extend-exclude = ["src/rockets/tracking", "templates/pipeline"]' in said
    assert changes(path)[0] == []
    tools = loaded((path / "pyproject.toml").read_text())["tool"]
    assert tools["mypy"]["overrides"][1] == {"module": "rockets.tracking.*", "ignore_errors": True}
    assert adopt(path, "--force") == "Nothing to do.\n"
