"""Built-in losses: mae, mse, huber, l2."""

from __future__ import annotations

import torch
from torch import Tensor

from matscale.plugin import Loss, hookimpl

HUBER_DELTA = 0.01
"""Residual at which the loss `huber` changes from square to linear, in eV/atom, eV/Å or eV/Å³ (as in MACE)."""


def mae(residual: Tensor) -> Tensor:
    """Mean absolute error over the k components of each residual [n, k]; returns [n]."""
    return residual.abs().mean(dim=1)


def mse(residual: Tensor) -> Tensor:
    """Mean squared error over the k components of each residual [n, k]; returns [n]."""
    return residual.square().mean(dim=1)


def huber(residual: Tensor) -> Tensor:
    """Mean of the Huber loss over the k components r of each residual [n, k]; returns [n].

    The Huber loss is r²/2 for |r| ≤ δ, and δ (|r| − δ/2) for larger |r|.
    """
    zeros = torch.zeros_like(residual)
    return torch.nn.functional.huber_loss(residual, zeros, reduction="none", delta=HUBER_DELTA).mean(dim=1)


def l2(residual: Tensor) -> Tensor:
    """Euclidean length of each residual vector [n, k]; returns [n]."""
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
