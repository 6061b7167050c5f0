"""A digest that is deleted counts as damage, and a record of another run is not believed."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest

from matscale.core.data.sources import pack as packing
from matscale.core.data.sources.pack import pack
from matscale.core.data.store.manifest import Manifest
from matscale.core.data.store.writer import PARTS
from matscale.core.errors import DataError, MatscaleError
from matscale.core.files import sha256_of
from matscale.core.hosting.host import get
from matscale.core.inference.compare import baselines_of
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig, merged
from matscale.core.runs.record import Run
from matscale.core.scaling.tables.baselines import measured
from matscale.core.train.session import train


@pytest.fixture(scope="module")
def runs(alloys, tmp_path_factory):
    """Two runs on one dataset, with other training parts."""
    base = {
        "architecture": {
            "name": "schnet",
            "config": {"hidden": 4, "filters": 4, "n_radial": 4, "n_layers": 1, "cutoff": 4.0},
        },
        "data": {"path": str(alloys.path), "validation": 0.25, "cache_graphs": False},
        "budget": {"steps": 2},
        "compute": {"device": "cpu", "threads": 1},
    }
    place, made = tmp_path_factory.mktemp("runs"), []
    for name, fraction in (("a", 1.0), ("b", 0.3)):
        config = TrainConfig.parse(merged(base, {"data": {"fraction": fraction}}))
        made.append(train(config, place / name, architecture=get("schnet")).path)
        measured(made[-1])
    return made


@pytest.fixture
def run(runs, tmp_path):
    return shutil.copytree(runs[0], tmp_path / "run")


def change(path, **values):
    """Set keys of a JSON file; None deletes one."""
    found = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


FILES = {
    "baseline_errors.json": measured,
    "baselines.json": lambda path: {n: b.plain() for n, b in baselines_of(Run.open(path)).items()},
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["digest deleted", "of another run", "altered"])
def test_baselines_that_are_not_those_of_the_run_are_made_again_with_a_sentence(runs, run, file, how):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = FILES[file](run)
    if how == "digest deleted":
        change(run / file, digest=None, zero={"loss": 1.0})
    elif how == "of another run":
        shutil.copyfile(runs[1] / file, run / file)
    else:
        change(run / file, mean={"loss": 1.0})
    with pytest.warns(UserWarning, match=rf"{file}: (is damaged|belongs to another run).* again"):
        assert FILES[file](run) == right
    assert FILES[file](run) == right


def test_a_copied_run_keeps_its_baselines(run):
    assert measured(run)["zero"]["loss"] > 0
    assert json.loads((run / "baseline_errors.json").read_text())["of"]["loss"] == "OMat24"


@pytest.mark.parametrize("also", [{}, {"config_sha256": None, "rows": None, "altered": None}])
def test_a_record_without_its_digest_is_rebuilt_from_the_checkpoint(run, also):
    steps = Run.open(run).info["flops"]
    change(run / "run.json", digest=None, flops=1.0, **also)
    with pytest.warns(UserWarning, match=r"run\.json: is damaged.*taken from the checkpoint"):
        assert Run.open(run).info["flops"] == steps


def test_a_checkpoint_whose_digests_are_deleted_counts_as_damaged(run):
    record = Run.open(run)
    folder = checkpoint.folder_of(record.checkpoint_folder, record.checkpoints()[-1])
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {name: value for name, value in manifest["files"].items() if name != "ema.safetensors"}
    if len(files) < len(manifest["files"]):
        change(folder / "manifest.json", files=files)
        with pytest.raises(checkpoint.DamagedCheckpoint, match="does not list"):
            checkpoint.load_weights(folder)
        change(folder / "manifest.json", files=manifest["files"])
    change(folder / "state.json", digest=None)
    entry = {"size": (folder / "state.json").stat().st_size, "sha256": sha256_of(folder / "state.json")}
    change(folder / "manifest.json", files=manifest["files"] | {"state.json": entry})
    with pytest.raises(checkpoint.DamagedCheckpoint, match="its digest is missing"):
        checkpoint.read_state(folder)


def test_a_manifest_whose_checksum_is_deleted_is_refused(alloys, tmp_path):
    folder = shutil.copytree(alloys.path, tmp_path / "data")
    change(folder / "manifest.json", checksum=None, rejected=7)
    with pytest.raises(DataError, match="its checksum is missing"):
        Manifest.read(folder)


# Pieces of an interrupted packing -------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.fixture
def interrupted(structures, tmp_path, monkeypatch):
    """(what packing gives, what an interrupted one left, the same call again); `where` it was interrupted."""
    from ase.io import write

    write(tmp_path / "a.extxyz", [s.to_ase() for s in structures(12)])

    def call(out):
        return pack([tmp_path / "a.extxyz"], out, task_size=4, shard_bytes=2000).manifest

    def broken(where):
        out = tmp_path / f"broken-{where}"
        with monkeypatch.context() as patched:
            if where == "pieces":
                patched.setattr(packing, "join", lambda *a, **k: raise_())
            else:  # the first shard is joined
                patched.setattr(packing, "_unlink", lambda pieces: (unlink(pieces), raise_()))
            with pytest.raises(Killed):
                call(out)
        return out

    unlink = packing._unlink

    def raise_():
        raise Killed

    return call(tmp_path / "whole"), broken, call


def damage(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def test_a_changed_piece_of_an_interrupted_packing_is_made_anew(interrupted):
    whole, broken, again = interrupted
    out = broken("pieces")
    pieces = sorted((out / PARTS).glob("part-*.safetensors"))
    assert len(pieces) == 3
    damage(pieces[1])
    pieces[2].unlink()
    assert again(out).hash == whole.hash


@pytest.mark.parametrize("key", ["pieces", "digest", "kept"])
def test_a_changed_record_of_a_task_has_it_done_again(interrupted, key):
    whole, broken, again = interrupted
    out = broken("pieces")
    change(out / PARTS / "task-00000001.json", **{key: None})
    found = again(out)
    assert (found.hash, found.n_structures) == (whole.hash, 12)


@pytest.mark.parametrize("file", ["shards.json", "plan.json", "shard-00000.safetensors"])
def test_a_changed_plan_or_shard_of_an_interrupted_join_is_refused_by_name(interrupted, file):
    whole, broken, again = interrupted
    out = broken("shards")
    sound = shutil.copytree(out, out.parent / "sound")
    assert again(sound).hash == whole.hash
    path = out / file if file.startswith("shard-") else out / PARTS / file
    if path.suffix == ".json":
        change(path, digest=None)
    else:
        damage(path)
    with pytest.raises(DataError, match=rf"{file}.*pack again"):
        again(out)
    shutil.rmtree(out / PARTS)
    assert again(out).hash == whole.hash


def test_no_other_number_comes_of_a_foreign_record_when_the_data_are_gone(run, runs):
    shutil.copyfile(runs[1] / "baseline_errors.json", run / "baseline_errors.json")
    (run / "baselines.json").unlink()
    text = (run / "config.toml").read_text()
    path = Run.open(run).config.data.path
    (run / "config.toml").write_text(text.replace(path, f"{path}-gone"))
    with pytest.warns(UserWarning, match="belongs to another run"), pytest.raises(MatscaleError, match="gone"):
        measured(run)
