"""One, two and four processes train alike, also where a step leaves some without structures, labels or a use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from curves import Case, curve, on_processes
from matscale.core.data.store.packed import PackedDataset, ShardWriter
from matscale.core.train.processes.world import World

SCHNET = "architecture.config={hidden=8, filters=8, n_layers=1, n_radial=8, cutoff=4.0}"


@pytest.fixture(scope="module")
def gaps(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dataset, of whose structures one in four has an energy and every other one forces."""
    writer = ShardWriter(tmp_path_factory.mktemp("gaps") / "data")
    dataset = PackedDataset.open(data)
    for row in range(len(dataset)):
        s = dataset.structure(row)
        s.energy = s.energy if row % 4 == 0 else None
        s.forces = s.forces if row % 2 else None
        s.stress = None if row % 3 else s.stress
        writer.append(s)
    writer.finish()
    return writer.path


@pytest.fixture(scope="module")
def cases(data: Path, gaps: Path) -> dict[str, Case]:
    all_, some = str(data), str(gaps)
    return {
        "derived forces": Case(all_, ("batch.structures=5",)),  # the last of an epoch has two structures
        "schnet": Case(all_, (SCHNET, "batch.structures=7"), "schnet", 6),
        "direct forces": Case(all_, ("batch.structures=7",), "columns"),
        "limits by atoms": Case(all_, ("batch={atoms=9, accumulate=3}",), steps=8),
        "few labels": Case(some, ("batch.structures=4",), "columns", 12),
        "few labels, derived forces": Case(some, ("batch={structures=2, accumulate=3}",), steps=8),
        "rarely used": Case(all_, ("batch={structures=2, accumulate=4}",), "springs", 8, unused=True),
    }


@pytest.fixture(scope="module")
def one(cases: Mapping[str, Case]) -> dict[str, dict[str, list[float]]]:
    return {name: curve(case, World()) for name, case in cases.items()}


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.long)])
def many(
    request: pytest.FixtureRequest, cases: Mapping[str, Case], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, list[float]]]:
    found = on_processes(request.param, list(cases.values()), tmp_path_factory.mktemp("curves"))
    return dict(zip(cases, found))


NAMES = ["derived forces", "schnet", "direct forces", "limits by atoms", "few labels"]
NAMES += ["few labels, derived forces", "rarely used"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_several_processes_have_the_losses_of_one(
    name: str, one: dict[str, dict[str, list[float]]], many: dict[str, dict[str, list[float]]]
) -> None:
    for key in ("loss", "norm", "weights"):
        np.testing.assert_allclose(many[name][key], one[name][key], rtol=1e-10, err_msg=key)
    assert len(set(one[name]["loss"])) == len(one[name]["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_parameters_that_no_process_uses_are_left_to_themselves(
    name: str, one: dict[str, dict[str, list[float]]], many: dict[str, dict[str, list[float]]]
) -> None:
    assert many[name]["without"] == one[name]["without"]
    assert ("model.idle" in one[name]["without"]) == (name == "rarely used")


@pytest.mark.long
def test_compiled_and_recomputed_models_have_the_losses_of_one_process(data: Path, tmp_path: Path) -> None:
    recomputed = (SCHNET, "batch.structures=7", "compute.checkpoint_activations=true")
    cases = [
        Case(str(data), ("batch={structures=4, accumulate=3}",), "columns", 6, backend="aot_eager"),
        Case(str(data), recomputed, "schnet", 6),
    ]
    for case, found in zip(cases, on_processes(2, cases, tmp_path)):
        np.testing.assert_allclose(found["loss"], curve(case, World())["loss"], rtol=1e-10)


@pytest.mark.long
def test_in_single_precision_losses_differ_by_rounding(data: Path, tmp_path: Path) -> None:
    cases = [Case(str(data), ("batch.structures=7", "compute.precision=fp32"), name) for name in ("springs", "columns")]
    for case, found in zip(cases, on_processes(2, cases, tmp_path)):
        np.testing.assert_allclose(found["loss"], curve(case, World())["loss"], rtol=1e-5)
