"""Published datasets: right addresses, and from files on a bad server to a packed dataset."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.db import connect
from ase.io import write
from ase.units import GPa

from heard import Heard
from matscale.core.data.named import cache, catalog, download, published
from matscale.core.data.sources.find import read
from matscale.core.data.sources.pack import pack
from matscale.core.data.store.packed import PackedDataset
from matscale.core.data.structure import Structure
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
        monkeypatch.setenv(published.VARIABLE, server.url + "/")
        yield server


def record(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / published.RECORD).read_text(encoding="utf-8"))
    return found


def addresses(name: str) -> list[str]:
    row = published.published(name)
    return [row.url(path) for path in row.files]


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
    assert record(path)["files"][0]["bytes"] == len(archive)
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
        published.fetch("omat24/val/rattled-300")
    assert [p.name for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock")] == []
    server.files[VALIDATION] = archive
    assert len(PackedDataset.open(published.fetch("omat24/val/rattled-300"))) == 6


@pytest.mark.network
def test_the_archive_can_be_kept(server, archive, tmp_path):
    server.files[VALIDATION] = archive
    path = published.fetch("omat24/val/rattled-300", tmp_path / "mine", keep_archive=True)
    assert path == tmp_path / "mine"
    assert (tmp_path / "mine.rattled-300.tar.gz").read_bytes() == archive


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DataError, match="is not a dataset"):
        published.fetch("salex", tmp_path)
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
    monkeypatch.delenv(published.VARIABLE, raising=False)
    monkeypatch.delenv(published.OMAT24_VARIABLE, raising=False)
    base = "https://dl.fbaipublicfiles.com/opencatalystproject/data/omat/"
    assert addresses(name) == [base + address]


def test_addresses_on_github_name_the_commit(monkeypatch):
    monkeypatch.delenv(published.VARIABLE, raising=False)
    monkeypatch.setenv(published.OMAT24_VARIABLE, "http://a.mirror.of/omat24/alone")
    github = "https://raw.githubusercontent.com"
    mattersim = f"{github}/microsoft/mattersim/296630372948fd35613939d14d3f97daa27cefda/data/benchmarks"
    names = ("alexandria-random-1k", "mpf-TP", "mptrj-highest-stress-1k", "mptrj-random-1k")
    assert addresses("mattersim") == [f"{mattersim}/{name}.xyz" for name in names]
    snap = f"{github}/materialsvirtuallab/snap/5fc2251b45c72dea0c9799d7aad3e3261a077a5b/NbMoTaW/training"
    assert addresses("nbmotaw")[:3] == [f"{snap}/{name}.json" for name in ("MoTa_SS", "MoW_SS", "Mo_AIMD")]
    assert addresses("nbmotaw/test")[0] == f"{snap}/MoTa_Test.json"
    assert [len(addresses(name)) for name in ("nbmotaw", "nbmotaw/test")] == [18, 11]


def test_the_older_variable_names_a_mirror_of_omat24(monkeypatch):
    monkeypatch.delenv(published.VARIABLE, raising=False)
    monkeypatch.setenv(published.OMAT24_VARIABLE, "http://mirror/omat/")
    assert addresses("salex/val") == ["http://mirror/omat/241018/sAlex/val.tar.gz"]
    monkeypatch.setenv(published.VARIABLE, "http://all")
    assert addresses("salex/val") == ["http://all/241018/sAlex/val.tar.gz"]


def test_all_eleven_subsets_have_a_training_and_a_validation_part():
    assert len([name for name in published.SETS if name.startswith("omat24/")]) == 22


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("omat24/ratled-300", "omat24/rattled-300"),
        ("matersim", "mattersim"),
        ("nbmotaw/tset", "nbmotaw/test"),
        ("nbmotau", "nbmotaw"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(name, nearest):
    for answer in (catalog.resolve, published.fetch):
        with pytest.raises(DataError, match=f"Did you mean '{nearest}'"):
            answer(name)


def crystals(rng: np.random.Generator, n: int) -> list[Atoms]:
    """Rattled copper with made-up labels."""
    found = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(scale=0.05, size=(4, 3))
        labels = {"energy": float(rng.normal()), "forces": rng.normal(size=(4, 3)), "stress": 0.01 * rng.normal(size=6)}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        found.append(atoms)
    return found


def as_extxyz(structures: list[Atoms]) -> bytes:
    buffer = io.StringIO()
    write(buffer, structures, format="extxyz")
    return buffer.getvalue().encode()


@pytest.fixture
def two_files(server, rng, monkeypatch) -> list[str]:
    """Addresses of two files with the names of MatterSim's, which replace its four: five structures and three."""
    row, files = published.SETS["mattersim"], {}
    for path, n in zip(list(row.files)[1:3], (5, 3)):
        body = as_extxyz(crystals(rng, n))
        server.files[f"/{path}"], files[path] = body, hashlib.sha256(body).hexdigest()
    monkeypatch.setitem(published.SETS, "mattersim", replace(row, files=files))
    return [f"/{path}" for path in files]


def replaced(server, monkeypatch, address: str, structures: list[Atoms]) -> None:
    """Other structures in one of the two files, with their SHA-256 in the table."""
    body, row = as_extxyz(structures), published.SETS["mattersim"]
    server.files[address] = body
    files = {**row.files, address.removeprefix("/"): hashlib.sha256(body).hexdigest()}
    monkeypatch.setitem(published.SETS, "mattersim", replace(row, files=files))


@pytest.mark.network
def test_files_are_packed_in_their_order_with_licence_and_citation(server, two_files, tmp_path):
    path = catalog.resolve("mattersim", heard := Heard())
    dataset = PackedDataset.open(path)
    assert [(PurePath(s.path).name, s.structures) for s in dataset.manifest.sources] == [
        ("mpf-TP.xyz", 5),
        ("mptrj-highest-stress-1k.xyz", 3),
    ]
    assert dataset.manifest.filters == ["forces_max<50", "stress_max<1"]
    told = record(path)
    assert (told["licence"], told["citation"]) == ("MIT", "H. Yang et al., MatterSim, arXiv:2405.04967")
    assert told["files"] == [
        {
            "url": server.url + address,
            "bytes": len(server.files[address]),
            "sha256": hashlib.sha256(server.files[address]).hexdigest(),
            "is_checked": True,
        }
        for address in two_files
    ]
    assert "Downloading mattersim (2 of 2)" in [what for what, _, _ in heard.stages]
    left = [p.name for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock")]
    assert left == ["mattersim"]
    assert len(server.asked) == 2
    assert catalog.resolve("mattersim") == path
    assert len(server.asked) == 2


@pytest.mark.network
def test_filters_leave_out_what_is_too_hot(server, two_files, rng, monkeypatch):
    hot, pressed, fine = crystals(rng, 3)
    hot.calc.results["forces"][0, 0] = 51.0
    pressed.calc.results["stress"][0] = -1.1
    replaced(server, monkeypatch, two_files[0], [hot, pressed, fine])
    manifest = PackedDataset.open(published.fetch("mattersim")).manifest
    assert (manifest.n_structures, manifest.filtered) == (4, 2)


@pytest.mark.network
def test_a_structure_that_a_file_has_twice_is_packed_once(server, two_files, rng, monkeypatch):
    one, other, strained = crystals(rng, 3)
    strained.set_positions(one.positions)
    strained.set_cell(1.01 * one.cell)  # the same lines of atoms in another cell
    strained.calc = SinglePointCalculator(strained, **one.calc.results)
    again = one.copy()
    again.calc = SinglePointCalculator(again, **one.calc.results)
    for number, atoms in enumerate((one, other, again, strained)):
        atoms.info["internal_id"] = f"mpf-TP-{number:06d}"
    replaced(server, monkeypatch, two_files[0], [one, other, again, strained])
    dataset = PackedDataset.open(published.fetch("mattersim"))
    assert [s.structures for s in dataset.manifest.sources] == [3, 3]


@pytest.mark.network
def test_another_file_than_the_published_is_refused_by_its_name(server, two_files, tmp_path):
    good = server.files[two_files[1]]
    server.files[two_files[1]] = good.replace(b"Cu", b"Ni", 1)
    with pytest.raises(DataError) as refused:
        published.fetch("mattersim")
    for content in (good, server.files[two_files[1]]):
        assert hashlib.sha256(content).hexdigest() in str(refused.value)
    assert two_files[1] in str(refused.value)
    assert not (tmp_path / "cache" / "mattersim").exists()
    server.files[two_files[1]] = good
    assert len(PackedDataset.open(published.fetch("mattersim"))) == 8


@pytest.mark.network
def test_an_interrupted_download_goes_on_in_the_file_where_it_stopped(server, two_files):
    server.drops = [10**9, 200, *[0] * 20]
    with pytest.raises(DataError, match=r"stopped at 200 bytes.*matscale data fetch mattersim"):
        published.fetch("mattersim")
    server.drops, server.asked = [], []
    assert len(PackedDataset.open(published.fetch("mattersim"))) == 8
    assert server.asked == ["bytes=200-"]


@pytest.mark.network
def test_files_can_be_kept(server, two_files, tmp_path):
    published.fetch("mattersim", tmp_path / "mine", keep_archive=True)
    for address in two_files:
        kept = tmp_path / f"mine.{PurePath(address).name}"
        assert kept.read_bytes() == server.files[address]


def test_without_a_network_the_command_and_the_mirror_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(published.VARIABLE, "http://127.0.0.1:9")
    with pytest.raises(DataError) as failed:
        catalog.resolve("mattersim")
    for text in ("alexandria-random-1k.xyz", "matscale data fetch mattersim", "MATSCALE_DATA_URL"):
        assert text in str(failed.value)


def test_a_folder_of_the_name_wins_over_the_published_dataset(monkeypatch, tmp_path, rng):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(published.VARIABLE, "http://127.0.0.1:9")
    (tmp_path / "own.extxyz").write_bytes(as_extxyz(crystals(rng, 2)))
    pack(["own.extxyz"], "mattersim")
    assert catalog.resolve("mattersim") == Path("mattersim")


def as_json(structures: list[Structure]) -> bytes:
    """Structures as the Materials Virtual Lab publishes them, with the stress of VASP in kbar."""
    entries = []
    for s in structures:
        symbols = [chemical_symbols[z] for z in s.atomic_numbers]
        sites = zip(symbols, (s.positions @ np.linalg.inv(s.cell)).tolist())
        vasp = s.stress[[0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0]] / (-0.1 * GPa)
        entries.append(
            {
                "structure": {
                    "@module": "pymatgen.core.structure",
                    "lattice": {"matrix": s.cell.tolist()},
                    "sites": [{"species": [{"element": e, "occu": 1}], "abc": abc} for e, abc in sites],
                },
                "outputs": {"energy": s.energy, "forces": s.forces.tolist(), "stress": vasp.tolist()},
            }
        )
    return json.dumps(entries).encode()


@pytest.mark.network
@pytest.mark.parametrize(("name", "n"), [("nbmotaw", 18), ("nbmotaw/test", 11)])
def test_both_parts_of_nbmotaw_are_datasets_of_their_own(server, rng, tmp_path, name, n):
    (tmp_path / "made.extxyz").write_bytes(as_extxyz(crystals(rng, n)))
    structures = list(read(tmp_path / "made.extxyz"))
    for structure, path in zip(structures, published.SETS[name].files):
        server.files[f"/{path}"] = as_json([structure])
    dataset = PackedDataset.open(published.fetch(name))
    assert [dataset[k].energy for k in range(len(dataset))] == [s.energy for s in structures]
    assert {s.format for s in dataset.manifest.sources} == {"pymatgen-json"}
    assert not any(file["is_checked"] for file in record(dataset.path)["files"])


PUBLISHED_AS = {
    "mattersim_alexandria_random": "alexandria-random-1k",
    "mattersim_mpf_tp": "mpf-TP",
    "mattersim_mptrj_highstress": "mptrj-highest-stress-1k",
    "mattersim_mptrj_random": "mptrj-random-1k",
}


@pytest.mark.network
def test_mattersim_is_the_dataset_of_the_documented_runs(server, shared, tmp_path, monkeypatch):
    """Served are the converted copies, which differ from the published files in comments and one repeated structure."""
    row, files = published.SETS["mattersim"], {}
    for path, folder in zip(row.files, PUBLISHED_AS):
        assert PurePath(path).stem == PUBLISHED_AS[folder]
        body = lzma.decompress((shared / "data" / folder / "all.extxyz.xz").read_bytes())
        server.files[f"/{path}"], files[path] = body, hashlib.sha256(body).hexdigest()
    monkeypatch.setitem(published.SETS, "mattersim", replace(row, files=files))
    monkeypatch.setattr(download, "CHUNK", 1 << 16)
    fetched = PackedDataset.open(published.fetch("mattersim"))
    sources = [shared / "data" / folder for folder in sorted(PUBLISHED_AS)]
    documented = pack(sources, tmp_path / "documented", filter=["forces_max<50", "stress_max<1"]).manifest
    assert (len(fetched), fetched.manifest.filtered) == (3682, 386)
    assert fetched.manifest.hash == documented.hash  # every value, the order, and so the split


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "part", "n"),
    [pytest.param("nbmotaw", "train", 5282, marks=pytest.mark.long), ("nbmotaw/test", "test", 376)],
)
def test_nbmotaw_is_the_dataset_of_the_documented_runs(server, shared, tmp_path, monkeypatch, name, part, n):
    """Served are the converted copies, written as the published JSON: values, order and split are those of the runs."""
    monkeypatch.setattr(download, "CHUNK", 1 << 16)
    copy = shared / "data" / "mvl_nbmotaw" / f"{part}.extxyz.xz"
    groups: dict[str, list[Structure]] = {}
    for structure in read(copy):
        groups.setdefault(structure.info["group"], []).append(structure)
    assert sorted(groups) == sorted(PurePath(path).stem for path in published.SETS[name].files)
    for path in published.SETS[name].files:
        server.files[f"/{path}"] = as_json(groups[PurePath(path).stem])
    fetched = PackedDataset.open(published.fetch(name))
    pack([copy], tmp_path / "documented")
    documented = PackedDataset.open(tmp_path / "documented")
    assert len(fetched) == len(documented) == n
    assert (fetched.groups == documented.groups).all()
    for k in range(0, n, 7):
        one, other = fetched[k], documented[k]
        assert one.energy == other.energy
        assert (one.atomic_numbers == other.atomic_numbers).all()
        for label, room in (("positions", 1e-8), ("cell", 0.0), ("forces", 0.0), ("stress", 1e-12)):
            assert np.allclose(getattr(one, label), getattr(other, label), rtol=0, atol=room), label
