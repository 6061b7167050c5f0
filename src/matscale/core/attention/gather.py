"""Attention of a trained model on structures: statistics of each layer and head, and the maps of one structure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from matscale.core.attention.statistics import Array, Estimate, Head, Pairs, heads_of, sums_of
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import minimum_image_vector
from matscale.core.data.store.packed import PackedDataset
from matscale.core.data.structure import Structure
from matscale.core.errors import ConfigError, DataError, PluginError
from matscale.core.hosting.host import host
from matscale.core.inference.predict import floating
from matscale.core.model.attention import LayerAttention, attention_kept
from matscale.core.model.potential import Potential
from matscale.core.progress import SILENT, Reporter
from matscale.core.runs.record import Run

POINTS = 1500
"""Number of pairs that are kept as points of a figure."""
DRAWN = 24
"""Largest number of atoms of the structure that is drawn, unless its row is given."""


@dataclass(frozen=True)
class Drawn:
    """Structure whose attention is drawn: weights of all images of an atom are added."""

    row: int
    structure: Structure
    vectors: Array
    """[n_atoms, n_atoms, 3] Å from each atom to the nearest image of each other atom."""
    maps: tuple[Array, ...]
    """For each layer, weights [n_heads, n_atoms, n_atoms]; the first atom attends to the second."""


@dataclass(frozen=True)
class Attention:
    """Attention of a run on some structures of a dataset."""

    architecture: str
    dataset: PackedDataset
    rows: NDArray[np.int64]
    """Rows of the structures that were measured."""
    heads: tuple[Head, ...]
    points: tuple[Array, ...]
    """For each layer, distance [Å] and relative weights by head of some pairs: [1 + n_heads, n_points]."""
    drawn: Drawn
    cutoff: float | None
    """Cutoff of the model's graph [Å]; None for a model without edges."""

    def plain(self) -> dict[str, Any]:
        """Statistics and maps as JSON-ready values; lengths in Å, rates in 1/Å."""
        return {
            "architecture": self.architecture,
            "dataset": self.dataset.hash,
            "n_structures": len(self.rows),
            "heads": [_plain(head) for head in self.heads],
            "structure": {
                "row": self.drawn.row,
                "formula": self.drawn.structure.formula,
                "atomic_numbers": self.drawn.structure.atomic_numbers.tolist(),
                "distances": np.linalg.norm(self.drawn.vectors, axis=-1).tolist(),
                "weights": [layer.tolist() for layer in self.drawn.maps],
            },
        }


def _plain(head: Head) -> dict[str, Any]:
    return {
        "layer": head.layer,
        "head": head.head,
        "rank_correlation": list(head.rank),
        "decay_rate": list(head.rate),
        "decay_length": list(head.length),
        "weight_on_itself": list(head.own),
        "curve": {"distance": head.distance.tolist(), "relative_weight": [list(one) for one in head.curve]},
    }


def check_shows_attention(run: Run) -> None:
    """Raise ConfigError, with the architectures that can, if the models of the run's architecture hand out no weights.

    Raises PluginError if the architecture is not installed.
    """
    name = run.config.architecture.name
    if not host().architecture(name).shows_attention:
        able = ", ".join(sorted(one.name for one in host().architectures() if one.shows_attention))
        raise ConfigError(f"{run.path}: {name} hands out no attention weights. Architectures that do: {able}.")


def chosen(rows: NDArray[np.int64], n_structures: int, seed: int = 0) -> NDArray[np.int64]:
    """At most `n_structures` of the rows, drawn at random, in ascending order."""
    if len(rows) <= n_structures:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, n_structures, replace=False))


def gather(
    run: Run,
    potential: Potential,
    dataset: PackedDataset,
    rows: NDArray[np.int64],
    *,
    row: int | None = None,
    batch: int = 16,
    seed: int = 0,
    progress: Reporter = SILENT,
) -> Attention:
    """Measure the attention of a run's model on structures of `dataset` at `rows`.

    The structure that is drawn is that at `row`, by default the one of `rows` with the most atoms up to `DRAWN`.
    Raises DataError for a row that the dataset does not have, and PluginError for a model that hands out no weights
    although its architecture has `shows_attention`.
    """
    name = run.config.architecture.name
    rng = np.random.default_rng(seed)
    sums: list[list[Array]] = []
    points: list[list[Array]] = []
    for start in range(0, len(rows), batch):
        progress.stage("Attention", start, len(rows))
        for layers in attended(name, potential, dataset, rows[start : start + batch].tolist()):
            sums = sums or [[] for _ in layers]
            points = points or [[] for _ in layers]
            for k, pairs in enumerate(layers):
                sums[k].append(sums_of(pairs))
                points[k].append(_some(pairs, -(-POINTS // len(rows)), rng))
    return Attention(
        name,
        dataset,
        rows,
        tuple(head for k, each in enumerate(sums) for head in heads_of(k + 1, each, seed)),
        tuple(np.concatenate(each, axis=1) for each in points),
        draw(name, potential, dataset, _row(dataset, rows) if row is None else row),
        potential.graph.cutoff if potential.graph.has_edges else None,
    )


def attended(name: str, potential: Potential, dataset: PackedDataset, rows: Sequence[int]) -> Iterable[list[Pairs]]:
    """Pairs of every structure at `rows`, in each layer of the model of the architecture called `name`."""
    batch = dataset.batch(rows, potential.graph, floating(potential)).to(potential.references.device)
    with torch.no_grad(), attention_kept() as layers:
        potential(batch)
    if not layers:
        raise PluginError(
            f"architecture {name!r}: declares shows_attention=True, but its model hands out no weights. Call "
            "matscale.plugin.hand_attention in its layers."
        )
    parts = [_by_structure(layer, batch) for layer in layers]
    return [[part[s] for part in parts] for s in range(batch.n_structures)]


def _by_structure(layer: LayerAttention, batch: AtomicBatch) -> list[Pairs]:
    """Pairs of a layer, divided by structure; atoms are counted within each structure."""
    vector = minimum_image_vector(batch, layer.query, layer.key) if layer.vector is None else layer.vector
    structure = batch.batch[layer.query]
    order = structure.argsort(stable=True)
    ends = torch.cumsum(torch.bincount(structure, minlength=batch.n_structures), 0)[:-1].tolist()
    first = (torch.cumsum(batch.atoms_per_structure, 0) - batch.atoms_per_structure)[structure]

    def divided(x: torch.Tensor) -> list[Any]:
        return np.split(x[order].cpu().numpy(), ends)

    columns = (layer.query - first, layer.key - first, vector.double().norm(dim=-1), layer.weights.T.double())
    return [Pairs(q, k, d, np.ascontiguousarray(w.T)) for q, k, d, w in zip(*map(divided, columns))]


def _some(pairs: Pairs, n: int, rng: np.random.Generator) -> Array:
    """Distances and relative weights [1 + n_heads, at most n] of random pairs of different atoms."""
    others = np.flatnonzero(~pairs.is_self)
    taken = rng.choice(others, min(n, len(others)), replace=False)
    return np.concatenate([pairs.distance[None, taken], pairs.relative()[:, taken]])


def _row(dataset: PackedDataset, rows: NDArray[np.int64]) -> int:
    """Row of the structure to draw: the one with the most atoms up to `DRAWN`, or else the smallest."""
    counts = dataset.n_atoms[rows]
    fits = counts <= DRAWN
    return int(rows[np.where(fits, counts, -1).argmax()] if fits.any() else rows[counts.argmin()])


def draw(name: str, potential: Potential, dataset: PackedDataset, row: int) -> Drawn:
    """Attention within one structure, for maps and graphs. Raises DataError for a row that there is not."""
    if not 0 <= row < len(dataset):
        raise DataError(f"{dataset.path}: has no row {row}: its {len(dataset):,} rows are counted from 0.")
    [layers] = attended(name, potential, dataset, [row])
    structure, n = dataset.structure(row), int(dataset.n_atoms[row])
    batch = dataset.batch([row], potential.graph, torch.float64)
    query, key = (torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n))
    maps = []
    for pairs in layers:
        weights = np.zeros((len(pairs.weights), n, n))
        np.add.at(weights.transpose(1, 2, 0), (pairs.query, pairs.key), pairs.weights.T)
        maps.append(weights)
    vectors = minimum_image_vector(batch, query, key).view(n, n, 3).numpy()
    return Drawn(row, structure, vectors, tuple(maps))


def text(estimate: Estimate, form: str = "{:.2f}") -> str:
    """Format an estimate with its interval; `-` where there is none.

    >>> text(Estimate(-0.5, -0.61, -0.4)), text(Estimate(2.0, 1.0, float("inf")))
    ('-0.50 [-0.61, -0.40]', '2.00 [1.00, ∞]')
    """
    if not np.isfinite(estimate.value):
        return "-"
    ends = ["∞" if end == np.inf else form.format(end) for end in estimate[1:]]
    return form.format(estimate.value) + (f" [{ends[0]}, {ends[1]}]" if not np.isnan(estimate.low) else "")
