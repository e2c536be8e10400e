"""Checks that the workers of a Dask cluster have the project's code, and the same."""

from __future__ import annotations

from types import FunctionType
from typing import Any


def check_code(client: Any, package: str) -> None:
    """Raise an error if a worker has not the code of a package that is here.

    Raises:
        TrackingError: It names the first such worker.
    """
    from ..store.errors import TrackingError

    # Dask sends a function of __main__ itself, and not its name, which a worker might not know.
    sent = FunctionType(_fingerprint.__code__, {"__name__": "__main__"}, "_fingerprint")
    sent.__module__ = "__main__"
    own = _fingerprint(package)
    found: dict[str, Any] = client.run(sent, package)
    for worker, fingerprint in sorted(found.items()):
        if fingerprint == own:
            continue
        has = (
            f"has another version of {package!r}" if fingerprint else f"has no package {package!r}"
        )
        raise TrackingError(
            f"The Dask worker {worker} {has}; install what `kedro package` makes there, with all"
            " that it requires, or let it see the project's folder 'src' (PYTHONPATH), and start it"
            " again."
        )


def _fingerprint(package: str) -> str:
    """Of the package's code, as it is found by this process; empty if it is not there."""
    import hashlib
    import importlib.util
    from pathlib import Path

    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    folder, text = Path(spec.origin).parent, hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        text.update(f"{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes())
    return text.hexdigest()
