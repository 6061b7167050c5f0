"""The baselines against values worked out by hand, and against symmetries that their definitions have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from matscale.core.baselines import (
    BASELINES,
    CompositionBaseline,
    MeanBaseline,
    NearestBaseline,
    evaluate_baselines,
    fit_baselines,
    nearest_elements,
    parse_baselines,
    passes,
    plain_baselines,
)
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.core.data.store.packed import PackedDataset
from matscale.core.data.store.writer import ShardWriter
from matscale.core.data.structure import Structure
from matscale.core.errors import DataError

AL, NI, CU = 13, 28, 29
BOX = 10.0 * np.eye(3)


def structure(
    numbers: list[int],
    positions: list[list[float]],
    energy: float | None = None,
    forces: list[list[float]] | None = None,
    stress: float | None = None,
    periodic: bool = True,
) -> Structure:
    """In a cube of 10 Å; `stress` is that of an isotropic tensor."""
    return Structure(
        atomic_numbers=np.array(numbers),
        positions=np.array(positions, dtype=float),
        cell=BOX if periodic else np.zeros((3, 3)),
        pbc=np.full(3, periodic),
        energy=energy,
        forces=None if forces is None else np.array(forces, dtype=float),
        stress=None if stress is None else stress * np.eye(3),
    )


def pack(path: Path, structures: list[Structure]) -> PackedDataset:
    writer = ShardWriter(path)
    writer.append(*structures)
    writer.finish()
    return PackedDataset.open(path)


@pytest.fixture
def alloy(tmp_path: Path) -> PackedDataset:
    """Al–Ni, Al alone in its box, and Al–Al without forces and stress; Ni–Ni without an energy."""
    near = [[1.0, 1.0, 1.0], [1.0, 1.0, 3.0]]
    structures = [
        structure([AL, NI], near, energy=-8.0, forces=[[0.0, 0.0, 3.0], [0.0, 0.0, -1.0]], stress=0.4),
        structure([AL], near[:1], energy=-2.0, forces=[[1.0, 0.0, 0.0]], stress=-0.1),
        structure([AL, AL], near, energy=-6.0),
        structure([NI, NI], near, forces=[[0.0, 2.0, 0.0], [0.0, -2.0, 0.0]], stress=0.2),
    ]
    return pack(tmp_path / "alloy", structures)


def everything(dataset: PackedDataset) -> np.ndarray:
    return np.arange(len(dataset))


def batch(*structures: Structure) -> AtomicBatch:
    return collate(structures, Graph.none(), dtype=torch.float64)


def test_zero_predicts_nothing(alloy: PackedDataset) -> None:
    outputs = fit_baselines(alloy, everything(alloy))["zero"](alloy.batch(everything(alloy)))
    assert not outputs.energy.any()
    assert outputs.forces is not None
    assert outputs.forces.shape == (7, 3)
    assert not outputs.forces.any()
    assert outputs.stress is not None
    assert outputs.stress.shape == (4, 3, 3)
    assert not outputs.stress.any()


def test_mean_divides_energy_by_atoms_and_leaves_out_missing_labels(alloy: PackedDataset) -> None:
    mean = MeanBaseline.fit(alloy, everything(alloy))
    assert mean.energy_per_atom == pytest.approx(-16.0 / 5)  # three energies, five atoms
    assert mean.force == pytest.approx((0.2, 0.0, 0.4))  # five atoms carry forces
    assert mean.stress == pytest.approx((np.eye(3) * 0.5 / 3).ravel())  # three structures carry stress
    outputs = mean(alloy.batch(np.array([0, 1])))
    assert_close(outputs.energy, torch.tensor([-6.4, -3.2], dtype=torch.float64))


def test_the_mean_is_that_of_the_training_part_alone(alloy: PackedDataset) -> None:
    assert MeanBaseline.fit(alloy, np.array([1])).energy_per_atom == -2.0


def test_composition_finds_the_element_energies_that_made_the_data(tmp_path: Path, rng: np.random.Generator) -> None:
    energies = {AL: -3.25, NI: -5.5, CU: 1.125}
    structures = []
    for _ in range(20):
        numbers = rng.choice([AL, NI, CU], size=rng.integers(1, 6)).tolist()
        positions = (rng.random((len(numbers), 3)) * 10).tolist()
        structures.append(structure(numbers, positions, energy=sum(energies[z] for z in numbers), stress=0.25))
    dataset = pack(tmp_path / "sums", structures)
    outputs = CompositionBaseline.fit(dataset, everything(dataset))(dataset.batch(everything(dataset)))
    assert_close(outputs.energy, torch.from_numpy(dataset.energies(everything(dataset))), atol=1e-9, rtol=0)
    assert outputs.forces is not None
    assert not outputs.forces.any()
    assert outputs.stress is not None
    assert_close(outputs.stress, 0.25 * torch.eye(3).expand(20, 3, 3))


def test_composition_takes_an_unseen_element_for_nothing(alloy: PackedDataset) -> None:
    composition = CompositionBaseline.fit(alloy, np.array([1]))
    outputs = composition(batch(structure([AL, CU], [[0.0, 0, 0], [2.0, 0, 0]])))
    assert_close(outputs.energy, torch.tensor([-2.0], dtype=torch.float64))


def test_the_nearest_neighbour_is_found_across_the_boundary() -> None:
    # Ni at 9.5 Å is 1.5 Å from Al at 1 Å through the wall; Cu is 2 Å away inside.
    crossing = structure([AL, CU, NI], [[1.0, 0, 0], [3.0, 0, 0], [9.5, 0, 0]])
    assert nearest_elements(batch(crossing)).tolist() == [NI, AL, AL]
    crossing.pbc[:] = False
    assert nearest_elements(batch(crossing)).tolist() == [CU, AL, CU]


def test_an_atom_alone_in_its_box_is_its_own_neighbour_only_if_the_box_is_periodic() -> None:
    assert nearest_elements(batch(structure([AL], [[0.0, 0, 0]]))).tolist() == [AL]
    assert nearest_elements(batch(structure([AL], [[0.0, 0, 0]], periodic=False))).tolist() == [0]


def test_neighbours_farther_than_the_first_cutoff_are_found() -> None:
    far = structure([AL, NI], [[0.0, 0, 0], [0.0, 0, 400.0]], periodic=False)
    assert nearest_elements(batch(far)).tolist() == [NI, AL]


def test_of_equally_near_neighbours_the_lowest_atomic_number_counts() -> None:
    for first, second in ((CU, NI), (NI, CU)):
        tie = structure([AL, first, second], [[5.0, 0, 0], [7.0, 0, 0], [3.0, 0, 0]])
        assert nearest_elements(batch(tie)).tolist()[0] == NI


@pytest.mark.parametrize("periodic", [True, False])
def test_a_search_that_finds_no_neighbour_ends(monkeypatch: pytest.MonkeyPatch, periodic: bool) -> None:
    cutoffs = []

    def blind(positions: object, cell: object, pbc: object, graph: Graph) -> tuple[np.ndarray, np.ndarray]:
        cutoffs.append(graph.cutoff)
        assert len(cutoffs) < 20, "the search goes on for ever"
        return np.zeros((2, 0), np.int64), np.zeros((0, 3), np.int32)

    monkeypatch.setattr("matscale.core.data.neighbors.neighbors", blind)
    two = structure([AL, NI], [[0.0, 0, 0], [0, 0, 9.9]], periodic=periodic)
    with pytest.raises(DataError, match=r"no neighbour within 14 Å, though one must lie within (10|9\.9) Å.*Remove"):
        nearest_elements(batch(two))
    assert cutoffs == [3.5, 7.0, 14.0]


def test_nearest_does_not_depend_on_the_company_in_a_batch() -> None:
    one, two = structure([AL], [[0.0, 0, 0]], periodic=False), structure([NI, CU], [[0.0, 0, 0], [1.0, 0, 0]])
    assert nearest_elements(batch(one, two, one)).tolist() == [0, CU, NI, 0]


def test_nearest_uses_the_longer_key_where_it_was_seen(alloy: PackedDataset) -> None:
    nearest = NearestBaseline.fit(alloy, everything(alloy))
    outputs = nearest(alloy.batch(np.array([0]), dtype=torch.float64))
    # (Al, Ni) and (Ni, Al) occur in the first structure only: it gets its own labels back.
    assert_close(outputs.energy, torch.tensor([-8.0], dtype=torch.float64))
    assert_close(outputs.forces, torch.tensor([[0.0, 0, 3], [0, 0, -1]], dtype=torch.float64))
    assert_close(outputs.stress, 0.4 * torch.eye(3, dtype=torch.float64)[None])


def test_nearest_averages_over_the_atoms_of_a_key(alloy: PackedDataset) -> None:
    nearest = NearestBaseline.fit(alloy, everything(alloy))
    outputs = nearest(batch(structure([AL, AL], [[1.0, 1, 1], [1, 1, 3]])))
    # (Al, Al): energies per atom −2, −3, −3; forces and stress from the lone atom only, the others have none.
    assert_close(outputs.energy, torch.tensor([2 * -8.0 / 3], dtype=torch.float64))
    assert_close(outputs.forces, torch.tensor([[1.0, 0, 0], [1, 0, 0]], dtype=torch.float64))
    assert_close(outputs.stress, -0.2 * torch.eye(3, dtype=torch.float64)[None])


def test_nearest_backs_off_to_the_element_and_then_to_nothing(alloy: PackedDataset) -> None:
    nearest = NearestBaseline.fit(alloy, everything(alloy))
    outputs = nearest(batch(structure([AL, CU], [[1.0, 1, 1], [1, 1, 3]])))
    assert_close(outputs.energy, torch.tensor([(-4 - 2 - 3 - 3) / 4], dtype=torch.float64))  # (Al) + nothing for Cu
    assert_close(outputs.forces, torch.tensor([[0.5, 0, 1.5], [0, 0, 0]], dtype=torch.float64))


def test_nearest_backs_off_label_by_label(alloy: PackedDataset) -> None:
    nearest = NearestBaseline.fit(alloy, everything(alloy))
    outputs = nearest(batch(structure([NI, NI], [[1.0, 1, 1], [1, 1, 3]])))
    # (Ni, Ni) was seen with forces and stress, not with an energy: that comes from (Ni), −4 eV per atom.
    assert_close(outputs.energy, torch.tensor([-8.0], dtype=torch.float64))
    assert_close(outputs.stress, 0.2 * torch.eye(3, dtype=torch.float64)[None])


def test_nearest_does_not_depend_on_the_order_of_the_atoms(alloy: PackedDataset, rng: np.random.Generator) -> None:
    nearest = NearestBaseline.fit(alloy, everything(alloy))
    numbers, positions = rng.choice([AL, NI], 12), rng.random((12, 3)) * 10
    order = rng.permutation(12)
    still = nearest(batch(structure(numbers.tolist(), positions.tolist())))
    shuffled = nearest(batch(structure(numbers[order].tolist(), positions[order].tolist())))
    assert still.forces is not None
    assert still.forces.abs().sum() > 0
    assert_close(shuffled.energy, still.energy)
    assert_close(shuffled.forces, still.forces[torch.from_numpy(order)])


@pytest.mark.parametrize("name", BASELINES)
def test_float32_batches_give_the_same_predictions(name: str, alloy: PackedDataset) -> None:
    baseline = fit_baselines(alloy, everything(alloy))[name]
    wide = baseline(alloy.batch(everything(alloy), dtype=torch.float64))
    narrow = baseline(alloy.batch(everything(alloy), dtype=torch.float32))
    assert narrow.energy.dtype == torch.float64
    assert narrow.forces is not None
    assert narrow.forces.dtype == torch.float32
    for a, b in ((wide.energy, narrow.energy), (wide.forces, narrow.forces), (wide.stress, narrow.stress)):
        assert_close(a, b, check_dtype=False)


def test_baselines_survive_json_to_the_last_bit(alloy: PackedDataset) -> None:
    fitted = fit_baselines(alloy, everything(alloy))
    again = parse_baselines(json.loads(json.dumps(plain_baselines(fitted))))
    assert list(again) == list(BASELINES)
    data = alloy.batch(everything(alloy), dtype=torch.float64)
    for name, baseline in fitted.items():
        before, after = baseline(data), again[name](data)
        for label in ("energy", "forces", "stress"):
            assert torch.equal(getattr(before, label), getattr(after, label)), (name, label)


def test_baselines_do_not_depend_on_the_order_of_the_training_part(alloys: PackedDataset) -> None:
    order = np.random.default_rng(0).permutation(len(alloys))
    assert plain_baselines(fit_baselines(alloys, order)) == plain_baselines(fit_baselines(alloys, everything(alloys)))


def test_an_unknown_baseline_is_answered_with_the_nearest(alloy: PackedDataset) -> None:
    with pytest.raises(DataError, match="Did you mean 'nearest'"):
        parse_baselines({"nearst": {}})


def test_baselines_need_a_training_part(alloy: PackedDataset) -> None:
    with pytest.raises(DataError, match="training part is empty"):
        fit_baselines(alloy, np.array([], dtype=np.int64))


def test_baselines_go_through_the_evaluation_of_models(alloy: PackedDataset) -> None:
    fitted = fit_baselines(alloy, everything(alloy))
    metrics = evaluate_baselines(fitted, passes(alloy, np.array([0, 1])))
    assert metrics["zero"]["energy_mae"] == pytest.approx((8 / 2 + 2 / 1) / 2)
    assert metrics["zero"]["forces_mae"] == pytest.approx(5 / 9)
    assert metrics["zero"]["stress_mae"] == pytest.approx((3 * 0.4 + 3 * 0.1) / 12)
    # OMat24's loss of predicting nothing: 2.5 |E|/N + 20 ‖F‖ + 5 isotropic + 5 anisotropic
    assert metrics["zero"]["loss"] == pytest.approx(2.5 * 3 + 20 * 5 / 3 + 5 * 1.5 / 12)
    assert metrics["nearest"]["loss"] < metrics["mean"]["loss"] < metrics["zero"]["loss"]


def test_data_without_a_kind_of_label_give_predictions_of_nothing_for_it(tmp_path: Path) -> None:
    only_energy = pack(tmp_path / "energies", [structure([AL, NI], [[0.0, 0, 0], [2, 0, 0]], energy=-1.0)])
    for baseline in fit_baselines(only_energy, np.array([0])).values():
        outputs = baseline(only_energy.batch(np.array([0])))
        assert outputs.forces is not None
        assert not outputs.forces.any()
        assert outputs.stress is not None
        assert not outputs.stress.any()
