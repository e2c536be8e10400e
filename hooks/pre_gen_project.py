"""Refuses answers that would make a project that does not work.

Cookiecutter renders this file and runs the copy before it renders the project: each refusal is
one sentence (the value, the rule, the way out) and exit status 1, and nothing is left on disk.
"""

from __future__ import annotations

import json
import keyword
import re
import sys
from collections.abc import Mapping

# The answers as JSON, in which Jinja's tojson has escaped every single quote: nothing can leave
# this string.
ANSWERS = r'{{ cookiecutter.__answers }}'  # fmt: skip

MAX_EXPERIMENT_LENGTH = 500  # MLflow's
YES_NO = ("yes", "no", "y", "n", "true", "false")
SEPARATORS = (".", "/")
# What the project itself imports: a package of the same name would hide it.
DEPENDENCIES = ("kedro", "mlflow", "numpy", "sklearn", "tests", "conf")


def main() -> None:
    """Check the rendered answers; end the process at the first that is refused."""
    if refusal := refuse(json.loads(ANSWERS)):
        sys.exit(f"Refused: {refusal}")


def refuse(answers: Mapping[str, object]) -> str | None:
    """The first thing that is wrong with the answers, in one sentence, or None."""
    given = {key: str(value) for key, value in answers.items()}
    checks = [
        _project_name(given["project_name"]),
        _repo_name(given["repo_name"]),
        _python_package(given["python_package"]),
        _choice("include_example", given["include_example"].lower(), YES_NO, "yes or no"),
        _tracking_uri(given["tracking_uri"]),
        _experiment(given["experiment"]),
        _choice("separator", given["separator"], SEPARATORS, "'.' or '/'"),
        _kedro_version(given["kedro_version"]),
    ]
    return next(filter(None, checks), None)


def _project_name(value: str) -> str | None:
    if re.fullmatch(r"[^\W_][\w -]+", value):  # as Kedro's own rule, which allows an end of line
        return None
    return (
        f"the project name {value!r} is not made of two or more letters, digits, spaces, hyphens"
        " and underscores, a letter or digit first; choose another project_name."
    )


def _repo_name(value: str) -> str | None:
    if re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", value):
        return None
    return (
        f"the repo name {value!r} is not one folder's name of letters, digits, dots, hyphens and"
        " underscores; set another repo_name, and the folder above it with output_dir."
    )


def _python_package(value: str) -> str | None:
    if not re.fullmatch(r"[A-Za-z](?:[A-Za-z0-9_]*[A-Za-z0-9])?", value):
        rule = (
            "is not an identifier of ASCII letters, digits and underscores that begins with a"
            " letter and ends with a letter or a digit"
        )
    elif keyword.iskeyword(value) or keyword.issoftkeyword(value):
        rule = "is a keyword of Python"
    elif value in sys.stdlib_module_names:
        rule = "is a module of Python's standard library"
    elif value in DEPENDENCIES:
        rule = "is a name that the project itself needs"
    else:
        return None
    return f"the Python package name {value!r} {rule}; set another project_name or python_package."


def _choice(key: str, value: str, allowed: tuple[str, ...], told: str) -> str | None:
    if value in allowed:
        return None
    return f"{key} is {value!r}, which is not {told}; choose one of them."


def _tracking_uri(value: str) -> str | None:
    uri = r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'{}<>\\]+"
    if value in ("", "databricks") or (re.fullmatch(uri, value) and value.isprintable()):
        return None
    return (
        f"tracking_uri is {value!r}, which is not a URI such as sqlite:///mlflow.db or"
        " http://127.0.0.1:5000; correct it, or leave it empty for mlflow.db in the project."
    )


def _experiment(value: str) -> str | None:
    if value.isprintable() and len(value) <= MAX_EXPERIMENT_LENGTH and value == value.strip():
        return None
    return (
        f"experiment is {value[:60]!r}, which is not a line of at most 500 printable characters;"
        " correct it, or leave it empty for the package's name."
    )


def _kedro_version(value: str) -> str | None:
    if re.fullmatch(r"\d+(\.\w+)*", value):
        return None
    return f"kedro_version is {value!r}, which is not a version such as 1.7.0; leave it out."


if __name__ == "__main__":
    main()
