"""Run in a process of its own: what a first model changes there, then what the package computes when used by itself.

Prints JSON: `changed`, names of what is not as it was before; `inherited`, environment variables of a child process
that are new; `different`, outputs of the package that are not those of matscale to the last bit.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matscale.plugin import AtomicBatch, DatasetInfo, Graph, collate, model_outputs
from matscale.testing import crystal, metal, slab

INFO = DatasetInfo(mean_degree=30.0)
SEED = 5


def state() -> dict[str, Any]:
    """All that the package is known to change, and its neighbours."""
    import e3nn
    from torch._dynamo import config

    strategy = torch.jit.set_fusion_strategy([("DYNAMIC", 1)])
    torch.jit.set_fusion_strategy(strategy)
    return {
        "default type": torch.get_default_dtype(),
        "seed of torch": torch.get_rng_state().tolist(),
        "seed of numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "seed of python": random.getstate(),
        "sharing": torch.multiprocessing.get_sharing_strategy(),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "fusion": strategy,
        "e3nn": dict(e3nn.get_optimization_defaults()),
        "dynamo": (config.capture_dynamic_output_shape_ops, config.capture_scalar_outputs),
        "precision": (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32),
        "threads": torch.get_num_threads(),
    }


def inherited(before: dict[str, str]) -> list[str]:
    """Variables that a child process has and that were not there before."""
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return sorted(set(json.loads(child.stdout)) - set(before) - {"LC_CTYPE"})  # Python's own


def by_itself(batch: AtomicBatch, dtype: str) -> dict[str, Tensor]:
    """Energy, forces and stress from the package: its builder after its set-up, its derivatives."""
    from ase.data import chemical_symbols
    from nequip.model import NequIPGNNModel
    from nequip.utils.global_state import set_global_state

    set_global_state()
    model = NequIPGNNModel(
        seed=SEED,
        model_dtype=dtype,
        type_names=list(chemical_symbols[1:119]),
        r_max=4.0,
        num_layers=3,
        l_max=2,
        parity=False,
        num_features=[4, 3, 2],
        type_embed_num_features=4,
        radial_mlp_width=8,
        avg_num_neighbors=30.0,
        per_type_energy_scales=1.0,
        per_type_energy_shifts=0.0,
    ).eval()
    assert batch.edge_index is not None
    assert batch.edge_shift is not None
    neighbour, centre = batch.edge_index
    data = {
        "pos": batch.positions.clone(),
        "cell": batch.cell,
        "atom_types": batch.atomic_numbers - 1,
        "batch": batch.batch,
        "num_atoms": batch.atoms_per_structure,
        "edge_index": torch.stack([centre, neighbour]),
        "edge_cell_shift": batch.edge_shift.double(),
    }
    out = model(data)
    return {"energy": out["total_energy"].squeeze(-1), "forces": out["forces"], "stress": out["stress"]}


def main() -> None:
    import matscale_nequip as plugin

    torch.set_num_threads(1)
    (architecture,) = plugin.register_architectures()
    config = plugin.NequipConfig(features=(4, 3, 2), n_layers=3, embedding=4, radial_width=8, cutoff=4.0)
    batch = collate([crystal(), metal(), slab()], Graph.radius(config.cutoff), torch.float64)
    before = state()
    models = {"float32": architecture.model(config, INFO, SEED).eval()}
    after = state()
    result = {
        "changed": [name for name in before if before[name] != after[name]],
        "inherited": inherited(before["environment"]),
    }
    torch.set_default_dtype(torch.float64)
    models["float64"] = architecture.model(config, INFO, SEED).eval()
    different = []
    for dtype, model in models.items():
        ours, theirs = model_outputs(model, batch), by_itself(batch, dtype)
        unequal = [name for name, value in theirs.items() if not torch.equal(value, vars(ours)[name])]
        different += [f"{name} in {dtype}" for name in unequal]
    print(json.dumps(result | {"different": different, "size": float(theirs["forces"].detach().abs().mean())}))


main()
