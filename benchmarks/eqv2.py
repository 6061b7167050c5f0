"""EquiformerV2 against fairchem v1 in one process: whole training steps, evaluation, peak memory, share of a bound.

    PYTHONPATH=src VENV/bin/python benchmarks/eqv2.py STRUCTURES [--case small mid 31M] [--passes 7] [--json FILE]

VENV is a scratch environment with fairchem-core 1.10.0 and what matscale needs; both run on its torch. fairchem imports
torch_scatter, for which a stand-in on torch_geometric.utils.scatter gives the same numbers. STRUCTURES is any file that
ASE reads; of the 31M case only the first 6 structures are used, in batches of 2, else all in batches of 8.

The sides have the same weights and the same edges. Graphs are made before the clock starts, for both; rotations, grids
and all else that follows from the geometry are inside. Outputs are compared first, in evaluation mode. Then every batch
goes to one side and the other in turn: in training mode forward, loss (the sum of mean absolute outputs), backward and
AdamW; in evaluation mode a forward. One thread; denormal numbers are flushed to zero on both sides unless `--denormals`
(fairchem's Gaussians make some, which slow it down). Medians over passes of all batches; `ratio` is the median of the
ratios of a pass. Memory is the peak of a process of its own, three training steps on the largest batch, above what the
process had once the model was built.

The bound counts matrix products at the speed of a 1024³ product in this process, SiLU on the grids of edges, and twelve
passes over [n_edges, K_r, 2C] at the speed of a copy. It is an estimate: three products for a complex one
and what is folded away are counted as if they were not.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.train.config import OptimizerConfig
from matscale.core.train.optim import adamw
from matscale.plugins.eqv2 import EqV2, EqV2Config, graph
from matscale.plugins.eqv2.heads import parts_from_tensor
from matscale.plugins.eqv2.names import config_from_fairchem, load_fairchem

COMMON = {
    "use_pbc": True,
    "use_pbc_single": True,
    "otf_graph": True,
    "enforce_max_neighbors_strictly": False,
    "max_neighbors": 20,
    "max_radius": 12.0,
    "max_num_elements": 96,
    "avg_num_nodes": 31.17,
    "avg_degree": 61.95,
    "norm_type": "layer_norm_sh",
    "mmax_list": [2],
    "use_atom_edge_embedding": True,
    "share_atom_edge_embedding": False,
    "use_m_share_rad": False,
    "distance_function": "gaussian",
    "num_distance_basis": 512,
    "use_s2_act_attn": False,
    "use_attn_renorm": True,
    "use_gate_act": False,
    "use_grid_mlp": True,
    "use_sep_s2_act": True,
    "alpha_drop": 0.1,
    "drop_path_rate": 0.1,
    "proj_drop": 0.0,
    "weight_init": "uniform",
}
FIELDS = (
    *("num_layers", "sphere_channels", "attn_hidden_channels", "num_heads", "attn_alpha_channels"),
    *("attn_value_channels", "ffn_hidden_channels", "edge_channels", "lmax_list", "grid_resolution"),
)
CASES = {
    "small": (2, 32, 32, 4, 16, 8, 32, 32, [3], 14),
    "mid": (4, 48, 32, 4, 32, 12, 48, 48, [4], 18),
    "31M": (8, 128, 64, 8, 64, 16, 128, 128, [4], 18),
}
HEADS = {
    "energy": {"module": "equiformer_v2_energy_head"},
    "forces": {"module": "equiformer_v2_force_head"},
    "stress": {
        "module": "rank2_symmetric_head",
        "output_name": "stress",
        "use_source_target_embedding": True,
        "decompose": True,
    },
}
WEIGHT_DECAY = 1e-3


def backbone(case: str) -> dict[str, Any]:
    return {**COMMON, **dict(zip(FIELDS, CASES[case]))}


def batches(path: Path, case: str, config: EqV2Config) -> list[AtomicBatch]:
    """In float32, with edges."""
    import ase.io

    structures = [Structure.from_ase(atoms) for atoms in ase.io.read(path, index=":")]
    size = 2 if case == "31M" else 8
    structures = structures[: 3 * size] if case == "31M" else structures
    parts = [structures[start : start + size] for start in range(0, len(structures), size)]
    return [collate(part, graph(config), torch.float64).to(dtype=torch.float32) for part in parts]


@dataclass
class Side:
    """A model with its own kind of batches."""

    name: str
    model: nn.Module
    predict: Callable[[int], dict[str, Tensor]]
    """Outputs of a batch by its number."""
    optimizer: torch.optim.Optimizer

    def step(self, batch: int) -> None:
        self.optimizer.zero_grad()
        outputs = self.predict(batch)
        loss = sum(output.abs().mean() for output in outputs.values())
        assert isinstance(loss, Tensor)
        loss.backward()
        self.optimizer.step()

    def evaluate(self, batch: int) -> dict[str, Tensor]:
        with torch.no_grad():
            return self.predict(batch)


def ours(config: EqV2Config, data: list[AtomicBatch]) -> Side:
    torch.manual_seed(0)
    model = EqV2(config)

    def predict(batch: int) -> dict[str, Tensor]:
        outputs = model(data[batch])
        isotropic, anisotropic = parts_from_tensor(outputs.stress)
        parts = {"energy": outputs.energy.float(), "forces": outputs.forces}
        return {**parts, "stress_isotropic": isotropic[:, None], "stress_anisotropic": anisotropic}

    optimizer = adamw(model, OptimizerConfig(weight_decay=WEIGHT_DECAY))
    return Side("matscale", model, predict, optimizer)


def theirs(case: str, data: list[AtomicBatch]) -> Side:
    """fairchem's model on the same edges."""
    from fairchem.core.common.registry import registry
    from fairchem.core.common.utils import setup_imports

    setup_imports()
    torch.manual_seed(0)
    options = {"backbone": {"model": "equiformer_v2_backbone", **backbone(case)}, "heads": HEADS}
    model = registry.get_model_class("hydra")(pass_through_head_outputs=True, otf_graph=True, **options)
    published = [_published(batch) for batch in data]
    model.backbone.generate_graph = lambda batch, **_: copy.copy(batch.graph)  # the model writes into it

    def predict(batch: int) -> dict[str, Tensor]:
        return model(published[batch])

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=WEIGHT_DECAY)
    return Side("fairchem", model, predict, optimizer)


def _published(data: AtomicBatch) -> Any:
    """As fairchem's kind of batch, with its graph."""
    from fairchem.core.models.base import GraphData
    from torch_geometric.data import Batch, Data

    assert data.edge_shift is not None
    j, i = data.edges()
    members = [
        Data(pos=m.positions, atomic_numbers=m.atomic_numbers, natoms=m.n_atoms, num_nodes=m.n_atoms)
        for m in data.split()
    ]
    batch = Batch.from_data_list(members)
    batch.natoms = data.atoms_per_structure
    batch.cell = data.cell
    counts = torch.bincount(data.batch[i], minlength=data.n_structures)
    shift = torch.einsum("ea,eab->eb", data.edge_shift.to(data.cell.dtype), data.cell[data.batch[i]])
    batch.graph = GraphData(
        edge_index=torch.stack([j, i]),
        edge_distance=data.edge_distance(),
        edge_distance_vec=data.edge_vec(),
        cell_offsets=data.edge_shift,
        offset_distances=shift,
        neighbors=counts,
        batch_full=data.batch,
        atomic_numbers_full=data.atomic_numbers,
        node_offset=0,
    )
    return batch


def compare(a: Side, b: Side, n_batches: int) -> dict[str, float]:
    """Largest difference of each output over its largest value."""
    a.model.eval(), b.model.eval()
    worst: dict[str, float] = {}
    for batch in range(n_batches):
        first, second = a.evaluate(batch), b.evaluate(batch)
        for name, value in second.items():
            x, y = first[name].double().flatten(), value.double().flatten()
            worst[name] = max(worst.get(name, 0.0), float((x - y).abs().max() / x.abs().max()))
    return worst


def clock(work: Callable[[int], object], n_batches: int) -> list[float]:
    seconds = []
    for batch in range(n_batches):
        start = time.perf_counter()
        work(batch)
        seconds.append(time.perf_counter() - start)
    return seconds


def alternate(works: list[Callable[[int], object]], n_batches: int, passes: int) -> list[list[float]]:
    """Seconds of each pass over all batches, per side; every batch goes to one side and the other in turn."""
    totals: list[list[float]] = [[] for _ in works]
    gc.collect()
    gc.freeze()  # the many objects that imports and models leave behind are not looked through again
    for number in range(passes + 1):
        sums = [0.0] * len(works)
        for batch in range(n_batches):
            for side, work in enumerate(works):
                start = time.perf_counter()
                work(batch)
                sums[side] += time.perf_counter() - start
        if number:  # the first pass fills caches
            for side, seconds in enumerate(sums):
                totals[side].append(seconds)
    return totals


def summary(theirs: list[float], ours: list[float]) -> dict[str, float]:
    return {
        "fairchem_ms": 1e3 * statistics.median(theirs),
        "matscale_ms": 1e3 * statistics.median(ours),
        "ratio": statistics.median(a / b for a, b in zip(theirs, ours)),
        "ratio_of_best": min(theirs) / min(ours),
    }


def per_edge_and_atom(config: EqV2Config) -> tuple[float, float, float]:
    """Forward multiply-adds of an edge in a layer (half of it: FLOPs / 2), its grid values, and those of an atom."""
    n = [config.lmax + 1 - m for m in range(config.mmax + 1)]
    k, kept = config.n_coefficients, n[0] + 2 * sum(n[1:])
    c, h, values = config.channels, config.attention_hidden, config.n_heads * config.value_channels
    extra, points, width = config.n_heads * config.alpha_channels + h, config.grid_resolution**2, config.edge_channels
    conv1 = n[0] * 2 * c * (extra + n[0] * h) + sum(4 * m * m * 2 * c * h for m in n[1:])
    conv2 = n[0] * h * n[0] * values + sum(4 * m * m * h * values for m in n[1:])
    rotations, grid = kept * k * (2 * c + values), 2 * points * kept * h
    radial = (config.n_radial + 2 * width) * width + width * width + width * sum(n) * 2 * c
    f = config.ffn_hidden
    atom = k * f * (2 * c) + 2 * points * k * f + points * f * f + c * f  # folded
    return conv1 + conv2 + rotations + grid + radial, points * h, atom


def bound_ms(config: EqV2Config, data: list[AtomicBatch], speeds: dict[str, float]) -> float:
    """Of a training pass, without the optimizer."""
    edge, grid, atom = per_edge_and_atom(config)
    n_edges, n_atoms = sum(b.n_edges for b in data), sum(b.n_atoms for b in data)
    layers = config.n_layers + 1  # the head of the forces is one
    n = [config.lmax + 1 - m for m in range(config.mmax + 1)]
    flops = 3 * 2 * layers * (edge * n_edges + atom * n_atoms)
    silu = layers * n_edges * grid * (speeds["silu_ns"] + speeds["silu_backward_ns"]) * 1e-9
    passes = 12 * layers * n_edges * (n[0] + 2 * sum(n[1:])) * 2 * config.channels * 4 / (speeds["copy_gb_s"] * 1e9)
    return 1e3 * (flops / (speeds["gemm_gflop_s"] * 1e9) + silu + passes)


def speeds() -> dict[str, float]:
    """Of this machine, now: the best of several tries."""

    def best(work: Callable[[], object], repeats: int = 20) -> float:
        return min(clock(lambda _: work(), repeats))

    a, b, out = (torch.randn(1024, 1024) for _ in range(3))
    x, y, z = (torch.randn(100_000) for _ in range(3))
    large, copy = torch.randn(16_000_000), torch.empty(16_000_000)
    silu = torch.ops.aten
    return {
        "gemm_gflop_s": 2 * 1024**3 / best(lambda: torch.mm(a, b, out=out)) / 1e9,
        "silu_ns": best(lambda: silu.silu.out(x, out=z), 200) / 1e5 * 1e9,
        "silu_backward_ns": best(lambda: silu.silu_backward.grad_input(y, x, grad_input=z), 200) / 1e5 * 1e9,
        "copy_gb_s": 2 * 4 * 16e6 / best(lambda: copy.copy_(large)) / 1e9,
    }


def status_mb(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def peak_of(side: Side, data: list[AtomicBatch], steps: bool) -> float:
    """MB above the process with its model, in this process."""
    largest = max(range(len(data)), key=lambda number: data[number].n_edges)
    side.model.train(steps)
    base = status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # reset the high-water mark
    for _ in range(3):
        side.step(largest) if steps else side.evaluate(largest)
    return status_mb("VmHWM") - base


def peak_in_a_process(arguments: argparse.Namespace, case: str, name: str, kind: str) -> float:
    command = [sys.executable, __file__, str(arguments.structures), "--case", case, "--peak", name, kind]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    config = config_from_fairchem(backbone(case))
    data = batches(arguments.structures, case, config)
    peer, own = theirs(case, data), ours(config, data)
    load_fairchem(own.model, peer.model.state_dict())
    row: dict[str, Any] = {
        "case": case,
        "parameters": sum(p.numel() for p in own.model.parameters()),
        "atoms": sum(b.n_atoms for b in data),
        "edges": sum(b.n_edges for b in data),
        "difference": compare(peer, own, len(data)),
        "gauge": compare(peer, peer, len(data)),
    }
    print(f"{case}: largest difference of outputs, relative to the largest value, and fairchem's from call to call:")
    print("  " + ", ".join(f"{k} {v:.1e} ({row['gauge'][k]:.1e})" for k, v in row["difference"].items()), flush=True)
    row["evaluation"] = summary(*alternate([peer.evaluate, own.evaluate], len(data), arguments.passes))
    peer.model.train(), own.model.train()
    row["step"] = summary(*alternate([peer.step, own.step], len(data), arguments.passes))
    row["speeds"] = speeds()
    row["bound_ms"] = bound_ms(config, data, row["speeds"])
    for kind in () if arguments.no_memory else ("step", "evaluation"):
        peaks = {name: peak_in_a_process(arguments, case, name, kind) for name in ("fairchem", "matscale")}
        row[kind] |= {f"{name}_mb": peak for name, peak in peaks.items()}
    for kind in ("step", "evaluation"):
        print(f"  {kind}: " + ", ".join(f"{k} {v:.4g}" for k, v in row[kind].items()), flush=True)
    print(f"  bound {row['bound_ms']:.0f} ms: {row['bound_ms'] / row['step']['matscale_ms']:.0%}; {row['speeds']}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--passes", type=int, default=7, help="timed passes over all batches, after one that is not")
    parser.add_argument("--denormals", action="store_true", help="do not flush them to zero, on either side")
    parser.add_argument("--no-memory", action="store_true", help="measure times only")
    parser.add_argument(
        "--peak", nargs=2, metavar=("SIDE", "KIND"), help="print the peak of one side in MB, nothing else"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(not arguments.denormals)
    if arguments.peak:
        name, kind = arguments.peak
        config = config_from_fairchem(backbone(arguments.case[0]))
        data = batches(arguments.structures, arguments.case[0], config)
        side = ours(config, data) if name == "matscale" else theirs(arguments.case[0], data)
        print(peak_of(side, data, steps=kind == "step"))
        return
    print(
        f"torch {torch.__version__}, one thread, denormals {'kept' if arguments.denormals else 'flushed'} on both sides"
    )
    rows = [measure(case, arguments) for case in arguments.case]
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
