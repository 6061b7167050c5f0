"""Built-in readers of structure files. A plugin adds a format with a hook like `register_readers` here."""

from __future__ import annotations

from matscale.plugin import Reader, hookimpl
from matscale.plugins.readers import ase_files, aselmdb, extxyz, pymatgen_json


@hookimpl
def register_readers() -> list[Reader]:
    # LMDB crashes on a damaged file, and ASE's readers allocate any size that a file states.
    db, lmdb, mvl = ase_files, aselmdb, pymatgen_json
    return [
        Reader("extxyz", "extended XYZ, also .gz, .bz2, .xz and .zst", extxyz.matches, extxyz.read, extxyz.count),
        Reader("aselmdb", "ASE's LMDB database, as OMat24 ships", lmdb.matches, lmdb.read, lmdb.count, is_guarded=True),
        Reader("ase-db", "ASE database: .db (SQLite), .json", db.matches_db, db.read_db, db.count_db, is_guarded=True),
        Reader(
            "pymatgen-json",
            "list of pymatgen structures with VASP's results, .json of the Materials Virtual Lab",
            mvl.matches,
            mvl.read,
            mvl.count,
            is_guarded=True,
        ),
        Reader(
            "ase", "any file that ASE reads", db.matches, db.read, lambda path: None, is_generic=True, is_guarded=True
        ),
    ]
