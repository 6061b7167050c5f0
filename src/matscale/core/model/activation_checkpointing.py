"""Activation checkpointing: less memory in training for more time (Chen et al., arXiv:1604.06174).

Only the inputs of a block are stored; the backward pass runs the block again, with the same random numbers. Gradients
stay equal bit for bit. A model lists the modules for which this is possible in a method `recomputable()`: successive
blocks, not nested.

The FLOPs of the second run are not counted, because FLOPs are counted in the reference form
(`matscale.core.model.reference_path`), in which a model runs everything once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from matscale.core.errors import ConfigError
from matscale.core.model.reference_path import is_reference_path_wanted


def checkpoint_activations(model: nn.Module, name: str) -> None:
    """Make the `recomputable()` modules of `model` store only their inputs; the names of weights do not change.

    Raises ConfigError, with the architecture's `name`, if the model lists none.
    """
    modules: list[nn.Module] = getattr(model, "recomputable", list)()
    if not modules:
        raise ConfigError(
            f"compute.checkpoint_activations = true: a model of {name!r} has no blocks that can be run again. Leave "
            "this setting out. To need less memory, make batches smaller: --set batch.atoms=... with "
            "--set batch.accumulate=..."
        )
    for module in modules:
        module.forward = _Checkpointed(module.forward)


def checkpoint_like(module: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function` in place of `module`. The backward pass recomputes `function` if it would recompute `module`."""
    forward = module.forward
    return forward.run(function, *arguments) if isinstance(forward, _Checkpointed) else function(*arguments)


class _Checkpointed:
    """Forward pass that is run again in the backward pass."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, *arguments: Any) -> Any:
        return self.run(self.forward, *arguments)

    @staticmethod
    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        if is_reference_path_wanted() or not torch.is_grad_enabled():
            return function(*arguments)
        return checkpoint(function, *arguments, use_reentrant=False)
