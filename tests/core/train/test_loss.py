"""The loss that is compared, the objective, and the metrics, against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from matscale.core.data.batch import AtomicBatch
from matscale.core.errors import ConfigError
from matscale.core.model.outputs import Outputs
from matscale.core.runs.config import LossConfig
from matscale.core.train.evaluation import evaluate
from matscale.core.train.loss import LabelObjective
from matscale.core.train.metrics import Metrics
from matscale.core.train.residuals import Masks, decompose
from matscale.plugins.losses import HUBER_DELTA, register_losses

LOSSES = {loss.name: loss for loss in register_losses()}


def make_batch(sizes: list[int], seed: int = 0) -> AtomicBatch:
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    n, atoms = len(sizes), sum(sizes)
    stress = rand(n, 3, 3)
    return AtomicBatch(
        positions=rand(atoms, 3),
        atomic_numbers=torch.full((atoms,), 6),
        cell=torch.eye(3, dtype=torch.float64).repeat(n, 1, 1) * 5,
        pbc=torch.ones(n, 3, dtype=torch.bool),
        batch=torch.repeat_interleave(torch.arange(n), torch.tensor(sizes)),
        atoms_per_structure=torch.tensor(sizes),
        energy=rand(n),
        forces=rand(atoms, 3),
        stress=stress + stress.transpose(1, 2),
        index=torch.arange(n),
    )


def guess(batch: AtomicBatch, seed: int = 1) -> Outputs:
    other = make_batch(batch.atoms_per_structure.tolist(), seed)
    return Outputs(energy=other.energy, forces=other.forces, stress=other.stress)


def test_the_compared_loss_is_omat24s_formula() -> None:
    batch = make_batch([2, 5])
    outputs = guess(batch)
    metrics = Metrics()
    metrics.update(outputs, batch)

    energy = sum(abs(float(outputs.energy[s] - batch.energy[s])) / n for s, n in enumerate([2, 5])) / 2
    forces = sum(math.dist(a, b) for a, b in zip(outputs.forces.tolist(), batch.forces.tolist())) / 7
    isotropic = anisotropic = 0.0
    for s in range(2):
        d = (outputs.stress[s] - batch.stress[s]).tolist()
        p = (d[0][0] + d[1][1] + d[2][2]) / 3
        isotropic += 3 * abs(p) / 6 / 2
        slots = [d[0][0] - p, d[1][1] - p, d[2][2] - p, d[1][2], d[0][2], d[0][1]]
        anisotropic += sum(map(abs, slots)) / 6 / 2
    values = metrics.values()
    assert values["loss"] == pytest.approx(2.5 * energy + 20 * forces + 5 * isotropic + 5 * anisotropic, rel=1e-12)
    assert values["loss_forces"] == pytest.approx(20 * forces, rel=1e-12)


def test_the_default_objective_equals_the_compared_loss() -> None:
    batch = make_batch([3, 1, 4])
    outputs = guess(batch)
    objective = LabelObjective(LossConfig(), LOSSES.__getitem__)
    total = objective.total(objective.sums(outputs, batch), objective.counts(batch))
    metrics = Metrics()
    metrics.update(outputs, batch)
    assert float(total) == pytest.approx(metrics.values()["loss"], rel=1e-12)


def test_metrics_of_uneven_batches_equal_those_of_one_batch() -> None:
    whole = make_batch([2, 5, 1, 3, 7])
    outputs = guess(whole)
    members = whole.split()
    answers = dict(zip([m.energy.item() for m in members], _split(outputs, whole)))

    def predictor(batch: AtomicBatch) -> Outputs:
        parts = [answers[m.energy.item()] for m in batch.split()]
        return Outputs(*(torch.cat([getattr(p, k) for p in parts]) for k in ("energy", "forces", "stress")))

    uneven = [AtomicBatch.join(members[:1]), AtomicBatch.join(members[1:])]
    once, twice = evaluate(predictor, [whole]), evaluate(predictor, uneven)
    assert once.keys() == twice.keys()
    assert all(once[key] == pytest.approx(twice[key], rel=1e-12) for key in once)


def _split(outputs: Outputs, batch: AtomicBatch) -> list[Outputs]:
    atoms = outputs.forces.split(batch.atoms_per_structure.tolist())
    return [Outputs(outputs.energy[s : s + 1], atoms[s], outputs.stress[s : s + 1]) for s in range(batch.n_structures)]


def test_a_missing_label_counts_neither_as_zero_nor_in_the_gradient() -> None:
    batch = make_batch([2, 3])
    batch.energy[0] = torch.nan
    batch.forces[:2] = torch.nan
    batch.stress[0] = torch.nan
    outputs = guess(batch)
    parameters = [outputs.energy.requires_grad_(), outputs.forces.requires_grad_(), outputs.stress.requires_grad_()]
    objective = LabelObjective(LossConfig(), LOSSES.__getitem__)
    total = objective.total(objective.sums(outputs, batch), objective.counts(batch))
    total.backward()

    alone = batch.split()[1]
    outputs_alone = Outputs(outputs.energy[1:], outputs.forces[2:], outputs.stress[1:])
    expected = objective.total(objective.sums(outputs_alone, alone), objective.counts(alone))
    assert_close(total, expected)
    assert all(torch.isfinite(p.grad).all() for p in parameters)
    assert parameters[0].grad[0] == 0
    assert parameters[0].grad[1] != 0


def test_a_batch_without_stress_labels_has_no_stress_metrics() -> None:
    batch = make_batch([2, 3])
    batch.stress[:] = torch.nan
    values = evaluate(lambda b: guess(b), [batch])
    assert "stress_mae" not in values
    assert values["loss"] == pytest.approx(values["loss_energy"] + values["loss_forces"])


def test_stress_is_masked_where_a_structure_has_no_volume() -> None:
    batch = make_batch([1, 1])
    batch.cell[0] = 0
    assert Masks.of(batch).stress.tolist() == [False, True]


def test_the_parts_of_a_stress_add_up_and_do_not_mix() -> None:
    stress = make_batch([1, 1]).stress
    isotropic, anisotropic = decompose(stress)
    assert_close((isotropic + anisotropic)[:, 5], stress[:, 0, 1])
    assert_close(anisotropic[:, :3].sum(1), torch.zeros(2, dtype=torch.float64))
    assert (isotropic[:, 3:] == 0).all()


def test_a_sign_flip_of_the_forces_and_a_stress_in_gpa_are_seen() -> None:
    batch = make_batch([4, 4])
    right = Outputs(batch.energy, batch.forces, batch.stress)
    flipped = Outputs(batch.energy, -batch.forces, batch.stress * 160.21766)
    good, bad = evaluate(lambda b: right, [batch]), evaluate(lambda b: flipped, [batch])
    assert good["loss"] == 0
    assert good["forces_cos"] == pytest.approx(1)
    assert bad["forces_cos"] == pytest.approx(-1)
    assert bad["forces_mae"] > 1
    assert bad["stress_mae"] > 100


def test_energies_are_compared_in_float64() -> None:
    batch = make_batch([1])
    exact = Outputs(energy=batch.energy + 1e-9)
    shifted = evaluate(lambda b: Outputs(exact.energy, b.forces, b.stress), [batch])
    assert shifted["energy_mae"] == pytest.approx(1e-9, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value"), [("mae", 2.0), ("mse", 14 / 3), ("l2", 14**0.5), ("huber", HUBER_DELTA * (2 - HUBER_DELTA / 2))]
)
def test_loss_kinds_reduce_components_as_they_say(name: str, value: float) -> None:
    residual = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    assert LOSSES[name].per_item(residual).item() == pytest.approx(value)


def test_huber_is_square_near_zero() -> None:
    residual = torch.tensor([[HUBER_DELTA / 2]], dtype=torch.float64)
    assert LOSSES["huber"].per_item(residual).item() == pytest.approx(HUBER_DELTA**2 / 8)


def test_metrics_survive_a_json_round_trip_bit_for_bit() -> None:
    import json

    batch = make_batch([2, 5])
    metrics, restored = Metrics(), Metrics()
    metrics.update(guess(batch), batch)
    restored.load(json.loads(json.dumps(metrics.state())))
    assert restored.values() == metrics.values()


def test_a_model_that_leaves_out_a_labelled_stress_is_neither_trained_nor_compared_as_if_it_were_right() -> None:
    batch = make_batch([2, 3])
    outputs = replace(guess(batch), stress=None)
    with pytest.raises(ConfigError, match=r"no stress.*--set loss\.stress_isotropic\.weight=0"):
        LabelObjective(LossConfig(), LOSSES.__getitem__).sums(outputs, batch)
    metrics = Metrics()
    metrics.update(outputs, batch)
    assert "loss" not in metrics.values()
    assert metrics.values()["forces_mae"] > 0
    unlabelled = Metrics()
    unlabelled.update(outputs, replace(batch, stress=None))
    assert unlabelled.values()["loss"] > 0
