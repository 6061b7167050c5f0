r"""Symmetric tensors, such as the stress, from coefficients l = 0 and l = 2, and back.

    S = s₀ 1/√3 + Σ_m s_2m T_m

A symmetric tensor consists of a scalar, its trace/√3, and five l = 2 components; T_m are unit tensors in e3nn's order:
xz, xy, (2yy − xx − zz)/√6, yz, (zz − xx)/√2 (each off-diagonal pair as (xz + zx)/√2). This change of basis is
orthogonal: the Frobenius norm of the tensor is the norm of its parts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from matscale.core.precision import full_precision

_2, _3, _6 = math.sqrt(0.5), math.sqrt(1 / 3), math.sqrt(1 / 6)
TENSORS = (
    ((_3, 0, 0), (0, _3, 0), (0, 0, _3)),
    ((0, 0, _2), (0, 0, 0), (_2, 0, 0)),
    ((0, _2, 0), (_2, 0, 0), (0, 0, 0)),
    ((-_6, 0, 0), (0, 2 * _6, 0), (0, 0, -_6)),
    ((0, 0, 0), (0, 0, _2), (0, _2, 0)),
    ((-_2, 0, 0), (0, 0, 0), (0, 0, _2)),
)
"""Symmetric tensors [6, 3, 3] of the scalar and the five l = 2 components."""


@full_precision
def tensor_from_parts(isotropic: Tensor, anisotropic: Tensor) -> Tensor:
    """Compose symmetric tensors [n, 3, 3] from isotropic [n] and anisotropic [n, 5] parts."""
    parts = torch.cat([isotropic[:, None], anisotropic], dim=1)
    return torch.einsum("np,pab->nab", parts, torch.tensor(TENSORS, dtype=parts.dtype, device=parts.device))


def parts_from_tensor(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Split tensors [n, 3, 3] into isotropic [n] and anisotropic [n, 5] parts; the antisymmetric part is dropped."""
    parts = torch.einsum("nab,pab->np", tensor, torch.tensor(TENSORS, dtype=tensor.dtype, device=tensor.device))
    return parts[:, 0], parts[:, 1:]
