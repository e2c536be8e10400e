"""Measures the starter against kedro-mlflow and against the least that MLflow itself takes.

``make bench`` makes the two environments and runs this. What is compared is measured in turn, in
processes of its own; each figure is a median, each ratio is of two medians of this run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
WORK = Path(".bench").resolve()
OURS, PEER = WORK / "env-ours" / "bin", WORK / "env-peer" / "bin"
ENVIRONMENT = {**os.environ, "DO_NOT_TRACK": "true", "PYTHONPATH": str(WORK / "ours" / "src")}
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)

PEER_CATALOG = """
"{{name}}_metrics": {{type: kedro_mlflow.io.metrics.MlflowMetricsHistoryDataset}}
one_metrics: {{type: kedro_mlflow.io.metrics.MlflowMetricsHistoryDataset, prefix: one_metrics}}
"""


def call(*command: str | Path, cwd: Path = WORK) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def make_projects() -> None:
    """The starter's project, a bare one of Kedro's own template, and one with kedro-mlflow."""
    answers = WORK / "answers.yml"
    answers.write_text("project_name: Ours\ninclude_example: no\n")
    call(OURS / "kedro", "new", f"--starter={HERE.parent}", f"--config={answers}")
    for name in ("Bare", "Peer"):
        call(OURS / "kedro", "new", "--name", name, "--tools=none", "--example=no")
    for name in ("ours", "bare", "peer"):
        for pipeline in (HERE / "pipelines").glob("*.py"):
            folder = WORK / name / "src" / name / "pipelines" / pipeline.stem
            folder.mkdir(parents=True)
            shutil.copy(pipeline, folder / "__init__.py")
    (WORK / "peer/conf/base/catalog.yml").write_text(PEER_CATALOG.format())
    (WORK / "peer/conf/base/mlflow.yml").write_text(
        f"server:\n  mlflow_tracking_uri: sqlite:///{WORK}/peer/mlflow.db\n"
    )
    (WORK / "bare/src/bare/hooks.py").write_text(BARE_HOOK)
    settings = WORK / "bare/src/bare/settings.py"
    settings.write_text(settings.read_text() + BARE_SETTINGS)
    shutil.copy(new_store(), WORK / "ours/mlflow.db")
    shutil.copy(new_store(), WORK / "peer/mlflow.db")
    shutil.copy(new_store(), WORK / "bare/mlflow.db")


# The least that a hook can do: import MLflow, and open its store.
BARE_HOOK = """
from kedro.framework.hooks import hook_impl


class Floor:
    @hook_impl
    def before_pipeline_run(self):
        from mlflow import MlflowClient

        MlflowClient("sqlite:///mlflow.db").get_experiment("0")
"""
BARE_SETTINGS = """
import os

if os.environ.get("FLOOR"):
    from bare.hooks import Floor

    HOOKS = (Floor(),)
"""


def new_store() -> Path:
    empty = WORK / "empty.db"
    if not empty.exists():
        create = "from mlflow import MlflowClient; MlflowClient({!r}).get_experiment('0')"
        call(OURS / "python", "-c", create.format(f"sqlite:///{empty}"))
    return Path(shutil.copy(empty, WORK / "store.db"))


def case(name: str, who: str, store: str | None = None) -> dict[str, float]:
    """One case in a process of its own, on a new SQLite store or on this one."""
    store = store or f"sqlite:///{new_store()}"
    python = (PEER if who == "peer" else OURS) / "python"
    folder = WORK / ("peer" if who == "peer" else "ours")
    printed = call(python, HERE / "cases.py", name, who, store, cwd=folder)
    result: dict[str, float] = json.loads(printed.partition("RESULT")[2])
    return result


def timed(*command: str | Path, cwd: Path) -> dict[str, float]:
    start = time.perf_counter()
    call(*command, cwd=cwd)
    return {"seconds": time.perf_counter() - start}


@contextmanager
def server() -> Iterator[str]:
    """A real `mlflow server` on loopback; it ends with its measurement."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            OURS / "mlflow",
            "server",
            "--host=127.0.0.1",
            f"--port={port}",
            "--workers=1",
            f"--backend-store-uri=sqlite:///{new_store()}",
        ],
        cwd=WORK,
        # Without the dozen processes for jobs of MLflow's own.
        env=ENVIRONMENT | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/health").close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # MLflow's own process leaves its uvicorn
        process.wait()


Measure = Callable[[], dict[str, float]]

# The least that a save to a server can take: the server's own work.
POST = "a POST of the same JSON with `requests`"


def compare(
    work: str, ours: Measure, other: Measure, times: int, key: str = "seconds"
) -> tuple[float, float]:
    """Medians of both, measured in turn."""
    pairs = [(ours()[key], other()[key]) for _ in range(times)]
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"  {work}: {a:.3f} against {b:.3f}", file=sys.stderr, flush=True)
    return a, b


def faster(work: str, against: str, pair: tuple[float, float], wanted: float) -> str:
    a, b = pair
    return f"| {work} | {against} | {a:.2f} s | {b:.2f} s | {b / a:.1f} times faster | {wanted:g} |"


def of_time(work: str, against: str, pair: tuple[float, float], wanted: float) -> str:
    a, b = pair
    return (
        f"| {work} | {against} | {a:.2f} s | {b:.2f} s | {a / b:.2f} of its time | {wanted:.2f} |"
    )


def configure(folder: str, line: str) -> None:
    path = WORK / folder / "conf" / "local" / "mlflow.yml"
    path.write_text(line)


def saves(times: int) -> Iterator[str]:
    yield faster(
        "save 10,000 points, SQLite",
        "kedro-mlflow",
        compare("10k peer", lambda: case("save-10k", "ours"), lambda: case("save-10k", "peer"), 3),
        40,
    )
    yield of_time(
        "the same",
        "`log_batch`",
        compare(
            "10k floor", lambda: case("save-10k", "ours"), lambda: case("save-10k", "floor"), times
        ),
        1.10,
    )
    with server() as url:
        yield faster(
            "save 500 points, `mlflow server`",
            "kedro-mlflow",
            compare(
                "500 peer",
                lambda: case("save-500", "ours", url),
                lambda: case("save-500", "peer", url),
                3,
            ),
            40,
        )
        for against, who, wanted in (("`log_batch`", "floor", 1.10), (POST, "post", 1.25)):
            yield of_time(
                "the same",
                against,
                compare(
                    f"500 {who}",
                    lambda: case("save-500", "ours", url),
                    lambda who=who: case("save-500", who, url),  # type: ignore[misc]
                    times,
                ),
                wanted,
            )


def streams(times: int) -> Iterator[str]:
    with server() as url:
        configure("ours", f"tracking_uri: {url}\n")
        yield faster(
            "a generator node, 1,000 yields of 3 metrics, `mlflow server`",
            "one `log_batch` per yield",
            compare(
                "stream http", lambda: case("stream", "ours"), lambda: case("stream", "floor"), 3
            ),
            10,
        )
        yield of_time(
            "the same",
            "Kedro's thousand saves to memory, then 3 requests",
            compare(
                "stream least", lambda: case("stream", "ours"), lambda: case("stream", "least"), 5
            ),
            1.5,
        )
    configure("ours", f"tracking_uri: sqlite:///{WORK}/store.db\n")
    yield faster(
        "the same, SQLite",
        "one `log_batch` per yield",
        compare("stream", lambda: case("stream", "ours"), lambda: case("stream", "floor"), 3),
        10,
    )
    yield faster(
        "200 metrics datasets of 10 points, ThreadRunner",
        "kedro-mlflow",
        compare("many", lambda: case("many", "ours"), lambda: case("many", "peer"), 3),
        10,
    )


def loads(times: int) -> Iterator[str]:
    for name, work in (
        ("load-200x100", "load 200 keys of 100 points"),
        ("load-1x100k", "load 1 key of 100,000 points"),
    ):
        yield of_time(
            work,
            "a loop of `get_metric_history`",
            compare(name, lambda n=name: case(n, "ours"), lambda n=name: case(n, "floor"), times),  # type: ignore[misc]
            1.0,
        )


def arrays(times: int) -> Iterator[str]:
    small = compare(
        "100k", lambda: case("array-100k", "ours"), lambda: case("array-100k", "floor"), 3
    )
    yield of_time("save 100,000 points of an array, SQLite", "`log_batch`", small, 1.15)
    large = case("array-1m", "ours"), case("array-1m", "floor")
    pair = large[0]["seconds"], large[1]["seconds"]
    yield of_time("save 1,000,000 points of an array, SQLite", "`log_batch`", pair, 1.15)
    yield of_time("the same, a point", "that at 100,000", (pair[0], small[0] * 10), 1.15)
    memory = large[0]["mebibytes"]
    yield f"| the same, peak memory over the input | | {memory:.0f} MiB | | | 100 MiB |"


def commands(times: int) -> Iterator[str]:
    own, bare, peer = (WORK / name for name in ("ours", "bare", "peer"))
    kedro, peer_kedro = OURS / "kedro", PEER / "kedro"

    def ours(*arguments: str) -> Measure:
        return lambda: timed(kedro, *arguments, cwd=own)

    def floor(*arguments: str) -> Measure:
        return lambda: timed("env", "FLOOR=1", kedro, *arguments, cwd=bare)

    def plain(*arguments: str) -> Measure:
        return lambda: timed(kedro, *arguments, cwd=bare)

    listing = ("registry", "list")
    yield of_time(
        "`kedro registry list`",
        "bare Kedro",
        compare("registry", ours(*listing), plain(*listing), times),
        1.05,
    )
    run = ("run", "--pipelines=plain")
    yield of_time(
        "`kedro run` without metrics",
        "bare Kedro",
        compare("plain run", ours(*run), plain(*run), times),
        1.05,
    )
    configure("ours", f"tracking_uri: sqlite:///{WORK}/ours/mlflow.db\n")
    run = ("run", "--pipelines=one")
    yield of_time(
        "tracked `kedro run` of one node",
        "kedro-mlflow",
        compare("one peer", ours(*run), lambda: timed(peer_kedro, *run, cwd=peer), times),
        1.00,
    )
    yield of_time(
        "the same",
        "bare Kedro, MLflow imported, its store opened",
        compare("one floor", ours(*run), floor(*run), times),
        1.10,
    )
    new = WORK / "new"

    def create(*options: str) -> Measure:
        def make() -> dict[str, float]:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            return timed(kedro, "new", "--name=New", *options, cwd=new)

        return make

    starter = create(f"--starter={HERE.parent}")
    template = create("--tools=none", "--example=no")
    yield of_time(
        "`kedro new --starter=<folder>`",
        "Kedro's own template",
        compare("new", starter, template, times),
        1.5,
    )
    entries = "".join(f"e{i}: {{type: kedro.io.MemoryDataset}}\n" for i in range(5000))
    for project in (own, bare):
        with (project / "conf/base/catalog.yml").open("a") as catalog:
            catalog.write("\n" + entries)
    a, b = compare(
        "5000", ours("run", "--pipelines=three"), plain("run", "--pipelines=three"), times
    )
    yield (
        "| a catalog of 5,000 entries, a pipeline that uses 3 | without the hook"
        f" | {a:.2f} s | {b:.2f} s | {(a - b) * 1000:+.0f} ms | 50 ms |"
    )


def reports(times: int) -> Iterator[str]:
    """What one sees: Kedro's log, and `kedro metrics` on a store with many runs."""
    configure("ours", f"tracking_uri: sqlite:///{WORK}/store.db\n")
    for work, key, wanted in (
        ("a generator node, 1,000 yields of 3 metrics, with Kedro's log", "nodes", 0.25),
        # Whose floor, to write 3,000 points, Kedro has not: see the row of the 3 requests.
        ("the same, and the end of its run", "seconds", 0.50),
    ):
        yield of_time(
            work,
            "Kedro, with a dataset that does nothing",
            compare(
                f"logged {key}",
                lambda: case("logged-stream", "ours"),
                lambda: case("logged-stream", "nothing"),
                times,
                key,
            ),
            wanted,
        )
    own = WORK / "ours"
    catalog = own / "conf/base/catalog.yml"
    catalog.write_text(catalog.read_text() + RULES)
    uri = f"sqlite:///{new_store()}"
    configure("ours", f"tracking_uri: {uri}\n")
    call(OURS / "python", HERE / "runs.py", uri)
    search = f"from mlflow import MlflowClient; MlflowClient({uri!r}).search_runs(['1'])"

    def floor() -> dict[str, float]:
        return timed(OURS / "python", "-c", search, cwd=own)

    for command in (("show",), ("compare",), ("check",)):
        yield of_time(
            f"`kedro metrics {command[0]}`, 1,000 runs of 50 keys",
            "MLflow's import and one `search_runs` of them",
            compare(
                command[0],
                lambda command=command: timed(OURS / "kedro", "metrics", *command, cwd=own),  # type: ignore[misc]
                floor,
                times,
            ),
            1.5,
        )


RULES = """
k_metrics:
  type: ours.tracking.MlflowMetricsDataset
  metrics:
    "k*": {greater_is_better: true, threshold: -10, max_regression: 10}
"""

PARTS = {
    "saves": saves,
    "streams": streams,
    "loads": loads,
    "commands": commands,
    "arrays": arrays,
    "reports": reports,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="measurements of each")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    make_projects()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()};")
    names = ("kedro", "mlflow", "kedro-mlflow")
    print(", ".join(f"{name} {peer_version(name)}" for name in names) + "\n")
    print("| work | against | ours | theirs | ratio | wanted |")
    print("| --- | --- | --- | --- | --- | --- |")
    for part in options.only:
        for row in PARTS[part](options.times):
            print(row, flush=True)


def peer_version(name: str) -> str:
    code = f"from importlib.metadata import version; print(version({name!r}))"
    return call(PEER / "python", "-c", code).strip()


if __name__ == "__main__":
    main()
