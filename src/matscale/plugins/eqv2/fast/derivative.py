"""Guard for hand-written backward passes: differentiating one again raises MatscaleError with advice."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from matscale.plugin import MatscaleError

ADVICE = (
    "eqv2: a second derivative was requested, but the fast path has first derivatives of the parameters only. Run the "
    'forward within `with fast.forced("reference"):` (`from matscale.plugins.eqv2 import fast`), which has derivatives '
    "of any order. A model with forces = 'gradient' takes that path by itself."
)

Backward = Callable[..., tuple[Tensor | None, ...]]


def first_derivative(backward: Backward) -> Backward:
    """Wrap the backward of an autograd function, so that it runs with `create_graph` but refuses to be differentiated.

    It refuses also if the incoming gradient is constant, unlike torch's `once_differentiable`: the gradients depend on
    the inputs of the forward, too, and a second derivative would silently lack this part.
    """

    @wraps(backward)
    def wrapped(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        create_graph = torch.is_grad_enabled()
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not create_graph:
            return found
        present = iter(_Last.apply(*(g.detach().requires_grad_() for g in found if g is not None)))
        return tuple(None if g is None else next(present) for g in found)

    return wrapped


class _Last(torch.autograd.Function):
    """Identity whose gradient raises MatscaleError."""

    @staticmethod
    def forward(ctx: Any, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        raise MatscaleError(ADVICE)
