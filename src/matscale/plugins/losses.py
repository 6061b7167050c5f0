"""Built-in losses: mae, mse, huber, l2."""

from __future__ import annotations

import torch
from torch import Tensor

from matscale.plugin import Loss, hookimpl

HUBER_DELTA = 0.01
"""Residual at which huber changes from square to linear, in eV/atom, eV/Å, eV/Å³ (as in MACE)."""


def mae(residual: Tensor) -> Tensor:
    """Mean over components of |r|: [n, k] -> [n]."""
    return residual.abs().mean(dim=1)


def mse(residual: Tensor) -> Tensor:
    """Mean over components of r²: [n, k] -> [n]."""
    return residual.square().mean(dim=1)


def huber(residual: Tensor) -> Tensor:
    """Mean over components of r²/2 for |r| ≤ δ, δ (|r| − δ/2) beyond: [n, k] -> [n]."""
    zeros = torch.zeros_like(residual)
    return torch.nn.functional.huber_loss(residual, zeros, reduction="none", delta=HUBER_DELTA).mean(dim=1)


def l2(residual: Tensor) -> Tensor:
    """Length of the residual vector: [n, k] -> [n]."""
    length: Tensor = torch.linalg.vector_norm(residual, dim=1)
    return length


@hookimpl
def register_losses() -> list[Loss]:
    return [
        Loss("mae", "mean absolute error over components", mae),
        Loss("mse", "mean squared error over components", mse),
        Loss("huber", f"square below {HUBER_DELTA}, linear above", huber),
        Loss("l2", "length of the residual vector (forces: OMat24's term)", l2),
    ]
