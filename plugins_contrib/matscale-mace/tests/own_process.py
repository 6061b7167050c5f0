"""Run in a process of its own: what a first model changes there, then what the package computes when used by itself.

Prints JSON: `changed`, names of what is not as it was before; `inherited`, environment variables of a child process
that are new; `opened`, processes in which torch.load executed a file; `different`, outputs of the package that are not
those of matscale.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from matscale.plugin import AtomicBatch, DatasetInfo, Graph, collate, model_outputs
from matscale.testing import crystal, metal, slab

INFO = DatasetInfo(mean_degree=30.0)
SEED = 5


def state() -> dict[str, Any]:
    """All that the package is known to change, and its neighbours."""
    import e3nn

    return {
        "default type": torch.get_default_dtype(),
        "seed of torch": torch.get_rng_state().tolist(),
        "seed of numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "seed of python": random.getstate(),
        "sharing": torch.multiprocessing.get_sharing_strategy(),
        "starting": torch.multiprocessing.get_start_method(allow_none=True),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "e3nn": dict(e3nn.get_optimization_defaults()),
        "precision": (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32),
        "threads": torch.get_num_threads(),
    }


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


LOAD = "import sys, torch; torch.load(sys.argv[1])"


def opened_by() -> list[str]:
    """List the processes, of this one and a child of it, in which loading a pickle executes its code."""
    with tempfile.TemporaryDirectory() as folder:
        trace, file = Path(folder) / "trace", Path(folder) / "model.pt"
        torch.save(Hostile(trace), file)
        found = []
        with pytest.raises(pickle.UnpicklingError, match="weights_only"):
            torch.load(file)
        found += ["this"] if trace.exists() else []
        trace.unlink(missing_ok=True)
        child = subprocess.run([sys.executable, "-c", LOAD, str(file)], capture_output=True, text=True, check=False)
        assert "weights_only" in child.stderr, child.stderr
        return found + (["child"] if trace.exists() else [])


def inherited(before: dict[str, str]) -> list[str]:
    """Variables that a child process has and that were not there before."""
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return sorted(set(json.loads(child.stdout)) - set(before) - {"LC_CTYPE"})  # Python's own


def by_itself(batch: AtomicBatch) -> dict[str, Tensor]:
    """Energy, forces and stress from the package: its model in the default type, its derivatives."""
    from e3nn import o3
    from mace import modules

    torch.manual_seed(SEED)
    model = modules.ScaleShiftMACE(
        r_max=4.0,
        num_bessel=10,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=118,
        hidden_irreps=o3.Irreps("3x0e + 3x1o"),
        MLP_irreps=o3.Irreps("4x0e"),
        atomic_energies=np.zeros(118),
        avg_num_neighbors=30.0,
        atomic_numbers=list(range(1, 119)),
        correlation=2,
        gate=torch.nn.functional.silu,
        radial_MLP=[8, 8, 8],
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    ).eval()
    assert batch.edge_index is not None
    assert batch.edge_shift is not None
    neighbour, centre = batch.edge_index
    shift = batch.edge_shift.to(batch.cell.dtype)
    data = {
        "positions": batch.positions.clone(),
        "node_attrs": torch.nn.functional.one_hot(batch.atomic_numbers - 1, 118).to(batch.positions.dtype),
        "edge_index": torch.stack([centre, neighbour]),
        "shifts": torch.einsum("ea,eab->eb", shift, batch.cell[batch.batch[centre]]),
        "unit_shifts": shift,
        "cell": batch.cell.flatten(0, 1),
        "batch": batch.batch,
        "ptr": torch.cat([torch.zeros(1, dtype=torch.long), batch.atoms_per_structure.cumsum(0)]),
    }
    out = model(data, training=False, compute_force=True, compute_stress=True)
    return {name: out[name].detach() for name in ("energy", "forces", "stress")}


def main() -> None:
    import matscale_mace as plugin

    torch.set_num_threads(1)
    torch.manual_seed(1)
    (architecture,) = plugin.register_architectures()
    config = plugin.MaceConfig(channels=3, max_l=2, correlation=2, radial_width=8, readout_width=4, cutoff=4.0)
    before = state()
    first = architecture.model(config, INFO, SEED).eval()
    after = state()
    result: dict[str, Any] = {
        "changed": [name for name in before if before[name] != after[name]],
        "inherited": inherited(before["environment"]),
        "opened": opened_by(),
        "different": [],
    }
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        batch = collate([crystal(), metal(), slab()], Graph.radius(config.cutoff), dtype)
        model = first if dtype == torch.float32 else architecture.model(config, INFO, SEED).eval()
        ours, theirs = model_outputs(model, batch), by_itself(batch)
        same = {
            "energy": torch.allclose(
                ours.energy.to(dtype), theirs["energy"], rtol=1e-6 if dtype == torch.float32 else 1e-14
            ),
            "forces": torch.equal(ours.forces, theirs["forces"]),
            "stress": torch.equal(ours.stress, theirs["stress"]),
        }
        result["different"] += [f"{name} in {dtype}" for name, equal in same.items() if not equal]
    print(json.dumps(result | {"size": float(theirs["forces"].abs().mean())}))


main()
