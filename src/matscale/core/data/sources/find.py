"""Find the reader for a file that holds structures.

A reader turns a file into structures one at a time. It puts all other values of the file into `Structure.info`; results
of a calculator get the prefix "calculator:". `matscale.core.data.sources.labels` then finds the labels in `info`, in
the same way for all formats. Plugins supply readers by the hook `register_readers`.
"""

from __future__ import annotations

import fnmatch
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from matscale.core.data.sources import guard
from matscale.core.data.sources.labels import Keys, Unusable, attach
from matscale.core.data.sources.limits import current
from matscale.core.data.sources.reader import Frame, Reader
from matscale.core.data.store.manifest import FILE
from matscale.core.data.structure import Structure
from matscale.core.errors import DataError, MatscaleError

if TYPE_CHECKING:
    from matscale.core.hosting.loading import Plugin


def reader(name: str) -> Reader:
    """Find the reader called `name`. Raises ConfigError if there is none, and suggests the nearest name."""
    return _limited(_unlimited(name))


def _limited(known: Reader) -> Reader:
    """Add the limits of `matscale.core.data.sources.limits` to a reader.

    A reader with `is_guarded` is run in a separate process (see `guard`). Errors of the reader become a DataError that
    names the file and the structure.
    """

    def number(path: Path) -> int | None:
        try:
            (n,) = guard.stream(_COUNT, path, known.name) if known.is_guarded else (known.count(path),)
        except MatscaleError:
            raise
        except Exception as error:
            raise _raised(known, f"{path}", error) from error
        if n is not None and n > current().structures:
            raise _too_many(path, n)
        return n

    def read(path: Path, start: int, stop: int | None) -> Iterator[Frame]:
        limits, place = current(), start
        try:
            asked = (known.name, start, stop)
            for frame in guard.stream(_READ, path, *asked) if known.is_guarded else known.read(path, start, stop):
                if place >= limits.structures:
                    raise _too_many(path, place + 1)
                if isinstance(frame, Structure) and len(frame) > limits.atoms:
                    frame = Unusable("too many atoms", f"{len(frame):,}: {_ALLOW} atoms=...")
                yield frame
                place += 1
        except MatscaleError:
            raise
        except Exception as error:
            raise _raised(known, f"{path} structure {place}", error) from error

    return replace(known, read=read, count=number)


_ALLOW = "more than the limit; to read them, add --limit"
_READ, _COUNT = "matscale.core.data.sources.find:read_here", "matscale.core.data.sources.find:count_here"


def _too_many(path: Path, n: int) -> DataError:
    return DataError(f"{path}: has {n:,} structures or more, {_ALLOW} structures={2 * n}.")


def _raised(known: Reader, place: str, error: Exception) -> DataError:
    return DataError(
        f"{place}: the reader {known.name!r} cannot read it ({type(error).__name__}: {error}). "
        "The file may be damaged: restore it, or leave it out."
    )


def read_here(path: Path, name: str, start: int, stop: int | None) -> Iterator[Frame]:
    """Read structures of a file with the reader `name`.

    `guard.stream` calls this function in a separate process.
    """
    yield from _unlimited(name).read(path, start, stop)


def count_here(path: Path, name: str) -> Iterator[int | None]:
    """Count the structures of a file with the reader `name`.

    `guard.stream` calls this function in a separate process.
    """
    yield _unlimited(name).count(path)


def _unlimited(name: str) -> Reader:
    from matscale.core.hosting.host import host  # start-up: plugins

    found: Reader = _builtin().get(name) or host().find("reader", name).value
    return found


def reader_of(path: Path) -> Reader:
    """Find the reader for a file. Raises DataError if there is none."""
    # Outside plugins are imported only for a path that no built-in reader knows by name.
    for known in (_builtin, _outside):
        for candidate in known().values():
            if not candidate.is_generic and candidate.matches(path):
                return _limited(candidate)
    everyone = {**_outside(), **_builtin()}
    for candidate in everyone.values():
        if candidate.is_generic and candidate.matches(path):
            return _limited(candidate)
    if is_archive(path):
        raise DataError(f"{path}: is an archive, which matscale does not read. Unpack it, and give the files in it.")
    raise DataError(
        f"{path}: no reader knows this format. There are readers for: "
        f"{', '.join(f'{r.name} ({r.summary})' for r in everyone.values())}. A plugin can supply another."
    )


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(_ARCHIVES)


_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")


def _builtin() -> dict[str, Reader]:
    from matscale.core.hosting.host import host  # start-up: plugins

    readers: dict[str, Reader] = host().plugin("readers").require().provides.get("reader", {})
    return readers


def _outside() -> dict[str, Reader]:
    from matscale.core.hosting.host import host  # start-up: plugins

    outside = [plugin for plugin in host().plugins if not plugin.entry.builtin]
    return {name: _guarded(value, p) for p in outside for name, value in p.load().provides.get("reader", {}).items()}


def _guarded(outsider: Reader, plugin: Plugin) -> Reader:
    """Wrap the reader of a plugin, so that an error in its `matches` is only a warning.

    The file then counts as one that the reader does not know.
    """

    def matches(path: Path) -> bool:
        try:
            return bool(outsider.matches(path))
        except Exception as error:
            from matscale.core.hosting.observers import PluginWarning  # start-up: plugins

            raised = f"raised {type(error).__name__}: {error}"
            message = f"Plugin {plugin.describe()} {raised} when its reader {outsider.name!r} was asked about a file."
            warnings.warn(f"{message} Other readers are asked instead.", PluginWarning, stacklevel=3)
            return False

    return replace(outsider, matches=matches)


def find_sources(paths: Iterable[Path | str]) -> list[tuple[Path, Reader]]:
    """Find the files to read, each with its reader. This is the first part of the result of `survey`."""
    return survey(paths)[0]


def survey(paths: Iterable[Path | str]) -> tuple[list[tuple[Path, Reader]], list[Path]]:
    """Find the files at and below `paths`: the files to read, with their readers, and the files that no reader knows.

    A folder stands for all files in and below it that a reader knows, sorted by name. Hidden files, notes, licences,
    checksums and the like are not listed among the unknown files. Raises DataError for a path that does not exist, a
    given file of unknown format, a folder without any known file, and a file that is given twice.
    """
    found: list[tuple[Path, Reader]] = []
    passed: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder.")
        if path.is_dir():
            known, unknown = _files_below(path)
            found, passed = found + known, passed + unknown
        else:
            found.append((path, reader_of(path)))
    seen: Counter[Path] = Counter(path.resolve() for path, _ in found)
    twice = next((path for path, times in seen.items() if times > 1), None)
    if twice is not None:
        raise DataError(f"{twice}: is given twice, by itself or as part of a folder. Give it only once.")
    return found, passed


def _files_below(folder: Path) -> tuple[list[tuple[Path, Reader]], list[Path]]:
    if (folder / FILE).exists() and any(folder.glob("shard-*.safetensors")):
        raise DataError(f"{folder}: is packed already. Give the files that it was packed from.")
    found, passed = [], []
    for path in sorted(_visible(folder)):
        try:
            if not path.is_file():
                raise DataError(f"{path}: is a broken link, or a link to a folder.")
            found.append((path, reader_of(path)))
        except DataError:
            if not _is_side_file(path.name):
                passed.append(path)
    if not found:
        what = f" It has {', '.join(p.name for p in passed[:5])}." if passed else ""
        raise DataError(f"{folder}: holds no file of a known format.{what}")
    return found, passed


def _visible(folder: Path) -> Iterator[Path]:
    """List the files below a folder, except hidden ones. Links to folders are listed, too, but not followed.

    A link could lead back to a folder above it.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}). Make it readable, or leave it out.")

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        yield from (Path(place) / name for name in [*files, *links] if not name.startswith("."))


_SIDE_FILES = (
    *("readme*", "licen[sc]e*", "copying*", "notice*", "citation*", "changelog*", "authors*", "makefile", "dockerfile"),
    *("manifest*", "checksum*", "*sums", "*sums.txt", "*.md5", "*.sha1", "*.sha256", "*.sha512", "*.asc", "*.sig"),
    *("*.md", "*.rst", "*.pdf", "*.html", "*.tex", "*.bib", "*.png", "*.jpg", "*.svg", "*.ipynb"),
    *("*.py", "*.sh", "*.toml", "*.yaml", "*.yml", "*.ini", "*.cfg"),
    *("*.lock", "*-lock", "*.db-journal", "*.db-wal", "*.db-shm", "metadata.npz", "thumbs.db", "desktop.ini"),
)


def _is_side_file(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in _SIDE_FILES)


def read(path: Path | str, keys: Keys | None = None) -> Iterator[Structure]:
    """Read all structures of a file or folder, with their labels.

    Raises DataError at the first structure that cannot be read.
    """
    for source, responsible in find_sources([path]):
        for number, frame in zip(count(), responsible.read(source, 0, None)):
            if isinstance(frame, Unusable):
                raise DataError(f"{source}: structure {number}: {frame}.")
            try:
                attach(frame, keys or Keys())
            except Unusable as fault:
                raise DataError(f"{frame.source}: {fault}.") from None
            yield frame
