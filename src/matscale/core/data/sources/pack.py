"""Pack files into a dataset (`matscale data pack`) in parallel and in bounded memory.

The sources are divided into tasks of some thousand structures; the division depends on the sources only. For each task,
a process writes files with structures (pieces), and then a small record of the task. If the packing is killed and run
again, tasks with a record are not repeated. Finally the pieces are joined into shards. Therefore the result does not
depend on the number of workers or on interruptions.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

from matscale.core.data.sources import filters
from matscale.core.data.sources.find import survey
from matscale.core.data.sources.labels import NAMES, TOLERANCE, Keys
from matscale.core.data.sources.limits import Limits, current
from matscale.core.data.sources.pack_task import PackSettings, Result, Span, run_task
from matscale.core.data.sources.reader import Reader
from matscale.core.data.store.manifest import FILE, Manifest, SourceRecord
from matscale.core.data.store.writer import PARTS, PIECE_BYTES, SHARD_BYTES, check_precision, describe, join
from matscale.core.errors import DataError
from matscale.core.files import TEMPORARY, make_folder, remove, replacing, sweep_up, write_text
from matscale.core.locks import FolderLock, lock
from matscale.core.parallel import in_processes
from matscale.core.progress import SILENT, Reporter
from matscale.core.sealing import DamagedRecord, read_sealed, sealed

TASK = 4096
"""Number of structures in a task."""
SPANS = 64
"""Largest number of spans (parts of sources) in a task."""
REJECTED = "rejected.jsonl"
ORDER = "order.json"
"""File in the folder of pieces that tells `join_parts` which pieces to join."""
MAX_NOTES = 50
"""Largest number of different notes on one source in the manifest; the most frequent ones are kept."""


@dataclass(frozen=True)
class Packed:
    """Result of `pack`."""

    manifest: Manifest
    was_there: bool
    """Whether the folder held this dataset already, so that nothing had to be done."""


class PackOptions(TypedDict, total=False):
    """Options of a packing that determine its dataset."""

    filter: Iterable[str]
    """Conditions that a structure must meet to be kept: see `filters`."""
    keys: Keys | None
    """Names and units of labels in the files."""
    strict: bool
    """Whether a structure or file that cannot be used raises an error."""
    precision: str
    """`float64` or `float32`, of positions and forces."""
    task_size: int
    """Structures of a task, that is, of the work of one process at a time."""
    shard_bytes: int
    piece_bytes: int


def pack(
    sources: Iterable[Path | str],
    out: Path | str,
    *,
    workers: int = 1,
    progress: Reporter = SILENT,
    what: str = "Packing",
    **options: Unpack[PackOptions],
) -> Packed:
    """Pack files and folders into a dataset in `out`; the options are those of `PackOptions`.

    If `out` holds this dataset already, nothing is done; an interrupted packing is continued. A structure that cannot
    be used is left out and listed with its reason in `rejected.jsonl`. Raises DataError for labels that contradict each
    other, for sources without a usable structure, if `out` holds another dataset, and, with `strict`, at the first
    structure that cannot be used. Raises ConfigError for an invalid filter.
    """
    order = _ordered(sources, **options)
    out = Path(out)
    if (out / FILE).exists() and not _left(out):
        return _already(out, order)
    with _claimed(out, order.fingerprint) as parts:
        if parts is None:
            return _already(out, order)
        tasks, total = _plan(order.found, parts, order.task_size)
        report = partial(progress.stage, what)
        results = _run(order.recipe, tasks, range(len(tasks)), parts, workers, order.strict, total, report)
        manifest = _joined(out, parts, order, results)
    return Packed(manifest, was_there=False)


def pack_part(
    sources: Iterable[Path | str],
    out: Path | str,
    part: int,
    of: int,
    *,
    workers: int = 1,
    progress: Reporter = SILENT,
    what: str = "Packing",
    **options: Unpack[PackOptions],
) -> Packed | None:
    """Pack one of `of` parts of a dataset, number `part` counted from 1, into the folder `out` that all parts share.

    The parts may be packed at the same time; `join_parts` then makes the same dataset as `pack`. Returns
    None, or the dataset if `out` holds it already. The errors are those of `pack`.
    """
    order = _ordered(sources, **options)
    out = Path(out)
    with _prepared(out, order.fingerprint) as parts:
        if parts is None:
            return _already(out, order)
        tasks, total = _plan(order.found, parts, order.task_size)
        write_text(parts / ORDER, json.dumps(sealed({"of": of, **order.plain()})))
    own = range(part - 1, len(tasks), of)
    _run(order.recipe, tasks, own, parts, workers, order.strict, total // of, partial(progress.stage, what))
    return None


@dataclass(frozen=True)
class _Order:
    """Sources and options of a packing, with the other facts for its manifest."""

    recipe: PackSettings
    passed: tuple[str, ...]
    shard_bytes: int
    fingerprint: str
    found: tuple[tuple[Path, Reader], ...] = ()
    strict: bool = False
    task_size: int = TASK

    def plain(self) -> dict[str, Any]:
        rest = {"passed": self.passed, "shard_bytes": self.shard_bytes, "fingerprint": self.fingerprint}
        return {"recipe": asdict(self.recipe), **rest}

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> _Order:
        """Make an order from the result of `plain`; no readers are needed, since joining reads no sources."""
        given = values["recipe"]
        units = tuple((label, unit) for label, unit in given["keys"]["units"])
        recipe = PackSettings(
            tuple((path, form) for path, form in given["sources"]),
            tuple(given["filters"]),
            Keys(**{**given["keys"], "units": units}),
            given["precision"],
            given["piece_bytes"],
            Limits(**given["limits"]),
        )
        return cls(recipe, tuple(values["passed"]), values["shard_bytes"], values["fingerprint"])


def _ordered(
    sources: Iterable[Path | str],
    *,
    filter: Iterable[str] = (),
    keys: Keys | None = None,
    strict: bool = False,
    precision: str = "float64",
    task_size: int = TASK,
    shard_bytes: int = SHARD_BYTES,
    piece_bytes: int = PIECE_BYTES,
) -> _Order:
    check_precision(precision)
    found, passed = survey(sources)
    if strict and passed:
        raise DataError(f"{describe_passed(passed)} (--strict). Convert or unpack them, or move them elsewhere.")
    recipe = PackSettings(
        tuple((str(path), responsible.name) for path, responsible in found),
        tuple(f.text for f in filters.parse(filter)),
        keys or Keys(),
        precision,
        piece_bytes,
        current(),
    )
    fingerprint = _fingerprint(recipe, task_size, shard_bytes)
    return _Order(recipe, tuple(map(str, passed)), shard_bytes, fingerprint, tuple(found), strict, task_size)


def join_parts(out: Path | str) -> Packed:
    """Make the dataset in `out` from the parts that `pack_part` has packed there.

    Raises DataError, with the parts to pack again, if some are not complete.
    """
    out = Path(out)
    if (out / FILE).exists() and not _left(out):
        return Packed(Manifest.read(out), was_there=True)
    path = out / PARTS / ORDER
    if not path.is_file():
        raise DataError(f"{out}: holds no parts. `matscale data pack SRC... -o {out} --part 1/8` packs the first of 8.")
    try:
        told = read_sealed(path, required=True)
        order, of = _Order.parse(told), int(told["of"])
    except (DamagedRecord, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: is damaged ({error}). Pack one of the parts again: this writes the file.") from None
    with _claimed(out, order.fingerprint) as parts:
        if parts is None:  # another process was faster
            return Packed(Manifest.read(out), was_there=True)
        tasks, _ = _plan((), parts, TASK)
        found = [Result.read(parts, number) for number in range(len(tasks))]
        if missing := sorted({number % of + 1 for number, result in enumerate(found) if result is None}):
            listed = ", ".join(f"{part}/{of}" for part in missing[:8]) + (", ..." if len(missing) > 8 else "")
            raise DataError(f"{out}: not all parts are complete. Pack again with --part {listed}; then join them.")
        manifest = _joined(out, parts, order, [result for result in found if result is not None])
    return Packed(manifest, was_there=False)


def _joined(out: Path, parts: Path, order: _Order, results: list[Result]) -> Manifest:
    """Join the pieces of all tasks into shards, and describe them."""
    recipe = order.recipe
    records = _records(recipe, results)
    isolated = _isolated(results)
    names = [parts / name for result in results for name in result.pieces]
    shards = join(names, out, order.shard_bytes, done=_unlink)
    _collect_rejected(parts, len(results), out / REJECTED)
    return describe(
        out,
        shards,
        records,
        filters=list(recipe.filters),
        precision=recipe.precision,
        fingerprint=order.fingerprint,
        rejected=sum(r.rejected for r in records),
        filtered=sum(r.filtered for r in records),
        isolated_atoms=isolated,
        passed_over=list(order.passed),
    )


def _fingerprint(recipe: PackSettings, *cut: int) -> str:
    """Hash of the input files (path, size, modification time) and of all options that affect the result."""
    files = [(str(Path(p).resolve()), Path(p).stat().st_size, Path(p).stat().st_mtime_ns) for p, _ in recipe.sources]
    asked = {key: value for key, value in asdict(recipe).items() if key != "limits"} | recipe.limits.changed()
    if not recipe.keys.units:  # without limits as in older versions, so that their datasets keep their fingerprint
        del asked["keys"]["units"]
    return hashlib.sha256(json.dumps([files, asked, cut]).encode()).hexdigest()


def describe_passed(passed: Sequence[Path | str]) -> str:
    """Describe files that no reader knows: how many, of which kinds, and the names of the first ones."""
    kinds = Counter("".join(Path(path).suffixes[-2:]) or "no suffix" for path in passed)
    names = ", ".join(map(str, passed[:5])) + (", ..." if len(passed) > 5 else "")
    shown = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(8)) + (", ..." if len(kinds) > 8 else "")
    return f"{len(passed)} files were skipped, since no reader knows them ({shown}): {names}"


def _already(out: Path, order: _Order) -> Packed:
    manifest = Manifest.read(out)
    if manifest.fingerprint != order.fingerprint:
        raise DataError(
            f"{out}: holds a dataset that was packed from other files, or with other options. "
            "Choose another folder, or remove this one."
        )
    if order.strict and manifest.rejected:
        raise DataError(
            f"{out}: {manifest.rejected} structures were left out (--strict); {out / REJECTED} lists them. "
            "Correct them, or leave out --strict."
        )
    return Packed(manifest, was_there=True)


def _left(out: Path) -> bool:
    """Whether there are temporary files, left by a process that was killed after it completed the dataset."""
    return (out / PARTS).exists() or any(out.glob(f".*{TEMPORARY}-*"))


@contextmanager
def _claimed(out: Path, fingerprint: str) -> Iterator[Path | None]:
    """Context that locks `out` against other processes and gives the folder of pieces.

    It gives None if another process has finished the dataset. Pieces of a packing with another fingerprint are deleted
    at the start, and the folder of pieces at the end.
    """
    make_folder(out)
    with FolderLock(out, "is packing into it", "choose another folder", DataError):
        parts, mark = out / PARTS, out / PARTS / "recipe"
        if (out / FILE).exists():  # another process was faster
            sweep_up(out, alone=True)
            remove(parts)
            yield None
            return
        _begin_parts(out, parts, mark, fingerprint)
        sweep_up(out, alone=True)
        sweep_up(parts, alone=True)
        yield parts
        remove(parts)


@contextmanager
def _prepared(out: Path, fingerprint: str) -> Iterator[Path | None]:
    """Context for the preparation of one part, during which other parts wait; it gives the same value as `_claimed`.

    After it, all parts write at the same time, each the files of its own tasks.
    """
    make_folder(out)
    with lock(out / ".lock"):
        if (out / FILE).exists():
            yield None
            return
        parts = out / PARTS
        if (parts / ORDER).exists() and (parts / "recipe").read_text() != fingerprint:
            raise DataError(f"{out}: its parts are of other files, or have other options. Choose another folder.")
        _begin_parts(out, parts, parts / "recipe", fingerprint)
        yield parts


def _begin_parts(out: Path, parts: Path, mark: Path, fingerprint: str) -> None:
    """Make the folder of pieces, unless there is one of the same packing."""
    if not mark.is_file() or mark.read_text() != fingerprint:
        remove(parts)
        make_folder(parts)
        for left in out.glob("shard-*.safetensors"):
            remove(left)
        write_text(mark, fingerprint)


def _plan(found: Sequence[tuple[Path, Reader]], parts: Path, size: int) -> tuple[list[list[Span]], int]:
    """Divide the sources into tasks, each a list of spans. Also returns the total number of structures.

    Sources whose structures cannot be counted without reading them are missing in this number.
    """
    plan = parts / "plan.json"
    if plan.exists():  # counting reads text files completely, so it is done only once
        try:
            kept = read_sealed(plan, required=True)
        except DamagedRecord as error:
            raise DataError(f"{error} Remove {parts}, and pack again.") from None
        return [[Span(*span) for span in task] for task in kept["tasks"]], kept["total"]
    tasks: list[list[Span]] = []
    room, total = 0, 0
    for number, (path, responsible) in enumerate(found):
        n = responsible.count(path)
        total += n or 0
        # The last span of a source has no end, so that the reader reaches the end of the file and closes it.
        starts = range(0, max(n, 1), size) if n is not None else range(1)
        for start in starts:
            stop = None if start == starts[-1] else start + size
            length = size if n is None else min(size, n - start)
            if not tasks or length > room or len(tasks[-1]) >= SPANS:
                tasks.append([])
                room = size
            tasks[-1].append(Span(number, start, stop))
            room -= max(length, 1) if n is not None else size // SPANS
    plain = {"total": total, "tasks": [[list(asdict(s).values()) for s in t] for t in tasks]}
    write_text(plan, json.dumps(sealed(plain)))
    return tasks, total


def _run(
    recipe: PackSettings,
    tasks: Sequence[list[Span]],
    own: range,
    parts: Path,
    workers: int,
    strict: bool,
    total: int,
    report: Callable[[int, int], None],
) -> list[Result]:
    """Do the tasks with the numbers `own`, except finished ones; return their records."""
    results = {number: r for number in own if (r := Result.read(parts, number)) is not None}
    missing = [number for number in own if number not in results]
    done = sum(result.seen for result in results.values())

    def take(number: int, result: Result) -> None:
        nonlocal done
        results[number] = result
        done += result.seen
        report(done, max(total, done))

    report(done, max(total, done))
    for result in results.values():
        _refuse_rejected(result, strict)
    given = ((recipe, number, tasks[number], parts, strict) for number in missing)
    for k, result in in_processes(run_task, given, min(workers, len(missing))):
        take(missing[k], result)
    return [results[number] for number in own]


def _refuse_rejected(result: Result, strict: bool) -> None:
    if strict and result.first_rejected:
        raise DataError(f"{result.first_rejected} (--strict)")


def _records(recipe: PackSettings, results: Sequence[Result]) -> list[SourceRecord]:
    """Make the manifest's record of each source.

    Raises DataError if there is no usable structure, or if a key that the user gave occurs in none of the files.
    """
    used: list[dict[str, Counter[str]]] = [{label: Counter() for label in NAMES} for _ in recipe.sources]
    rejected, filtered, reasons = Counter[int](), Counter[int](), Counter[str]()
    notes: list[Counter[str]] = [Counter() for _ in recipe.sources]
    for result in results:
        rejected.update({int(s): k for s, k in result.rejected.items()})
        filtered.update({int(s): k for s, k in result.filtered.items()})
        reasons.update(result.reasons)
        for source, label, key, n in result.keys:
            used[source][label][key] += n
        for source, note, n in result.notes:
            notes[source][note] += n
    if not any(result.kept for result in results):
        why = ", ".join(f"{reason} ({n})" for reason, n in reasons.most_common(5)) or "the sources have none"
        first = next((f" The first: {r.first_rejected}." for r in results if r.first_rejected), "")
        raise DataError(f"No structure could be packed: {why}.{first}")
    for label in NAMES:
        given = getattr(recipe.keys, label)
        if given is not None and not any(counts[label] for counts in used):
            raise DataError(f"--key {label}={given}: no structure has a value of this name. Nothing was packed.")
    return [
        SourceRecord(
            path=path,
            format=form,
            keys={label: ", ".join(sorted(c)) for label, c in used[number].items() if c},
            rejected=rejected[number],
            filtered=filtered[number],
            notes=dict(notes[number].most_common(MAX_NOTES)),
        )
        for number, (path, form) in enumerate(recipe.sources)
    ]


def _isolated(results: Sequence[Result]) -> dict[str, float]:
    """Collect the energies [eV] of isolated atoms, by element symbol.

    Raises DataError if two isolated atoms of one element have different energies.
    """
    found: dict[str, tuple[float, str]] = {}
    for symbol, energy, place in (atom for result in results for atom in result.isolated):
        first, where = found.setdefault(symbol, (energy, place))
        if abs(first - energy) > TOLERANCE["energy"]:
            raise DataError(
                f"Two isolated atoms of {symbol} have different energies: {first:.6g} eV ({where}) and {energy:.6g} eV "
                f"({place}). Keep one of them, or leave all out: --filter 'n_atoms>1'."
            )
    return {symbol: energy for symbol, (energy, _) in sorted(found.items())}


def _unlink(pieces: list[Path]) -> None:
    for piece in pieces:
        remove(piece)


def _collect_rejected(parts: Path, n_tasks: int, out: Path) -> None:
    with replacing(out) as file:
        for number in range(n_tasks):
            with open(parts / f"task-{number:08d}.rejected.jsonl", "rb") as part:
                shutil.copyfileobj(part, file)
