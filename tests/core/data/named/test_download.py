"""Downloads survive broken connections; archives come out whole or not at all."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from heard import Heard
from matscale.core.data.named import download
from matscale.core.errors import DataError
from webserver import Server, serving

pytestmark = pytest.mark.network

BODY = bytes(range(256)) * 4000  # a megabyte


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(download, "CHUNK", 1000)
    with serving() as server:
        server.files["/file.tar.gz"] = BODY
        yield server


def test_a_download_that_is_dropped_midway_goes_on_where_it_was(server, tmp_path):
    server.drops = [300_000, 200_000, 0, 100_000]
    heard = Heard()
    path = download.retrieve(server.url + "/file.tar.gz", tmp_path / "f", None, heard)
    assert path.read_bytes() == BODY
    assert server.asked == [None, "bytes=300000-", "bytes=500000-", "bytes=500000-", "bytes=600000-"]
    assert heard.stages[-1][1:] == (len(BODY), len(BODY))
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_later_call_goes_on_with_what_arrived_before(server, tmp_path):
    server.drops = [400_000, *[0] * 20]
    with pytest.raises(DataError, match=r"stopped at 400,000 bytes.*run the same command again"):
        download.retrieve(server.url + "/file.tar.gz", tmp_path / "f")
    assert not (tmp_path / "f").exists()
    server.drops, server.asked = [], []
    assert download.retrieve(server.url + "/file.tar.gz", tmp_path / "f").read_bytes() == BODY
    assert server.asked == ["bytes=400000-"]


def test_a_file_that_changed_in_between_is_fetched_from_its_beginning(server, tmp_path):
    server.drops = [400_000, *[0] * 20]
    with pytest.raises(DataError):
        download.retrieve(server.url + "/file.tar.gz", tmp_path / "f")
    server.drops, server.etag = [], '"2"'
    server.files["/file.tar.gz"] = BODY[::-1]
    assert download.retrieve(server.url + "/file.tar.gz", tmp_path / "f").read_bytes() == BODY[::-1]


def test_a_server_without_ranges_is_asked_for_the_whole(server, tmp_path):
    server.knows_ranges, server.drops = False, [300_000]
    assert download.retrieve(server.url + "/file.tar.gz", tmp_path / "f").read_bytes() == BODY


def test_a_part_that_is_longer_than_the_file_is_not_trusted(server, tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * (len(BODY) + 1))
    (tmp_path / "f.part.etag").write_text(server.etag)
    assert download.retrieve(server.url + "/file.tar.gz", tmp_path / "f").read_bytes() == BODY


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path):
    for _ in range(2):
        download.retrieve(server.url + "/file.tar.gz", tmp_path / "f")
    assert len(server.asked) == 1


def test_a_published_checksum_is_checked(server, tmp_path):
    good = hashlib.sha256(BODY).hexdigest()
    assert download.retrieve(server.url + "/file.tar.gz", tmp_path / "good", good).exists()
    with pytest.raises(DataError, match="not the published file"):
        download.retrieve(server.url + "/file.tar.gz", tmp_path / "bad", "0" * 64)
    assert not (tmp_path / "bad").exists()


def test_a_missing_file_ends_at_once(server, tmp_path):
    with pytest.raises(DataError, match="404"):
        download.retrieve(server.url + "/nowhere", tmp_path / "f")
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with serving() as gone:
        url = gone.url
    with pytest.raises(DataError, match=r"127\.0\.0\.1"):
        download.retrieve(url + "/f", tmp_path / "f")


def test_a_file_larger_than_the_disk_is_refused_before_it_is_fetched(server, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match="larger disk"):
        download.retrieve(server.url + "/file.tar.gz", tmp_path / "f")


def _archive(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return path


def test_an_archive_comes_out_as_it_went_in(tmp_path):
    archive = _archive(tmp_path / "a.tar.gz", {"sub/data.bin": BODY})
    assert (download.extract(archive, tmp_path / "out") / "sub" / "data.bin").read_bytes() == BODY


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_truncated_archive_leaves_nothing_half_extracted(tmp_path, rng, keep):
    archive = _archive(tmp_path / "a.tar.gz", {f"{k}.bin": rng.bytes(50_000) for k in range(4)})
    archive.write_bytes(archive.read_bytes()[: int(keep * archive.stat().st_size)])
    with pytest.raises(DataError, match="cut short"):
        download.extract(archive, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [60_000, -6])
def test_a_flipped_byte_of_an_archive_is_found_by_its_checksum(tmp_path, rng, place):
    archive = _archive(tmp_path / "a.tar.gz", {"a.bin": rng.bytes(100_000)})  # random bytes are stored as they are
    content = bytearray(archive.read_bytes())
    content[place] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match="CRC check failed"):
        download.extract(archive, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("members", "links"),
    [({"../outside": b"x"}, {}), ({}, {"link": "/etc/passwd"}), ({"link/file": b"x"}, {"link": "../.."})],
)
def test_an_archive_cannot_write_outside_its_folder(tmp_path, members, links):
    archive = _archive(tmp_path / "a.tar.gz", members, links)
    with pytest.raises(DataError, match="outside its folder"):
        download.extract(archive, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_something_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "a.tar.gz").write_text("<html>sign in</html>")
    with pytest.raises(DataError, match="damaged"):
        download.extract(tmp_path / "a.tar.gz", tmp_path / "out")
