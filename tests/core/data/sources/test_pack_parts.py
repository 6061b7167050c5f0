"""A dataset that several jobs pack in parts is the dataset of one job, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.io import write
from click.testing import CliRunner

from crystals import random_structures
from matscale.cli import main
from matscale.core.data.sources.pack import join_parts, pack, pack_part
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import DataError

SMALL = {"task_size": 3, "piece_bytes": 1500, "shard_bytes": 6000}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write(tmp_path / "in.extxyz", [s.to_ase() for s in random_structures(20, seed=1)], format="extxyz")
    return tmp_path / "in.extxyz"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file() and p.name != ".lock"}


def test_parts_in_any_order_join_to_the_dataset_of_one_job(source: Path, tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    pack([source], whole, filter=["n_atoms<5"], **SMALL)
    for part in (3, 1, 2):
        assert pack_part([source], parted, part, 3, filter=["n_atoms<5"], **SMALL) is None
    assert not join_parts(parted).was_there
    assert contents(parted) == contents(whole)
    PackedDataset.open(parted).verify()
    assert join_parts(parted).was_there
    again = pack_part([source], parted, 1, 3, filter=["n_atoms<5"], **SMALL)
    assert again is not None
    assert again.was_there


def test_parts_that_are_missing_are_named_and_those_that_are_done_stay(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="holds no parts"):
        join_parts(out)
    pack_part([source], out, 2, 4, **SMALL)
    with pytest.raises(DataError, match=r"not all parts are complete\. Pack again with --part 1/4, 3/4, 4/4"):
        join_parts(out)
    with pytest.raises(DataError, match="its parts are of other files, or have other options"):
        pack_part([source], out, 1, 4, filter=["n_atoms<5"], **SMALL)
    for part in (1, 3, 4):
        pack_part([source], out, part, 4, **SMALL)
    assert join_parts(out).manifest.n_structures == 20


def test_more_parts_than_tasks_leave_some_without_work(source: Path, tmp_path: Path) -> None:
    for part in range(1, 10):
        pack_part([source], tmp_path / "out", part, 9, **{**SMALL, "task_size": 10})
    assert join_parts(tmp_path / "out").manifest.n_structures == 20


def test_the_commands_pack_parts_and_join_them(source: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    for part in ("1/2", "2/2"):
        result = CliRunner().invoke(main, ["data", "pack", str(source), "-o", out, "--workers", "1", "--part", part])
        assert result.exit_code == 0, result.output
        assert f"matscale data join {out}" in result.stderr
    joined = CliRunner().invoke(main, ["data", "join", out])
    assert (joined.exit_code, "20 structures" in joined.stdout) == (0, True)
    for wrong in ("0/2", "3/2", "2", "x/y"):
        result = CliRunner().invoke(main, ["data", "pack", str(source), "-o", out, "--part", wrong])
        assert result.exit_code == 2
        assert "is no part. Write for example 3/8" in result.stderr
