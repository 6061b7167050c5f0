"""Exporting runs to fairchem v1 (docs/eqv2.md: how its own calculator agrees)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import matscale
from matscale.cli import main
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.errors import ConfigError
from matscale.core.fairchem.checkpoint import FairchemCheckpoint
from matscale.core.fairchem.export import export_run
from matscale.core.fairchem.run import import_run, translate
from matscale.core.files import DiskError
from matscale.core.model.outputs import Outputs
from matscale.core.model.potential import Potential
from matscale.core.runs import checkpoint as checkpoints
from matscale.core.runs.record import Run
from matscale.plugins.eqv2 import EqV2Config
from matscale.plugins.eqv2.fairchem.names import config_from_fairchem, derived, fairchem_from_config
from matscale.plugins.eqv2.fairchem.tables import fairchem_tables

SMALL = {
    "channels": 4,
    "n_layers": 1,
    "lmax": 2,
    "edge_channels": 4,
    "ffn_hidden": 4,
    "cutoff": 4.0,
    "max_neighbors": 9,
}
SMALL |= {"grid_resolution": 8, "stress_head": "rank2", "mean_atoms": 3.0}


@pytest.fixture
def exported(make_run: Callable[..., Run], tmp_path: Path) -> Callable[..., tuple[Run, Path]]:
    """A run and the file that it was exported to: exported(lmax=3)."""

    def make(**options: Any) -> tuple[Run, Path]:
        run = make_run("eqv2", **{**SMALL, **options})
        export_run(run, tmp_path / "checkpoint.pt")
        return run, tmp_path / "checkpoint.pt"

    return make


def matscale_export(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", "fairchem", *map(str, arguments)])


def alloy() -> Structure:
    """Copper and aluminium out of balance."""
    rng = np.random.default_rng(5)
    cell = 2.9 * (np.eye(3) + 0.05 * rng.standard_normal((3, 3)))
    return Structure(np.array([29, 13]), np.array([[0.0, 0, 0], [1.6, 1.3, 1.4]]), cell, np.array([True] * 3))


def predicted(potential: Potential) -> Outputs:
    potential.eval().requires_grad_(False)  # torch computes other last digits where weights want a gradient
    return potential(collate([alloy()], potential.graph))


def imported(path: Path) -> Potential:
    """Without the process that unpickles."""
    return translate(FairchemCheckpoint(path, torch.load(path, weights_only=True))).potential


def test_a_run_that_is_exported_and_imported_is_the_same(
    exported: Callable[..., tuple[Run, Path]], tmp_path: Path
) -> None:
    run, path = exported()
    before, after = matscale.load(run), matscale.load(import_run(path, tmp_path / "back")[0])
    assert torch.equal(before.references, after.references)
    assert torch.equal(before.scales, after.scales)
    assert before.elements == after.elements
    assert torch.equal(predicted(before).energy, predicted(after).energy)


@pytest.mark.parametrize("norm", ["layer_norm_sh", "layer_norm", "rms_norm_sh"])
def test_a_run_that_is_exported_and_imported_predicts_bit_for_bit_the_same(
    exported: Callable[..., tuple[Run, Path]], norm: str
) -> None:
    run, path = exported(norm=norm)
    here, there = predicted(matscale.load(run)), predicted(imported(path))
    assert here.forces.abs().max() > 1e-3
    assert here.stress.abs().max() > 1e-4
    for name in ("energy", "forces", "stress"):
        assert torch.equal(getattr(here, name), getattr(there, name)), name


def test_a_run_without_stress_is_exported_and_imported(exported: Callable[..., tuple[Run, Path]]) -> None:
    run, path = exported(stress_head="none")
    here, there = predicted(matscale.load(run)), predicted(imported(path))
    assert here.stress is there.stress is None
    assert torch.equal(here.forces, there.forces)


def test_the_command_exports_the_checkpoint_that_is_asked_for(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = make_run("eqv2", steps=(1, 2), ema=True, **SMALL)
    result = matscale_export(run.path, "-o", tmp_path / "a.pt", "--checkpoint", "1")
    assert result.exit_code == 0, result.output
    assert "for fairchem v1" in result.stdout
    found = torch.load(tmp_path / "a.pt", weights_only=True)
    kept = checkpoints.load_weights(checkpoints.folder_of(run.checkpoint_folder, 1))  # averaged ones
    assert torch.equal(found["state_dict"]["backbone.sphere_embedding.weight"], kept["model.element.weight"])
    assert found["step"] == 1


def test_a_folder_that_cannot_be_written_to_ends_with_an_error_and_no_traceback(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, target = make_run("eqv2", **SMALL), tmp_path / "gone" / "a.pt"
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)  # as /proc, which takes no file of ours
    result = matscale_export(run.path, "-o", target)
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_the_file_is_numbers_and_texts_only(exported: Callable[..., tuple[Run, Path]]) -> None:
    _, path = exported()
    found = torch.load(path, weights_only=True)  # refuses anything else
    assert set(found) == {"state_dict", "normalizers", "elementrefs", "config", "val_metrics", "amp", "step"}
    assert all(w.dtype in (torch.float32, torch.int64) for w in found["state_dict"].values())


def test_a_table_is_stored_once_for_all_layers(exported: Callable[..., tuple[Run, Path]]) -> None:
    _, path = exported(n_layers=2)
    named = torch.load(path, weights_only=True)["state_dict"]
    first, second = (named[f"backbone.blocks.{i}.ffn.SO3_grid.2.2.to_grid_mat"] for i in (0, 1))
    assert first.data_ptr() == second.data_ptr()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stress_head": "equivariant"}, "stress_head = 'equivariant': .*stress_head=rank2"),
        ({"forces": "gradient", "max_neighbors": 0}, "forces = 'gradient': .*forces=direct .*max_neighbors=20"),
        ({"max_neighbors": 0}, "max_neighbors = 0: .*max_neighbors=20"),
        ({"grid": "lebedev"}, "grid = 'lebedev': .* default is 'product'"),
        ({"n_radial": 64}, "n_radial = 64: .*always has 600"),
    ],
)
def test_what_fairchem_cannot_express_is_refused_by_name(
    make_run: Callable[..., Run], tmp_path: Path, options: dict, message: str
) -> None:
    run = make_run("eqv2", **{**SMALL, **options})
    with pytest.raises(ConfigError, match=message):
        export_run(run, tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()


def test_another_architecture_is_refused(make_run: Callable[..., Run], tmp_path: Path) -> None:
    result = matscale_export(make_run("schnet").path, "-o", tmp_path / "a.pt")
    assert result.exit_code == 2
    assert "its architecture is 'schnet'" in result.stderr


def test_a_file_is_not_written_over(make_run: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_text("mine")
    result = matscale_export(make_run("eqv2", **SMALL).path, "-o", tmp_path / "a.pt")
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert (tmp_path / "a.pt").read_text() == "mine"


def test_a_failed_write_leaves_nothing(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = make_run("eqv2", **SMALL)
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(DiskError, match="No space"):
        export_run(run, tmp_path / "out" / "a.pt")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["omat24-S", "omat24-M", "omat24-L", "ladder-13"])
def test_published_sizes_have_a_counterpart_in_fairchem(name: str) -> None:
    from matscale.plugins.eqv2 import SIZES

    assert config_from_fairchem(fairchem_from_config(SIZES[name])) == SIZES[name]


# fairchem's own numbers -----------------------------------------------------------------------------------------------


def test_the_grids_are_those_that_fairchem_stores(golden: Any) -> None:
    tables, lmax, mmax = fairchem_tables(golden.config), golden.config.lmax, golden.config.mmax
    assert len(tables) == 1008  # and 143 parameters: the 1,151 entries of the model's file
    for name, order in (("lmax", lmax), ("mmax", mmax)):
        for way in ("to", "from"):
            stored = golden.tensors[f"buffers.{way}_grid_lmax_{name}"]
            own = tables[f"backbone.SO3_grid.{lmax}.{order}.{way}_grid_mat"]
            torch.testing.assert_close(own.to(stored.dtype), stored, rtol=1e-5, atol=2e-6)


def test_every_table_is_recognised_as_one(small: Callable[..., EqV2Config]) -> None:
    for norm in ("layer_norm_sh", "layer_norm", "rms_norm_sh"):
        assert all(derived(name) for name in fairchem_tables(small(norm=norm, stress_head="rank2")))
