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

MAX_NAME_LENGTH = 100  # a file system takes 255 bytes, and a path is more than one name
MAX_EXPERIMENT_LENGTH = 500  # MLflow's
# A package of such a name would hide what the project itself imports or installs, or require
# itself, and a folder of such a name would give the project's command that name.
NEEDED = """
    aiohappyeyeballs aiohttp aiosignal airflow alembic annotated_doc annotated_types antlr4
    antlr4_python3_runtime anyio appdirs appnope arrow ast_serialize asttokens async_timeout attr
    attrs backports_zoneinfo binaryornot blinker build cachetools certifi cffi cfgv
    charset_normalizer click cloudpickle colorama comm conf contourpy cookiecutter cryptography
    cycler dask databricks databricks_sdk dateutil debugpy distlib distributed docker dotenv
    dynaconf exceptiongroup executing fastapi filelock flask flask_cors fonttools frozenlist fsspec
    git gitdb gitpython google google_auth graphene graphql graphql_core graphql_relay greenlet
    gunicorn h11 huey identify idna importlib_metadata iniconfig ipykernel ipython
    ipython_pygments_lexers itsdangerous jedi jinja2 joblib jupyter jupyter_client jupyter_core
    kedro kedro_mlflow_metrics kedro_telemetry kiwisolver librt locket mako markdown_it_py
    markupsafe matplotlib matplotlib_inline mdurl mlflow mlflow_skinny mlflow_tracing more_itertools
    mpl_toolkits msgpack multidict mypy mypy_extensions narwhals nest_asyncio2 nodeenv numpy
    omegaconf opentelemetry opentelemetry_api opentelemetry_proto opentelemetry_sdk
    opentelemetry_semantic_conventions packaging pandas parse parso partd pathspec pexpect pil
    pillow pip platformdirs pluggy pre_commit prettytable prompt_toolkit propcache protobuf psutil
    ptyprocess pure_eval pyarrow pyasn1 pyasn1_modules pycparser pydantic pydantic_core
    pydevd_plugins pygments pylab pyparsing pyproject_hooks pytest python python_dateutil
    python_discovery python_dotenv python_slugify pytz pywin32 pyyaml pyzmq requests rich ruff
    scikit_learn scipy setuptools six sklearn skops slugify smmap sortedcontainers sqlalchemy
    sqlparse stack_data starlette tblib test tests text_unidecode threadpoolctl tlz tomli tomli_w
    toolz tornado traitlets typing_extensions typing_inspection tzdata urllib3 uvicorn
    vendor_licenses virtualenv waitress wcwidth werkzeug wheel yaml yarl zict zipp zmq
"""


def main() -> None:
    """Check the rendered answers; end the process at the first that is refused."""
    if refusal := refuse(json.loads(ANSWERS)):
        sys.exit(f"Refused: {refusal}")


def refuse(answers: Mapping[str, object]) -> str | None:
    """The first thing that is wrong with the answers, in one sentence, or None."""
    checks = {
        "project_name": _project_name,
        "python_package": _python_package,
        "repo_name": _repo_name,
        "include_example": _include_example,
        "tracking": _tracking,
        "tracking_uri": _tracking_uri,
        "experiment": _experiment,
        "separator": _separator,
        "ci": _ci,
        "distributed": _distributed,
        "kedro_version": _kedro_version,
    }
    for key, check in checks.items():
        value = answers.get(key, {})  # cookiecutter leaves mappings out
        if value is None:
            value = ""
        elif isinstance(value, bool) and key == "include_example":  # YAML's yes and no
            value = str(value)
        if not isinstance(value, str):
            return f"{key} is {value!r}, which is not text; put it in quotes."
        if refusal := check(value):
            return refusal
    return None


def _project_name(value: str) -> str | None:
    if re.fullmatch(r"[^\W_][\w -]+", value):  # as Kedro's own rule, which allows an end of line
        return None
    return (
        f"the project name {value!r} is not made of two or more letters, digits, spaces, hyphens"
        " and underscores, a letter or digit first; choose another project_name."
    )


def _python_package(value: str) -> str | None:
    name = r"[A-Za-z](?:[A-Za-z0-9_]*[A-Za-z0-9])?"
    if not re.fullmatch(name, value) or len(value) > MAX_NAME_LENGTH:
        rule = (
            f"is not an identifier of at most {MAX_NAME_LENGTH} ASCII letters, digits and"
            " underscores that begins with a letter and ends with a letter or a digit"
        )
    elif keyword.iskeyword(value) or keyword.issoftkeyword(value):
        rule = "is a keyword of Python"
    elif value in sys.stdlib_module_names:
        rule = "is a module of Python's standard library"
    elif re.sub("_+", "_", value.lower()) in NEEDED.split():  # as indexes compare names
        rule = "is a name that the project itself needs"
    else:
        return None
    return f"the Python package name {value!r} {rule}; set another project_name or python_package."


def _repo_name(value: str) -> str | None:
    name = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
    if not re.fullmatch(name, value) or len(value) > MAX_NAME_LENGTH:
        rule = (
            f"is not one folder's name of at most {MAX_NAME_LENGTH} letters, digits, dots, hyphens"
            " and underscores that begins and ends with a letter or a digit"
        )
    elif value.lower() in NEEDED.split():
        rule = "is a name that the project itself needs"
    else:
        return None
    return (
        f"the repo name {value!r} {rule}; set another repo_name, and the folder above it with"
        " output_dir."
    )


def _include_example(value: str) -> str | None:
    if value.lower() in ("yes", "no", "y", "n", "true", "false"):
        return None
    return f"include_example is {value!r}, which is not yes or no; choose one of them."


def _separator(value: str) -> str | None:
    if value in (".", "/"):
        return None
    return f"separator is {value!r}, which is not '.' or '/'; choose one of them."


def _distributed(value: str) -> str | None:
    if value in ("none", "dask"):
        return None
    return f"distributed is {value!r}, which is not 'none' or 'dask'; choose one of them."


def _tracking(value: str) -> str | None:
    if value in ("bundled", "package"):
        return None
    return f"tracking is {value!r}, which is not bundled or package; choose one of them."


def _ci(value: str) -> str | None:
    if value in ("none", "github"):
        return None
    return f"ci is {value!r}, which is not none or github; choose one of them."


def _tracking_uri(value: str) -> str | None:
    uri = r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'{}<>\\]+"
    if value in ("", "databricks") or (re.fullmatch(uri, value) and value.isprintable()):
        return None
    return (
        f"tracking_uri is {value!r}, which is not a URI such as sqlite:///mlflow.db or"
        " http://127.0.0.1:5000; correct it, or leave it empty for mlflow.db in the project."
    )


def _experiment(value: str) -> str | None:
    line = value.isprintable() and value == value.strip() and len(value) <= MAX_EXPERIMENT_LENGTH
    if line and "${" not in value:  # which Kedro's configuration would fill in
        return None
    return (
        f"experiment is {value[:60]!r}, which is not a line of at most {MAX_EXPERIMENT_LENGTH}"
        " printable characters without '${'; correct it, or leave it empty for the package's name."
    )


def _kedro_version(value: str) -> str | None:
    if re.fullmatch(r"[0-9]+(\.[A-Za-z0-9+-]+)*", value):
        return None
    return f"kedro_version is {value!r}, which is not a version such as 1.7.0; leave it out."


if __name__ == "__main__":
    main()
