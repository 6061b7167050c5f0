"""Filters of structures (`--filter`), in a grammar of two forms.

    NAME OP NUMBER            forces_max<50, n_atoms<=200, energy_per_atom < 0
    elements [not] in A,B,C   all elements are among these; with `not`, none is

OP is one of < <= > >= == !=. A structure without the quantity that a filter names is kept.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from matscale.core.data.structure import Structure
from matscale.core.errors import ConfigError, did_you_mean

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}

QUANTITIES: dict[str, tuple[str, Callable[[Structure], float | None]]] = {
    "n_atoms": ("atoms of the structure", len),
    "n_elements": ("different elements", lambda s: len(set(s.atomic_numbers.tolist()))),
    "volume_per_atom": ("Å³", lambda s: float(abs(np.linalg.det(s.cell))) / len(s) if s.pbc.all() else None),
    "energy_per_atom": ("eV", lambda s: None if s.energy is None else s.energy / len(s)),
    "forces_max": ("eV/Å, largest norm", lambda s: None if s.forces is None else _largest_norm(s)),
    "config_weight": ("weight of the structure, where the file has one", lambda s: _given(s, "config_weight")),
    "weight": ("the same under another name", lambda s: _given(s, "weight")),
    "stress_max": ("eV/Å³, largest component", lambda s: None if s.stress is None else float(np.abs(s.stress).max())),
}
"""Quantities that a filter can name, each with (unit or meaning, function that measures a structure).

The function returns None if the structure does not have the quantity.
"""


def _given(structure: Structure, name: str) -> float | None:
    """Find the number that the file gives for the structure under `name`, in upper or lower case.

    None if there is no such number.
    """
    value = next((value for key, value in structure.info.items() if str(key).lower() == name), None)
    try:
        return None if value is None or np.size(value) != 1 else float(np.reshape(value, -1)[0])
    except (ValueError, TypeError):
        return None


def _largest_norm(structure: Structure) -> float:
    assert structure.forces is not None
    return float(np.sqrt((structure.forces**2).sum(axis=1).max()))


@dataclass(frozen=True)
class Filter:
    """Condition that structures must meet.

    `complaint` is a function that says how a structure violates the condition, or returns None for a structure that
    meets the condition.
    """

    text: str
    complaint: Callable[[Structure], str | None]


def parse(texts: Iterable[str]) -> list[Filter]:
    """Parse the texts of filters. Raises ConfigError for an invalid text, and suggests the nearest valid name.

    >>> [one.text for one in parse(["forces_max<50", "elements in {Al, O}"])]
    ['forces_max<50', 'elements in Al,O']
    """
    return [_elements(text) or _comparison(text) for text in texts]


def _comparison(text: str) -> Filter:
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|==|!=|<|>)\s*([^\s<>=!]+)\s*", text)
    if match is None:
        raise ConfigError(
            f"--filter {text!r}: expected NAME OP NUMBER such as 'forces_max<50', or 'elements in Al,O'. "
            f"Names: {', '.join(QUANTITIES)}; operators: {' '.join(OPERATORS)}."
        )
    name, op, number = match.groups()
    if name not in QUANTITIES:
        raise ConfigError(f"--filter {text!r}: no quantity {name!r}. {did_you_mean(name, [*QUANTITIES, 'elements'])}")
    try:
        limit = float(number)
    except ValueError:
        raise ConfigError(f"--filter {text!r}: {number!r} is not a number.") from None
    measure, compare = QUANTITIES[name][1], OPERATORS[op]

    def complaint(structure: Structure) -> str | None:
        value = measure(structure)
        return None if value is None or compare(value, limit) else f"{name} = {value:.6g}"

    return Filter(f"{name}{op}{number}", complaint)


def _elements(text: str) -> Filter | None:
    match = re.fullmatch(r"\s*elements\s+(not\s+)?in\s+\{?([\w\s,]*?)\}?\s*", text)
    if match is None:
        return None
    from ase.data import atomic_numbers, chemical_symbols  # start-up: ase

    symbols = re.split(r"[\s,]+", match.group(2).strip())
    known = {s: z for s, z in atomic_numbers.items() if z > 0}
    for symbol in symbols:
        if symbol not in known:
            raise ConfigError(f"--filter {text!r}: no element {symbol!r}. {did_you_mean(symbol, known)}")
    listed, negated = {known[s] for s in symbols}, bool(match.group(1))

    def complaint(structure: Structure) -> str | None:
        present = set(structure.atomic_numbers.tolist())
        wrong = present & listed if negated else present - listed
        return f"it contains {', '.join(chemical_symbols[z] for z in sorted(wrong))}" if wrong else None

    return Filter(f"elements {'not ' if negated else ''}in {','.join(symbols)}", complaint)
