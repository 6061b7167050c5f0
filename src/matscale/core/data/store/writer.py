"""Writer of a packed dataset, `ShardWriter`, in bounded memory.

Structures are collected in pieces of some megabytes, which are written to a hidden folder and joined into shards at the
end. The manifest is written last; without a manifest, the folder is not a dataset, so that no dataset is ever
half-written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matscale.core.data.store.arrays import n_bytes
from matscale.core.data.store.manifest import FILE, Manifest, ShardRecord, SourceRecord, dataset_hash
from matscale.core.data.store.shard import LABELS, arrays_of, map_shard, narrowed, windows, write_shard
from matscale.core.data.store.statistics import PropertySummaries, tally
from matscale.core.data.structure import Structure
from matscale.core.errors import ConfigError, DataError
from matscale.core.files import make_folder, remove, sha256_of, sweep_up, write_text
from matscale.core.sealing import DamagedRecord, read_sealed, sealed

PIECE_BYTES = 64 << 20
SHARD_BYTES = 2 << 30
"""Approximate size of a shard [bytes]. With few large shards, a shuffled batch opens few files."""
PARTS = ".parts"
PLAN = "shards.json"
"""File that lists the pieces of each shard; it is written before pieces are joined."""
MAX_LISTED = 32
"""Largest number of sources for which separate statistics are kept."""
PRECISIONS = ("float64", "float32")


class ShardWriter:
    """Writer of a packed dataset, into a folder that must not hold one yet.

    ```python
    writer = ShardWriter(path, labels_by="surrogate: emt")
    writer.append(structure)
    manifest = writer.finish()
    ```
    Until `finish` returns, the folder is not a dataset.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        precision: str = "float64",
        labels_by: str | None = None,
        sources: Sequence[SourceRecord] = (),
        shard_bytes: int = SHARD_BYTES,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        """Prepare to write a dataset into the folder `path`.

        `precision` applies to positions and forces: float64 is exact, float32 halves the size. `sources` are the
        entries of the manifest for the files from which the structures come.
        """
        check_precision(precision)
        self.path = Path(path)
        if (self.path / FILE).exists():
            raise DataError(f"{self.path}: holds a packed dataset already. Choose another folder, or remove this one.")
        self.precision, self.labels_by, self.sources = precision, labels_by, list(sources)
        self.shard_bytes, self.piece_bytes = shard_bytes, piece_bytes
        self._parts = self.path / PARTS
        make_folder(self.path)
        sweep_up(self.path)
        remove(self._parts)
        make_folder(self._parts)
        self._pieces: list[Path] = []
        self._structures: list[Structure] = []
        self._numbers: list[int] = []
        self._bytes = 0

    def append(self, *structures: Structure, source: int = 0) -> None:
        """Append structures in this order; `source` is the index in `sources` of the one they come from."""
        for structure in structures:
            self._structures.append(structure)
            self._numbers.append(source)
            self._bytes += 49 * len(structure) + 192
            if self._bytes >= self.piece_bytes:
                self._spill()

    def _spill(self) -> None:
        if not self._structures and self._pieces:
            return
        arrays = narrowed(arrays_of(self._structures, self._numbers), self.precision)
        self._pieces.append(self._parts / f"part-{len(self._pieces):08d}.safetensors")
        write_shard(self._pieces[-1], [arrays])
        self._structures, self._numbers, self._bytes = [], [], 0

    def finish(self, **described: Any) -> Manifest:
        """Join the pieces into shards, compute statistics and write the manifest.

        `described` sets further fields of the manifest (filters, ...).
        """
        self._spill()
        if not self.sources:
            self.sources = [SourceRecord(path=self.labels_by or "python")]
        shards = join(self._pieces, self.path, self.shard_bytes)
        remove(self._parts)  # before the manifest, since no packing looks for it afterwards
        return describe(
            self.path, shards, self.sources, labels_by=self.labels_by, precision=self.precision, **described
        )


def check_precision(precision: str) -> None:
    """Raises ConfigError unless `precision` is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision = {precision!r}: must be one of {', '.join(PRECISIONS)}.")


def join(
    pieces: Sequence[Path], folder: Path, shard_bytes: int, done: Callable[[list[Path]], None] | None = None
) -> list[ShardRecord]:
    """Join files of pieces into shards of about `shard_bytes`. The result depends only on the sizes of the pieces.

    A shard from an interrupted join is kept: its digest was written before its pieces were deleted. If `done` is given,
    it is called with the pieces of each finished shard, to delete them. Raises DataError if a shard, or the list of
    pieces of each shard, has changed since it was written.
    """
    plan_file = folder / PARTS / PLAN
    plan = _plan(pieces, shard_bytes, plan_file)
    records = []
    for number, names in enumerate(plan):
        path = folder / f"shard-{number:05d}.safetensors"
        members = [folder / PARTS / name for name in names]
        if all(member.exists() for member in members):
            digest = write_shard(path, [map_shard(member) for member in members])
            write_text(folder / PARTS / f"{path.name}.sha256", digest)
        else:
            digest = _joined_before(path, folder / PARTS)
        arrays = map_shard(path)
        n = len(arrays["group"])
        records.append(ShardRecord(file=path.name, n_structures=n, n_atoms=int(arrays["atom_ptr"][-1]), sha256=digest))
        if done is not None:
            done(members)
    return records


def _joined_before(shard: Path, parts: Path) -> str:
    """Return the digest of a shard that was joined before, and whose pieces are gone.

    Raises DataError if the shard has changed since it was written.
    """
    seal = parts / f"{shard.name}.sha256"
    written = seal.read_text(encoding="utf-8") if seal.is_file() else ""
    if not shard.is_file() or sha256_of(shard) != written:
        raise DataError(
            f"{shard}: differs from the file that an interrupted packing wrote, and its pieces are gone. Remove "
            f"{parts}, and pack again."
        )
    return written


def _plan(pieces: Sequence[Path], shard_bytes: int, file: Path) -> list[list[str]]:
    """Choose the pieces of each shard: their file names.

    The choice is also written to `file`, since the pieces that are joined already are deleted.
    """
    if file.exists():
        try:
            plan: list[list[str]] = read_sealed(file, required=True)["shards"]
        except DamagedRecord as error:
            raise DataError(f"{error} Remove {file.parent}, and pack again.") from None
        return plan
    plan, size = [], shard_bytes
    for piece in pieces:
        if size >= shard_bytes:
            plan.append([])
            size = 0
        plan[-1].append(piece.name)
        size += n_bytes(map_shard(piece))
    write_text(file, json.dumps(sealed({"shards": plan})))
    return plan


def describe(folder: Path, shards: list[ShardRecord], sources: Sequence[SourceRecord], **described: Any) -> Manifest:
    """Compute the statistics of the shards and write the manifest, which turns `folder` into a dataset."""
    from ase.data import chemical_symbols  # start-up: ase

    counts, labels = np.zeros(256, dtype=np.int64), dict.fromkeys(LABELS, 0)
    per_source = np.zeros(len(sources), dtype=np.int64)
    total: dict[str, PropertySummaries] = {}
    for shard in shards:
        arrays = map_shard(folder / shard.file)
        for piece in windows(arrays):
            counts += np.bincount(piece["atomic_numbers"], minlength=256)
            per_source += np.bincount(piece["source"], minlength=len(sources))
            for label in LABELS:
                labels[label] += int(piece[f"has_{label}"].sum())
            tally(piece, [s.path for s in sources] if len(sources) <= MAX_LISTED else [], total)
    manifest = Manifest(
        n_structures=sum(s.n_structures for s in shards),
        n_atoms=sum(s.n_atoms for s in shards),
        elements={chemical_symbols[z]: int(counts[z]) for z in np.flatnonzero(counts)},
        labels=labels,
        statistics={name: t.plain() for name, t in total.items()},
        sources=[s.model_copy(update={"structures": int(k)}) for s, k in zip(sources, per_source)],
        shards=shards,
        hash=dataset_hash(shards),
        **described,
    )
    manifest.write(folder)
    return manifest
