"""The starter's template: what a project is given of it."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

import jinja2

from .entries import as_yaml

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


def tracking() -> Callable[[str], ModuleType]:
    """Imports modules of ``tracking/``: the wheel's package or, in a clone, the template's."""
    name = "kedro_mlflow_metrics"
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        spec = importlib.util.spec_from_file_location(name, TRACKING / "__init__.py")
        assert spec and spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return lambda module: importlib.import_module(f"{name}.{module}")


def files_in(folder: Path) -> dict[str, bytes]:
    """The files of text in a folder, by their path in it, with ``\\n`` at line ends; no caches."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().replace(b"\r\n", b"\n")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def named(text: bytes, tracking: str) -> bytes:
    """A text of the template with the name of the module that tracks."""
    return str(wiring().named(text.decode(), tracking)).encode()


def render(path: Path, **answers: str) -> str:
    """A file of the template as Cookiecutter renders it, with these answers."""
    environment = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    defaults = {"tracking_uri": "", "experiment": "", "separator": "."}
    text = path.read_text(encoding="utf-8")
    return environment.from_string(text).render(cookiecutter={**defaults, **answers})


def mlflow_yml(package: str, given: Mapping[str, str]) -> str:
    """The project's ``mlflow.yml``, with all settings and these values."""
    text = render(PROJECT / "conf/base/mlflow.yml", python_package=package)
    for key, value in given.items():
        line = f"{key}: {as_yaml(value)}"
        text = re.sub(rf"^# {key}: .*$", lambda _, new=line: new, text, flags=re.M)  # type: ignore[misc]
    return text


def known_settings() -> set[str]:
    """The keys that ``mlflow.yml`` may have."""
    return set(re.findall(r"^(?:# )?(\w+): ", mlflow_yml("", {}), flags=re.M))


def requirements(*, as_package: bool) -> dict[str, str]:
    """The lines of the template's ``requirements.txt``, by the name of what they require.

    As a package: what tracks, which requires the rest itself, and what the example does.
    """
    from .dependencies import name_of
    from .versions import this_version

    lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = {name: line for line in lines if (name := name_of(line))}
    if as_package:
        package = {wiring().DISTRIBUTION: str(wiring().required(this_version()))}
        return package | {"scikit-learn": wanted["scikit-learn"]}
    return wanted
