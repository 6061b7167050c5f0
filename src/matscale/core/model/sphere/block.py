"""Block of a network: attention, then a feed-forward network; each acts on a norm of the features and is added."""

from __future__ import annotations

from torch import Tensor, nn

from matscale.core.model.sphere.dropout import Drop
from matscale.core.model.sphere.edges import Edges
from matscale.core.model.sphere.grid import SphereGrid


class Block(nn.Module):
    """Block of the network: x + attention(norm x), then x + feed-forward(norm x). A child makes the parts."""

    attention_norm: nn.Module
    attention: nn.Module
    feed_forward_norm: nn.Module
    feed_forward: nn.Module
    drop: Drop

    def forward(
        self,
        x: Tensor,
        edges: Edges,
        edge_grid: SphereGrid,
        atom_grid: SphereGrid,
        batch: Tensor,
        n_structures: int,
    ) -> Tensor:
        """Update `x` [n_atoms, K, C], K coefficients with C channels for each atom."""
        x = x + self.drop(self.attention(self.attention_norm(x), edges, edge_grid), batch, n_structures)
        within: Tensor = self.drop(self.feed_forward(self.feed_forward_norm(x), atom_grid), batch, n_structures)
        return x + within
