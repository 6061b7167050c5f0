"""What EquiformerV2 keeps, what it drops in training, how it starts, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from e3nn import o3
from torch import nn
from torch.testing import assert_close

from matscale.core.data.structure import Structure
from matscale.core.errors import ConfigError, DataError
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.reference_path import reference_path
from matscale.core.model.sphere.dropout import Drop
from matscale.core.model.sphere.edges import WideGaussians
from matscale.core.model.sphere.norm import make_norm
from matscale.core.model.sphere.rotation import wigner
from matscale.plugins.eqv2 import EqV2, EqV2Config, build, claims, fast
from matscale.plugins.eqv2.fairchem.names import config_from_fairchem, fairchem_name, load_fairchem


def turned(structure: Structure, rotation: np.ndarray) -> Structure:
    return replace(structure, positions=structure.positions @ rotation.T, cell=structure.cell @ rotation.T)


def equivariance_error(model: EqV2, structure: Structure, batch_of) -> float:
    """Largest error of energy, forces and stress in a turned structure, over the largest value of each."""
    rotation = o3.rand_matrix(dtype=torch.float64)
    with torch.no_grad():
        still = model(batch_of(model, structure))
        moved = model(batch_of(model, turned(structure, rotation.numpy())))
    pairs = [
        (moved.energy, still.energy),
        (moved.forces, still.forces @ rotation.T),
        (moved.stress, rotation @ still.stress @ rotation.T),
    ]
    assert still.forces.norm(dim=-1).mean() > 1e-4
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("grid", ["product", "lebedev"])
def test_without_aliasing_the_model_is_equivariant_to_rounding(make_model, oxide, batch_of, monkeypatch, grid) -> None:
    """Squaring lmax 3 gives l ≤ 6, twice squared 12, times 3: all of it integrated exactly by a resolution of 20."""
    monkeypatch.setattr(nn.functional, "silu", lambda x, inplace=False: x + 0.2 * x * x)
    model = make_model(lmax=3, mmax=2, grid=grid, grid_resolution=20)
    torch.manual_seed(1)
    assert equivariance_error(model, oxide, batch_of) < 1e-10


@pytest.mark.parametrize("grid", ["product", "lebedev"])
def test_a_finer_grid_makes_the_aliasing_vanish(make_model, oxide, batch_of, grid) -> None:
    errors = []
    for resolution in (10, 18, 48):
        torch.manual_seed(1)
        errors.append(equivariance_error(make_model(lmax=3, grid=grid, grid_resolution=resolution), oxide, batch_of))
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 1e-2
    assert errors[2] < 1e-10


def test_rotation_is_claimed_only_of_grids_that_hold_the_cube_of_a_function() -> None:
    for lmax, resolution, kept in ((4, 18, True), (4, 16, False), (3, 14, True), (3, 12, False), (6, 24, False)):
        assert ("rotation" in claims(EqV2Config(lmax=lmax, grid_resolution=resolution))) is kept
    assert "rotation" in claims(EqV2Config(grid="lebedev"))
    assert "rotation" not in claims(EqV2Config(grid="lebedev", stress_head="rank2"))


def test_the_published_stress_head_does_not_turn_with_the_structure(make_model, oxide, batch_of) -> None:
    model = make_model(stress_head="rank2", grid_resolution=40)
    rotation = o3.rand_matrix(dtype=torch.float64)
    with torch.no_grad():
        still = model(batch_of(model, oxide))
        moved = model(batch_of(model, turned(oxide, rotation.numpy())))
    assert_close(moved.energy, still.energy, rtol=1e-8, atol=0)
    assert (moved.stress - rotation @ still.stress @ rotation.T).abs().max() > 1e-2 * still.stress.abs().max()


@pytest.mark.parametrize("kind", ["layer_norm_sh", "layer_norm", "rms_norm_sh"])
def test_every_norm_commutes_with_rotations_and_sets_the_scale(kind: str) -> None:
    torch.manual_seed(0)
    norm = make_norm(kind, 3, 8).double()
    d = torch.from_numpy(wigner(3, o3.rand_matrix(dtype=torch.float64).numpy()))
    x = 100 * torch.randn(5, 16, 8, dtype=torch.float64)
    assert float(norm(x).detach().square().mean()) == pytest.approx(1.0, rel=0.3)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    assert_close(norm(d @ x), d @ norm(x))


def test_norms_are_those_of_their_definitions() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 9, 4, dtype=torch.float64)
    centred = x.clone()
    centred[:, 0] -= x[:, 0].mean(-1, keepdim=True)
    parts = centred.split([1, 3, 5], dim=1)
    mean_squares = [part.square().mean(dim=(1, 2)) for part in parts]
    one = make_norm("layer_norm", 2, 4).double()(x)
    for found, part, square in zip(one.split([1, 3, 5], dim=1), parts, mean_squares):
        assert_close(found, part / (square + 1e-5).sqrt()[:, None, None])
    common = sum(mean_squares) / 3
    assert_close(make_norm("rms_norm_sh", 2, 4).double()(x), centred / (common + 1e-5).sqrt()[:, None, None])
    rest = (mean_squares[1] + mean_squares[2]) / 2
    apart = make_norm("layer_norm_sh", 2, 4).double()(x)
    assert_close(apart[:, 1:], x[:, 1:] / (rest + 1e-5).sqrt()[:, None, None])
    assert_close(apart[:, 0], nn.functional.layer_norm(x[:, 0], (4,)))


def test_dropping_a_path_drops_it_for_whole_structures() -> None:
    torch.manual_seed(0)
    drop, batch = Drop(path=0.5, channel=0.0), torch.arange(1000) // 5
    out = drop.train()(torch.ones(1000, 4, 3), batch, 200)
    per_structure = out.reshape(200, -1)
    assert ((per_structure == 0).all(1) | (per_structure == 2).all(1)).all()
    assert 0.4 < (per_structure[:, 0] == 0).float().mean() < 0.6
    assert torch.equal(drop.eval()(out, batch, 200), out)


def test_dropping_channels_drops_all_their_coefficients() -> None:
    torch.manual_seed(0)
    out = Drop(path=0.0, channel=0.25).train()(torch.ones(200, 4, 10), torch.zeros(200, dtype=torch.long), 1)
    assert ((out == 0).all(1) | (out == 1 / 0.75).all(1)).all()
    assert 0.2 < (out == 0).float().mean() < 0.3


def test_training_is_random_and_evaluation_is_not(make_model, oxide, batch_of) -> None:
    model = make_model()
    data = batch_of(model, oxide)
    with torch.no_grad():
        assert torch.equal(model(data).forces, model(data).forces)
        model.train()
        assert not torch.equal(model(data).forces, model(data).forces)


@pytest.mark.parametrize(("kind", "bound"), [("uniform", 1.0), ("normal", None)])
def test_weights_start_with_the_width_of_their_inputs(kind: str, bound: float | None) -> None:
    torch.manual_seed(0)
    model = EqV2(EqV2Config(channels=64, attention_hidden=64, ffn_hidden=64, n_layers=1, weight_init=kind))
    block = model.blocks[0]
    for module in (block.feed_forward.expand, block.feed_forward.pointwise[0], block.attention.edge_function.conv2.m0):
        scaled = module.weight.detach() * module.weight.shape[-1] ** 0.5
        assert scaled.std() == pytest.approx(1.0 if bound is None else bound / 3**0.5, rel=0.03)
    radial = block.attention.edge_function.radial
    assert radial.net[3].weight.abs().max() <= radial.net[3].in_features ** -0.5  # uniform always
    assert radial.source.weight.abs().max() <= 0.001
    assert model.energy.feed_forward.expand.weight.abs().max() <= 64**-0.5  # the heads too
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, nn.Linear) and m.bias is not None)


def test_an_atom_without_neighbours_has_an_energy_and_no_forces(make_model, batch_of) -> None:
    alone = Structure(np.array([29]), np.zeros((1, 3)), 80 * np.eye(3), np.array([True] * 3))
    for options in ({}, {"stress_head": "rank2"}, {"max_neighbors": 0}):
        model = make_model(**options)
        data = batch_of(model, alone, replace(alone, atomic_numbers=np.array([13])))
        assert data.n_edges == 0
        outputs = model(data)
        assert outputs.energy.isfinite().all()
        assert outputs.energy[0] != outputs.energy[1]
        assert not outputs.forces.any()
        assert outputs.stress.isfinite().all()


def test_a_model_without_stress_may_end_at_degree_one(make_model, oxide, batch_of) -> None:
    model = make_model(stress_head="none", lmax=1, mmax=1)
    outputs = model(batch_of(model, oxide))
    assert outputs.stress is None
    assert outputs.forces.abs().max() > 1e-3


@pytest.mark.parametrize("options", [{"grid": "lebedev"}, {"stress_head": "none", "lmax": 1, "mmax": 1}], ids=str)
def test_both_paths_take_every_grid_and_head(make_model, oxide, batch_of, options: dict) -> None:
    model = make_model(**options)
    data = batch_of(model, oxide)
    with torch.no_grad():
        assert fast.serves(model, data)
        quick = model(data)
        with reference_path():
            slow = model(data)
    assert_close(quick.energy, slow.energy, rtol=1e-11, atol=0)
    assert_close(quick.forces, slow.forces, rtol=0, atol=1e-11 * float(slow.forces.abs().max()))


def test_an_element_beyond_the_table_is_refused_with_the_limit(make_model, oxide, batch_of, small) -> None:
    model = make_model(max_atomic_number=37)
    with pytest.raises(DataError, match=r"element 38, .* max_atomic_number = 37"):
        model(batch_of(model, oxide))
    with pytest.raises(ConfigError, match=r"element 96, but max_atomic_number = 95"):
        build(small(), DatasetInfo(elements=(8, 96)))


def test_an_edge_without_length_is_refused_with_its_atoms(make_model, oxide, batch_of) -> None:
    model = make_model()
    data = batch_of(model, oxide)
    j, i = (int(x) for x in data.edge_index[:, 3])
    positions = data.positions.clone()
    positions[j] = positions[i] - data.edge_shift[3].double() @ data.cell[0]
    with pytest.raises(DataError, match=rf"atoms ({j} and {i}|{i} and {j}) of the batch are .* 1e-06 Å"):
        model(data.with_geometry(positions, data.cell))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lmax": 2, "mmax": 3}, "mmax = 3 exceeds lmax = 2"),
        ({"lmax": 6, "grid_resolution": 12}, r"grid_resolution = 12 with lmax = 6.*at least 2\(lmax \+ 1\) = 14"),
        ({"grid_resolution": 17}, "grid_resolution = 17"),
        ({"grid": "lebedev", "lmax": 8, "grid_resolution": 16}, "grid_resolution = 16 with lmax = 8"),
        ({"grid": "lebedev", "grid_resolution": 26}, r"degree 25 .* 24 \(194 points\) or 30 \(302 points\)"),
        ({"grid": "lebedev", "lmax": 6, "grid_resolution": 14}, r"degree 13 .* Nearest: 16 \(86 points\)\."),
        ({"grid": "lebedev", "grid_resolution": 400}, r"degree 399 .* 132 \(5810 points\)"),
        ({"grid": "lebedef"}, "'product' or 'lebedev'"),
        ({"lmax": 1, "mmax": 1}, "lmax = 1: a stress predicted directly"),
        ({"lmax": 12}, "lmax"),
        ({"forces": "gradient"}, "max_neighbors = 20: .*Set max_neighbors = 0"),
        ({"n_head": 2}, "Did you mean 'n_heads'"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_value_and_limit(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EqV2Config.parse(options)


def test_gaussians_are_twice_as_wide_as_their_spacing() -> None:
    basis = WideGaussians(12.0, 600)
    spacing = 12.0 / 599
    values = basis(torch.tensor([100 * spacing, 12.0], dtype=torch.float64))
    assert values[0, 100] == pytest.approx(1.0)
    assert values[0, 102] == pytest.approx(np.exp(-0.5))
    assert values[1, 599] == pytest.approx(1.0)
    assert values.min() == pytest.approx(np.exp(-50.0))


def test_every_parameter_has_a_name_of_its_own_in_fairchem(small) -> None:
    for options in ({"stress_head": "rank2"}, {"norm": "rms_norm_sh", "stress_head": "rank2"}, {}):
        with torch.device("meta"):
            names = [name for name, _ in EqV2(small(**options)).named_parameters()]
        theirs = {fairchem_name(name) for name in names}
        assert len(theirs) == len(names)
        assert all(name.startswith(("backbone.", "output_heads.")) for name in theirs)


def test_weights_of_another_model_are_refused_by_name(small) -> None:
    model = EqV2(small(stress_head="rank2"))
    weights = {fairchem_name(name): p.detach().clone() for name, p in model.named_parameters()}
    other = EqV2(small(stress_head="rank2"))
    load_fairchem(other, weights)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    missing = {name: w for name, w in weights.items() if name != "backbone.sphere_embedding.weight"}
    with pytest.raises(DataError, match=r"backbone\.sphere_embedding\.weight"):
        load_fairchem(other, missing)
    with pytest.raises(DataError, match=r"sphere_embedding\.weight has shape .*element\.weight needs"):
        load_fairchem(other, {**weights, "backbone.sphere_embedding.weight": torch.zeros(96, 9)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_gate_act": True}, "use_gate_act = True: only False"),
        ({"use_pbc": False}, "use_pbc = False: only True"),
        ({"lmax_list": [6, 4]}, "one resolution"),
        ({"use_flux_capacitor": 1}, "unknown option use_flux_capacitor"),
    ],
)
def test_options_of_other_networks_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_fairchem(options)


def test_the_normalisers_of_the_published_stress_head_scale_its_parts_apart(make_model, oxide, batch_of) -> None:
    model = make_model(stress_head="rank2")
    data = batch_of(model, oxide)
    with torch.no_grad():
        before = model(data).stress
        model.stress.normalisers.copy_(torch.tensor([[2.0, 3.0], [5.0, 0.0]]))
        after = model(data).stress
    trace = before.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] / 3 * torch.eye(3)
    assert_close(after, 2 * trace + 3 * torch.eye(3).double() / 3**0.5 + 5 * (before - trace))


def test_a_small_model_learns_a_few_structures(small, oxide, batch_of) -> None:
    torch.manual_seed(0)
    model = EqV2(small(lmax=2, grid_resolution=8, alpha_drop=0.0, drop_path=0.0))
    other = replace(oxide, positions=oxide.positions * 1.05, cell=oxide.cell * 1.05)
    data = batch_of(model, oxide, other).to(dtype=torch.float32)
    stress = torch.randn(2, 3, 3)
    targets = (torch.tensor([3.0, -2.0]), torch.randn(10, 3), stress + stress.transpose(1, 2))
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    for _ in range(60):
        outputs = model(data)
        found = (outputs.energy.float(), outputs.forces, outputs.stress)
        loss = sum((a - b).abs().mean() for a, b in zip(found, targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
