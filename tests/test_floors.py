"""Floors of the package: which part may import which, in imports at the top of a file and inside functions alike."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from shape import imported, in_circles, modules, room

FLOORS = [
    {"hosting"},
    {"data"},
    {"model"},
    {"runs", "flops"},
    {"train", "contract"},
    {"baselines", "estimate"},
    {"inference", "study"},
    {"properties"},
    {"fairchem"},
    {"scaling"},
    {"report", "view", "attention"},
]
"""Rooms of `matscale.core` from the ground up, as in docs/architecture.md; loose files lie below them all."""
OUTSIDE = {
    "core": ("cli", "plugins", "api", "plugin", "testing"),
    "cli": ("plugins",),
    "core.data": ("core.model", "core.train"),
    "core.model": ("core.runs", "core.train"),
    "core.flops": ("core.train",),
    "core.runs": ("core.train", "core.study"),
    "core.train": ("core.inference", "core.estimate", "core.study", "core.scaling"),
    "core.scaling": ("core.train",),
    "core.report": ("core.train",),
}
"""Part -> what none of its files may import, whichever of the two is higher. Plugins: see test_plugin_surface.py."""

IMPORTS = (ast.Import, ast.ImportFrom)
REASON = re.compile(r".*# (?:(?:start-up|optional): \w|not on Windows)")
"""Why an import stands inside a function: what need not be waited for, or what may not be there."""

ROOT = Path(__file__).resolve().parents[1]


@cache
def found() -> dict[str, Path]:
    """The modules of the package by their names."""
    return modules(ROOT)


@cache
def arrows() -> set[tuple[str, str]]:
    """(module, module that it imports)."""
    return {(module, target) for module, path in found().items() for target, _, _ in imported(path, found())}


def floor(module: str) -> int | None:
    """Number of the floor of a module of the core, 0 for the ground; None for a loose file."""
    found = [k for k, rooms in enumerate(FLOORS) if room(module).removeprefix("core.") in rooms]
    return found[0] if found else None


def test_no_import_goes_up() -> None:
    up = set()
    for module, target in arrows():
        if module.startswith("matscale.core.") and target.startswith("matscale.core."):
            low, high = floor(module), floor(target)
            if high is not None and (low is None or high > low):
                up.add((module, target))
    assert up == set()


@pytest.mark.parametrize("part", OUTSIDE)
def test_no_import_goes_out(part: str) -> None:
    def is_in(module: str, *parts: str) -> bool:
        return any(f"{module}.".startswith(f"matscale.{name}.") for name in parts)

    assert {arrow for arrow in arrows() if is_in(arrow[0], part) and is_in(arrow[1], *OUTSIDE[part])} == set()


def test_every_room_has_a_floor_and_stands_in_the_picture() -> None:
    folders = {path.parent.name for path in (ROOT / "src/matscale/core").glob("*/__init__.py")}
    assert folders == set().union(*FLOORS)
    picture = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## Floors")[2].partition("## ")[0]
    assert [name for name in sorted(folders) if not re.search(rf"^ .*\b{name}\b", picture, re.MULTILINE)] == []
    within = {path.parent.name for path in (ROOT / "src/matscale/core").glob("*/*/__init__.py")}
    assert [name for name in sorted(within) if not re.search(rf"^ .*\b{name}/", picture, re.MULTILINE)] == []


def test_folders_of_tests_have_the_names_of_the_parts_that_they_test() -> None:
    parts = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").glob("c*/**/test_*.py")}
    parts |= {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").glob("plugins/**/test_*.py")}
    assert len(parts) > 20
    assert [str(part) for part in sorted(parts) if not (ROOT / "src/matscale" / part).is_dir()] == []


@pytest.mark.parametrize("of", [str, room], ids=["files", "rooms"])
def test_what_is_imported_makes_no_circle(of: Callable[[str], str]) -> None:
    graph: dict[str, set[str]] = {}
    for module, target in arrows():
        if of(module) != of(target):
            graph.setdefault(of(module), set()).add(of(target))
    assert in_circles(graph) == []


def imports_in_functions(path: Path) -> Iterator[ast.stmt]:
    """The first of each run of imports inside a function."""
    functions = (f for f in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(f, ast.FunctionDef))
    nodes = (node for function in functions for node in ast.walk(function))
    for body in (getattr(node, part, ()) for node in nodes for part in ("body", "orelse", "finalbody")):
        for before, statement in pairwise((None, *body) if isinstance(body, list) else ()):
            if isinstance(statement, IMPORTS) and not isinstance(before, IMPORTS):
                yield statement


def test_an_import_inside_a_function_says_whether_it_is_for_start_up_or_an_optional_package() -> None:
    without = set()
    for module, path in found().items():
        lines = path.read_text(encoding="utf-8").split("\n")
        for statement in imports_in_functions(path):
            above, line = lines[statement.lineno - 2].strip(), lines[statement.lineno - 1]
            if not (REASON.search(line) or REASON.match(above)):
                without.add(f"{module}: {line.strip()}")
    assert without == set()
