"""Choice between the reference form and the fast form of a model's computation.

A model may have a faster form beside the readable one: a fused kernel, a hand-written backward that computes things a
second time, checkpointed activations. Its FLOPs are those of the readable form, so that neither recomputation nor an
opaque kernel changes the compute axis: within `readable_form()` a model that has a choice takes the readable one.
It does so too under a torch dispatch mode, such as the FLOP counter of another library, which sees single operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch.utils._python_dispatch import _get_current_dispatch_mode

_READABLE = ContextVar("readable", default=False)


@contextmanager
def readable_form() -> Iterator[None]:
    """Context in which models compute by their reference form."""
    token = _READABLE.set(True)
    try:
        yield
    finally:
        _READABLE.reset(token)


def is_counted() -> bool:
    """Whether this is within `readable_form()`: a model may then leave out work that it repeats for precision."""
    return _READABLE.get()


def is_readable_wanted() -> bool:
    """Whether a model must take its reference form. Must not be called within compiled code.

    True within `readable_form()` and under a torch dispatch mode, unless the mode has `takes_any_form = True`.
    """
    mode = _get_current_dispatch_mode()
    return _READABLE.get() or (mode is not None and not getattr(mode, "takes_any_form", False))
