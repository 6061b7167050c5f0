"""Docstrings of matscale, outside plugins and benchmarks begin with a noun or a verb, and hold no riddle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("src/matscale", "plugins_contrib", "benchmarks")
FILES = [file for part in PARTS for file in sorted((ROOT / part).rglob("*.py"))]
FIRST_WORDS = ("Of", "By", "On", "What")
RIDDLES = ("whoever", "nobody", "ours", "theirs", "is called so", "cannot be had", "be it", "in vain", "what became of")
REFUSED = re.compile(rf"\A(?:{'|'.join(FIRST_WORDS)})\b|(?i:\b(?:{'|'.join(RIDDLES)})\b)")

OLD_NAMES = """readable_form is_readable_wanted recomputed_in_place_of Rule read_rule write_rule Feed crew nursery
undisturbed outlook"""
"""Names that gave way to a term of the field or to the name of the same thing elsewhere."""


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every string that is a statement: of modules, classes, functions, and below assignments."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, " ".join(text.split())


def test_docstrings_are_in_plain_words():
    offenders = [
        f"{file.relative_to(ROOT)}:{line}: {found[0]!r} in {text[:80]!r}"
        for file in FILES
        for line, text in docstrings(file.read_text(encoding="utf-8"))
        if (found := REFUSED.search(text))
    ]
    assert not offenders, "\n".join([f"{len(offenders)} docstrings to rewrite:", *offenders])


def test_comments_hold_no_riddle():
    riddle = re.compile(rf"(?i:#.*\b(?:{'|'.join(RIDDLES)})\b)")  # scripts inside strings have comments too
    offenders = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in FILES
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if riddle.search(line)
    ]
    assert not offenders, "\n".join(offenders)


def test_names_that_were_replaced_do_not_come_back():
    found = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        for name in (getattr(node, field, None) for field in ("id", "name", "attr"))
        if name in OLD_NAMES.split()
    }
    assert found == set()
