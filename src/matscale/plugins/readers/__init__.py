"""The built-in readers. An outside package adds a format with a function of its own like the one below."""

from __future__ import annotations

from matscale import hookimpl
from matscale.core.data.formats import Reader
from matscale.plugins.readers import ase_files, aselmdb, extxyz


@hookimpl
def register_readers() -> list[Reader]:
    return [
        Reader("extxyz", "extended XYZ, also .gz, .bz2, .xz and .zst", extxyz.matches, extxyz.read, extxyz.count),
        Reader("aselmdb", "ASE's LMDB database, as OMat24 ships", aselmdb.matches, aselmdb.read, aselmdb.count),
        Reader(
            "ase-db", "ASE database: .db (SQLite), .json", ase_files.matches_db, ase_files.read_db, ase_files.count_db
        ),
        Reader("ase", "any file that ASE reads", ase_files.matches, ase_files.read, lambda path: None, is_generic=True),
    ]
