"""Forces as derivatives: through the Wigner matrices, along any direction, and smooth where neighbours leave."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.structure import Structure
from matscale.core.model.outputs import model_outputs
from matscale.plugins.eqv2 import fast
from matscale.plugins.eqv2.model import graph

OPTIONS = {"forces": "gradient", "max_neighbors": 0, "cutoff": 4.2, "lmax": 3}


def cubic() -> Structure:
    """CsCl-like, its axes along x, y and z: edges along the polar axis are exact."""
    positions = 3.0 * np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    return Structure(np.array([55, 17]), positions, 3.0 * np.eye(3), np.array([True] * 3))


def molecule_on_the_axis() -> Structure:
    """Water-like, with one bond along +y and one along −y."""
    positions = np.array([[0, 0, 0], [0, 0.97, 0], [0, -1.1, 0]], dtype=float)
    return Structure(np.array([8, 1, 1]), positions, np.zeros((3, 3)), np.array([False] * 3))


def slope(energy, h: float = 2e-4) -> float:
    """Fourth-order central difference at 0."""
    return float((8 * (energy(h) - energy(-h)) - (energy(2 * h) - energy(-2 * h))) / (12 * h))


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(**OPTIONS)


@pytest.mark.parametrize("case", ["oxide", "cubic", "axis"])
def test_forces_are_those_of_finite_differences(case: str, model, oxide, batch_of) -> None:
    structure = {"oxide": oxide, "cubic": cubic(), "axis": molecule_on_the_axis()}[case]
    data = batch_of(model, structure)
    forces = model_outputs(model, data).forces
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        along = torch.randn(data.positions.shape, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            found = slope(
                lambda h, along=along: model(data.with_geometry(data.positions + h * along, data.cell)).energy
            )
        expected = -float((forces * along).sum())
        assert found == pytest.approx(expected, abs=1e-6 * max(float(forces.norm()), 0.1)), case


@pytest.mark.parametrize("case", ["oxide", "cubic"])
def test_stress_is_that_of_finite_strains(case: str, model, oxide, batch_of) -> None:
    data = batch_of(model, oxide if case == "oxide" else cubic())
    stress, volume = model_outputs(model, data).stress[0], float(data.volume())
    for a, b in ((0, 0), (1, 1), (0, 1), (1, 2)):
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[a, b] = strain[b, a] = 0.5 if a != b else 1.0
        deform = [torch.eye(3, dtype=torch.float64)]

        def energy(h: float, strain=strain, eye=deform[0]) -> torch.Tensor:
            m = eye + h * strain
            return model(data.with_geometry(data.positions @ m, data.cell @ m)).energy

        with torch.no_grad():
            found = slope(energy, 1e-4) / volume
        assert found == pytest.approx(float(stress[a, b]), abs=1e-6 * float(stress.abs().max())), (a, b)


def test_by_symmetry_there_are_no_forces_in_a_perfect_cubic_crystal(model, batch_of) -> None:
    outputs = model_outputs(model, batch_of(model, cubic()))
    assert outputs.forces.isfinite().all()
    assert outputs.forces.abs().max() < 1e-5 * outputs.stress.abs().max() * 27
    shear = outputs.stress[0] - torch.diag(outputs.stress[0].diagonal())
    assert shear.abs().max() < 1e-4 * outputs.stress.abs().max()


def test_a_loss_on_forces_has_finite_gradients_on_an_aligned_crystal(model, batch_of, oxide) -> None:
    data = batch_of(model, cubic(), oxide, molecule_on_the_axis())
    outputs = model_outputs(model, data, create_graph=True)
    gradients = torch.autograd.grad(outputs.forces.square().sum(), list(model.parameters()), allow_unused=True)
    assert all(g is None or bool(g.isfinite().all()) for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0


@pytest.mark.parametrize("forces", ["gradient", "direct"])
def test_energy_and_forces_are_continuous_as_the_last_neighbour_leaves(forces: str, make_model, batch_of) -> None:
    model = make_model(**{**OPTIONS, "forces": forces})
    cutoff = model.config.cutoff

    def pair(d: float) -> Structure:
        direction = np.array([0.3, 0.5, 0.81])
        positions = np.array([[0, 0, 0], direction / np.linalg.norm(direction) * d])
        return Structure(np.array([29, 8]), positions, np.zeros((3, 3)), np.array([False] * 3))

    inside, outside = (batch_of(model, pair(cutoff + step)) for step in (-1e-7, 1e-7))
    assert (inside.n_edges, outside.n_edges) == (2, 0)
    a, b = (model_outputs(model, data, derive=forces == "gradient") for data in (inside, outside))
    assert_close(a.energy, b.energy, rtol=0, atol=1e-12)
    assert_close(a.forces, b.forces, rtol=0, atol=1e-9)
    nearer = model_outputs(model, batch_of(model, pair(0.6 * cutoff)), derive=forces == "gradient")
    assert (nearer.energy - b.energy).abs() > 1e-6


@pytest.mark.parametrize("path", ["fast", "reference"])
def test_stress_of_the_published_head_is_continuous_as_neighbours_leave(
    path: Literal["fast", "reference"], make_model, batch_of
) -> None:
    model = make_model(max_neighbors=0, cutoff=4.2, lmax=3, stress_head="rank2")

    def leaving(d: float) -> AtomicBatch:
        """The first atom has a second neighbour, the last atom no other."""
        positions = np.array([[0, 0, 0], [1.5, 0.5, 0], [0, 0, d]])
        return batch_of(model, Structure(np.array([29, 8, 13]), positions, 20 * np.eye(3), np.array([True] * 3)))

    inside, outside = leaving(4.2 - 1e-7), leaving(4.2 + 1e-7)
    assert (inside.n_edges, outside.n_edges) == (4, 2)
    with fast.forced(path), torch.no_grad():
        before, after = model(inside).stress, model(outside).stress
    assert before.abs().max() > 1e-3
    assert_close(before, after, rtol=0, atol=1e-10)


def test_the_neighbour_rule_says_whether_it_is_smooth(small) -> None:
    assert graph(small(max_neighbors=0)).kind == "radius"
    rule = graph(small())
    assert (rule.kind, rule.n_neighbors, rule.strict) == ("nearest", 20, False)


def test_direct_and_conservative_models_share_their_backbone(make_model) -> None:
    direct = make_model(max_neighbors=0).state_dict()
    gradient = make_model(**OPTIONS, mmax=2).state_dict()
    assert set(gradient) == {name for name in direct if not name.startswith(("forces.", "stress."))}
