"""Files of a run folder: their names, and the rows of .jsonl files. Does not import torch.

A .jsonl file has one JSON object per line and only grows, so that it stays readable if the writing process is killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from matscale.core.files import append_text, finite, open_file, write_blocks

FORMAT_VERSION = 1
CONFIG, INFO, METRICS, SAMPLES, GEOMETRIES = "config.toml", "run.json", "metrics.jsonl", "samples.jsonl", "samples.json"

RESUMABLE = (
    "budget.max_time",
    "skip_nonfinite",
    "compute.device",
    "compute.threads",
    "compute.timeout",
    "compute.checkpoint_activations",
    "compute.sharding",
    "checkpoint",
    "plugins",
    "trackers",
    "labels",
)
"""Keys that may be changed when a run is resumed, since they do not affect its results."""

MOVABLE = ("budget", "data.path", "start.run")
"""Further keys that may differ between runs whose trained model is the same.

They are the planned length, and the paths of folders.
"""


LONGEST = 1 << 26
"""Largest row that is read [bytes]: 64 MiB.

A longer row counts as damaged and is skipped.
"""


class Rows:
    """Rows of a .jsonl file: read them, count them, append to them."""

    def __init__(self, path: Path, holding: str = "") -> None:
        """Rows of the file `path`.

        If `holding` is given, only lines that contain this text are parsed and yielded, which is faster.
        """
        self.path, self.holding = path, holding.encode()

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row. When this returns, the row is on the disk."""
        append_text(self.path, json.dumps(finite(dict(row)), allow_nan=False) + "\n")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield complete rows in order. A last line that a killed process did not finish is skipped."""
        return (row for line in self._lines() if self.holding in line and (row := _parse(line)) is not None)

    def written(self, count: int | None = None) -> dict[str, Any]:
        """Number of complete rows and SHA-256 of their bytes; with `count`, only of the first `count` rows."""
        rows, digest = 0, hashlib.sha256()
        for line in islice(self._lines(), count):
            rows += 1
            digest.update(line)
        return {"rows": rows, "sha256": digest.hexdigest()}

    def count(self) -> int:
        """Count the complete rows."""
        return sum(1 for _ in self._lines())

    def cut(self, count: int) -> None:
        """Replace the file by its first `count` rows."""
        if self.path.exists():
            write_blocks(self.path, islice(self._lines(), count))

    def _lines(self) -> Iterator[bytes]:
        if not self.path.exists():
            return
        with open_file(self.path) as file:
            yield from (line for line in iter(lambda: file.readline(LONGEST), b"") if line.endswith(b"\n"))


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def called(architecture: str, variant: object = None) -> str:
    """Name of a model in laws and comparisons: its architecture and, if there is one, the variant.

    >>> called("gemnet"), called("gemnet", "OC")
    ('gemnet', 'gemnet-OC')
    """
    return f"{architecture}-{variant}" if variant else architecture
