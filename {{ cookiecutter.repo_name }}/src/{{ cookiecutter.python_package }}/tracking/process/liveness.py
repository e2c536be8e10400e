"""Which processes use a run, and whether they are still there."""

import os
import platform
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..names import Tag

# The process ids of Linux's first namespace are the machine's (include/linux/proc_ns.h).
_FIRST_NAMESPACE = "pid:[4026531836]"
_SEVERAL = "several"  # machines


def process_tags() -> dict[str, str]:
    """This process, in tags: its machine, and its id with the time at which it began."""
    process = f"{os.getpid()} {_began(os.getpid()) or ''}".strip()
    return {Tag.MACHINE: machine(), Tag.PROCESS: process}


def joint_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags to change as this process uses a run, too; none if the run has no process tag.

    The process tag is a list: the run is in use while one of them is alive. For processes of
    several machines no machine can tell that.
    """
    ours = process_tags()
    if Tag.PROCESS not in tags:
        return {}
    if tags.get(Tag.MACHINE) != ours[Tag.MACHINE]:
        joint = {Tag.MACHINE: _SEVERAL}
    else:
        processes = tags[Tag.PROCESS].split(", ")
        there = [each for each in processes if not is_gone({**tags, Tag.PROCESS: each})]
        joint = {Tag.PROCESS: ", ".join(dict.fromkeys([*there, ours[Tag.PROCESS]]))}
    return {} if joint.items() <= tags.items() else joint


def is_gone(tags: Mapping[str, str]) -> bool:
    """Whether the processes in these tags have ended; False if that can't be known from here."""
    if tags.get(Tag.MACHINE) != machine() or os.name == "nt":
        return False  # on Windows os.kill() kills
    return all(map(_has_ended, tags.get(Tag.PROCESS, "").split(", ")))


def _has_ended(process: str) -> bool:
    pid, _, began = process.partition(" ")
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
        return bool(began) and _began(int(pid)) != began
    except ProcessLookupError:
        return True
    except OSError:  # the process is another user's
        return False


def machine() -> str:
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
    """When a process began, for ids are used again; None if it is dead, or there is no /proc."""
    with suppress(FileNotFoundError, ProcessLookupError):
        # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html; a name may have spaces.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]
    return None
