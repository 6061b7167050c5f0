"""Check for structures in which no atom has a neighbour within the cutoff: a model would see only single atoms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import nearest_distance
from matscale.core.errors import DataError

if TYPE_CHECKING:
    from matscale.core.data.store.packed import PackedDataset


def check_rows(dataset: PackedDataset, rows: NDArray[np.int64], n_edges: NDArray[np.integer], graph: Graph) -> None:
    """Raises DataError if a structure at `rows` of the dataset has no edge; the message names the first one.

    `n_edges` [len(dataset)] has the number of edges of every structure of the dataset.
    """
    isolated = rows[n_edges[rows] == 0]
    if len(isolated):
        first = int(isolated.min())
        one = dataset.structure(first)
        why = _why(one.positions, one.cell, one.pbc, graph)
        more = f" This holds for {len(isolated):,} of the {len(rows):,} structures in use." if len(isolated) > 1 else ""
        raise DataError(f"{dataset.path}: structure {first}: {why}{more} {HINT}")


def check_batch(batch: AtomicBatch, graph: Graph, name: str = "") -> None:
    """Raises DataError if a structure of the batch has no edge.

    The message calls the structure `name`, or else gives its row in the dataset.
    """
    if not graph.has_edges:
        return
    lonely = isolated(batch)
    if not bool(lonely.any()):
        return
    place = int(lonely.nonzero()[0])
    row = place if batch.index is None or batch.index[place] < 0 else int(batch.index[place])
    positions, cell = batch.positions[batch.batch == place], batch.cell[place]
    why = _why(positions.double().cpu().numpy(), cell.double().cpu().numpy(), batch.pbc[place].cpu().numpy(), graph)
    raise DataError(f"{name or f'structure {row}'}: {why} {HINT}")


def isolated(batch: AtomicBatch) -> Tensor:
    """Return an array [n_structures] that is True for each structure of the batch without edges."""
    return batch.batch[batch.edges()[1]].bincount(minlength=batch.n_structures) == 0


HINT = (
    "The model would only see single atoms. Leave such structures out, or choose a longer cutoff; to learn and to "
    "predict single atoms, train with --set data.isolated=true."
)


def _why(positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], graph: Graph) -> str:
    distance = nearest_distance(positions, cell, pbc)
    found = (
        "it is a single atom without periodic images"
        if distance is None
        else f"the two nearest atoms are {distance:.4g} Å apart"
    )
    return f"no atom has a neighbour within the cutoff of {graph.cutoff:g} Å ({found})."
