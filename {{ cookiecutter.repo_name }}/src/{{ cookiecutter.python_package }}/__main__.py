"""Runs the project as a package: ``python -m <package>``, or its command."""

import importlib
import sys
from pathlib import Path
from typing import Any

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project


def main(*args: Any, **kwargs: Any) -> Any:
    """Run the project's ``run`` command with these arguments, or with the command line's.

    With the name of a command of ``cli.py`` before them, that one: ``metrics sync``.
    """
    package_name = Path(__file__).parent.name
    configure_project(package_name)

    interactive = hasattr(sys, "ps1")
    kwargs["standalone_mode"] = not interactive

    command = find_run_command(package_name)
    words = args[0] if args else kwargs.get("args") or sys.argv[1:]
    cli = importlib.import_module(f"{package_name}.cli").cli
    if words and words[0] in cli.commands:
        command = cli
    return command(*args, **kwargs)


if __name__ == "__main__":
    main()
