"""The contract that every architecture must pass, and what is special about PaiNN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matscale_painn import Painn, PainnConfig, build, ladder, register_architectures
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from matscale.plugin import DatasetInfo, Potential, Structure, collate, count_parameters, model_outputs
from matscale.testing import (
    PackedDataset,
    Probes,
    ShardWriter,
    Subject,
    TrainConfig,
    checks,
    cost_of,
    crystal,
    metal,
    molecule,
    resolved,
    slab,
    structure,
    supercell,
    train,
    voigt_to_full,
)

(ARCHITECTURE,) = register_architectures()
DIRECT = ladder(10_000).model_copy(update={"forces": "direct"})


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_the_installed_package_is_found_by_its_name():
    from matscale.plugin import host

    assert host().architecture("painn").config is PainnConfig
    assert host().origin("painn")[0] == "matscale-painn"


@pytest.mark.parametrize("check", checks(ARCHITECTURE), ids=str)
def test_the_contract_with_gradient_forces(check):
    check()


@pytest.mark.parametrize("check", checks(ARCHITECTURE, DIRECT), ids=str)
def test_the_contract_with_direct_forces(check):
    check()


def n_parameters(config: PainnConfig) -> dict[str, int]:
    with torch.device("meta"):
        return count_parameters(build(config, DatasetInfo.any()))


def test_every_rung_from_3k_to_300M_is_within_five_percent_of_what_was_asked():
    wanted = np.geomspace(3_000, 3e8, 11).astype(int)
    found = np.array([n_parameters(ladder(int(n)))["total"] for n in wanted])
    assert np.abs(found / wanted - 1).max() < 0.05
    assert (np.diff(found) > 0).all()


def step_flops(config: PainnConfig) -> int:
    potential = Potential.of(ARCHITECTURE, config, DatasetInfo.any(), seed=0).double().train()
    with FlopCounterMode(display=False) as counter:
        outputs = potential(collate([crystal()], ARCHITECTURE.graph(config), torch.float64))
        (outputs.energy.sum() + outputs.forces.square().sum()).backward()
    return counter.get_total_flops()


def test_flops_of_a_step_rise_with_every_rung_from_1k_to_300k():
    configs = [ladder(round(n)) for n in np.geomspace(1_000, 300_000, 12)]
    assert (np.diff([step_flops(config) for config in configs]) > 0).all()
    assert {config.n_radial for config in configs} == {20}


def test_parameters_beside_the_embedding_are_as_many_as_in_schnetpack():
    # schnetpack 2.2.0: 623,617 with 128 channels, 3 layers, 50 radial functions and an embedding of 100 rows.
    counts = n_parameters(PainnConfig(width=128, n_layers=3, n_radial=50))
    assert counts["non_embedding"] == 623_617 - 100 * 128


@torch.no_grad()
def filled(model: Painn) -> Painn:
    """Every parameter gets values by a formula: sines, of order 1/√fan-in in matrices, around 1/2 in vectors."""
    for k, (_, parameter) in enumerate(sorted(model.named_parameters())):
        waves = torch.sin(1.0 + k + 0.7 * torch.arange(parameter.numel(), dtype=torch.float64)).view_as(parameter)
        parameter.copy_(waves * (2.0 / parameter.shape[-1]) ** 0.5 if parameter.dim() > 1 else 0.5 + 0.3 * waves)
    return model


SCHNETPACK = {
    "energy": [-4.9242698063955, -3.8006662021217],
    "forces": [
        [-1.0594140458539, -3.0667043074776, -1.8472206026974],
        [0.83228552043686, -2.4667395327607, 1.7411198734722],
        [-0.2048272188506, 2.9761485015499, 0.62179121026597],
        [-0.24836802025572, -0.38038998520416, 1.0080572423991],
        [0.68032376452341, 2.9376853238925, -1.5237477234399],
    ],
}
"""Energies of `crystal()` and `molecule()` and forces on the atoms of the latter, by the PaiNN of schnetpack 2.1.1 in
float64, with sines, the cosine cutoff and the weights of `filled` under its names."""


def test_energies_and_forces_are_those_of_schnetpack_with_the_same_weights():
    config = PainnConfig(width=4, n_layers=2, n_radial=6, cutoff=4.0)
    batch = collate([crystal(), molecule()], ARCHITECTURE.graph(config), torch.float64)
    found = model_outputs(filled(Painn(config).double().eval()), batch)
    assert_close(found.energy, torch.tensor(SCHNETPACK["energy"], dtype=torch.float64), rtol=1e-9, atol=0)
    assert_close(found.forces[4:], torch.tensor(SCHNETPACK["forces"], dtype=torch.float64), rtol=1e-8, atol=1e-8)


def test_a_neighbour_at_the_cutoff_comes_into_view_without_energy_or_force():
    potential = Subject(ARCHITECTURE, ladder(10_000)).perturbed()
    cutoff = ladder(10_000).cutoff

    def pair(distance: float):
        return potential(collate([structure([14, 8], [[0, 0, 0], [0, 0, distance]])], potential.graph, torch.float64))

    apart, near, nearer = pair(cutoff + 1e-6), pair(cutoff - 1e-4), pair(cutoff - 2e-4)
    assert apart.forces.abs().max() == 0
    assert 0 < near.forces.abs().max() < 1e-3
    # Force in proportion to how far inside the atom is, energy to the square of that.
    assert nearer.forces[1, 2].item() == pytest.approx(2 * near.forces[1, 2].item(), rel=1e-2)
    rise, steeper = (near.energy - apart.energy).item(), (nearer.energy - apart.energy).item()
    assert steeper == pytest.approx(4 * rise, rel=1e-2)


def test_direct_stress_sees_the_shear_of_a_crystal_of_inversion_centres():
    potential = Subject(ARCHITECTURE, DIRECT).perturbed()
    sheared = np.array([[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]]) @ (np.eye(3) + 0.03 * np.eye(3)[[1, 0, 2]])
    outputs = potential(collate([structure([29], [[0, 0, 0]], sheared)], potential.graph, torch.float64))
    assert outputs.forces.abs().max() < 1e-10
    assert outputs.stress[0, 0, 1].abs() > 1e-3 * outputs.stress[0].abs().max()


@pytest.mark.parametrize("config", [ladder(10_000), DIRECT], ids=["gradient", "direct"])
def test_flops_of_any_batch_follow_from_a_fit_within_one_percent(config):
    potential = Potential.of(ARCHITECTURE, config, DatasetInfo.any(), seed=0)

    def batch(*structures: Structure):
        return collate(list(structures), ARCHITECTURE.graph(config))

    large = supercell(crystal(1), (2, 1, 1))
    fitted = [batch(s) for s in (metal(), slab(), molecule(), crystal(), large)]
    verified = [batch(crystal(2), slab(), large), batch(metal(), molecule(), molecule())]
    cost = cost_of(potential, Probes([*fitted, batch(metal(), metal())], verified))
    assert cost.counted_by == "fit"
    assert cost.error < 0.01
    assert not cost.opaque


@pytest.mark.parametrize("config", [ladder(10_000), DIRECT], ids=["gradient", "direct"])
def test_a_training_step_in_bf16_is_near_one_in_float32(config):
    subject = Subject(ARCHITECTURE, config)
    potential, batch = subject.perturbed().float().train(), subject.batch(crystal(), metal(), dtype=torch.float32)

    def gradient(half: bool) -> torch.Tensor:
        potential.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = potential(batch)
        (outputs.energy.sum() + outputs.forces.square().sum() + outputs.stress.square().sum()).backward()
        return torch.cat([p.grad.flatten() for p in potential.parameters()])

    exact, rough = gradient(half=False), gradient(half=True)
    # 0.11 with gradient forces, less with direct ones.
    assert 0 < (rough - exact).norm() < 0.2 * exact.norm()


def alloy(formula: str, rng: np.random.Generator) -> Structure:
    """Two atoms in a strained, rattled cell, labelled by ASE's EMT."""
    from ase import Atoms
    from ase.calculators.emt import EMT

    cell = 3.0 * (np.eye(3) + 0.05 * rng.standard_normal((3, 3)))
    atoms = Atoms(formula, scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=cell, pbc=True, calculator=EMT())
    atoms.rattle(0.1, rng=rng)
    labelled = Structure.from_ase(atoms)
    labelled.energy, labelled.forces = atoms.get_potential_energy(), atoms.get_forces()
    labelled.stress = voigt_to_full(atoms.get_stress())
    return labelled


@pytest.fixture(scope="module")
def alloys(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    path, rng = tmp_path_factory.mktemp("data") / "alloys", np.random.default_rng(1)
    writer = ShardWriter(path, labels_by="surrogate: emt")
    for k in range(24):
        writer.append(alloy(["AlCu", "Al2", "CuNi", "Ni2", "AlNi", "Cu2"][k % 6], rng))
    writer.finish()
    return PackedDataset.open(path)


@pytest.mark.parametrize("forces", ["gradient", "direct"])
def test_eight_structures_are_learnt_by_heart(forces: str, alloys: PackedDataset, tmp_path: Path):
    settings = TrainConfig.parse(
        {
            "architecture": {"name": "painn", "config": {"forces": forces}},
            "data": {"path": str(alloys.path), "validation": 0.25, "overfit": 8, "cache_graphs": False},
            "batch": {"structures": 8},
            "optimizer": {"lr": 5e-3},
            "budget": {"steps": 150},
            "evaluation": {"every": 150},
            "compute": {"device": "cpu"},
            "log_every": 1,
        }
    )
    run = train(resolved(settings, ARCHITECTURE, n_params=10_000), tmp_path / "run", architecture=ARCHITECTURE)
    losses = [row["loss"] for row in run.metrics("train")]
    assert losses[-1] < 0.25 * losses[0]
    assert run.info["last"]["forces_cos"] > 0.9


@pytest.mark.parametrize("forces", ["gradient", "direct"])
@pytest.mark.parametrize(("precision", "bound"), [(torch.bfloat16, 0.03), (torch.float16, 0.005)])
def test_half_precision_costs_digits_of_forces_and_nothing_of_the_lattice(forces, precision, bound):
    subject = Subject(ARCHITECTURE, ladder(10_000).model_copy(update={"forces": forces}))
    potential = subject.perturbed().float().eval()
    cell = np.array([[41.3, 0.2, -3.1], [5.1, 43.7, 0.3], [-4.6, 6.9, 47.1]])
    around_a_corner = (molecule().positions @ np.linalg.inv(cell)) % 1.0 @ cell
    batch = subject.batch(structure(molecule().atomic_numbers, around_a_corner, cell), crystal(), dtype=torch.float32)
    exact = potential(batch)
    with torch.autocast("cpu", precision):
        rough = potential(batch)
    assert 0 < (rough.forces - exact.forces).norm() < bound * exact.forces.norm()
