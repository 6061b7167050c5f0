"""Outputs of a wrong type, shape, dtype or device: one message that names the model, the field and the right shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write
from click.testing import CliRunner

from little import Site, architecture
from matscale.cli import main
from matscale.core.contract.structures import atom, crystal, metal, slab
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.errors import OutputsError
from matscale.core.model.outputs import Outputs
from matscale.core.model.potential import Potential
from matscale.core.runs.record import Run
from matscale.plugins.schnet.model import SchNet

SUMS = "energy=sums(self.energy(z))[:, 0]"
PER_ATOM = "energy=self.energy(z)[:, 0]"


class Spoilt(torch.nn.Module):
    """Predicts 1 for everything, with one field replaced."""

    def __init__(self, spoil: Callable[[Outputs, AtomicBatch], Any]) -> None:
        super().__init__()
        self.spoil = spoil

    def forward(self, batch: AtomicBatch) -> Any:
        ones = batch.positions.new_ones
        right = Outputs(ones(batch.n_structures), ones(batch.n_atoms, 3), ones(batch.n_structures, 3, 3))
        return self.spoil(right, batch)


SPOILT: dict[str, tuple[Callable[[Outputs, AtomicBatch], Any], str]] = {
    "per atom": (
        lambda o, b: replace(o, energy=b.positions.new_ones(b.n_atoms)),
        r"Spoilt: energy must be \[n_structures\] = \(3,\), got \(8,\)\. It has one value per atom: .*index_add",
    ),
    "a column": (lambda o, b: replace(o, energy=o.energy[:, None]), r"= \(3,\), got \(3, 1\)\. Dimensions of size 1"),
    "integers": (lambda o, b: replace(o, energy=o.energy.long()), r"energy must have a floating-point .*torch\.int64"),
    "complex": (lambda o, b: replace(o, forces=o.forces + 0j), r"forces must have a floating-point .*complex64"),
    "elsewhere": (lambda o, b: replace(o, stress=o.stress.to("meta")), r"stress must be on .* \(cpu\), got meta"),
    "Voigt": (
        lambda o, b: replace(o, stress=o.stress.new_ones(b.n_structures, 6)),
        r"stress must be \[n_structures, 3, 3\] = \(3, 3, 3\), got \(3, 6\)",
    ),
    "norms": (lambda o, b: replace(o, forces=o.forces[:, 0]), r"forces must be \[n_atoms, 3\] = \(8, 3\), got \(8,\)"),
    "no energy": (lambda o, b: replace(o, energy=None), r"energy must be .* got None\. Every model predicts"),
    "no forces": (lambda o, b: replace(o, forces=None), r'forces must be .* got None\. .*forces="gradient"'),
    "numbers": (lambda o, b: replace(o, energy=o.energy.numpy()), r"energy must be .* got ndarray\. Give a tensor"),
    "a tensor": (lambda o, b: o.energy, r"Spoilt: forward must return matscale\.plugin\.Outputs, got Tensor"),
    "a dict": (lambda o, b: vars(o), r"forward must return .* got dict\. Return Outputs\(energy=\.\.\.\)"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_malformed_output_is_named_with_what_it_should_be(fault: str) -> None:
    spoil, message = SPOILT[fault]
    batch = collate([crystal(), metal(), slab()])
    assert (batch.n_structures, batch.n_atoms) == (3, 8)
    with pytest.raises(OutputsError, match=message):
        Potential(Spoilt(spoil), derive=False, elements=tuple(range(1, 119)))(batch)


def test_a_shape_that_is_right_by_chance_in_one_batch_is_found_in_the_next() -> None:
    per_atom, _ = SPOILT["per atom"]
    potential = Potential(Spoilt(per_atom), derive=False, elements=tuple(range(1, 119)))
    potential(collate([atom(), atom()]))
    with pytest.raises(OutputsError, match="got"):
        potential(collate([crystal()]))


def test_an_energy_that_is_not_finite_is_no_fault_of_shape() -> None:
    def spoil(outputs: Outputs, batch: AtomicBatch) -> Outputs:
        return replace(outputs, energy=outputs.energy * torch.nan)

    found = Potential(Spoilt(spoil), derive=False, elements=tuple(range(1, 119)))(collate([crystal()]))
    assert found.energy.isnan().all()


def test_plugins_check_says_it_once(site: Site) -> None:
    site.install("my-lines", architecture("lines").replace(SUMS, PER_ATOM))
    result = site.run("plugins", "check", "lines")
    assert result.exit_code == 1
    assert result.stdout.count("energy must be [n_structures] = (3,), got (") == 1
    assert result.stdout.count("outputs are malformed, see shapes-and-dtypes") > 5
    contract = json.loads(site.run("plugins", "check", "lines", "--json").stdout)["contract"]["lines"]
    assert [r["name"] for r in contract if "must be" in r["detail"]] == ["shapes-and-dtypes"]
    assert next(r["status"] for r in contract if r["name"] == "same-seed-same-weights") == "passed"


@pytest.mark.parametrize("verb", ["train", "estimate"])
def test_a_command_that_runs_the_model_ends_with_one_message(
    site: Site, tmp_path: Path, alloys: Any, verb: str
) -> None:
    site.install("my-lines", architecture("lines").replace(SUMS, PER_ATOM))
    result = site.run(verb, "--arch", "lines", "--data", str(alloys.path), *_options(verb, tmp_path))
    assert result.exit_code == 2, result.output
    assert "my_lines.Linear: energy must be [n_structures] = (" in result.stderr
    assert "Traceback" not in result.output


def _options(verb: str, folder: Path) -> list[str]:
    return ["-o", str(folder / "run"), "--steps", "1"] if verb == "train" else []


def test_evaluate_and_predict_say_it_of_a_trained_model(
    make_run: Callable[..., Run], alloys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("schnet", hidden=8)
    monkeypatch.setattr(SchNet, "forward", lambda self, batch: Outputs(batch.positions.sum(1)))
    write(tmp_path / "in.extxyz", Atoms("CuAl", [[0, 0, 0], [0, 0, 2.0]], cell=4 * np.eye(3), pbc=True))
    for arguments in (
        ["evaluate", str(run.path), "--data", str(alloys.path)],
        ["predict", str(run.path), str(tmp_path / "in.extxyz"), "-o", str(tmp_path / "out.extxyz")],
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2, result.output
        assert "SchNet: energy must be [n_structures] = (" in result.stderr
