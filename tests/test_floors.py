"""Floors of the package: which part may import which, in imports at the top of a file and inside functions alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from shape import imported, in_circles, modules

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

MODULES = modules(Path(__file__).resolve().parents[1])


@pytest.mark.parametrize("part", FORBIDDEN)
def test_no_import_goes_up(part: str) -> None:
    def is_in(module: str, *parts: str) -> bool:
        return any(f"{module}.".startswith(f"matscale.{name}.") for name in parts)

    files = [module for module in MODULES if is_in(module, part)]
    arrows = {(module, target) for module in files for target, _, _ in imported(MODULES[module], MODULES)}
    assert {arrow for arrow in arrows if is_in(arrow[1], *FORBIDDEN[part])} == set()


def test_files_import_each_other_in_no_circle() -> None:
    graph = {module: {target for target, _, _ in imported(path, MODULES)} for module, path in MODULES.items()}
    assert in_circles(graph) == []


def test_an_import_inside_a_function_of_the_core_says_that_it_is_there_for_start_up() -> None:
    for module, path in MODULES.items():
        lines = path.read_text(encoding="utf-8").split("\n")
        for target, statement, is_lazy in imported(path, MODULES):
            if is_lazy and module.startswith("matscale.core."):
                assert "# start-up: " in lines[statement.lineno - 1], f"{module} imports {target} in a function"
