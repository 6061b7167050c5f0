"""Disks that refuse, by a fault or in truth; `test_kills.py` fills them amid all work that writes."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
from pathlib import Path

import pytest
import torch

from matscale.core.files import DiskError, append_text, replacing, sweep_up, write_blocks, write_text
from matscale.core.runs import checkpoint


@pytest.mark.parametrize("kind", ["ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES", "EFBIG", "ENAMETOOLONG"])
def test_every_error_of_a_disk_is_a_sentence_with_the_file_and_what_to_do(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "before")
    monkeypatch.setattr("matscale.core.files._reached", 0)
    monkeypatch.setenv("MATSCALE_FAULT", f"{kind.lower()}@4")
    with pytest.raises(DiskError, match=rf"{path}: cannot be written \(.+\)\. .+; then run the same again\.") as caught:
        write_text(path, "after")
    assert caught.value.exit_code == 1
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_row_that_does_not_fit_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    append_text(path, '{"step": 1}\n')
    monkeypatch.setattr("matscale.core.files._reached", 0)
    monkeypatch.setenv("MATSCALE_FAULT", "enospc@4")  # amid the write
    with pytest.raises(DiskError):
        append_text(path, '{"step": 2}\n')
    assert path.read_text() == '{"step": 1}\n'


def _within(limit: int, work: object) -> str:
    """What `work` raises in a process whose files may have `limit` bytes."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            work()  # type: ignore[operator]
        except DiskError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as said:
        return said.read()


def _checkpoint(step: int) -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint(step, {"weight": torch.ones(100_000)}, None, {}, {})


def test_a_real_limit_of_file_size_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, _checkpoint(1))
    said = _within(100_000, lambda: checkpoint.save(tmp_path, _checkpoint(2)))
    assert "model.safetensors: cannot be written (File too large)" in said
    assert "--resume" in said
    assert checkpoint.load_latest(tmp_path).step == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step_1"]


def test_a_real_full_disk_leaves_the_checkpoint_before_and_takes_another_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here: that takes root, outside of most containers")
    try:
        checkpoint.save(disk, _checkpoint(1))
        (disk / "filler").write_bytes(bytes(300_000))
        with pytest.raises(DiskError, match="No space left on device"):
            checkpoint.save(disk, _checkpoint(2))
        assert sorted(p.name for p in disk.iterdir()) == ["filler", "last", "step_1"]
        (disk / "filler").unlink()
        checkpoint.save(disk, _checkpoint(2))
        assert checkpoint.load_latest(disk).step == 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DiskError, match="not a plain file"):
        write_text(pipe, "text")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_the_modes_of_all_files_follow_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        checkpoint.save(tmp_path / "run", _checkpoint(1))
        append_text(tmp_path / "run" / "rows", "{}\n")
    finally:
        os.umask(before)
    found = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert set(found.values()) == {0o666 & ~mask}
    assert "model.safetensors" in found


def test_tensors_are_written_byte_for_byte_as_safetensors_writes_them(tmp_path: Path) -> None:
    from safetensors.torch import save

    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
             torch.int8, torch.uint8, torch.bool]  # fmt: skip
    tensors = {f"µ{k}": torch.arange(3 * k).reshape(3, k).to(kind) for k, kind in enumerate(kinds)}
    tensors["scalar"] = torch.tensor(1.5)
    checkpoint.write_tensors(tmp_path / "file", tensors)
    assert (tmp_path / "file").read_bytes() == save(tensors)


def test_left_overs_of_the_dead_are_swept_up_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = os.uname().nodename
    names = {".a.partial-": ended.pid, f".b.partial-{host}-": ended.pid, ".c.partial-elsewhere-": ended.pid,
             f".d.partial-{host}-": os.getppid()}  # fmt: skip
    for name, pid in names.items():
        (tmp_path / f"{name}{pid}").write_text("half")
    (tmp_path / f".e.partial-{host}-{ended.pid}").mkdir()
    with replacing(tmp_path / "file") as file:  # the first file that a process writes to a folder
        file.write(b"whole")
        sweep_up(tmp_path)
    left = sorted(p.name.split("-")[0] for p in tmp_path.iterdir())
    assert left == [".c.partial", ".d.partial", "file"]
    sweep_up(tmp_path, alone=True)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_long_name_has_a_temporary_one_that_fits(tmp_path: Path) -> None:
    write_blocks(tmp_path / ("n" * 250), [b"text"])
    assert (tmp_path / ("n" * 250)).read_bytes() == b"text"
