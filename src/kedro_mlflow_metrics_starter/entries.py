"""Changes entries of a catalog in its text, so that all else of it stays as it is written."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import yaml

MERGE = "<<"
PROPERTIES = re.compile(r"(?:[&!]\S*\s+)*")  # what may stand before a value: its anchor, its tag
ALIAS = re.compile(r"\s*:\s*(\*[^\s,\]}]+)")


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
    # By the name of the entry, what is dropped and what is there instead.
    wanted: dict[str, tuple[Collection[str], dict[str, object]]] = field(default_factory=dict)

    def result(self) -> str | None:
        """The changed text; None if it would not say what it is to say, as where aliases cross."""
        text = self.text
        for (start, end), new in sorted(self.made.items(), reverse=True):
            text = text[:start] + new + text[end:]
        with suppress(yaml.YAMLError, ValueError):
            return text if not self.made or yaml.safe_load(text) == self._data() else None
        return None

    def _data(self) -> Any:
        """What the changed text is to say: the same changes, made to what the text says."""
        root = yaml.compose(self.text)
        for key, node in root.value:
            if key.value in self.wanted and isinstance(node, yaml.MappingNode):
                drop, new = self.wanted[key.value]
                type_, *added = yaml.compose(yaml.safe_dump(new, sort_keys=False)).value
                pairs = [pair for pair in node.value if pair[0].value not in drop]
                pairs = [type_ if pair[0].value == "type" else pair for pair in pairs]
                node.value = pairs + added
        return yaml.SafeLoader("").construct_document(root)

    def change(
        self, entry: Entry, type_: str, drop: Collection[str] = (), add: Mapping[str, object] = {}
    ) -> bool:
        """Give an entry another type, less of its keys, and more; False if it is left as it is."""
        node = entry.node
        dropped = [pair for pair in node.value if pair[0].value in drop]
        more = [f"{key}: {as_yaml(value)}" for key, value in add.items()]
        in_braces = node.flow_style and (dropped or more)
        if in_braces and not self._change_braces(node, type_, drop, more):
            return False
        self.wanted[entry.name] = drop, {"type": type_, **add}
        if in_braces:
            return True
        for key, value in node.value:
            if key.value == "type":
                self.made[self._span(key, value)] = type_
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

    def _span(self, key: yaml.Node, value: yaml.Node) -> tuple[int, int]:
        """Where a value stands, behind its anchor, or the alias (``*base``) in its place."""
        if value.start_mark.index > key.end_mark.index:
            return self._start(value), self._end(value)
        alias = ALIAS.match(self.text, key.end_mark.index)
        return alias.span(1) if alias else (key.end_mark.index, key.end_mark.index)

    def _start(self, node: yaml.Node) -> int:
        properties = PROPERTIES.match(self.text, node.start_mark.index)
        return properties.end() if properties else node.start_mark.index

    def _end(self, node: yaml.Node) -> int:
        """Where a node ends, without the blank lines and comments that follow it."""
        if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
            last = node.value[-1]
            if isinstance(last, tuple):
                return self._span(*last)[1]
            if last.start_mark.index > node.start_mark.index:  # no alias
                return self._end(last)
        return len(self.text[: node.end_mark.index].rstrip())

    def _end_of_line(self, key: yaml.Node, value: yaml.Node) -> int:
        end = self.text.find("\n", self._span(key, value)[1])
        return len(self.text) if end < 0 else end

    def _change_braces(
        self, node: yaml.MappingNode, type_: str, drop: Collection[str], more: list[str]
    ) -> bool:
        start, end = self._start(node), node.end_mark.index
        if "#" in self.text[start:end]:
            return False
        kept = []
        for key, value in node.value:
            from_, to = self._span(key, value)
            if key.value == "type":
                kept.append(self.text[key.start_mark.index : from_] + type_)
            elif key.value not in drop:
                kept.append(self.text[key.start_mark.index : to])
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


def as_yaml(value: object) -> str:
    """A value as YAML, on one line, in quotes where it needs them, also within braces."""
    text: str = yaml.safe_dump([value], default_flow_style=True, width=2**30, allow_unicode=True)
    return text.strip()[1:-1]
