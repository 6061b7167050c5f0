"""Reference energies: known ones are recovered, and a fit that cannot be unique says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from matscale.core.data import references as module
from matscale.core.data.references import References, fit_references, scales
from matscale.core.errors import DataError

KNOWN = {8: -4.9, 13: -3.7, 29: -4.1, 79: -3.2}


def labelled(structures, noise=0.0, rng=None):
    for s in structures:
        exact = sum(KNOWN[int(z)] for z in s.atomic_numbers)
        s.energy = exact + (noise * len(s) * rng.normal() if noise else 0.0)
    return structures


@pytest.mark.parametrize("chunk", [7, 8192])
def test_known_references_are_recovered(structures, pack_into, monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    fitted = fit_references(pack_into(labelled(structures(200))), np.arange(200))
    assert fitted.elements == (8, 13, 29, 79)
    for z, energy in KNOWN.items():
        assert fitted.values[z] == pytest.approx(energy, abs=1e-10)
    assert fitted.rank == 4
    assert fitted.is_determined
    assert fitted.residual_rms < 1e-10
    assert fitted.unseen([8, 26, 3]) == (3, 26)


def test_what_composition_does_not_explain_is_the_residual(structures, pack_into, rng):
    dataset = pack_into(labelled(structures(2000), noise=0.05, rng=rng))
    fitted = fit_references(dataset, np.arange(2000))
    assert fitted.residual_rms == pytest.approx(0.05, rel=0.1)
    sizes = scales(dataset, np.arange(2000), fitted)
    assert sizes["energy_per_atom"] == pytest.approx(0.05, rel=0.1)
    assert sizes["forces"] == pytest.approx(1.0, rel=0.05)


def test_only_the_structures_that_were_named_are_used(structures, pack_into):
    given = labelled(structures(100))
    for s in given[50:]:
        s.energy = 1e6
    fitted = fit_references(pack_into(given), np.arange(50))
    assert fitted.values[79] == pytest.approx(KNOWN[79], abs=1e-9)


def test_a_fixed_composition_leaves_the_rank_deficient_and_the_energy_right(structures, pack_into):
    oxide = [s for s in structures(300, elements=(8, 13)) if len(s) > 1]
    for s in oxide:
        s.atomic_numbers = np.array(([8, 13] * len(s))[: 2 * (len(s) // 2)])
        s.positions, s.forces = s.positions[: len(s)], s.forces[: len(s)]
        s.energy = -4.3 * len(s)
    dataset = pack_into(oxide)
    fitted = fit_references(dataset, np.arange(len(oxide)))
    assert fitted.rank == 1
    assert not fitted.is_determined
    assert fitted.energy(dataset.composition([0]))[0] == pytest.approx(oxide[0].energy, abs=1e-9)


def test_structures_without_energy_are_left_out(structures, pack_into):
    given = labelled(structures(50))
    given[10:] = [replace(s, energy=None) for s in given[10:]]
    assert fit_references(pack_into(given), np.arange(50)).n_structures == 10
    with pytest.raises(DataError, match="has an energy, so no reference"):
        fit_references(pack_into(given, "again"), np.arange(10, 50))


def test_references_survive_json(structures, pack_into):
    fitted = fit_references(pack_into(labelled(structures(50))), np.arange(50))
    again = References.from_json(fitted.to_json())
    assert np.array_equal(again.values, fitted.values)
    assert (again.elements, again.rank, again.residual_rms) == (fitted.elements, fitted.rank, fitted.residual_rms)
    assert '"Al"' in fitted.to_json()


@pytest.mark.parametrize("text", ["", "[]", '{"references": {"Xx": 1}}', '{"references": 3}'])
def test_something_else_than_references_is_refused(text):
    with pytest.raises(DataError, match="reference energies"):
        References.from_json(text)


def test_a_label_that_nobody_has_gets_scale_one(structures, pack_into):
    dataset = pack_into([replace(s, forces=None, stress=None) for s in labelled(structures(20))])
    sizes = scales(dataset, np.arange(20), fit_references(dataset, np.arange(20)))
    assert sizes["forces"] == sizes["stress"] == 1.0
