"""A file of JSON rows that is only ever appended to: readable whatever moment its writer was killed at."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matscale.core.files import finite, write_text


class Rows:
    """Rows of a .jsonl file. Appended rows are on the disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row, flush and fsync."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(dict(row)), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Complete rows in order. A last line that was cut off by a kill is passed over."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                row = _parse(line)
                if row is not None:
                    yield row

    def cut_after(self, step: int) -> None:
        """Drop the rows of later steps (and a half-written one), in one move."""
        if self.path.exists():
            kept = [json.dumps(row, allow_nan=False) for row in self if row["step"] <= step]
            write_text(self.path, "".join(line + "\n" for line in kept))


def _parse(line: str) -> dict[str, Any] | None:
    if not line.endswith("\n"):
        return None
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None
