"""What EquiformerV3 is: exactly equivariant, smooth and conservative, and what it refuses."""

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
from matscale.plugin import sphere
from matscale.plugins.eqv3 import SIZES, EqV3, EqV3Config, build, graph, ladder
from matscale.plugins.eqv3.attention import product
from matscale.plugins.eqv3.config import exact_grid
from matscale.plugins.eqv3.counts import COUNTS
from matscale.plugins.eqv3.sizes import LADDER

DIRECT = {"forces": "direct"}
FORMS = [
    {},
    {"lmax": 3, "mmax": 0},
    {**DIRECT, "denoising": True, "lmax": 3},
    {**DIRECT, "stress_head": "none", "mmax": 1},
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


def on_meta(config: EqV3Config) -> EqV3:
    with torch.device("meta"):
        return EqV3(config)


@pytest.mark.parametrize("options", [{}, DIRECT], ids=["gradient", "direct"])
def test_the_model_is_equivariant_to_rounding(make_model, oxide, batch_of, options: dict) -> None:
    model, rotation = make_model(lmax=3, **options), o3.rand_matrix(dtype=torch.float64)
    still, moved = (
        model_outputs(model, batch_of(model, one), derive=not options).detach()
        for one in (oxide, turned(oxide, rotation.numpy()))
    )
    assert_close(moved.energy, still.energy, rtol=1e-12, atol=1e-12)
    assert_close(moved.forces, still.forces @ rotation.T, rtol=0, atol=1e-12)
    assert_close(moved.stress, rotation @ still.stress @ rotation.T, rtol=0, atol=1e-12)
    assert still.forces.abs().max() > 1e-3


@pytest.mark.parametrize(("lmax", "mmax"), [(1, 0), (2, 2), (3, 1), (4, 2), (4, 4), (6, 2), (6, 6), (7, 7), (11, 2)])
def test_products_on_the_chosen_grid_are_those_on_a_fine_one(lmax: int, mmax: int) -> None:
    """By grids of any kind, and only by those: with two latitudes fewer the product is another one."""
    grid = exact_grid(lmax, mmax)
    k = sphere.counts.n_kept(lmax, mmax)
    x = torch.randn(2, k, 4, dtype=torch.float64)
    fine = product(x, sphere.SphereGrid(lmax, (6 * lmax + 6, 6 * lmax + 5), mmax).double())
    found = product(x, sphere.SphereGrid(lmax, grid.resolution, mmax, grid.kind).double())
    assert_close(found, fine, rtol=1e-10, atol=1e-10)
    published = {(4, 2): 112, (6, 2): 160, (4, 4): 196, (6, 6): 400}
    assert grid.n_points <= published.get((lmax, mmax), grid.n_points)
    latitudes = 3 * lmax + 1 + (3 * lmax + 1) % 2 - 2
    coarse = product(x, sphere.SphereGrid(lmax, (latitudes, 6 * lmax + 5), mmax).double())
    assert float((coarse - fine).abs().max()) > 1e-6


def test_a_mirror_image_has_another_energy(make_model, batch_of) -> None:
    model = make_model(lmax=3)
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
def test_forces_and_stress_are_derivatives_along_the_polar_axis_too(structure: Structure, make_model, batch_of) -> None:
    model = make_model()
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
    assert_close(a.forces, b.forces, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("half", "bound"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
@pytest.mark.parametrize("options", [{}, DIRECT], ids=["gradient", "direct"])
def test_every_form_predicts_and_learns_alike_in_half_precision(
    half: torch.dtype, bound: float, options: dict, make_model, batch_of, oxide
) -> None:
    model = make_model(channels=16, edge_channels=16, ffn_hidden=32, **options).float()
    data = batch_of(model, oxide).to(dtype=torch.float32)
    outputs, gradients = [], []
    for enabled in (False, True):
        with torch.autocast("cpu", half, enabled=enabled):
            one = model_outputs(model, data, derive=not options, create_graph=True)
        model.zero_grad()
        (one.energy.sum() + one.forces.square().sum() + one.stress.square().sum()).backward()
        outputs.append(one.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    for name in ("forces", "stress"):
        exact, rough = (getattr(one, name).float() for one in outputs)
        assert (rough - exact).norm() < bound * exact.norm()
    assert (gradients[1] - gradients[0]).norm() < bound * gradients[0].norm()


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
    assert COUNTS.total(config) == sum(p.numel() for p in model.parameters())
    assert COUNTS.parameters(config)["blocks"] == sum(p.numel() for p in model.blocks.parameters())


def test_published_sizes_have_the_published_parameters() -> None:
    published = {
        "oc20-2M": 91_390_274,
        "mptrj-direct": 34_859_044,
        "mptrj-gradient": 30_278_113,
        "omat24-direct": 34_928_164,
        "omat24-direct-L6": 57_077_924,
        "omat24-gradient": 30_333_409,
        "omat24-gradient-L6": 48_841_313,
        "salex-gradient": 30_333_409,
    }
    assert {name: COUNTS.total(config) for name, config in SIZES.items()} == published
    built = {name: count_parameters(on_meta(config))["total"] for name, config in SIZES.items()}
    assert built == published


def test_the_ladder_reaches_every_size_and_never_falls() -> None:
    wanted = np.unique(np.geomspace(3_000, 3e8, 40).astype(int))
    configs = [ladder(int(n)) for n in wanted]
    found = np.array([COUNTS.total(config) for config in configs])
    assert np.abs(found / wanted - 1).max() < 0.02
    assert (np.diff(found) >= 0).all()
    assert {config.n_radial for config in configs if config.channels > 5} == {64}
    published = SIZES["omat24-gradient"].model_copy(update={"max_atomic_number": 118})
    assert ladder(COUNTS.total(published)) == published
    steps = np.diff(np.array(LADDER.rungs), axis=0)
    assert (steps.sum(axis=1) == 1).all()
    assert (steps >= 0).all()


def test_initial_weights_follow_the_published_law() -> None:
    torch.manual_seed(0)
    model = EqV3(EqV3Config(channels=48, attention_hidden=16, n_heads=4, ffn_hidden=96, n_layers=1, lmax=2))
    block = model.blocks[0]
    for weight, n_in, scale in (
        (block.attention.conv2.m0.weight[:16], 48, 0.5),
        (block.attention.conv2.m0.weight[16:], 48, 1.0),
        (block.attention.conv1.m[0].weight, 192, 0.5),
        (block.feed_forward.contract.weight[0], 96, 0.5),
        (block.feed_forward.contract.weight[1:], 96, 1.0),
        (block.feed_forward.pair.weight, 96, 1.0),
        (model.energy.mlp[0].weight, 48, 1.0),
    ):
        assert float(weight.detach().std()) == pytest.approx((scale / (3 * n_in)) ** 0.5, rel=0.05)
    assert all(float(p.detach().abs().max()) == 0 for name, p in model.named_parameters() if name.endswith("bias"))
    assert float(block.attention.radial.source.weight.detach().abs().max()) <= 0.001


def test_an_atom_without_neighbours_has_an_energy_and_no_forces(make_model, batch_of) -> None:
    alone = Structure(np.array([29]), np.zeros((1, 3)), 80 * np.eye(3), np.array([True] * 3))
    for options in ({}, DIRECT):
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


def test_noise_is_predicted_from_forces_that_turn_with_the_structure(make_model, batch_of, oxide) -> None:
    model, rotation = make_model(**DIRECT, denoising=True), o3.rand_matrix(dtype=torch.float64)
    forces, atoms = torch.randn(5, 3, dtype=torch.float64), torch.tensor([1.0, 0, 1, 0, 0], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    with torch.no_grad():
        still = model.denoise(batch_of(model, oxide), forces, atoms, one)
        moved = model.denoise(batch_of(model, turned(oxide, rotation.numpy())), forces @ rotation.T, atoms, one)
        plain = model(batch_of(model, oxide))
    assert_close(moved.forces, still.forces @ rotation.T, rtol=0, atol=1e-12)
    assert_close(moved.energy, still.energy, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(still.energy, plain.energy)
    assert still.stress.abs().max() == 0
    with pytest.raises(ConfigError, match="this model has no head for noise"):
        make_model(**DIRECT).denoise(batch_of(model, oxide), forces, atoms, one)


def test_the_neighbour_rule_says_whether_it_is_smooth(small) -> None:
    assert graph(small()).kind == "radius"
    rule = graph(small(**DIRECT, max_neighbors=20))
    assert (rule.kind, rule.n_neighbors, rule.strict) == ("nearest", 20, True)


def test_an_element_beyond_the_table_is_refused_with_the_limit(make_model, oxide, batch_of, small) -> None:
    model = make_model(max_atomic_number=37)
    with pytest.raises(DataError, match=r"element 38, .* max_atomic_number = 37"):
        model(batch_of(model, oxide))
    with pytest.raises(ConfigError, match=r"element 100, but max_atomic_number = 99"):
        build(small(max_atomic_number=99), DatasetInfo(elements=(8, 100)))


def test_an_edge_without_length_is_refused_with_its_atoms(make_model, batch_of) -> None:
    model = make_model()
    data = batch_of(model, molecule())
    with pytest.raises(DataError, match=r"eqv3: atoms \d and \d of the batch are 0 Å apart, less than 1e-06 Å"):
        model(data.with_geometry(0 * data.positions, data.cell))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lmax": 2, "mmax": 3}, "mmax = 3 exceeds lmax = 2"),
        ({"lmax": 1, "mmax": 1, "forces": "direct"}, "lmax = 1: a stress predicted directly"),
        ({"max_neighbors": 30}, "max_neighbors = 30: the energy would jump"),
        ({"denoising": True}, "denoising = true with forces = 'gradient'"),
        ({"attention_epsilon": 0}, "attention_epsilon"),
        ({"n_head": 2}, "no field|unknown|Did you mean"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_value_and_limit(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EqV3Config.parse(options)


@pytest.mark.parametrize("options", [{}, DIRECT], ids=["gradient", "direct"])
def test_a_small_model_learns_a_few_structures(make_model, oxide, batch_of, options: dict) -> None:
    model = make_model(**options, n_layers=1).train()
    other = replace(oxide, positions=oxide.positions * 1.05, cell=oxide.cell * 1.05)
    data = batch_of(model, oxide, other)
    targets = model_outputs(make_model(**options), data, derive=not options).detach()
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=2e-2), []
    for _ in range(15):
        found = model_outputs(model, data, derive=not options, create_graph=True)
        pairs = ((found.energy, targets.energy), (found.forces, targets.forces), (found.stress, targets.stress))
        loss = sum((a - b).square().sum() / b.square().sum() for a, b in pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], losses
