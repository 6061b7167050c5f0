"""Output heads: energy, forces and stress from features of atoms, for models that predict all three directly.

    energy = Σ_atoms e(x)                [n_structures]        extensive
    forces = f(x)                        [n_atoms, 3]
    stress = mean_atoms S(s(x))          [n_structures, 3, 3]  intensive: a supercell has the stress of its cell

e, f and s are MLPs with 1, 3 and 6 outputs; S puts the six numbers into a symmetric tensor, in the order of `VOIGT`
(xx yy zz yz xz xy). Neither f nor S∘s is equivariant: a model with these heads must not claim rotation.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from matscale.core.data.batch import AtomicBatch
from matscale.core.model.outputs import Outputs

_FULL_FROM_SIX = [0, 5, 4, 5, 1, 3, 4, 3, 2]
"""Index in (xx yy zz yz xz xy) of each of the nine components of the tensor, row by row."""


def sum_by_structure(x: Tensor, batch: AtomicBatch) -> Tensor:
    """Sum over the atoms of each structure, from [n_atoms, ...] to [n_structures, ...].

    The sum is in float64, so that it is accurate in large cells.

    >>> import matscale
    >>> from ase.build import bulk
    >>> batch = matscale.batch([bulk("Cu"), bulk("Cu", cubic=True)])
    >>> sum_by_structure(torch.ones(5), batch).tolist()
    [1.0, 4.0]
    """
    out = torch.zeros(batch.n_structures, *x.shape[1:], dtype=torch.float64, device=x.device)
    return out.index_add(0, batch.batch, x.double())


def mean_by_structure(x: Tensor, batch: AtomicBatch) -> Tensor:
    """Mean over the atoms of each structure, from [n_atoms, ...] to [n_structures, ...], summed in float64."""
    atoms = batch.atoms_per_structure.reshape(-1, *(1,) * (x.dim() - 1))
    return (sum_by_structure(x, batch) / atoms).to(x.dtype)


def symmetric_tensor(six: Tensor) -> Tensor:
    """Make symmetric tensors [..., 3, 3] from components [..., 6] in the order xx yy zz yz xz xy.

    >>> symmetric_tensor(torch.arange(6)).tolist()
    [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
    """
    return torch.unflatten(six[..., _FULL_FROM_SIX], -1, (3, 3))


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """Make an MLP: linear layers of these widths with SiLU between them; the last one starts near zero.

    A potential multiplies outputs by scales of its training set, so that an output near zero is the mean of the data:
    the loss starts near its baseline for any width.
    """
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.SiLU()]
    last = layers[-2]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers[:-1])


def head_widths(width: int, head_width: int, head_layers: int) -> tuple[int, ...]:
    """Widths of a head's features and hidden layers: `head_layers` − 1 times `width`, then `head_width`.

    The output layer is not included: with 2 layers, the head is width → head_width → output.

    >>> head_widths(64, 32, 2), head_widths(64, 32, 3)
    ((64, 32), (64, 64, 32))
    """
    return (width,) * (head_layers - 1) + (head_width,)


class DirectHeads(nn.Module):
    """Three MLPs on the features of each atom, and the sums that give energy, forces and stress."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        """Set up the heads. `widths` are the widths of features and hidden layers; output layers are added."""
        super().__init__()
        self.energy = mlp((*widths, 1))
        self.forces = mlp((*widths, 3))
        self.stress = mlp((*widths, 6))

    def forward(self, x: Tensor, batch: AtomicBatch) -> Outputs:
        """Compute Outputs from features [n_atoms, width]."""
        return Outputs(
            energy=sum_by_structure(self.energy(x).squeeze(-1), batch),
            forces=self.forces(x),
            stress=mean_by_structure(symmetric_tensor(self.stress(x)), batch),
        )

    @staticmethod
    def multiply_adds(widths: tuple[int, ...]) -> int:
        """Count multiply-adds per atom of one forward pass through the three heads."""
        hidden = sum(a * b for a, b in pairwise(widths))
        return 3 * hidden + 10 * widths[-1]
