"""What git can bring back: adopting and updating are to be undone by it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

from .project import Project
from .refusal import Refusal


def check_git(project: Project, files: Iterable[str]) -> None:
    """Refuse a change of these files of a project if git could not undo it.

    Raises:
        Refusal: There are changes that are not committed, or git ignores one of the files.
    """
    if lines := _git(project, "status", "--porcelain", "--", "."):
        raise Refusal(
            f"The project has changes that are not committed ({_shown(lines, 3)}); commit them, or"
            " add --force."
        )
    there = [name for name in files if (project.path / name).exists()]
    if there and (lines := _git(project, "check-ignore", "--", *there)):
        raise Refusal(
            f"git ignores {_shown(lines)}, which would be changed, and could not bring it back;"
            " copy it elsewhere, then add --force."
        )


def _git(project: Project, *arguments: str) -> list[str]:
    """The lines that git prints; none without git, or where there is no repository."""
    command = ["git", "-C", str(project.path), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _shown(lines: list[str], start: int = 0) -> str:
    return f"{lines[0][start:]}{' and others' if len(lines) > 1 else ''}"
