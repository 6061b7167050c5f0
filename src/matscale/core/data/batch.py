"""`AtomicBatch`, the input of every model: flat tensors that list the atoms of one structure after another.

| field | shape | unit |
|---|---|---|
| positions | [n_atoms, 3] | Å |
| atomic_numbers | [n_atoms] | |
| cell | [n_structures, 3, 3] | Å, rows are lattice vectors |
| pbc | [n_structures, 3] | |
| batch | [n_atoms] | structure of each atom, ascending |
| atoms_per_structure | [n_structures] | |
| edge_index | [2, n_edges] | row 0 source j (neighbour), row 1 target i (centre), sorted by i |
| edge_shift | [n_edges, 3] | lattice multiples |
| energy, forces, stress | [n_structures], [n_atoms, 3], [n_structures, 3, 3] | eV, eV/Å, eV/Å³; NaN where missing |
| index | [n_structures] | row in the dataset, −1 if from elsewhere |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from matscale.core.precision import times_matrix

FLAT = 1e-6
"""Volume of a cell, relative to the product of its edge lengths, up to which the cell counts as flat."""


@dataclass(frozen=True)
class DenseBatch:
    """Padded layout of a batch: slot [s, k] holds atom k of structure s, or padding."""

    positions: Tensor
    """[n_structures, max_atoms, 3]; 0 in padding."""
    atomic_numbers: Tensor
    """[n_structures, max_atoms]; 0 in padding."""
    mask: Tensor
    """[n_structures, max_atoms], True where there is an atom."""
    cell: Tensor
    """[n_structures, 3, 3]"""

    def flat(self, x: Tensor) -> Tensor:
        """Flatten the padded layout: [n_structures, max_atoms, ...] -> [n_atoms, ...] in the order of the batch."""
        return x[self.mask]


@dataclass(frozen=True)
class AtomicBatch:
    """Batch of structures. See the table at the top of this module."""

    positions: Tensor
    atomic_numbers: Tensor
    cell: Tensor
    pbc: Tensor
    batch: Tensor
    atoms_per_structure: Tensor
    edge_index: Tensor | None = None
    edge_shift: Tensor | None = None
    energy: Tensor | None = None
    forces: Tensor | None = None
    stress: Tensor | None = None
    index: Tensor | None = None

    @property
    def n_structures(self) -> int:
        return self.cell.shape[0]

    @property
    def n_atoms(self) -> int:
        return self.positions.shape[0]

    @property
    def n_edges(self) -> int:
        return 0 if self.edge_index is None else self.edge_index.shape[1]

    @property
    def shape(self) -> BatchShape:
        """Sizes of this batch that determine the cost of a training step."""
        squares = int((self.atoms_per_structure.long() ** 2).sum())
        return BatchShape(self.n_structures, self.n_atoms, self.n_edges, squares, self._count_triplets, self)

    def _count_triplets(self) -> int:
        if self.edge_index is None:
            return 0
        degree = torch.bincount(self.edge_index[1], minlength=self.n_atoms)
        return int((degree * (degree - 1)).sum())

    def edges(self) -> tuple[Tensor, Tensor]:
        """Return the source atoms j and the target atoms i of the edges, each [n_edges].

        Raises ValueError if the batch has no edge list.
        """
        if self.edge_index is None:
            raise ValueError("This batch has no edges: make it with a radius or nearest graph (`Architecture.graph`).")
        return self.edge_index[0], self.edge_index[1]

    def edge_vec(self) -> Tensor:
        """Edge vectors [n_edges, 3] Å, from centre i to neighbour j; differentiable in positions and cell."""
        j, i = self.edges()
        assert self.edge_shift is not None
        cell = self.cell.index_select(0, self.batch.index_select(0, i))
        shift = times_matrix(self.edge_shift.to(cell.dtype), cell)
        return self.positions.index_select(0, j) - self.positions.index_select(0, i) + shift

    def edge_distance(self) -> Tensor:
        """Edge lengths [n_edges] Å."""
        distance: Tensor = torch.linalg.vector_norm(self.edge_vec(), dim=-1)
        return distance

    def fractional(self) -> Tensor:
        """Fractional coordinates: positions in units of the lattice vectors, [n_atoms, 3].

        They are 0 in a structure without three independent lattice vectors.
        """
        has_cell = torch.linalg.det(self.cell).abs() > 1e-9
        safe = torch.where(has_cell[:, None, None], self.cell, torch.eye(3).to(self.cell))
        inverse = torch.linalg.inv(safe) * has_cell[:, None, None]
        return times_matrix(self.positions, inverse.index_select(0, self.batch))

    def volume(self) -> Tensor:
        """Volumes spanned by the lattice vectors, [n_structures] Å³; 0 where `has_volume` is False."""
        volume = torch.linalg.det(self.cell).abs()
        return torch.where(self.has_volume(), volume, torch.zeros_like(volume))

    def has_volume(self) -> Tensor:
        """Whether each structure has a volume, and therefore a stress, [n_structures].

        A volume needs three independent lattice vectors and at least one periodic axis. If the cell of a slab has a
        vector across the slab, the volume is that of the cell, as in ASE and in plane-wave codes.
        """
        a, b, c = self.cell.detach().double().unbind(dim=1)
        volume = (torch.linalg.cross(a, b) * c).sum(dim=1).abs()
        spans: Tensor = volume > FLAT * a.norm(dim=1) * b.norm(dim=1) * c.norm(dim=1)  # less is rounding
        return spans & self.pbc.bool().any(dim=1)

    def dense(self) -> DenseBatch:
        """Padded layout of the atoms, for attention over all atoms of a structure."""
        n, width = self.n_structures, int(self.atoms_per_structure.max())
        first = torch.cumsum(self.atoms_per_structure, 0) - self.atoms_per_structure
        slot = torch.arange(self.n_atoms, device=self.batch.device) - first[self.batch]
        mask = torch.arange(width, device=self.batch.device) < self.atoms_per_structure[:, None]
        positions = self.positions.new_zeros(n, width, 3).index_put((self.batch, slot), self.positions)
        numbers = self.atomic_numbers.new_zeros(n, width).index_put((self.batch, slot), self.atomic_numbers)
        return DenseBatch(positions, numbers, mask, self.cell)

    def with_geometry(self, positions: Tensor, cell: Tensor) -> AtomicBatch:
        """Return a batch with the same atoms and edges, at other positions and in another cell."""
        return replace(self, positions=positions, cell=cell)

    def transformed(self, matrix: Tensor) -> AtomicBatch:
        """Rotate or reflect a batch and its labels: every vector v of structure s becomes v @ matrix[s].T.

        `matrix` [3, 3] or [n_structures, 3, 3] is orthogonal. Fractional coordinates and edges are unchanged.
        """
        m = matrix.to(self.positions).expand(self.n_structures, 3, 3)
        turn = m.transpose(1, 2)
        per_atom = turn.index_select(0, self.batch)
        return replace(
            self,
            positions=times_matrix(self.positions, per_atom),
            cell=times_matrix(self.cell, turn[:, None]),
            forces=None if self.forces is None else times_matrix(self.forces, per_atom),
            stress=None if self.stress is None else _turned(self.stress, turn),
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None, non_blocking: bool = False
    ) -> AtomicBatch:
        """Return the batch with all tensors on `device`, and with floating-point tensors of type `dtype`."""

        def move(x: Tensor) -> Tensor:
            return x.to(device=device, dtype=dtype if x.is_floating_point() else None, non_blocking=non_blocking)

        return self._map(move)

    def pin_memory(self) -> AtomicBatch:
        """Return a copy in page-locked memory, for asynchronous transfer to a GPU."""
        return self._map(lambda x: x.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> AtomicBatch:
        moved = {f.name: function(x) for f in fields(self) if (x := getattr(self, f.name)) is not None}
        return replace(self, **moved)

    def split(self) -> list[AtomicBatch]:
        """Split into one batch per structure; the inverse of `AtomicBatch.join`."""
        atom_ptr = [0, *torch.cumsum(self.atoms_per_structure, 0).tolist()]
        if self.edge_index is not None:
            counts = torch.bincount(self.batch[self.edge_index[1]], minlength=self.n_structures)
            edge_ptr = [0, *torch.cumsum(counts, 0).tolist()]
        members = []
        for s in range(self.n_structures):
            a, b = atom_ptr[s], atom_ptr[s + 1]
            e = slice(edge_ptr[s], edge_ptr[s + 1]) if self.edge_index is not None else None
            members.append(
                AtomicBatch(
                    positions=self.positions[a:b],
                    atomic_numbers=self.atomic_numbers[a:b],
                    cell=self.cell[s : s + 1],
                    pbc=self.pbc[s : s + 1],
                    batch=torch.zeros_like(self.batch[a:b]),
                    atoms_per_structure=self.atoms_per_structure[s : s + 1],
                    edge_index=None if self.edge_index is None else self.edge_index[:, e] - a,
                    edge_shift=None if self.edge_shift is None else self.edge_shift[e],
                    energy=None if self.energy is None else self.energy[s : s + 1],
                    forces=None if self.forces is None else self.forces[a:b],
                    stress=None if self.stress is None else self.stress[s : s + 1],
                    index=None if self.index is None else self.index[s : s + 1],
                )
            )
        return members

    @classmethod
    def join(cls, members: list[AtomicBatch]) -> AtomicBatch:
        """Join several batches into one, in order. All of them must have the same fields set."""
        starts = torch.tensor([0, *(m.n_atoms for m in members)]).cumsum(0).tolist()
        counts = torch.tensor([0, *(m.n_structures for m in members)]).cumsum(0).tolist()

        def cat(name: str, dim: int = 0) -> Tensor | None:
            parts = [getattr(m, name) for m in members]
            return None if parts[0] is None else torch.cat(parts, dim)

        values: dict[str, Any] = {f.name: cat(f.name) for f in fields(cls) if f.name not in ("batch", "edge_index")}
        values["batch"] = torch.cat([m.batch + n for m, n in zip(members, counts)])
        edges = [m.edge_index for m in members]
        if edges[0] is not None:
            values["edge_index"] = torch.cat([e + n for e, n in zip(edges, starts) if e is not None], 1)
        return cls(**values)

    def to_pyg(self) -> Any:
        """Convert to a torch_geometric Batch.

        The fields have the names that PyG models use: pos, z, edge_index, edge_vec, y, force.
        """
        from torch_geometric.data import Batch, Data  # start-up: torch_geometric

        def data(m: AtomicBatch) -> Data:
            d = Data(pos=m.positions, z=m.atomic_numbers, cell=m.cell, pbc=m.pbc, num_nodes=m.n_atoms)
            if m.edge_index is not None:
                d.edge_index, d.edge_shift, d.edge_vec = m.edge_index, m.edge_shift, m.edge_vec()
            if m.energy is not None:
                d.y = m.energy
            if m.forces is not None:
                d.force = m.forces
            if m.stress is not None:
                d.stress = m.stress
            return d

        return Batch.from_data_list([data(m) for m in self.split()])


def _turned(tensors: Tensor, turn: Tensor) -> Tensor:
    half = times_matrix(tensors, turn[:, None])
    return times_matrix(half.transpose(1, 2), turn[:, None]).transpose(1, 2)


@dataclass(frozen=True)
class BatchShape:
    """Sizes of a batch that determine the cost of a training step."""

    n_structures: int
    n_atoms: int
    n_edges: int
    sum_atoms_squared: int
    """Σ over structures of (number of atoms)²: the number of pairs in dense attention without padding."""
    count_triplets: Callable[[], int] = field(default=lambda: 0, repr=False, compare=False)
    """Function that returns `n_triplets`; called only where the cost depends on this number."""
    batch: AtomicBatch | None = field(default=None, repr=False, compare=False)
    """The batch itself, for FLOP formulas that need more than sizes; None if it is only planned."""

    @cached_property
    def n_triplets(self) -> int:
        """Number of triplets: ordered pairs of different neighbours of the same atom.

        It is the sum over atoms of degree·(degree − 1), where the degree of an atom is its number of neighbours.
        """
        return self.count_triplets()
