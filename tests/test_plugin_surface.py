"""`matscale.plugin` is what plugins import: its lists agree, its names resolve, and plugins import nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import matscale.plugin as surface

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "matscale"
PLUGINS = [*sorted((SOURCE / "plugins").rglob("*.py")), *sorted(ROOT.glob("plugins_contrib/*/matscale_*.py"))]


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def own_folder(path: Path) -> str:
    """`matscale.plugins.eqv2` for the files of that folder, and the module itself for a single file."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[: min(len(parts), 3)])


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_plugin_imports_the_public_surface_and_its_own_folder_only(path: Path) -> None:
    allowed = ("matscale.plugin", *((own_folder(path),) if path.is_relative_to(SOURCE) else ()))
    ours = [name for name in imported(path) if name.startswith("matscale.")]
    assert [name for name in ours if not any(name == a or name.startswith(a + ".") for a in allowed)] == []
    texts = [
        node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant)
    ]
    assert [text for text in texts if isinstance(text, str) and text.startswith("matscale.core.")] == []


def test_what_type_checkers_see_is_what_can_be_imported() -> None:
    tree = ast.parse(Path(surface.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == surface._LAZY
    assert sorted(surface.__all__) == sorted(surface._LAZY)


def test_names_that_plugins_rely_on_stay() -> None:
    wanted = """Architecture ArchitectureConfig DatasetInfo Graph AtomicBatch Outputs BatchShape closest graded Reader
    Labeler Loss Law Launcher Pool Tracker Importer hookimpl collate isolation full_precision times_matrix
    flops_of_kernel"""
    assert set(wanted.split()) <= set(surface.__all__)


@pytest.mark.parametrize("path", sorted(ROOT.glob("plugins_contrib/*/tests/*.py")), ids=lambda path: path.name)
def test_tests_of_an_outside_plugin_import_what_is_public(path: Path) -> None:
    ours = {name for name in imported(path) if name.startswith("matscale.")}
    assert ours <= {"matscale.plugin", "matscale.testing"}
    assert "matscale.core" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))], ids=lambda page: page.name)
def test_a_page_imports_the_public_surface_only(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").split("\n")
    assert [line for line in lines if re.search(r"\b(from|import) matscale\.(?!(plugin|testing)\b)", line)] == []


@pytest.mark.parametrize("name", sorted(surface._LAZY))
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(surface, name) is not None


def test_a_name_that_is_not_public_is_refused() -> None:
    with pytest.raises(AttributeError, match="has no name 'trainer'"):
        _ = surface.trainer
