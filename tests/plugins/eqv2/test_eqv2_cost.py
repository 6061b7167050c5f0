"""What EquiformerV2 costs grows in proportion to atoms and edges, and the readable path compiles as one graph."""

from __future__ import annotations

import numpy as np
import pytest

from matscale.core.architecture import DatasetInfo
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.flops import count_step
from matscale.core.manager import host
from matscale.core.potential import Potential


def potential(small, **options: object) -> Potential:
    family = host().architecture("eqv2")
    return Potential.of(family, small(n_layers=1, lmax=2, **options), DatasetInfo.any(), seed=0)


def off_a_line(sizes: list[int], costs: list[float]) -> float:
    """Largest relative distance from the straight line through the first and the last point."""
    x, y = np.array(sizes, dtype=float), np.array(costs)
    line = y[0] + (x - x[0]) * (y[-1] - y[0]) / (x[-1] - x[0])
    return float(np.abs(line / y - 1).max())


def test_flops_grow_linearly_with_atoms_over_two_decades(small, oxide) -> None:
    model = potential(small)
    one = collate([oxide], model.graph)
    batches = [AtomicBatch.join([one] * copies) for copies in (1, 7, 30, 100)]
    counts = [count_step(model, batch) for batch in batches]
    assert off_a_line([batch.n_atoms for batch in batches], counts) < 1e-6
    assert counts[-1] == pytest.approx(100 * counts[0], rel=0.05)


def test_flops_grow_linearly_with_edges_over_two_decades(small, oxide) -> None:
    edges, counts = [], []
    for neighbors in (2, 20, 60, 250):
        model = potential(small, max_neighbors=neighbors, cutoff=9.0, strict_neighbors=True)
        batch = collate([oxide], model.graph)
        edges.append(batch.n_edges)
        counts.append(count_step(model, batch))
    assert edges[-1] > 100 * edges[0]
    assert off_a_line(edges, counts) < 1e-6
