"""Functions on the sphere as coefficients: order of (l, m), and spherical harmonics.

A function is f(n) = Σ_lm f_lm Y_lm(n) with e3nn's real spherical harmonics: m = −l..l, l = 1 is (x, y, z), and y is the
polar axis. Two orders of the coefficients occur:

    degree-major   (0,0) (1,−1) (1,0) (1,1) (2,−2) ...            all K = (lmax+1)², on atoms
    order-major    m = 0 for l = 0..lmax; then +m for l = m..lmax and −m for l = m..lmax, m = 1..mmax:
                   K_r of them, on edges, where a convolution mixes equal |m|
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from e3nn import o3
from numpy.typing import NDArray
from torch import Tensor

MAX_DEGREE = 11
"""Highest degree l of the spherical harmonics that e3nn provides."""

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
