"""Changes entries of a catalog in its text, so that all else of it stays as it is written."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

MERGE = "<<"


@dataclass
class Entry:
    """An entry of a catalog, or what several have in common (``_base: &base``)."""

    name: str
    node: yaml.MappingNode

    @property
    def type(self) -> str:
        """Its ``type``, its own or one that it merges (``<<: *base``)."""
        return _type_of(self.node)

    def value(self, key: str) -> Any:
        """What it says itself under this key."""
        for name, value in self.node.value:
            if name.value == key:
                return yaml.safe_load(yaml.serialize(value))
        return None


@dataclass
class Edits:
    """Changes of a text, each from one index to another."""

    text: str
    made: dict[tuple[int, int], str] = field(default_factory=dict)

    def result(self) -> str:
        """The changed text."""
        text = self.text
        for (start, end), new in sorted(self.made.items(), reverse=True):
            text = text[:start] + new + text[end:]
        return text

    def change(
        self, entry: Entry, type_: str, drop: Collection[str] = (), add: Mapping[str, object] = {}
    ) -> bool:
        """Give an entry another type, less of its keys, and more; False if it is left as it is."""
        node = entry.node
        dropped = [pair for pair in node.value if pair[0].value in drop]
        more = [f"{key}: {as_yaml(value)}" for key, value in add.items()]
        if node.flow_style and (dropped or more):
            return self._change_braces(node, type_, drop, more)
        for key, value in node.value:
            if key.value == "type":
                self.made[value.start_mark.index, self._end(key, value)] = type_
        if more:  # after its type or, where that is merged (<<: *base), what it says first
            pairs = {key.value: (key, value) for key, value in node.value}
            key, value = pairs.get("type", node.value[0])
            end = self._end_of_line(key, value)
            indent = "\n" + " " * key.start_mark.column
            self.made[end, end] = "".join(indent + line for line in more)
        for key, value in dropped:
            start = self.text.rfind("\n", 0, key.start_mark.index) + 1
            self.made[start, self._end_of_line(key, value) + 1] = ""
        return True

    def _end(self, key: yaml.Node, value: yaml.Node) -> int:
        """Where a value ends; that of an alias (``*base``), too, whose node is elsewhere."""
        if value.start_mark.index > key.end_mark.index:
            return _end(value, self.text)
        alias = re.compile(r"\s*:\s*\*[^\s,\]}]+").match(self.text, key.end_mark.index)
        return alias.end() if alias else key.end_mark.index

    def _end_of_line(self, key: yaml.Node, value: yaml.Node) -> int:
        end = self.text.find("\n", self._end(key, value))
        return len(self.text) if end < 0 else end

    def _change_braces(
        self, node: yaml.MappingNode, type_: str, drop: Collection[str], more: list[str]
    ) -> bool:
        start, end = node.start_mark.index, node.end_mark.index
        if "#" in self.text[start:end]:
            return False
        kept = []
        for key, value in node.value:
            if key.value == "type":
                kept.append(f"type: {type_}")
            elif key.value not in drop:
                kept.append(self.text[key.start_mark.index : self._end(key, value)])
        self.made[start, end] = "{" + ", ".join([*kept, *more]) + "}"
        return True


def entries_of(text: str) -> Iterator[Entry]:
    """The entries of a catalog that are mappings, each once."""
    root = yaml.compose(text)
    seen = set()
    for key, node in root.value if isinstance(root, yaml.MappingNode) else ():
        if isinstance(node, yaml.MappingNode) and id(node) not in seen:
            seen.add(id(node))
            yield Entry(key.value, node)


def _type_of(node: yaml.MappingNode) -> str:
    merged = ""
    for key, value in node.value:
        if key.value == "type" and isinstance(value, yaml.ScalarNode):
            return str(value.value)
        if key.value == MERGE:
            bases = value.value if isinstance(value, yaml.SequenceNode) else [value]
            types = [_type_of(base) for base in bases if isinstance(base, yaml.MappingNode)]
            merged = merged or next(filter(None, types), "")
    return merged


def _end(node: yaml.Node, text: str) -> int:
    """Where a value ends, without the blank lines and comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last, text)
    return len(text[: node.end_mark.index].rstrip())


def as_yaml(value: object) -> str:
    """A value as YAML, on one line, in quotes where it needs them, also within braces."""
    text: str = yaml.safe_dump([value], default_flow_style=True, width=2**30, allow_unicode=True)
    return text.strip()[1:-1]
