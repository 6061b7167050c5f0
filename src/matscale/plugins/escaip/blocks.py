r"""Parts of EScAIP on the padded layout [n_atoms, W, H]: features of edges, attention of neighbours, feed-forward.

    a_ik   = norm σ(A [g(d_ik) ⊕ source(k) ⊕ target(i)])           source, target: order and element of an atom
    m_ik   = norm σ(M [a_ik ⊕ σ(E y_ik) ⊕ σ(N [x_k ⊕ x_i])])
    y'_ik  = O Σ_k' softmax_k'(Σ_l P_l(n_k · n_k') q_k^l · k_k'^l / √D + b_k') v_k'
    x'_i   = y'_i0                                                   slot 0 is the atom itself

Each head's queries and keys have channels of degree l = 0, 1, ... The paper multiplies both by spherical harmonics of
the directions; by the addition theorem, it is enough to multiply their product by the Legendre polynomial P_l of the
angle. This takes five times fewer multiplications with the published channels, and every term is invariant under
rotation.

A row of W slots holds an atom and its neighbours, with H channels each. Maps of an atom's own features, which all its
neighbours use, are computed once per atom and then gathered.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import gelu

from matscale.plugin import hand_attention, is_attention_wanted
from matscale.plugins.escaip.config import EScAIPConfig
from matscale.plugins.escaip.layout import Layout
from matscale.plugins.escaip.norm import RMSNorm


class FeedForward(nn.Sequential):
    """Feed-forward network with H input, factor · H hidden and H output channels."""

    def __init__(self, hidden: int, factor: int) -> None:
        super().__init__(nn.Linear(hidden, factor * hidden), nn.GELU(), nn.Linear(factor * hidden, hidden))


class EdgeAttributes(nn.Module):
    """Features of each slot from elements, bond-orientational orders and distance. Each block has its own weights."""

    def __init__(self, config: EScAIPConfig) -> None:
        super().__init__()
        rows, atom, order = config.max_atomic_number + 1, config.atom_channels, config.order_channels
        self.source_element = nn.Embedding(rows, atom)  # row 0 is no element
        self.target_element = nn.Embedding(rows, atom)
        self.source_order = nn.Linear(config.n_order, order)
        self.target_order = nn.Linear(config.n_order, order)
        self.distance = nn.Linear(config.n_radial, config.distance_channels)
        self.mix = nn.Linear(config.distance_channels + 2 * (order + atom), config.hidden)
        self.norm = RMSNorm(config.hidden)
        self.parts = [config.distance_channels, order + atom, order + atom]

    def forward(self, atomic_numbers: Tensor, layout: Layout) -> Tensor:
        """Compute features [n_atoms, W, H] of the W slots of each atom."""
        of_distance, of_source, of_target = self.mix.weight.split(self.parts, dim=1)
        source = torch.cat([gelu(self.source_order(layout.order)), self.source_element(atomic_numbers)], dim=-1)
        target = torch.cat([gelu(self.target_order(layout.order)), self.target_element(atomic_numbers)], dim=-1)
        x = functional.linear(gelu(self.distance(layout.basis)), of_distance)
        x = x + layout.gather(functional.linear(source, of_source))
        x = x + functional.linear(target, of_target, self.mix.bias)[:, None]
        attributes: Tensor = self.norm(gelu(x))
        return attributes


class InputBlock(nn.Module):
    """Input block: initial features of atoms and slots."""

    def __init__(self, config: EScAIPConfig) -> None:
        super().__init__()
        self.attributes = EdgeAttributes(config)
        self.feed_forward = FeedForward(config.hidden, 1)
        self.atom_norm, self.edge_norm = RMSNorm(config.hidden), RMSNorm(config.hidden)

    def forward(self, atomic_numbers: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Compute initial features of atoms [n_atoms, H] and of their W slots [n_atoms, W, H]."""
        y = self.attributes(atomic_numbers, layout)
        y = y + self.feed_forward(y)
        return self.atom_norm(y[:, 0]), self.edge_norm(y)


class NeighborAttention(nn.Module):
    """Attention among the slots of a row, that is an atom and its neighbours."""

    def __init__(self, config: EScAIPConfig, atoms_only: bool) -> None:
        """Set up attention.

        With `atoms_only`, only slot 0 has queries, which is enough for the last layer of gradient models.
        """
        super().__init__()
        hidden, self.n_heads, self.degrees = config.hidden, config.n_heads, list(config.channels_by_degree)
        self.attributes = EdgeAttributes(config)
        self.atoms = nn.Linear(2 * hidden, hidden)
        self.edge = nn.Linear(hidden, hidden)
        self.message = nn.Linear(3 * hidden, hidden)
        self.norm = RMSNorm(hidden)
        self.query, self.key = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.value, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.atoms_only = atoms_only
        # The published models multiply by harmonics, pad to a multiple of 8, and divide by the root of that length.
        expanded = sum((2 * degree + 1) * n for degree, n in enumerate(self.degrees))
        self.scale = (8 * -(-expanded // 8)) ** -0.5

    def forward(self, x: Tensor, y: Tensor, atomic_numbers: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Update features of atoms `x` [n_atoms, H] and slots `y` [n_atoms, W, H].

        With `atoms_only`, the returned features of slots are [n_atoms, 1, H].
        """
        message = self._messages(x, y, atomic_numbers, layout)
        asking = message[:, :1] if self.atoms_only else message
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # [n_atoms, n_heads, W, D]
            for part in (self.query(asking), self.key(message), self.value(message))
        )
        weights = self._weights(q, k, layout)
        if is_attention_wanted():
            self._hand(weights, layout)
        found = self.out((weights @ v).transpose(1, 2).flatten(2))
        return found[:, 0], found

    def _messages(self, x: Tensor, y: Tensor, atomic_numbers: Tensor, layout: Layout) -> Tensor:
        of_source, of_target = self.atoms.weight.chunk(2, dim=1)
        atoms = layout.gather(functional.linear(x, of_source))
        atoms = atoms + functional.linear(x, of_target, self.atoms.bias)[:, None]
        parts = [self.attributes(atomic_numbers, layout), gelu(self.edge(y)), gelu(atoms)]
        message: Tensor = self.norm(gelu(self.message(torch.cat([p.to(parts[1].dtype) for p in parts], dim=-1))))
        return message

    def _hand(self, weights: Tensor, layout: Layout) -> None:
        """Hand out the weights with which slot 0, the atom itself, attends to the slots of its row."""
        atom, slot = layout.is_used.nonzero(as_tuple=True)
        vector = layout.direction[atom, slot] * layout.distance[atom, slot, None]
        hand_attention(atom, layout.neighbors[atom, slot], weights[atom, :, 0, slot].T, vector)

    def _weights(self, q: Tensor, k: Tensor, layout: Layout) -> Tensor:
        """Attention weights [n_atoms, n_heads, query slots, W]; each row sums to 1."""
        logits = layout.log_weight[:, None, None, :]
        by_degree = zip(q.split(self.degrees, dim=-1), k.split(self.degrees, dim=-1), layout.legendre)
        for q_l, k_l, polynomial in by_degree:
            if q_l.shape[-1]:
                product = (q_l * self.scale) @ k_l.transpose(-1, -2)
                logits = logits + product * polynomial[:, None, : q.shape[2]]
        return logits.softmax(-1)


class Block(nn.Module):
    """Block of attention, then feed-forward networks of atoms and slots.

    Each of these acts on normalised features, and its output is added to the features.
    """

    def __init__(self, config: EScAIPConfig, atoms_only: bool) -> None:
        super().__init__()
        hidden, factor = config.hidden, config.ffn_factor
        self.atom_norm, self.edge_norm = RMSNorm(hidden), RMSNorm(hidden)
        self.attention = NeighborAttention(config, atoms_only)
        self.atom_ffn_norm, self.atom_ffn = RMSNorm(hidden), FeedForward(hidden, factor)
        self.atoms_only = atoms_only
        if not atoms_only:
            self.edge_ffn_norm, self.edge_ffn = RMSNorm(hidden), FeedForward(hidden, factor)

    def forward(self, x: Tensor, y: Tensor, atomic_numbers: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Update features of atoms `x` [n_atoms, H] and slots `y` [n_atoms, W, H].

        With `atoms_only`, `y` is returned unchanged.
        """
        dx, dy = self.attention(self.atom_norm(x), self.edge_norm(y), atomic_numbers, layout)
        x = x + dx
        x = x + self.atom_ffn(self.atom_ffn_norm(x))
        if self.atoms_only:
            return x, y
        y = y + dy
        return x, y + self.edge_ffn(self.edge_ffn_norm(y))
