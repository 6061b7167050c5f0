"""Smooth models are continuous where an edge passes from one chart of its frames to the other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from matscale.core.contract.subject import ContractError
from matscale.core.data.structure import Structure
from matscale.core.hosting.host import host
from matscale.core.model.outputs import model_outputs
from matscale.core.model.reference_path import reference_path
from matscale.core.model.sphere import rotation
from matscale.core.model.sphere.charts import HALF_WIDTH, ChartPassage
from matscale.core.model.sphere.rotation import POLAR, EdgeRotation
from matscale.plugins.eqv2 import fast
from matscale.testing import checks

GRADIENT = {"forces": "gradient", "max_neighbors": 0, "cutoff": 4.2, "lmax": 3}
DIRECT = {**GRADIENT, "forces": "direct"}
GRIDS = [{"grid": "product"}, {"grid": "lebedev"}]


def toward(y: float, longitude: float) -> np.ndarray:
    rho = math.sqrt(1 - y * y)
    return np.array([rho * math.sin(longitude), y, rho * math.cos(longitude)])


def bent(direction: np.ndarray) -> Structure:
    """Three atoms, of which the first two lie along `direction`; of two alone nothing depends on the frame."""
    positions = np.array([[0, 0, 0], 1.9 * direction, [1.1, 0.4, -1.3]])
    return Structure(np.array([8, 22, 13]), positions, np.zeros((3, 3)), np.array([False] * 3))


def grown(model):
    """With weights three times as large, whose activations alias by a hundredth of the energy."""
    for parameter in model.parameters():
        parameter.data *= 3
    return model


@pytest.mark.parametrize("longitude", [0.1, 2.5, 4.0])
@pytest.mark.parametrize("y", [0.86, 0.9, 0.901, 0.94, -0.87, -0.93])
def test_the_turn_between_the_charts_is_that_of_their_wigner_matrices(y: float, longitude: float, monkeypatch) -> None:
    vec = 1.7 * torch.from_numpy(toward(y, longitude))[None]
    passage = ChartPassage(4, 3)(vec)
    monkeypatch.setattr(rotation, "POLAR", 2.0)
    first = EdgeRotation(4, 3)(vec)
    monkeypatch.setattr(rotation, "POLAR", -1.0)
    polar = EdgeRotation(4, 3)(vec)
    own, other = (polar, first) if abs(y) > POLAR else (first, polar)
    assert (own - other).abs().max() > 0.1
    assert_close(passage.turned(own), other, rtol=0, atol=1e-13)
    assert_close(passage.turned_back(other), own, rtol=0, atol=1e-13)


def test_the_other_chart_counts_half_at_the_border_and_nothing_where_it_ends() -> None:
    heights = [POLAR - 1.01 * HALF_WIDTH, *(POLAR + HALF_WIDTH * k for k in (-1 + 1e-9, 0, 1e-9, 1 - 1e-9)), 0.99]
    passage = ChartPassage(2, 1)(torch.from_numpy(np.array([toward(y, 1.0) for y in heights])))
    assert passage.edges.tolist() == [1, 2, 3, 4]
    assert_close(passage.share, torch.tensor([0, 0.5, 0.5, 0], dtype=torch.float64), rtol=0, atol=1e-7)


def test_a_tenth_of_all_directions_lies_between_the_charts() -> None:
    vec = torch.randn(20_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert len(ChartPassage(2, 1)(vec).edges) == pytest.approx(2000, rel=0.1)


def test_only_smooth_models_with_orders_pay_for_it(make_model, batch_of) -> None:
    structure = bent(toward(0.9, 0.3))
    for options, expected in (({}, None), ({"max_neighbors": 0, "mmax": 0}, None), (DIRECT, 2), (GRADIENT, 2)):
        model = make_model(**options)
        passage = model.edge_frames(batch_of(model, structure)).passage
        assert (passage if passage is None else len(passage.edges)) == expected
    with reference_path():  # where FLOPs are counted, of what is computed twice one
        assert model.edge_frames(batch_of(model, structure)).passage is None


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: g["grid"])
@pytest.mark.parametrize("y", [0.86, 0.9, 0.93, -0.9])
def test_forces_between_the_charts_are_those_of_finite_differences(y: float, grid: dict, make_model, batch_of) -> None:
    model = grown(make_model(**GRADIENT, **grid))
    data = batch_of(model, bent(toward(y, 0.7)))
    forces = model_outputs(model, data).forces
    along = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def energy(h: float) -> float:
        with torch.no_grad():
            return float(model(data.with_geometry(data.positions + h * along, data.cell)).energy)

    h = 2e-5
    slope = (8 * (energy(h) - energy(-h)) - (energy(2 * h) - energy(-2 * h))) / (12 * h)
    assert slope == pytest.approx(-float((forces * along).sum()), abs=1e-6 * float(forces.norm()))


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: g["grid"])
@pytest.mark.parametrize("options", [DIRECT, GRADIENT], ids=lambda o: o["forces"])
def test_energy_and_forces_do_not_step_at_the_border(
    options: dict, grid: dict, make_model, batch_of, monkeypatch
) -> None:
    model = grown(make_model(**options, **grid))
    start = batch_of(model, bent(toward(POLAR, 1.0)))

    def step(y: float) -> tuple[float, float]:
        """Of energy and forces, relative, between two directions 10⁻¹² apart."""
        found = []
        for height in (y - 5e-13, y + 5e-13):
            positions = torch.from_numpy(bent(toward(height, 1.0)).positions)
            data = start.with_geometry(positions, start.cell)
            found.append(model_outputs(model, data, derive=options == GRADIENT).detach())
        a, b = found
        return float((a.energy - b.energy).abs() / a.energy.abs()), float(
            (a.forces - b.forces).norm() / a.forces.norm()
        )

    for y in (POLAR - HALF_WIDTH, POLAR, POLAR + HALF_WIDTH):
        energy, forces = step(y)
        assert energy < 1e-10
        assert forces < 1e-9
    monkeypatch.setattr(ChartPassage, "forward", lambda self, vec: None)
    energy, forces = step(POLAR)  # what the passage takes away
    assert energy > 1e-8
    assert forces > 1e-6


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: g["grid"])
def test_both_paths_agree_between_the_charts(grid: dict, make_model, batch_of) -> None:
    model = make_model(**DIRECT, **grid)
    data = batch_of(model, bent(toward(0.88, 0.4)), bent(toward(0.3, 0.1)), bent(toward(-0.92, 2.0)))
    assert len(model.edge_frames(data).passage.edges) >= 4
    found = []
    for path in ("reference", "fast"):
        with fast.forced(path):
            outputs = model(data)
        model.zero_grad()
        (outputs.energy.square().sum() + outputs.forces.square().sum() + outputs.stress.square().sum()).backward()
        found.append((outputs, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (reference, slow), (quick, gradients) = found
    assert_close(quick.forces, reference.forces, rtol=1e-10, atol=1e-13)
    for name, gradient in slow.items():
        assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-11 * float(gradient.abs().max() + 1), msg=name)


def test_a_loss_on_forces_has_finite_gradients_between_the_charts(make_model, batch_of) -> None:
    model = make_model(**GRADIENT)
    outputs = model_outputs(model, batch_of(model, bent(toward(0.9, 0.7)), bent(toward(0.1, 0.7))), create_graph=True)
    gradients = torch.autograd.grad(outputs.forces.square().sum(), list(model.parameters()), allow_unused=True)
    assert all(g is None or bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize(
    "options",
    [{**DIRECT, "lmax": 2, "grid_resolution": 10}, {**GRADIENT, "grid": "lebedev"}],
    ids=["direct", "gradient"],
)
def test_the_contract_finds_the_step_if_the_charts_are_not_joined(options: dict, small, monkeypatch) -> None:
    family = host().architecture("eqv2")
    config = small(**{**options, "n_layers": 1})
    (check,) = [c for c in checks(family, config) if c.check.name == "smooth-in-direction"]
    check()
    monkeypatch.setattr(ChartPassage, "forward", lambda self, vec: None)
    with pytest.raises(ContractError, match="rotating a molecule by"):
        check()
