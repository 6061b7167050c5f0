"""Which of several forms of one computation a model takes.

A model may have a faster form beside the readable one: a fused kernel, a hand-written backward that computes things a
second time, checkpointed activations. Its FLOPs are those of the readable form, so that neither recomputation nor an
opaque kernel changes the compute axis: within `readable_form()` a model that has a choice takes the readable one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_READABLE = ContextVar("readable", default=False)


@contextmanager
def readable_form() -> Iterator[None]:
    """Models compute by their readable form inside."""
    token = _READABLE.set(True)
    try:
        yield
    finally:
        _READABLE.reset(token)


def is_readable_wanted() -> bool:
    """What a model with a faster form asks before it takes that. Never within compiled code."""
    return _READABLE.get()
