r"""Select neighbours with smooth weights, and arrange them in the padded layout [n_atoms, W] that all layers use.

    rank of e among those of atom a    r_a(e) = Σ_{e' of a, a itself} s((d_e − d_e') / w)   s: smooth step from −π to π
    distance measure x_e    = t log(e^{r_i / kt} + e^{r_j / kt} + e^{d_e / ct})
    logarithm of its weight            b_e    = −x² / (1 − x²),   kept if x < 1

i and j are the ends of the edge, so that an edge is kept in both directions or in neither. An atom and its kept
neighbours share a row of W = `max_neighbors` slots, or as many as the longest row of the batch needs; empty slots do
not affect results. The atom is in slot 0, at distance 0 and in no direction, with b = 0.

Each atom's bond-orientational order |mean_k Y_l(n_k)| (Steinhardt, doi:10.1103/PhysRevB.28.784) follows from the
Legendre polynomials of the angles between its neighbours, which attention needs anyway, by the addition theorem. In
this order parameter, a neighbour has its full weight up to the point where it is left out. Therefore models of this
family are not smooth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from matscale.plugin import AtomicBatch, DataError, GaussianBasis, full_precision
from matscale.plugins.escaip.config import EScAIPConfig

FAR = 1e6
"""Distance [Å] for padding in lists of distances, larger than all others."""


@dataclass(frozen=True)
class Layout:
    """Rows of W slots, one row for each atom: the atom itself, then its neighbours. R Gaussians expand a distance."""

    neighbors: Tensor
    """[n_atoms, W] index of the atom in each slot; in padding, the atom to which the row belongs."""
    is_used: Tensor
    """[n_atoms, W] whether a slot is used; False in padding."""
    direction: Tensor
    """[n_atoms, W, 3] unit vectors from the centre; 0 in slot 0 and in padding."""
    distance: Tensor
    """[n_atoms, W] distances from the centre [Å]; 0 in slot 0 and in padding."""
    log_weight: Tensor
    """[n_atoms, W] bias on the logits of attention; −inf in padding."""
    basis: Tensor
    """[n_atoms, W, R] Gaussians of the distance to each neighbour."""
    legendre: tuple[Tensor, ...]
    """Legendre polynomials of degree 0, 1, ... of the cosine between two neighbours, each [n_atoms, W, W].

    Where a slot has no direction, degree 0 has the value 1 and all others 0.
    """
    order: Tensor
    """[n_atoms, n_order] bond-orientational order of each atom, for degrees 0, 1, ..."""

    def gather(self, x: Tensor) -> Tensor:
        """Features [n_atoms, W, C] of the atom in each slot, from features `x` [n_atoms, C] of atoms."""
        return torch.unflatten(x.index_select(0, self.neighbors.flatten()), 0, self.neighbors.shape)


class MakeLayout(nn.Module):
    """Module that makes the `Layout` of a batch, differentiable in positions and cell."""

    def __init__(self, config: EScAIPConfig) -> None:
        super().__init__()
        self.config = config
        self.basis = GaussianBasis(config.cutoff, config.n_radial, width=2.0)

    @torch.compiler.disable(recursive=True)
    @full_precision
    def forward(self, data: AtomicBatch, is_full: bool = True) -> Layout:
        """Make the layout. With `is_full`, rows have `max_neighbors` slots, however few neighbours there are."""
        config, n_atoms = self.config, data.n_atoms
        j, i = data.edges()
        vec = data.edge_vec()
        distance = torch.linalg.vector_norm(vec, dim=-1)
        edges, extent = self._kept(data, distance)
        j, i, vec, distance = (x.index_select(0, edges) for x in (j, i, vec, distance))
        counts = torch.bincount(i, minlength=n_atoms)
        longest = self._longest(data, counts)
        width = config.max_neighbors if is_full else longest
        first_of_row = torch.cumsum(counts, 0) - counts
        slot = i * width + 1 + torch.arange(len(i), device=i.device) - first_of_row.index_select(0, i)

        def lay_out(x: Tensor, first: float, empty: float) -> Tensor:
            """Place `x` [n_kept] in slots [n_atoms, W], with `first` in slot 0 and `empty` in padding."""
            rows = x.new_full((n_atoms, width), empty).index_fill(1, slot.new_zeros(1), first)
            return rows.flatten().index_copy(0, slot, x).view_as(rows)

        own = torch.arange(n_atoms, device=i.device)[:, None].repeat(1, width)
        unit = vec / distance.clamp(min=1e-12)[:, None]
        direction = torch.stack([lay_out(component, 0.0, 0.0) for component in unit.unbind(-1)], dim=-1)
        is_used = lay_out(torch.ones_like(distance), 1.0, 0.0) > 0
        legendre = self._legendre(direction, is_used)
        distance = lay_out(distance, 0.0, 0.0)
        return Layout(
            neighbors=own.flatten().index_copy(0, slot, j).view_as(own),
            is_used=is_used,
            direction=direction,
            distance=distance,
            log_weight=lay_out(-extent.square() / (1 - extent.square()), 0.0, -torch.inf),
            basis=self.basis(distance),
            legendre=tuple(legendre[: len(config.channels_by_degree)]),
            order=self._order(legendre, is_used),
        )

    def _kept(self, data: AtomicBatch, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Find the edges that are kept: their indices, and the distance measure x of each, below 1."""
        config = self.config
        j, i = data.edges()
        shells = distances_of_atoms(data, distance)  # [n_atoms, 1 + max degree]
        reach = torch.pi * config.rank_width
        # Edges with n_neighbors nearer ones are certainly left out, which are most; they are skipped in the sums below.
        sure = torch.searchsorted(shells.detach().index_select(0, i), (distance.detach() - reach)[:, None]).squeeze(1)
        sure_at_source = torch.searchsorted(shells.detach().index_select(0, j), (distance.detach() - reach)[:, None])
        maybe = (distance < config.cutoff) & (torch.maximum(sure, sure_at_source.squeeze(1)) < config.n_neighbors)
        edges = maybe.nonzero().squeeze(1)
        d = distance.index_select(0, edges)
        ranks = [soft_rank(d, shells.index_select(0, end.index_select(0, edges)), config.rank_width) for end in (i, j)]
        parts = torch.stack([rank / config.n_neighbors for rank in ranks] + [d / config.cutoff])
        extent = config.rank_sharpness * torch.logsumexp(parts / config.rank_sharpness, dim=0)
        within = (extent < 1).nonzero().squeeze(1)
        return edges.index_select(0, within), extent.index_select(0, within)

    def _longest(self, data: AtomicBatch, counts: Tensor) -> int:
        """Number of slots in the longest row, from the numbers of kept neighbours [n_atoms].

        Raises DataError if that is more than `max_neighbors`.
        """
        most, width = int(counts.max()) + 1, self.config.max_neighbors
        if most > width:
            atom = int(counts.argmax())
            structure = int(data.batch[atom])
            number = atom - int((data.batch < structure).sum())
            raise DataError(
                f"escaip: atom {number} of structure {structure} of the batch (counted from 0) keeps {most - 1} "
                f"neighbours; with the atom itself that is {most}, and max_neighbors = {width}. Set max_neighbors to "
                f"{most} or more (no weight depends on it), or n_neighbors to less than {self.config.n_neighbors}."
            )
        return most

    def _legendre(self, direction: Tensor, is_used: Tensor) -> list[Tensor]:
        """Legendre polynomials [n_atoms, W, W], for each degree, of cosines between directions [n_atoms, W, 3]."""
        has_direction = is_used.index_fill(1, torch.zeros(1, dtype=torch.long, device=is_used.device), False)
        both = (has_direction[:, :, None] & has_direction[:, None, :]).to(direction.dtype)
        cosine = direction @ direction.transpose(1, 2)
        polynomials = [torch.ones_like(cosine), cosine]
        for n in range(1, max(self.config.n_order, len(self.config.channels_by_degree)) - 1):
            polynomials.append(((2 * n + 1) * cosine * polynomials[n] - n * polynomials[n - 1]) / (n + 1))
        return [polynomials[0], *(p * both for p in polynomials[1:])]

    def _order(self, legendre: list[Tensor], is_used: Tensor) -> Tensor:
        """Bond-orientational order of each atom, [n_atoms, n_order].

        Degree 0 has the value 1. Values below 10⁻³ are raised to 10⁻³, since the slope of the root would be noise.
        """
        squares = torch.stack([p.sum((1, 2)) for p in legendre[1 : self.config.n_order]], dim=-1)
        count = is_used.sum(1, keepdim=True).to(squares.dtype)
        order = (squares / count.square()).clamp(min=1e-6).sqrt()
        return torch.cat([torch.ones_like(count), order], dim=-1)


def distances_of_atoms(data: AtomicBatch, distance: Tensor) -> Tensor:
    """Arrange distances [n_edges] in a row for each atom; returns [n_atoms, 1 + max degree].

    A row has 0 for the atom itself, then the distances of its neighbours, ascending, then `FAR`.
    """
    _, i = data.edges()
    degree = torch.bincount(i, minlength=data.n_atoms)
    number = torch.arange(len(i), device=i.device) - (torch.cumsum(degree, 0) - degree).index_select(0, i)
    rows = distance.new_full((data.n_atoms, 1 + int(degree.max())), FAR)
    rows = rows.index_fill(1, i.new_zeros(1), 0.0).index_put((i, 1 + number), distance)
    return rows.sort(dim=1).values


def soft_rank(distance: Tensor, others: Tensor, width: float) -> Tensor:
    """Number [n] of `others` [n, m] that are nearer than `distance` [n], counted by smooth steps over ±π·width."""
    x = (distance[:, None] - others) / width
    step = torch.where(x.abs() < torch.pi, torch.sin(0.5 * x.clamp(-torch.pi, torch.pi)), torch.sign(x))
    return (0.5 * step + 0.5).sum(dim=1)
