"""Published datasets: right addresses, and from an archive on a bad server to a packed dataset."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from heard import Heard
from matscale.core.data.named import cache, catalog, download, omat24
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import DataError
from webserver import Server, serving

VALIDATION = "/241220/omat/val/rattled-300.tar.gz"


@pytest.fixture
def archive(tmp_path) -> bytes:
    """Like those of OMat24: a folder of .aselmdb files in a .tar.gz."""
    folder = tmp_path / "made" / "rattled-300"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in range(2):
        with connect(folder / f"data.{part:04d}.aselmdb") as database:
            for _ in range(3):
                atoms = bulk("Cu", cubic=True)
                atoms.positions += rng.normal(scale=0.05, size=(4, 3))
                atoms.calc = EMT()
                labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
                atoms.calc = SinglePointCalculator(atoms, **labels, stress=atoms.get_stress())
                database.write(atoms)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder, "rattled-300")
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch, tmp_path) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(download, "CHUNK", 100)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    with serving() as server:
        monkeypatch.setenv(omat24.VARIABLE, server.url + "/")
        yield server


@pytest.mark.network
def test_a_dataset_comes_over_a_line_that_drops(server, archive, tmp_path):
    server.files[VALIDATION], server.drops = archive, [len(archive) // 2, 200]
    heard = Heard()
    path = catalog.resolve("omat24/val/rattled-300", heard)
    stages = [what for what, _, _ in heard.stages]
    dataset = PackedDataset.open(path)
    assert len(dataset) == 6
    assert dataset.manifest.labels == {"energy": 6, "forces": 6, "stress": 6}
    assert len(server.asked) == 3
    assert json.loads((path / "fetched.json").read_text(encoding="utf-8"))["bytes"] == len(archive)
    assert stages[0] == "Downloading omat24/val/rattled-300"
    assert "Packing omat24/val/rattled-300" in stages
    left = {p.name for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock")}
    assert left == {path.name}
    assert catalog.resolve("omat24/val/rattled-300") == path
    assert len(server.asked) == 3, "it is in the cache: nothing is asked again"


@pytest.mark.network
def test_a_truncated_archive_is_a_data_error_and_leaves_nothing(server, archive, tmp_path):
    server.files[VALIDATION] = archive[: len(archive) // 2]
    with pytest.raises(DataError, match="cut short"):
        omat24.fetch("omat24/val/rattled-300")
    assert [p.name for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock")] == []
    server.files[VALIDATION] = archive
    assert len(PackedDataset.open(omat24.fetch("omat24/val/rattled-300"))) == 6


@pytest.mark.network
def test_the_archive_can_be_kept(server, archive, tmp_path):
    server.files[VALIDATION] = archive
    path = omat24.fetch("omat24/val/rattled-300", tmp_path / "mine", keep_archive=True)
    assert path == tmp_path / "mine"
    assert (tmp_path / "mine.tar.gz").read_bytes() == archive


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DataError, match="is not a dataset"):
        omat24.fetch("salex", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("omat24/rattled-300-subsampled", "241018/omat/train/rattled-300-subsampled.tar.gz"),
        ("omat24/train/aimd-from-PBE-3000-nvt", "241018/omat/train/aimd-from-PBE-3000-nvt.tar.gz"),
        ("omat24/val/rattled-relax", "241220/omat/val/rattled-relax.tar.gz"),
        ("salex", "241018/sAlex/train.tar.gz"),
        ("salex/train", "241018/sAlex/train.tar.gz"),
        ("salex/val", "241018/sAlex/val.tar.gz"),
    ],
)
def test_names_lead_to_the_published_addresses(name, address, monkeypatch):
    monkeypatch.delenv(omat24.VARIABLE, raising=False)
    base = "https://dl.fbaipublicfiles.com/opencatalystproject/data/omat/"
    assert omat24.ARCHIVES[omat24.canonical(name)].url == base + address


def test_all_eleven_subsets_have_a_training_and_a_validation_part():
    assert len([name for name in omat24.ARCHIVES if name.startswith("omat24/")]) == 22


def test_a_wrong_subset_is_answered_with_the_nearest():
    with pytest.raises(DataError, match="Did you mean 'omat24/rattled-300'"):
        catalog.resolve("omat24/ratled-300")
