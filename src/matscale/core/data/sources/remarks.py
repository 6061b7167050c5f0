"""Remarks on values of a file that matscale ignores. Packing counts and lists the remarks.

Ignored values are the weights and config_type of MACE and GAP, a free energy beside the energy, and values with a name
similar to that of a label. This module also recognises structures that are marked as an isolated atom.
"""

from __future__ import annotations

import difflib
import re
from functools import lru_cache
from typing import Any

import numpy as np

from matscale.core.data.structure import CALCULATOR, Structure

WEIGHTS = ("config_weight", "weight")
"""Keys under which files give the weight of a structure in the loss."""
_WEIGHT = re.compile(
    r"((config|sample|structure)_)?((energy|forces?|stress|virials?)_)?weights?|(energy|forces?|virial|force_atom)_sigma"
)
_NOT_TOTAL = re.compile(
    r"weight|sigma|unit|cut|kinetic|hull|per_?atom|formation|cohesive|binding|correction|error|std|fermi|mask|band|gap|"
    r"max|norm|constraint|zero_?point|free"
)
_SHORT = {"energy": ("etot", "toten", "e0", "u0", "e_tot"), "forces": ("f", "frc"), "stress": ("sigma_tensor",)}
_NAMES = {"energy": ("energy",), "forces": ("forces",), "stress": ("stress", "virial", "virials")}
_PREFIX = re.compile(r"^(ref|dft|mace|gap)_")


def remarks(structure: Structure, used: dict[str, str]) -> list[str]:
    """List remarks on values of this structure that are ignored.

    `used` has the key under which each label was found.
    """
    found = []
    for key, value in structure.info.items():
        name = _kind(str(key))
        if name is None:
            continue
        if name != "config_type" and not _is_one(value):
            found.append(f"{key} is ignored: every structure has the same weight in the loss")
            if name in WEIGHTS and np.size(value) == 1 and not np.any(value):
                found.append(f"{key} = 0 is ignored, too: --filter '{name}!=0' leaves such structures out")
        elif name == "config_type" and str(value).lower() != "default" and not is_isolated_atom(structure):
            found.append(f"{key} is ignored: it sets no weights (only IsolatedAtom has a meaning)")
    atomrefs = structure.metadata.get("atomrefs")
    if isinstance(atomrefs, dict) and any(np.size(value) for value in atomrefs.values()):
        found.append("atomrefs of the file's metadata are ignored: element references are fitted to the total energies")
    if structure.energy is not None:
        found += _free_energy(structure, used["energy"])
    return found


@lru_cache(4096)
def _kind(key: str) -> str | None:
    """Return a key in lower case if it names a weight or is config_type; None for other keys.

    Results are cached, since the same keys occur in every structure.
    """
    name = key.lower()
    return name if name == "config_type" or _WEIGHT.fullmatch(name) else None


@lru_cache(4096)
def _is_free_energy(key: str) -> bool:
    return _PREFIX.sub("", _bare(key)) in ("free_energy", "freeenergy")


def _is_one(value: Any) -> bool:
    try:
        return bool(np.all(np.asarray(value, dtype=np.float64) == 1))
    except (ValueError, TypeError):
        return False


def _free_energy(structure: Structure, key: str) -> list[str]:
    if "free" in key.lower():
        return []
    for name, value in structure.info.items():
        if _is_free_energy(str(name)) and np.size(value) == 1:
            try:
                differs = abs(float(np.reshape(value, -1)[0]) - float(structure.energy or 0)) > 1e-4
            except (ValueError, TypeError):
                continue
            if differs:
                other = name.removeprefix(CALCULATOR)
                return [
                    f"energy: {key} is used, and {other} differs (with smearing, forces belong to the free energy). To "
                    f"use {other}: --key energy={other}"
                ]
    return []


def is_isolated_atom(structure: Structure) -> bool:
    """Whether the file marks a structure as an isolated atom: config_type=IsolatedAtom.

    MACE and GAP use this mark.
    """
    if len(structure) != 1:
        return False
    given = next((value for key, value in structure.info.items() if str(key).lower() == "config_type"), "")
    return re.sub(r"[\W_]", "", str(given).lower()) in ("isolatedatom", "isolatedatoms")


def hint(structure: Structure, label: str) -> str | None:
    """Advice for a label that was not found: which key may hold it. None if there is no such key.

    Such a key has a name similar to that of the label, and a value of the label's shape.
    """
    sizes = {"energy": (1,), "forces": (3 * len(structure),), "stress": (6, 9)}[label]
    near = [
        key
        for key, value in structure.info.items()
        if np.size(value) in sizes and _is_near(_bare(key), label) and _is_numeric(value)
    ]
    if not near and label == "energy":
        near = [key for key in structure.info if _bare(key).endswith("free_energy")]
    if not near:
        return None
    names = [key.removeprefix(CALCULATOR) for key in near]
    shape = {"energy": "", "forces": " [n, 3]", "stress": f" of {np.size(structure.info[near[0]])} numbers"}[label]
    unit = f", and --unit {label}=UNIT for the unit that its name states" if _states_unit(names[0]) else ""
    others = f" (or {', '.join(f'`{name}`' for name in names[1:4])})" if len(names) > 1 else ""
    return f"no {label} found; the file has `{names[0]}`{shape}{others}: --key {label}={names[0]}{unit}"


_UNITS = frozenset(["ha", "hartree", "kcal", "kj", "ry", "rydberg", "mev", "bohr", "au", "gpa", "kbar", "bar"])


def _states_unit(name: str) -> bool:
    return not _UNITS.isdisjoint(re.split(r"[\W_]+", name.lower()))


def _bare(key: Any) -> str:
    return str(key).removeprefix(CALCULATOR).lower()


def _is_near(name: str, label: str) -> bool:
    if _NOT_TOTAL.search(name):
        return False
    bare = _PREFIX.sub("", name)
    stems = ("energy",) if label == "energy" else ("force",) if label == "forces" else ("stress", "virial")
    return (
        any(stem in name for stem in stems)
        or bare in _SHORT[label]
        or bool(difflib.get_close_matches(bare, _NAMES[label], 1, 0.75))
    )


def _is_numeric(value: Any) -> bool:
    return np.asarray(value).dtype.kind in "if"
