"""Labels are found under the names that files use, with the right sign, and never by guessing."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from matscale.core.data.sources.labels import Keys, Unusable, attach
from matscale.core.data.sources.reader import from_ase
from matscale.core.data.structure import Structure, full_to_voigt
from matscale.core.errors import ConfigError, DataError

STRESS = np.array([[0.01, 0.04, 0.05], [0.04, 0.02, 0.06], [0.05, 0.06, 0.03]])


def structure(**info) -> Structure:
    positions = np.array([[0.0, 0, 0], [2, 0, 0]])
    return Structure(np.array([13, 8]), positions, np.eye(3) * 4, np.ones(3, bool), source="file 7", info=info)


@pytest.mark.parametrize("prefix", ["", "REF_", "ref_", "DFT_", "dft_", "calculator:"])
def test_labels_are_found_under_every_prefix(prefix):
    s = structure(**{f"{prefix}energy": -3.5, f"{prefix}forces": np.ones((2, 3)), f"{prefix}stress": STRESS})
    used = attach(s)
    assert s.energy == -3.5
    assert np.array_equal(s.forces, np.ones((2, 3)))
    assert np.array_equal(s.stress, STRESS)
    assert used["energy"] == f"{prefix}energy".removeprefix("calculator:")


@pytest.mark.parametrize("shape", ["3x3", "9", "6"])
@pytest.mark.parametrize("key", ["virial", "virials", "REF_virial", "dft_virials"])
def test_a_virial_is_minus_the_volume_times_the_stress(key, shape):
    virial = -64.0 * STRESS
    given = {"3x3": virial, "9": virial.reshape(9), "6": full_to_voigt(virial)}[shape]
    s = structure(**{key: given})
    attach(s)
    assert np.allclose(s.stress, STRESS, atol=1e-15)


def test_the_stress_of_a_compressed_crystal_is_negative_however_it_is_given():
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell * 0.97, scale_atoms=True)
    atoms.calc = EMT()
    stress = atoms.get_stress()
    assert stress[:3].max() < 0
    by_stress = from_ase(atoms, "calculator")
    attach(by_stress)
    atoms.calc = None
    atoms.info["virial"] = -atoms.get_volume() * stress
    by_virial = from_ase(atoms, "virial")
    attach(by_virial)
    assert np.allclose(full_to_voigt(by_stress.stress), stress)
    assert np.allclose(by_virial.stress, by_stress.stress)


def test_two_candidates_that_disagree_are_named_with_their_values():
    with pytest.raises(
        DataError, match=r"file 7: energy .* energy = -3.5, but REF_energy = -3.6.*--key energy=REF_energy"
    ):
        attach(structure(energy=-3.5, REF_energy=-3.6))
    with pytest.raises(DataError, match="forces has two values that disagree"):
        attach(structure(**{"forces": np.ones((2, 3)), "calculator:forces": np.zeros((2, 3))}))
    with pytest.raises(DataError, match="stress has two values that disagree"):
        attach(structure(stress=STRESS, virial=64.0 * STRESS))  # the sign is wrong


def test_candidates_that_agree_are_one_label():
    s = structure(**{"energy": -3.5, "DFT_energy": -3.500001, "calculator:energy": np.array([-3.5])})
    attach(s)
    assert s.energy == -3.5


def test_a_given_key_is_the_only_one_that_counts():
    s = structure(energy=-3.5, my_energy=-9.0, forces=np.ones((2, 3)))
    assert attach(s, Keys.parse(["energy=my_energy", "forces=elsewhere"])) == {"energy": "my_energy"}
    assert s.energy == -9.0
    assert s.forces is None


@pytest.mark.parametrize(
    ("assignment", "says"), [("enrgy=x", "Did you mean 'energy'"), ("energy", "expected LABEL=KEY")]
)
def test_a_wrong_key_option_is_explained(assignment, says):
    with pytest.raises(ConfigError, match=says):
        Keys.parse([assignment])


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"forces": np.ones((3, 3))}, "wrong number of forces"),
        ({"stress": np.ones(4)}, "unreadable stress"),
        ({"stress": [[0, 1, 0], [0, 0, 0], [0, 0, 0]]}, "unreadable stress"),
        ({"energy": "n/a"}, "unreadable energy"),
        ({"energy": [1.0, 2.0]}, "unreadable energy"),
    ],
)
def test_a_label_of_the_wrong_shape_makes_a_structure_unusable(info, reason):
    with pytest.raises(Unusable) as fault:
        attach(structure(**info))
    assert fault.value.reason == reason


def test_a_virial_without_a_volume_is_unusable():
    s = structure(virial=STRESS)
    s.cell = np.zeros((3, 3))
    with pytest.raises(Unusable, match="cell volume"):
        attach(s)


def test_the_trajectory_is_taken_where_one_is_named():
    s = structure(mptrj_traj_id="mp-1")
    attach(s)
    assert s.group == "mp-1"
    s = structure(batch=12, trajectory="t")
    attach(s, Keys(group="batch"))
    assert s.group == "12"
    bare = structure()
    attach(bare)
    assert bare.group == "AlO"
    with pytest.raises(Unusable, match=r"no value 'btach'\. Did you mean 'batch'"):
        attach(structure(batch=12), Keys(group="btach"))


def test_an_infinite_label_is_attached_without_a_warning_and_refused_later():
    s = structure(stress=np.diag([np.inf, 1.0, 1.0]))
    assert attach(s) == {"stress": "stress"}
    assert np.isinf(s.stress[0, 0])
