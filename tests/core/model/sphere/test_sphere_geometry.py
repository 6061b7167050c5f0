"""Wigner matrices, grids and tensors: exact statements about the sphere, in float64."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from e3nn import o3
from torch.testing import assert_close

from matscale.core.model.sphere.activation import Gate
from matscale.core.model.sphere.coefficients import degrees, kept, spherical_harmonics
from matscale.core.model.sphere.grid import LEBEDEV, GridKind, Scale, SphereGrid, sphere_points
from matscale.core.model.sphere.linear import SO3Linear
from matscale.core.model.sphere.rotation import POLAR, EdgeRotation, wigner
from matscale.core.model.sphere.tensor import TENSORS, parts_from_tensor, tensor_from_parts


def directions(n: int = 40) -> torch.Tensor:
    """Random unit vectors, the axes, and vectors next to the pole and to the border of the charts."""
    axes = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    polar = torch.tensor([[1e-9, 1.0, 0.0], [0.0, -1.0, 1e-13], [(1 - POLAR**2) ** 0.5, POLAR, 0.0]]).double()
    random = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(torch.cat([axes, polar, random]), dim=-1)


@pytest.mark.parametrize(("lmax", "mmax"), [(1, 0), (2, 2), (4, 2), (6, 3)])
def test_wigner_matrices_are_orthogonal_and_turn_the_edge_onto_the_axis(lmax: int, mmax: int) -> None:
    n = directions()
    d = EdgeRotation(lmax, mmax)(2.5 * n)
    identity = torch.eye(d.shape[1], dtype=torch.float64).expand(len(n), -1, -1)
    assert_close(d @ d.transpose(1, 2), identity, rtol=0, atol=1e-12)
    axis = spherical_harmonics(lmax, np.array([[0.0, 1.0, 0.0]]))[:, kept(lmax, mmax).places]
    turned = torch.einsum("erk,ek->er", d, torch.from_numpy(spherical_harmonics(lmax, n.numpy())))
    assert_close(turned, torch.from_numpy(axis).expand_as(turned), rtol=0, atol=1e-12)


def test_wigner_matrices_are_those_of_a_rotation() -> None:
    lmax, n = 4, directions()
    d = EdgeRotation(lmax, lmax)(n)
    columns = torch.from_numpy(np.argsort(kept(lmax, lmax).places))
    d = d[:, columns]
    for k in range(len(n)):
        rotation = d[k, 1:4, 1:4].numpy()  # l = 1 is (x, y, z)
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        assert_close(d[k], torch.from_numpy(wigner(lmax, rotation)), rtol=0, atol=1e-11)


def test_a_wigner_matrix_agrees_with_that_of_e3nn() -> None:
    rotation = o3.rand_matrix(dtype=torch.float64)
    expected = o3.Irreps("0e+1e+2e+3e").D_from_matrix(rotation)
    assert_close(torch.from_numpy(wigner(3, rotation.numpy())), expected, rtol=0, atol=5e-6)  # e3nn's float32 tables


def test_wigner_matrices_have_the_derivatives_of_finite_differences_even_at_the_pole() -> None:
    rotation = EdgeRotation(2, 1)
    n = directions(3)
    n = n[(n[:, 1].abs() - POLAR).abs() > 1e-3].requires_grad_()
    assert torch.autograd.gradcheck(rotation, (n,), eps=1e-6, atol=1e-7)
    few = n[1:3].detach().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: rotation(v)[:, 3:5, 4:9], (few,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("grid", ["product", "lebedev"])
@pytest.mark.parametrize(("lmax", "mmax", "resolution"), [(2, None, 6), (4, None, 10), (6, None, 18), (11, None, 24)])
def test_a_function_survives_the_way_to_the_grid_and_back(
    lmax: int, mmax: int | None, resolution: int, grid: GridKind
) -> None:
    sphere = SphereGrid(lmax, resolution, mmax, grid)
    x = torch.randn(3, (lmax + 1) ** 2, 2, dtype=torch.float64)
    assert_close(sphere.coefficients(sphere.values(x)), x, rtol=0, atol=1e-12)


def test_what_was_rescaled_comes_back_rescaled_twice() -> None:
    layout, grid = kept(4, 2), SphereGrid(4, 14, 2)
    x = torch.randn(3, len(layout.places), 2, dtype=torch.float64)
    factor = torch.from_numpy(layout.rescale)[:, None] ** 2
    assert_close(grid.coefficients(grid.values(x)), factor * x, rtol=0, atol=1e-12)
    assert [round(float(f), 6) for f in factor[:, 0][:5]] == [1.0, 1.0, 1.0, 1.4, 1.8]


@pytest.mark.parametrize("scale", ["component", "integral"])
@pytest.mark.parametrize("shape", [(18, 18), (14, 9)])
def test_grid_matrices_agree_with_those_of_e3nn(shape: tuple[int, int], scale: Scale) -> None:
    grid = SphereGrid(4, shape, scale=scale)
    to_grid = o3.ToS2Grid(4, shape, normalization=scale, dtype=torch.float64)
    from_grid = o3.FromS2Grid(shape, 4, normalization=scale, dtype=torch.float64)
    expected = torch.einsum("mbi,am->bai", to_grid.shb, to_grid.sha).flatten(0, 1)
    assert_close(grid.to_grid, expected, rtol=0, atol=1e-6)
    expected = torch.einsum("am,mbi->bai", from_grid.sha, from_grid.shb).flatten(0, 1)
    assert_close(grid.from_grid.T, expected, rtol=0, atol=1e-6)  # e3nn's weights are float32


@pytest.mark.parametrize("grid", ["product", "lebedev"])
def test_the_weights_of_the_grid_integrate_harmonics_below_its_resolution(grid: GridKind) -> None:
    points, weights = sphere_points(10, grid)
    means = weights @ spherical_harmonics(9, points)
    assert_close(torch.from_numpy(means), torch.eye(100, dtype=torch.float64)[0], rtol=0, atol=1e-13)


def test_the_lebedev_rules_are_those_of_scipy_with_positive_weights() -> None:
    from scipy.integrate import lebedev_rule

    with pytest.raises(NotImplementedError, match="Available orders are") as refusal:
        lebedev_rule(2)
    degrees_known = [int(n) for n in re.findall(r"\d+", str(refusal.value).split("orders are")[1])]
    positive = {n + 1: len(w) for n in degrees_known if (w := lebedev_rule(n)[1]).min() > 0}
    assert positive == LEBEDEV


def test_a_linear_map_of_degrees_commutes_with_rotations() -> None:
    torch.manual_seed(0)
    linear = SO3Linear(3, 4, 5).double()
    torch.nn.init.normal_(linear.bias)
    d = torch.from_numpy(wigner(3, o3.rand_matrix(dtype=torch.float64).numpy()))
    x = torch.randn(6, 16, 4, dtype=torch.float64)
    assert_close(linear(d @ x), d @ linear(x), rtol=0, atol=1e-12)


def test_gates_commute_with_rotations() -> None:
    torch.manual_seed(0)
    d = torch.from_numpy(wigner(3, o3.rand_matrix(dtype=torch.float64).numpy()))
    x, gates = torch.randn(6, 16, 4, dtype=torch.float64), torch.randn(6, 12, dtype=torch.float64)
    gate = Gate(3)
    assert_close(gate(d @ x, gates), d @ gate(x, gates), rtol=0, atol=1e-12)
    places = kept(3, 2).places
    assert_close(Gate(3, 2)(x[:, places], gates), gate(x, gates)[:, places])


def test_symmetric_tensors_and_their_parts_turn_alike() -> None:
    basis = torch.tensor(TENSORS, dtype=torch.float64)
    assert_close(torch.einsum("pab,qab->pq", basis, basis), torch.eye(6, dtype=torch.float64))
    rotation = o3.rand_matrix(dtype=torch.float64)
    d2 = torch.from_numpy(wigner(2, rotation.numpy()))[4:, 4:]
    isotropic, anisotropic = torch.randn(3, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    tensor = tensor_from_parts(isotropic, anisotropic)
    assert_close(tensor.diagonal(dim1=1, dim2=2).sum(1), 3**0.5 * isotropic)
    assert_close(tensor_from_parts(isotropic, anisotropic @ d2.T), rotation @ tensor @ rotation.T)
    for found, expected in zip(parts_from_tensor(tensor), (isotropic, anisotropic)):
        assert_close(found, expected)


def test_the_layout_of_a_message_is_by_order_then_sign_then_degree() -> None:
    lm = [(degrees(3)[p], p - degrees(3)[p] * (degrees(3)[p] + 1)) for p in kept(3, 2).places]
    assert lm == [
        *((0, 0), (1, 0), (2, 0), (3, 0)),
        *((1, 1), (2, 1), (3, 1), (1, -1), (2, -1), (3, -1)),
        *((2, 2), (3, 2), (2, -2), (3, -2)),
    ]
