"""Read the rows of a table file as dictionaries: CSV in its dialects, JSON, JSON lines or parquet.

Cells stay as they are written.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from matscale.core.errors import DataError, MatscaleError
from matscale.core.files import open_file

DELIMITED = (".csv", ".tsv", ".txt", ".dat")
SUFFIXES = (*DELIMITED, ".json", ".jsonl", ".ndjson", ".parquet")
SAMPLE = 50
"""Number of lines from which the separator is determined."""
LONGEST = 131_072
"""Largest number of characters in a cell; a longer cell has an unclosed quotation mark."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = {"\t": "tabs", ";": "';'", "|": "'|'", ",": "','"}
_NUMERIC = re.compile(r"[+-]?[\d.,]*\d[\d.,]*([eE][+-]?\d+)?[kKMGBTPE]?")
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_records(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the rows of `path` as dictionaries; also return notes, if the file is not plain CSV or JSON.

    Raises DataError, with file, row and column, for text, rows and cells that cannot be read.
    """
    if path.suffix.lower() == ".parquet":
        return _checked(path, _parquet(path)), []
    text, notes = _text(path)
    if path.suffix.lower() in DELIMITED:
        return _delimited(path, text, notes)
    return _checked(path, _json(path, text) if path.suffix.lower() == ".json" else list(_json_lines(path, text))), notes


# Text ---------------------------------------------------------------------------------------------------------------


def _text(path: Path) -> tuple[str, list[str]]:
    try:
        with open_file(path) as file:
            data = file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from None
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    if not encoding and data[:2].count(0) == 1:
        encoding = "utf-16-le" if data[1] == 0 else "utf-16-be"
    if encoding in ("", "utf-8"):
        # Bytes that are no UTF-8 become surrogates here, so that `_check` can name the row and column they stand in.
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape"), []
    try:
        return data.decode(encoding), [f"the text is {encoding[:6].upper()}"]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not valid {encoding.upper()} text ({error.reason}). Save it in UTF-8.") from None


def _check(path: Path, place: str, column: str, cell: str) -> None:
    """Raises DataError if a cell has broken or NUL characters, or is too long."""
    where = f"{place}, column {_short(column)}" if column else place
    if found := _SURROGATE.search(cell):
        what = f"byte 0x{ord(found[0]) - 0xDC00:02X}" if 0xDC80 <= ord(found[0]) <= 0xDCFF else "half a character"
        raise DataError(f"{path}: is not UTF-8 text ({where}: {what}). Save it in UTF-8.")
    if "\0" in cell:
        raise DataError(f"{path}: {where} has a NUL character. The file is damaged or is not a table. Save it again.")
    if len(cell) > LONGEST:
        raise DataError(
            f"{path}: {where} has {len(cell):,} characters; at most {LONGEST:,} are read. Close the quotation mark "
            "that was left open before it, or leave the column out."
        )


def _checked(path: Path, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for number, record in enumerate(records, start=1):
        for column, cell in record.items():
            _check(path, f"row {number}", "", column)
            if isinstance(cell, str):
                _check(path, f"row {number}", column, cell)
    return records


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Delimited text -----------------------------------------------------------------------------------------------------


def _delimited(path: Path, text: str, notes: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    lines = list(io.StringIO(text.lstrip(), newline=""))
    separator, comments = "", []
    if lines and (said := re.fullmatch(r"sep=(.)", lines[0].strip())):  # as Excel writes it
        separator, lines = said[1], lines[1:]
    while lines and lines[0].lstrip().startswith("#"):
        comments.append(lines.pop(0).strip().lstrip("#").strip())
    head = [line for line in lines[:SAMPLE] if line.strip()]
    # numpy.savetxt puts the names of the columns into a comment.
    if comments and (not head or _has_numbers(head[0])):
        lines.insert(0, comments[-1] + "\n")
        head.insert(0, comments[-1])
        notes = [*notes, "the names of the columns are in a comment"]
    if not head:
        return [], notes
    separator = separator or _separator(path, head[0], head[1:])
    names, *rows = _cells(path, "".join(lines), separator)
    if len(names) > 1 and separator != ("\t" if path.suffix.lower() == ".tsv" else ","):
        notes = [*notes, f"cells are separated by {_SEPARATORS.get(separator, 'blanks')}"]
    _check_names(path, names)
    return _records(path, names, rows, notes)


def _has_numbers(line: str) -> bool:
    return any(_NUMERIC.fullmatch(cell.strip(" \"'")) for cell in re.split(r"[\t;|,]| +", line) if cell.strip())


def _separator(path: Path, header: str, body: Sequence[str]) -> str:
    """Separator between cells: the character that divides most rows into as many cells as the header has.

    If there are several, the character that gives most cells is chosen.
    """

    def count(line: str, by: str) -> int:
        return len(next(csv.reader([line], delimiter=by, skipinitialspace=True), []))

    with _long_cells(max(map(len, (header, *body)))):
        counts = {by: count(header, by) for by in _SEPARATORS}
        scores = {
            by: (sum(count(line, by) == n for line in body) / max(len(body), 1), n) for by, n in counts.items() if n > 1
        }
    if scores:
        return max(scores, key=lambda by: scores[by])
    words = len(header.split())
    if words > 1 and body:
        if any(len(line.split()) != words for line in body):
            raise DataError(
                f"{path}: the separator of the columns is unclear: the first line has {words} words and no comma, "
                "semicolon or tab, but other lines have more or fewer words. Write commas between the cells."
            )
        return " "
    return ","


@contextmanager
def _long_cells(length: int) -> Iterator[None]:
    """Context in which csv reads cells of any length; `_check` then refuses them, with row and column."""
    before = csv.field_size_limit(max(length, LONGEST) + 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _cells(path: Path, text: str, separator: str) -> Iterator[list[str]]:
    """Split text into rows of stripped cells; the first is the header, if there is one."""
    if separator == " ":
        yield from (line.split() for line in text.splitlines() if line.strip())
        return
    number = 0
    with _long_cells(len(text)):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
        try:
            for row in reader:
                cells = [cell.strip() for cell in row]
                if any(cells):
                    yield cells
                    number += 1
        except csv.Error as error:
            raise DataError(
                f"{path}: line {reader.line_num} (row {max(number, 1)}) is not CSV ({error}). Close every quotation "
                "mark, and double those inside a cell."
            ) from None


def _check_names(path: Path, names: Sequence[str]) -> None:
    for name in names:
        _check(path, "the first line", "", name)
    twice = [name for name, times in Counter(filter(None, names)).items() if times > 1]
    if twice:
        raise DataError(f"{path}: has two columns {twice[0]!r}, of which one would be lost. Rename or remove one.")
    if names and all(_NUMERIC.fullmatch(name) for name in names if name):
        raise DataError(
            f"{path}: its first line is {_short(', '.join(names))}: these are numbers, no names of columns. Insert a "
            "line with the names above it, for example n,loss."
        )


def _records(
    path: Path, names: list[str], rows: list[list[str]], notes: list[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    hashes = sum(row[0].startswith("#") for row in rows)
    records: list[dict[str, Any]] = []
    left_out = 0
    for row in rows:
        number = len(records) + 1
        if row[0].startswith("#") and hashes < len(rows):  # if all names begin with it, it is part of the names
            if len(row) == len(names):
                raise DataError(
                    f"{path.name} row {number}: begins with '#', so it may be a comment or a row of the table. Remove "
                    "the line if it is a comment; otherwise remove the '#'."
                )
            left_out += 1
            continue
        if any(row[len(names) :]):
            raise DataError(
                f"{path.name} row {number}: has more cells than the {len(names)} columns of the first line. Write "
                "decimal points, quote text that holds the separator, and give every column a name."
            )
        for name, cell in zip(names, row):
            _check(path, f"row {number}", name, cell)
        records.append(
            {name: cell for name, cell in (*zip(names, row), *((n, None) for n in names[len(row) :])) if name}
        )
    if any(not name and any(len(row) > k and row[k] for row in rows) for k, name in enumerate(names)):
        notes = [*notes, "a column without a name is left out"]
    return records, [*notes, f"{left_out} lines that begin with '#' are comments"] if left_out else notes


# JSON and parquet ---------------------------------------------------------------------------------------------------


def _json_lines(path: Path, text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        if _SURROGATE.search(line):
            _check(path, f"line {number}", "", line)
        record = _parsed(line, f"{path}: line {number}", "Write one object per line.")
        if not isinstance(record, dict):
            raise DataError(f"{path}: line {number} is {_short(line)}, not an object. Write one object per line.")
        yield record


def _json(path: Path, text: str) -> list[dict[str, Any]]:
    advice = "Write a list of objects, one per row: pandas does so with to_json(orient='records')."
    if _SURROGATE.search(text):
        _check(path, "the text", "", text)
    records = _parsed(text, f"{path}:", advice)
    if isinstance(records, dict) and isinstance(records.get("log_history"), list):
        raise DataError(
            f"{path}: is the state of a Hugging Face trainer, which holds a single run. Write the validations of all "
            f"runs into one table with this command, then add a column n with the parameters of each run: "
            f"{_TRAINER_STATES}"
        )
    rows = [k for k, v in records.items() if _are_objects(v)] if isinstance(records, dict) else []
    if rows:
        raise DataError(
            f"{path}: its rows are under the key {_short(rows[0])}. Write this list alone into a file. {advice}"
        )
    if not _are_objects(records):
        raise DataError(f"{path}: is not a list of objects. {advice}")
    return records


def _are_objects(values: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(values, list) and all(isinstance(value, dict) for value in values)


_TRAINER_STATES = (
    'python -c \'import glob, json; out = open("runs.jsonl", "w"); [print(json.dumps({"run": file, "step": '
    'row["step"], "eval_loss": row["eval_loss"]}), file=out) for file in glob.glob("**/trainer_state.json", '
    'recursive=True) for row in json.load(open(file))["log_history"] if "eval_loss" in row]\''
)


def _parsed(text: str, place: str, advice: str) -> Any:
    def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
        if twice:
            raise DataError(
                f"{place} has two values of the key {_short(twice[0])}, of which one would be lost. Remove one."
            )
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=refuse_twice)
    except (ValueError, RecursionError) as error:
        told = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{place} is not JSON ({told}). {advice}") from None


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet  # optional: pyarrow
    except ImportError:
        raise MatscaleError(
            f"{path}: parquet files are read by pyarrow, which is not installed. Install it with "
            'pip install "matscale[tables]", or save the table as CSV.'
        ) from None

    def refuse(error: object) -> NoReturn:
        raise DataError(f"{path}: is not a readable parquet file ({error}). Write it again, or save it as CSV.")

    try:
        # Without memory map and threads, a damaged file raises an error and does nothing else.
        table = parquet.ParquetFile(path, memory_map=False).read(use_threads=False)
        twice = [name for name, times in Counter(table.column_names).items() if times > 1]
        rows = [] if twice else table.to_pylist()
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        refuse(error)
    if twice:
        refuse(f"two columns are called {_short(twice[0])}")
    return rows
