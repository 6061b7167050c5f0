"""Parse the numbers in the cells of a file: decimal points or commas, marks between thousands, `20B`, `1e3`.

The decimal mark is decided for the whole file, by cells that can be read in one way only: `3.25` and `1,234,567` have a
decimal point, `3,25` and `1.234,5` a decimal comma. `1,234` could be either.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from matscale.core.errors import DataError
from matscale.core.units import parse_count

MISSING = frozenset({"", "na", "n/a", "null", "none", "-", "--", "<na>"})
"""Lower-case texts of cells without a value. `nan` is a value: the run may have diverged."""
_NUMBER = re.compile(r"[+-]?(?P<digits>[\d.,]*\d[\d.,]*)(?P<exponent>[eE][+-]?\d+)?(?P<suffix>\s*[a-zA-Z]*)")
_OTHER = {".": ",", ",": "."}
_CALLED = {".": "point", ",": "comma"}


@dataclass(frozen=True)
class Cell:
    """Cell of a file, with its row and column for messages."""

    source: str
    column: str
    text: str

    def __str__(self) -> str:
        return f"{self.text[:40]!r} ({self.source}, {self.column})"


@dataclass
class Numerals:
    """Rules for reading the numbers of a file: which marks are decimal marks, and which separate thousands.

    Each mark comes with a cell that shows its use.
    """

    decimal: dict[str, Cell] = field(default_factory=dict)
    """For each mark, a cell that shows that it is the decimal mark"""
    thousands: dict[str, Cell] = field(default_factory=dict)
    """For each mark, a cell that shows that it separates thousands"""
    grouped: set[tuple[str, str]] = field(default_factory=set)
    """(column, mark between thousands)"""

    @classmethod
    def of(cls, cells: Iterable[Cell]) -> Numerals:
        """Find the decimal and thousands marks from the cells of a file.

        Raises DataError, with both cells, if one cell contradicts another.
        """
        found = cls()
        open_: dict[tuple[str, str], Cell] = {}
        for cell in cells:
            match = _NUMBER.fullmatch(_bare(cell.text))
            digits = match["digits"] if match else ""
            for mark, is_decimal in _uses(digits, bool(match and match["exponent"])):
                if is_decimal is None:
                    open_.setdefault((cell.column, mark), cell)
                    continue
                (found.decimal if is_decimal else found.thousands).setdefault(mark, cell)
                if not is_decimal:
                    found.grouped.add((cell.column, mark))
        found._refuse_contradictions()
        for (column, mark), cell in open_.items():
            found._settle(column, mark, cell)
        return found

    def _refuse_contradictions(self) -> None:
        for mark in ".,":
            for other in (self.thousands.get(mark), self.decimal.get(_OTHER[mark])):
                if mark in self.decimal and other is not None:
                    raise DataError(
                        f"{self.decimal[mark]} has a decimal {_CALLED[mark]}, but {other} has none: numbers in one "
                        "file must be written in one way. Write decimal points, and nothing between thousands."
                    )

    def _settle(self, column: str, mark: str, cell: Cell) -> None:
        """Decide the meaning of `mark` from cells that can be read in two ways, like 1,234."""
        if mark in self.decimal:
            return
        if _OTHER[mark] in self.decimal or (column, mark) in self.grouped:
            self.thousands.setdefault(mark, cell)
        elif _OTHER[mark] in self.thousands:
            self.decimal[mark] = cell
        elif mark == "," or mark in self.thousands:
            whole, _, rest = cell.text.partition(mark)
            raise DataError(
                f"{cell.source}: {column} is {cell.text[:40]!r}, which may mean {whole}{rest} or {whole}.{rest}. No "
                f"other cell shows what a {_CALLED[mark]} means in this file. Write decimal points, and nothing "
                "between thousands."
            )

    @property
    def notes(self) -> list[str]:
        """Note on the marks that were found; empty for plain numbers."""
        told = ["decimal commas"] if "," in self.decimal else []
        told += [f"a {_CALLED[mark]} between thousands" for mark in self.thousands]
        return [f"numbers have {' and '.join(told)}"] if told else []

    def value(self, text: str) -> float:
        """Parse `text` as a number. Raises ValueError if it is not a number, or is too large for a float."""
        bare = _bare(text)
        match = _NUMBER.fullmatch(bare)
        if match is None:
            return float(bare)  # nan, inf, or an error
        digits, mark = match["digits"], "," if "," in self.decimal else "."
        for other in self.thousands:
            if other in digits:
                whole, point, rest = digits.partition(_OTHER[other])
                if not re.fullmatch(rf"\d{{1,3}}({re.escape(other)}\d{{3}})+", whole) or other in rest:
                    raise ValueError("thousands must be separated into groups of three digits")
                digits = whole.replace(other, "") + point + rest
        sign = bare[0] if bare[0] in "+-" else ""
        plain = digits.replace(mark, ".") + (match["exponent"] or "")
        suffix = match["suffix"].strip()
        value = float(parse_count(plain + ("k" if suffix == "K" else suffix))) if suffix else float(plain)
        if math.isinf(value):
            raise ValueError("the number is too large for a float")
        return -value if sign == "-" else value


def _bare(text: str) -> str:
    """Remove what programs add to numbers: quotation marks, blanks, the `=` of `="5"`, `'` between thousands."""
    bare = re.sub(r"^=?[\"'](.*)[\"']$", r"\1", text.strip()).strip().replace("\u2212", "-")
    if re.fullmatch(r"[+-]?\d{1,3}([ '’_\u00a0\u2009\u202f]\d{3})+(\D.*)?", bare):
        bare = re.sub(r"(?<=\d)[ '’_\u00a0\u2009\u202f](?=\d{3}(\D|$))", "", bare)
    return bare


def _uses(digits: str, has_exponent: bool) -> list[tuple[str, bool | None]]:
    """Marks in a number, each with whether it is the decimal mark; None if it may also separate thousands."""
    marks = [char for char in digits if char in ".,"]
    if not marks:
        return []
    if len(set(marks)) == 2:
        last = marks[-1]
        return [(last, True), (_OTHER[last], False)]
    mark = marks[0]
    if len(marks) > 1:
        return [(mark, False)]
    before, _, after = digits.partition(mark)
    could_group = len(after) == 3 and 1 <= len(before) <= 3 and before[0] != "0" and not has_exponent
    return [(mark, None if could_group else True)]
