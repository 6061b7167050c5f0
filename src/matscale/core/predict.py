"""Predictions of a trained Potential: for structures at hand, and for all structures of a file."""

from __future__ import annotations

import gzip
import io
import lzma
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from matscale.core.data.structure import Structure, full_to_voigt
from matscale.core.errors import ConfigError, DataError
from matscale.core.files import make_folder, replacing
from matscale.core.potential import Potential

LABELS = ("energy", "free_energy", "forces", "stress")
"""Names under which predictions are written; labels of the source under these names give way to them."""
SUFFIXES = (".extxyz", ".xyz", ".extxyz.gz", ".xyz.gz", ".extxyz.xz", ".xyz.xz")


@dataclass(frozen=True)
class Prediction:
    """What a Potential says of one structure."""

    energy: float
    """eV, total."""
    forces: NDArray[np.float64]
    """[n_atoms, 3] eV/Å"""
    stress: NDArray[np.float64] | None
    """[3, 3] eV/Å³; None where the model gives none or the structure has no cell volume."""


def floating(potential: Potential) -> torch.dtype:
    """The arithmetic of its model: what batches have to come in."""
    return next((p.dtype for p in potential.model.parameters() if p.is_floating_point()), torch.float32)


def prepare(potential: Potential, structure: Structure) -> AtomicBatch:
    """A batch of one, in the model's precision. Raises DataError for an unseen element, an impossible geometry, and
    for a structure without neighbours unless training had some."""
    batch = collate([structure], potential.graph, dtype=floating(potential))
    potential.check_neighbors(batch, structure.source)
    potential.check_elements(batch.to(potential.references.device))
    return batch


def predict_batch(potential: Potential, prepared: Sequence[AtomicBatch]) -> list[Prediction]:
    """Predictions for what `prepare` made, in one call of the model."""
    batch = AtomicBatch.join(list(prepared)).to(potential.references.device)
    with torch.no_grad():
        outputs = potential(batch).detach()
    forces = outputs.forces.double().cpu().numpy()
    ends = np.cumsum([p.n_atoms for p in prepared])[:-1]
    stresses = [None] * len(prepared) if outputs.stress is None else list(outputs.stress.double().cpu().numpy())
    return [
        Prediction(energy, f, s if s is not None and np.isfinite(s).all() else None)
        for energy, f, s in zip(outputs.energy.tolist(), np.split(forces, ends), stresses)
    ]


@dataclass(frozen=True)
class Skipped:
    """A structure that was left out."""

    position: int
    """In the source, from 0."""
    reason: str


def predict_file(
    potential: Potential,
    source: Path,
    target: Path,
    *,
    batch: int = 32,
    skip_invalid: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[int, list[Skipped]]:
    """Write the structures of `source` with predictions to `target`, an extxyz file; (how many, which were left out).

    Order, info and further arrays are kept; `energy`, `forces` and `stress` are the predictions. `source` is anything
    that ASE reads. Memory is bounded by `batch` structures. `target` appears when it is complete. Raises DataError that
    names the first structure that cannot be predicted, unless `skip_invalid`, and ConfigError for other suffixes.
    """
    written, skipped = 0, list[Skipped]()

    def usable() -> Iterator[tuple[Any, AtomicBatch]]:
        for position, atoms in enumerate(_read(source)):
            try:
                yield atoms, prepare(potential, Structure.from_ase(atoms, f"{source}: structure {position}"))
            except DataError as error:
                reason = str(error).removeprefix(f"{source}: structure {position}: ")
                if not skip_invalid:
                    raise DataError(
                        f"{source}: structure {position} (counted from 0): {reason} Pass --skip-invalid to leave out "
                        "such structures and list them."
                    ) from None
                skipped.append(Skipped(position, reason))

    with _replacing(target) as file:
        structures = usable()
        while chunk := list(islice(structures, batch)):
            predictions = predict_batch(potential, [prepared for _, prepared in chunk])
            _write(file, [labelled(atoms, p) for (atoms, _), p in zip(chunk, predictions)])
            written += len(chunk)
            if progress is not None:
                progress(written)
    return written, skipped


def labelled(atoms: Any, prediction: Prediction) -> Any:
    """A copy of ase.Atoms whose labels are the predictions."""
    from ase.calculators.singlepoint import SinglePointCalculator

    copy = atoms.copy()
    for name in LABELS:
        copy.info.pop(name, None)
        copy.arrays.pop(name, None)
    results: dict[str, Any] = {"energy": prediction.energy, "forces": prediction.forces}
    if prediction.stress is not None:
        results["stress"] = full_to_voigt(prediction.stress)
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def _read(source: Path) -> Iterator[Any]:
    from ase.io import iread

    if not source.exists():
        raise DataError(f"{source}: no such file.")
    position = 0
    try:
        for atoms in iread(str(source), index=":", do_not_split_by_at_sign=True):
            yield atoms
            position += 1
    except DataError:
        raise
    except Exception as error:  # ASE's readers raise whatever their parsing meets
        raise DataError(
            f"{source}: structure {position} (counted from 0) cannot be read ({type(error).__name__}: {error}). "
            "Give a file that ASE reads, such as extxyz."
        ) from None


def _write(file: TextIO, images: Iterable[Any]) -> None:
    from ase.io.extxyz import write_xyz

    write_xyz(file, images)


@contextmanager
def _replacing(target: Path) -> Iterator[TextIO]:
    """A text file that takes the place of `target` when the block ends well, and vanishes when it does not."""
    if not target.name.endswith(SUFFIXES):
        raise ConfigError(
            f"{target}: predictions are written as extxyz. Use a name that ends in {', '.join(SUFFIXES)}."
        )
    make_folder(target.parent)
    with replacing(target) as file, ExitStack() as stack:
        packed: Any = file
        if target.suffix == ".gz":  # without name and time: equal predictions are equal files
            packed = stack.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0))
        elif target.suffix == ".xz":
            packed = stack.enter_context(lzma.open(file, "wb"))
        text = io.TextIOWrapper(packed, encoding="utf-8")
        yield text
        text.flush()
        text.detach()
