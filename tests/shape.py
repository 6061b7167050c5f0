"""Shape of the package in figures, of this tree or of another: `python -m tests.shape [ROOT] [--strict]`.

Files and their lines, the fullest folder, circles of imports, places that repeat each other, examples in docstrings.
`--strict` counts the errors of `mypy --strict`, too, which takes a minute.

Places repeat each other if they share six lines of logic in a row. Rows of a table of constants are no logic and are
left out. Neither are declarations: a keyword argument on a line of its own whose value is a name, an attribute or a
constant (`build=build,`), and an annotated field in the body of a class (`n: int = 3`). They are not among the six
lines, but if some stand between the six, both places have the same ones. "Of the same shape" includes the same.
"""

from __future__ import annotations

import argparse
import ast
import io
import keyword
import subprocess
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import NamedTuple

LINES = 6
"""Lines from which on two places count as a pair."""
_STATEMENTS = frozenset(keyword.kwlist) - {"True", "False", "None"}


def modules(root: Path) -> dict[str, Path]:
    """Module -> its file, of everything below `src`."""
    files = sorted((root / "src").rglob("*.py"))
    return {".".join(f.relative_to(root / "src").with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def imported(path: Path, known: Mapping[str, Path]) -> Iterator[tuple[str, ast.stmt, bool]]:
    """(module of ours, the statement, whether it is inside a function); what only type checkers see is left out."""

    def walk(node: ast.AST, is_lazy: bool) -> Iterator[tuple[str, ast.stmt, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in known else node.module or ""), node, is_lazy
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node, is_lazy) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, is_lazy or isinstance(node, ast.FunctionDef))

    return (found for found in walk(ast.parse(path.read_text(encoding="utf-8")), False) if found[0] in known)


def in_circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Sets of nodes that reach each other."""

    def reached(start: str) -> set[str]:
        seen, left = set[str](), [start]
        while left:
            new = graph.get(left.pop(), set()) - seen
            seen |= new
            left += new
        return seen

    reach = {node: reached(node) for node in graph}
    circles = {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in graph if a in reach[a]}
    return [set(circle) for circle in circles if len(circle) > 1]


def room(module: str) -> str:
    """`core.data` of all that is below it; a loose file of the core, such as `core.files`, is a room of its own."""
    return ".".join(module.split(".")[1 : 3 if module.startswith("matscale.core.") else 2])


class Line(NamedTuple):
    """Line of code."""

    number: int
    tokens: tuple[str, ...]
    kinds: tuple[str, ...]
    """The tokens, except that names are N, texts and numbers L."""
    is_declaration: bool


def declarations(tree: ast.AST, text: str, rows: Mapping[int, str]) -> set[int]:
    """Lines of annotated fields of classes, and of keyword arguments without logic that have their line for themselves.

    `rows` has the lines without blanks and comments.
    """
    found = set[int]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for row in node.body:
                if isinstance(row, ast.AnnAssign):
                    found |= set(range(row.lineno, (row.end_lineno or row.lineno) + 1))
        elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Name | ast.Attribute | ast.Constant):
            is_alone = rows.get(node.lineno, "").removesuffix(",") == ast.get_source_segment(text, node)
            found |= {node.lineno} if is_alone else set()
    return found


def code_lines(path: Path) -> list[Line]:
    """Lines of code of a file; docstrings, imports and rows of a table of constants are left out."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    left_out = set[int]()
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    tokens: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.start[0] in left_out or token.type in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE):
            continue
        if token.string.strip():
            is_name = token.type == tokenize.NAME and not keyword.iskeyword(token.string)
            is_literal = token.type in (tokenize.STRING, tokenize.NUMBER)
            kind = "N" if is_name else "L" if is_literal else token.string
            tokens[token.start[0]].append((token.string, kind))
    rows = {line for line, found in tokens.items() if not any(k == "N" or k in _STATEMENTS for _, k in found)}
    declared = declarations(tree, text, {line: "".join(t for t, _ in found) for line, found in tokens.items()})
    return [
        Line(number, tuple(t for t, _ in found), tuple(k for _, k in found), number in declared)
        for number, found in sorted(tokens.items())
        if number not in rows
    ]


def pairs(files: list[Path], of_shape: bool) -> int:
    """Pairs of places that share six lines or more: word for word, or with other names in a consistent way."""
    places: dict[Hashable, list[tuple[int, int]]] = defaultdict(list)
    for number, path in enumerate(files):
        lines = code_lines(path)
        logic = [place for place, line in enumerate(lines) if not line.is_declaration]
        for start, (first, last) in enumerate(zip(logic, logic[LINES - 1 :])):
            window = lines[first : last + 1]
            words = sum(len(line.tokens) for line in window if not line.is_declaration)
            if words < 4 * LINES:  # brackets and single words
                continue
            if not of_shape:
                places[tuple(line.tokens for line in window)].append((number, start))
                continue
            names: dict[str, str] = {}
            shape = [
                tuple(names.setdefault(t, f"N{len(names)}") if k == "N" else k for t, k in zip(line.tokens, line.kinds))
                for line in window
            ]
            places[tuple(shape)].append((number, start))
    found = {pair for same in places.values() for pair in combinations(same, 2)}
    apart = {(a, b) for a, b in found if a[0] != b[0] or abs(a[1] - b[1]) >= LINES}
    return sum(((a[0], a[1] - 1), (b[0], b[1] - 1)) not in apart for a, b in apart)  # where each begins


def figures(root: Path, strict: bool) -> Iterator[tuple[str, str]]:
    """Name and value of each figure."""
    found = modules(root)
    files = list(found.values())
    lines = [len(file.read_text(encoding="utf-8").splitlines()) for file in files]
    yield "files", f"{len(files)}, median {median(lines):.0f} lines, longest {max(lines)}"
    folders = Counter(file.parent for file in files if file.name != "__init__.py")
    (fullest, n), *_ = folders.most_common(1)
    yield "fullest folder", f"{n} modules: {fullest.relative_to(root / 'src')}"
    graph = {module: {target for target, _, _ in imported(path, found)} - {module} for module, path in found.items()}
    yield "circles of files", circles_in_words(in_circles(graph))
    rooms: dict[str, set[str]] = defaultdict(set)
    for module, targets in graph.items():
        rooms[room(module)] |= {room(target) for target in targets} - {room(module), ""}
    yield "circles of rooms", circles_in_words(in_circles({name: rooms[name] for name in rooms if name}))
    yield f"pairs of {LINES} lines, the same", str(pairs(files, of_shape=False))
    yield f"pairs of {LINES} lines, of the same shape", str(pairs(files, of_shape=True))
    documented = [
        node
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ">>> " in (ast.get_docstring(node) or "")
    ]
    yield "docstrings with a tested example", str(len(documented))
    if strict:
        command = [sys.executable, "-m", "mypy", "--strict", "src/matscale"]
        told = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout
        yield "errors of mypy --strict", told.strip().rsplit("\n", 1)[-1]


def circles_in_words(circles: list[set[str]]) -> str:
    """How many, and of how many."""
    return f"{len(circles)}" + (f", of {sum(map(len, circles))} in all" if circles else "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, nargs="?", default=Path(__file__).resolve().parents[1])
    parser.add_argument("--strict", action="store_true")
    given = parser.parse_args()
    for name, value in figures(given.root, given.strict):
        print(f"{name:40s} {value}", flush=True)
