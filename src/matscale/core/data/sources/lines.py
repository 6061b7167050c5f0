"""Read a text file line by line, plain or compressed, within the limits on structures and on unpacking."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import TextIO

from matscale.core.data.sources.limits import FREE, current, shown

DICTIONARY = 1 << 30
"""Largest number of bytes of memory for unpacking .xz; files from `xz -9` need 65 MiB."""


class Lines:
    """Reader of the lines of `file`, which was opened from `path`.

    Its methods raise ValueError if a structure, or the unpacked file, exceeds the limits.
    """

    def __init__(self, path: Path, file: TextIO, is_compressed: bool) -> None:
        self.limits, self._file = current(), file
        size = path.stat().st_size
        self._most = FREE + self.limits.expansion * size if is_compressed else None
        self._room, self._all = self.limits.structure, 0
        if is_compressed:
            _check_dictionary(path)

    def begin(self) -> None:
        """Begin a structure: its size is counted from here."""
        self._all += self.limits.structure - self._room
        self._room = self.limits.structure
        if self._most is not None and self._all > self._most:
            raise ValueError(
                f"it unpacks to more than {shown(self._all)}, over {self.limits.expansion} times its size. If you "
                f"trust the file, allow it: --limit expansion={10 * self.limits.expansion}"
            )

    def line(self) -> str:
        """Read the next line; an empty text at the end of the file."""
        text = self._file.readline(self._room + 1)
        self._room -= len(text)
        if self._room < 0:
            raise ValueError(
                f"this structure has more than {shown(self.limits.structure)}. If you trust the file, allow it: "
                f"--limit structure={shown(4 * self.limits.structure).replace(' ', '')}"
            )
        return text

    def take(self, n: int) -> list[str]:
        """Read the next `n` lines, or fewer at the end of the file."""
        lines = []
        for _ in range(n):
            text = self.line()
            if not text:
                break
            lines.append(text)
        return lines

    def close(self) -> None:
        self._file.close()


def _check_dictionary(path: Path) -> None:
    """Raises lzma.LZMAError for an .xz file whose window for unpacking would fill the memory."""
    with open(path, "rb") as file:
        head = file.read(1 << 12)
    if head.startswith(b"\xfd7zXZ"):
        lzma.LZMADecompressor(memlimit=DICTIONARY).decompress(head, max_length=1)
