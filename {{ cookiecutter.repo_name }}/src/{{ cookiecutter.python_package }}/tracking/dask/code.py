"""Checks that the workers of a Dask cluster have the project's code, and the same."""

from __future__ import annotations

from types import FunctionType
from typing import Any


def check_code(client: Any, package: str) -> str:
    """The fingerprint of a package's code, if all workers have the same.

    Raises:
        TrackingError: It names the first such worker.
    """
    from ..store.errors import TrackingError

    own = code_of(package)
    found: dict[str, Any] = client.run(_sent(code_of, _code_in_use), package)
    for worker, code in sorted(found.items()):
        if code != own:
            raise TrackingError(_problem(worker, package, code))
    return own


def checked_call() -> Any:
    """A function that loads and calls another on a worker, if the worker has the same code."""
    return _sent(code_of, _code_in_use, _problem, _load_and_call)


# Dask sends a function of __main__ itself, and not its name, which a scheduler or a worker might
# not know. So each function below imports what it uses, and calls only functions above it.


def _sent(*functions: Any) -> Any:
    """The last of the functions, as one of __main__."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for each in functions:
        name = each.__name__
        names[name] = FunctionType(each.__code__, names, name)
        names[name].__module__ = "__main__"
    return names[functions[-1].__name__]


def code_of(package: str) -> str:
    """A fingerprint of the package's code on this machine; empty if the package is missing."""
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


def _code_in_use(package: str) -> str:
    """As ``code_of``; of an imported package, as it was at the last call before the import."""
    import sys
    from types import ModuleType

    name = "_metrics_tracking_code"  # what no reload of the project's modules deletes
    known = vars(sys.modules.setdefault(name, ModuleType(name)))
    if package not in sys.modules or package not in known:
        known[package] = code_of(package)
    return str(known[package])


def _problem(worker: str, package: str, code: str) -> str:
    has = (
        f"has another version of {package!r}, or has imported it before it was changed"
        if code
        else f"has no package {package!r}"
    )
    return (
        f"The Dask worker {worker} {has}; install what `kedro package` makes there, with all"
        " that it requires, or let it see the project's folder 'src' (PYTHONPATH), and start it"
        " again."
    )


def _load_and_call(codes: dict[str, str], pickled: bytes) -> Any:
    """Call what was pickled: a function and its arguments; a worker may have joined just now."""
    import pickle
    from importlib import import_module

    import click  # it is there wherever Dask is

    dask: Any = import_module("distributed")
    for package, own in codes.items():
        code = _code_in_use(package)
        if code != own:
            worker = dask.get_worker().address
            raise click.ClickException(_problem(worker, package, code))
    function, arguments = pickle.loads(pickled)
    return function(*arguments)
