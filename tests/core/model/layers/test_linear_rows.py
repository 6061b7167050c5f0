"""Sums and gathers of rows, and their derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from matscale.core.model.layers.linear_rows import LinearRows
from matscale.core.model.layers.radial import ShiftedSoftplus
from matscale.core.model.reference_path import reference_path


@pytest.fixture
def rows() -> LinearRows:
    """From 6 rows to 5, one of which gets nothing; one of the 6 is used twice, one never."""
    return LinearRows(torch.tensor([3, 0, 0, 4, 1]), torch.tensor([5, 1, 0, 1, 3]), n_out=5, n_in=6)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_rows_are_summed_as_their_entries_say(rows: LinearRows, x: Tensor) -> None:
    expected = torch.stack([x[1] + x[0], x[3], torch.zeros(3), x[5], x[1]])
    torch.testing.assert_close(rows(x), expected)
    with reference_path():
        torch.testing.assert_close(rows(x), expected)


def test_first_and_second_derivatives_of_sums_are_right(rows: LinearRows, x: Tensor) -> None:
    assert torch.autograd.gradcheck(rows, x)
    assert torch.autograd.gradgradcheck(lambda y: rows(y.square()), x)


def test_forward_derivatives_and_vmap_go_through_sums(rows: LinearRows, x: Tensor) -> None:
    _, tangent = torch.func.jvp(rows, (x.detach(),), (torch.ones(6, 3, dtype=torch.float64),))
    torch.testing.assert_close(tangent, rows(torch.ones(6, 3, dtype=torch.float64)))
    both = torch.func.vmap(rows)(torch.stack([x.detach(), 2 * x.detach()]))
    torch.testing.assert_close(both, torch.stack([rows(x), 2 * rows(x)]).detach())


def test_a_map_without_entries_gives_zeros_with_a_gradient(x: Tensor) -> None:
    none = torch.zeros(0, dtype=torch.long)
    y = LinearRows(none, none, n_out=2, n_in=6)(x)
    assert y.tolist() == [[0.0] * 3] * 2
    y.sum().backward()
    assert x.grad is not None
    assert not x.grad.any()


def test_derivatives_of_the_shifted_softplus_are_right_up_to_the_third(x: Tensor) -> None:
    activation, wide = ShiftedSoftplus(), 4 * x
    assert torch.autograd.gradcheck(activation, wide)
    assert torch.autograd.gradgradcheck(activation, wide)

    def slope(y: Tensor) -> Tensor:
        return torch.autograd.grad(activation(y).sum(), y, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(slope, wide)
    with reference_path():
        expected = activation(wide)
    torch.testing.assert_close(activation(wide), expected)
