"""Values that are set for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

T = TypeVar("T")


class Scoped(Generic[T]):
    """Value of this thread (or asyncio task) that differs from its default within `with` blocks.

    >>> depth = Scoped("depth", 0)
    >>> with depth.set(2): depth.get()
    2
    >>> depth.get()
    0
    """

    def __init__(self, name: str, default: T) -> None:
        self._variable: ContextVar[T] = ContextVar(name, default=default)

    def get(self) -> T:
        """Return the value in force."""
        return self._variable.get()

    @contextmanager
    def set(self, value: T) -> Iterator[None]:
        """Set `value` within the block."""
        token = self._variable.set(value)
        try:
            yield
        finally:
            self._variable.reset(token)
