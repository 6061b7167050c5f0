"""Predict with a trained Potential: for single structures, or for all structures of a file."""

from __future__ import annotations

import gzip
import io
import json
import lzma
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.data.sources.find import is_archive, reader, reader_of
from matscale.core.data.sources.labels import Keys, Unusable, to_our_units
from matscale.core.data.sources.reader import Frame, Reader, to_ase
from matscale.core.data.structure import Structure, full_to_voigt, voigt_to_full
from matscale.core.errors import ConfigError, DataError, NonFinitePrediction
from matscale.core.files import make_folder, replacing
from matscale.core.model.potential import Potential
from matscale.core.progress import SILENT, Reporter

LABELS = ("energy", "forces", "stress")
"""Names under which predictions are written. Values of the source with these names are replaced."""
PARTS = ("free_energy", "energies", "stresses")
"""Names of further energies and stresses that a source may have.

They are kept beside the predictions, as `source_free_energy`, ...
"""
SUFFIXES = (".extxyz", ".xyz", ".extxyz.gz", ".xyz.gz", ".extxyz.xz", ".xyz.xz")


@dataclass(frozen=True)
class Prediction:
    """Prediction for one structure."""

    energy: float
    """Total energy [eV]."""
    forces: NDArray[np.float64]
    """Forces [n_atoms, 3] eV/Å."""
    stress: NDArray[np.float64] | None
    """Stress [3, 3] eV/Å³; None if the model predicts no stress or the structure has no volume."""

    @property
    def is_finite(self) -> bool:
        return all(bool(np.isfinite(x).all()) for x in (self.energy, self.forces, self.stress) if x is not None)


def floating(potential: Potential) -> torch.dtype:
    """Floating-point type of the model, which is also that of its batches."""
    return next((p.dtype for p in potential.model.parameters() if p.is_floating_point()), torch.float32)


def prepare(potential: Potential, structure: Structure) -> AtomicBatch:
    """Make a batch of one structure, in the precision of the model.

    Raises DataError for an element that was not in training, and for an impossible geometry. Also raises DataError for
    a structure without neighbours, unless training had such structures.
    """
    batch = collate([structure], potential.graph, dtype=floating(potential))
    potential.check_neighbors(batch, structure.source)
    potential.check_elements(batch.to(potential.references.device))
    return batch


def predict_batch(potential: Potential, prepared: Sequence[AtomicBatch]) -> list[Prediction]:
    """Predict the batches in `prepared`, which come from `prepare`, by calling the model once."""
    batch = AtomicBatch.join(list(prepared)).to(potential.references.device)
    with torch.no_grad():
        outputs = potential(batch).detach()
    forces = outputs.forces.double().cpu().numpy()
    ends = np.cumsum([p.n_atoms for p in prepared])[:-1]
    stresses = [None] * len(prepared) if outputs.stress is None else list(outputs.stress.double().cpu().numpy())
    return [
        Prediction(energy, f, s if s is not None and volume > 0 else None)
        for energy, f, s, volume in zip(
            outputs.energy.tolist(), np.split(forces, ends), stresses, batch.volume().tolist()
        )
    ]


@dataclass(frozen=True)
class Skipped:
    """Structure that was left out, with the reason."""

    position: int
    """Position of the structure in the source, counted from 0."""
    reason: str


def predict_file(
    potential: Potential,
    source: Path,
    target: Path,
    *,
    batch: int = 32,
    skip_invalid: bool = False,
    keys: Keys | None = None,
    notes: Counter[str] | None = None,
    progress: Reporter = SILENT,
) -> tuple[int, list[Skipped]]:
    """Write the structures of `source`, with predictions, to the extxyz file `target`.

    Returns the number of structures written, and the structures that were left out.

    Order, info, further arrays and other results (magnetic moments, charges, ...) of the source are kept; `energy`,
    `forces` and `stress` are the predictions. `source` is read by the same readers as in `matscale data pack`, and
    converted from the units that the file or `keys` state. `notes` counts the structures for each decision of the
    reader. At most `batch` structures are in memory. `target` appears only when it is complete.

    Raises DataError that names the first structure that cannot be predicted, and NonFinitePrediction that names all
    structures whose predictions are not finite; with `skip_invalid`, these structures are left out instead. Raises
    ConfigError if `target` has another suffix than those of extxyz.
    """
    notes = Counter() if notes is None else notes
    written, skipped, bad = 0, list[Skipped](), list[int]()

    def usable() -> Iterator[tuple[int, Any, AtomicBatch]]:
        for position, frame in enumerate(reader_for(source).read(source, 0, None)):
            place = f"{source}: structure {position}"
            try:
                structure = understood(frame, source, position, keys or Keys())
                prepared = prepare(potential, structure)
                notes.update(structure.notes)
                yield position, to_ase(structure), prepared
            except DataError as error:
                reason = str(error).removeprefix(f"{place}: ")
                if not skip_invalid:
                    raise DataError(
                        f"{source}: structure {position} (counted from 0): {reason} Pass --skip-invalid to leave out "
                        "such structures and list them."
                    ) from None
                skipped.append(Skipped(position, reason))

    with _replacing(target) as file:
        structures = usable()
        while chunk := list(islice(structures, batch)):
            predictions = predict_batch(potential, [prepared for *_, prepared in chunk])
            found = [(place, atoms, p) for (place, atoms, _), p in zip(chunk, predictions)]
            bad += [place for place, _, p in found if not p.is_finite]
            _write(file, [labelled(atoms, p) for _, atoms, p in found if p.is_finite])
            written += sum(p.is_finite for *_, p in found)
            progress.stage("Structures predicted", written)
        if bad and not skip_invalid:
            raise NonFinitePrediction(
                f"{source}: the predictions for {len(bad)} of {written + len(bad)} structures are not finite: "
                f"{listed(bad)}. Nothing was written. Look at their geometry, or pass --skip-invalid to leave out "
                "such structures and list them."
            )
    skipped += [Skipped(position, "its predictions are not finite.") for position in bad]
    return written, sorted(skipped, key=lambda one: one.position)


def listed(positions: Sequence[int]) -> str:
    """List positions of structures for a message: the first eight, then the number of further ones.

    >>> listed([3]), listed([3, 17])
    ('structure 3 (counted from 0)', 'structures 3, 17 (counted from 0)')
    """
    more = f" and {len(positions) - 8} more" if len(positions) > 8 else ""
    plural = "s" if len(positions) > 1 else ""
    return f"structure{plural} {', '.join(map(str, positions[:8]))}{more} (counted from 0)"


def labelled(atoms: Any, prediction: Prediction) -> Any:
    """Copy ase.Atoms, with the predictions as energy, forces and stress. All other values are kept.

    Among them are magnetic moments, charges and dipole; they may be in the calculator of `atoms`.
    """
    from ase.calculators.singlepoint import SinglePointCalculator  # start-up: ase

    copy = atoms.copy()
    copy.info = {name: _written(name, value) for name, value in copy.info.items()}
    copy.arrays |= {name: _columns(value) for name, value in copy.arrays.items()}
    said = {} if atoms.calc is None else {k: v for k, v in atoms.calc.results.items() if v is not None}
    for name in {*LABELS, *PARTS, *said}:
        found = [place.pop(name) for place in (copy.info, copy.arrays) if name in place]
        if found:
            said.setdefault(name, found[0])
    results: dict[str, Any] = {}
    for name, value in said.items():
        if name in PARTS:
            place = copy.info if name == "free_energy" else copy.arrays
            place[f"source_{name}"] = value if name == "free_energy" else _columns(value)
        elif name not in LABELS:
            results[name] = _columns(value) if np.shape(value)[:1] == (len(copy),) else value
    results |= {"energy": prediction.energy, "forces": prediction.forces}
    if prediction.stress is not None:
        results["stress"] = full_to_voigt(prediction.stress)
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def _columns(values: Any) -> NDArray[Any]:
    """Convert a per-atom array to columns for extxyz: [n_atoms] or [n_atoms, n_columns].

    If each atom has a tensor, its components become the columns.
    """
    array = np.asarray(values)
    array = array.astype(str) if array.dtype.kind not in "biufSU" else array
    return array.reshape(len(array), -1) if array.ndim > 1 else array


def _written(name: str, value: Any) -> Any:
    """Convert a value for the comment line of extxyz; containers, None and multi-line texts become JSON."""
    if name == "virial" and np.shape(value) == (6,):  # which ASE expects as 3×3
        return voigt_to_full(value)
    if isinstance(value, str | np.ndarray):
        plain = "\n" not in value if isinstance(value, str) else value.dtype.kind in "biuf"
    else:
        plain = isinstance(value, bool | int | float | np.generic)
    # Readers remove a backslash from quoted text, and so also those of JSON.
    return value if plain else "_JSON " + json.dumps(value, default=_listed_or_text).replace("\\", "\\\\")


def _listed_or_text(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def reader_for(source: Path) -> Reader:
    """Choose the reader for a file, as packing does.

    A file with an unknown suffix is read by ASE, which looks at the content.
    """
    if source.is_dir():
        raise DataError(f"{source}: is a folder. Give one of its files: predictions are written file by file.")
    if not source.is_file():
        raise DataError(f"{source}: no such file.")
    try:
        return reader_of(source)
    except DataError:
        if is_archive(source):
            raise
        return reader("ase")


def understood(frame: Frame, source: Path, position: int, keys: Keys) -> Structure:
    """Return a structure with positions, cell and values in eV and Å.

    Raises DataError if the structure cannot be read, or has a unit that is unknown.
    """
    if isinstance(frame, Unusable):
        raise DataError(f"cannot be read: {frame}.".replace(f"{source} structure {position}: ", ""))
    frame.source = f"{source}: structure {position}"
    to_our_units(frame, keys)
    return frame


def _write(file: TextIO, images: Iterable[Any]) -> None:
    from ase.io.extxyz import write_xyz  # start-up: ase

    write_xyz(file, images)


@contextmanager
def _replacing(target: Path) -> Iterator[TextIO]:
    if not target.name.endswith(SUFFIXES):
        raise ConfigError(
            f"{target}: predictions are written as extxyz. Use a name that ends in {', '.join(SUFFIXES)}."
        )
    make_folder(target.parent)
    with replacing(target) as file, ExitStack() as stack:
        packed: Any = file
        if target.suffix == ".gz":  # without name and time, so that equal predictions give equal files
            packed = stack.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0))
        elif target.suffix == ".xz":
            packed = stack.enter_context(lzma.open(file, "wb"))
        text = io.TextIOWrapper(packed, encoding="utf-8")
        yield text
        text.flush()
        text.detach()
