"""What a store's error means: who refused what, and what the user may do about it."""

from __future__ import annotations

import re
import sys
from enum import Enum
from typing import Any


class Problem(Enum):
    """A problem that no retry solves, except ``TOO_MANY``: its text, and what to do."""

    LOGIN = (
        "it refuses the login",
        "check user name and password, in 'tracking_uri' or for a tracking server in"
        " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    )
    RIGHTS = (
        "it does not permit this user to do that",
        "grant the user what is missing (for an SQL store SELECT, INSERT, UPDATE and DELETE, and"
        " CREATE before the first run), or log in as another",
    )
    MISSING = (
        "the database is not there",
        "create it (`CREATE DATABASE`), or mend its name at the end of 'tracking_uri'",
    )
    READ_ONLY = ("it is read-only", "make it writable, or set 'tracking_uri' to the primary server")
    FULL = ("it has no space left", "free some on the disk of the database server")
    TOO_MANY = (
        "it has no free connection",
        "close some of its connections or raise its limit of them",
    )
    TOO_LARGE = (
        "a proxy before it refuses a request of this size",
        "raise the proxy's limit (nginx: client_max_body_size)",
    )
    ANSWER = (
        "what answers there is not an MLflow server",
        "check the address and the path in 'tracking_uri', and a proxy or login page before it",
    )

    def __init__(self, text: str, todo: str) -> None:
        self.text = text
        self.todo = todo


# https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRES = {
    "28P01": Problem.LOGIN,
    "28000": Problem.LOGIN,
    "42501": Problem.RIGHTS,
    "3D000": Problem.MISSING,
    "25006": Problem.READ_ONLY,
    "53100": Problem.FULL,
    "53300": Problem.TOO_MANY,
}
# A refused connection has no SQLSTATE (libpq gives psycopg 3.3 and psycopg2 2.9 none), only the
# server's English message; a message in another language counts as an outage.
_POSTGRES_TEXTS = {
    r"authentication failed|no password supplied|no pg_hba\.conf entry": Problem.LOGIN,
    r'role ".*" (does not exist|is not permitted to log in)': Problem.LOGIN,
    r'database ".*" does not exist': Problem.MISSING,
    r"permission denied for database": Problem.RIGHTS,
    r"too many (clients|connections)|connection slots are reserved": Problem.TOO_MANY,
}
# https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference, also MySQL's
_MYSQL = {
    **dict.fromkeys((1045, 1130, 1251, 1698, 1862, 2059, 3118, 4151), Problem.LOGIN),
    **dict.fromkeys((1044, 1142, 1143, 1227, 1370), Problem.RIGHTS),
    1049: Problem.MISSING,
    **dict.fromkeys((1290, 1792, 1836), Problem.READ_ONLY),
    **dict.fromkeys((1021, 1114), Problem.FULL),
    **dict.fromkeys((1040, 1203, 1226), Problem.TOO_MANY),
}
# A server that ends or starts, a lost connection, a deadlock, a lock or a query that took too long.
_POSTGRES_TRANSIENT = ("08", "40", "53", "55P03", "57")
_MYSQL_TRANSIENT = {1053, 1205, 1213, 1317, 1927, 2002, 2003, 2006, 2013, 2055, 3024}


def driver_error(error: BaseException) -> Any:
    """The database driver's error in SQLAlchemy's or MLflow's; None: it is of no database."""
    sql, sqlite = sys.modules.get("sqlalchemy.exc"), sys.modules.get("sqlite3")
    for found in (error, error.__cause__):
        if sql and isinstance(found, sql.DBAPIError):
            return getattr(found, "orig", None) or found
        if sqlite and isinstance(found, sqlite.Error):
            return found
    return None


def database_problem(driver: BaseException) -> Problem | None:
    """The known problem that a database driver's error is a sign of, if any."""
    number, state, text = _code(driver)
    if number is not None:
        return _MYSQL.get(number)
    if state is not None:
        return _POSTGRES.get(state)
    for pattern, problem in _POSTGRES_TEXTS.items():
        if re.search(pattern, text):
            return problem
    return None


def is_transient_in_database(driver: BaseException) -> bool:
    """Whether a driver's error is transient."""
    number, state, text = _code(driver)
    sqlite = sys.modules.get("sqlite3")
    if sqlite and isinstance(driver, sqlite.Error):  # not a full disk, nor a read-only file
        return "locked" in text or "busy" in text
    if problem := database_problem(driver):
        return problem is Problem.TOO_MANY
    if number in _MYSQL_TRANSIENT:
        return True
    if state is not None:
        return state.startswith(_POSTGRES_TRANSIENT)
    # Error classes of Python's database API, https://peps.python.org/pep-0249/#exceptions: a
    # lost connection raises none of these.
    refused = {"IntegrityError", "DataError", "ProgrammingError", "NotSupportedError"}
    return not refused & {kind.__name__ for kind in type(driver).__mro__}


def is_lock_timeout(error: BaseException) -> bool:
    """Whether PostgreSQL gave up waiting for a lock."""
    driver = driver_error(error)
    return driver is not None and _code(driver)[1] == "55P03"


def driver_text(driver: BaseException) -> str:
    """The driver's message, in one line and without data of the user's."""
    number, _, text = _code(driver)
    text = text.strip().partition("\n")[0].rpartition(" failed: ")[2]
    if number == 1062:  # noqa: PLR2004
        return re.sub(r"Duplicate entry '.*' for key", "Duplicate entry for key", text)
    return text.removeprefix("FATAL:").strip()


def _code(driver: BaseException) -> tuple[int | None, str | None, str]:
    """MySQL's error number, or PostgreSQL's SQLSTATE, and the text."""
    first, *rest = driver.args or (None,)
    if isinstance(first, int):  # pymysql, mysqlclient
        return first, None, str(rest[0] if rest else first)
    state = getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None)  # psycopg2
    return None, state, str(driver)
