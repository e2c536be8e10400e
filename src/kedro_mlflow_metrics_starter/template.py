"""The starter's template: what a project is given of it."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import jinja2

HERE = Path(__file__).parent
# In the wheel the template lies beside this file, in a clone where Kedro finds it.
ROOT = HERE / "template" if (HERE / "template").is_dir() else HERE.parents[1]
PROJECT = ROOT / "{{ cookiecutter.repo_name }}"
PACKAGE = PROJECT / "src" / "{{ cookiecutter.python_package }}"
TRACKING = PACKAGE / "tracking"


@cache
def wiring() -> ModuleType:
    """The functions that wire a new project: ``hooks/post_gen_project.py``."""
    path = ROOT / "hooks" / "post_gen_project.py"
    spec = importlib.util.spec_from_file_location("kedro_mlflow_metrics_wiring", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files_in(folder: Path) -> dict[str, bytes]:
    """The files in a folder of the template, by their path in it; caches aside."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def render(path: Path, **answers: str) -> str:
    """A file of the template as Cookiecutter renders it, with these answers."""
    environment = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    defaults = {"tracking_uri": "", "experiment": "", "separator": ".", "__example": "no"}
    text = path.read_text(encoding="utf-8")
    return environment.from_string(text).render(cookiecutter={**defaults, **answers})


def requirements() -> dict[str, str]:
    """The lines of the template's ``requirements.txt``, by the name of what they require."""
    from .dependencies import name_of

    lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return {name: line for line in lines if (name := name_of(line))}
