"""Lists of pymatgen structures with VASP's results: geometry, labels and units are right, and faults have a place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.units import GPa

from matscale.core.data.sources.find import find_sources, read, reader
from matscale.core.data.sources.labels import Unusable
from matscale.core.data.sources.limits import Limits, using
from matscale.core.data.structure import Structure
from matscale.core.errors import DataError


def entry(**changes: Any) -> dict[str, Any]:
    """A skew cell with two atoms; the stress has six different components."""
    sites = [
        {"species": [{"element": "Nb", "occu": 1}], "abc": [0.0, 0.0, 0.0], "xyz": [0.0, 0.0, 0.0], "label": "Nb"},
        {"species": [{"element": "W", "occu": 1}], "abc": [0.5, 0.5, 0.25], "xyz": [2.0, 1.5, 1.0], "label": "W"},
    ]
    lattice = {"matrix": [[3.0, 0.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 4.0]], "a": 3.0, "volume": 36.0}
    structure = {"@module": "pymatgen.core.structure", "@class": "Structure", "lattice": lattice, "sites": sites}
    forces = [[0.1, -0.2, 0.3], [-0.1, 0.2, -0.3]]
    outputs = {"energy": -20.5, "forces": forces, "stress": [10.0, 20.0, 30.0, 4.0, 5.0, 6.0]}
    whole = {"_id": "5c", "params": {"e_cut": 520}, "structure": structure, "num_atoms": 2, "group": "NbW"}
    return {**whole, "outputs": outputs, **changes}


def written(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(json.dumps(entries, indent=1), encoding="utf-8")
    return path


def test_geometry_and_labels_are_those_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "NbW_SS.json", entry(), entry())
    assert [(found.name, known.name) for found, known in find_sources([tmp_path])] == [("NbW_SS.json", "pymatgen-json")]
    first, _ = read(path)
    assert first.atomic_numbers.tolist() == [41, 74]
    assert first.positions.tolist() == [[0, 0, 0], [2, 1.5, 1]]
    assert first.cell.tolist() == [[3, 0, 0], [1, 3, 0], [0, 0, 4]]
    assert first.pbc.all()
    assert (first.energy, first.info["group"]) == (-20.5, "NbW")
    assert first.forces is not None
    assert first.forces.tolist() == [[0.1, -0.2, 0.3], [-0.1, 0.2, -0.3]]


@pytest.mark.parametrize("key", ["stress", "virial_stress"])
def test_a_stress_of_vasp_is_converted_from_kbar_with_its_sign_and_order(tmp_path: Path, key: str) -> None:
    path = written(tmp_path / "a.json", entry(outputs={"energy": 0.0, key: [10.0, 20.0, 30.0, 4.0, 5.0, 6.0]}))
    (structure,) = read(path)
    assert structure.stress is not None
    kbar = [[10, 4, 6], [4, 20, 5], [6, 5, 30]]  # xx yy zz xy yz zx
    assert np.allclose(structure.stress, -0.1 * GPa * np.array(kbar), rtol=1e-12)
    assert structure.stress[0, 0] < 0  # VASP's positive stress is that of a compressed cell
    assert any("kbar" in note for note in structure.notes)


def test_a_part_of_the_file_can_be_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", *(entry(outputs={"energy": float(k)}) for k in range(5)))
    found = list(reader("pymatgen-json").read(path, 1, 3))
    assert [f.info["energy"] for f in found if isinstance(f, Structure)] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("species", "reason"),
    [
        ([{"element": "Nb", "occu": 0.5}, {"element": "W", "occu": 0.5}], "partly occupied site"),
        ([{"element": "Nb", "occu": 0.5}], "partly occupied site"),
        ([{"element": "Qq", "occu": 1}], "unknown element"),
        ([], "partly occupied site"),
        ("Nb", "unreadable"),
    ],
)
def test_a_structure_that_cannot_be_used_leaves_the_others(tmp_path: Path, species: Any, reason: str) -> None:
    broken = entry()
    broken["structure"]["sites"][1]["species"] = species
    path = written(tmp_path / "a.json", entry(), broken, entry())
    first, second, third = reader("pymatgen-json").read(path, 0, None)
    assert isinstance(first, Structure)
    assert isinstance(third, Structure)
    assert isinstance(second, Unusable)
    assert (second.reason, "structure 1" in second.detail) == (reason, True)


@pytest.mark.parametrize("end", [-1, -40, 600])
def test_a_file_that_was_cut_off_is_refused_by_its_name(tmp_path: Path, end: int) -> None:
    path = written(tmp_path / "a.json", entry(), entry())
    path.write_text(path.read_text()[:end])
    with pytest.raises(DataError, match=r"a\.json: structure \d .*Download the file again"):
        list(reader("pymatgen-json").read(path, 0, None))


def test_a_structure_beyond_the_limit_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", entry(), entry(description="x" * 5000))
    with using(Limits(structure=4000)):
        first, second = reader("pymatgen-json").read(path, 0, None)
    assert isinstance(first, Structure)
    assert isinstance(second, Unusable)
    assert second.reason == "too long"


@pytest.mark.parametrize(
    "text", ['[{"a": 1}]', "[]", '{"structure": {"@module": "pymatgen.core.structure"}}', "[1, 2]"]
)
def test_other_json_is_not_taken_for_structures(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match="no reader knows this format"):
        find_sources([tmp_path / "a.json"])
