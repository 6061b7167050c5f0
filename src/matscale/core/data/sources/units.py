"""Units that a file states for its labels and coordinates, and their conversion to eV and Å.

A unit is a product of known names, as files write it: `kcal/mol/Ang`, `Hartree/Bohr`, `eV/Å^3`, `kJ mol^-1`, `GPa`,
`eV/atom`. Its dimension must be that of the label. Factors are those of `ase.units`.

A unit may be stated in the metadata of the file or in the values of a structure, which have precedence:

| key | meaning |
|---|---|
| `_property_unit_dict`, `units`, ... with names | unit of each label or key, as SchNetPack writes it |
| `energy_unit`, `forces_units`, `REF_energy_unit`, `energyUnit`, ... | unit of one label |
| `energy`, `forces`, ... with a `unit` | unit of one label, as `{"energy": {"unit": "Hartree"}}` |
| `_distance_unit`, `length_unit`, ... | unit of positions and cell |
| `energy_in`, `dimension_energy`, `units_energy_forces`, ... | a unit of each label that the key names |
| `units` with a text | units of energy and length, `kcal/mol, Angstrom`; forces and stress follow from them |
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Any

from matscale.core.errors import DataError

Dimension = tuple[int, int, int]
"""Powers of energy, of length, and of the number of atoms."""
DIMENSIONS: dict[str, Dimension] = {
    "energy": (1, 0, 0),
    "forces": (1, -1, 0),
    "stress": (1, -3, 0),
    "virial": (1, 0, 0),
    "length": (0, 1, 0),
}
INSIDE = {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å³", "virial": "eV", "length": "Å"}
"""Units in which matscale stores each label, and lengths."""

_E, _L, _P = (1, 0, 0), (0, 1, 0), (1, -3, 0)


@cache
def _names() -> dict[str, tuple[float, Dimension]]:
    from ase import units  # start-up: ase

    energies = {"eV": 1.0, "Hartree": units.Hartree, "Ha": units.Hartree, "Eh": units.Hartree, "E_h": units.Hartree}
    energies |= {"Rydberg": units.Rydberg, "Ry": units.Rydberg, "cal": units.kcal / 1000, "J": units.kJ / 1000}
    energies |= {prefix + name: size * energies[name] for name in energies for prefix, size in _PREFIXES.items()}
    angstroms = ("Å", "A", "Ang", "Angstrom", "Angstroms", "Ångström", "Ångstrom")
    lengths = dict.fromkeys(angstroms, 1.0) | {"nm": units.nm, "pm": units.nm / 1000}
    lengths |= dict.fromkeys(("Bohr", "a0", "a_0", "au", "a.u."), units.Bohr)
    pressures = {"Pa": units.Pascal, "kPa": 1e3 * units.Pascal, "MPa": 1e6 * units.Pascal, "GPa": units.GPa}
    pressures |= {"bar": units.bar, "kbar": 1e3 * units.bar, "kB": 1e3 * units.bar, "Mbar": 1e6 * units.bar}
    pressures |= {"atm": 101325 * units.Pascal}
    known = {"mol": (units.mol, (0, 0, 0)), "atom": (1.0, (0, 0, 1)), "atoms": (1.0, (0, 0, 1))}
    for sizes, dimension in ((energies, (1, 0, 0)), (lengths, (0, 1, 0)), (pressures, (1, -3, 0))):
        known |= {name: (size, dimension) for name, size in sizes.items()}
    return known


@cache
def _in_any_case() -> dict[str, tuple[float, Dimension]]:
    """Units by name in lower case. MPa and Mbar are left out: a lower-case m would mean milli."""
    return {name.lower(): value for name, value in _names().items() if name not in ("MPa", "Mbar")}


def _known(name: str) -> tuple[float, Dimension] | None:
    """Factor to eV and Å, and dimension, of a unit's name; None if it is unknown.

    The case of a prefix counts: M is mega, m is milli.
    """
    is_mega = name.startswith("M") and name.lower() != "mol"
    return _names().get(name) or (None if is_mega else _in_any_case().get(name.lower()))


_PREFIXES = {"m": 1e-3, "k": 1e3}
_TERM = re.compile(r"\s*([/*])?\s*(a\.u\.|a_?0(?!\d)|E_?h\b|[^\W\d_]+)(?:\s*\^?\s*\{?([-+]?\d+)\}?)?")
_PLAIN = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−·×", "0123456789--**")
_ATOMIC = ("au", "a.u.", "a.u", "atomic", "atomic units")
_UNSTATED = ("", "none", "null", "1")


@cache
def parse(text: str) -> tuple[float, Dimension] | None:
    """Parse a product of units, to (factor to eV and Å, dimension); None if a part of the product is unknown.

    >>> parse("meV/Å^3"), parse("parsec")
    ((0.001, (1, -3, 0)), None)
    """
    rest = re.sub(r"\bper\b", "/", unicodedata.normalize("NFC", text).translate(_PLAIN).replace("**", "^"))
    rest = re.sub(r"/\s*\(([^()/]*)\)", lambda group: "/" + "/".join(re.split(r"[*\s]+", group[1].strip())), rest)
    rest = re.sub(r"[()]", " ", rest).strip()
    factor, dimension, place = 1.0, (0, 0, 0), 0
    while place < len(rest):
        term = _TERM.match(rest, place)
        known = term and _known(term[2])
        power = int(term[3] or 1) if term else 0
        if term is None or known is None or not 1 <= abs(power) <= 9:
            return None
        power = -power if term[1] == "/" else power
        factor *= known[0] ** power
        dimension = tuple(have + power * more for have, more in zip(dimension, known[1]))  # type: ignore[assignment]
        place = term.end()
    return (factor, dimension) if rest else None


def factor(label: str, unit: str, n_atoms: int = 1) -> float:
    """Factor that converts a label from `unit` to eV and Å.

    For a unit per atom, the factor includes `n_atoms`. Raises DataError for an unknown unit, and for a unit with
    another dimension than the label.

    >>> factor("forces", "Hartree/Bohr").__round__(4), factor("energy", "eV/atom", n_atoms=8)
    (51.4221, 8.0)
    """
    wanted = DIMENSIONS[label]
    if unit.strip().lower() in _ATOMIC:
        return float(_names()["Hartree"][0] ** wanted[0] * _names()["Bohr"][0] ** wanted[1])
    found = parse(unit)
    if found is None:
        raise DataError(f"{label} is in {unit!r}, a unit that matscale does not know. {_SAY.format(label=label)}")
    if found[1] == (*wanted[:2], -1):
        return found[0] * n_atoms
    if found[1] != wanted:
        raise DataError(f"{label} is in {unit!r}, which is not a unit of {label}. {_SAY.format(label=label)}")
    return found[0]


_SAY = (
    "Write the unit as in kcal/mol, Hartree/Bohr or eV/Å^3: in the file, or with --unit {label}=UNIT, which "
    "overrides the file."
)

_LABEL_WORDS = {
    "energy": ("energy", "energies", "total_energy", "potential_energy", "e", "en", "etot"),
    "forces": ("forces", "force", "f"),
    "stress": ("stress", "stresses", "pressure"),
    "virial": ("virial", "virials"),
    "length": (
        *(
            "length",
            "lengths",
            "distance",
            "distances",
            "position",
            "positions",
            "pos",
            "cell",
            "lattice",
            "coordinate",
        ),
        *("coordinates", "coord", "coords", "geometry", "geom", "xyz", "dist", "len", "l", "r"),
    ),
}
_LABEL_OF_WORD = {word: label for label, words in _LABEL_WORDS.items() for word in words}
_ALL = ("property", "all", "default", "system", "style", "input", "in", "data", "dataset", "file", "label", "labels")
"""Words that stand for all labels in a key such as `unit_system`."""
_NO_LABEL = re.compile(r"source_.*|.*(time|velocit|charge|mass|dipole|freq|temperature|magnet|spin|cut).*")
_UNIT_KEY = re.compile(r"_*(?:(\w+?)_?)?(?:property_)?units?(?:_dict)?(?:_(?:of_)?(\w+?))?_*")


def stated(*places: Mapping[str, Any]) -> dict[str, str]:
    """Collect the units that mappings such as `Structure.info` state, by label or by key in lower case.

    Later mappings have precedence. A text with a unit of energy and a unit of length sets both. Raises DataError for a
    text that is not a unit, and for a unit of a quantity that the file does not have, as in `field_unit=Hartree`.

    >>> stated({"_property_unit_dict": {"energy": "kcal/mol"}, "_distance_unit": "Ang", "step": 3})
    {'energy': 'kcal/mol', 'length': 'Ang'}
    """
    found: dict[str, str] = {}
    for place in places:
        for key, value in place.items():
            key = re.sub(r"\W+", "_", str(key).lower())
            match = _UNIT_KEY.fullmatch(key) if "unit" in key and key != "unit_cell" else None
            if match is None or _is_of_several(match[1] or match[2] or ""):
                found |= _of_words(key, value, places)
                if isinstance(value, Mapping) and (unit := value.get("unit", value.get("units"))):
                    _put(found, key, unit)  # {"energy": {"unit": "Hartree"}}
                continue
            if isinstance(value, (list, tuple)):
                value = " ".join(map(str, value))
            if isinstance(value, Mapping):
                for name, unit in value.items():
                    _put(found, str(name), unit)
            elif (name := (match[1] or match[2])) and name not in (*_ALL, "calculator", "calc"):
                _refuse_loose(key, name, value, places)
                _put(found, name, value)
            elif isinstance(value, str):
                found |= _of_text(value)
    return found


def is_statement(key: str, value: Any) -> bool:
    """Whether an entry of a structure's `info` states a unit, known or not."""
    try:
        return bool(stated({key: value}))
    except DataError:
        return True


_ABOUT = ("unit", "units", "uom", "dimension", "dimensions", "dim")
_FILLERS = ("and", "of", "the", "is", "are", "given", "measured", "stated", "expressed", "measure", "scale")


def _is_of_several(name: str) -> bool:
    words = [word for word in name.split("_") if word not in _FILLERS]
    return name not in _LABEL_OF_WORD and len(words) > 1 and all(word in _LABEL_OF_WORD for word in words)


def _of_words(key: str, value: Any, places: tuple[Mapping[str, Any], ...]) -> dict[str, str]:
    """Units under a key whose words name labels, as in `energy_in=Hartree` or `units_energy_forces="Ha Ha/Bohr"`.

    Raises DataError if the key does not say which quantity has the unit.
    """
    words = key.replace("unit_cell", "cell").strip("_").split("_")
    if not isinstance(value, str) or value.strip().lower() in _UNSTATED or _NO_LABEL.fullmatch(key):
        return {}
    speaks = words[-1] == "in" or any(word in _ABOUT for word in words)
    rest = [word for word in words if word not in (*_ABOUT, *_FILLERS, "in")]
    if not rest:
        return _of_text(value) if speaks and (parse(value) or "uom" in words) else {}
    whole = "_".join(rest)
    names = [whole] if whole in _LABEL_OF_WORD else rest
    labels = list(dict.fromkeys(_LABEL_OF_WORD[name] for name in names if name in _LABEL_OF_WORD))
    if not all(name in _LABEL_OF_WORD for name in names):
        is_spoken = any(len(name) > 2 and name in _LABEL_OF_WORD for name in names)
        if speaks or (is_spoken and (known := parse(value)) and known[1] in [DIMENSIONS[label] for label in labels]):
            _refuse_loose(key, whole, value, places)
        return {}
    parts = [value.strip()] if len(labels) == 1 else [part for part in re.split(r"[,;\s]+", value.strip()) if part]
    if len(parts) != len(labels):
        if not speaks or parse(value) is None:
            return {}
        raise DataError(
            f"{key} = {value!r}: it is not clear which of {len(labels)} labels has which of {len(parts)} units. Give "
            "the units of the labels: --unit energy=eV --unit forces=eV/Å --unit stress=eV/Å^3 --unit length=Å."
        )
    fits = [(known := parse(part)) and known[1][:2] == DIMENSIONS[name][:2] for name, part in zip(labels, parts)]
    is_sure = speaks and "length" not in labels  # otherwise it may be lattice_dimension=2D
    return dict(zip(labels, parts)) if is_sure or all(fits) else {}


def _refuse_loose(key: str, name: str, unit: Any, places: tuple[Mapping[str, Any], ...]) -> None:
    """Raises DataError for a unit under a name that is neither a label nor a key of the file."""
    known = parse(unit) if isinstance(unit, str) else None
    if known is None or known[1] not in DIMENSIONS.values() or abs(known[0] - 1) < 1e-12:
        return
    values = {re.sub(r"\W+", "_", str(other).lower().rpartition(":")[2]) for place in places for other in place}
    values.discard(key)
    if name not in _LABEL_OF_WORD and name not in values and not _NO_LABEL.fullmatch(name):
        raise DataError(
            f"{key} = {unit!r}: the file has no value {name!r}, and does not say which labels have this unit. Give "
            "the units of the labels: --unit energy=eV --unit forces=eV/Å --unit stress=eV/Å^3 --unit length=Å."
        )


def _put(found: dict[str, str], name: str, unit: Any) -> None:
    name = name.lower()
    if isinstance(unit, str) and unit.strip().lower() not in _UNSTATED:
        found[_LABEL_OF_WORD.get(name, name)] = unit.strip()


def _of_text(text: str) -> dict[str, str]:
    """Parse the units in a text such as "kcal/mol, Å", or the name of a system of units such as "metal"."""
    if text.strip().lower() in _UNSTATED:
        return {}
    if text.strip().lower() in _ATOMIC:
        return dict.fromkeys(DIMENSIONS, "a.u.")
    if text.strip().lower() in ("metal", "ase"):
        return {"energy": "eV", "length": "Å"}
    parts = [text] if parse(text) else [part for part in re.split(r"[,;]\s*|\s+and\s+|\s+", text.strip()) if part]
    found = {}
    for part in parts:
        known = parse(part)
        label = next((name for name, dimension in DIMENSIONS.items() if known and known[1] == dimension), None)
        if label is None:
            raise DataError(
                f"units = {text!r}: matscale does not understand {part!r}. Give the units of the labels: "
                "--unit energy=eV --unit forces=eV/Å --unit stress=eV/Å^3 --unit length=Å."
            )
        found[label] = part
    return found


def of_label(units: Mapping[str, str], label: str, key: str) -> str | None:
    """Unit of the label that was found under `key`; None if no unit is stated.

    The unit is stated for the key or for the label, or follows from the units of energy and length. Raises DataError if
    other units than eV and Å are stated for energy or length, but the unit of this label does not follow from them.
    """
    kind = "virial" if label == "stress" and "virial" in key.lower() else label
    for name in (key.lower(), kind, label if kind == "virial" else None):
        if name is not None and name in units:
            return units[name]
    energy, length = units.get("energy"), units.get("length")
    forces = units.get("forces", "")
    if label == "energy" and not energy and forces and not _is_inside("forces", forces) and "eV" not in forces:
        raise DataError(
            f"forces are in {forces!r}, and nothing states the unit of energy ({key}). State it: --unit energy=UNIT."
        )
    others = {
        name: unit for name, unit in (("energy", energy), ("length", length)) if unit and not _is_inside(name, unit)
    }
    needed = [name for name, power in zip(("energy", "length"), DIMENSIONS[kind]) if power and name != label]
    strange = {name: unit for name, unit in others.items() if name in needed}
    if not strange:
        return None
    if kind == "virial" or (energy and length):
        energy = "Hartree" if energy and energy.lower() in _ATOMIC else energy or "eV"
        length = "Bohr" if length and length.lower() in _ATOMIC else length
        return energy + {0: "", -1: f"/{length}", -3: f"/{length}^3"}[DIMENSIONS[kind][1]]
    said = " and ".join(f"{name} is in {unit!r}" for name, unit in strange.items())
    raise DataError(f"{said}, and nothing states the unit of {label} ({key}). State it: --unit {label}=UNIT.")


def _is_inside(label: str, unit: str) -> bool:
    return abs(factor(label, unit) - 1) < 1e-12
