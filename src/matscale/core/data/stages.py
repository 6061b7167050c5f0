"""How the core tells what takes a while, without knowing who listens or how it is shown."""

from __future__ import annotations

from collections.abc import Callable

Stages = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, how much there is; 0 where that is unknown)"""


def silent(what: str, done: int, total: int) -> None:
    """Nobody listens."""
