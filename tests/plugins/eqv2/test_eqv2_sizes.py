"""Counts of parameters: the published ones exactly, the ladder's as near as asked."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from matscale.core.data.structure import Structure
from matscale.core.model.architecture import count_parameters
from matscale.plugins.eqv2 import SIZES, EqV2, EqV2Config, ladder
from matscale.plugins.eqv2.counts import COUNTS
from matscale.plugins.eqv2.fairchem.names import published_counts
from matscale.plugins.eqv2.sizes import rungs

OMAT24 = {
    "omat24-S": (31_207_434, 27_795_584, 148_353, 3_130_881, 132_616),
    "omat24-M": (86_589_068, 78_831_232, 181_377, 7_443_841, 132_618),
    "omat24-L": (153_769_868, 146_553_472, 181_377, 6_902_401, 132_618),
}
"""All, backbone, and heads for energy, forces and stress: as fairchem's own models have them."""


def on_meta(config: EqV2Config) -> EqV2:
    with torch.device("meta"):
        return EqV2(config)


def size_of(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", OMAT24)
def test_the_omat24_models_have_the_published_parameters(name: str) -> None:
    model = on_meta(SIZES[name])
    heads = [size_of(head) for head in (model.energy, model.forces, model.stress)]
    assert (size_of(model), size_of(model) - sum(heads), *heads) == OMAT24[name]


@pytest.mark.parametrize("number", range(1, 21))
def test_the_ladder_of_the_paper_has_the_published_parameters(number: int, shared: Path) -> None:
    with (shared / "reference" / "eqv2_ladder.csv").open() as file:
        row = list(csv.DictReader(file))[number - 1]
    model = on_meta(SIZES[f"ladder-{number:02d}"])
    expected = {"total": int(row["total_params"]), "non_embedding": int(row["non_embedding_params"])}
    assert published_counts(model) == expected


def test_our_rule_leaves_out_only_the_tables_of_elements() -> None:
    model = on_meta(SIZES["ladder-13"])
    own, published = count_parameters(model), published_counts(model)
    tables = 96 * 16 * (1 + 2 * (1 + 4 + 1))  # atoms; source and target: edge degree, four blocks, force head
    assert own["embedding"] == tables
    assert own["total"] == published["total"]
    radial_of_edge_degree = size_of(model.edge_degree) - 2 * 96 * 16
    assert own["non_embedding"] - published["non_embedding"] == radial_of_edge_degree


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stress_head": "rank2"},
        {"norm": "layer_norm"},
        {"norm": "rms_norm_sh", "lmax": 3, "mmax": 3, "n_heads": 3},
        {"forces": "gradient", "max_neighbors": 0, "lmax": 1, "mmax": 0},
    ],
)
def test_counts_without_building_are_those_of_built_models(small, options: dict) -> None:
    config = small(**options)
    model = on_meta(config)
    assert COUNTS.total(config) == size_of(model)
    assert COUNTS.parameters(config)["energy"] == size_of(model.energy)
    assert COUNTS.parameters(config)["blocks"] == size_of(model.blocks)


def test_the_ladder_reaches_every_size_and_never_falls() -> None:
    wanted = np.unique(np.geomspace(3_000, 3e8, 400).astype(int))
    found = np.array([COUNTS.total(ladder(int(n))) for n in wanted])
    assert np.abs(found / wanted - 1).max() < 0.02
    assert (np.diff(found) >= 0).all()


def test_the_ladder_passes_through_the_published_shapes() -> None:
    for number in range(3, 21):
        published = SIZES[f"ladder-{number:02d}"].model_copy(update={"stress_head": "equivariant"})
        assert ladder(COUNTS.total(published)) == published


def test_rungs_differ_by_one_step_of_one_field() -> None:
    steps = np.diff(np.array(rungs()), axis=0)
    assert (steps.sum(axis=1) == 1).all()
    assert (steps >= 0).all()


def test_models_of_one_channel_do_not_see_the_structure(batch_of, oxide) -> None:
    """Why the ladder starts with two: the published ladder-01 and -02 predict a constant per atom."""
    torch.manual_seed(0)
    model = EqV2(SIZES["ladder-02"]).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    moved = Structure(oxide.atomic_numbers[::-1].copy(), oxide.positions[::-1] * 1.1, oxide.cell, oxide.pbc)
    with torch.no_grad():
        energy, other = model(batch_of(model, oxide, moved)).energy.tolist()
    assert abs(energy) > 1e-3
    assert other == pytest.approx(energy, rel=1e-12)
