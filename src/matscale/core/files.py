"""Write files and folders completely or not at all, with clear errors. Tests can simulate faults of the disk.

A file is written under a temporary name, flushed to the disk and renamed; its folder is flushed, too. Without these
flushes, a power cut can leave empty files on common file systems. The file mode follows the umask.

The temporary name, `.NAME.partial-HOST-PID`, identifies the writing process. Files of a dead process are deleted by the
next process that writes into the folder (`sweep_up`). A process counts as dead if no process on this host has its PID.
Whether a process on another host is dead cannot be seen; its files are deleted only by a caller that holds the lock of
the folder.

For tests only, environment variables cause faults. Each operation has a fault point before it and one after it; a write
has another one after half of its bytes. Points are counted from 1 in each process, over its threads.
`MATSCALE_FAULT=kill@137` ends the process with SIGKILL at point 137. With `enospc@137` (or another name of an errno),
the operation at this point fails; with `enospc@137+`, all operations from this point on fail, as on a full disk.
`MATSCALE_FAULT_COUNT=FILE` appends a line to FILE at each point.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from matscale.core.errors import MatscaleError

TEMPORARY = ".partial"
"""Part of the temporary name of a file or folder that is not complete yet."""
FAULT, FAULT_COUNT = "MATSCALE_FAULT", "MATSCALE_FAULT_COUNT"
BLOCK = 1 << 20
"""Largest number of bytes that are written at a time."""

_LEFT = re.compile(rf"\..+{re.escape(TEMPORARY)}-(?:(?P<host>.+)-)?(?P<pid>\d+)")
_HOST = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname())[:64] or "localhost"

_FULL = "Free space on that disk, or choose a folder on another disk"
_FORBIDDEN = "Choose a folder that you may write to, or change its permissions"
_GONE = "Check that the folder exists and that nothing else has its name, or choose another folder"
_BROKEN = "The disk, or the network to it, has a fault: see the system's log, or choose another disk"
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "Your quota is used up: delete something, have it raised, or choose a folder on another disk",
    errno.EFBIG: "A limit forbids a file of this size (`ulimit -f`, or the file system's own): raise it",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: "The disk is mounted read-only: choose a folder on another disk",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ENOENT: _GONE,
    errno.ENOTDIR: _GONE,
    errno.EEXIST: _GONE,
    errno.EISDIR: "A folder has this name: choose another name",
    errno.EMFILE: "Too many files are open: raise the limit (`ulimit -n`)",
    errno.ENFILE: "Too many files are open on this machine: close some",
    errno.EIO: _BROKEN,
    errno.ESTALE: _BROKEN,
}


class DiskError(MatscaleError):
    """Error for a file or folder that could not be written. Its previous content is unchanged."""

    errno: int | None = None

    @classmethod
    def of(cls, path: Path | str, error: OSError) -> DiskError:
        """Make a DiskError for `path` from an OSError, with advice on what to do."""
        advice = _ADVICE.get(error.errno or 0, "Remove the cause, or choose another folder")
        found = cls(f"{path}: cannot be written ({error.strerror or error}). {advice}; then run the same again.")
        found.errno = error.errno
        return found

    def told(self, more: str) -> DiskError:
        """Copy the error, with the sentence `more` added to its message."""
        found = DiskError(f"{self} {more}")
        found.errno = self.errno
        return found


def open_file(path: Path | str) -> io.BufferedReader:
    """Open a regular file to read its bytes.

    Raises OSError (EINVAL) for pipes and devices: reading a pipe could wait without end, and a device has no end.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EISDIR if os.path.isdir(path) else errno.EINVAL, "is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def sha256_of(file: Path | io.BufferedReader) -> str:
    """SHA-256 of a file, which is given by its path or open for reading. Raises OSError as `open_file` does."""
    if isinstance(file, Path):
        with open_file(file) as opened:
            return sha256_of(opened)
    return hashlib.file_digest(file, "sha256").hexdigest()


# Faults ---------------------------------------------------------------------------------------------------------------

_reached = 0
_counting = threading.Lock()


def _due(what: str, path: Path | str) -> bool:
    """Count a fault point. Returns whether the environment variable asks for a fault at this point."""
    wanted, listed = os.environ.get(FAULT), os.environ.get(FAULT_COUNT)
    if wanted is None and listed is None:
        return False
    global _reached
    with _counting:
        _reached += 1
        here = _reached
        if listed is not None:
            with open(listed, "a", encoding="utf-8") as file:
                file.write(f"{here} {what} {path}\n")
    _, _, place = (wanted or "").partition("@")
    return bool(place) and (here >= int(place[:-1]) if place.endswith("+") else here == int(place))


def _fail() -> None:
    kind = os.environ[FAULT].partition("@")[0]
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    number = getattr(errno, kind.upper())
    raise OSError(number, os.strerror(number))


@contextmanager
def _operation(what: str, path: Path | str) -> Iterator[None]:
    """Context for one operation on the disk, with a fault point before and after it.

    Raises DiskError that names `path`.
    """
    try:
        if _due(f"before {what}", path):
            _fail()
        yield
        if _due(f"after {what}", path):
            _fail()
    except OSError as error:
        raise DiskError.of(path, error) from error


# Operations -----------------------------------------------------------------------------------------------------------


class _Raw(io.FileIO):
    """Open temporary file whose errors name its final path, `target`."""

    def __init__(self, descriptor: int, target: Path) -> None:
        super().__init__(descriptor, "wb")
        self.target = target

    def write(self, data: Any) -> int:
        with _operation("write", self.target):
            block = memoryview(data).cast("B")[:BLOCK]
            if _due("amid write", self.target):
                super().write(block[: len(block) // 2])
                _fail()
            return super().write(block)


def _open(path: Path, flags: int, target: Path) -> _Raw:
    with _operation("open", target):
        return _Raw(os.open(path, flags | os.O_WRONLY | os.O_CREAT, 0o666), target)


def open_lock(path: Path) -> int:
    """Open a file for locking, and return its descriptor. The file is created if it does not exist.

    Raises DiskError if that is impossible.
    """
    with _operation("open", path):
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _fsync(descriptor: int, path: Path) -> None:
    with _operation("fsync", path):
        os.fsync(descriptor)


def _flush_folder(path: Path) -> None:
    with _operation("fsync_folder", path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless they exist. Raises DiskError if that is impossible."""
    if not path.is_dir():
        with _operation("mkdir", path):
            path.mkdir(parents=True, exist_ok=True)


def rename(source: Path, target: Path) -> None:
    """Rename a file or a folder within its folder, and flush the change to the disk.

    Raises DiskError if that is impossible.
    """
    with _operation("rename", target):
        os.rename(source, target)
    _flush_folder(target.parent)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it exists.

    A folder is renamed first, so that under its own name it is never half-deleted. Raises DiskError if it cannot be
    deleted.
    """
    if not path.is_dir() or path.is_symlink():
        with _operation("unlink", path):
            path.unlink(missing_ok=True)
        return
    doomed = path
    if not _LEFT.fullmatch(path.name):
        doomed = _temporary(path.with_name(f"{path.name}.old"))
        with _operation("rename", path):
            os.rename(path, doomed)
    with _operation("unlink", path):
        shutil.rmtree(doomed)


# Files of dead processes
# -----------------------------------------------------------------------------------------------

_mine: set[Path] = set()
"""Temporary names that this process uses.

After a fork they include names of the parent, which have the PID of the parent.
"""
_swept: set[tuple[int, Path]] = set()


def _temporary(path: Path) -> Path:
    """Choose a temporary name in the folder of `path`.

    At the first call for a folder, temporary files of dead processes in it are deleted.
    """
    folder = path.parent.absolute()
    if (os.getpid(), folder) not in _swept:
        _swept.add((os.getpid(), folder))
        sweep_up(folder)
    name = path.name if len(os.fsencode(path.name)) <= 128 else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    temporary = folder / f".{name}{TEMPORARY}-{_HOST}-{os.getpid()}"
    _mine.add(temporary)
    return temporary


def sweep_up(folder: Path, *, alone: bool = False) -> None:
    """Delete the files and folders that dead processes left half-written in `folder`.

    Set `alone` if the caller holds the lock of the folder; then those of other hosts are deleted, too.
    """
    with suppress(OSError, DiskError):  # the folder is missing or read-only: the next write will report it
        for path in [Path(entry) for entry in os.scandir(folder)]:
            match = _LEFT.fullmatch(path.name)
            if match and path.absolute() not in _mine and (alone or _is_dead(match["host"], int(match["pid"]))):
                remove(path)


def _is_dead(host: str | None, pid: int) -> bool:
    if host not in (None, _HOST):
        return False
    if pid == os.getpid():  # PIDs are reused, often in containers: names of this process are in `_mine`
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


# Whole or not at all --------------------------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary binary file. It replaces `path` if the block succeeds, and is deleted if the block fails.

    Raises DiskError if the file cannot be written. A device or a pipe is refused, since the file would replace it.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DiskError(f"{path}: is not a plain file, but a device or a pipe. Choose the name of a file.")
    temporary = _temporary(path)
    try:
        raw = _open(temporary, os.O_EXCL, path)
        try:
            file = io.BufferedWriter(raw, BLOCK)
            yield file
            file.flush()
            _fsync(raw.fileno(), path)
        finally:
            raw.close()  # before the buffer, which would try to write its content again
        rename(temporary, path)
    finally:
        _discard(temporary)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Make a temporary folder. It replaces `path` if the block succeeds, and is deleted if the block fails.

    Files in it must be written by the functions of this module. Raises DiskError if the folder cannot be written.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        with _operation("mkdir", path):
            temporary.mkdir()
        yield temporary
        _flush_folder(temporary)
        if path.exists():
            remove(path)
        rename(temporary, path)
    finally:
        _discard(temporary)


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Context with a temporary folder that only this user can read. It is deleted at the end.

    The folder lies in the system's folder for temporary files. Raises DiskError if it cannot be made.
    """
    temporary = _temporary(Path(tempfile.gettempdir()) / f"matscale-{name}")
    try:
        with _operation("mkdir", temporary):
            temporary.mkdir(mode=0o700)
        yield temporary
    finally:
        _discard(temporary)


def _discard(temporary: Path) -> None:
    with suppress(OSError):  # it is left to `sweep_up`; the earlier error matters more
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)
    _mine.discard(temporary)


@contextmanager
def appending(path: Path, *, keep: bool = False) -> Iterator[BinaryIO]:
    """Open a binary file to append to, without a buffer. It is flushed to the disk if the block succeeds.

    If a write fails, the appended bytes are removed, unless `keep` is set. Raises DiskError if the file cannot be
    written.
    """
    raw = _open(path, os.O_APPEND, path)
    try:
        size = os.fstat(raw.fileno()).st_size
        try:
            yield raw
            _fsync(raw.fileno(), path)
        except DiskError:
            if not keep:
                with suppress(OSError):
                    os.ftruncate(raw.fileno(), size)
            raise
    finally:
        raw.close()


def write_blocks(path: Path, blocks: Iterable[bytes | memoryview]) -> None:
    """Write `blocks`, in order, to a file that replaces `path`."""
    with replacing(path) as file:
        for block in blocks:
            file.write(block)


def write_text(path: Path, text: str) -> None:
    """Write `text` to a file that replaces `path`."""
    write_blocks(path, [text.encode("utf-8")])


def append_text(path: Path, text: str) -> None:
    """Append to a text file. The text is on the disk when this returns."""
    with appending(path) as file:
        write_all(file, text.encode("utf-8"))


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write all bytes to an unbuffered file. One call of its `write` may take only some of them."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def write_json(path: Path, values: Any) -> None:
    """Write `values` as JSON to a file that replaces `path`. Numbers that are not finite become null."""
    write_text(path, json.dumps(finite(values), indent=1, allow_nan=False) + "\n")


def finite(values: Any) -> Any:
    """Replace NaN and infinities by None in nested values, since JSON has no such numbers.

    >>> finite({"loss": float("nan"), "errors": [0.5, float("inf")]})
    {'loss': None, 'errors': [0.5, None]}
    """
    if isinstance(values, dict):
        return {key: finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    if isinstance(values, float) and (values != values or values in (float("inf"), float("-inf"))):
        return None
    return values
