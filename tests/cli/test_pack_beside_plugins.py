"""`matscale data pack` with readers of outside packages: a sound one is used, a faulty one is in nobody's way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from little import Site
from matscale.core.hosting.observers import PluginWarning

READER = """
    import numpy as np
    from matscale import hookimpl
    from matscale.core.data.sources.reader import Reader
    from matscale.core.data.structure import Structure

    def matches(path):
        {matches}

    def read(path, start, stop):
        for line in path.read_text().splitlines()[start:stop]:
            info = {{"energy": float(line)}}
            yield Structure(np.array([29]), np.zeros((1, 3)), 3.6 * np.eye(3), np.ones(3, bool), info=info)

    @hookimpl
    def register_readers():
        return [Reader("lines", "an energy a line", matches, read, lambda path: None)]
"""


def test_an_outside_reader_is_found_by_the_file(site: Site, tmp_path: Path) -> None:
    site.install("my-lines", READER.format(matches='return path.suffix == ".lines"'))
    (tmp_path / "a.lines").write_text("1.5\n2.5\n")
    result = site.run(
        "data", "pack", str(tmp_path / "a.lines"), "-o", str(tmp_path / "out"), "--workers", "1", "--json"
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["n_structures"] == 2
    assert summary["sources"][0]["format"] == "lines"


def test_an_outside_reader_that_raises_does_not_stop_the_reading_of_other_files(site: Site, tmp_path: Path) -> None:
    site.install("my-lines", READER.format(matches="1 / 0"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.extxyz").write_text("1\nenergy=1.0\nH 0 0 0\n")
    (tmp_path / "in" / "README.md").write_text("about a.extxyz")
    with pytest.warns(PluginWarning, match="'lines' \\(my-lines 1.0\\) raised ZeroDivisionError"):
        result = site.run("data", "pack", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--workers", "1")
    assert result.exit_code == 0, result.output
