"""Floors of the package: which part may import which, in imports at the top of a file and inside functions alike."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
FORBIDDEN = {
    "core.data": ("core.model", "core.train"),
    "core.model": ("core.runs", "core.train"),
    "core.flops": ("core.train",),
    "core.runs": ("core.train", "core.study"),
    "core.train": ("core.inference", "core.estimate", "core.study", "core.scaling"),
    "core.scaling": ("core.train",),
    "core": ("cli", "plugins"),
    "cli": ("plugins",),
}
"""Part -> what none of its files may import. Plugins: see test_plugin_surface.py."""

FILES = {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in SOURCE.rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}


def imported(path: Path) -> Iterator[tuple[str, ast.stmt, bool]]:
    """(module of ours, the statement, whether it is inside a function); what only type checkers see is left out."""

    def walk(node: ast.AST, is_lazy: bool) -> Iterator[tuple[str, ast.stmt, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in MODULES else node.module or ""), node, is_lazy
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node, is_lazy) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, is_lazy or isinstance(node, ast.FunctionDef))

    return (found for found in walk(ast.parse(path.read_text(encoding="utf-8")), False) if found[0] in MODULES)


@pytest.mark.parametrize("part", FORBIDDEN)
def test_no_import_goes_up(part: str) -> None:
    def is_in(module: str, *parts: str) -> bool:
        return any(f"{module}.".startswith(f"matscale.{name}.") for name in parts)

    files = [module for module in MODULES if is_in(module, part)]
    arrows = {(module, target) for module in files for target, _, _ in imported(MODULES[module])}
    assert {arrow for arrow in arrows if is_in(arrow[1], *FORBIDDEN[part])} == set()


def test_files_import_each_other_in_no_circle() -> None:
    left = {module: {target for target, _, _ in imported(path)} - {module} for module, path in MODULES.items()}
    while free := [module for module, targets in left.items() if not targets & left.keys()]:
        for module in free:
            del left[module]
    assert sorted(left) == []


def test_an_import_inside_a_function_of_the_core_says_that_it_is_there_for_start_up() -> None:
    for module, path in MODULES.items():
        lines = path.read_text(encoding="utf-8").split("\n")
        for target, statement, is_lazy in imported(path):
            if is_lazy and module.startswith("matscale.core."):
                assert "# start-up: " in lines[statement.lineno - 1], f"{module} imports {target} in a function"
