"""Comment line of an extended XYZ frame: `key=value` pairs by the grammar of libAtoms/extxyz.

    key      bare or quoted; without a value, it means true
    value    number, boolean, bare text, "quoted text" with \\" \\\\ and \\n
             old arrays "1 2 3" {1 2 3}, new arrays [1, 2, 3] [[1, 2], [3, 4]]

ASE's extensions of the grammar are read, too: 'single quotes', numbers separated by commas, nan and inf, and text that
begins with `_JSON`. An array of texts is a list. Two faults that ASE's parser accepts make the structure unusable here,
because a value would be lost: a bracket or quote that is not closed, and a key with two different values.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from matscale.plugin import Unusable

_DOUBLE, _SINGLE = r'"[^"\\]*(?:\\.[^"\\]*)*"', r"'[^'\\]*(?:\\.[^'\\]*)*'"
_PAIR = re.compile(rf"({_DOUBLE}|{_SINGLE}|[^\s=\"'][^\s=]*)(?:\s*=\s*({_DOUBLE}|{_SINGLE}|(?=[\"'{{\[])|\S*))?")
_PART = re.compile(rf"{_DOUBLE}|[^\s,]+")
_BRACKET = re.compile(rf"{_DOUBLE}|[\[\]{{}}]")
_ESCAPE = re.compile(r"\\(.)")
_INTEGER = re.compile(r"[-+]?\d+")
_FORTRAN = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[dD][-+]?\d+")
_BOOLEAN = {
    "T": True,
    "true": True,
    "True": True,
    "TRUE": True,
    "F": False,
    "false": False,
    "False": False,
    "FALSE": False,
}
_TEXTS = ("uid",)
"""Keys whose values stay text, as in ASE."""


def parse_comment(line: str) -> dict[str, Any]:
    """Parse a comment line into values by key: bool, int, float, str, array of numbers or booleans, or list of str.

    Raises Unusable if the line cannot be parsed.

    >>> parse_comment('energy=-1.5 stress="1 2 3 4 5 6" pbc=[T, T, F] tag="a b" done')["pbc"]
    array([ True,  True, False])
    """
    found: dict[str, Any] = {}
    texts: dict[str, str | None] = {}
    place = 0
    while (pair := _PAIR.search(line, place)) is not None:
        key, text = pair[1], pair[2]
        place = pair.end()
        if key[0] in "\"'":
            key = _unescaped(key)
        if text == "" and place < len(line):
            end = _closing(line, place, key)
            text, place = line[place:end], end
        if texts.setdefault(key, text) != text:
            raise Unusable("unreadable", f"{key} is given twice in the comment line: {texts[key]}, but then {text}")
        found[key] = _value(key, text)
    return found


def _closing(line: str, start: int, key: str) -> int:
    """Position after the bracket that closes the one at `start`; brackets in quotes are skipped."""
    depth = 0
    if line[start] in "\"'":  # a complete quoted text would have been found
        raise _unclosed(line, start, key)
    for mark in _BRACKET.finditer(line, start):
        if len(mark[0]) == 1:
            depth += 1 if mark[0] in "[{" else -1
            if depth <= 0:
                return mark.end()
    raise _unclosed(line, start, key)


def _unclosed(line: str, start: int, key: str) -> Unusable:
    return Unusable("unreadable", f"{key} begins with {line[start]} in the comment line, and is not closed")


def _value(key: str, text: str | None) -> Any:
    if text is None:
        return True
    if not text:
        return ""
    if text[0] == "[":
        return _array(text, key)
    quoted = text[0] in "\"'"
    plain = _unescaped(text) if quoted else text[1:-1] if text[0] == "{" else text
    if key.lower() in _TEXTS:
        return plain
    if text[0] == "{" and '"' in plain:
        parts = [_unescaped(part) if part[0] == '"' else part for part in _PART.findall(plain)]
    else:
        parts = plain.replace(",", " ").split()
    values = _typed(parts)
    if values is not None:
        return values[0] if len(values) == 1 else np.array(values)
    if plain.startswith("_JSON "):
        return _json(plain[6:])
    return parts if text[0] == "{" and len(parts) > 1 and "{" not in plain and ":" not in plain else plain


def _array(text: str, key: str) -> Any:
    """Parse a new-style array, of one dimension or two."""
    inner = text[1:-1].strip()
    if "[" not in re.sub(_DOUBLE, "", inner):
        rows = [inner]
    else:
        rows = re.findall(rf"\[((?:{_DOUBLE}|[^\[\]])*)\]", inner)
    parts = [[_unescaped(part) if part[0] == '"' else part for part in _PART.findall(row)] for row in rows]
    if len({len(row) for row in parts}) > 1:
        raise Unusable("unreadable", f"{key} has rows of different lengths in the comment line: {text[:60]}")
    flat = [part for row in parts for part in row]
    values = _typed(flat)
    if values is None:
        return flat if len(rows) == 1 and inner[:1] != "[" else [list(row) for row in parts]
    return np.array(values).reshape(len(parts), -1) if inner[:1] == "[" else np.array(values)


def _typed(parts: list[str]) -> list[Any] | None:
    """Convert all `parts` to integers, numbers or booleans; None if some of them are other texts."""
    if not parts:
        return None
    if all(map(_INTEGER.fullmatch, parts)):
        integers = [int(part) if len(part) < 4000 else float(part) for part in parts]
        return integers if len(parts) == 1 or all(abs(i) < 2**63 for i in integers) else [float(p) for p in parts]
    try:
        return [float(part) for part in parts] if "_" not in "".join(parts) else None
    except ValueError:
        pass
    if all(part in _BOOLEAN for part in parts):
        return [_BOOLEAN[part] for part in parts]
    try:
        fortran = [re.sub("[dD]", "e", part) if _FORTRAN.fullmatch(part) else part for part in parts]
        return [float(part) for part in fortran] if fortran != parts else None
    except ValueError:
        return None


def _unescaped(text: str) -> str:
    inner = text[1:-1]
    return _ESCAPE.sub(lambda mark: "\n" if mark[1] == "n" else mark[1], inner) if "\\" in inner else inner


def _json(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unusable(
            "unreadable", f"a _JSON value in the comment line is not valid JSON ({type(error).__name__}: {error})"
        ) from None
    try:
        array = np.array(value)
    except ValueError:  # lists of different lengths
        return value
    return array if array.dtype.kind in "ifb" else value
