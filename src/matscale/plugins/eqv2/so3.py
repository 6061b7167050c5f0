r"""Functions on the sphere as coefficients: order of (l, m), linear maps, and transforms to a grid.

A function is f(n) = Σ_lm f_lm Y_lm(n) with e3nn's real spherical harmonics: m = −l..l, l = 1 is (x, y, z), and y is the
polar axis. Two orders of the coefficients occur:

    degree-major   (0,0) (1,−1) (1,0) (1,1) (2,−2) ...            all K = (lmax+1)², on atoms
    order-major    m = 0 for l = 0..lmax; then +m for l = m..lmax and −m for l = m..lmax, m = 1..mmax:
                   K_r of them, on edges, where a convolution mixes equal |m|

On a grid of points n_p with weights w_p (Σ w = 1)

    to grid    f_p  = Σ_lm G_p,lm f_lm,     G = Y_lm(n_p) / √((2l+1)(lmax+1))
    from grid  f_lm = Σ_p H_lm,p f_p,       H = w_p Y_lm(n_p) √((2l+1)(lmax+1))

for Y_lm with a mean square of 1 over the sphere ("component"). A grid of resolution R integrates harmonics of all
degrees below R exactly, hence H G = 1 for R > 2 lmax. There are two kinds of grids:

    product    R equal-angle latitudes × R longitudes, weights of Kostelec & Rockmore, J. Fourier Anal. Appl. 14, 145
               (2008); R² points, crowded at the poles. What the published models use.
    lebedev    as few points as an octahedral symmetry needs, about R²/3, evenly spread (Lebedev & Laikov, Dokl. Math.
               59, 477 (1999)); only for the R of `LEBEDEV`.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from e3nn import o3
from numpy.typing import NDArray
from torch import Tensor, nn

from matscale.plugin import full_precision
from matscale.plugins.eqv2.config import GridKind

Array = NDArray[np.float64]


@cache
def degrees(lmax: int) -> tuple[int, ...]:
    """Degree l of each of the K coefficients, degree-major."""
    return tuple(degree for degree in range(lmax + 1) for _ in range(2 * degree + 1))


@cache
def orders(lmax: int) -> tuple[int, ...]:
    """Order m of each of the K coefficients, degree-major."""
    return tuple(m for degree in range(lmax + 1) for m in range(-degree, degree + 1))


class KeptCoefficients(NamedTuple):
    """Coefficients with |m| ≤ mmax, order-major."""

    places: list[int]
    """[K_r] index of each kept coefficient in the degree-major order of all K coefficients."""
    rescale: Array
    """[K_r] factor √((2l+1)/(2 mmax+1)) for l > mmax, else 1, which compensates for the omitted orders."""


@cache
def kept(lmax: int, mmax: int) -> KeptCoefficients:
    """List the coefficients that a message keeps in the frame of its edge, order-major."""
    pairs = [(degree, 0) for degree in range(lmax + 1)]
    for m in range(1, mmax + 1):
        pairs += [(degree, sign * m) for sign in (1, -1) for degree in range(m, lmax + 1)]
    left_out = [(2 * degree + 1) / (2 * mmax + 1) if degree > mmax else 1.0 for degree, _ in pairs]
    return KeptCoefficients([degree * (degree + 1) + m for degree, m in pairs], np.sqrt(left_out))


def spherical_harmonics(lmax: int, points: Array) -> Array:
    """Spherical harmonics Y_lm [n, K] of unit vectors [n, 3] in float64, with a mean square of 1 over the sphere."""
    with torch.device("cpu"):  # a model may be built on `meta`
        x = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float64))
        y: Tensor = o3.spherical_harmonics(list(range(lmax + 1)), x, normalize=True, normalization="component")
        return y.numpy()


def sphere_points(resolution: int, grid: GridKind = "product") -> tuple[Array, Array]:
    """Points [n_points, 3] of a grid and their weights [n_points], which sum to 1."""
    return _product_points(resolution) if grid == "product" else _lebedev_points(resolution)


@cache
def _lebedev_points(resolution: int) -> tuple[Array, Array]:
    from scipy.integrate import lebedev_rule  # start-up: scipy

    points, weights = lebedev_rule(resolution - 1)
    return points.T, weights / weights.sum()


@cache
def _product_points(resolution: int) -> tuple[Array, Array]:
    """Points of the product grid, latitude by latitude."""
    latitude = (np.arange(resolution) + 0.5) * np.pi / resolution
    longitude = np.arange(resolution) * 2 * np.pi / resolution
    beta, alpha = (g.ravel() for g in np.meshgrid(latitude, longitude, indexing="ij"))
    points = np.stack([np.sin(beta) * np.sin(alpha), np.cos(beta), np.sin(beta) * np.cos(alpha)], axis=-1)
    odd = 2 * np.arange(resolution // 2) + 1  # integrates Σ_k sin((2k+1)β)/(2k+1), the step function of the sphere
    weights = np.sin(latitude) * (np.sin(np.outer(latitude, odd)) / odd).sum(1)
    return points, np.repeat(weights / (weights.sum() * resolution), resolution)


class SphereGrid(nn.Module):
    """Transforms from coefficients to values on a grid of the sphere, and back."""

    to_grid: Tensor
    from_grid: Tensor

    def __init__(self, lmax: int, resolution: int, mmax: int | None = None, grid: GridKind = "product") -> None:
        """Set up the grid for all coefficients, degree-major.

        With `mmax`, the grid is for the coefficients that `kept` lists, which are rescaled.
        """
        super().__init__()
        points, weights = sphere_points(resolution, grid)
        harmonics = spherical_harmonics(lmax, points)
        norm = np.sqrt((2 * np.array(degrees(lmax)) + 1) * (lmax + 1))
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


class SO3Linear(nn.Module):
    """Linear map of the channels for each degree l, the same for all its m; scalars get a bias."""

    degree: Tensor

    def __init__(self, lmax: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(lmax + 1, n_out, n_in).uniform_(-(n_in**-0.5), n_in**-0.5))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.register_buffer("degree", torch.from_numpy(np.array(degrees(lmax))), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map the channels of `x` [n, K, n_in]: returns [n, K, n_out], with K coefficients."""
        out = torch.einsum("nki,koi->nko", x, self.weight.index_select(0, self.degree))
        return torch.cat([out[:, :1] + self.bias, out[:, 1:]], dim=1)
