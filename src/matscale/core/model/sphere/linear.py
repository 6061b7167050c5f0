"""Linear maps of the channels of coefficients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from matscale.core.model.sphere.coefficients import degrees


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
