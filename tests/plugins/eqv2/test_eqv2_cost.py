"""What EquiformerV2 costs grows in proportion to atoms and edges, and the reference path compiles as one graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.flops import count_step
from matscale.core.hosting.host import host
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.potential import Potential


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


class Captures:
    """A compiler that runs what it is given, and counts how often it is asked."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[object]) -> Callable[..., object]:
        self.n += 1
        return graph.forward


@pytest.mark.long
def test_the_model_compiles_as_one_graph_for_batches_of_any_size(make_model, batch_of, oxide) -> None:
    """Of two structures or more: torch compiles whatever has size 1 apart."""
    options = {"stress_head": "rank2", "max_neighbors": 0, "cutoff": 3.0}  # a head, and edges, of their own kind
    model, capture = make_model(n_layers=1, lmax=2, drop_path=0.2, **options).train(), Captures()
    torch.compiler.reset()
    compiled = torch.compile(model, backend=capture, dynamic=True, fullgraph=True)  # raises where the graph breaks
    larger = replace(oxide, positions=1.1 * oxide.positions, cell=1.1 * oxide.cell)
    captured = []
    for members in ([oxide] * 3, [oxide, larger] * 2, [larger] * 2, [larger] * 7):
        batch = batch_of(model, *members)
        outputs = []
        for one in (model, compiled):
            torch.manual_seed(0)
            outputs.append(one(batch))
        captured.append(capture.n)
        for name in ("energy", "forces", "stress"):
            assert_close(getattr(outputs[1], name), getattr(outputs[0], name), rtol=1e-12, atol=1e-12)
    assert captured[0] == 1
    assert captured[1] == captured[-1]  # nothing new after the second batch
    torch.compiler.reset()
