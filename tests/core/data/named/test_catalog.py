"""Names of datasets: made once, found again, and answered with the nearest one when wrong."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from heard import Heard
from matscale.core.data.named import cache, catalog
from matscale.core.data.store.packed import PackedDataset
from matscale.core.data.synthetic.recipe import Recipe
from matscale.core.errors import DataError
from matscale.core.files import DiskError

SMALL = Recipe(n=4, per_parent=4, max_atoms=4, elements=("Cu", "Ni"))


@pytest.fixture
def small(monkeypatch, tmp_path) -> Path:
    """An embedded dataset of four structures, and a cache folder of our own."""
    monkeypatch.setitem(catalog.EMBEDDED, "emt", SMALL)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_embedded_dataset_is_made_once_and_then_found(small):
    heard = Heard()
    first = catalog.resolve("emt", heard)
    assert heard.stages[-1] == ("Making the dataset 'emt'", 4, 4)
    assert first.parent == small
    made = (first / "manifest.json").stat().st_mtime_ns
    assert catalog.resolve("emt", again := Heard()) == first
    assert not again.stages
    assert (first / "manifest.json").stat().st_mtime_ns == made
    assert len(PackedDataset.open(first)) == 4


def test_what_a_killed_process_left_is_cleared_away(small):
    left = catalog.resolve("emt")
    ended = subprocess.Popen(["true"])
    ended.wait()
    left.rename(small / f".{left.name}.partial-{ended.pid}")
    assert catalog.resolve("emt") == left
    assert not list(small.glob("*.partial*"))


def test_another_recipe_is_another_folder(small, monkeypatch):
    first = catalog.resolve("emt")
    monkeypatch.setitem(catalog.EMBEDDED, "emt", SMALL.model_copy(update={"seed": 1}))
    assert catalog.resolve("emt") != first


def test_two_processes_at_once_make_it_once(tmp_path):
    script = (
        "import sys\n"
        "from matscale.core.data.named import catalog\n"
        "from matscale.core.data.synthetic.recipe import Recipe\nfrom matscale.core.progress import Reporter\n"
        "catalog.EMBEDDED['emt'] = Recipe(n=40, per_parent=40, prototypes=('fcc',))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "class Shown(Reporter):\n    def stage(self, what, *counts):\n        print(what, flush=True)\n"
        "print(catalog.resolve('emt', Shown()))\n"
    )
    pipe, environment = subprocess.PIPE, {"PATH": "", cache.VARIABLE: str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", script]
    both = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=120)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("Making the dataset 'emt'" in lines for lines in told) == [False, True]
    assert sorted(any("Waiting" in line for line in lines) for lines in told) == [False, True]
    assert told[0][-1] == told[1][-1]
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == [Path(told[0][-1]).name]


def test_a_lock_keeps_others_out_until_it_is_released(tmp_path):
    order: list[str] = []
    held, done = threading.Event(), threading.Event()

    def other() -> None:
        held.wait()
        with cache.lock(tmp_path / "thing", waiting=done.set):
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with cache.lock(tmp_path / "thing"):
        held.set()
        assert done.wait(timeout=30), "the other never had to wait"
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_a_killed_holder_leaves_no_lock_behind(tmp_path):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom matscale.core.data.named import cache\n"
        "with cache.lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "thing")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()
    with cache.lock(tmp_path / "thing", waiting=lambda: pytest.fail("nobody holds it")):
        assert (tmp_path / ".thing.lock").exists()


def test_a_cache_that_cannot_be_written_says_which_variable_to_set(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="set MATSCALE_CACHE"), cache.lock(tmp_path / "file" / "thing"):
        pass


def test_a_packed_folder_is_its_own_path(small):
    path = catalog.resolve("emt")
    assert catalog.resolve(str(path)) == path


def test_a_source_file_is_to_be_packed_first(tmp_path):
    source = tmp_path / "train.extxyz.gz"
    source.touch()
    with pytest.raises(DataError, match=r"matscale data pack .*train\.extxyz\.gz -o train-packed"):
        catalog.resolve(str(source))


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(DataError, match="Did you mean 'emt'"):
        catalog.resolve("etm")
