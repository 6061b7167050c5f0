"""Nothing is left out without a word: files that no reader knows, labels that are NaN, names that are nearly right."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import zipfile

import numpy as np
import pytest
from ase.io import write as ase_write
from click.testing import CliRunner

from matscale.cli import main
from matscale.core.data.sources.find import read, survey
from matscale.core.data.sources.pack import pack
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import DataError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def _checked_zst(data):
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


COMPRESSORS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": _checked_zst}
CELL = 'Lattice="4 0 0 0 4 0 0 0 4"'


def text(structures, n, seed=0, folder=None):
    ase_write(folder / "plain", [s.to_ase() for s in structures(n, seed=seed)], format="extxyz")
    whole = (folder / "plain").read_bytes()
    (folder / "plain").unlink()
    return whole


def notes(manifest):
    return {note: n for source in manifest.sources for note, n in source.notes.items()}


@pytest.mark.parametrize(("suffix", "compress"), COMPRESSORS.items(), ids=COMPRESSORS)
def test_a_compressed_file_is_read_by_name_and_in_a_folder(structures, tmp_path, suffix, compress):
    (tmp_path / "d").mkdir()
    whole = text(structures, 6, folder=tmp_path)
    half = whole.index(b"\n", len(whole) // 2)
    (tmp_path / "d" / f"b.extxyz{suffix.upper()}").write_bytes(compress(whole[:half]) + compress(whole[half:]))
    (tmp_path / "d" / "a.xyz").write_bytes(whole)
    assert len(list(read(tmp_path / "d" / f"b.extxyz{suffix.upper()}"))) == 6  # both members of the file
    assert pack([tmp_path / "d"], tmp_path / "out", strict=True).manifest.n_structures == 12


@pytest.mark.parametrize(("suffix", "compress"), COMPRESSORS.items(), ids=COMPRESSORS)
@pytest.mark.parametrize("damage", ["cut", "magic", "flipped"])
def test_a_damaged_compressed_file_is_refused_by_name(structures, tmp_path, suffix, compress, damage):
    whole = bytearray(compress(text(structures, 20, folder=tmp_path)))
    if damage == "flipped":
        whole[len(whole) // 2] ^= 0xFF
    kept = {"cut": whole[: len(whole) // 2], "magic": b"XX" + whole[2:], "flipped": whole}[damage]
    (tmp_path / f"a.extxyz{suffix}").write_bytes(kept)
    with pytest.raises(DataError, match=rf"a\.extxyz\{suffix}: structure \d+ .*cannot be read"):
        list(read(tmp_path / f"a.extxyz{suffix}"))


def test_files_that_no_reader_knows_are_listed_and_strict_refuses_them(structures, tmp_path):
    folder = tmp_path / "d"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.extxyz").write_bytes(text(structures, 3, folder=tmp_path))
    for name in ("b.parquet", "c.lmdb", "d.db", "e.json", "sub/f.h5", "sub/g.extxyz.7z"):
        (folder / name).write_text("x")
    with zipfile.ZipFile(folder / "z.zip", "w") as archive:
        archive.writestr("a.extxyz", "")
    for name in ("README.md", "LICENSE", "a.aselmdb-lock", "manifest.json", "SHA256SUMS", "a.sha256", ".hidden.zip"):
        (folder / name).write_text("x")
    (folder / "link.extxyz").symlink_to(folder / "nowhere")
    (tmp_path / "elsewhere").mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    expected = [
        "b.parquet",
        "c.lmdb",
        "d.db",
        "e.json",
        "link.extxyz",
        "linked",
        "sub/f.h5",
        "sub/g.extxyz.7z",
        "z.zip",
    ]
    found, passed = survey([folder])
    assert [path.name for path, _ in found] == ["a.extxyz"]
    assert [str(path.relative_to(folder)) for path in passed] == expected
    done = CliRunner().invoke(main, ["data", "pack", str(folder), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert "9 files were skipped" in done.stderr
    assert "b.parquet" in done.stderr
    assert "1 .parquet" in done.stderr
    assert len(PackedDataset.open(tmp_path / "out").manifest.passed_over) == 9
    again = CliRunner().invoke(main, ["data", "pack", str(folder), "-o", str(tmp_path / "out"), "--strict"])
    assert (again.exit_code, "skipped" in again.stderr) == (3, True)


@pytest.mark.parametrize("name", ["a.zip", "a.extxyz.tar.gz", "a.TGZ", "a.7z"])
def test_an_archive_that_is_given_by_name_says_to_unpack_it(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(DataError, match=r"is an archive.*Unpack it"):
        pack([tmp_path / name], tmp_path / "out")


def frame(comment, atoms, columns="forces:R:3"):
    return f"2\n{CELL} Properties=species:S:1:pos:R:3:{columns} {comment}\n{atoms}"


SOUND = "Al 0 0 0 1 0 0\nO 2 0 0 -1 0 0\n"


def test_a_label_that_is_nan_is_missing_and_the_structure_stays(tmp_path):
    stress = 'stress="1 nan 3 0 0 0"'
    frames = [
        frame("energy=nan", SOUND),
        frame("energy=1", SOUND.replace("-1", "nan")),
        frame(f"energy=1 {stress}", SOUND),
    ]
    (tmp_path / "a.extxyz").write_text("".join([*frames, frame("energy=nan REF_energy=2", SOUND)]))
    manifest = pack([tmp_path / "a.extxyz"], tmp_path / "out").manifest
    assert (manifest.n_structures, manifest.rejected) == (4, 0)
    assert manifest.labels == {"energy": 3, "forces": 3, "stress": 0}
    masked = {note.split(":")[0]: n for note, n in notes(manifest).items() if "counts as missing" in note}
    assert masked == {"energy": 1, "forces": 1, "stress": 1}
    second = PackedDataset.open(tmp_path / "out").structure(1)
    assert second.forces is None
    assert second.energy == 1
    with pytest.raises(DataError, match=r"structure 0: energy: NaN.*--strict"):
        pack([tmp_path / "a.extxyz"], tmp_path / "strict", strict=True)


def test_infinite_labels_are_damage_and_refuse_the_structure(tmp_path):
    (tmp_path / "a.extxyz").write_text(frame("energy=inf", SOUND) + frame("energy=1", SOUND))
    assert pack([tmp_path / "a.extxyz"], tmp_path / "out").manifest.rejected == 1


@pytest.mark.parametrize(
    ("comment", "columns", "advice"),
    [
        ("energy=1", "force:R:3", "no forces found; the file has `force` [n, 3]: --key forces=force"),
        ("energy=1", "dft_force:R:3", "no forces found; the file has `dft_force` [n, 3]: --key forces=dft_force"),
        ("TotEnergy=1", "forces:R:3", "no energy found; the file has `TotEnergy`: --key energy=TotEnergy"),
        ("Energy=1", "forces:R:3", "no energy found; the file has `Energy`: --key energy=Energy"),
        ("enregy=1", "forces:R:3", "no energy found; the file has `enregy`: --key energy=enregy"),
        ("free_energy=1", "forces:R:3", "no energy found; the file has `free_energy`: --key energy=free_energy"),
        (
            'energy=1 Virial="1 2 3 4 5 6"',
            "forces:R:3",
            "no stress found; the file has `Virial` of 6 numbers: --key stress=Virial",
        ),
    ],
)
def test_a_name_that_is_nearly_right_gets_advice_that_works(tmp_path, comment, columns, advice):
    (tmp_path / "a.extxyz").write_text(frame(comment, SOUND, columns))
    command = ["data", "pack", str(tmp_path / "a.extxyz"), "-o"]
    done = CliRunner().invoke(main, [*command, str(tmp_path / "out")])
    assert f"note: {advice} (1 structures)" in done.stdout
    label = advice.split()[1]
    again = CliRunner().invoke(main, [*command, str(tmp_path / "again"), *advice.split(": ")[1].split()])
    assert again.exit_code == 0
    assert PackedDataset.open(tmp_path / "again").manifest.labels[label] == 1


def test_advice_is_given_for_databases_and_other_files_of_ase(structures, tmp_path):
    from ase.db import connect

    atoms = structures(1)[0].to_ase()
    forces = atoms.get_forces()
    atoms.calc = None
    with connect(tmp_path / "a.db") as database:
        database.write(atoms, data={"force": forces, "total_energy": np.array([-1.0])})
    atoms.info["E0"] = -1.0
    ase_write(tmp_path / "b.traj", atoms)
    manifest = pack([tmp_path / "a.db", tmp_path / "b.traj"], tmp_path / "out").manifest
    assert sorted(notes(manifest)) == [
        "no energy found; the file has `E0`: --key energy=E0",
        "no energy found; the file has `total_energy`: --key energy=total_energy",
        "no forces found; the file has `force` [n, 3]: --key forces=force",
    ]
