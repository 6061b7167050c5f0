"""Check names that users give and that become names of files or folders.

No such name may lead out of its folder.
"""

from __future__ import annotations

from pathlib import Path

LONGEST = 200
"""Largest length of a name [bytes]. File systems allow 255 bytes, but suffixes are added to names."""
LONGEST_PATH = 4000
"""Largest length of a path [bytes]; Linux allows 4095."""
_FORBIDDEN = set('/\\:*?"<>|')


def file_name(name: str) -> str:
    """Return `name` if it can be the name of one file or folder. Otherwise raises ValueError with the reason.

    >>> file_name("schnet-30k")
    'schnet-30k'
    >>> try: file_name("../other")
    ... except ValueError as error: print(error)
    it contains '/', which is not allowed in the name of a folder: use letters, digits, . _ + -
    """
    if not name.strip():
        raise ValueError("it is empty, but must be the name of a folder")
    wrong = next((c for c in name if c in _FORBIDDEN or not c.isprintable()), None)
    if wrong is not None:
        raise ValueError(
            f"it contains {wrong!r}, which is not allowed in the name of a folder: use letters, digits, . _ + -"
        )
    if name.startswith(".") or name != name.strip():
        raise ValueError(
            "it begins with a dot, or begins or ends with a space, which is not allowed in the name of a folder"
        )
    n = len(name.encode("utf-8", errors="replace"))
    if n > LONGEST:
        raise ValueError(f"it has {n} bytes, but the name of a folder may have at most {LONGEST} bytes")
    return name


def usable_path(path: Path) -> Path:
    """Return `path` if file systems can hold it. Otherwise raises ValueError with the reason."""
    if "\0" in str(path):
        raise ValueError("it contains a NUL character, which no path can have")
    if longest := max((part for part in path.parts if len(part.encode(errors="replace")) > 255), key=len, default=""):
        raise ValueError(
            f"{longest[:20]}... has {len(longest)} characters; file systems hold names of at most 255 bytes"
        )
    if (n := len(str(path).encode(errors="replace"))) > LONGEST_PATH:
        raise ValueError(f"it has {n} bytes; paths have at most {LONGEST_PATH}")
    return path


def usable_text(path: str) -> str:
    """Return a text, a path or the name of a dataset, if file systems can hold it as a path.

    Otherwise raises ValueError with the reason.
    """
    usable_path(Path(path))
    return path
