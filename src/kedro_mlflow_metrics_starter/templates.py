"""The templates that Kedro renders in a project, at ``kedro pipeline create`` and the like."""

from __future__ import annotations

from . import template
from .plan import Plan

FOLDER = "templates"
OF_PIPELINES = f"{FOLDER}/pipeline"  # its modules are Jinja, which no tool of Python's reads


def add(plan: Plan) -> None:
    """Add those that the project has none of its own for; they name the module that tracks."""
    for source in sorted((template.PROJECT / FOLDER).iterdir()):
        target = f"{FOLDER}/{source.name}"
        if source.is_file():
            if not (plan.project.path / target).exists():
                plan.add({target: source.read_bytes()})
        elif source.name != "__pycache__" and not (plan.project.path / target).exists():
            for name, text in template.files_in(source).items():
                plan.add({f"{target}/{name}": template.named(text, plan.tracking)})
