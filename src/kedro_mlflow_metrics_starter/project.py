"""A Kedro project that is there: where its parts are, and whether it can have metrics tracking."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import tomlkit
from packaging.requirements import Requirement
from tomlkit.exceptions import ParseError

from . import dependencies
from .refusal import Refusal
from .source import constant, imports, value_at, value_of

PYPROJECT = "pyproject.toml"
CATALOG_PATTERNS = ["catalog*", "catalog*/**", "**/catalog*"]  # Kedro's own
# Versions that a requirement may allow, to see whether it allows one that will do.
OF_KEDRO = [f"1.{minor}.{patch}" for minor in range(100) for patch in range(20)]
OF_MLFLOW = [f"3.{minor}.{patch}" for minor in range(7, 100) for patch in range(20)]
OLD_PYTHONS = [f"3.{minor}.{patch}" for minor in range(10) for patch in range(30)]


@dataclass(frozen=True)
class Project:
    """Paths are relative to the project's folder, with slashes."""

    path: Path
    pyproject: Mapping[str, Any]
    name: str  # of its package
    package: str  # its folder
    settings: ast.Module

    @property
    def conf(self) -> str:
        """The folder of its configuration."""
        value = value_of(self.settings, "CONF_SOURCE")
        return "conf" if value is None else _folder("CONF_SOURCE", value)

    @property
    def base(self) -> str:
        """The folder of the configuration that all environments share."""
        return (PurePosixPath(self.conf) / self.base_env).as_posix()

    @property
    def base_env(self) -> str:
        """The environment of that folder; nothing if it is the configuration's own."""
        return self._environment("base_env", "base")

    @property
    def run_env(self) -> str:
        """The environment of a run that names none; nothing if it is the base only."""
        return self._environment("default_run_env", "local")

    @property
    def catalog_patterns(self) -> list[str]:
        """The patterns by which Kedro finds the catalogs in an environment's folder."""
        arguments = value_of(self.settings, "CONFIG_LOADER_ARGS")
        given = value_at(value_at(arguments, "config_patterns"), "catalog")
        found = [text for node in ast.walk(given) if (text := constant(node))] if given else []
        return found or CATALOG_PATTERNS

    def _environment(self, name: str, default: str) -> str:
        """An argument of the config loader; the default is Kedro's for a project without any."""
        arguments = value_of(self.settings, "CONFIG_LOADER_ARGS")
        if arguments is None:
            return default
        if (value := value_at(arguments, name)) is not None:
            return _folder(f"CONFIG_LOADER_ARGS[{name!r}]", value)
        if not isinstance(arguments, ast.Dict) or None in arguments.keys:  # what ** brings
            raise Refusal(_UNREADABLE.format(f"CONFIG_LOADER_ARGS[{name!r}]", "a string"))
        return ""  # the config loader's own default

    @property
    def disabled_plugins(self) -> list[str]:
        """The plugins whose hooks its ``settings.py`` disables."""
        disabled = value_of(self.settings, "DISABLE_HOOKS_FOR_PLUGINS")
        return [text for node in ast.walk(disabled) if (text := constant(node))] if disabled else []

    def imports(self, module: str) -> bool:
        """Whether its ``settings.py`` imports this module, or something of it."""
        return imports(self.text(f"{self.package}/settings.py") or "", module)

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None if there is no such file."""
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def text(self, name: str) -> str | None:
        """A file's text.

        Raises:
            Refusal: It is not UTF-8.
        """
        content = self.read(name)
        try:
            return None if content is None else content.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError:
            raise Refusal(f"{name} is not UTF-8; save it as UTF-8.") from None

    def files(self, folder: str, pattern: str) -> list[str]:
        """Its files in a folder whose name is so."""
        found = sorted((self.path / folder).rglob(pattern))
        return [path.relative_to(self.path).as_posix() for path in found if path.is_file()]

    def configs(self, folder: str, start: str = "") -> list[str]:
        """Its files of configuration in a folder whose name begins so."""
        names = self.files(folder, f"{start}*")
        return [name for name in names if name.endswith((".yml", ".yaml", ".json"))]

    @property
    def sources(self) -> dict[str, str]:
        """The texts of the modules of its package, but for ``tracking/``."""
        names = self.files(self.package, "*.py")
        ours = f"{self.package}/tracking/"
        texts = {name: (self.read(name) or b"") for name in names if not name.startswith(ours)}
        return {name: text.decode("utf-8", "replace") for name, text in texts.items()}


def find_project(path: Path) -> Project:
    """The Kedro project in this folder.

    Raises:
        Refusal: There is none, or it is too old.
    """
    path = path.resolve()
    try:
        document = tomlkit.parse((path / PYPROJECT).read_text(encoding="utf-8-sig")).unwrap()
    except FileNotFoundError:
        raise Refusal(
            f"{path} is no Kedro project: it has no {PYPROJECT}; give the project's folder."
        ) from None
    except (ParseError, UnicodeDecodeError) as error:
        raise Refusal(f"{PYPROJECT} can't be read ({error}); correct it.") from None
    kedro = document.get("tool", {}).get("kedro", {})
    name, version = kedro.get("package_name"), str(kedro.get("kedro_init_version", ""))
    if not name:
        raise Refusal(
            f"{path} is no Kedro project: {PYPROJECT} has no [tool.kedro] with a package_name;"
            " give the project's folder."
        )
    if not re.match("1[.]", version):
        raise Refusal(
            f"The project is made for Kedro {version or '(unknown)'}, not for 1.x; bring it to"
            " Kedro 1 first, and set kedro_init_version in pyproject.toml"
            " (https://docs.kedro.org/en/stable/about/migration/)."
        )
    source = (path / kedro.get("source_dir", "src")).resolve()
    package = source / name.replace(".", "/")
    if not package.is_relative_to(path) or not (package / "settings.py").is_file():
        raise Refusal(
            f"There is no {source.name}/{name}/settings.py in {path}; correct package_name and"
            " source_dir below [tool.kedro] in pyproject.toml."
        )
    folder = package.relative_to(path).as_posix()
    return _checked(Project(path, document, name, folder, _parsed(package / "settings.py")))


_UNREADABLE = (
    "settings.py gives {} as an expression, which this command does not evaluate; write {} there."
)


def _folder(name: str, value: ast.expr) -> str:
    """The path, relative to its place, that a setting is given."""
    text = constant(value)
    if text is None:
        raise Refusal(_UNREADABLE.format(name, "a string"))
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise Refusal(f"settings.py: {name} is {text!r}, out of the project; give a folder in it.")
    return path.as_posix()


def _checked(project: Project) -> Project:
    listed = dependencies.listed(project.pyproject, project.text)
    for requirement in listed:
        for name, versions, wanted in (
            ("kedro", OF_KEDRO, "1.0 or later, below 2"),
            ("mlflow", OF_MLFLOW, "3.7 or later, below 4"),
        ):
            if requirement.name.lower() == name and not _allows(requirement, versions):
                raise Refusal(
                    f"The project requires {requirement}, and metrics tracking {name} {wanted};"
                    " change its dependencies first."
                )
    python = str(project.pyproject.get("project", {}).get("requires-python", ">=3.10"))
    has_mlflow = any(requirement.name.lower() == "mlflow" for requirement in listed)
    for allowed in () if has_mlflow else (dependencies.parsed(f"python{python}"), *listed):
        if allowed and allowed.name == "python" and _allows(allowed, OLD_PYTHONS):
            raise Refusal(
                f"The project allows Python below 3.10 ({allowed}), for which there is no"
                " MLflow 3.7; first set requires-python, or Poetry's python, to 3.10 or later in"
                f" {PYPROJECT}."
            )
    return project


def _allows(requirement: Requirement, versions: list[str]) -> bool:
    return requirement.url is not None or any(
        requirement.specifier.contains(version, prereleases=True) for version in versions
    )


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8-sig"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise Refusal(f"{path.name} can't be read ({error}); correct it.") from None
