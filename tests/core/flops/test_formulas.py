"""Every built-in formula against the counter: exact, for batches that differ in everything."""

from __future__ import annotations

from typing import Any

import pytest

from crystals import random_structures
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.flops import count_step
from matscale.core.hosting.host import get
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.potential import Potential

SMALL = {
    "channels": 3,
    "n_layers": 1,
    "lmax": 2,
    "mmax": 1,
    "edge_channels": 2,
    "attention_hidden": 3,
    "n_heads": 2,
    "alpha_channels": 2,
    "value_channels": 2,
    "ffn_hidden": 3,
    "n_radial": 5,
    "grid_resolution": 6,
}
ESCAIP = {
    "hidden": 12,
    "n_layers": 2,
    "n_heads": 2,
    "degree_channels": [2, 2, 0, 2],
    "atom_channels": 3,
    "order_channels": 2,
    "n_order": 5,
    "distance_channels": 4,
    "n_radial": 7,
    "n_neighbors": 10,
    "max_neighbors": 30,
}
GRADIENT = {"forces": "gradient", "max_neighbors": 0, "cutoff": 3.5}
ESEN = {"channels": 4, "hidden": 3, "edge_channels": 5, "n_layers": 2, "lmax": 2, "n_radial": 6, "cutoff": 3.5}
EQV3 = {**{key: value for key, value in SMALL.items() if key != "grid_resolution"}, "ffn_hidden": 4, "cutoff": 3.5}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("fcn", {"hidden": 7, "depth": 2, "head_layers": 2}),
    ("fcn", {"hidden": 12, "embedding": 5, "depth": 1, "head_layers": 3}),
    ("transformer", {"width": 12, "n_heads": 3, "n_layers": 2, "feedforward": 20}),
    ("transformer", {"width": 8, "inputs": "concatenated", "head_layers": 3}),
    ("transformer-periodic", {"width": 12, "n_heads": 3, "n_layers": 2, "feedforward": 20, "cutoff": 4.0}),
    ("transformer-periodic", {"width": 8, "n_heads": 1, "n_radial": 5, "head_layers": 3, "dropout": 0.0}),
    ("schnet", {"hidden": 6, "filters": 9, "n_layers": 1, "cutoff": 3.5}),
    ("schnet", {"hidden": 5, "filters": 4, "n_layers": 3, "cutoff": 3.5, "n_radial": 7}),
    ("escaip", ESCAIP),
    ("escaip", {**ESCAIP, "stress_head": "none", "ffn_factor": 3}),
    ("escaip", {**ESCAIP, "forces": "gradient"}),
    ("eqv2", SMALL),
    ("eqv2", {**SMALL, "stress_head": "rank2", "norm": "rms_norm_sh"}),
    ("eqv2", {**SMALL, "stress_head": "rank2", "n_layers": 2, "lmax": 3, "mmax": 3, "grid_resolution": 10}),
    ("eqv2", {**SMALL, "stress_head": "none", "grid": "lebedev"}),
    ("eqv2", {**SMALL, **GRADIENT}),
    ("eqv2", {**SMALL, **GRADIENT, "n_layers": 2, "norm": "layer_norm", "mmax": 0, "ffn_hidden": 5}),
    ("esen", ESEN),
    ("esen", {**ESEN, "activation": "s2", "mmax": 1, "norm": "layer_norm_sh", "system_vector": True}),
    ("esen", {**ESEN, "forces": "direct", "feed_forward": "grid", "lmax": 3, "mmax": 3, "norm": "layer_norm"}),
    ("eqv3", EQV3),
    ("eqv3", {**EQV3, "n_layers": 2, "lmax": 3, "mmax": 0, "attention_hidden": 5}),
    ("eqv3", {**EQV3, "forces": "direct", "denoising": True, "lmax": 3, "mmax": 3}),
    ("eqv3", {**EQV3, "forces": "direct", "stress_head": "none", "n_layers": 2, "lmax": 1}),
]
GEMNET = {
    "n_layers": 2,
    "atom_channels": 4,
    "edge_channels": 6,
    "triplet_in": 3,
    "triplet_out": 2,
    "quadruplet_in": 2,
    "quadruplet_out": 3,
    "pair_in": 2,
    "pair_out": 3,
    "n_radial": 5,
    "n_spherical": 4,
    "radial_embedding": 3,
    "circular_embedding": 2,
    "spherical_embedding": 5,
    "cutoff": 3.5,
}
PAIRS = {"atom_edge": True, "edge_atom": True, "atom_atom": True, "cutoff_atom_edge": 3.2, "cutoff_atom_atom": 4.5}
JOINT = {"n_joint_layers": 1, "n_atom_before": 1, "n_output_after": 1, "always_project": False}
QUADRUPLETS = {"quadruplets": True, "cutoff_quadruplets": 3.0}
CASES += [
    ("gemnet", GEMNET),
    ("gemnet", {**GEMNET, "forces": "gradient", "n_atom_before": 1}),
    ("gemnet", {**GEMNET, "max_neighbors": 7, "stress_head": "none"}),
    ("gemnet", {**GEMNET, **PAIRS, **JOINT, **QUADRUPLETS}),
    ("gemnet", {**GEMNET, **PAIRS, **JOINT, **QUADRUPLETS, "atom_channels": 6, "forces": "gradient", "n_layers": 1}),
    ("gemnet", {**GEMNET, **PAIRS, "max_neighbors": 7, "max_neighbors_atom_edge": 5, "edge_atom": False}),
]


@pytest.fixture(scope="module")
def structures() -> list[Structure]:
    return [s for s in random_structures(16) if 1 < len(s.atomic_numbers) < 7][:3]


def batches(structures: list[Structure], graph: Graph) -> list[AtomicBatch]:
    """Of one structure, of two alike, and of different ones where nothing is padded."""
    a, b, c = structures
    last = [c, c] if graph.is_dense else [a, c, b]
    return [collate(chosen, graph) for chosen in ([a], [b, b], last)]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_formula_is_the_count_of_a_step(name: str, options: dict[str, Any], structures: list[Structure]) -> None:
    architecture = get(name)
    config = architecture.config(**options)
    assert architecture.step_flops is not None
    potential = Potential.of(architecture, config, DatasetInfo.any(), seed=0)
    for batch in batches(structures, architecture.graph(config)):
        assert architecture.step_flops(config, batch.shape) == count_step(potential, batch)


def test_forces_by_derivative_double_the_work_on_features_and_weights(structures: list[Structure]) -> None:
    eqv2 = get("eqv2")
    shape = collate(structures, Graph.radius(3.5)).shape
    wide = {**SMALL, "edge_channels": 200, "n_radial": 600}
    direct = eqv2.step_flops(eqv2.config(**wide, max_neighbors=0, cutoff=3.5), shape)
    gradient = eqv2.step_flops(eqv2.config(**wide, **GRADIENT), shape)
    heads = eqv2.step_flops(eqv2.config(**{**wide, "n_layers": 2}, max_neighbors=0, cutoff=3.5), shape) - direct
    assert gradient == pytest.approx(2 * (direct - heads), rel=0.05)  # a direct model's force head is a layer more


def test_the_step_of_a_padded_batch_costs_what_its_atoms_cost(structures: list[Structure]) -> None:
    transformer = get("transformer")
    config = transformer.config(width=8, n_layers=1)
    together = collate(structures, Graph.dense()).shape
    alone = [collate([s], Graph.dense()).shape for s in structures]
    assert transformer.step_flops(config, together) == sum(transformer.step_flops(config, shape) for shape in alone)


def test_every_published_size_has_a_formula() -> None:
    shape = collate(random_structures(1), Graph.radius(3.0)).shape
    for name in ("fcn", "transformer", "transformer-periodic", "schnet", "eqv2", "gemnet", "escaip", "esen", "eqv3"):
        architecture = get(name)
        for config in architecture.sizes.values():
            assert architecture.step_flops is not None
            assert architecture.step_flops(config, shape) > 0
