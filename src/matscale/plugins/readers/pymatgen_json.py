"""Reader of the Materials Virtual Lab's JSON files: a list of pymatgen structures with results of VASP.

    [{"structure": {"lattice": {"matrix"}, "sites": [{"species": [{"element", "occu"}], "abc"}]},
      "outputs": {"energy", "forces", "stress" or "virial_stress"}, "group", ...}, ...]

It is the format of github.com/materialsvirtuallab/snap (NbMoTaW) and github.com/materialsvirtuallab/mlearn. Energy and
forces are in eV and eV/Å. The stress is VASP's, in kbar, positive in a compressed cell, in the order xx yy zz xy yz zx:

    stress [eV/Å³] = -0.1 GPa/kbar * stress [kbar]

`abc` are fractional coordinates. One structure is decoded at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matscale.plugin import DataError, Frame, Structure, Unusable, bytes_as_text, current_limits

_HEAD = re.compile(rb'\s*\[\s*\{.*?"@module"\s*:\s*"pymatgen\.core\.structure"', re.DOTALL)
_NEXT = re.compile(r"\s*([\[,\]])\s*")
_STRESSES = ("stress", "virial_stress")


def matches(path: Path) -> bool:
    if path.suffix != ".json" or not path.is_file():
        return False
    with open(path, "rb") as file:
        return _HEAD.match(file.read(1 << 14)) is not None


def count(path: Path) -> None:
    """None: the structures would have to be read."""


def read(path: Path, start: int, stop: int | None) -> Iterator[Frame]:
    for number, entry in islice(enumerate(_entries(path)), start, stop):
        yield _structure(entry, f"{path} structure {number}")


def _entries(path: Path) -> Iterator[Any]:
    """Decode the list, entry by entry; an entry that is longer than the limit is an Unusable."""
    decoder, most, number, end = json.JSONDecoder(), current_limits().structure, 0, 0
    try:
        text = path.read_text(encoding="utf-8")
        while (mark := _NEXT.match(text, end)) is not None and mark[1] == ("," if number else "["):
            entry, end = decoder.raw_decode(text, mark.end())
            size = end - mark.end()
            too_long = f"it has {bytes_as_text(size)}, which is above the limit. Raise the limit: --limit structure=..."
            yield entry if size <= most else Unusable("too long", too_long)
            number += 1
        if mark is None or mark[1] != "]":
            raise ValueError("a comma or the end of the list is missing")
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: structure {number} (counted from 0) cannot be decoded: {error}. Download the file again."
        ) from None


def _structure(entry: Any, source: str) -> Frame:
    try:
        if isinstance(entry, Unusable):
            raise entry
        given, outputs = entry["structure"], dict(entry.get("outputs") or {})
        lattice, sites = given["lattice"], given["sites"]
        cell = np.array(lattice["matrix"], dtype=np.float64).reshape(3, 3)
        stresses = [outputs.pop(key) for key in _STRESSES if outputs.get(key) is not None]
        info = {key: value for key, value in entry.items() if key not in ("structure", "outputs")} | outputs
        structure = Structure(
            atomic_numbers=np.array([_number(site["species"]) for site in sites], dtype=np.int64),
            positions=np.array([site["abc"] for site in sites], dtype=np.float64).reshape(-1, 3) @ cell,
            cell=cell,
            pbc=np.array(lattice.get("pbc") or [True] * 3, dtype=bool).reshape(3),
            source=source,
            info=info,
        )
        if stresses:
            structure.info["stress"] = _stress(stresses[0])
            structure.notes.append("stress: kbar, with the sign and order of VASP, converted to eV/Å³")
        return structure
    except Unusable as fault:
        return Unusable(fault.reason, f"{source}: {fault.detail}")
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        return Unusable("unreadable", f"{source}: {type(error).__name__}: {error}")


def _number(species: Any) -> int:
    """Atomic number of the only element on a site."""
    from ase.data import atomic_numbers  # start-up: ase

    if len(species) != 1 or abs(species[0]["occu"] - 1) > 1e-3:
        shares = ", ".join(f"{one['element']} {one['occu']}" for one in species)
        raise Unusable("partly occupied site", f"a site has {shares}; one atom on each site is needed")
    symbol = species[0]["element"]
    if symbol not in atomic_numbers:
        raise Unusable("unknown element", f"symbol {symbol!r}")
    return int(atomic_numbers[symbol])


def _stress(given: Any) -> NDArray[np.float64]:
    """Convert a stress of VASP [6] to a tensor [3, 3] in eV/Å³, tension positive."""
    from ase.units import GPa  # start-up: ase

    xx, yy, zz, xy, yz, zx = np.array(given, dtype=np.float64).reshape(6) * (-0.1 * GPa)
    return np.array([[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]])
