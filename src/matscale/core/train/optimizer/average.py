"""Exponential moving average of the weights of a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from matscale.core.train.processes.sharding import placed


class Average:
    """Exponential moving average of the parameters; buffers are not averaged.

    average <- d average + (1 − d) weights, with d = min(decay, (1 + t) / (10 + t)) in step t.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average after optimizer step number `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            self.weights[name].lerp_(parameter, 1 - decay)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """State dict of the model, with the averaged weights in place of the current ones."""
        # By identity, since a tied weight has two names in the state.
        averaged = {id(parameter): self.weights[name] for name, parameter in model.named_parameters()}
        state = model.state_dict(keep_vars=True)
        return {name: averaged.get(id(tensor), tensor).detach() for name, tensor in state.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load the averaged weights from the result of `state`."""
        for name, weight in self.weights.items():
            weight.copy_(placed(state[name], weight))

    def swapped(self, model: nn.Module) -> _Swapped:
        """Context in which the model has the averaged weights."""
        return _Swapped(self, model)


class _Swapped:
    def __init__(self, average: Average, model: nn.Module) -> None:
        self.average, self.model = average, model

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *exception: object) -> None:
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.model.named_parameters():
            kept = parameter.detach().clone()
            parameter.copy_(self.average.weights[name])
            self.average.weights[name].copy_(kept)
