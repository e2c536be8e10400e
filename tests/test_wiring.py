"""The hook and the metrics datasets find their place in any settings.py and catalog.yml."""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kedro
import pytest
import yaml
from helpers import TEMPLATE
from hypothesis import given
from hypothesis import strategies as st
from post_gen_project import (
    METRICS_ENTRIES,
    add_entries,
    drop,
    edit,
    extend_setting,
    register_hook,
    wire,
)

SHIPPED = Path(kedro.__file__).parent / "templates/project/{{ cookiecutter.repo_name }}"
SETTINGS = next(SHIPPED.glob("src/*/settings.py")).read_text()
CATALOG = (SHIPPED / "conf/base/catalog.yml").read_text()
ENTRIES = METRICS_ENTRIES.replace("PACKAGE", "lab")
NEW = yaml.safe_load(ENTRIES)


# settings.py


@functools.cache
def stub(name: str) -> type:
    """A class of this name, to stand for whatever a settings.py imports."""
    return type(name, (), {})


class Imported:
    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return ["HOOKS", "LAB_HOOKS"]
        return (stub("Imported")(),) if name == "HOOKS" else stub(name)


def hooks(text: str) -> list[str]:
    """The classes of the hooks in ``HOOKS``, when the settings are evaluated."""
    namespace: dict[str, Any] = {
        "__builtins__": {**vars(builtins), "__import__": lambda *_: Imported()},
        "make_hooks": lambda: [stub("A")()],
        **{name: stub(name) for name in ("A", "B", "MyMlflowPipelineHook")},
    }
    exec(compile(text, "settings.py", "exec"), namespace)
    return [type(hook).__name__ for hook in namespace.get("HOOKS", ())]


def assert_registered(before: str) -> None:
    """Exactly one hook more, all lines as they were, and nothing to do the second time."""
    after = register_hook(before, "lab.tracking")

    assert hooks(after) == [*hooks(before), "MlflowPipelineHook"]
    lines = iter(after.split("\n"))
    assert all(line in lines for line in before.split("\n"))
    assert register_hook(after, "lab.tracking") == after


def test_kedros_settings_have_the_hook_below_the_example_of_it() -> None:
    assert_registered(SETTINGS)

    lines = register_hook(SETTINGS, "lab.tracking").splitlines()
    assert lines[3:5] == ["", "from lab.tracking import MlflowPipelineHook"]
    assert (
        lines[lines.index("# HOOKS = (ProjectHooks(),)") + 1] == "HOOKS = (MlflowPipelineHook(),)"
    )


@pytest.mark.parametrize(
    "setting",
    [
        "HOOKS = ()",
        "HOOKS = (A(),)",
        "HOOKS = (A(), B())",
        "HOOKS = [A()]",
        "HOOKS = A(), B()",
        "HOOKS = (A)(), (B())",
        "HOOKS: tuple = (A(),)",
        "HOOKS: list[A] = []",
        "HOOKS = (\n    A(),\n    B()\n)",
        "HOOKS = (\n    A(),  # one, (of two)\n    # B,\n    B(),  # two\n    # the end\n)",
        "HOOKS = (\n    # none yet\n)",
        "HOOKS = (A(),\n         *[B()],)  # comment",
        "HOOKS = make_hooks()",
        "HOOKS = [B()] if A else [A()]",
        "HOOKS = OTHER = (A(),)",
        "HOOKS, OTHER = (A(),), 1",
        "HOOKS = (A(),)\nHOOKS += (B(),)",
        "HOOKS = (A(),); OTHER = (\n    1,\n)",
        "HOOKS: tuple",
        "if not A:\n    HOOKS = (A(),)",
        "if A:\n    HOOKS = (A(),)",
        "HOOKS = (A(),)\nif not A:\n    HOOKS = (B(),)",
        "if not A:\n    HOOKS = (A(),)\nelif not B:\n    HOOKS = (B(),)",
        "for hook in ():\n    HOOKS = (hook(),)",
        "try:\n    HOOKS = (Missing(),)\nexcept NameError:\n    pass",
        "HOOKS = (A(),) + (B(),)",
        "HOOKS = [A()] + [*make_hooks()]",
        "if A:\n    HOOKS = (A(),)\nelse:\n    HOOKS = ()",
        "try:\n    from lab.hooks import HOOKS\nexcept ImportError:\n    HOOKS = ()",
        "from lab.hooks import HOOKS",
        "from lab.hooks import LAB_HOOKS as hooks, HOOKS as HOOKS",
        "from lab.hooks import *",
        "from lab.hooks import *  # HOOKS\nfrom lab.more import (\n    MORE,\n)",
        "from lab.hooks import *\nHOOKS = (*HOOKS, A())",
        "from lab.hooks import *\nif A:\n    HOOKS += (A(),)",
        "HOOKS = (A(),)\nfrom lab.hooks import *",
        "try:\n    from lab.hooks import *\nexcept ImportError:\n    HOOKS = ()",
        "# HOOKS = (A(),)\nif not A:\n    from lab.hooks import *",
        "HOOKS = [A()]\nHOOKS.append(B())",
        "HOOKS = [A()]; HOOKS.append(B())",
        "HOOKS = [A()]\nif A:\n    HOOKS.insert(0, B())\nelse:\n    HOOKS.clear()",
        "HOOKS = [A()]\n\nMORE = 1\nfor hook in (A, B):\n    HOOKS.append(hook())",
        "HOOKS = [A()]\nHOOKS[:0] = [B()]\nHOOKS += [A()]\ndel HOOKS[0]",
        "HOOKS = []\nHOOKS.extend(\n    [A(), B()]\n)",
        "HOOKS = [A()]\n(lambda: HOOKS.append(B()))()",
        "HOOKS = []\nglobals()['HOOKS'].append(A())",
        "import lab.hooks as own\nHOOKS = [A()]\nown.HOOKS = HOOKS\nown.HOOKS.append(B())",
        "def add(hook):\n    HOOKS.append(hook)\n\nHOOKS = [A()]\nMORE = 1\nadd(B())",
        "def add():\n    global HOOKS\n    HOOKS = [A()]\n\nadd()",
        "HOOKS = hooks = [A()]\nMORE = 1\nhooks.append(B())",
        "hooks = []\ndef add():\n    hooks.append(A())\nHOOKS = hooks\nMORE = 1\nadd()",
        "HOOKS = [A()]\nadd = HOOKS.append\nMORE = 1\nadd(B())",
        "HOOKS: list = [A()]\nmore: list = HOOKS\nmore.append(B())",
        "class With:\n    __enter__ = __exit__ = lambda *_: A\n"
        "with With():\n    HOOKS = (missing(),)",
        "match A:\n    case 1:\n        HOOKS = (A(),)",
        "HOOKS = (MyMlflowPipelineHook(),)",
        "def make() -> None:\n    HOOKS = 1",
        "from lab.tracking import MlflowPipelineHook",
        "# HOOKS = (\n#     A(),\n# )",
        "OTHER = [\n# HOOKS = (A(),)\n]",
        '"""\n# HOOKS = (A(),)\n"""',
        "# nothing",
        "",
    ],
)
@pytest.mark.parametrize(
    "start",
    [
        "",
        '"""Settings."""\n',
        "'''Settings.\n\nfrom lab.tracking import MlflowPipelineHook\n'''\n\n",
        '"""Settings."""; OTHER = (\n    1,\n)\n',
        "from __future__ import annotations\n\nimport os\n",
        '"""Settings."""\n\nimport os; OTHER = (\n    1,\n)\n',
        "# Größe 😀 \u2028 \x0c \x85 実験\n\x0cOTHER = '\u2028 \x1c'\n",
    ],
    ids=range(7),
)
def test_the_hook_joins_the_others(start: str, setting: str) -> None:
    assert_registered(start + setting)
    assert_registered(f"{start}{setting}\n\nOTHER = 1\n")


def test_what_an_import_of_all_may_bring_is_kept_at_the_end() -> None:
    before = '"""Settings."""\nfrom lab.common import *\nimport os\n\nOTHER = os.sep\n'

    assert register_hook(before, "lab.tracking") == (
        '"""Settings."""\nfrom lab.common import *\nimport os\n'
        "from lab.tracking import MlflowPipelineHook\n\nOTHER = os.sep\n"
        'HOOKS = (*globals().get("HOOKS", ()), MlflowPipelineHook())\n'
    )


@pytest.mark.parametrize("change", ["append(B())", "extend([B()])", "insert(0, B())"])
def test_the_hook_comes_after_the_last_that_changes_the_others(change: str) -> None:
    before = f"HOOKS = [A()]\nif A:\n    HOOKS.{change}\n"
    start = "from lab.tracking import MlflowPipelineHook\n"
    line = "HOOKS = (*HOOKS, MlflowPipelineHook())\n"

    assert register_hook(f"{before}\nMORE = 1\n", "lab.tracking") == (
        f"{start}{before}{line}\nMORE = 1\n"
    )


def test_plugins_are_disabled_after_those_that_are_added_later() -> None:
    before = 'PLUGINS = ["a"]\nPLUGINS.append("b")\n'

    assert extend_setting(before, "PLUGINS", '"c"') == f'{before}PLUGINS = (*PLUGINS, "c")\n'


@pytest.mark.parametrize(
    "text",
    [
        "from lab.tracking import MlflowPipelineHook\nHOOKS = (MlflowPipelineHook(),)\n",
        "from lab.tracking import MlflowPipelineHook\nhook = MlflowPipelineHook()\nHOOKS = [hook]",
        "from lab import tracking\nHOOKS = (A(),)\nHOOKS += (tracking.MlflowPipelineHook(),)\n",
    ],
)
def test_a_registered_hook_is_not_registered_again(text: str) -> None:
    assert register_hook(text, "lab.tracking") == text


def test_the_import_is_not_repeated() -> None:
    before = "from lab.tracking import MlflowMetricsDataset, MlflowPipelineHook\n"
    assert register_hook(before, "lab.tracking") == before + "HOOKS = (MlflowPipelineHook(),)\n"


# catalog.yml


def assert_added(before: str) -> None:
    """All entries are there, those of before as they were, and nothing to do the second time."""
    after = add_entries(before, ENTRIES)

    old = yaml.safe_load(before) or {}
    assert yaml.safe_load(after) == {**NEW, **old}
    assert list(yaml.safe_load(after))[: len(old)] == list(old)
    assert add_entries(after, ENTRIES) == after


def test_kedros_catalog_keeps_its_head() -> None:
    assert_added(CATALOG)
    assert add_entries(CATALOG, ENTRIES) == f"{CATALOG}\n{ENTRIES}"


REVIEWS = "reviews: # raw\n  type: pandas.CSVDataset\n  filepath: 'data/größe 😀.csv'"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "# comment",
        "# comment\n",
        REVIEWS,
        f"{REVIEWS}\n",
        f"# head\n\n{REVIEWS}\n\n# foot\n\n\n",
        f"{REVIEWS}\n  # indented foot",
        f"{REVIEWS}\nsql:\n  query: |\n    select 1\n\n\n",
        f"  {REVIEWS}\n".replace("\n", "\n  "),
        "    a:\n      b: 1\n    c: 2",
        f"---\n{REVIEWS}\n",
        f"--- # comment\n{REVIEWS}\n...\n",
        f"%YAML 1.1\n---\n{REVIEWS}\n# foot\n...\n# end\n",
        "---\n",
        "---",
        "--- # comment\n# another\n",
        "---\n...\n",
        "---\n# comment\n...\n",
        "my_model_metrics:\n  type: json.JSONDataset\n",
        "'my_model_metrics': {type: json.JSONDataset}\n\"{name}_metrics\": &x\n  type: a\nb: *x\n",
        "1: a\n~: b\ntrue: c\n? d\n: e\n",
    ],
)
def test_the_entries_join_the_others(text: str) -> None:
    assert_added(text)


def test_an_entry_of_the_same_name_is_left_alone() -> None:
    before = "my_baseline_metrics: {type: json.JSONDataset}  # mine\n"
    after = add_entries(before, ENTRIES)
    assert after.startswith(before)
    assert after.count("my_baseline_metrics") == 1


def test_a_full_catalog_is_left_alone() -> None:
    text = "".join(f"'{name}':   {{type: a}}\n\n" for name in NEW) + "  # end"
    assert add_entries(text, ENTRIES) == text


@pytest.mark.parametrize(
    "text", ["{}", "{a: {type: b}}\n", "--- {a: 1}\n", "- a\n", "a", "'a'", "~"]
)
def test_what_is_no_block_mapping_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"^catalog.yml is not .*; .* try again\.$"):
        add_entries(text, ENTRIES)


names = st.one_of(st.text(), st.sampled_from(sorted(NEW)))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    catalog=st.dictionaries(names, values, max_size=4),
    style=st.fixed_dictionaries(
        {
            "indent": st.integers(2, 6),
            "width": st.integers(20, 200),
            "allow_unicode": st.booleans(),
            "explicit_start": st.booleans(),
            "explicit_end": st.booleans(),
            "default_style": st.sampled_from([None, "'", '"']),
        }
    ),
    head=st.sampled_from(["", "\n", "# Größe 😀\n"]),
    foot=st.sampled_from(["", "\n", "# foot", "\n\n# foot\n\n"]),
)
def test_any_catalog_keeps_its_entries(
    catalog: dict[str, Any], style: dict[str, Any], head: str, foot: str
) -> None:
    if catalog:
        text = yaml.safe_dump(catalog, sort_keys=False, default_flow_style=False, **style)
        assert_added(head + text + foot)
    else:
        assert_added(head + foot)


# Files


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_edited_file_keeps_its_line_ends(tmp_path: Path, newline: str, mark: str) -> None:
    path = tmp_path / "settings.py"
    path.write_bytes((mark + "# Größe\nHOOKS = ()\n".replace("\n", newline)).encode())

    edit(path, lambda text: register_hook(text, "lab.tracking"))

    lines = path.read_bytes().decode().split(newline)
    assert lines == [
        "from lab.tracking import MlflowPipelineHook",
        "# Größe",
        "HOOKS = ()",
        "HOOKS = (*HOOKS, MlflowPipelineHook())",
        "",
    ]


@pytest.mark.parametrize("text", ["a\n", "a\r\nb\n", "\ufeffa\r\n", ""])
def test_without_a_change_a_file_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "catalog.yml"
    path.write_bytes(text.encode())

    edit(path, lambda text: text)

    assert path.read_bytes() == text.encode()


def test_a_wired_project_is_left_as_it_is(bake: Callable[..., Path]) -> None:
    project = bake()
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}

    wire(project, "lab", "lab.tracking")

    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_the_template_has_kedros_files_before_they_are_wired() -> None:
    settings = SETTINGS.replace("{{cookiecutter.python_package}}", "my_package")
    assert next(TEMPLATE.glob("src/*/settings.py")).read_text() == settings
    assert (TEMPLATE / "conf/base/catalog.yml").read_text() == CATALOG


@pytest.mark.parametrize(
    ("text", "between", "left"),
    [
        ("kedro\nscikit-learn>=1\nmlflow\n", "\n", "kedro\nmlflow\n"),
        ("kedro\nscikit-learn>=1\n", "\n", "kedro\n"),
        ("kedro\n", "\n", "kedro\n"),
        ("[a]\n\n[b]\nx = 'scikit-learn'\n\n[c]\n", "\n\n", "[a]\n\n[c]\n"),
        ("[a]\n\n[b]\nx = 'scikit-learn'\n", "\n\n", "[a]\n"),
    ],
)
def test_what_was_not_chosen_is_dropped(text: str, between: str, left: str) -> None:
    assert drop(text, "scikit-learn", between) == left
