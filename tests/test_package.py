"""What the package says of itself: its dependencies are those that it imports, and each is pinned for the tests."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from matscale.core.hosting.catalogue import canonical

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINNED = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split() if "==" in line
)


NEWER = {"compression"}
"""Modules of the standard library of later versions of Python."""


def declared(*extras: str) -> set[str]:
    """Names of the distributions that an installation with these extras asks for."""
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return {re.split(r"[<>=!; \[]", requirement)[0] for requirements in lists for requirement in requirements}


def imported() -> set[str]:
    """Top-level names of all modules that the package imports, wherever in a file."""
    nodes = [node for path in (ROOT / "src").rglob("*.py") for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - NEWER - {"matscale", "pytest"}


def test_everything_that_is_imported_is_declared_as_a_dependency() -> None:
    known, optional = packages_distributions(), ("labelers", "trackers", "figures", "tables", "hyperqueue", "phonons")
    missing = {
        module
        for module in imported()
        if not {canonical(name) for name in known.get(module, [module])} & {*map(canonical, declared(*optional))}
    }
    assert not missing


@pytest.mark.parametrize("name", sorted(declared()))
def test_every_dependency_is_pinned_to_a_version_that_was_tested(name: str) -> None:
    assert name in PINNED


def test_torch_is_pinned_to_the_tested_version() -> None:
    assert PINNED["torch"] == "2.13.0"
