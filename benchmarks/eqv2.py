"""EquiformerV2 beside fairchem v1's: whole training steps, evaluation, peak memory, share of a bound.

    taskset -c 1 VENV/bin/python benchmarks/eqv2.py STRUCTURES [--case small mid 31M] [--passes 7] [--json FILE]

VENV is a scratch environment with matscale and fairchem-core 1.10.0, both on its torch (docs/benchmarks.md has the
commands that make it). fairchem imports torch_scatter, for which `standins.py` stands in. STRUCTURES is any file that
ASE reads; of the 31M case only the first 6 structures are used, in batches of 2, else all in batches of 8.

Times are measured on two grounds (`ground.py`): `equal` for both, and each package as it runs by `itself`. On either
the sides have the same edges. Graphs are made before the clock starts, for both; rotations, grids and all else that
follows from the geometry are inside. On equal ground they have the same weights, and outputs are compared first, in
evaluation mode. In training mode a step is forward, loss (the sum of mean absolute outputs), backward and AdamW; in
evaluation mode a forward. Denormal numbers are flushed to zero on both sides unless `--denormals` (fairchem's Gaussians
make some, which slow it down). Medians over passes of all batches, in seconds of the processor; `ratio` is the median
of the ratios of a pass, `least` and `largest` are their range. Memory is the peak of a process of its own, three
training steps on the largest batch, above what the process had once the model was built.

The bound counts matrix products at the speed of a 1024³ product in this process, SiLU on the grids of edges, and twelve
passes over [n_edges, K_r, 2C] at the speed of a copy. It is an estimate: three products for a complex one
and what is folded away are counted as if they were not.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import standins
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
    peak_in_a_process,
    ratios,
    serve,
    settle,
    timed,
)
from torch import Tensor

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.model.sphere.tensor import parts_from_tensor
from matscale.core.runs.config import OptimizerConfig
from matscale.core.train.optimizer.optim import adamw
from matscale.plugins.eqv2 import EqV2, EqV2Config, graph
from matscale.plugins.eqv2.fairchem.names import config_from_fairchem, load_fairchem

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


def ours(config: EqV2Config, data: list[AtomicBatch]) -> Side:
    torch.manual_seed(0)
    model = EqV2(config)

    def predict(batch: int) -> dict[str, Tensor]:
        outputs = model(data[batch])
        isotropic, anisotropic = parts_from_tensor(outputs.stress)
        parts = {"energy": outputs.energy.float(), "forces": outputs.forces}
        return {**parts, "stress_isotropic": isotropic[:, None], "stress_anisotropic": anisotropic}

    optimizer = adamw(model, OptimizerConfig(weight_decay=WEIGHT_DECAY))
    return Side(OWN, model, predict, optimizer)


def theirs(case: str, data: list[AtomicBatch], ground: Ground) -> Side:
    """fairchem's model on the same edges."""
    standins.install()
    # These modules alone: `setup_imports` imports all of fairchem's models and what they need.
    import fairchem.core.models.base
    import fairchem.core.models.equiformer_v2.equiformer_v2
    import fairchem.core.models.equiformer_v2.heads  # noqa: F401
    from fairchem.core.common.registry import registry

    torch.manual_seed(0)
    options = {"backbone": {"model": "equiformer_v2_backbone", **backbone(case)}, "heads": HEADS}
    model = registry.get_model_class("hydra")(pass_through_head_outputs=True, otf_graph=True, **options)
    published = [_published(batch) for batch in data]
    model.backbone.generate_graph = lambda batch, **_: copy.copy(batch.graph)  # the model writes into it

    def predict(batch: int) -> dict[str, Tensor]:
        return model(published[batch])

    return Side("fairchem", model, predict, adamw_of_others(model, ground, WEIGHT_DECAY))


def side_of(name: str, case: str, config: EqV2Config, data: list[AtomicBatch], ground: Ground) -> Side:
    return ours(config, data) if name == OWN else theirs(case, data, ground)


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


def summary(theirs: list[float], ours: list[float]) -> dict[str, float]:
    medians = {f"{name}_ms": 1e3 * statistics.median(x) for name, x in (("fairchem", theirs), (OWN, ours))}
    return medians | ratios(theirs, ours) | {"ratio_of_best": min(theirs) / min(ours)}


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
    """Lower bound of the time of a training pass, without the optimizer [ms]."""
    edge, grid, atom = per_edge_and_atom(config)
    n_edges, n_atoms = sum(b.n_edges for b in data), sum(b.n_atoms for b in data)
    layers = config.n_layers + 1  # the head of the forces is one
    n = [config.lmax + 1 - m for m in range(config.mmax + 1)]
    flops = 3 * 2 * layers * (edge * n_edges + atom * n_atoms)
    silu = layers * n_edges * grid * (speeds["silu_ns"] + speeds["silu_backward_ns"]) * 1e-9
    passes = 12 * layers * n_edges * (n[0] + 2 * sum(n[1:])) * 2 * config.channels * 4 / (speeds["copy_gb_s"] * 1e9)
    return 1e3 * (flops / (speeds["gemm_gflop_s"] * 1e9) + silu + passes)


def speeds() -> dict[str, float]:
    """Speeds of this machine, now: the best of several tries."""

    def best(work: Callable[[], object], repeats: int = 20) -> float:
        return min(timed(lambda _: work())(k) for k in range(repeats))

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


# What is measured ----------------------------------------------------------------------------------------------------


def own_command(arguments: argparse.Namespace, case: str, name: str, ground: Ground) -> list[str]:
    command = [__file__, str(arguments.structures), "--case", case, "--serve", name, "--ground", ground]
    return [*command, *(["--denormals"] if arguments.denormals else [])]


def equal_times(
    case: str, config: EqV2Config, data: list[AtomicBatch], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Outputs compared, then times: in this process, one side and the other in turn."""
    peer, own = theirs(case, data, "equal"), ours(config, data)
    load_fairchem(own.model, peer.model.state_dict())
    peer.model.eval(), own.model.eval()
    with torch.no_grad():
        row: dict[str, Any] = {
            "parameters": sum(p.numel() for p in own.model.parameters()),
            "difference": difference(peer, own, len(data)),
            "gauge": difference(peer, peer, len(data)),
        }
    print(f"{case}: largest difference of outputs, relative to the largest value, and fairchem's from call to call:")
    print("  " + ", ".join(f"{k} {v:.1e} ({row['gauge'][k]:.1e})" for k, v in row["difference"].items()), flush=True)
    with heap(OWN, "equal"):
        evaluation = alternate([timed(side.evaluate) for side in (peer, own)], len(data), arguments.passes)
        peer.model.train(), own.model.train()
        step = alternate([timed(side.step) for side in (peer, own)], len(data), arguments.passes)
    return row | {"step": summary(*step), "evaluation": summary(*evaluation)}


def own_times(case: str, n_batches: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """In two processes, one and the other in turn."""
    with (
        Process(own_command(arguments, case, "fairchem", "itself")) as peer,
        Process(own_command(arguments, case, OWN, "itself")) as own,
    ):
        return {
            kind: summary(*alternate([side.work(kind) for side in (peer, own)], n_batches, arguments.passes))
            for kind in ("evaluation", "step")
        }


def measure(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    config = config_from_fairchem(backbone(case))
    data = batches(arguments.structures, case, config)
    row: dict[str, Any] = {"case": case, "atoms": sum(b.n_atoms for b in data), "edges": sum(b.n_edges for b in data)}
    largest = max(range(len(data)), key=lambda number: data[number].n_edges)
    for ground in arguments.ground:
        equal = ground == "equal"
        found = equal_times(case, config, data, arguments) if equal else own_times(case, len(data), arguments)
        for kind in ("step", "evaluation"):
            for name in () if arguments.no_memory else ("fairchem", OWN):
                command = own_command(arguments, case, name, ground)
                found[kind][f"{name}_mb"] = peak_in_a_process(command, kind, largest)
            print(f"  {ground}, {kind}: " + ", ".join(f"{k} {v:.4g}" for k, v in found[kind].items()), flush=True)
        row[ground] = found
    row["speeds"] = speeds()
    row["bound_ms"] = bound_ms(config, data, row["speeds"])
    share = row["bound_ms"] / row[arguments.ground[0]]["step"]["matscale_ms"]
    print(f"  bound {row['bound_ms']:.0f} ms: {share:.0%}; {row['speeds']}")
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown, equal ground first."""
    lines = ["| case | ground | step: fairchem / matscale [ms] | ratio | evaluation [ms] | ratio | memory [MB] |"]
    lines.append("|" + 7 * "---|")
    for row in rows:
        for ground in (ground for ground in GROUNDS if ground in row):
            cells = [row["case"], ground]
            for kind in ("step", "evaluation"):
                r = row[ground][kind]
                cells.append(f"{r['fairchem_ms']:,.0f} / {r['matscale_ms']:,.0f}")
                cells.append(f"{r['ratio']:.2f} ({r['least']:.2f} to {r['largest']:.2f})")
            r = row[ground]["step"]
            cells.append(f"{r['fairchem_mb']:,.0f} / {r['matscale_mb']:,.0f}" if "matscale_mb" in r else "")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--ground", nargs="+", choices=GROUNDS, default=GROUNDS, help="both by default")
    parser.add_argument("--passes", type=int, default=7, help="timed passes over all batches, after one that is not")
    parser.add_argument("--denormals", action="store_true", help="do not flush them to zero, on either side")
    parser.add_argument("--no-memory", action="store_true", help="measure times only")
    parser.add_argument("--serve", choices=("fairchem", OWN), help="be that side, and work as told on standard input")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    settle(not arguments.denormals)
    if arguments.serve:
        case, ground = arguments.case[0], arguments.ground[0]
        config = config_from_fairchem(backbone(case))
        data = batches(arguments.structures, case, config)
        with heap(arguments.serve, ground):
            serve(side_of(arguments.serve, case, config, data, ground))
        return
    head = heading(arguments.ground, not arguments.denormals)
    print(head, flush=True)
    rows = [measure(case, arguments) for case in arguments.case]
    print(f"\n{head}\n\n{table(rows)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": head, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
