"""Task of a packing: reads parts of the sources, leaves out unusable structures, and writes the others to files."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from matscale.core.data.sources import filters
from matscale.core.data.sources.find import reader
from matscale.core.data.sources.labels import MISSING, Keys, Unusable, attach
from matscale.core.data.sources.limits import Limits, using
from matscale.core.data.sources.remarks import is_isolated_atom
from matscale.core.data.sources.screen import screen
from matscale.core.data.store.shard import arrays_of, narrowed, write_shard
from matscale.core.data.store.writer import PLAN
from matscale.core.data.structure import Structure
from matscale.core.errors import DataError
from matscale.core.files import sha256_of, write_text
from matscale.core.sealing import DIGEST, DamagedRecord, read_sealed, sealed


@dataclass(frozen=True)
class Span:
    """Part of a source that one task reads: structures `start` to `stop` − 1.

    If `stop` is None, the part extends to the end of the source.
    """

    source: int
    start: int
    stop: int | None


@dataclass(frozen=True)
class PackSettings:
    """Sources and options of a packing."""

    sources: tuple[tuple[str, str], ...]
    """For each source: (path, name of the reader)."""
    filters: tuple[str, ...]
    keys: Keys
    precision: str
    piece_bytes: int
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Result:
    """Record of a finished task of a packing."""

    pieces: dict[str, str]
    """SHA-256 of each file that the task wrote, by file name."""
    seen: int
    kept: int
    rejected: dict[str, int]
    """Number of structures that could not be used, by source; a source is given by its number."""
    filtered: dict[str, int]
    """Number of structures that a filter left out, by source; a source is given by its number."""
    reasons: dict[str, int]
    keys: list[tuple[int, str, str, int]]
    """Entries (number of the source, label, key under which the label was found, number of structures)."""
    first_rejected: str
    notes: list[tuple[int, str, int]] = field(default_factory=list)
    """Entries (number of the source, decision made while reading, number of structures)."""
    isolated: list[tuple[str, float, str]] = field(default_factory=list)
    """Entries (element symbol, energy [eV], file and position in it), one for each isolated atom."""

    @classmethod
    def read(cls, parts: Path, number: int) -> Result | None:
        """Read the record of a task. Returns None if there is no record, or if a file that the task wrote has changed.

        Then the task has to be done. Files of the task may be missing once they are being joined into shards; `join`
        knows which shards hold them.
        """
        path = parts / f"task-{number:08d}.json"
        if not path.exists():
            return None
        try:
            values = read_sealed(path, required=True)
            del values[DIGEST]
            result = cls(**values)
            joining = (parts / PLAN).exists()
            whole = all(
                sha256_of(parts / name) == digest if (parts / name).is_file() else joining
                for name, digest in result.pieces.items()
            )
        except (DamagedRecord, TypeError, AttributeError, OSError):
            return None
        return result if whole else None


def run_task(recipe: PackSettings, number: int, spans: list[Span], parts: Path, strict: bool) -> Result:
    """Do a task, and write its record at the end.

    With `strict`, raises DataError at the first unusable structure.
    """
    task = _Task(recipe, number, parts, strict)
    with using(recipe.limits):
        for span in spans:
            task.read(span)
    return task.finish()


class _Task:
    def __init__(self, recipe: PackSettings, number: int, parts: Path, strict: bool) -> None:
        self.recipe, self.number, self.parts, self.strict = recipe, number, parts, strict
        self.filters = filters.parse(recipe.filters)
        self.structures: list[Structure] = []
        self.sources: list[int] = []
        self.bytes, self.seen, self.kept = 0, 0, 0
        self.pieces: dict[str, str] = {}
        self.lines: list[str] = []
        self.rejected, self.filtered = Counter[str](), Counter[str]()
        self.reasons, self.keys = Counter[str](), Counter[tuple[int, str, str]]()
        self.notes = Counter[tuple[int, str]]()
        self.isolated: list[tuple[str, float, str]] = []
        self.first_rejected = ""

    def read(self, span: Span) -> None:
        path, form = self.recipe.sources[span.source]
        for offset, frame in enumerate(_reader(form).read(Path(path), span.start, span.stop)):
            self.seen += 1
            place = f"{path} structure {span.start + offset}"
            if isinstance(frame, Unusable):
                self._leave_out(span.source, place, frame)
            else:
                self._take(span.source, frame)

    def _take(self, source: int, structure: Structure) -> None:
        try:
            used = attach(structure, self.recipe.keys)
            screen(structure)
        except Unusable as fault:
            self._leave_out(source, structure.source, fault)
            return
        for condition in self.filters:
            complaint = condition.complaint(structure)
            if complaint is not None:
                self.filtered[str(source)] += 1
                self._note(structure.source, f"filter {condition.text}", complaint)
                return
        masked = next((note for note in structure.notes if note.endswith(MISSING)), None)
        if self.strict and masked:
            raise DataError(f"{structure.source}: {masked} (--strict).")
        if is_isolated_atom(structure):
            self._keep_apart(source, structure)
            return
        self.keys.update((source, label, key) for label, key in used.items())
        self.notes.update((source, note) for note in structure.notes)
        structure.info, structure.metadata, structure.notes = (
            {},
            {},
            [],
        )  # found; keeping more would fill the memory
        self.structures.append(structure)
        self.sources.append(source)
        self.kept += 1
        self.bytes += 49 * len(structure) + 192
        if self.bytes >= self.recipe.piece_bytes:
            self._spill()

    def _keep_apart(self, source: int, structure: Structure) -> None:
        if structure.energy is None:
            self.notes[source, "isolated atoms without an energy are left out"] += 1
            return
        self.notes[source, "isolated atoms (config_type) are kept apart: their energies are in the manifest"] += 1
        self.isolated.append((structure.formula, structure.energy, structure.source))

    def _leave_out(self, source: int, place: str, fault: Unusable) -> None:
        if self.strict:
            raise DataError(
                f"{place}: {fault}. Correct it, or leave out --strict: then it is skipped and listed in rejected.jsonl."
            )
        self.rejected[str(source)] += 1
        self.first_rejected = self.first_rejected or f"{place}: {fault}"
        self._note(place, fault.reason, fault.detail)

    def _note(self, place: str, reason: str, detail: str) -> None:
        self.reasons[reason] += 1
        self.lines.append(json.dumps({"structure": place, "reason": reason, "detail": detail}) + "\n")

    def _spill(self) -> None:
        name = f"part-{self.number:08d}-{len(self.pieces):04d}.safetensors"
        arrays = narrowed(arrays_of(self.structures, self.sources), self.recipe.precision)
        self.pieces[name] = write_shard(self.parts / name, [arrays])
        self.structures, self.sources, self.bytes = [], [], 0

    def finish(self) -> Result:
        if self.structures:
            self._spill()
        name = f"task-{self.number:08d}"
        write_text(self.parts / f"{name}.rejected.jsonl", "".join(self.lines))
        result = Result(
            pieces=self.pieces,
            seen=self.seen,
            kept=self.kept,
            rejected=dict(self.rejected),
            filtered=dict(self.filtered),
            reasons=dict(self.reasons),
            keys=[(*key, n) for key, n in sorted(self.keys.items())],
            first_rejected=self.first_rejected,
            notes=[(*note, n) for note, n in sorted(self.notes.items())],
            isolated=self.isolated,
        )
        write_text(self.parts / f"{name}.json", json.dumps(sealed(asdict(result))))
        return result


@cache
def _reader(name: str) -> Any:
    return reader(name)
