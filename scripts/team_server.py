"""Runs a team's MLflow server on this machine, to try it out, until Ctrl-C; nothing stays."""

from __future__ import annotations

import argparse
import logging
import signal


def main() -> None:
    """Start PostgreSQL and MLflow's server, and say how a project uses them."""
    logging.disable(logging.INFO)  # Kedro's, about itself
    from databases import Postgres
    from team import ADMIN, TeamServer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5000)
    port = parser.parse_args().port
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        print("PostgreSQL and MLflow's server start, which takes half a minute ...", flush=True)
        with Postgres() as postgres, TeamServer(postgres, port) as server:
            print(
                f"It is {server.url}, with the user {ADMIN!r}. In a project:\n\n"
                "# conf/base/mlflow.yml\n"
                f"tracking_uri: {server.url}\n"
                "credentials: mlflow\n\n"
                "# conf/local/credentials.yml\n"
                f"mlflow: {{MLFLOW_TRACKING_USERNAME: {ADMIN},"
                f" MLFLOW_TRACKING_PASSWORD: {server.password}}}\n\n"
                "Ctrl-C ends it, and removes what it has stored.",
                flush=True,
            )
            server.running.wait()
            raise SystemExit(f"MLflow's server has ended:\n{server.output}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
