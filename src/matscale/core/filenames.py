"""Names that come from outside and become names of files: checked in one place, so that none leaves its folder."""

from __future__ import annotations

from matscale.core.errors import ConfigError, MatscaleError

LONGEST = 200
"""Bytes; file systems hold 255, and suffixes are added."""
_FORBIDDEN = set('/\\:*?"<>|')


def fault_of(name: object) -> str:
    """Why `name` cannot be the name of one file or folder; empty if it can."""
    if not isinstance(name, str) or not name.strip():
        return "it is empty"
    if name.startswith(".") or name != name.strip():
        return "it begins with a dot, or begins or ends with a space"
    wrong = next((c for c in name if c in _FORBIDDEN or not c.isprintable()), None)
    if wrong is not None:
        return f"it contains {wrong!r}"
    n = len(name.encode("utf-8", errors="replace"))
    return f"it has {n} bytes, and at most {LONGEST} fit" if n > LONGEST else ""


def checked(name: str, what: str, error: type[MatscaleError] = ConfigError) -> str:
    """`name`, if it can be the name of one file. Raises `error` that says why it cannot."""
    fault = fault_of(name)
    if fault:
        raise error(
            f"{what} = {name[:80]!r}: {fault}. It becomes the name of a file or folder: use letters, digits, and "
            "any of . _ + - between them."
        )
    return name
