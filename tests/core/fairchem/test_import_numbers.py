"""Imported models predict what fairchem's own models predicted, whichever file they come from."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.io import read as read_file
from click.testing import CliRunner, Result

import matscale
from fairchem_files import GOLDEN, Theirs, write
from matscale.cli import main
from matscale.core.data.neighbors import collate
from matscale.core.fairchem import inference
from matscale.core.fairchem.checkpoint import FairchemCheckpoint, read
from matscale.core.fairchem.run import Imported, translate
from matscale.core.runs.record import Run

ONE_PIECE = ("gemnet-t", "gemnet-dt", "gemnet-oc")


def run_cli(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def import_fairchem(theirs: Theirs, content: dict[str, Any], folder: Path, *options: str) -> Path:
    path, run = write(theirs, content, folder / "checkpoint.pt"), folder / "run"
    result = run_cli("import", "fairchem", path, "-o", run, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(theirs.kind.partition("-")[0])
    return run


def predicted(run: Path, theirs: Theirs) -> Any:
    potential = matscale.load(run)
    return potential(collate(theirs.structures, potential.graph)).detach()


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest, over the largest value."""
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", GOLDEN)
def test_the_averaged_weights_of_a_checkpoint_predict_what_fairchem_predicts(
    golden: Callable[[str], Theirs], kind: str, tmp_path: Path
) -> None:
    theirs = golden(kind)
    run = import_fairchem(theirs, theirs.content(), tmp_path)
    found = predicted(run, theirs)
    for name, expected in theirs.expected().items():
        assert difference(getattr(found, name), expected) < 1e-4, name
    record = Run.open(run).info
    assert record["imported"]["weights"] == "ema"
    assert record["imported"]["format"] == ("fairchem v2" if theirs.is_new else "fairchem v1")


def as_is(theirs: Theirs, content: dict[str, Any], choice: Any = "auto") -> Imported:
    """Without the process that unpickles."""
    path = Path(f"{theirs.kind}.pt")
    return translate(FairchemCheckpoint(path, inference.as_training(path, content)), choice)


@pytest.mark.parametrize("kind", GOLDEN)
def test_the_raw_weights_of_a_checkpoint_are_others(golden: Callable[[str], Theirs], kind: str) -> None:
    theirs = golden(kind)
    imported = as_is(theirs, theirs.content(), "raw")
    potential = imported.potential.eval()
    found = potential(collate(theirs.structures, potential.graph)).detach()
    assert difference(found.forces, theirs.expected()["forces"]) > 1e-3
    assert imported.weights == "raw"


def check(imported: Imported, theirs: Theirs) -> None:
    potential = imported.potential.eval()
    found = potential(collate(theirs.structures, potential.graph)).detach()
    for name, expected in theirs.expected().items():
        assert difference(getattr(found, name), expected) < 1e-4, name


@pytest.mark.parametrize("kind", ["schnet", *ONE_PIECE])
def test_the_best_checkpoint_has_the_average_by_name(golden: Callable[[str], Theirs], kind: str) -> None:
    theirs = golden(kind)
    imported = as_is(theirs, theirs.best())
    assert imported.weights == "ema"
    check(imported, theirs)


def hydra(theirs: Theirs) -> dict[str, Any]:
    """A GemNet with a backbone and heads, of which those of gemnet_oc have the last layers."""
    content = theirs.best()
    model = dict(content["config"]["model"])
    name = model.pop("name")
    depth = {"num_global_out_layers": model["num_global_out_layers"]} if name == "gemnet_oc" else {}
    heads = {"energy": {"module": f"{name}_energy_and_grad_force_head", **depth}}
    if theirs.options["direct_forces"]:
        heads["forces"] = {"module": f"{name}_force_head", **depth}
    in_heads = {"out_mlp_E": "energy", "out_energy": "energy", "out_mlp_F": "forces", "out_forces": "forces"}
    weights = OrderedDict(
        (f"output_heads.{in_heads[n.partition('.')[0]]}.{n}" if n.partition(".")[0] in in_heads else f"backbone.{n}", w)
        for n, w in theirs.weights.items()
    )
    model = {"name": "hydra", "backbone": {"model": f"{name}_backbone", **model}, "heads": heads}
    return {**content, "state_dict": weights, "config": {**content["config"], "model": model}}


@pytest.mark.parametrize("kind", ONE_PIECE)
def test_a_gemnet_with_backbone_and_heads_is_the_same(golden: Callable[[str], Theirs], kind: str) -> None:
    theirs = golden(kind)
    check(as_is(theirs, hydra(theirs)), theirs)


OLD = [
    (r"int_blocks\.(\d)\.trip_interaction\.scale_rbf", "TripInteraction_{}_had_rbf", 1),
    (r"int_blocks\.(\d)\.trip_interaction\.scale_cbf_sum", "TripInteraction_{}_sum_cbf", 1),
    (r"int_blocks\.(\d)\.atom_update\.scale_sum", "AtomUpdate_{}_sum", 1),
    (r"out_blocks\.(\d)\.scale_sum", "OutBlock_{}_sum", 0),
    (r"out_blocks\.(\d)\.scale_rbf_F", "OutBlock_{}_had", 0),
]


def with_scales_apart(theirs: Theirs) -> dict[str, Any]:
    """Scale factors as in old files: those of gemnet_t under names of their own, those of gemnet_oc by their place."""
    content, factors = theirs.best(), {}
    for name in [name for name in theirs.weights if name.endswith(".scale_factor")]:
        short = name.removesuffix(".scale_factor")
        factors[short] = float(content["state_dict"].pop(name))
        for pattern, old, first in OLD if theirs.kind != "gemnet-oc" else ():
            if match := re.fullmatch(pattern, short):
                factors[old.format(int(match[1]) + first)] = factors.pop(short)
    return {**content, "scale_dict": {"comment": "GemNet", **factors}}


@pytest.mark.parametrize("kind", ONE_PIECE)
def test_scale_factors_that_stand_apart_are_put_in_place(
    golden: Callable[[str], Theirs], kind: str, tmp_path: Path
) -> None:
    theirs = golden(kind)
    content = with_scales_apart(theirs)
    assert len(content["scale_dict"]) > 5
    torch.save(content, tmp_path / "old.pt")
    check(translate(read(tmp_path / "old.pt")), theirs)


def test_of_a_gemnet_for_tagged_atoms_the_user_is_told(golden: Callable[[str], Theirs], tmp_path: Path) -> None:
    theirs = golden("gemnet-oc")
    content = theirs.best()
    content["config"]["model"]["qint_tags"] = [1, 2]
    torch.save(content, tmp_path / "tags.pt")
    result = run_cli("import", "fairchem", tmp_path / "tags.pt", "-o", tmp_path / "run")
    assert result.exit_code == 0
    assert "only atoms with tags [1, 2] have quadruplets" in result.stderr
    assert "tags [1, 2]" in Run.open(tmp_path / "run").info["imported"]["notes"][0]


NO_STRESS = ("--set", "loss.stress_isotropic.weight=0", "--set", "loss.stress_anisotropic.weight=0")


@pytest.mark.parametrize("kind", ["schnet", "gemnet-dt", "gemnet-oc", "escaip-gradient"])
def test_an_imported_model_is_used_like_any_other(
    golden: Callable[[str], Theirs], kind: str, tmp_path: Path, alloys: Any
) -> None:
    theirs = golden(kind)
    run = import_fairchem(theirs, theirs.content(), tmp_path)

    evaluated = run_cli("evaluate", run, "--data", alloys.path, "--json")
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads(evaluated.stdout)[theirs.kind.partition("-")[0]]["forces_mae"] > 0

    atoms = alloys.structure(0).to_ase()
    atoms.calc = matscale.calculator(run)
    atoms.write(tmp_path / "in.extxyz")
    done = run_cli("predict", run, tmp_path / "in.extxyz", "-o", tmp_path / "out.extxyz")
    assert done.exit_code == 0, done.output
    energy = atoms.get_potential_energy()
    assert read_file(tmp_path / "out.extxyz").get_potential_energy() == pytest.approx(energy, rel=1e-5)

    options = ("--steps", 1, "--lr", 1e-12, "--device", "cpu", "-q", "--references", "keep")
    options += () if theirs.is_derived else NO_STRESS
    tuned = run_cli("train", "--from", run, "--data", alloys.path, "-o", tmp_path / "tuned", *options)
    assert tuned.exit_code == 0, tuned.output
    atoms.calc = matscale.calculator(tmp_path / "tuned")  # scale factors and the rest are as they were
    assert atoms.get_potential_energy() == pytest.approx(energy, rel=1e-5)
