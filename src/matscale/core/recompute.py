"""Activation checkpointing: less memory in training for more time (Chen et al., arXiv:1604.06174).

Of a block in the middle of a model only the inputs are kept after its forward; the backward runs the block again, with
the same random numbers, for what it needs. Gradients are the same bit for bit. A model says which of its modules may be
treated so by a method `recomputable()` that lists them; modules inside each other are none of its business.

FLOPs of a second run are work of the machine, not of the model: `not_counted` keeps them out of the counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from matscale.core.errors import ConfigError


def checkpoint_activations(model: nn.Module, name: str) -> None:
    """Have the `recomputable()` modules of `model` keep their inputs only; names of weights stay as they are.

    Raises ConfigError for a model, of the architecture `name`, that lists none.
    """
    modules: list[nn.Module] = getattr(model, "recomputable", list)()
    if not modules:
        raise ConfigError(
            f"compute.checkpoint_activations = true: a model of {name!r} has no blocks that can be run again. Leave it "
            "out; to need less memory, let a batch hold less: --set batch.atoms=... with --set batch.accumulate=..."
        )
    for module in modules:
        module.forward = _Recomputed(module.forward)


class _Recomputed:
    """A forward that runs again in the backward."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, *arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*arguments)
        return checkpoint(self.forward, *arguments, use_reentrant=False, context_fn=_contexts)


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _Again()


class Repeated:
    """FLOPs that were spent on running something again."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self.counter, self.flops = counter, 0


_CURRENT: ContextVar[Repeated | None] = ContextVar("repeated", default=None)


@contextmanager
def not_counted(counter: FlopCounterMode) -> Iterator[Repeated]:
    """Notes how much of what `counter` counts inside is recomputation."""
    repeated = Repeated(counter)
    token = _CURRENT.set(repeated)
    try:
        yield repeated
    finally:
        _CURRENT.reset(token)


class _Again(AbstractContextManager[None]):
    """Around each recomputation of one forward; a double backward may ask for several.

    torch leaves by an exception once it has what it needs.
    """

    def __init__(self) -> None:
        self.repeated, self.before = _CURRENT.get(), 0

    def __enter__(self) -> None:
        if self.repeated is not None:
            self.before = self.repeated.counter.get_total_flops()

    def __exit__(self, *_: object) -> None:
        if self.repeated is not None:
            self.repeated.flops += self.repeated.counter.get_total_flops() - self.before
