"""Activation checkpointing: less memory in training for more time (Chen et al., arXiv:1604.06174).

After the forward of a block in the middle of a model only its inputs are kept; the backward runs the block again, with
the same random numbers. Gradients are the same bit for bit. A model lists which of its modules may be treated so in a
method `recomputable()`: blocks after each other, none inside another.

FLOPs of a second run are work of the machine, not of the model: on the reference path, whose FLOPs are counted, a model
runs everything once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from matscale.core.errors import ConfigError
from matscale.core.model.reference_path import is_readable_wanted


def checkpoint_activations(model: nn.Module, name: str) -> None:
    """Make the `recomputable()` modules of `model` keep their inputs only; names of weights stay.

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


def in_place_of(module: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function(*arguments)`, a replacement of `module`; run it again in the backward if `module` is
    recomputed."""
    forward = module.forward
    return forward.run(function, *arguments) if isinstance(forward, _Recomputed) else function(*arguments)


class _Recomputed:
    """Forward that runs again in the backward."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, *arguments: Any) -> Any:
        return self.run(self.forward, *arguments)

    @staticmethod
    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        if is_readable_wanted() or not torch.is_grad_enabled():
            return function(*arguments)
        return checkpoint(function, *arguments, use_reentrant=False)
