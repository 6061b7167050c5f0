"""The page of hooks, and what the docs say of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from ase import Atoms

from little import Site
from matscale.cli.scaffold import names, write
from matscale.core import hookspecs
from matscale.core.hosting.observers import Observers
from matscale.core.hosting.provided import KINDS

ROOT = Path(__file__).resolve().parents[2]
HOOKS = [name for name, value in vars(hookspecs).items() if hasattr(value, "matscale_spec")]


def test_there_is_about_a_dozen_hooks() -> None:
    assert 8 <= len(HOOKS) <= 15


def examples() -> list[str]:
    """The Python of docs/plugins.md: a whole architecture, and one of each small thing."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "plugins.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_described_where_it_is_and_named_in_the_docs(hook: str) -> None:
    assert getattr(hookspecs, hook).__doc__
    assert f"`{hook}`" in (ROOT / "docs" / "plugins.md").read_text()


def test_every_hook_is_called_by_the_host() -> None:
    supplied = {kind.hook for kind in KINDS.values()}
    observed = {name for name in vars(Observers) if not name.startswith("_")} - {"names"}
    assert supplied | observed | {"step_flops"} == set(HOOKS)


def test_the_example_in_the_docs_is_what_a_new_package_holds(tmp_path: Path) -> None:
    example, _ = examples()
    write(tmp_path / "mymodel", names("mymodel"))
    assert example == (tmp_path / "mymodel" / "matscale_mymodel.py").read_text()


def test_the_small_examples_in_the_docs_make_a_plugin_that_supplies_what_they_say(site: Site) -> None:
    site.install("my-hello", examples()[1])
    host = site.host()
    plugin = host.plugin("hello").require()
    names = {kind: list(values) for kind, values in plugin.provides.items()}
    assert names == {"labeler": ["lj"], "loss": ["cube"], "tracker": ["lines"], "command": ["hello"]}
    assert "evaluated" in plugin.implements
    assert host.loss("cube").per_item(torch.tensor([[1.0, -2.0]])).tolist() == [4.5]
    assert host.labeler("lj").calculator().get_potential_energy(Atoms("Ar2", [[0, 0, 0], [0, 0, 1.0]])) < 1
    result = site.run("hello")
    assert (result.exit_code, result.stdout) == (0, "A command is called like its entry point.\n")


def test_every_file_that_the_docs_show_as_a_use_of_a_hook_is_there() -> None:
    table = re.findall(r"^\| `.*$", (ROOT / "docs" / "plugins.md").read_text(), re.MULTILINE)
    shown = [path for row in table for path in re.findall(r"`((?:src|plugins_contrib)/[^`]+)`", row)]
    assert len(shown) > 9
    assert [path for path in shown if not (ROOT / path).exists()] == []


# Who may import whom ------------------------------------------------------------------------------------------------

FORBIDDEN = {
    "core": ("matscale.cli", "matscale.plugins", "click", "rich"),
    "plugins": ("matscale.cli", "click", "rich"),
    "cli": ("matscale.plugins",),
}


def imports(path: Path) -> set[str]:
    """Modules that a file imports when it runs, `if TYPE_CHECKING:` left out."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("part", FORBIDDEN)
def test_core_knows_neither_the_command_line_nor_the_plugins_which_know_only_core_and_are_known_to_neither(
    part: str,
) -> None:
    files = sorted((ROOT / "src" / "matscale" / part).rglob("*.py"))
    assert len(files) > 3
    for file in files:
        wrong = [name for name in imports(file) if f"{name}.".startswith(tuple(f"{f}." for f in FORBIDDEN[part]))]
        assert not wrong, f"{file} imports {wrong}"
