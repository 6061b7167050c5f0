"""The padded layout."""

from __future__ import annotations

import torch

from matscale.core.contract import structures
from matscale.core.data.neighbors import collate
from matscale.core.model.layers.padding import Padding


def test_padding_agrees_with_the_dense_batch_and_can_be_undone() -> None:
    batch = collate([structures.metal(), structures.crystal(), structures.slab()])
    padding, dense = Padding.of(batch), batch.dense()
    assert torch.equal(padding.mask, dense.mask)
    assert torch.equal(padding.dense(batch.positions), dense.positions)
    assert torch.equal(padding.flat(dense.positions), batch.positions)
    assert padding.rank.tolist() == [0, 0, 1, 2, 3, 0, 1, 2]


def test_padding_is_differentiable() -> None:
    batch = collate([structures.metal(), structures.slab()])
    padding = Padding.of(batch)
    x = torch.randn(batch.n_atoms, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: padding.flat(padding.dense(x).sin()), x)
