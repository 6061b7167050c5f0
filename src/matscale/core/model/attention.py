"""Attention weights that the layers of a model hand out, to a caller that asks for them within `attention_kept()`.

Layers check `is_attention_wanted()` and call `hand_attention`; the model computes the same numbers either way. An
architecture whose models do this says so with `Architecture(..., shows_attention=True)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from matscale.core.scoped import Scoped


@dataclass(frozen=True)
class LayerAttention:
    """Attention weights of one layer on a batch, for pairs of atoms without padding.

    The weights of all pairs with the same `query` sum to one in each head.
    """

    query: Tensor
    """[n_pairs] index in the batch of the atom that attends."""
    key: Tensor
    """[n_pairs] index of the atom that is attended to, in the same structure."""
    weights: Tensor
    """[n_heads, n_pairs] weights from 0 to 1."""
    vector: Tensor | None = None
    """[n_pairs, 3] vector [Å] from the query to the image of the key that is meant; 0 for an atom and itself.

    None if a pair stands for all images of the key: its distance is that of the nearest image.
    """


_KEPT: Scoped[list[LayerAttention] | None] = Scoped("attention", None)


@contextmanager
def attention_kept() -> Iterator[list[LayerAttention]]:
    """Context in which attention layers append their weights to the list that it gives, in the order of the layers.

    >>> with attention_kept() as layers:  # in place of the next line: model(batch)
    ...     hand_attention(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([[0.25, 0.75]]))
    >>> layers[0].weights
    tensor([[0.2500, 0.7500]])
    """
    kept: list[LayerAttention] = []
    with _KEPT.set(kept):
        yield kept


def is_attention_wanted() -> bool:
    """Whether a layer should call `hand_attention`: within `attention_kept()`, and never in compiled code."""
    return not torch.compiler.is_compiling() and _KEPT.get() is not None


def hand_attention(query: Tensor, key: Tensor, weights: Tensor, vector: Tensor | None = None) -> None:
    """Hand out the weights of a layer; the arguments are the fields of `LayerAttention`.

    Without a caller that asks for them, nothing happens.
    """
    kept = _KEPT.get()
    if kept is not None:
        kept.append(LayerAttention(query, key, weights.detach(), None if vector is None else vector.detach()))
