r"""Wigner matrices that rotate an edge onto the polar axis, as polynomials of its direction, without a random gauge.

A rotation R acts on coefficients by D(R), Y(R n) = D(R) Y(n). For a direction n = (x, y, z) with ρ = √(x² + z²),

    R = X(−β) Y(−α),    cos β = y,  sin β = ρ,    cos α = z/ρ,  sin α = x/ρ                 takes n to (0, 1, 0).

Turning about y mixes m with −m only: D(Y(φ))_{m,m} = cos mφ, D(Y(φ))_{m,−m} = −sin mφ. Turning about x is the same
after swapping the axes with S = (x, y, z) -> (y, x, −z), whose matrices J = D(S) are constants. Hence

    B = D(X(−β)) = J D(Y(−β)) J      is linear in (1, cos mβ, sin mβ), m ≤ lmax: one product with a constant table
    D_rk = B_rk cos(m_k α) − B_r(−k) sin(m_k α)

where the multiples of the angles come from powers, cos mβ + i sin mβ = (y + iρ)^m. The rows kept are order-major.

R is defined up to a rotation about y. This choice (gauge) has a pole at n = ±y, where α is undefined and dD/dn diverges
as 1/ρ; edges of axis-aligned crystals lie exactly there. So two charts are used: edges with |y| > 0.9 are first rotated
by the cyclic permutation P: (x, y, z) -> (y, z, x), D(n) = D(P n) D(P), so that ρ > 0.43 for all edges. Within a chart,
D is smooth in n to all orders. The output of a network with exact grids does not depend on the chart; `charts` corrects
for grids that are not exact.

Powers (a few numbers per edge) are computed in float64 for models of any precision.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from matscale.core.model.sphere.coefficients import Array, degrees, kept, orders, spherical_harmonics

POLAR = 0.9
"""|y| of a direction above which the second chart is used."""
_SWAP = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
_CYCLE = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])


def wigner(lmax: int, rotation: Array) -> Array:
    """Wigner matrix D [K, K] of a rotation matrix [3, 3].

    It is computed from the action of the rotation on the spherical harmonics of scattered points.
    """
    scattered = np.random.default_rng(0).normal(size=(8 * (lmax + 1) ** 2, 3))
    points = scattered / np.linalg.norm(scattered, axis=1, keepdims=True)
    before, after = spherical_harmonics(lmax, points), spherical_harmonics(lmax, points @ rotation.T)
    d = np.linalg.lstsq(before, after, rcond=None)[0].T.astype(np.float64)
    same_degree = np.equal.outer(degrees(lmax), degrees(lmax))
    return np.where(same_degree & (np.abs(d) > 1e-13), d, 0.0)


@cache
def _tables(lmax: int, mmax: int) -> tuple[Array, Array]:
    """Constant tables of the matrix B (see the top of this module), and the matrix D(P) [K, K].

    The first table, [2, 2lmax+1, K_r, K], is for B, and for B with the columns m and −m exchanged. Its second dimension
    has the matrices that are multiplied by cos mβ, m = 0..lmax, and then by sin mβ, m = 1..lmax.
    """
    j, m = wigner(lmax, _SWAP), np.array(orders(lmax))
    flip = np.array([degree * (degree + 1) - order for degree, order in zip(degrees(lmax), orders(lmax))])
    rows = kept(lmax, mmax).places
    cosines = [j[rows] @ np.diag(1.0 * (np.abs(m) == t)) @ j for t in range(lmax + 1)]
    # D(Y(−β))_{m,−m} = sin mβ: the sine of the multiple |m|, with the sign of m.
    sines = [j[rows] @ np.diag(np.sign(m) * (np.abs(m) == t)) @ j[flip] for t in range(1, lmax + 1)]
    b = np.stack(cosines + sines)
    return np.stack([b, b[:, :, flip]]), wigner(lmax, _CYCLE)


def multiples(cosine: Tensor, sine: Tensor, lmax: int) -> tuple[Tensor, Tensor]:
    """Compute cos mφ and sin mφ for m = 0..lmax, [n_edges, lmax+1] each, as the parts of (cos φ + i sin φ)^m."""
    cosines, sines = [torch.ones_like(cosine)], [torch.zeros_like(sine)]
    for _ in range(lmax):
        c, s = cosines[-1], sines[-1]
        cosines.append(c * cosine - s * sine)
        sines.append(c * sine + s * cosine)
    return torch.stack(cosines, -1), torch.stack(sines, -1)


def is_polar(n: Tensor) -> Tensor:
    """Whether each unit vector [n_edges, 3] belongs to the second chart, [n_edges]."""
    return n[:, 1].abs() > POLAR


class EdgeRotation(nn.Module):
    """Module that makes the Wigner matrices of edges, differentiable to any order in the edge vectors."""

    table: Tensor
    cycle: Tensor
    order: Tensor
    sign: Tensor

    def __init__(self, lmax: int, mmax: int) -> None:
        super().__init__()
        self.lmax, m = lmax, np.array(orders(lmax))
        b, cycle = _tables(lmax, mmax)
        self.n_kept = b.shape[2]
        table = b.transpose(1, 0, 2, 3).reshape(2 * lmax + 1, -1)
        for name, value in {"table": table, "cycle": cycle, "order": np.abs(m), "sign": np.sign(m) * 1.0}.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value)), persistent=False)

    def forward(self, vec: Tensor) -> Tensor:
        """Wigner matrices D [n_edges, K_r, K], in the type of `vec`, for vectors [n_edges, 3] of non-zero length."""
        n = torch.nn.functional.normalize(vec.double(), dim=-1)
        polar = is_polar(n)
        x, y, z = torch.where(polar[:, None], n.roll(-1, dims=-1), n).unbind(-1)
        rho = torch.sqrt(x.square() + z.square())
        cos_beta, sin_beta = multiples(y, rho, self.lmax)
        cos_alpha, sin_alpha = multiples(z / rho, x / rho, self.lmax)
        cosine = cos_alpha.index_select(1, self.order).to(vec.dtype)  # cos(m_k α) [n_edges, K]
        sine = sin_alpha.index_select(1, self.order).to(vec.dtype) * self.sign.to(vec.dtype)
        powers = torch.cat([cos_beta, sin_beta[:, 1:]], -1).to(vec.dtype)  # [n_edges, 2lmax+1]
        b, flipped = (powers @ self.table.to(vec.dtype)).unflatten(1, (2, self.n_kept, -1)).unbind(1)
        d = b * cosine[:, None] - flipped * sine[:, None]
        return torch.where(polar[:, None, None], d @ self.cycle.to(vec.dtype), d)
