"""Every architecture on a pretended GPU: no two devices meet, and the numbers are those of the CPU."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from matscale.core.data.store.packed import PackedDataset
from matscale.core.flops import Cost
from matscale.core.hosting.host import host
from matscale.core.inference.load import calculator
from matscale.core.model.reference_path import reference_path
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import TIMINGS, Run
from matscale.core.train import session
from matscale.core.train.session import train
from matscale.plugins.eqv2.fast import path
from pretended import Meeting, Pretended, pretended_gpu

SMALL: dict[str, dict[str, Any]] = {
    "fcn": {"hidden": 8, "depth": 2},
    "transformer": {"width": 8, "n_heads": 1, "n_layers": 1, "feedforward": 16},
    "transformer-periodic": {"width": 8, "n_heads": 1, "n_layers": 1, "feedforward": 16, "cutoff": 4.0},
    "schnet": {"hidden": 8, "filters": 8, "n_layers": 1, "n_radial": 6, "cutoff": 4.0},
    "eqv2": {"channels": 2, "n_layers": 1, "lmax": 2, "grid_resolution": 6, "n_radial": 8, "max_neighbors": 6},
    "esen": {"channels": 4, "hidden": 4, "edge_channels": 4, "n_layers": 1, "lmax": 2, "n_radial": 8, "cutoff": 3.0},
    "gemnet": {
        "n_layers": 1,
        "atom_channels": 6,
        "edge_channels": 6,
        "triplet_in": 4,
        "triplet_out": 4,
        "n_radial": 8,
        "n_spherical": 3,
        "radial_embedding": 4,
        "circular_embedding": 4,
        "n_atom": 1,
        "n_after_skip": 1,
        "cutoff": 3.0,
    },
    "escaip": {
        "hidden": 20,
        "n_layers": 1,
        "n_heads": 1,
        "atom_channels": 4,
        "order_channels": 4,
        "n_order": 4,
        "distance_channels": 8,
        "n_radial": 16,
        "cutoff": 3.5,
        "n_neighbors": 8,
        "max_neighbors": 40,
    },
}
"""Configurations; the ladder gives those of other architectures."""
OC = {
    **dict.fromkeys(("quadruplets", "atom_edge", "edge_atom", "atom_atom"), True),
    "quadruplet_in": 3,
    "quadruplet_out": 4,
    "pair_in": 4,
    "pair_out": 3,
    "spherical_embedding": 6,
}
CASES = [
    *((a.name, {}, False) for a in host().architectures()),
    *((name, {}, True) for name in ("schnet", "eqv2")),
    *((name, {"forces": "gradient"}, False) for name in ("eqv2", "gemnet", "escaip")),
    ("esen", {"forces": "direct"}, False),
    ("gemnet", OC, False),
]
"""Architecture, changed options, and whether it computes by the readable path."""


def cases() -> list[Any]:
    """All cases. Most take long: a step of every architecture is in `test_step_on_a_pretended_gpu.py`."""
    found = []
    for name, options, is_readable in CASES:
        marks = [pytest.mark.long] if options or is_readable or name != "schnet" else []
        words = [name, options.get("forces", "OC" if options else ""), "readable" if is_readable else ""]
        found.append(pytest.param(name, options, is_readable, marks=marks, id="-".join(filter(None, words))))
    return found


@pytest.fixture(autouse=True)
def _fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    takes_pretended_weights(monkeypatch)


def takes_pretended_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the fast path of EquiformerV2, which takes plain parameters only, take those of the pretended GPU."""
    obstacle = path._obstacle

    def without_type(model: Any, data: Any) -> str | None:
        reason = obstacle(model, data)
        return None if reason and reason.startswith("the weights are not plain") else reason

    monkeypatch.setattr(path, "_obstacle", without_type)


def settings(data: PackedDataset, name: str, device: str, steps: int, **options: Any) -> TrainConfig:
    architecture = host().architecture(name)
    if name == "eqv2" and options.get("forces") == "gradient":  # its energy must not jump with the order of neighbours
        options |= {"max_neighbors": 0, "cutoff": 4.0}
    config = architecture.config.parse({**SMALL[name], **options}) if name in SMALL else architecture.ladder(2_000)
    values = {
        "architecture": {"name": name, "config": {**config.plain(), **options}},
        "data": {"path": str(data.path), "validation": 0.25},
        "batch": {"structures": 4},
        "budget": {"steps": steps},
        "schedule": {"kind": "constant", "warmup": 0.0},
        "compute": {"device": device, "precision": "fp64"},
        "log_every": 1,
    }
    return TrainConfig.parse(values)


def last(run: Run) -> list[dict[str, float]]:
    """Rows of metrics of step 2, without times and the FLOPs of validations, of which a stopped run has more."""
    rows = [row for row in run.metrics() if row["step"] == 2]
    return [{k: v for k, v in row.items() if k not in {*TIMINGS, "split", "validation_flops"}} for row in rows]


@pytest.mark.parametrize(("name", "options", "is_readable"), cases())
def test_a_session_its_resume_and_predictions_on_the_gpu_are_those_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
    alloys: PackedDataset,
    tmp_path: Path,
    name: str,
    options: dict[str, Any],
    is_readable: bool,
) -> None:
    form = reference_path() if is_readable else nullcontext()
    whole, *parts = (settings(alloys, name, *rest, **options) for rest in (("cpu", 2), ("cuda", 1), ("cuda", 2)))
    atoms = bulk("Al", cubic=True)
    atoms.rattle(0.1, seed=0)
    costs, count = list[Cost](), session.cost_of_setup

    def counted(*given: Any) -> Cost:
        """Count FLOPs on the pretended GPU, and not again: it takes most of the time."""
        costs.append(costs[0] if costs else count(*given))
        return costs[0]

    monkeypatch.setattr(session, "cost_of_setup", counted)
    with form:
        with pretended_gpu():
            train(parts[0], tmp_path / "gpu")
            gpu = train(parts[1], tmp_path / "gpu", resume=True)
            assert gpu.info["device"].startswith("cuda")
            found = predicted(gpu, "cuda", atoms)
        cpu = train(whole, tmp_path / "cpu")
        expected = predicted(cpu, "cpu", atoms)
    for row, other in zip(last(gpu), last(cpu), strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-9)
    for value, other in zip(found, expected, strict=True):
        assert np.allclose(value, other, rtol=1e-5, atol=1e-9)


def predicted(run: Run, device: str, atoms: Atoms) -> list[Any]:
    """Energy, forces and stress by the calculator of a run."""
    atoms.calc = calculator(run, "last", device=device)
    assert isinstance(next(atoms.calc.potential.parameters()), Pretended) == (device == "cuda")
    atoms.calc.calculate(atoms)
    return [atoms.calc.results[key] for key in sorted(atoms.calc.results)]


def test_two_devices_that_meet_are_an_error_and_waiting_is_counted_with_file_and_line() -> None:
    with pretended_gpu() as waits:
        x = torch.arange(4.0).to("cuda")
        assert (str(x.device), x.is_cuda) == ("cuda:0", True)
        with pytest.raises(Meeting, match="cuda:0 and cpu"):
            x + torch.ones(4)
        with pytest.raises(TypeError, match="to numpy"):
            x.numpy()
        assert (x * torch.tensor(2.0)).tolist() == [0, 2, 4, 6]  # a number may be on the CPU
        assert waits["elsewhere"] == 1
        before = waits.total()
        x.sum().item(), x[x > 1], x.cpu(), bool(x[0])
        assert waits.total() == before + 4
        y = torch.zeros(2, 2, device=x.device, requires_grad=True)
        (y.exp() @ y.new_ones(2)).square().sum().backward()
        assert isinstance(y.grad, Pretended)
        assert y.grad.tolist() == [[4.0, 4.0], [4.0, 4.0]]
