"""Examples in docstrings and in docs/python.md are true: each is run, in a folder with a little data set and a run.

`emt` is made of 40 structures of copper and gold here, and `runs/first` is a small SchNet that was trained on it.
"""

from __future__ import annotations

import ast
import doctest
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import matscale
from matscale.core.data.named import catalog
from matscale.core.data.synthetic.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
DOCUMENTED = (ast.FunctionDef, ast.ClassDef, ast.Module)


def examples() -> Iterator[tuple[str, str, str]]:
    """(module, name in it, docstring) of every docstring with an example."""
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if ">>>" in text:
            module = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
            yield from ((module, name, doc) for name, doc in _docstrings(ast.parse(text), "") if ">>>" in doc)


def _docstrings(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, DOCUMENTED) and (doc := ast.get_docstring(node)):
        yield prefix or "module", doc
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield from _docstrings(child, f"{prefix}.{child.name}".lstrip("."))


EXAMPLES = list(examples())


@pytest.fixture(scope="module", autouse=True)
def _workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A working folder with `runs/first`, and a little `emt`."""
    folder = tmp_path_factory.mktemp("examples")
    recipe = Recipe(n=40, per_parent=4, elements=("Cu", "Au"), max_atoms=4, dynamics=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MATSCALE_CACHE", str(folder / "cache"))
        patch.setattr(catalog, "EMBEDDED", {"emt": recipe})
        patch.setattr(catalog, "usable_cores", lambda: 1)
        matscale.train(arch="schnet", params="3k", data="emt", epochs=2, output="runs/first", quiet=True)
        yield


def check(name: str, text: str, names: dict[str, object]) -> None:
    """Run the examples of `text`. Fails with what was expected and what came."""
    found = doctest.DocTestParser().get_doctest(text, {"matscale": matscale, **names}, name, name, 0)
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found, out=told.append)
    assert not told, "".join(told)


@pytest.mark.parametrize(("module", "name", "doc"), [pytest.param(*e, id=f"{e[0]}:{e[1]}") for e in EXAMPLES])
def test_an_example_in_a_docstring_is_true(module: str, name: str, doc: str) -> None:
    there: ModuleType = import_module(module)
    check(f"{module}:{name}", doc, dict(vars(there)))


def test_sixty_docstrings_have_an_example() -> None:
    assert len([name for _, name, _ in EXAMPLES if not name.rpartition(".")[2].startswith("_")]) >= 60


@pytest.mark.parametrize("name", sorted(matscale._LAZY))
def test_every_public_name_has_an_example(name: str) -> None:
    assert ">>>" in (getattr(matscale, name).__doc__ or "")


def test_the_examples_of_the_page_on_python_are_true() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```pycon\n(.*?)^```", page, flags=re.M | re.S)
    assert blocks
    check("docs/python.md", "\n".join(blocks), {})


def test_a_false_example_is_found() -> None:
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        check("sum", ">>> 1 + 1\n3\n", {})
