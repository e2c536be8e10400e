"""``adopt``: what an existing project is given, so that its metrics go to MLflow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from . import checks, dependencies, example, kedro_mlflow, kedro_viz, template, templates
from .catalog import add_entries
from .plan import Plan
from .project import PYPROJECT, Project
from .refusal import Refusal
from .source import names_in

OURS = "Metrics from Kedro nodes to MLflow"  # what the docstring of tracking/ begins with


@dataclass(frozen=True)
class Options:
    """What ``adopt`` was asked for."""

    example: bool = False
    distributed: str = "none"
    as_package: bool = False
    from_kedro_mlflow: bool = False
    from_kedro_viz: bool = False


def plan_adoption(project: Project, options: Options) -> Plan:
    """All that is to be written, in an order in which the project runs after every step.

    Raises:
        Refusal: It can't be done safely.
    """
    has_package = project.imports(template.wiring().MODULE)
    plan = Plan(project, as_package=options.as_package or has_package)
    kedro_mlflow.check(project, converting=options.from_kedro_mlflow)
    is_new = add_tracking(plan) or (plan.as_package and not has_package)
    if plan.as_package and not has_package:
        plan.remark(
            f"{template.wiring().DISTRIBUTION} is in no public index: install it with --find-links"
            " and the folder of its wheel, or from an index of your own."
        )
    add_dependencies(plan, with_example=options.example, distributed=options.distributed)
    plan.edit(".gitignore", ignore)
    if is_new:
        checks.leave_out(plan)
    if options.from_kedro_viz:
        kedro_viz.convert(plan)
    if options.from_kedro_mlflow:
        kedro_mlflow.convert(plan)
    templates.add(plan)
    add_mlflow_yml(plan)
    entries = example.add(plan) + "\n" if options.example else ""
    add_entries(plan, entries + template.wiring().METRICS_ENTRIES)
    add_hook(plan)
    add_command(plan)
    return plan


def add_tracking(plan: Plan) -> bool:
    """The bundled package, as a whole; False if it is there, or not to be.

    Raises:
        Refusal: There is another of its name, or it is there and not to be.
    """
    project = plan.project
    folder = f"{project.package}/tracking"
    ours = template.files_in(template.TRACKING)
    docstring = (project.text(f"{folder}/__init__.py") or "").lstrip("\"'")
    if plan.as_package:
        if docstring.startswith(OURS):
            raise Refusal(
                f"The project has {folder}, which --as-package would leave unused; delete it, and"
                f" write {plan.tracking} for {project.name}.tracking in its files, then adopt."
            )
        return False
    if (project.path / folder).exists() or project.read(f"{folder}.py") is not None:
        if not docstring.startswith(OURS):
            raise Refusal(
                f"The project has a {folder} of its own, where this one belongs; rename it."
            )
        if template.files_in(project.path / folder) != ours:
            plan.remark(f"{folder} is there, and not as in this version: it is left as it is.")
        return False
    plan.add({f"{folder}/{name}": text for name, text in ours.items()})
    return True


def add_dependencies(plan: Plan, *, with_example: bool, distributed: str = "none") -> None:
    """What is missing in each list that the project has; it has one afterwards."""
    project = plan.project
    wanted = template.requirements(as_package=plan.as_package)
    if not with_example:
        del wanted["scikit-learn"]
    wanted |= {"distributed": template.wiring().DASK} if distributed == "dask" else {}
    files = dependencies.requirement_files(project.pyproject, plan.text)
    table = project.pyproject.get("project", {})
    if "dependencies" in table or "poetry" in project.pyproject.get("tool", {}):
        plan.edit(PYPROJECT, lambda text: dependencies.add_to_pyproject(text, wanted))
    elif not files and "dependencies" in table.get("dynamic", []):
        lines = _shown(wanted.values())
        plan.remark(f"{PYPROJECT} leaves its dependencies to the build: name there {lines}.")
    elif table and not files:
        plan.edit(PYPROJECT, lambda text: dependencies.add_to_pyproject(text, wanted, anew=True))
    elif not files:
        files = [dependencies.REQUIREMENTS[0]]
    for name in files:
        there = dependencies.lines_of(name, plan.text)
        if not (missing := dependencies.missing(there, wanted)):
            continue
        if dependencies.has_hashes(plan.text(name) or ""):
            plan.remark(f"{name} is a lock with hashes: make it anew, with {_shown(missing)}.")
        else:
            plan.edit(name, partial(dependencies.add_lines, lines=missing))


def _shown(lines: Iterable[str]) -> str:
    return ", ".join(map(dependencies.uncommented, lines))


def ignore(text: str) -> str:
    """The text of a ``.gitignore`` that leaves out what MLflow writes in the project's folder."""
    template_text = (template.PROJECT / ".gitignore").read_text(encoding="utf-8")
    (paragraph,) = [part for part in template_text.split("\n\n") if "mlruns/" in part]
    there = {line.strip().rstrip("/*") for line in text.splitlines()}
    head, *lines = paragraph.splitlines()
    new = [line for line in lines if line.rstrip("/*") not in there]
    if not new:
        return text
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return "\n".join([text + gap + head, *new, ""])


def add_mlflow_yml(plan: Plan) -> None:
    """The settings, all of them as by default, where the project has none.

    Raises:
        Refusal: It has a file of that name, of something else.
    """
    project = plan.project
    names = project.configs(project.conf, "mlflow")
    for name in names:
        content = plan.yaml(name) or {}
        found = content if isinstance(content, dict) else [content]
        keys = [str(key) for key in found if not str(key).startswith("_")]
        if unknown := [key for key in keys if key not in template.known_settings()]:
            raise Refusal(
                f"{name} says {unknown[0]!r}, and is not of this metrics tracking; rename it, or"
                " for one of kedro-mlflow add --from-kedro-mlflow."
            )
    if not any(name.startswith(f"{project.base}/") for name in names):
        text = template.mlflow_yml(project.name, {})
        plan.add({f"{project.base}/mlflow.yml": text.encode()})


def add_hook(plan: Plan) -> None:
    """The hook, last in ``HOOKS``, unless another module of the project's names it.

    Registered twice, it would open two MLflow runs.
    """
    hook, register = template.wiring().HOOK, template.wiring().register_hook
    settings = f"{plan.project.package}/settings.py"
    others = [file for file, text in plan.project.sources.items() if hook in names_in(text)]
    if others and settings not in others:
        plan.remark(
            f"{settings} is left as it is: {others[0]} names {hook}; if it is not in HOOKS by"
            " that, add it there yourself."
        )
        return
    plan.edit(settings, lambda text: register(text, plan.tracking))


def add_command(plan: Plan) -> None:
    """``kedro metrics``: in a ``cli.py`` that is there beside its commands, else in a new one."""
    file = f"{plan.project.package}/cli.py"
    text = plan.text(file)
    is_folder = plan.project.read(f"{plan.project.package}/cli/__init__.py") is not None
    module = plan.tracking if plan.as_package else ".tracking"
    if text is None and not is_folder:
        ours = (template.PACKAGE / "cli.py").read_bytes()
        plan.add({file: template.named(ours, plan.tracking)})
        return
    try:
        changed = None if is_folder else template.wiring().add_command(text, module)
    except SyntaxError as error:
        raise Refusal(f"{file} can't be read ({error}); correct it.") from None
    if changed is None:
        plan.remark(
            f"{file.removesuffix('.py') if is_folder else file} is left as it is: its `cli` is not"
            " seen to be a click group, or has a `metrics` of its own. For the commands of `kedro"
            f" metrics` add to it: from {plan.tracking}.cli import metrics as tracking_metrics;"
            ' cli.add_command(tracking_metrics, "mlflow-metrics"), or another name that is free.'
        )
    else:
        plan.edit(file, lambda _: changed)
