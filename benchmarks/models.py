"""SchNet, GemNet-dT and GemNet-OC beside other packages' in one process: whole training steps and peak memory.

    PYTHONPATH=src VENV/bin/python benchmarks/models.py STRUCTURES --case schnet gemnet-dT gemnet-OC [--size small]

VENV is a scratch environment with fairchem-core 1.10.0 (`--no-deps`), torch_geometric, schnetpack 2.2.0 (`--no-deps`;
left out where it is missing) and what matscale needs. STRUCTURES is any file that ASE reads: all in batches of 8, or
with `--size published` the first 6 in batches of 2. `schnet` has the 50 nearest neighbours, as in fairchem;
`schnet-radius` all within 6 Å.

The sides have the same weights and the same edges, which are made before the clock starts (`peers.py`). What follows
from them is inside: distances, GemNet's symmetric edges, triplets, quadruplets. Energies and forces are compared first.
Then every batch goes to each side in turn: forward, loss (the sum of the mean absolute energy and force), backward,
AdamW. Forces of SchNet are derivatives; ours come with the stress, schnetpack's, PyG's and fairchem's without.
One thread; denormal numbers are flushed to zero on all sides. Medians over passes of all batches; a ratio is the median
of the ratios of a pass. Memory is the peak of three training steps on the largest batch, in a process of its own,
above what the process had once the model was built.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers
import torch
from eqv2 import alternate, speeds, status_mb
from torch import Tensor, nn

from matscale.core.architecture import Architecture, BatchShape, DatasetInfo
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.outputs import predict
from matscale.core.train.config import OptimizerConfig
from matscale.core.train.optim import adamw
from matscale.plugins import gemnet, schnet
from matscale.plugins.gemnet.names import state_from_fairchem

CASES = ("schnet", "schnet-radius", "gemnet-dT", "gemnet-OC")


@dataclass
class Side:
    name: str
    model: nn.Module
    predict: peers.Predict
    optimizer: torch.optim.Optimizer

    def step(self, batch: int) -> None:
        self.optimizer.zero_grad()
        outputs = self.predict(batch)
        (outputs["energy"].abs().mean() + outputs["forces"].abs().mean()).backward()
        self.optimizer.step()


def architecture_of(case: str) -> Architecture:
    return (schnet if case.startswith("schnet") else gemnet).register_architectures()[0]


def batches(path: Path, case: str, size: str, dtype: torch.dtype = torch.float32) -> list[AtomicBatch]:
    """With edges."""
    import ase.io

    structures = [Structure.from_ase(atoms) for atoms in ase.io.read(path, index=":")]
    n = 2 if size == "published" else 8
    structures = structures[: 3 * n] if size == "published" else structures
    graph = architecture_of(case).graph(peers.config(case, size))
    parts = [structures[start : start + n] for start in range(0, len(structures), n)]
    return [collate(part, graph, torch.float64).to(dtype=dtype) for part in parts]


def ours(case: str, size: str, data: list[AtomicBatch]) -> Side:
    architecture, config = architecture_of(case), peers.config(case, size)
    model = architecture.model(config, DatasetInfo.any(), seed=0)
    derive = architecture.derives_forces(config)

    def of_batch(k: int) -> dict[str, Tensor]:
        out = predict(model, data[k], derive=derive, create_graph=True)
        assert out.forces is not None
        return {"energy": out.energy.float(), "forces": out.forces}

    return Side("matscale", model, of_batch, adamw(model, OptimizerConfig()))


def theirs(name: str, case: str, size: str, data: list[AtomicBatch]) -> Side:
    torch.manual_seed(0)
    if name == "fairchem":
        model, of_batch = peers.fairchem(case, size, data)
    else:
        model, of_batch = {"pyg": peers.pyg, "schnetpack": peers.schnetpack}[name](case, size, data)
    return Side(name, model, of_batch, torch.optim.AdamW(model.parameters(), lr=1e-3))


def side_of(name: str, case: str, size: str, data: list[AtomicBatch]) -> Side:
    return ours(case, size, data) if name == "matscale" else theirs(name, case, size, data)


def names_of(case: str) -> list[str]:
    names = ["matscale", "fairchem"]
    if not case.startswith("schnet"):
        return names
    import importlib.util

    return [*names, "pyg", *(["schnetpack"] if importlib.util.find_spec("schnetpack") else [])]


def share_weights(case: str, own: Side, others: list[Side]) -> None:
    """SchNet's are ours for all; GemNet's are fairchem's."""
    if not case.startswith("schnet"):
        own.model.load_state_dict(state_from_fairchem(own.model, others[0].model.state_dict()))  # type: ignore[arg-type]
        return
    # Starting values of the last layer are small here; larger ones show differences of forces.
    nn.init.normal_(own.model.readout[-1].weight)  # type: ignore[union-attr,index]
    for other in others:
        target = dict(other.model.named_parameters())
        with torch.no_grad():
            for name, value in own.model.named_parameters():
                target.pop(peers.schnet_name(name, other.name)).copy_(value)
        assert all(".conv.nn." in name for name in target), list(target)


def difference(a: Side, b: Side, n_batches: int) -> dict[str, float]:
    """Largest difference of each output over its largest value."""
    worst: dict[str, float] = {}
    for batch in range(n_batches):
        first, second = a.predict(batch), b.predict(batch)
        for name, value in second.items():
            x, y = first[name].detach().double(), value.detach().double()
            worst[name] = max(worst.get(name, 0.0), float((x - y).abs().max() / x.abs().max()))
    return worst


def peak_mb(side: Side, data: list[AtomicBatch]) -> float:
    """Above the process with its model, in this process."""
    largest = max(range(len(data)), key=lambda number: data[number].n_edges)
    base = status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # reset the high-water mark
    for _ in range(3):
        side.step(largest)
    return status_mb("VmHWM") - base


def peak_in_a_process(arguments: argparse.Namespace, case: str, name: str) -> float:
    command = [sys.executable, __file__, str(arguments.structures), "--case", case, "--size", arguments.size]
    done = subprocess.run([*command, "--peak", name], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def flops(case: str, size: str, data: list[AtomicBatch]) -> float:
    """Of a pass, by the architecture's formula."""
    architecture, config = architecture_of(case), peers.config(case, size)
    assert architecture.step_flops is not None
    shapes: list[BatchShape] = [batch.shape for batch in data]
    return sum(architecture.step_flops(config, shape) for shape in shapes)


def measure(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    data = batches(arguments.structures, case, arguments.size)
    sides = [side_of(name, case, arguments.size, data) for name in names_of(case)]
    own, others = sides[0], sides[1:]
    share_weights(case, own, others)
    row: dict[str, Any] = {
        "case": case,
        "size": arguments.size,
        "parameters": sum(p.numel() for p in own.model.parameters()),
        "atoms": sum(b.n_atoms for b in data),
        "edges": sum(b.n_edges for b in data),
        "difference": {other.name: difference(own, other, len(data)) for other in others},
    }
    print(f"{case} {arguments.size}: {row['parameters']:,} parameters, {row['atoms']} atoms, {row['edges']:,} edges")
    for name, worst in row["difference"].items():
        print(f"  differs from {name} by " + ", ".join(f"{k} {v:.1e}" for k, v in worst.items()), flush=True)
    seconds = alternate([side.step for side in sides], len(data), arguments.passes)
    for side, mine in zip(sides, seconds):
        peak = None if arguments.no_memory else peak_in_a_process(arguments, case, side.name)
        ratio = statistics.median(theirs / ours for theirs, ours in zip(mine, seconds[0]))
        row[side.name] = {"step_ms": 1e3 * statistics.median(mine), "ratio": ratio, "mb": peak}
        print(f"  {side.name}: " + ", ".join(f"{k} {v:.4g}" for k, v in row[side.name].items() if v), flush=True)
    row["speeds"] = speeds()
    products_ms = flops(case, arguments.size, data) / row["speeds"]["gemm_gflop_s"] / 1e6
    row["products_share"] = products_ms / row["matscale"]["step_ms"]
    print(f"  products at the speed of a 1024³ one: {products_ms:.0f} ms, {row['products_share']:.0%} of the step")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--size", choices=("small", "published"), default="small")
    parser.add_argument("--passes", type=int, default=7, help="timed passes over all batches, after one that is not")
    parser.add_argument("--no-memory", action="store_true", help="measure times only")
    parser.add_argument("--peak", metavar="SIDE", help="print the peak of one side in MB, nothing else")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if arguments.peak:
        data = batches(arguments.structures, arguments.case[0], arguments.size)
        print(peak_mb(side_of(arguments.peak, arguments.case[0], arguments.size, data), data))
        return
    print(f"torch {torch.__version__}, one thread, denormals flushed on all sides")
    rows = [measure(case, arguments) for case in arguments.case]
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
