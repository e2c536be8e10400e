"""Hooks of the project's own."""

from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.pipeline import Node


class RecordingHooks:
    """Writes down which nodes ran."""

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        self.record = Path(context.project_path) / "nodes.txt"

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        with self.record.open("a") as record:
            record.write(f"{node.name}\n")
