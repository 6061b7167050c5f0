r"""Transforms of functions on the sphere from coefficients to values on a grid, and back.

On a grid of points n_p with weights w_p (Σ w = 1)

    to grid    f_p  = Σ_lm G_p,lm f_lm,     G = Y_lm(n_p) / s_l
    from grid  f_lm = Σ_p H_lm,p f_p,       H = w_p Y_lm(n_p) s_l

for Y_lm with a mean square of 1 over the sphere. The scale s_l is a convention: √((2l+1)(lmax+1)) for "component", with
which values have the variance of the coefficients; √(4π) for "integral", with which the f_lm are those of orthonormal
harmonics. A grid of resolution R integrates harmonics of all degrees below R exactly, hence H G = 1 for R > 2 lmax.
There are two kinds of grids:

    product    R equal-angle latitudes × R longitudes (or another number of these), weights of Kostelec & Rockmore,
               J. Fourier Anal. Appl. 14, 145 (2008); R² points, crowded at the poles. Published models use this grid.
    lebedev    as few points as an octahedral symmetry needs, about R²/3, evenly spread (Lebedev & Laikov, Dokl. Math.
               59, 477 (1999)); only for the R of `LEBEDEV`.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from matscale.core.model.sphere.coefficients import Array, degrees, kept, spherical_harmonics
from matscale.core.precision import full_precision

GridKind = Literal["product", "lebedev"]
Scale = Literal["component", "integral"]
LEBEDEV = {
    4: 6, 6: 14, 8: 26, 10: 38, 12: 50, 16: 86, 18: 110, 20: 146, 22: 170, 24: 194, 30: 302, 32: 350, 36: 434,
    42: 590, 48: 770, 54: 974, 60: 1202, 66: 1454, 72: 1730, 78: 2030, 84: 2354, 90: 2702, 96: 3074, 102: 3470,
    108: 3890, 114: 4334, 120: 4802, 126: 5294, 132: 5810,
}  # fmt: skip
"""Number of points of each Lebedev rule with positive weights, by resolution, which is the rule's degree plus 1.

The rules of degree 13, 25 and 27 have negative weights, which increase the error of the grid, and are left out.
"""


def check_resolution(resolution: int, lmax: int, grid: GridKind) -> None:
    """Raises ValueError if the transforms to such a grid and back would change functions of degree `lmax`."""
    needed = 2 * (lmax + 1)
    if resolution < needed or resolution % 2:
        raise ValueError(
            f"grid_resolution = {resolution} with lmax = {lmax}: the resolution has to be even and "
            f"at least 2(lmax + 1) = {needed}, or the transforms to the grid and back would change functions."
        )
    if grid == "lebedev" and resolution not in LEBEDEV:
        below = [r for r in LEBEDEV if needed <= r < resolution][-1:]
        near = below + [r for r in LEBEDEV if r > resolution][:1]
        offered = " or ".join(f"{r} ({LEBEDEV[r]} points)" for r in near)
        raise ValueError(
            f"grid_resolution = {resolution}: there is no Lebedev rule of degree "
            f"{resolution - 1} with positive weights. Nearest: {offered}."
        )


def sphere_points(resolution: int | tuple[int, int], grid: GridKind = "product") -> tuple[Array, Array]:
    """Points [n_points, 3] of a grid and their weights [n_points], which sum to 1.

    A product grid may be given by two numbers: latitudes and longitudes.
    """
    if isinstance(resolution, int):
        return _product_points(resolution, resolution) if grid == "product" else _lebedev_points(resolution)
    return _product_points(*resolution)


@cache
def _lebedev_points(resolution: int) -> tuple[Array, Array]:
    from scipy.integrate import lebedev_rule  # start-up: scipy

    points, weights = lebedev_rule(resolution - 1)
    return points.T, weights / weights.sum()


@cache
def _product_points(n_latitudes: int, n_longitudes: int) -> tuple[Array, Array]:
    """Points of the product grid, latitude by latitude."""
    latitude = (np.arange(n_latitudes) + 0.5) * np.pi / n_latitudes
    longitude = np.arange(n_longitudes) * 2 * np.pi / n_longitudes
    beta, alpha = (g.ravel() for g in np.meshgrid(latitude, longitude, indexing="ij"))
    points = np.stack([np.sin(beta) * np.sin(alpha), np.cos(beta), np.sin(beta) * np.cos(alpha)], axis=-1)
    odd = 2 * np.arange(n_latitudes // 2) + 1  # integrates Σ_k sin((2k+1)β)/(2k+1), the step function of the sphere
    weights = np.sin(latitude) * (np.sin(np.outer(latitude, odd)) / odd).sum(1)
    return points, np.repeat(weights / (weights.sum() * n_longitudes), n_longitudes)


class SphereGrid(nn.Module):
    """Transforms from coefficients to values on a grid of the sphere, and back."""

    to_grid: Tensor
    from_grid: Tensor

    def __init__(
        self,
        lmax: int,
        resolution: int | tuple[int, int],
        mmax: int | None = None,
        grid: GridKind = "product",
        scale: Scale = "component",
    ) -> None:
        """Set up the grid for all coefficients, degree-major.

        With `mmax`, the grid is for the coefficients that `kept` lists, order-major, which are rescaled.
        """
        super().__init__()
        points, weights = sphere_points(resolution, grid)
        harmonics = spherical_harmonics(lmax, points)
        norm = np.sqrt((2 * np.array(degrees(lmax)) + 1) * (lmax + 1))
        if scale == "integral":
            norm = np.full_like(norm, np.sqrt(4 * np.pi))
        to_grid, from_grid = harmonics / norm, (harmonics * norm) * weights[:, None]
        if mmax is not None:
            layout = kept(lmax, mmax)
            to_grid, from_grid = (g[:, layout.places] * layout.rescale for g in (to_grid, from_grid))
        # Both follow from the configuration, so they are not saved.
        self.register_buffer("to_grid", torch.from_numpy(to_grid), persistent=False)  # [points, K or K_r]
        self.register_buffer("from_grid", torch.from_numpy(from_grid.T.copy()), persistent=False)  # [K or K_r, points]

    @full_precision
    def values(self, x: Tensor) -> Tensor:
        """Evaluate functions on the grid: values [n, points, C] from coefficients `x` [n, K or K_r, C]."""
        return self.to_grid.to(x.dtype) @ x

    @full_precision
    def coefficients(self, values: Tensor) -> Tensor:
        """Project functions on the grid: coefficients [n, K or K_r, C] from `values` [n, points, C]."""
        return self.from_grid.to(values.dtype) @ values
