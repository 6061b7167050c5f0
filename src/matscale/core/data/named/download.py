"""Download files, resuming after a broken connection, and unpack archives completely or not at all."""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import time
import zlib
from pathlib import Path
from typing import Any

from matscale.core.data.sources.limits import FREE, current, shown
from matscale.core.errors import DataError
from matscale.core.files import (
    DiskError,
    appending,
    make_folder,
    remove,
    rename,
    replacing_folder,
    sha256_of,
    write_all,
    write_text,
)
from matscale.core.progress import SILENT, Reporter

RETRIES = 6
"""Number of successive attempts without any new data after which the download is given up."""
PAUSE = 1.0
"""Pause before the second attempt [s]; it doubles before each further attempt."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
CHUNK = 1 << 16
"""Bytes received at a time; at most this number is lost if a connection breaks."""
REPORT = 0.2
"""Seconds between reports of progress."""


def retrieve(
    url: str, path: Path, sha256: str | None = None, progress: Reporter = SILENT, what: str = "Downloading"
) -> Path:
    """Download `url` to `path`, unless the file is there.

    Received bytes are kept in `<path>.part`; a later call continues from there. Raises DataError if the download fails
    or has another SHA-256 than `sha256`.
    """
    if path.is_file() and (sha256 is None or sha256_of(path) == sha256):
        return path
    make_folder(path.parent)
    part = path.with_name(path.name + ".part")
    Resuming(part, progress, what)(url)
    found = None if sha256 is None else sha256_of(part)
    if found != sha256:
        remove(part)
        raise DataError(
            f"{url}: is not the published file (its SHA-256 is {found}, not {sha256}). Try again; if that does not "
            "help, report it."
        )
    rename(part, path)
    return path


class Stopped(DataError):
    """Error for a download that was given up, since the server cannot be reached or sends no more data."""


class Resuming:
    """Downloader that requests only the rest of a file (HTTP Range) if the file on the server has not changed."""

    def __init__(self, part: Path, progress: Reporter = SILENT, what: str = "Downloading") -> None:
        self.part, self.progress, self.what = part, progress, what
        self._mark = part.with_name(part.name + ".etag")

    def __call__(self, url: str) -> None:
        import requests  # start-up: requests

        failures, error = 0, ""
        while failures < RETRIES:
            before = self._size()
            try:
                if self._fetch(url):
                    remove(self._mark)
                    return
                error = "the connection ended early"
            except requests.RequestException as broken:
                error = str(broken)
            failures = failures + 1 if self._size() <= before else 0
            if 0 < failures < RETRIES:
                time.sleep(PAUSE * 2 ** (failures - 1))
        if not self._size():
            raise Stopped(f"{url}: nothing could be downloaded ({error}).")
        raise Stopped(
            f"{url}: the download stopped at {self._size():,} bytes ({error}). This part is kept in {self.part}: "
            "run the same command again to download the rest."
        )

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _fetch(self, url: str) -> bool:
        """Download over one connection; return whether the file is complete."""
        import requests  # start-up: requests

        have = self._size()
        headers = {"Accept-Encoding": "identity"}
        if have and self._mark.exists():
            headers |= {"Range": f"bytes={have}-", "If-Range": self._mark.read_text(encoding="utf-8")}
        else:
            have = 0  # the part may belong to another file: begin again
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if 400 <= response.status_code < 500 and response.status_code not in (408, 416, 429):
                answer = f"{response.status_code} {response.reason}"
                raise DataError(f"{url}: the server answers {answer}. The file may have moved: see the dataset's page.")
            if response.status_code == 416:  # the part is as long as the file or longer, so it is not trusted
                remove(self.part)
                return False
            response.raise_for_status()
            if response.status_code != 206:
                have = 0  # no support for ranges, or the file has changed
            elif _begins(response) != have:
                remove(self.part)  # another piece than requested; appending it would damage the file
                return False
            length = _whole(response.headers.get("Content-Length"))
            total = have + length if length else 0
            self._check_space(url, length)
            self._remember(response.headers.get("ETag") or response.headers.get("Last-Modified"))
            self._store(response, have, total)
        return not total or self._size() == total

    def _remember(self, mark: str | None) -> None:
        if mark and not mark.startswith("W/"):  # a weak ETag does not guarantee equal bytes
            write_text(self._mark, mark)
        else:
            remove(self._mark)

    def _store(self, response: Any, have: int, total: int) -> None:
        reported = 0.0
        if not have:
            remove(self.part)
        with appending(self.part, keep=True) as file:
            for chunk in response.iter_content(CHUNK):
                write_all(file, chunk)
                have += len(chunk)
                if have == total or time.monotonic() > reported + REPORT:
                    self.progress.stage(self.what, have, total)
                    reported = time.monotonic()

    def _check_space(self, url: str, length: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if length > free:
            raise DataError(
                f"{url}: needs {length / 1e9:.1f} GB more, but {self.part.parent} has {free / 1e9:.1f} GB left. "
                "Choose a folder on a larger disk (-o)."
            )


def _whole(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 19 else 0


def _begins(response: Any) -> int:
    """First byte of the range that the server sends; -1 if the server does not state it."""
    found = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def extract(archive: Path, folder: Path) -> Path:
    """Unpack a .tar, .tar.gz, ... into a new `folder`, which appears only when it is complete.

    Only plain files and folders inside `folder` are unpacked: absolute paths, `..`, links that lead out of the folder,
    and devices are refused. Raises DataError for an archive with such entries or a damaged one, and deletes the
    archive, so that the next attempt downloads it again. Raises DataError, but keeps the archive, if the unpacked files
    exceed `Limits` or the space on the disk.
    """
    make_folder(folder.parent)
    try:
        with replacing_folder(folder) as building, tarfile.open(archive) as tar:
            room = _Room(archive, building)
            for member in tar:
                room.take(member)
                tar.extract(member, building, filter="data")
            rest = tar.fileobj is not None
            while rest:  # the tar ends before the file, since the checksum of gzip comes last
                rest = bool(tar.fileobj and tar.fileobj.read(1 << 20))
                room.skip(1 << 20)
    except tarfile.FilterError as error:
        archive.unlink()
        raise DataError(
            f"{archive}: has an entry outside its folder ({error}). The archive was deleted; do not trust its source."
        ) from None
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        archive.unlink()
        raise DataError(
            f"{archive}: is damaged or cut short ({error}). The archive was deleted: fetch it again."
        ) from None
    except OSError as error:
        raise DiskError.of(folder, error) from error
    return folder


class _Room:
    """Counter of the members (files and folders) and bytes of an archive while it is unpacked.

    It checks the numbers against the limits.
    """

    def __init__(self, archive: Path, folder: Path) -> None:
        self.archive, self.limits = archive, current()
        self.members, self.bytes, self.skipped = 0, 0, 0
        self.free = shutil.disk_usage(folder).free
        self.ratio = FREE + self.limits.expansion * archive.stat().st_size

    def take(self, member: tarfile.TarInfo) -> None:
        """Check a member before it is written.

        Raises DataError if the archive has too many members, or would unpack to too many bytes.
        """
        self.members += 1
        self.bytes += member.size + 512
        if self.members > self.limits.members:
            raise self._refused(f"has more than {self.limits.members:,} members", f"members={10 * self.members}")
        if self.bytes > self.limits.unpacked:
            raise self._refused(f"unpacks to {shown(self.bytes)} or more", f"unpacked={2 * self.bytes}")
        if self.bytes > self.ratio:
            times = self.bytes / self.archive.stat().st_size
            raise self._refused(
                f"unpacks to {shown(self.bytes)} or more, {times:.0f} times its size", f"expansion={2 * times:.0f}"
            )
        if self.bytes > self.free:
            raise DataError(
                f"{self.archive}: unpacks to {shown(self.bytes)} or more, and its disk has {shown(self.free)} left. "
                "Choose a folder on a larger disk (-o)."
            )

    def skip(self, n_bytes: int) -> None:
        """Count the bytes after the last member, which are only read for the checksum."""
        self.skipped += n_bytes
        if self.skipped > self.ratio:
            raise self._refused(f"has {shown(self.skipped)} after its last member", "expansion=...")

    def _refused(self, what: str, allow: str) -> DataError:
        return DataError(
            f"{self.archive}: {what}, which is suspicious. Delete it, or, if you trust its source, allow this: "
            f"--limit {allow}."
        )
