"""What eSEN is: equivariant without grids, smooth and conservative, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from e3nn import o3
from torch.testing import assert_close

from matscale.core.data.structure import Structure
from matscale.core.errors import ConfigError, DataError
from matscale.core.model.architecture import DatasetInfo, count_parameters
from matscale.core.model.outputs import model_outputs
from matscale.plugins.esen import ESEN, SIZES, ESENConfig, build, graph, ladder
from matscale.plugins.esen.counts import COUNTS
from matscale.plugins.esen.sizes import LADDER

DIRECT = {"forces": "direct"}
S2 = {"activation": "s2", "grid_resolution": 10}
FORMS = [
    {},
    {"norm": "layer_norm_sh"},
    {"norm": "layer_norm", "activation": "s2"},
    {"feed_forward": "grid", "norm": "layer_norm_sh"},
    {**DIRECT, "norm": "layer_norm", "stress_head": "none", "mmax": 1},
    {**DIRECT, "lmax": 3, "mmax": 3, "norm": "layer_norm", "system_vector": True},
]


def cubic() -> Structure:
    """CsCl-like, its axes along x, y and z: edges along the polar axis are exact."""
    positions = 3.0 * np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    return Structure(np.array([55, 17]), positions, 3.0 * np.eye(3), np.array([True] * 3))


def molecule(direction: tuple[float, float, float] = (0, 1, 0), length: float = 1.9) -> Structure:
    """Three atoms, of which the first two lie along `direction`."""
    along = length * np.array(direction) / np.linalg.norm(direction)
    positions = np.array([[0, 0, 0], along, [1.1, -0.4, -1.3]])
    return Structure(np.array([8, 22, 13]), positions, np.zeros((3, 3)), np.array([False] * 3))


def turned(structure: Structure, rotation: np.ndarray) -> Structure:
    return replace(structure, positions=structure.positions @ rotation.T, cell=structure.cell @ rotation.T)


def size_of(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def on_meta(config: ESENConfig) -> ESEN:
    with torch.device("meta"):
        return ESEN(config)


@pytest.mark.parametrize("options", [{}, DIRECT], ids=["gradient", "direct"])
def test_without_grids_the_model_is_equivariant_to_rounding(make_model, oxide, batch_of, options: dict) -> None:
    model, rotation = make_model(lmax=3, **options), o3.rand_matrix(dtype=torch.float64)
    still, moved = (
        model_outputs(model, batch_of(model, one), derive=not options).detach()
        for one in (oxide, turned(oxide, rotation.numpy()))
    )
    assert_close(moved.energy, still.energy, rtol=1e-12, atol=1e-12)
    assert_close(moved.forces, still.forces @ rotation.T, rtol=0, atol=1e-12)
    assert_close(moved.stress, rotation @ still.stress @ rotation.T, rtol=0, atol=1e-12)
    assert still.forces.abs().max() > 1e-3


def test_a_mirror_image_has_another_energy(make_model, batch_of) -> None:
    model = make_model(lmax=3, n_layers=3)
    left = Structure(
        np.array([6, 9, 17, 35, 1]),
        1.1 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]]),
        np.zeros((3, 3)),
        np.array([False] * 3),
    )
    right = replace(left, positions=left.positions * [1, 1, -1])
    with torch.no_grad():
        a, b = model(batch_of(model, left, right)).energy
    assert abs(a - b) > 1e-9 * abs(a)


@pytest.mark.parametrize("structure", [cubic(), molecule(), molecule((0.02, -1, 0.0))], ids=["cubic", "axis", "near"])
@pytest.mark.parametrize("options", [{}, S2], ids=["gate", "s2"])
def test_forces_and_stress_are_derivatives_along_the_polar_axis_too(
    structure: Structure, options: dict, make_model, batch_of
) -> None:
    model = make_model(**options)
    data = batch_of(model, structure)
    outputs = model_outputs(model, data)
    generator = torch.Generator().manual_seed(0)
    along = torch.randn(data.positions.shape, dtype=torch.float64, generator=generator)
    strain = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    strain = (strain + strain.T) / 2

    def energy(h: float, *, deform: bool) -> float:
        m = torch.eye(3, dtype=torch.float64) + h * strain
        moved = (data.positions @ m, data.cell @ m) if deform else (data.positions + h * along, data.cell)
        with torch.no_grad():
            return float(model(data.with_geometry(*moved)).energy)

    def slope(*, deform: bool, h: float = 2e-4) -> float:
        one, two = (energy(k * h, deform=deform) - energy(-k * h, deform=deform) for k in (1, 2))
        return (8 * one - two) / (12 * h)

    size = max(float(outputs.forces.norm()), 0.1)
    assert slope(deform=False) == pytest.approx(-float((outputs.forces * along).sum()), abs=1e-8 * size)
    if structure.pbc.all():
        expected = float((outputs.stress[0] * strain).sum() * data.volume())
        assert slope(deform=True) == pytest.approx(expected, abs=1e-8 * max(abs(expected), 1))


def test_a_loss_on_forces_has_finite_gradients_on_an_aligned_crystal(make_model, batch_of, oxide) -> None:
    model = make_model()
    outputs = model_outputs(model, batch_of(model, cubic(), oxide, molecule()), create_graph=True)
    gradients = torch.autograd.grad(outputs.forces.square().sum(), list(model.parameters()), allow_unused=True)
    assert all(g is None or bool(g.isfinite().all()) for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0


@pytest.mark.parametrize("options", [{}, DIRECT], ids=["gradient", "direct"])
def test_energy_and_forces_are_continuous_as_the_last_neighbour_leaves(options: dict, make_model, batch_of) -> None:
    model = make_model(**options)

    def pair(length: float) -> Structure:
        whole = molecule((0.3, 0.5, 0.81), length)
        return replace(whole, atomic_numbers=whole.atomic_numbers[:2], positions=whole.positions[:2])

    inside, outside = (batch_of(model, pair(model.config.cutoff + step)) for step in (-1e-7, 1e-7))
    assert (inside.n_edges, outside.n_edges) == (2, 0)
    a, b = (model_outputs(model, data, derive=not options) for data in (inside, outside))
    assert_close(a.energy, b.energy, rtol=0, atol=1e-12)
    assert_close(a.forces, b.forces, rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_idle_parameters_are_those_without_influence(options: dict, make_model, oxide, batch_of) -> None:
    model = make_model(**options).train()
    outputs = model_outputs(model, batch_of(model, oxide), derive="forces" not in options, create_graph=True)
    weighed = [x for x in (outputs.energy, outputs.forces, outputs.stress) if x is not None]
    sum((x * torch.randn_like(x)).sum() for x in weighed).backward()  # type: ignore[union-attr]
    without = {n for n, p in model.named_parameters() if p.grad is None or float(p.grad.abs().max()) < 1e-14}
    assert without == model.idle_parameters()


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_counts_without_building_are_those_of_built_models(small, options: dict) -> None:
    config = small(**options)
    model = on_meta(config)
    assert COUNTS.total(config) == size_of(model)
    assert COUNTS.parameters(config)["blocks"] == size_of(model.blocks)


def test_published_sizes_have_the_published_parameters() -> None:
    assert {name: COUNTS.total(config) for name, config in SIZES.items()} == {
        "30M-OAM": 30_161_153,
        "30M-MP": 30_085_121,
        "K4L2": 6_261_249,
        "K10L4": 50_599_682,
        "K16L6": 690_201_601,
    }
    assert count_parameters(on_meta(SIZES["30M-OAM"]))["total"] == 30_161_153
    direct = SIZES["30M-OAM"].model_copy(update={"forces": "direct", "stress_head": "none"})
    assert size_of(on_meta(direct)) == 30_161_410


def test_the_ladder_reaches_every_size_and_never_falls() -> None:
    wanted = np.unique(np.geomspace(3_000, 3e8, 60).astype(int))
    configs = [ladder(int(n)) for n in wanted]
    found = np.array([COUNTS.total(config) for config in configs])
    assert np.abs(found / wanted - 1).max() < 0.02
    assert (np.diff(found) >= 0).all()
    assert {config.n_radial for config in configs if config.channels > 10} == {64}
    assert ladder(30_161_153) == SIZES["30M-OAM"]
    steps = np.diff(np.array(LADDER.rungs), axis=0)
    assert (steps.sum(axis=1) == 1).all()
    assert (steps >= 0).all()


def test_an_atom_without_neighbours_has_an_energy_and_no_forces(make_model, batch_of) -> None:
    alone = Structure(np.array([29]), np.zeros((1, 3)), 80 * np.eye(3), np.array([True] * 3))
    for options in ({}, DIRECT, S2):
        model = make_model(**options)
        data = batch_of(model, alone, replace(alone, atomic_numbers=np.array([13])))
        outputs = model_outputs(model, data, derive="forces" not in options)
        assert data.n_edges == 0
        assert outputs.energy[0] != outputs.energy[1]
        assert outputs.forces.abs().max() < 1e-12
        assert outputs.stress.isfinite().all()


def test_direct_and_conservative_models_share_their_backbone(make_model) -> None:
    direct, gradient = make_model(**DIRECT).state_dict(), make_model().state_dict()
    assert set(gradient) == {name for name in direct if not name.startswith(("forces.", "stress."))}


def test_the_neighbour_rule_says_whether_it_is_smooth(small) -> None:
    assert graph(small()).kind == "radius"
    rule = graph(small(**DIRECT, max_neighbors=30))
    assert (rule.kind, rule.n_neighbors, rule.strict) == ("nearest", 30, False)


def test_an_element_beyond_the_table_is_refused_with_the_limit(make_model, oxide, batch_of, small) -> None:
    model = make_model(max_atomic_number=37)
    with pytest.raises(DataError, match=r"element 38, .* max_atomic_number = 37"):
        model(batch_of(model, oxide))
    with pytest.raises(ConfigError, match=r"element 100, but max_atomic_number = 99"):
        build(small(), DatasetInfo(elements=(8, 100)))


def test_an_edge_without_length_is_refused_with_its_atoms(make_model, batch_of) -> None:
    model = make_model()
    data = batch_of(model, molecule())
    with pytest.raises(DataError, match=r"esen: atoms \d and \d of the batch are 0 Å apart, less than 1e-06 Å"):
        model(data.with_geometry(0 * data.positions, data.cell))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lmax": 2, "mmax": 3}, "mmax = 3 exceeds lmax = 2"),
        ({"activation": "s2", "grid_resolution": 6}, r"grid_resolution = 6 with lmax = 3.*at least 2\(lmax \+ 1\) = 8"),
        ({"grid_resolution": 14}, "such a model has no grid"),
        ({"lmax": 1, "mmax": 1, "forces": "direct"}, "lmax = 1: a stress predicted directly"),
        ({"max_neighbors": 30}, "max_neighbors = 30: the energy would jump"),
        ({"n_head": 2}, "no field|unknown|Did you mean"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_value_and_limit(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ESENConfig.parse(options)


@pytest.mark.parametrize("options", [{}, DIRECT], ids=["gradient", "direct"])
def test_a_small_model_learns_a_few_structures(make_model, oxide, batch_of, options: dict) -> None:
    model = make_model(**options, n_layers=1).train()
    other = replace(oxide, positions=oxide.positions * 1.05, cell=oxide.cell * 1.05)
    data = batch_of(model, oxide, other)
    targets = model_outputs(make_model(**options), data, derive=not options).detach()
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=2e-2), []
    for _ in range(10):
        found = model_outputs(model, data, derive=not options, create_graph=True)
        pairs = ((found.energy, targets.energy), (found.forces, targets.forces), (found.stress, targets.stress))
        loss = sum((a - b).square().sum() / b.square().sum() for a, b in pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0], losses
