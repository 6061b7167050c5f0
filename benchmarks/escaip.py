"""EScAIP with direct forces beside fairchem v2's: whole training steps.

    taskset -c 1 VENV/bin/python benchmarks/escaip.py STRUCTURES [--passes 7]

VENV is a scratch environment with matscale and fairchem-core 2.24.0 (docs/benchmarks.md has the commands). Both sides:
128 channels, 4 layers, float32, all structures in batches of 8, neither compiled nor padded to a number of atoms. Times
are measured on two grounds (`ground.py`). On equal ground both sides search their neighbours inside the clock and have
the same weights; where the two choose other neighbours (docs/escaip.md) outputs differ: by how much is printed first.
As each package runs by itself fairchem searches inside its model, and matscale's edges come with the batch. What is
made of the edges is inside for both. Loss: the sum of the mean absolute energy and force. Denormal numbers are flushed
to zero on both sides. Medians over passes of all batches, in seconds of the processor.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from ground import (
    GROUNDS,
    OWN,
    Ground,
    Process,
    Side,
    adamw_of_others,
    alternate,
    difference,
    heading,
    heap,
    ratios,
    serve,
    settle,
    timed,
)
from torch import Tensor, nn

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.runs.config import OptimizerConfig
from matscale.core.train.optimizer.optim import adamw
from matscale.plugins.escaip import EScAIP, EScAIPConfig, graph
from matscale.plugins.escaip.fairchem.names import load_fairchem


def config_of(slots: int) -> EScAIPConfig:
    return EScAIPConfig(stress_head="none", max_atomic_number=95, max_neighbors=slots)


def collated(config: EScAIPConfig, part: list[Structure]) -> AtomicBatch:
    return collate(part, graph(config), torch.float64).to(dtype=torch.float32)


def ours(config: EScAIPConfig, parts: list[list[Structure]], ground: Ground) -> Side:
    torch.manual_seed(0)
    model = EScAIP(config)
    data = [collated(config, part) for part in parts]

    def predict(k: int) -> dict[str, Tensor]:
        out = model(collated(config, parts[k]) if ground == "equal" else data[k])
        return {"energy": out.energy.float(), "forces": out.forces}

    return Side(OWN, model, predict, adamw(model, OptimizerConfig()))


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


def theirs(c: EScAIPConfig, parts: list[list[Structure]], ground: Ground) -> Side:
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

    batches = [converted(collated(c, part)) for part in parts]

    def predict(k: int) -> dict[str, Tensor]:
        embedded = backbone(batches[k])
        out = {name: head(batches[k], embedded)[name] for name, head in heads.items()}
        return {"energy": out["energy"].flatten(), "forces": out["forces"]}

    return Side("fairchem", model, predict, adamw_of_others(model, ground))


def structures_in_batches(path: Path) -> list[list[Structure]]:
    import ase.io

    structures = [Structure.from_ase(atoms) for atoms in ase.io.read(path, index=":")]
    return [structures[start : start + 8] for start in range(0, len(structures), 8)]


def equal_seconds(config: EScAIPConfig, parts: list[list[Structure]], passes: int) -> list[list[float]]:
    own, peer = ours(config, parts, "equal"), theirs(config, parts, "equal")
    load_fairchem(own.model, peer.model.state_dict())
    worst = difference(peer, own, len(parts))
    print(f"{sum(p.numel() for p in own.model.parameters()):,} parameters; " + str(worst), flush=True)
    with heap(OWN, "equal"):
        return alternate([timed(own.step), timed(peer.step)], len(parts), passes)


def own_seconds(n_batches: int, arguments: argparse.Namespace) -> list[list[float]]:
    command = [__file__, str(arguments.structures), "--slots", str(arguments.slots), "--ground", "itself", "--serve"]
    with Process([*command, OWN]) as own, Process([*command, "fairchem"]) as peer:
        return alternate([own.work("step"), peer.work("step")], n_batches, arguments.passes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--passes", type=int, default=7, help="timed passes over all batches, after one that is not")
    parser.add_argument("--slots", type=int, default=60, help="room for an atom and its neighbours, on both sides")
    parser.add_argument("--ground", nargs="+", choices=GROUNDS, default=GROUNDS, help="both by default")
    parser.add_argument("--serve", choices=(OWN, "fairchem"), help="be that side, and work as told on standard input")
    arguments = parser.parse_args()
    settle()
    config, parts = config_of(arguments.slots), structures_in_batches(arguments.structures)
    if arguments.serve:
        ground = arguments.ground[0]
        with heap(arguments.serve, ground):
            serve((ours if arguments.serve == OWN else theirs)(config, parts, ground))
        return
    print(heading(arguments.ground), flush=True)
    for ground in arguments.ground:
        equal = ground == "equal"
        own, peer = equal_seconds(config, parts, arguments.passes) if equal else own_seconds(len(parts), arguments)
        r = ratios(peer, own)
        print(
            f"{ground}: matscale {1e3 * statistics.median(own):,.0f} ms, "
            f"fairchem {1e3 * statistics.median(peer):,.0f} ms; matscale is {r['ratio']:.2f} times as fast "
            f"({r['least']:.2f} to {r['largest']:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
