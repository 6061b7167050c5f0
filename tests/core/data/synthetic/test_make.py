"""Datasets made from a recipe: deterministic, grouped by parent, of ordinary size."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import write

from forks import FORKS
from matscale.core.data.named import catalog
from matscale.core.data.store.packed import PackedDataset
from matscale.core.data.synthetic.families import family
from matscale.core.data.synthetic.labelers import Labeler
from matscale.core.data.synthetic.make import make
from matscale.core.data.synthetic.recipe import Recipe
from matscale.core.errors import ConfigError, DataError
from matscale.core.hosting.host import host

SMALL = Recipe(n=18, per_parent=3, max_atoms=6, elements=("Cu", "Ni"))


@pytest.fixture(autouse=True)
def _quick_workers(monkeypatch):
    """Each would import torch for itself; that workers are spawned is for test_parallel.py."""
    monkeypatch.setattr("matscale.core.parallel.multiprocessing", SimpleNamespace(get_context=lambda kind: FORKS))


@pytest.fixture
def emt() -> Labeler:
    return host().labeler("emt")


def test_the_number_of_workers_changes_nothing(emt, tmp_path):
    alone = make(SMALL, emt, tmp_path / "alone", workers=1)
    together = make(SMALL, emt, tmp_path / "together", workers=2)
    assert alone.hash == together.hash
    assert alone.n_structures == 18


def test_another_seed_gives_another_dataset(emt, tmp_path):
    one = make(SMALL.model_copy(update={"n": 3}), emt, tmp_path / "one")
    other = make(SMALL.model_copy(update={"n": 3, "seed": 1}), emt, tmp_path / "other")
    assert one.hash != other.hash


def test_a_longer_recipe_begins_with_the_shorter_one(emt):
    short, long = (SMALL.model_copy(update={"n": n}).of(emt) for n in (4, 18))
    first, last = (family(recipe, emt, 1) for recipe in (long, short))
    assert (len(first), len(last)) == (3, 1)
    np.testing.assert_array_equal(first[0].positions, last[0].positions)


def test_structures_of_one_alloy_share_a_group(emt, tmp_path):
    make(SMALL, emt, tmp_path / "data")
    dataset = PackedDataset.open(tmp_path / "data")
    of_parent = dataset.groups.reshape(6, 3)
    assert (of_parent == of_parent[:, :1]).all()
    assert len(set(dataset.groups.tolist())) > 3
    l12 = family(SMALL.of(emt), emt, 3)
    assert {s.group for s in l12} in ({"l12-Cu3Ni"}, {"l12-CuNi3"})


def test_the_manifest_says_who_labelled_and_what_was_made(emt, tmp_path):
    manifest = make(SMALL, emt, tmp_path / "data")
    assert manifest.labels_by is not None
    assert manifest.labels_by.startswith("surrogate: emt (ase ")
    assert [(s.path, s.structures) for s in manifest.sources] == [(name, 3) for name in SMALL.prototypes]
    assert manifest.labels == {"energy": 18, "forces": 18, "stress": 18}
    assert "per_parent = 3" in (tmp_path / "data" / "recipe.toml").read_text(encoding="utf-8")


def test_labels_are_of_ordinary_size(emt):
    recipe = Recipe(n=120).of(emt)
    made = [s for k in range(6) for s in family(recipe, emt, k)]
    forces = np.concatenate([s.forces for s in made if len(s) > 1])
    stress = np.array([s.stress for s in made])
    assert 0.5 < np.sqrt(np.mean(forces**2)) < 3  # eV/Å
    assert 0.01 < np.sqrt(np.mean(stress**2)) < 0.2  # eV/Å³: 2 to 30 GPa
    assert np.abs(forces).max() < recipe.forces_max


def test_stored_labels_are_those_of_the_stored_positions(emt):
    for structure in family(SMALL.of(emt), emt, 0):
        atoms = structure.to_ase()
        atoms.calc = emt.calculator()
        assert atoms.get_potential_energy() == pytest.approx(structure.energy, abs=6e-7)
        np.testing.assert_allclose(atoms.get_forces(), structure.forces, atol=6e-7)


def test_limits_that_nothing_can_meet_end_with_advice(emt, tmp_path):
    recipe = SMALL.model_copy(update={"stress_max": 1e-9, "prototypes": ("random",)})
    with pytest.raises(DataError, match="were unusable"):
        make(recipe, emt, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_worker_hands_its_error_on(emt, tmp_path):
    recipe = SMALL.model_copy(update={"stress_max": 1e-9, "prototypes": ("random",)})
    with pytest.raises(DataError, match="were unusable"):
        make(recipe, emt, tmp_path / "data", workers=2)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(emt, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").touch()
    with pytest.raises(DataError, match="exists already"):
        make(SMALL, emt, tmp_path / "data")
    assert (tmp_path / "data" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prototypes": ("fccc",)}, "Did you mean 'fcc'"),
        ({"elements": ("Cu", "Fe")}, "has no element 'Fe'"),
        ({"elements": ("Cu",), "prototypes": ("l12",)}, "orders two elements"),
        ({"dynamics": 0.8, "strained": 0.3}, "above 1"),
        ({"prototypes": ()}, "needs prototypes"),
        ({"rattle_temperatures": ()}, "at least one rattle temperature"),
        ({"files": ("nowhere.xyz",)}, "no such file"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(emt, wrong, message):
    with pytest.raises(ConfigError, match=message):
        SMALL.model_copy(update=wrong).of(emt)


def test_a_labeler_of_any_element_wants_to_be_told_which():
    anything = Labeler("any", "", "", calculator=object, tag="any-1")
    with pytest.raises(ConfigError, match="choose some"):
        Recipe().of(anything)
    assert Recipe(elements=("Fe",), prototypes=("bcc",)).of(anything).elements == ("Fe",)


def test_the_embedded_recipe_makes_four_thousand():
    assert catalog.EMBEDDED["emt"].n == 4000


def test_structures_from_a_file_can_be_the_parents(emt, tmp_path):
    parents = [bulk("Cu", cubic=True), bulk("NiAl", "cesiumchloride", a=2.9), molecule("H2")]
    parents[2].set_atomic_numbers([29, 47])  # a dimer, not periodic
    parents[2].set_distance(0, 1, 2.4)
    write(tmp_path / "parents.extxyz", parents)
    recipe = Recipe(n=24, per_parent=6, files=(str(tmp_path / "parents.extxyz"),))
    alone = make(recipe, emt, tmp_path / "alone")
    together = make(recipe, emt, tmp_path / "together", workers=2)
    assert alone.hash == together.hash
    assert [(s.format, s.structures) for s in alone.sources] == [("file", 24)]
    made = list(PackedDataset.open(tmp_path / "alone"))
    assert {s.formula for s in made} == {"Cu", "AlNi", "AgCu"}  # more parents are wanted than there are: again in turn
    assert all((s.stress is None) == (s.formula == "AgCu") for s in made)


def test_parents_from_a_file_must_be_of_elements_that_the_labeler_knows(emt, tmp_path):
    write(tmp_path / "iron.extxyz", bulk("Fe"))
    with pytest.raises(ConfigError, match="has no element 'Fe'"):
        make(Recipe(n=2, files=(str(tmp_path / "iron.extxyz"),)), emt, tmp_path / "data")
