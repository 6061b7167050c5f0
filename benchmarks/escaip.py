"""EScAIP with direct forces beside fairchem v2's in one process: whole training steps.

    PYTHONPATH=src VENV/bin/python benchmarks/escaip.py STRUCTURES [--passes 7]

VENV is a scratch environment with fairchem-core 2.24.0 (`--no-deps`; hydra-core, omegaconf, numba and what else it
imports beside it) and what matscale needs. Both sides: 128 channels, 4 layers, float32, all structures in batches of 8,
the same weights, neither compiled nor padded to a number of atoms. fairchem searches its neighbours inside the clock;
ours has edges from the loader, as in training, and makes its layout of them inside. Where the two choose other
neighbours (docs/escaip.md) outputs differ: by how much is printed first.
Loss: the sum of the mean absolute energy and force. One thread; denormal numbers are flushed to zero on both sides, and
freed memory stays with the process, as `matscale train` has it (`--heap default`: as other packages are run).
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from eqv2 import alternate
from models import Side, difference
from torch import Tensor, nn

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.train.config import OptimizerConfig
from matscale.core.train.heap import kept_heap
from matscale.core.train.optim import adamw
from matscale.plugins.escaip import EScAIP, EScAIPConfig, graph
from matscale.plugins.escaip.names import load_fairchem


def config_of(slots: int) -> EScAIPConfig:
    return EScAIPConfig(stress_head="none", max_atomic_number=95, max_neighbors=slots)


def ours(config: EScAIPConfig, data: list[AtomicBatch]) -> Side:
    torch.manual_seed(0)
    model = EScAIP(config)

    def predict(k: int) -> dict[str, Tensor]:
        out = model(data[k])
        return {"energy": out.energy.float(), "forces": out.forces}

    return Side("matscale", model, predict, adamw(model, OptimizerConfig()))


def published() -> Any:
    """fairchem's module, without all else that importing `fairchem.core` imports."""
    found = importlib.util.find_spec("fairchem")
    assert found is not None
    assert found.submodule_search_locations
    core = ModuleType("fairchem.core")
    core.__path__ = [f"{next(iter(found.submodule_search_locations))}/core"]
    sys.modules["fairchem.core"] = core
    from fairchem.core.models.escaip import EScAIP as module

    return module


def theirs(c: EScAIPConfig, data: list[AtomicBatch]) -> Side:
    from torch_geometric.data import Batch, Data

    module = published()
    backbone = module.EScAIPBackbone(
        regress_forces=True,
        direct_forces=True,
        use_compile=False,
        use_padding=False,
        hidden_size=c.hidden,
        num_layers=c.n_layers,
        use_pbc=True,
        max_num_elements=c.max_atomic_number + 1,
        max_atoms=512,
        max_batch_size=8,
        max_radius=c.cutoff,
        knn_k=c.n_neighbors,
        knn_soft=True,
        knn_sigmoid_scale=c.rank_width,
        knn_lse_scale=c.rank_sharpness,
        knn_use_low_mem=True,
        knn_pad_size=c.max_neighbors,
        atten_name="math",
        atten_num_heads=c.n_heads,
        atom_embedding_size=c.atom_channels,
        node_direction_embedding_size=c.order_channels,
        node_direction_expansion_size=c.n_order,
        edge_distance_expansion_size=c.n_radial,
        edge_distance_embedding_size=c.distance_channels,
        freequency_list=list(c.channels_by_degree),
    )
    heads = {"energy": module.EScAIPEnergyHead(backbone), "forces": module.EScAIPDirectForceHead(backbone)}
    model = nn.ModuleDict({"backbone": backbone, "output_heads": nn.ModuleDict(heads)})

    def converted(one: AtomicBatch) -> Any:
        members = [
            Data(pos=m.positions, atomic_numbers=m.atomic_numbers, natoms=m.n_atoms, num_nodes=m.n_atoms)
            for m in one.split()
        ]
        batch = Batch.from_data_list(members)
        batch.natoms, batch.cell, batch.pbc = one.atoms_per_structure, one.cell, one.pbc
        return batch

    batches = [converted(one) for one in data]

    def predict(k: int) -> dict[str, Tensor]:
        embedded = backbone(batches[k])
        out = {name: head(batches[k], embedded)[name] for name, head in heads.items()}
        return {"energy": out["energy"].flatten(), "forces": out["forces"]}

    return Side("fairchem", model, predict, torch.optim.AdamW(model.parameters(), lr=1e-3))


def main() -> None:
    import ase.io

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--passes", type=int, default=7, help="timed passes over all batches, after one that is not")
    parser.add_argument("--slots", type=int, default=60, help="room for an atom and its neighbours, on both sides")
    parser.add_argument("--heap", choices=("kept", "default"), default="kept", help="freed memory, on both sides")
    arguments = parser.parse_args()
    config = config_of(arguments.slots)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    structures = [Structure.from_ase(atoms) for atoms in ase.io.read(arguments.structures, index=":")]
    parts = [structures[start : start + 8] for start in range(0, len(structures), 8)]
    data = [collate(part, graph(config), torch.float64).to(dtype=torch.float32) for part in parts]
    own, peer = ours(config, data), theirs(config, data)
    load_fairchem(own.model, peer.model.state_dict())
    worst = difference(peer, own, len(data))
    print(f"{sum(p.numel() for p in own.model.parameters()):,} parameters; " + str(worst), flush=True)
    with nullcontext() if arguments.heap == "default" else kept_heap():
        seconds = alternate([own.step, peer.step], len(data), arguments.passes)
    print(
        f"matscale {1e3 * statistics.median(seconds[0]):.0f} ms, fairchem {1e3 * statistics.median(seconds[1]):.0f} ms"
    )
    print(f"ratio {statistics.median(theirs / ours for ours, theirs in zip(*seconds)):.2f}")


if __name__ == "__main__":
    main()
