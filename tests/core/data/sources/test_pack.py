"""Packing: the same dataset whatever the workers and interruptions; nothing is left out without its reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from ase.io import write as ase_write

from heard import Heard
from matscale.core.data.sources import pack as module
from matscale.core.data.sources.labels import Keys
from matscale.core.data.sources.pack import pack
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import DataError


def write(path, structures):
    ase_write(path, [s.to_ase() for s in structures], format="extxyz")
    return path


def rejected(out):
    return [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]


@pytest.fixture
def source(structures, tmp_path):
    return write(tmp_path / "a.extxyz", structures(60))


def test_packing_a_file_keeps_every_structure_and_says_where_labels_were(source, structures, tmp_path):
    packed = pack([source], tmp_path / "out")
    dataset = PackedDataset.open(tmp_path / "out")
    for given, got in zip(structures(60), dataset, strict=True):
        assert np.allclose(given.positions, got.positions, atol=1e-8)
        assert got.energy == pytest.approx(given.energy)
    (record,) = packed.manifest.sources
    assert (record.path, record.format, record.structures) == (str(source), "extxyz", 60)
    assert record.keys == {"energy": "energy", "forces": "forces", "stress": "stress"}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        ".lock", "manifest.json", "rejected.jsonl", "shard-00000.safetensors",
    ]  # fmt: skip


def test_workers_and_the_cut_into_pieces_do_not_change_the_dataset(source, structures, tmp_path):
    other = write(tmp_path / "b.extxyz", structures(30, seed=1))
    options = {"task_size": 7, "shard_bytes": 20_000, "piece_bytes": 3000}
    one = pack([source, other], tmp_path / "one", **options).manifest
    two = pack([source, other], tmp_path / "two", workers=2, **options).manifest
    assert len(one.shards) > 1
    assert one.hash == two.hash
    assert one.n_structures == 90
    assert [s.structures for s in two.sources] == [60, 30]
    assert one.statistics == two.statistics
    assert one.statistics[str(other)]["n_structures"] == 30


def test_packing_again_does_nothing(source, tmp_path, monkeypatch):
    first = pack([source], tmp_path / "out")
    monkeypatch.setattr(module, "run_task", None)  # any work would fail
    again = pack([source], tmp_path / "out")
    assert again.was_there
    assert not first.was_there
    assert again.manifest == first.manifest


def test_a_folder_with_another_dataset_is_left_alone(source, tmp_path):
    pack([source], tmp_path / "out")
    with pytest.raises(DataError, match="other options"):
        pack([source], tmp_path / "out", filter=["n_atoms<5"])


def test_what_an_interrupted_call_did_is_not_done_again(source, tmp_path, monkeypatch):
    whole = pack([source], tmp_path / "whole", task_size=10).manifest
    done, run = [], module.run_task

    def stops_after_three(*arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(arguments[1])
        return run(*arguments)

    monkeypatch.setattr(module, "run_task", stops_after_three)
    with pytest.raises(KeyboardInterrupt):
        pack([source], tmp_path / "out", task_size=10)
    with pytest.raises(DataError):
        PackedDataset.open(tmp_path / "out")
    monkeypatch.setattr(module, "run_task", lambda *a: done.append(a[1]) or run(*a))
    heard = Heard()
    assert pack([source], tmp_path / "out", task_size=10, progress=heard).manifest.hash == whole.hash
    assert done == [0, 1, 2, 3, 4, 5]
    assert heard.stages[0] == ("Packing", 30, 60)
    assert heard.stages[-1] == ("Packing", 60, 60)


def test_a_join_that_was_interrupted_goes_on(source, tmp_path, monkeypatch):
    options = {"task_size": 5, "shard_bytes": 5000}
    whole = pack([source], tmp_path / "whole", **options).manifest
    calls, unlink = [], module._unlink

    def stops_after_two(pieces):
        unlink(pieces)
        calls.append(pieces)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_unlink", stops_after_two)
    with pytest.raises(KeyboardInterrupt):
        pack([source], tmp_path / "out", **options)
    monkeypatch.undo()
    assert pack([source], tmp_path / "out", **options).manifest.hash == whole.hash
    PackedDataset.open(tmp_path / "out").verify()


SCRIPT = """
import sys
from matscale.core.data.sources.pack import pack
if __name__ == "__main__":
    pack([sys.argv[1]], sys.argv[2], task_size=20, shard_bytes=20000, workers=2)
"""


def test_after_kill_9_the_same_call_gives_the_same_dataset_and_leaves_no_process(structures, tmp_path):
    source = write(tmp_path / "a.extxyz", structures(1200))
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(SCRIPT)
    with subprocess.Popen([sys.executable, str(script), str(source), str(out)], start_new_session=True) as process:
        limit = time.monotonic() + 60
        while len(list(out.glob(".parts/task-*[0-9].json"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not (out / "manifest.json").exists()
    limit = time.monotonic() + 30
    while _alive(process.pid):
        assert time.monotonic() < limit, "workers outlive their parent"
        time.sleep(0.05)
    resumed = pack([source], out, task_size=20, shard_bytes=20000).manifest
    assert resumed.hash == pack([source], tmp_path / "whole", task_size=20, shard_bytes=20000).manifest.hash
    assert [path.name for path in out.glob(".*")] == [".lock"]


def _alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_structures_that_cannot_be_used_are_listed_with_their_reasons(structures, tmp_path):
    given = structures(8)
    given[1] = replace(given[1], energy=float("inf"))
    given[3] = replace(given[3], cell=np.diag([9.0, 9.0, 0.0]))
    source = write(tmp_path / "a.extxyz", given)
    manifest = pack([source], tmp_path / "out", filter=["n_atoms<=11"]).manifest
    lines = rejected(tmp_path / "out")
    reasons = {line["structure"]: line["reason"] for line in lines}
    assert reasons[f"{source} structure 1"] == "non-finite energy"
    assert reasons[f"{source} structure 3"] == "missing cell"
    large = sum(len(s) > 11 for k, s in enumerate(given) if k not in (1, 3))
    assert manifest.rejected == 2
    assert manifest.filtered == large == sum(r == "filter n_atoms<=11" for r in reasons.values())
    assert manifest.n_structures == 6 - large
    assert manifest.filters == ["n_atoms<=11"]


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_makes_the_first_unusable_structure_an_error(structures, tmp_path, workers):
    given = structures(12)
    given[7] = replace(given[7], energy=float("inf"))
    source = write(tmp_path / "a.extxyz", given)
    with pytest.raises(DataError, match=r"structure 7: non-finite energy"):
        pack([source], tmp_path / "out", strict=True, workers=workers, task_size=4)
    assert pack([source], tmp_path / "out", task_size=4).manifest.rejected == 1
    with pytest.raises(DataError, match="1 structures were left out"):
        pack([source], tmp_path / "out", strict=True, task_size=4)


def test_when_everything_is_unusable_the_first_structure_says_why(source, tmp_path):
    with pytest.raises(DataError, match=r"no group \(60\). The first: .*structure 0: .*no value 'trajectry'"):
        pack([source], tmp_path / "out", keys=Keys(group="trajectry"))


def test_a_file_that_is_given_twice_is_refused(source, tmp_path):
    with pytest.raises(DataError, match=rf"{source.name}: is given twice"):
        pack([source, source.parent], tmp_path / "out")


def test_when_nothing_is_left_the_reasons_are_told(source, tmp_path):
    with pytest.raises(DataError, match=r"No structure could be packed: filter n_atoms>100 \(60\)"):
        pack([source], tmp_path / "out", filter=["n_atoms>100"])


def test_a_key_that_no_structure_has_is_an_error(source, tmp_path):
    with pytest.raises(DataError, match="no structure has a value of this name"):
        pack([source], tmp_path / "out", keys=Keys(energy="my_energy"))


def test_labels_that_contradict_each_other_stop_packing(structures, tmp_path):
    (atoms,) = [s.to_ase() for s in structures(1)]
    atoms.info["REF_energy"] = atoms.get_potential_energy() + 1
    ase_write(tmp_path / "a.extxyz", atoms)
    with pytest.raises(DataError, match="energy has two values that disagree"):
        pack([tmp_path / "a.extxyz"], tmp_path / "out")
    manifest = pack([tmp_path / "a.extxyz"], tmp_path / "out", keys=Keys(energy="REF_energy")).manifest
    assert manifest.sources[0].keys["energy"] == "REF_energy"


def test_two_processes_do_not_pack_into_one_folder(source, tmp_path):
    import fcntl

    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process"):
            pack([source], tmp_path / "out")


def test_many_small_files_share_tasks(structures, tmp_path):
    for k, s in enumerate(structures(100)):
        write(tmp_path / f"s{k:03d}.extxyz", [s])
    manifest = pack([tmp_path], tmp_path / "out").manifest
    assert manifest.n_structures == 100
    assert len(manifest.sources) == 100
    assert list(manifest.statistics) == ["all"]


def test_real_data_pack_with_the_filters_of_the_readme(shared, tmp_path):
    source = shared / "data" / "mattersim_mpf_tp" / "all.extxyz.xz"
    manifest = pack([source], tmp_path / "out", filter=["forces_max<50", "stress_max<1"]).manifest
    assert manifest.n_structures + manifest.filtered == 1068
    assert manifest.rejected == 0
    assert manifest.statistics["all"]["stress_max"]["max"] < 1
