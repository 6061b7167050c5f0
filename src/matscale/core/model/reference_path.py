"""Choice between the reference form and the fast form of a model's computation.

Beside the reference form, a model may have a faster one: a fused kernel, a hand-written backward pass that recomputes
values, checkpointed activations. FLOPs are counted in the reference form, so that recomputation and kernels without a
FLOP formula do not change the counts. Within `reference_path()`, models use the reference form. They also use it under
a torch dispatch mode, such as the FLOP counter of another library, which needs single operations.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch.utils._python_dispatch import _get_current_dispatch_mode

from matscale.core.scoped import Scoped

_REFERENCE = Scoped("reference path", False)


def reference_path() -> AbstractContextManager[None]:
    """Context in which models compute in their reference form."""
    return _REFERENCE.set(True)


def is_counted() -> bool:
    """Whether FLOPs are counted (within `reference_path()`).

    While FLOPs are counted, a model may omit work that it repeats only for precision.
    """
    return _REFERENCE.get()


def is_reference_path_wanted() -> bool:
    """Whether a model must use its reference form. Must not be called within compiled code.

    True within `reference_path()` and under a torch dispatch mode, unless that mode has `takes_any_form = True`.
    """
    mode = _get_current_dispatch_mode()
    return _REFERENCE.get() or (mode is not None and not getattr(mode, "takes_any_form", False))
