"""The periodic transformer: each image counted once, the nearest one found in any cell, turned structures."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from matscale.core.contract.structures import atom, crystal, metal, molecule, slab, structure, with_positions
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.hosting.host import get
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.attention import attention_kept
from matscale.core.model.layers.padding import Padding
from matscale.core.runs.config import TrainConfig
from matscale.core.train.setup import resolved
from matscale.plugins.transformer.periodic import (
    PairGeometry,
    Pairs,
    PeriodicLayer,
    PeriodicTransformer,
    PeriodicTransformerConfig,
)

CUTOFF, N_RADIAL = 4.0, 6


def skewed() -> Structure:
    """The crystal in a cell whose shortest lattice vectors are none of its rows: wrapping does not find images."""
    return replace(crystal(), cell=np.array([[1, 3, -2], [0, 1, 4], [0, 0, 1]]) @ crystal().cell)


def images(s: Structure, i: int, j: int) -> np.ndarray:
    """[n, 3] vectors from atom i to all images of atom j within the cutoff, by brute force in the plain cell."""
    box = np.where(s.pbc[:, None], crystal().cell if s.cell.max() > 10 and s.pbc.all() else s.cell, 0.0)
    spans = [range(-8, 9) if periodic else range(1) for periodic in s.pbc]
    vectors = s.positions[j] - s.positions[i] + np.array(list(product(*spans))) @ box
    distance = np.linalg.norm(vectors, axis=1)
    return vectors[(distance > 1e-9) & (distance < CUTOFF)]


def expand(distance: torch.Tensor) -> torch.Tensor:
    return PairGeometry(CUTOFF, N_RADIAL).expand(distance)


STRUCTURES = {"crystal": crystal, "skewed": skewed, "metal": metal, "slab": slab, "molecule": molecule}


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_pair_knows_all_its_images_and_the_nearest_one(name: str) -> None:
    s = STRUCTURES[name]()
    data = collate([s], Graph.radius(CUTOFF), torch.float64)
    pairs = PairGeometry(CUTOFF, N_RADIAL)(data, Padding.of(data))
    distances, directions = pairs.padded(pairs.distances)[0], pairs.padded(pairs.directions)[0]
    for i, j in product(range(len(s)), repeat=2):
        vectors = torch.from_numpy(images(s, i, j))
        distance = vectors.norm(dim=1)
        each = expand(distance)
        nearest = distance.min(0, keepdim=True).values if len(distance) else torch.tensor([CUTOFF]).double()
        assert_close(distances[i, j], torch.cat([each.sum(0), expand(nearest)[0]]))
        directed = (vectors / distance[:, None]).T @ each
        assert_close(directions[i, j], directed, rtol=1e-10, atol=1e-10)


def test_the_minimum_image_of_a_skewed_cell_is_that_of_the_plain_one() -> None:
    from ase.geometry import find_mic

    plain, other = (collate([s], Graph.radius(CUTOFF), torch.float64) for s in (crystal(), skewed()))
    vectors = crystal().positions[None] - crystal().positions[:, None]
    expected = find_mic(vectors.reshape(-1, 3), crystal().cell)[1].reshape(4, 4)
    np.fill_diagonal(expected, np.linalg.norm(crystal().cell, axis=1).min())  # an atom's own images
    for data in (plain, other):
        j, i = data.edges()
        found = PairGeometry(CUTOFF, N_RADIAL).nearest(data.edge_distance(), 4 * i + j, 16).view(4, 4)
        assert_close(found, torch.from_numpy(np.minimum(expected, CUTOFF)))


def test_a_lattice_sum_is_smooth_where_an_image_enters() -> None:
    """Value, slope and curvature vanish at the cutoff; those of the nearest distance are continuous in value only."""
    d = torch.tensor([CUTOFF - 1e-3, CUTOFF + 1e-3], dtype=torch.float64)
    assert expand(d)[0].abs().max() < 1e-7
    assert (expand(d)[1] == 0).all()


def model_of(**options: object) -> PeriodicTransformer:
    torch.manual_seed(0)
    config = PeriodicTransformerConfig.parse({"width": 16, "n_layers": 2, "feedforward": 32, "cutoff": 4.0, **options})
    model = PeriodicTransformer(config).double().eval()
    for head in (model.heads.energy, model.heads.forces, model.heads.stress):
        torch.nn.init.normal_(head[-1].weight)  # off their start near zero
    return model


def test_forces_tell_directions() -> None:
    """Of an atom with one neighbour, forces differ between a neighbour above and one below."""
    model = model_of()
    pair = structure([14, 8], [[0, 0, 0], [0, 0, 1.7]])
    above, below = (
        model(collate([with_positions(pair, sign * pair.positions)], Graph.radius(4.0), torch.float64)).forces
        for sign in (1, -1)
    )
    assert (above[0] - below[0]).abs().max() > 1e-2


def test_rotation_is_not_built_in() -> None:
    assert not {"rotation", "reflection", "conservative", "extensive"} & get("transformer-periodic").claims
    model, turned = model_of(), crystal()
    turned = replace(turned, positions=turned.positions[:, [1, 2, 0]], cell=turned.cell[:, [1, 2, 0]])
    a, b = (model(collate([s], Graph.radius(4.0), torch.float64)).energy for s in (crystal(), turned))
    assert (a - b).abs() > 1e-3 * a.abs()


def test_weights_that_are_handed_out_give_the_output_of_the_layer() -> None:
    model, inputs, outputs = model_of(), [], []
    look = PeriodicLayer._look

    def heard(layer: PeriodicLayer, x: torch.Tensor, padding: Padding, pairs: Pairs) -> tuple:
        inputs.append(layer._queries_keys_values(x, padding)[2])
        outputs.append(look(layer, x, padding, pairs))
        return outputs[-1]

    data = collate([crystal(), metal(), atom()], Graph.radius(4.0), torch.float64)
    plain = model(data)
    with pytest.MonkeyPatch.context() as patch, attention_kept() as layers:
        patch.setattr(PeriodicLayer, "_look", heard)
        shown = model(data)
    assert torch.equal(shown.forces, plain.forces)
    assert len(layers) == len(outputs) == 2
    for layer, padded, (expected, _) in zip(layers, inputs, outputs):
        assert layer.weights.shape == (2, 16 + 1 + 1)  # pairs of atoms, none of padding
        values = Padding.of(data).flat(padded.transpose(1, 2))[layer.key]  # [n_pairs, n_heads, D_h]
        mixed = torch.zeros(data.n_atoms, *values.shape[1:]).double()
        mixed.index_add_(0, layer.query, layer.weights.T[..., None] * values)
        assert_close(mixed.flatten(1), expected, rtol=0, atol=1e-10)


def test_embeddings_are_what_the_heads_read() -> None:
    model = model_of()
    data = collate([crystal(), slab()], Graph.radius(4.0), torch.float64)
    assert model.embed(data).shape == (7, 16)
    assert_close(model.heads(model.embed(data), data).energy, model(data).energy)


@pytest.mark.parametrize(
    ("name", "keys", "expected"),
    [
        ("transformer-periodic", {}, True),
        ("transformer-periodic", {"augmentation": {"rotate": False}}, False),
        ("transformer-periodic", {"data": {"overfit": 8}}, False),  # by heart, in one orientation
        ("transformer", {}, False),
        ("transformer", {"augmentation": {"rotate": True}}, True),
    ],
)
def test_training_turns_structures_unless_it_is_told_not_to(name: str, keys: dict, expected: bool) -> None:
    config = TrainConfig.parse({"architecture": {"name": name}, **keys})
    assert resolved(config, get(name)).plain()["augmentation"]["rotate"] is expected


def test_the_ladder_varies_the_width_alone() -> None:
    ladder = get("transformer-periodic").ladder
    fixed = {(c.cutoff, c.n_radial, c.n_layers) for c in map(ladder, (3_000, 100_000, 10_000_000))}
    assert fixed == {(6.0, 16, 4)}
    with torch.device("meta"):
        model = get("transformer-periodic").build(ladder(100_000_000), DatasetInfo.any())
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1e8, rel=0.05)
