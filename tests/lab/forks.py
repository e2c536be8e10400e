"""A node that forks a process, which ends as the parameter ``child`` says."""

import os
import signal
import sys

from kedro.pipeline import Node, Pipeline


def measure() -> tuple[dict[str, float], bool]:
    return {"score": 0.5}, True


def fork(measured: bool, child: str) -> dict[str, float]:
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writer, b"forked")
        if child == "exit":
            sys.exit(7)  # through all of Kedro, and Python's exit handlers
        while True:
            signal.pause()
    os.read(reader, 1)
    if child == "sigterm":
        os.kill(pid, signal.SIGTERM)
    _, status = os.waitpid(pid, 0)
    return {"status": os.waitstatus_to_exitcode(status)}


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline(
        [
            Node(measure, None, ["parent_metrics", "of_parent"], name="parent"),
            Node(fork, ["of_parent", "params:child"], "child_metrics", name="fork"),
        ]
    )
