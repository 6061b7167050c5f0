"""Every registered architecture keeps the contract."""

from __future__ import annotations

import pytest

from matscale.core.hosting.host import host
from matscale.core.model.architecture import Architecture, ArchitectureConfig
from matscale.testing import checks
from rungs import rung

ARCHITECTURES = host().architectures()


def _other_forms(architecture: Architecture) -> list[ArchitectureConfig]:
    """Configs that behave differently from those of the ladder."""
    # Not by the ladder, which builds models to find a size: this is done whenever the tests are collected.
    if architecture.name == "transformer":
        sizes = {"width": 16, "n_heads": 2, "n_layers": 2, "feedforward": 32}
        return [architecture.config(**sizes, inputs="concatenated")]
    if architecture.name == "eqv2":
        narrow = {"channels": 8, "edge_channels": 8, "attention_hidden": 8, "alpha_channels": 8, "n_radial": 32}
        small = architecture.config(**narrow, n_layers=2, ffn_hidden=8, n_heads=2)
        conservative = {"forces": "gradient", "max_neighbors": 0, "cutoff": 4.0, "lmax": 2}
        lebedev = {"grid": "lebedev", "lmax": 3, "grid_resolution": 16}  # the coarsest that claims rotation
        # Not lmax 1: where all atoms are centres of inversion l = 1 is rounding, made 300 times larger by each norm.
        without_stress = {"stress_head": "none", "lmax": 2}
        published = {"stress_head": "rank2"}
        return [small.model_copy(update=other) for other in (conservative, published, lebedev, without_stress)]
    if architecture.name == "escaip":
        narrow = {"hidden": 16, "n_layers": 2, "n_heads": 2, "atom_channels": 4, "order_channels": 2}
        small = architecture.config(**narrow, distance_channels=16, n_radial=16)
        return [small.model_copy(update=other) for other in ({"forces": "gradient"}, {"stress_head": "none"})]
    if architecture.name == "esen":
        narrow = {"channels": 6, "hidden": 5, "edge_channels": 4, "n_radial": 12}
        return [architecture.config(**narrow, n_layers=1, lmax=2, cutoff=4.0, forces="direct")]
    if architecture.name == "eqv3":
        narrow = {"channels": 6, "edge_channels": 4, "attention_hidden": 4, "ffn_hidden": 8, "n_radial": 12}
        return [architecture.config(**narrow, n_layers=1, lmax=2, cutoff=4.0, forces="direct", denoising=True)]
    if architecture.name == "gemnet":
        narrow = {"atom_channels": 8, "edge_channels": 10, "triplet_in": 4, "triplet_out": 4, "n_radial": 12}
        short = {"n_layers": 2, "n_spherical": 4, "n_atom": 1, "n_after_skip": 1, "cutoff": 3.5}
        small = architecture.config(**narrow, **short, radial_embedding=4, circular_embedding=4)
        pairs = {"atom_edge": True, "edge_atom": True, "atom_atom": True, "cutoff_atom_atom": 5.0}
        joint = {"n_joint_layers": 1, "n_atom_before": 1, "n_output_after": 1, "always_project": False}
        conservative = {"forces": "gradient", **pairs, **joint}
        oc = {"quadruplets": True, **pairs, **joint}
        nearest = {**oc, "max_neighbors": 8, "max_neighbors_quadruplets": 4, "max_neighbors_atom_edge": 6}
        without_stress = {"stress_head": "none"}
        return [small.model_copy(update=other) for other in (conservative, oc, nearest, without_stress)]
    return []


@pytest.mark.parametrize("check", [c for a in ARCHITECTURES for c in checks(a, rung(a.name))], ids=str)
def test_every_architecture_keeps_the_contract(check) -> None:
    check()


@pytest.mark.parametrize("check", [c for a in ARCHITECTURES for f in _other_forms(a) for c in checks(a, f)], ids=str)
def test_other_forms_keep_the_contract(check) -> None:
    check()


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_a_config_survives_the_way_through_a_file(architecture: Architecture) -> None:
    for config in (rung(architecture.name), *architecture.sizes.values()):
        assert architecture.config.parse(config.plain()) == config


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_every_option_is_explained(architecture: Architecture) -> None:
    undocumented = [name for name, field in architecture.config.model_fields.items() if not field.description]
    assert undocumented == []
