"""Locks between processes: one holder at a time, a file that stays, and an import that needs no POSIX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from matscale.core.data.sources.pack import pack
from matscale.core.errors import ConfigError
from matscale.core.locks import FolderLock, lock
from shape import modules

POSIX = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
WAITER = """
import sys
from pathlib import Path
from matscale.core.locks import lock
with lock(Path(sys.argv[1]), lambda: print("waits", flush=True)):
    print("holds", flush=True)
    sys.stdin.read()
"""


def test_of_two_processes_that_want_a_lock_the_second_waits_and_others_find_the_same_file(tmp_path: Path) -> None:
    file, told = tmp_path / "x.lock", list[str]()
    with lock(file):
        other = subprocess.Popen(
            [sys.executable, "-c", WAITER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "waits\n"
        inode = file.stat().st_ino
    assert other.stdout.readline() == "holds\n"

    def release() -> None:
        told.append("waits")
        other.communicate("")

    with lock(file, release):  # the file that the other holds, not one that took its name
        assert told == ["waits"]
        assert file.stat().st_ino == inode


def test_a_second_process_is_refused_a_folder_and_told_who_is_inside(tmp_path: Path) -> None:
    script = "import sys;from pathlib import Path;from matscale.core.locks import FolderLock\n"
    script += "with FolderLock(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ConfigError, match=f"process {other.pid} on .* is training"), FolderLock(tmp_path):
            pass
        other.communicate("")
    with FolderLock(tmp_path):
        pass


def test_packing_leaves_its_lock_file_to_those_that_wait_for_it(tmp_path: Path) -> None:
    (tmp_path / "a.extxyz").write_text(
        '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3 energy=1\nCu 0 0 0\n'
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    inode = (tmp_path / "out" / ".lock").stat().st_ino
    pack([tmp_path / "a.extxyz"], tmp_path / "out")
    assert (tmp_path / "out" / ".lock").stat().st_ino == inode
    assert pack([tmp_path / "a.extxyz"], tmp_path / "out").was_there


def test_the_package_can_be_imported_without_fcntl() -> None:
    script = f"import sys; sys.modules.update(dict.fromkeys({sorted(POSIX)}))\n"
    script += "import matscale, matscale.cli, matscale.core.locks, matscale.core.data.sources.pack"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def test_what_only_posix_has_is_imported_inside_functions() -> None:
    for path in modules(Path(__file__).resolve().parents[2]).values():
        lines = path.read_text(encoding="utf-8").splitlines()
        names = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
        assert not names & POSIX, path
