"""What tracks as the package ``kedro_mlflow_metrics``, as the wheel has it, for all of a test run.

Python imports this file at its start if its folder is in PYTHONPATH. The modules are those of the
template; tests, which are the same for a bundled ``tracking/``, find them under its name, too.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location, spec_from_loader
from pathlib import Path
from types import ModuleType

NAME = "kedro_mlflow_metrics"
BUNDLED = re.compile(r"(lab|my_project)\.tracking(?=\.|$)")  # in the tests' projects
TEMPLATE = Path(__file__).parents[2] / "{{ cookiecutter.repo_name }}"
TRACKING = TEMPLATE / "src" / "{{ cookiecutter.python_package }}" / "tracking"


class Finder(MetaPathFinder):
    """Finds the package, and its modules under their other name."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == NAME:
            return spec_from_file_location(name, TRACKING / "__init__.py")
        same, others = BUNDLED.subn(NAME, name)
        return spec_from_loader(name, Same(same)) if others else None


class Same(Loader):
    """Loads a module that has another name, as it is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.name)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # what is made of the other one has taken its place


sys.meta_path.insert(0, Finder())
