"""What a module of Python says, as far as it is seen without running it."""

from __future__ import annotations

import ast
import re
from contextlib import suppress


def imports(text: str, module: str) -> bool:
    """Whether a text of Python imports this module, or something of it."""
    return bool(re.search(rf"^\s*(from|import)\s+{module}\b", text, re.MULTILINE))


def names_in(text: str) -> set[str]:
    """The names that code in a module uses or imports; none of one that can't be read."""
    with suppress(SyntaxError, ValueError):
        nodes = [*ast.walk(ast.parse(text))]
        return {
            getattr(node, kind, None) or "" for node in nodes for kind in ("id", "attr", "name")
        }
    return set()


def strings_in(text: str) -> set[str]:
    """The strings in a module; none of one that can't be read, which nobody imports."""
    with suppress(SyntaxError, ValueError):
        nodes = ast.walk(ast.parse(text))
        return {found for node in nodes if (found := constant(node)) is not None}
    return set()


def value_of(module: ast.Module, name: str) -> ast.expr | None:
    """What a name is given in a module, by the last plain statement that does."""
    value = None
    for node in module.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value = getattr(node, "value", None)
    return value


def value_at(value: ast.expr | None, key: str) -> ast.expr | None:
    """What a dict that is written out has under this key."""
    pairs = zip(value.keys, value.values, strict=True) if isinstance(value, ast.Dict) else ()
    return next((inner for name, inner in pairs if constant(name) == key), None)


def constant(node: ast.expr | ast.AST | None) -> str | None:
    """The text that is written here; None if it is anything else."""
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, str) else None
