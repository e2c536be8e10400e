"""Which process opened a run, and whether it is still there."""

from __future__ import annotations

import logging
import os
import platform
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from .client import end_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

MACHINE, PROCESS = "kedro.machine", "kedro.process"
ERROR = "kedro.error"  # what ended a run
# The process ids of Linux's first namespace are the machine's (include/linux/proc_ns.h).
_FIRST_NAMESPACE = "pid:[4026531836]"


def process_tags() -> dict[str, str]:
    """This process, in tags: its machine, and its id with the time at which it began."""
    return {MACHINE: _machine(), PROCESS: f"{os.getpid()} {_began(os.getpid()) or ''}".strip()}


def is_gone(tags: Mapping[str, str]) -> bool:
    """Whether the process in these tags has ended; False if that can't be known from here."""
    pid, _, began = tags.get(PROCESS, "").partition(" ")
    if tags.get(MACHINE) != _machine() or not pid.isdigit() or os.name == "nt":
        return False  # on Windows os.kill() kills
    try:
        os.kill(int(pid), 0)
        return bool(began) and _began(int(pid)) != began
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's
        return False


@lru_cache
def _machine() -> str:
    """This machine, or container, and no other: a process id means something there alone."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
        file = "/etc/machine-id"
        if namespace != _FIRST_NAMESPACE:  # a container, which ends with its machine at the latest
            file = "/proc/sys/kernel/random/boot_id"
        return f"{platform.node()} {Path(file).read_text().strip()} {namespace}"
    except OSError:  # not Linux
        return f"{platform.node()} {uuid.getnode():x}"


def _began(pid: int) -> str | None:
    """When a process began, where the system tells, for ids are used again; None if it is dead."""
    with suppress(FileNotFoundError, ProcessLookupError):
        # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html; a name may have spaces.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]
    return None


def close_dead(client: MlflowClient, experiment_id: str, spared: Collection[str] = ()) -> None:
    """Close the experiment's runs that are RUNNING and whose process is gone, as KILLED.

    Args:
        client: The store's.
        experiment_id: The experiment's id.
        spared: The ids of runs whose end is known, but not yet there.
    """
    search = f"attributes.status = 'RUNNING' and tags.`{MACHINE}` = '{_machine()}'"
    for run in client.search_runs([experiment_id], search):
        if run.info.run_id in spared or not is_gone(run.data.tags):
            continue
        # Asked again: it may have ended well since.
        if client.get_run(run.info.run_id).info.status == "RUNNING":
            client.set_tag(run.info.run_id, ERROR, "The process was killed.")
            end_run(client, run.info.run_id, "KILLED")
            logger.warning("The MLflow run %s, whose process is gone, is KILLED.", run.info.run_id)
