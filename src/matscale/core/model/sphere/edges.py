"""Edges of a batch: basis, envelope and rotations, computed once for all blocks and heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from matscale.core.data.batch import AtomicBatch
from matscale.core.errors import DataError
from matscale.core.model.layers.radial import polynomial_cutoff
from matscale.core.model.reference_path import is_counted
from matscale.core.model.sphere.charts import ChartPassage, Passage
from matscale.core.model.sphere.coefficients import kept
from matscale.core.model.sphere.rotation import EdgeRotation
from matscale.core.precision import full_precision

SHORTEST = 1e-6
"""Length [Å] below which an edge is refused, since it has no direction."""


@dataclass(frozen=True)
class Edges:
    """Directed edges j -> i of a batch. Atoms have K coefficients, of which K_r are kept in the frame of an edge."""

    source: Tensor
    """[n_edges] index j of the neighbour, which sends the message."""
    target: Tensor
    """[n_edges] index i of the centre, which receives the message."""
    source_element: Tensor
    """[n_edges] atomic number of j"""
    target_element: Tensor
    """[n_edges] atomic number of i"""
    vec: Tensor
    """[n_edges, 3] edge vectors from centre i to neighbour j [Å]."""
    basis: Tensor
    """[n_edges, n_radial] Gaussians of the distance; a model may append features of the elements."""
    envelope: Tensor | None
    """[n_edges] 1 at distance 0, 0 at the cutoff; None where the neighbour rule is not smooth."""
    into_frame: Tensor
    """[n_edges, K_r, K] matrices that rotate an atom's coefficients (degree-major) into the edge's frame."""
    out_of_frame: Tensor
    """[n_edges, K, K_r] inverse rotations; if the model asks for it, rescaled to compensate for the omitted orders."""
    passage: Passage | None
    """Edges whose activation is a mean over both charts (`charts`); None if the model need not be smooth."""
    n_atoms: int

    @full_precision
    def turn_into_frame(self, x: Tensor) -> Tensor:
        """Rotate `x` [n_edges, K, C], degree-major, into the frames of the edges; returns [n_edges, K_r, C]."""
        return self.into_frame @ x

    @full_precision
    def turn_out_of_frame(self, x: Tensor) -> Tensor:
        """Rotate `x` [n_edges, K_r, C] back from the frames of the edges; returns [n_edges, K, C].

        `x` may have only the leading coefficients, those with m = 0.
        """
        return self.out_of_frame[:, :, : x.shape[1]] @ x

    @full_precision
    def sum_on_targets(self, x: Tensor) -> Tensor:
        """Sum `x` [n_edges, ...] over the edges of each target atom; returns [n_atoms, ...]."""
        return x.new_zeros(self.n_atoms, *x.shape[1:]).index_add(0, self.target, x)

    def mean_on_targets(self, x: Tensor) -> Tensor:
        """Mean of `x` [n_edges, ...] over the edges of each target atom; returns [n_atoms, ...].

        It is zero for an atom without neighbours.

        With an envelope f, the mean is Σ f² x / Σ f, as in `softmax`.
        """
        if self.envelope is not None:
            f = self.envelope.view(-1, *(1,) * (x.dim() - 1))
            return self.sum_on_targets(f.square() * x) / (self.sum_on_targets(f) + 1e-16)
        ones = x.new_ones(x.shape[0], *(1,) * (x.dim() - 1))
        return self.sum_on_targets(x) / self.sum_on_targets(ones).clamp(min=1.0)

    @full_precision
    def softmax(self, logits: Tensor, epsilon: float = 1e-16) -> Tensor:
        """Attention weights [n_edges, n_heads] that sum to 1 over the edges of each target.

        With an envelope f, the weights are f² e^a / (Σ f e^a + epsilon): they vanish smoothly at the cutoff, even for a
        single neighbour. Logits are relative to their largest at the target.
        """
        top = torch.full((self.n_atoms, logits.shape[1]), -torch.inf, dtype=logits.dtype, device=logits.device)
        top = top.scatter_reduce(0, self.target[:, None].expand_as(logits), logits.detach(), "amax")
        share = torch.exp(logits - top.index_select(0, self.target))
        if self.envelope is not None:
            share = share * self.envelope[:, None]
        weights = share / (self.sum_on_targets(share) + epsilon).index_select(0, self.target)
        return weights if self.envelope is None else weights * self.envelope[:, None]


class WideGaussians(nn.Module):
    """Radial basis of `n_radial` Gaussians from 0 to the cutoff, each twice as wide as their spacing."""

    centers: Tensor

    def __init__(self, cutoff: float, n_radial: int) -> None:
        """Set up the basis; `cutoff` in Å."""
        super().__init__()
        self.coefficient = -0.5 / (2.0 * cutoff / (n_radial - 1)) ** 2
        centers = torch.linspace(0.0, cutoff, n_radial, dtype=torch.float64, device="cpu")
        self.register_buffer("centers", centers, persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """Expand distances [n_edges] Å in the Gaussians; returns [n_edges, n_radial].

        Values below e⁻⁵⁰ are constant, since denormal numbers are ten times slower.
        """
        exponent = distance[:, None] - self.centers.to(distance.dtype)
        if not exponent.requires_grad:  # as below, but in one buffer, in a third of the time
            return exponent.square_().mul_(self.coefficient).clamp_(min=-50.0).exp_()
        return torch.exp((self.coefficient * exponent.square()).clamp(min=-50.0))


class EdgeFrames(nn.Module):
    """Module that makes the `Edges` of a batch."""

    rescale: Tensor

    def __init__(
        self,
        lmax: int,
        mmax: int,
        cutoff: float,
        n_radial: int,
        *,
        name: str,
        envelope: bool = True,
        passage: bool = False,
        rescaled: bool = True,
    ) -> None:
        """Set up frames for degrees up to `lmax` and orders up to `mmax`; `cutoff` in Å.

        With `envelope`, edges get the factor by which their messages vanish at the cutoff. With `passage`, edges
        between the charts get a `Passage`, which makes an activation on a coarse grid smooth (module `charts`). With
        `rescaled`, degrees above mmax are multiplied by √((2l+1)/(2 mmax+1)) when they are rotated out of the frame.
        `name` is the name of the architecture, for messages.
        """
        super().__init__()
        self.cutoff, self.name, self.has_envelope, self.is_rescaled = cutoff, name, envelope, rescaled
        self.gaussians = WideGaussians(cutoff, n_radial)
        self.rotation = EdgeRotation(lmax, mmax)
        self.passage = ChartPassage(lmax, mmax) if passage else None
        rescale = torch.from_numpy(kept(lmax, mmax).rescale)
        self.register_buffer("rescale", rescale if rescaled else torch.ones_like(rescale), persistent=False)

    @full_precision
    def forward(self, data: AtomicBatch) -> Edges:
        """Make the edges. Raises DataError for an edge of zero length."""
        j, i = data.edges()
        vec = data.edge_vec()
        d = torch.linalg.vector_norm(vec, dim=-1)
        if not torch.compiler.is_compiling():
            self._check_lengths(d, j, i)
        into_frame = self.rotation(vec)
        out_of_frame = into_frame * self.rescale.to(vec.dtype)[:, None] if self.is_rescaled else into_frame
        return Edges(
            source=j,
            target=i,
            source_element=data.atomic_numbers.index_select(0, j),
            target_element=data.atomic_numbers.index_select(0, i),
            vec=vec,
            basis=self.gaussians(d),
            envelope=polynomial_cutoff(d, self.cutoff) if self.has_envelope else None,
            into_frame=into_frame,
            out_of_frame=out_of_frame.transpose(1, 2),
            passage=self._passage(vec),
            n_atoms=data.n_atoms,
        )

    def _passage(self, vec: Tensor) -> Passage | None:
        if self.passage is None or (not torch.compiler.is_compiling() and is_counted()):
            return None  # work that is only repeated for smoothness is counted once
        passage: Passage = self.passage(vec)
        return passage

    def _check_lengths(self, distance: Tensor, j: Tensor, i: Tensor) -> None:
        if distance.numel() and not bool((distance > SHORTEST).all()):
            e = int(torch.where(distance > SHORTEST, torch.inf, 0.0).argmin())
            raise DataError(
                f"{self.name}: atoms {int(j[e])} and {int(i[e])} of the batch are {float(distance[e]):.3g} Å apart, "
                f"less than {SHORTEST:g} Å: such an edge has no direction. Remove one of the atoms."
            )
