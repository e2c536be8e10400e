"""A team's MLflow server: on PostgreSQL, with passwords and a store of artifacts."""

from __future__ import annotations

import os
import secrets
import sys

from databases import Postgres
from helpers import HttpProcess, free_port

ADMIN = "admin"
AUTH = """\
[mlflow]
default_permission = EDIT
database_uri = {database}
admin_username = {admin}
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# A password is checked in 0.1 to 0.3 s of computing; without this, at each request.
auth_cache_ttl_seconds = 60
auth_cache_max_size = 10000
"""


class TeamServer(HttpProcess):
    """`mlflow server` with basic auth, whose runs and users are in a PostgreSQL database."""

    def __init__(self, postgres: Postgres, port: int = 0, workers: int = 2) -> None:
        folder = postgres.folder / "mlflow"
        folder.mkdir(exist_ok=True)
        self.port = port or free_port()
        self.password = secrets.token_urlsafe()
        self.database = f"mlflow_{self.port}"
        users = f"users_{self.port}"
        postgres.execute(f"CREATE DATABASE {self.database}", f"CREATE DATABASE {users}")
        settings = folder / f"auth_{self.port}.ini"
        settings.touch(0o600)
        settings.write_text(
            AUTH.format(database=postgres.uri(users), admin=ADMIN, password=self.password)
        )
        command = [*(sys.executable, "-m", "mlflow", "server"), "--app-name=basic-auth"]
        command += ["--host=127.0.0.1", f"--port={self.port}", f"--workers={workers}"]
        command += [f"--artifacts-destination={folder / 'artifacts'}"]
        environment = {
            **os.environ,
            # The URI has the password, and a command line is for all to see.
            "MLFLOW_BACKEND_STORE_URI": postgres.uri(self.database),
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        url = f"http://127.0.0.1:{self.port}"
        super().__init__(command, url, folder / "log", folder, environment)
