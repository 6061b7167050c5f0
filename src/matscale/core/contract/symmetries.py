"""Checks of claimed symmetries: a structure is transformed, and the edges of the new structure are searched."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from matscale.core.contract.check import claiming, register
from matscale.core.contract.structures import crystal, metal, molecule, slab, supercell, with_positions
from matscale.core.contract.subject import Subject, require_equal
from matscale.core.data.structure import Structure
from matscale.core.model.outputs import Outputs


def _structures() -> list[Structure]:
    return [crystal(), metal(), slab(), molecule()]


@register("permutation", claiming("permutation"))
def permutation(subject: Subject) -> None:
    """Renumbering the atoms renumbers the forces and changes nothing else."""
    generator = np.random.default_rng(0)
    for original in (crystal(), slab(), molecule()):
        order = generator.permutation(len(original))
        while (order == np.arange(len(original))).all():
            order = generator.permutation(len(original))
        renumbered = replace(
            original, atomic_numbers=original.atomic_numbers[order], positions=original.positions[order]
        )
        expected = subject.predict(original)
        assert expected.forces is not None
        expected = replace(expected, forces=expected.forces[order.tolist()])
        subject.require_same(subject.predict(renumbered), expected, f"atoms of {original.formula} renumbered")


@register("translation", claiming("translation"))
def translation(subject: Subject) -> None:
    """Moving all atoms together changes nothing."""
    for original in _structures():
        moved = with_positions(original, original.positions + np.array([1.37, -0.71, 2.93]))
        what = f"{original.formula} moved as a whole"
        subject.require_same(subject.predict(moved), subject.predict(original), what)


@register("periodic", claiming("periodic"))
def periodic(subject: Subject) -> None:
    """Moving one atom by a lattice vector, or choosing another cell of the same crystal, changes nothing."""
    for original in (crystal(), metal(), slab()):
        expected = subject.predict(original)
        shift = np.zeros((len(original), 3))
        shift[-1] = np.array([1, -2, 3]) * original.pbc
        moved = with_positions(original, original.positions + shift @ original.cell)
        what = f"one atom of {original.formula} moved by lattice vectors"
        subject.require_same(subject.predict(moved), expected, what)
        other = replace(original, cell=np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]]) @ original.cell)
        what = f"another cell of {original.formula}"
        subject.require_same(subject.predict(other), expected, what)


@register("rotation", claiming("rotation"))
def rotation(subject: Subject) -> None:
    """Energy is invariant; forces and stress turn with the structure."""
    turn, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))
    _turned(subject, turn * np.linalg.det(turn), "rotated")


@register("reflection", claiming("reflection"))
def reflection(subject: Subject) -> None:
    """Energy is invariant for mirror images; forces and stress are mirrored."""
    normal = np.array([0.36, -0.48, 0.8])
    _turned(subject, np.eye(3) - 2 * np.outer(normal, normal), "reflected")


def _turned(subject: Subject, matrix: np.ndarray, what: str) -> None:
    m = torch.from_numpy(matrix)
    for original in _structures():
        turned = replace(original, positions=original.positions @ matrix.T, cell=original.cell @ matrix.T)
        still = subject.predict(original)
        assert still.forces is not None
        expected = Outputs(
            energy=still.energy,
            forces=still.forces @ m.T,
            stress=None if still.stress is None else m @ still.stress @ m.T,
        )
        tolerance = max(subject.tolerance, subject.architecture.rotation_tolerance)
        subject.require_same(subject.predict(turned), expected, f"{original.formula} {what}", tolerance)


@register("extensive", claiming("extensive"))
def extensive(subject: Subject) -> None:
    """A supercell has energy in proportion to its size, the same forces on each copy and the same stress."""
    for original, repeats in ((crystal(), (2, 1, 1)), (metal(), (2, 2, 3))):
        copies = int(np.prod(repeats))
        one, many = subject.predict(original), subject.predict(supercell(original, repeats))
        assert one.forces is not None
        expected = replace(one, energy=copies * one.energy, forces=one.forces.repeat(copies, 1))
        what = f"{'×'.join(map(str, repeats))} supercell of {original.formula}"
        subject.require_same(many, expected, what)


def _no_cutoff(subject: Subject) -> str | None:
    has_edges = subject.architecture.graph(subject.config).has_edges
    return claiming("smooth")(subject) or (None if has_edges else "has no cutoff that a neighbour could cross")


@register("smooth", _no_cutoff)
def smooth(subject: Subject) -> None:
    """Energy and forces do not jump where a neighbour enters or leaves the neighbour list."""
    for before, after in _crossings(subject, subject.architecture.graph(subject.config).cutoff):
        a, b = subject.predict(before), subject.predict(after)
        assert a.forces is not None
        assert b.forces is not None
        require_equal(b.energy, a.energy, 1e-6, "energy where a neighbour enters or leaves")
        require_equal(b.forces, a.forces, 1e-5, "forces where a neighbour enters or leaves")


def _crossings(subject: Subject, cutoff: float) -> list[tuple[Structure, Structure]]:
    """Find pairs of structures that differ by 10⁻⁹ Å but have different edges.

    In between, an atom crosses the cutoff, or becomes nearer than another neighbour.
    """
    inside = molecule()
    leaving = with_positions(inside, inside.positions + np.eye(5)[:, [4]] * np.array([1.0, 0.3, 0.2]) * (cutoff + 5))
    moved = with_positions(crystal(), crystal().positions + np.eye(4)[:, [2]] * np.array([0.9, -0.7, 0.8]))
    found = []
    for start, end in ((inside, leaving), (crystal(), moved)):
        path = [_between(start, end, t) for t in np.linspace(0, 1, 40)]
        changes = [(a, b) for a, b in pairwise(path) if not _same_edges(subject, a, b)]
        found += [_bisect(subject, a, b) for a, b in changes[:4]]
    assert found, "no neighbour enters or leaves on the paths of this check"
    return found


def _between(start: Structure, end: Structure, t: float) -> Structure:
    return with_positions(start, (1 - t) * start.positions + t * end.positions)


def _same_edges(subject: Subject, a: Structure, b: Structure) -> bool:
    x, y = subject.batch(a), subject.batch(b)
    assert x.edge_index is not None
    assert y.edge_index is not None
    assert x.edge_shift is not None
    assert y.edge_shift is not None
    return torch.equal(x.edge_index, y.edge_index) and torch.equal(x.edge_shift, y.edge_shift)


def _bisect(subject: Subject, a: Structure, b: Structure) -> tuple[Structure, Structure]:
    while np.abs(b.positions - a.positions).max() > 1e-9:
        middle = _between(a, b, 0.5)
        a, b = (middle, b) if _same_edges(subject, a, middle) else (a, middle)
    return a, b
