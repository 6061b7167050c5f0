"""Which of several forms of one computation a model takes.

A model may have a faster form beside the readable one: a fused kernel, a hand-written backward that computes things a
second time, checkpointed activations. Its FLOPs are those of the readable form, so that neither recomputation nor an
opaque kernel changes the compute axis: within `readable_form()` a model that has a choice takes the readable one.
So it does for whoever looks at single operations, such as a counter of FLOPs from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch.utils._python_dispatch import _get_current_dispatch_mode

_READABLE = ContextVar("readable", default=False)


@contextmanager
def readable_form() -> Iterator[None]:
    """Models compute by their readable form inside."""
    token = _READABLE.set(True)
    try:
        yield
    finally:
        _READABLE.reset(token)


def is_counted() -> bool:
    """Within `readable_form()`: what a model computes twice for the sake of precision it may compute once here."""
    return _READABLE.get()


def is_readable_wanted() -> bool:
    """What a model with a faster form asks before it takes that. Never within compiled code.

    A dispatch mode with an attribute `takes_any_form` that is true does not mind.
    """
    mode = _get_current_dispatch_mode()
    return _READABLE.get() or (mode is not None and not getattr(mode, "takes_any_form", False))
