"""Wires a project: the hook into ``settings.py``, the metrics datasets into ``catalog.yml``.

Cookiecutter renders this file and runs the copy in the new project's folder. The work is done by
pure functions, text in and text out: they find the place by parsing, leave all else as it is,
and change nothing the second time.
"""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
import textwrap
import tokenize
from collections.abc import Callable
from pathlib import Path

import yaml

# The answers as JSON, in which Jinja's tojson has escaped every single quote: nothing can leave
# this string.
ANSWERS = r'{{ cookiecutter.__answers }}'  # fmt: skip

HOOK = "MlflowPipelineHook"

METRICS_ENTRIES = """\
# What a node returns under this name, a dict of numbers, goes to MLflow. There its keys begin
# with the name: my_model_metrics.accuracy
my_model_metrics:
  type: PACKAGE.tracking.MlflowMetricsDataset

# The same with a prefix of your own choice: baseline.accuracy
my_baseline_metrics:
  type: PACKAGE.tracking.MlflowMetricsDataset
  prefix: baseline

# A dataset factory: any other name that ends in _metrics is a metrics dataset, too.
"{name}_metrics":
  type: PACKAGE.tracking.MlflowMetricsDataset
"""

EXAMPLE_ONLY = ("src/PACKAGE/pipelines/training", "tests/pipelines")
EXAMPLE_REQUIREMENTS = ("scikit-learn",)


def main(project: Path = Path()) -> None:
    """Wire the project in this folder, as answered."""
    answers = json.loads(ANSWERS)
    package = answers["python_package"]
    wire(project, package)
    if str(answers["include_example"]).lower() not in ("yes", "y", "true"):
        for path in EXAMPLE_ONLY:
            shutil.rmtree(project / path.replace("PACKAGE", package))
        edit(project / "requirements.txt", lambda text: drop_lines(text, EXAMPLE_REQUIREMENTS))


def wire(project: Path, package: str) -> None:
    """Register the hook and add the metrics datasets; in a wired project, do nothing."""
    entries = METRICS_ENTRIES.replace("PACKAGE", package)
    edit(project / "src" / package / "settings.py", lambda text: register_hook(text, package))
    edit(project / "conf/base/catalog.yml", lambda text: add_entries(text, entries))


def edit(path: Path, change: Callable[[str], str]) -> None:
    """Change a file's text, and keep its line ends."""
    before = path.read_bytes().decode("utf-8")
    newline = "\r\n" if "\r\n" in before else "\n"
    after = change(before.replace("\r\n", "\n")).replace("\n", newline)
    if after != before:
        path.write_bytes(after.encode("utf-8"))


def register_hook(text: str, package: str) -> str:
    """The text of ``settings.py`` with ``MlflowPipelineHook()`` among its ``HOOKS``."""
    hooks = _assigned(text, "HOOKS")
    if hooks is not None and HOOK in ast.unparse(hooks):
        return text
    text = _splice(text, hooks, _extended(text, hooks)) if hooks else _insert_hooks(text)
    return _add_import(text, f"from {package}.tracking import {HOOK}")


def _assigned(text: str, name: str) -> ast.expr | None:
    """What the name is last set to, at the top level of the text."""
    value = None
    for statement in ast.parse(text).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value = statement.value
    return value


def _extended(text: str, hooks: ast.expr) -> str:
    if not isinstance(hooks, ast.Tuple | ast.List):
        return f"(*{ast.get_source_segment(text, hooks)}, {HOOK}())"
    items = [ast.get_source_segment(text, item) or "" for item in hooks.elts] + [f"{HOOK}()"]
    left, right = "[]" if isinstance(hooks, ast.List) else "()"
    if hooks.lineno == hooks.end_lineno:
        comma = "," if len(items) == 1 and left == "(" else ""
        return f"{left}{', '.join(items)}{comma}{right}"
    source = ast.get_source_segment(text, hooks) or ""
    body = source.removesuffix(right).rstrip()
    indent = " " * hooks.elts[-1].col_offset if hooks.elts else "    "
    if hooks.elts and not _has_trailing_comma(text, hooks):
        end = len(_upto(source, hooks, hooks.elts[-1]))
        body = body[:end] + "," + body[end:]
    return f"{body}\n{indent}{HOOK}(),\n{right}"


def _has_trailing_comma(text: str, hooks: ast.Tuple | ast.List) -> bool:
    source = ast.get_source_segment(text, hooks) or ""
    rest = source[len(_upto(source, hooks, hooks.elts[-1])) :]
    return any(line.partition("#")[0].strip().startswith(",") for line in rest.splitlines())


def _upto(source: str, whole: ast.expr, part: ast.expr) -> str:
    """The source of the whole, up to the end of the part."""
    assert part.end_lineno is not None and part.end_col_offset is not None
    lines = source.encode("utf-8").splitlines(keepends=True)[: part.end_lineno - whole.lineno + 1]
    start = whole.col_offset if part.end_lineno == whole.lineno else 0
    lines[-1] = lines[-1][: part.end_col_offset - start]
    return b"".join(lines).decode("utf-8")


def _splice(text: str, old: ast.expr, new: str) -> str:
    lines = text.encode("utf-8").splitlines(keepends=True)
    assert old.end_lineno is not None and old.end_col_offset is not None
    before = b"".join(lines[: old.lineno - 1]) + lines[old.lineno - 1][: old.col_offset]
    after = lines[old.end_lineno - 1][old.end_col_offset :] + b"".join(lines[old.end_lineno :])
    return (before + new.encode("utf-8") + after).decode("utf-8")


def _insert_hooks(text: str) -> str:
    """Below Kedro's own example of it, which is a comment; else at the end."""
    lines = text.splitlines(keepends=True)
    comments = [
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and re.match(r"#\s*HOOKS\s*=", token.string)
    ]
    line = comments[-1] if comments else len(lines)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join([*lines[:line], f"HOOKS = ({HOOK}(),)\n", *lines[line:]])


def _add_import(text: str, statement: str) -> str:
    """Below the imports at the top; else below the docstring; else at the top."""
    if any(statement == ast.unparse(node) for node in ast.parse(text).body):
        return text
    docstring = imports = 0
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports = node.end_lineno or 0
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and not imports:
            docstring = node.end_lineno or 0
        else:
            break
    lines = text.splitlines(keepends=True)
    line = imports or docstring
    gap = "" if imports or not line else "\n"
    return "".join([*lines[:line], f"{gap}{statement}\n", *lines[line:]])


def add_entries(text: str, entries: str) -> str:
    """The text of ``catalog.yml`` with those of the entries that it does not have yet.

    Args:
        text: The catalog.
        entries: Entries as they shall stand there, a blank line between two.

    Raises:
        ValueError: The catalog is not a block mapping.
    """
    root = yaml.compose(text)
    if root is not None and (not isinstance(root, yaml.MappingNode) or root.flow_style):
        raise ValueError(
            "catalog.yml is not a mapping of one dataset below the other; write it so, try again."
        )
    have = {key.value for key, _ in root.value} if root else set()
    new = [
        entry
        for entry in entries.strip("\n").split("\n\n")
        if not set(yaml.safe_load(entry)) & have
    ]
    if not new:
        return text
    end = root.end_mark.index if root else len(text)
    indent = " " * (root.start_mark.column if root else 0)
    added = textwrap.indent("\n\n".join(new) + "\n", indent)
    before = text[:end].rstrip("\n")
    return (before + "\n\n" if before else "") + added + text[end:]


def drop_lines(text: str, starts: tuple[str, ...]) -> str:
    """The text without the lines that start so."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(starts))


if __name__ == "__main__":
    main()
