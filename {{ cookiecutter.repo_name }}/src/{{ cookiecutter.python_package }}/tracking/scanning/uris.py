"""The URIs of stores: which MLflow knows, and how that of an SQLite file is written."""

import re
from importlib.metadata import entry_points, version
from pathlib import Path
from urllib.parse import quote, unquote

import click

SQLITE = "sqlite:///"
# Of MLflow 3.17 (mlflow.tracking._tracking_service.utils); "" is a plain path. Plugins have others.
SCHEMES = "", "file", "http", "https", "databricks", "sqlite", "postgresql", "mysql", "mssql"
STORE_PLUGINS = "mlflow.tracking_store"  # their entry point, whose names are schemes


def uri_problem(uri: str) -> str | None:
    """What is wrong with a store's URI, as far as that can be seen without MLflow."""
    found = re.match(r"([\w.+-]{2,}):", uri)  # one letter is a drive
    scheme = found[1].lower().partition("+")[0] if found else ""
    if uri in ("databricks-uc", "uc"):  # model registries, which MLflow takes for schemes, too
        scheme = uri
    if scheme not in SCHEMES and scheme not in entry_points(group=STORE_PLUGINS).names:
        return (
            "it is sqlite:///mlflow.db, http(s)://host:port, databricks, a URI of postgresql, mysql"
            " or mssql, or of a scheme that a plugin of MLflow adds"
        )
    in_file = re.match(r"sqlite:///(?!:memory:|file:)[^?]+(?!.*\bmode=memory)", uri)
    if scheme == "sqlite" and not in_file:  # in memory each thread and process would have its own
        return "an SQLite store is a file, such as sqlite:///mlflow.db"
    return None


def sqlite_uri(path: Path) -> str:
    """The URI of an SQLite file; a ClickException if SQLAlchemy, below 2.1, has none for it."""
    text = path.as_posix()
    odd = re.search("[%?]", text)
    if odd and _decodes_percent():
        # MLflow 3.17 creates the folder that the encoded text names. With slashes encoded, too,
        # that is the folder above the first odd name, which exists.
        start = text.rfind("/", 0, odd.start()) + 1
        text = text[:start] + quote(text[start:], safe=" ")
    elif "?" in text:
        raise click.ClickException(
            f"The path {text} has a '?', where SQLite's URIs end; rename the folder or set"
            " 'tracking_uri' in mlflow.yml to another path, or install sqlalchemy>=2.1."
        )
    return SQLITE + text


def absolute(uri: str, folder: Path) -> str:
    """The URI, with the path of an SQLite file taken from a folder."""
    path, *query = uri.removeprefix(SQLITE).partition("?")
    if not uri.startswith(SQLITE) or path.startswith((":memory:", "file:")):
        return uri
    return sqlite_uri(folder / decoded(path)) + "".join(query)


def decoded(path: str) -> str:
    """The path in an SQLite URI, as SQLAlchemy reads it."""
    return unquote(path) if "%" in path and _decodes_percent() else path


def _decodes_percent() -> bool:
    """SQLAlchemy reads ``%25`` in a database's name as ``%`` from 2.1 on."""
    return tuple(map(int, version("sqlalchemy").split(".")[:2])) >= (2, 1)


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite store; None for any other store."""
    path = uri.removeprefix(SQLITE).partition("?")[0]
    return Path(decoded(path)) if uri.startswith(SQLITE) and path != ":memory:" else None


# Where `kedro metrics ui` and `mlflow ui` serve, unless a port is given.
LOCAL_PAGE = "http://127.0.0.1:5000"
# MLflow's UI, from 3.15 on, opens in a view that shows no runs; earlier ones ignore this.
VIEW = "workflowType=machine_learning"


def charts(tracking_uri: str, experiment: str, run_id: str, options: str) -> list[str]:
    """Where a run's charts are: what to do, and the page; nothing where that is not known.

    ``options`` are those of the command that serves the page.
    """
    page = f"#/experiments/{experiment}/runs/{run_id}/model-metrics?{VIEW}"
    if tracking_uri.startswith("http"):
        return ["Its charts:", f"{tracking_uri.rstrip('/')}/{page}"]
    if "://" in tracking_uri:  # a database, or a folder by file://
        return [f"Its charts, with `kedro metrics ui{options}`:", f"{LOCAL_PAGE}/{page}"]
    return []
