"""Element references that data determine badly, parts of a split that lie apart, and elements that a model lacks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import matscale
from matscale.cli import main
from matscale.core.data.references import References, fit_references, with_values
from matscale.core.data.store.packed import PackedDataset
from matscale.core.data.store.writer import ShardWriter
from matscale.core.data.structure import Structure
from matscale.core.runs.record import Run

MakeRun = Callable[..., Run]
TINY = {"hidden": 8, "filters": 8, "n_radial": 8, "n_layers": 1, "cutoff": 4.0}


def pack(path: Path, structures: list[Structure]) -> PackedDataset:
    writer = ShardWriter(path)
    for structure in structures:
        writer.append(structure)
    writer.finish()
    return PackedDataset.open(path)


def compounds(n: int, elements: int, noise: float, seed: int = 0, of: float = 0.2) -> list[Structure]:
    """Binary compounds of random elements; energies per atom of the elements spread by `of` eV about −4 eV."""
    rng = np.random.default_rng(seed)
    own = -4.0 + of * rng.standard_normal(119)
    found = []
    for _ in range(n):
        pair = rng.choice(np.arange(1, elements + 1), 2, replace=False)
        numbers = np.repeat(pair, rng.integers(1, 6, 2))
        size = len(numbers)
        positions = np.stack([2.5 * np.arange(size), np.zeros(size), np.zeros(size)], 1)
        cell = np.diag([2.5 * size, 4.0, 4.0])
        energy = own[numbers].sum() + noise * size * rng.standard_normal()
        found.append(
            Structure(
                numbers,
                positions,
                cell,
                np.ones(3, bool),
                energy,
                0.1 * rng.standard_normal((size, 3)),
                np.eye(3) * 0.01,
            )
        )
    return found


def error(fitted: References, dataset: PackedDataset, rows: np.ndarray) -> float:
    return with_values(fitted.values, dataset, rows).residual_rms


def test_references_of_many_elements_predict_no_worse_than_a_constant(tmp_path: Path) -> None:
    dataset = pack(tmp_path / "p", compounds(300, elements=80, noise=1.0))
    train, rest = np.arange(100), np.arange(100, 300)
    fitted = fit_references(dataset, train)
    rest = rest[~dataset.composition(rest)[:, fitted.unseen(range(1, 119))].any(axis=1)]
    assert fitted.shrinkage > 0
    counts = dataset.composition(train)
    per_atom = dataset.energies(train) / counts.sum(1)
    plain = np.linalg.lstsq(counts / counts.sum(1, keepdims=True), per_atom, rcond=1e-10)[0]
    least_squares = with_values(plain, dataset, rest).residual_rms
    constant = with_values(np.full(119, per_atom.mean()), dataset, rest).residual_rms
    assert least_squares > 1.3 * constant
    assert error(fitted, dataset, rest) < 1.1 * constant
    assert fitted.held_out is not None
    assert fitted.held_out.rms < 0.9 * fitted.held_out.least_squares
    assert fitted.undetermined
    assert References.from_json(fitted.to_json()).undetermined == fitted.undetermined


def test_where_data_suffice_the_fit_is_least_squares(tmp_path: Path) -> None:
    dataset = pack(tmp_path / "p", compounds(400, elements=8, noise=0.05, of=2.0))
    fitted = fit_references(dataset, np.arange(400))
    counts = dataset.composition(np.arange(400))
    x, y = counts / counts.sum(1, keepdims=True), dataset.energies() / counts.sum(1)
    assert fitted.shrinkage == 0.0
    assert fitted.is_determined
    np.testing.assert_allclose(fitted.values[1:9], np.linalg.lstsq(x[:, 1:9], y, rcond=1e-10)[0], rtol=1e-12)


def test_an_element_that_is_not_determined_is_named(tmp_path: Path) -> None:
    given = compounds(200, elements=6, noise=0.05, of=2.0)
    trace = replace(given[0], atomic_numbers=np.where(np.arange(len(given[0])) == 0, 42, given[0].atomic_numbers))
    dataset = pack(tmp_path / "p", [*given, trace])
    result = CliRunner().invoke(main, ["data", "refs", str(dataset.path)])
    assert result.exit_code == 0, result.output
    assert "not determined by the data, 1 of 7 elements: Mo" in result.output
    assert re.search(r"held-out structures \(rms\): references 0\.\d+ eV/atom, a constant", result.output)
    plain = json.loads(CliRunner().invoke(main, ["data", "refs", "--json", str(dataset.path)]).output)
    assert plain["undetermined"] == ["Mo"]
    assert plain["held_out_rms"]["rms"] < plain["held_out_rms"]["constant"]


def train(data: PackedDataset, target: Path, *more: object) -> str:
    steps = ["--steps", 1, "--device", "cpu", "--no-baselines"]
    result = CliRunner().invoke(main, [str(a) for a in ("train", "--data", data.path, "-o", target, *steps, *more)])
    assert result.exit_code == 0, result.output
    return result.stderr


def test_parts_that_lie_far_apart_are_said_at_the_start(alloys: PackedDataset, tmp_path: Path) -> None:
    far = [replace(s, forces=20 * s.forces if s.formula == "Al" else s.forces) for s in alloys]
    small = ("--arch", "schnet", *(x for k, v in TINY.items() for x in ("--set", f"architecture.config.{k}={v}")))
    apart = pack(tmp_path / "p", [replace(s, trajectory="x" if s.formula == "Al" else "y") for s in far])
    said = train(apart, tmp_path / "run", *small)
    assert "labels of the training and validation part differ much in size" in said
    assert "eV/Å" in said


SHIFT = {13: -2.0, 28: -5.5, 29: -3.7}


@pytest.fixture
def shifted(alloys: PackedDataset, tmp_path: Path) -> PackedDataset:
    """The alloys by another functional."""
    moved = [replace(s, energy=s.energy + sum(SHIFT[int(z)] for z in s.atomic_numbers)) for s in alloys]
    return pack(tmp_path / "shifted", moved)


@pytest.mark.parametrize("choice", ["auto", "keep", "refit"])
def test_references_follow_the_functional_of_the_new_data(
    choice: str, make_run: MakeRun, shifted: PackedDataset, tmp_path: Path
) -> None:
    source = make_run("schnet", **TINY)
    said = train(shifted, tmp_path / "tuned", "--from", source.path, "--references", choice)
    run = Run.open(tmp_path / "tuned")
    theirs, ours = (matscale.load(path).references for path in (source.path, run.path))
    if choice == "keep":
        assert torch.equal(ours, theirs)
        assert "--references refit" in said
    else:
        assert not torch.equal(ours, theirs)
        before, after = re.findall(r"energy ([\d.e+]+) meV/atom", said)[:2]
        assert float(after) < 0.5 * float(before)
        assert "Step 0, before the correction" in said
    resumed = CliRunner().invoke(main, ["train", "--resume", "-q", "-o", str(run.path)])
    assert resumed.exit_code == 0, resumed.output


def test_references_that_fit_the_new_data_are_kept(make_run: MakeRun, alloys: PackedDataset, tmp_path: Path) -> None:
    first = make_run("schnet", **TINY)
    train(alloys, tmp_path / "second", "--from", first.path, "--references", "refit")
    said = train(alloys, tmp_path / "third", "--from", tmp_path / "second")
    assert "Step 0, with the element references of" in said
    assert "corrected" not in said


def test_evaluate_refuses_unseen_elements_before_it_says_that_it_measures(
    make_run: MakeRun, alloys: PackedDataset, tmp_path: Path
) -> None:
    run = make_run("schnet", **TINY)
    given = [alloys.structure(k) for k in range(12)]
    for k in (3, 4, 9):
        given[k].atomic_numbers[0] = 79
    other = pack(tmp_path / "other", given)
    arguments = ["evaluate", str(run.path), "--data", str(other.path), "--no-baselines", "--json"]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 3
    assert "measur" not in refused.stderr.split("cannot be measured")[0]
    assert "3 of 12 structures with elements that the model was not trained on: Au; rows 3-4, 9" in refused.stderr
    assert "--skip-invalid" in refused.stderr
    passed = CliRunner().invoke(main, [*arguments, "--skip-invalid"])
    assert passed.exit_code == 0, passed.output
    assert "rows 3-4, 9" in passed.stderr
    assert json.loads(passed.stdout)["schnet"]["n_structures"] == 9
