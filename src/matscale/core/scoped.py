"""Values that are set during a `with` block and restored afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

T = TypeVar("T")


class Scoped(Generic[T]):
    """Value with a default that can be set to another value during a `with` block.

    The setting applies to the present thread or asyncio task only.

    >>> depth = Scoped("depth", 0)
    >>> with depth.set(2): depth.get()
    2
    >>> depth.get()
    0
    """

    def __init__(self, name: str, default: T) -> None:
        self._variable: ContextVar[T] = ContextVar(name, default=default)

    def get(self) -> T:
        """Return the value that is set now, or else the default."""
        return self._variable.get()

    @contextmanager
    def set(self, value: T) -> Iterator[None]:
        """Context in which the value is `value`."""
        token = self._variable.set(value)
        try:
            yield
        finally:
            self._variable.reset(token)
