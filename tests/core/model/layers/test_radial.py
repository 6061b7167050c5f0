"""Radial functions: values, slopes at the cutoff, and second derivatives for training on forces."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from matscale.core.model.layers.radial import GaussianBasis, ShiftedSoftplus, cosine_cutoff, polynomial_cutoff

ENVELOPES = [cosine_cutoff, polynomial_cutoff]


def derivatives(function: Callable[[Tensor], Tensor], at: float, order: int) -> list[float]:
    x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    values, y = [], function(x)
    for _ in range(order + 1):
        values.append(y.item())
        (y,) = torch.autograd.grad(y, x, create_graph=True)
    return values


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_an_envelope_falls_from_one_to_zero(envelope: Callable) -> None:
    d = torch.linspace(0, 6, 200, dtype=torch.float64)
    values = envelope(d, 5.0)
    assert values[0] == 1
    assert (values[d < 5].diff() < 0).all()
    assert (values[d >= 5] == 0).all()


@pytest.mark.parametrize(("envelope", "order"), [(cosine_cutoff, 1), (polynomial_cutoff, 2)])
def test_an_envelope_ends_smoothly(envelope: Callable, order: int) -> None:
    at_the_end = derivatives(lambda d: envelope(d, 5.0), 5.0 - 1e-9, order)
    assert max(map(abs, at_the_end)) < 1e-7


def test_cosine_cutoff_is_one_half_in_the_middle() -> None:
    assert cosine_cutoff(torch.tensor(2.5, dtype=torch.float64), 5.0).item() == pytest.approx(0.5)


@pytest.mark.parametrize("power", [2, 5, 6])
def test_polynomial_cutoff_is_the_published_polynomial(power: int) -> None:
    x, p = 0.37, power
    published = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    found = polynomial_cutoff(torch.tensor(x * 4.0, dtype=torch.float64), 4.0, power)
    assert found.item() == pytest.approx(published, rel=1e-14)


def test_gaussians_peak_at_even_distances_with_a_width_of_their_spacing() -> None:
    basis = GaussianBasis(6.0, 4)
    peaks = basis(torch.tensor([0.0, 2, 4, 6], dtype=torch.float64))
    assert torch.equal(peaks.diagonal(), torch.ones(4).double())
    torch.testing.assert_close(peaks.diagonal(1), torch.full((3,), math.exp(-0.5)).double())


def test_gaussians_follow_the_precision_of_the_distance_and_are_no_part_of_the_state() -> None:
    basis = GaussianBasis(6.0, 40)
    assert basis(torch.ones(2)).dtype == torch.float32
    assert basis(torch.ones(2).double()).dtype == torch.float64
    assert basis.float().centers.dtype == torch.float32
    assert basis.state_dict() == {}


def test_a_single_gaussian_is_possible() -> None:
    assert GaussianBasis(5.0, 1)(torch.tensor([5.0])).item() == pytest.approx(math.exp(-0.5))


def test_shifted_softplus_is_zero_at_zero_with_slope_one_half() -> None:
    value, slope, curvature = derivatives(ShiftedSoftplus(), 0.0, 2)
    assert (value, slope, curvature) == (pytest.approx(0, abs=1e-15), 0.5, 0.25)


@pytest.mark.parametrize("function", [lambda d: cosine_cutoff(d, 5.0), lambda d: polynomial_cutoff(d, 5.0)])
def test_radial_functions_can_be_differentiated_twice(function: Callable[[Tensor], Tensor]) -> None:
    d = torch.tensor([0.5, 2.0, 4.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(function, d)
