"""Find energy, forces and stress among the many names under which files keep them.

A label is looked up under the names `energy`, `forces`, `stress`, `virial` and `virials`, with or without one of the
prefixes `REF_`, `ref_`, `DFT_`, `dft_`. The places are the per-structure values, the per-atom arrays and the results of
the attached calculator. The key under which a label was found is recorded. If two values of a label disagree, this is
an error, since a choice would be a guess. If the user gives the key of a label, only this key counts.

    stress = −virial / V          [eV/Å³], tension positive: ASE's sign

Stress and virial may have 3×3, 9 (row by row) or 6 components (Voigt order xx yy zz yz xz xy). If the file states a
unit (`matscale.core.data.sources.units`), the label is converted to eV and Å; a label in an unknown unit is refused. A
label with NaN in any component counts as missing. Decisions are recorded in `Structure.notes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.arguments import assigned
from matscale.core.data.sources import units
from matscale.core.data.sources.remarks import hint, remarks
from matscale.core.data.structure import CALCULATOR, Structure, voigt_to_full
from matscale.core.errors import ConfigError, DataError, did_you_mean

PREFIXES = ("", "REF_", "ref_", "DFT_", "dft_")
NAMES = {"energy": ("energy",), "forces": ("forces",), "stress": ("stress", "virial", "virials")}
__all__ = ["CALCULATOR", "Keys", "Unusable", "attach"]
TRAJECTORIES = ("trajectory", "trajectory_id", "traj_id", "mptrj_traj_id")
"""Keys under which the name of the trajectory is looked up, unless the user gives a key for groups."""
_SEARCHED = {
    label: [place + prefix + name for name in names for prefix in PREFIXES for place in ("", CALCULATOR)]
    for label, names in NAMES.items()
}
_LABEL_OF_KEY = {key: label for label, keys in _SEARCHED.items() for key in keys} | {
    place + part: label
    for part, label in (("free_energy", "energy"), ("energies", "energy"), ("stresses", "stress"))
    for place in ("", CALCULATOR)
}
TOLERANCE = {"energy": 1e-4, "forces": 1e-4, "stress": 1e-5}
"""Largest difference [eV, eV/Å, eV/Å³] at which two values of a label count as equal.

Files may hold the same label twice, written with different precision.
"""


class Unusable(Exception):
    """Error for a structure that has to be left out.

    `reason` is the kind of fault in a few words, `detail` the fault of this structure.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Keys:
    """Keys and units of labels that the user gave.

    A key that is None is looked up by the rules at the top of this module.

    >>> Keys.parse(["energy=my_energy"], units=["energy=kcal/mol"]).units
    (('energy', 'kcal/mol'),)
    """

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    group: str | None = None
    """Key of the value that names the group of a structure; a split keeps each group together."""
    units: tuple[tuple[str, str], ...] = ()
    """Units that the user gave, as (label or "length", unit). They override the units in the file."""

    @classmethod
    def parse(
        cls,
        assignments: Iterable[str],
        group: str | None = None,
        units: Iterable[str] = (),
    ) -> Keys:
        """Parse `assignments` such as "energy=my_energy", and `units` such as "energy=kcal/mol".

        Raises ConfigError for an unknown label, and suggests the nearest one.
        """
        given: dict[str, str] = {}
        for assignment in assignments:
            label, key = assigned(assignment, "--key", "LABEL=KEY", "energy=REF_energy", "label", NAMES)
            given[label] = key
        return cls(**given, group=group, units=tuple(map(_unit, units)))


def _unit(assignment: str) -> tuple[str, str]:
    label, unit = assigned(assignment, "--unit", "LABEL=UNIT", "energy=kcal/mol", "label", units.DIMENSIONS)
    try:
        units.factor(label, unit)
    except DataError as error:
        raise ConfigError(f"--unit {assignment}: {error}") from None
    return label, unit


@np.errstate(invalid="ignore", over="ignore", divide="ignore")  # what is not finite is refused later, by name
def attach(structure: Structure, keys: Keys = Keys()) -> dict[str, str]:
    """Fill energy, forces, stress and trajectory of `structure` from its `info`. Returns the key of each label found.

    Labels that the reader has already set are kept. Raises Unusable for a label of the wrong shape, and DataError for
    two values of a label that disagree.

    >>> from ase.build import bulk
    >>> from matscale.core.data.sources.reader import from_ase
    >>> atoms = bulk("Cu")
    >>> atoms.info["REF_energy"] = -3.7
    >>> structure = from_ase(atoms, "copper")
    >>> attach(structure), structure.energy
    ({'energy': 'REF_energy'}, -3.7)
    """
    used, stated = {}, _units(structure, keys)
    _convert_lengths(structure, stated)
    for label in NAMES:
        if getattr(structure, label) is not None:
            used[label] = "reader"
            continue
        found = [(key, _value(structure, label, key, stated)) for key in _candidates(structure.info, label, keys)]
        numbers = [(key, value) for key, value in found if not np.isnan(value).any()]
        if numbers:
            used[label] = numbers[0][0].removeprefix(CALCULATOR)
            setattr(structure, label, numbers[0][1])
            for other in numbers[1:]:
                _agree(structure, label, numbers[0], other)
        elif found:
            structure.notes.append(f"{found[0][0].removeprefix(CALCULATOR)}: {MISSING}")
        elif getattr(keys, label) is None and (advice := hint(structure, label)):
            structure.notes.append(advice)
    structure.notes += remarks(structure, used)
    _name_trajectory(structure, keys.group)
    return used


def to_our_units(structure: Structure, keys: Keys = Keys()) -> None:
    """Convert positions, cell and some values in `info` to eV and Å, if the file states other units.

    The converted values in `info` are further energies and stresses, such as `free_energy`. `energy`, `forces` and
    `stress` are not converted: this function is for structures whose labels are replaced by predictions. Keys that
    stated a unit are renamed to `source_...`. Raises DataError for an unknown unit, and if the file states units of
    some labels, but not of one that needs it.
    """
    stated = _units(structure, keys)
    if not stated:
        return
    per_atom = {label: unit.removesuffix("/atom") for label, unit in stated.items()}
    before = len(structure.notes)
    _convert_lengths(structure, stated)
    for key, value in list(structure.info.items()):
        name, label = key.removeprefix(CALCULATOR), _LABEL_OF_KEY.get(key)
        if label is not None and name not in NAMES and np.asarray(value).dtype.kind in "iuf":
            factor = _unit_factor(structure, label, name, per_atom if name == "energies" else stated)
            structure.info[key] = np.asarray(value, dtype=np.float64) * factor
    if len(structure.notes) > before:  # otherwise all is in eV and Å, and statements of units may stay
        for key in [key for key, value in structure.info.items() if units.is_statement(key, value)]:
            structure.info[f"source_{key}"] = str(structure.info.pop(key))


MISSING = "NaN in a component, so this label of the structure counts as missing"


def _units(structure: Structure, keys: Keys) -> dict[str, str]:
    """Units that the file and the user state.

    Raises DataError that names the structure if a statement in the file cannot be understood.
    """
    given = dict(keys.units)
    try:
        return units.stated(structure.metadata, structure.info) | given
    except DataError as error:
        if given:
            return given
        raise DataError(f"{structure.source}: {error}") from None


def _convert_lengths(structure: Structure, stated: dict[str, str]) -> None:
    if "length" in stated:
        factor = _factor(structure, "length", stated["length"], "positions and cell")
        if factor != 1:
            structure.positions, structure.cell = structure.positions * factor, structure.cell * factor


def _factor(structure: Structure, label: str, unit: str, key: str) -> float:
    """Factor from `unit` to matscale's unit; a conversion is added to the notes of the structure."""
    try:
        factor = units.factor(label, unit, len(structure))
    except DataError as error:
        raise DataError(f"{structure.source}: {key}: {error}") from None
    if abs(factor - 1) < 1e-12:
        return 1.0
    by = "by the number of atoms" if unit.endswith(("/atom", "/atoms")) and label == "energy" else f"by {factor:.8g}"
    structure.notes.append(f"{key}: {unit} converted to {units.INSIDE[label]} ({by})")
    return factor


def _candidates(info: Mapping[str, Any], label: str, keys: Keys) -> list[str]:
    wanted = getattr(keys, label)
    if wanted is not None:
        return [key for key in (wanted, CALCULATOR + wanted) if info.get(key) is not None][:1]
    return [key for key in _SEARCHED[label] if info.get(key) is not None]


def _value(structure: Structure, label: str, key: str, stated: dict[str, str]) -> Any:
    given = structure.info[key]
    try:
        value = np.asarray(given, dtype=np.float64)
        if np.asarray(given).dtype.kind == "b":  # a key without a value is true
            raise ValueError
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise Unusable(f"unreadable {label}", f"{key} = {str(given)[:60]!r} is not numeric") from None
    if stated:
        value = value * _unit_factor(structure, label, key.removeprefix(CALCULATOR), stated)
    if label == "energy":
        if value.size != 1:
            raise Unusable("unreadable energy", f"{key} has {value.size} values, not one")
        return float(value.reshape(-1)[0])
    if label == "forces":
        if value.size != 3 * len(structure):
            raise Unusable("wrong number of forces", f"{key} has shape {value.shape} for {len(structure)} atoms")
        return value.reshape(-1, 3)
    tensor = _tensor(value, key)
    return _from_virial(structure, tensor, key) if "virial" in key.lower() else tensor


def _unit_factor(structure: Structure, label: str, key: str, stated: dict[str, str]) -> float:
    try:
        unit = units.of_label(stated, label, key)
    except DataError as error:
        raise DataError(f"{structure.source}: {error}") from None
    kind = "virial" if label == "stress" and "virial" in key.lower() else label
    return 1.0 if unit is None else _factor(structure, kind, unit, key)


def _tensor(value: NDArray[np.float64], key: str) -> NDArray[np.float64]:
    if value.size == 6:
        return voigt_to_full(value.reshape(6))
    if value.size != 9:
        raise Unusable("unreadable stress", f"{key} has shape {value.shape}; 3×3, 9 or 6 values are understood")
    full = value.reshape(3, 3)
    if np.abs(full - full.T).max() > 1e-3 * np.abs(full).max():
        raise Unusable("unreadable stress", f"{key} is not symmetric: {full.tolist()}")
    return full


def _from_virial(structure: Structure, virial: NDArray[np.float64], key: str) -> NDArray[np.float64]:
    volume = float(abs(np.linalg.det(structure.cell)))
    if volume < 1e-9:
        raise Unusable("unreadable stress", f"{key} cannot be converted to a stress without a cell volume")
    return -virial / volume


def _agree(structure: Structure, label: str, first: tuple[str, Any], other: tuple[str, Any]) -> None:
    difference = np.abs(np.asarray(first[1]) - np.asarray(other[1]))
    scale = max(1.0, float(np.abs(first[1]).max(initial=0.0)) * 1e-3) if label == "energy" else 1.0
    if (difference > TOLERANCE[label] * scale).any():  # NaN compares false: it is refused later, by name
        raise DataError(
            f"{structure.source}: {label} has two values that disagree: {_show(first)}, but {_show(other)}. "
            f"Say which one counts: --key {label}={first[0].removeprefix(CALCULATOR)} or "
            f"--key {label}={other[0].removeprefix(CALCULATOR)}."
        )


def _show(candidate: tuple[str, Any]) -> str:
    key, value = candidate
    flat = np.asarray(value).reshape(-1)
    values = ", ".join(f"{x:.6g}" for x in flat[:3]) + (", ..." if len(flat) > 3 else "")
    place = f"{key.removeprefix(CALCULATOR)} of the calculator" if key.startswith(CALCULATOR) else key
    return f"{place} = {values}"


def _name_trajectory(structure: Structure, group_key: str | None) -> None:
    if structure.trajectory is not None and group_key is None:
        return
    for key in (group_key,) if group_key is not None else TRAJECTORIES:
        if structure.info.get(key) is not None:
            structure.trajectory = str(structure.info[key])
            return
    if group_key is not None:
        raise Unusable("no group", f"it has no value {group_key!r}. {did_you_mean(group_key, structure.info)}")
