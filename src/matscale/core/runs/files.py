"""Files of a run folder: their names, and `Rows` of .jsonl files, which only grow. Does not import torch.

A .jsonl file stays readable if the process that writes it is killed.
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
    "checkpoint",
    "plugins",
    "trackers",
    "labels",
)
"""Keys that may be changed when a run is resumed, since they do not affect its results."""

MOVABLE = ("budget", "data.path", "start.run")
"""Further keys that may differ although the trained model is the same: planned length, and paths of folders."""


LONGEST = 1 << 26
"""Largest row that is read [bytes], 64 MiB; a longer one counts as damaged and is skipped, like a half-written one."""


class Rows:
    """Rows of a .jsonl file. When `append` returns, the row is on the disk."""

    def __init__(self, path: Path, holding: str = "") -> None:
        """Set up the rows of the file `path`; only rows that contain the text `holding` are parsed, which is faster."""
        self.path, self.holding = path, holding.encode()

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row, flush and fsync."""
        append_text(self.path, json.dumps(finite(dict(row)), allow_nan=False) + "\n")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield complete rows in order. A last line that was cut off by a kill is skipped."""
        return (row for line in self._lines() if self.holding in line and (row := _parse(line)) is not None)

    def written(self, count: int | None = None) -> dict[str, Any]:
        """Count the complete rows among the first `count`, and compute the SHA-256 of their bytes."""
        rows, digest = 0, hashlib.sha256()
        for line in islice(self._lines(), count):
            rows += 1
            digest.update(line)
        return {"rows": rows, "sha256": digest.hexdigest()}

    def count(self) -> int:
        """Count the complete rows."""
        return sum(1 for _ in self._lines())

    def cut(self, count: int) -> None:
        """Drop all rows after the first `count`, and a half-written one, by replacing the file."""
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
    """Name of a run's model in laws and comparisons: architecture and variant, as in `gemnet-OC`.

    >>> called("gemnet"), called("gemnet", "OC")
    ('gemnet', 'gemnet-OC')
    """
    return f"{architecture}-{variant}" if variant else architecture
