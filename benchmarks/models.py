"""SchNet, GemNet-dT and GemNet-OC beside other packages': whole training steps and peak memory.

    taskset -c 1 VENV/bin/python benchmarks/models.py STRUCTURES --case schnet gemnet-dT gemnet-OC [--size small]

VENV is a scratch environment with fairchem-core 1.10.0 (`--no-deps`), torch_geometric, schnetpack 2.2.0 (`--no-deps`;
left out where it is missing) and what matscale needs. STRUCTURES is any file that ASE reads: all in batches of 8, or
with `--size published` the first 6 in batches of 2. `schnet` has the 50 nearest neighbours, as in fairchem;
`schnet-radius` all within 6 Å.

Times are measured on two grounds (`ground.py`): `equal` for all, and each package as it runs by `itself`. On either
the sides have the same edges, which are made before the clock starts (`peers.py`). What follows from them is inside:
distances, GemNet's symmetric edges, triplets, quadruplets. On equal ground the sides have the same weights, and outputs
are compared first. A step is forward, loss (the sum of the mean absolute energy and force), backward, AdamW. Forces of
SchNet are derivatives; matscale's come with the stress, schnetpack's, PyG's and fairchem's without. Denormal numbers
are flushed to zero on all sides. Medians over passes of all batches, in seconds of the processor; a ratio is the median
of the ratios of a pass, `least` and `largest` are their range. Memory is the peak of three training steps on the
largest batch, in a process of its own, above what the process had once the model was built.
"""

from __future__ import annotations

import argparse
import json
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import peers
import torch
from eqv2 import speeds
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
from torch import Tensor, nn

from matscale.core.data.batch import AtomicBatch, BatchShape
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.model.architecture import Architecture, DatasetInfo
from matscale.core.model.outputs import model_outputs
from matscale.core.runs.config import OptimizerConfig
from matscale.core.train.optimizer.optim import adamw
from matscale.plugins import gemnet, schnet
from matscale.plugins.gemnet.fairchem.names import state_from_fairchem

CASES = ("schnet", "schnet-radius", "gemnet-dT", "gemnet-OC")


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
        out = model_outputs(model, data[k], derive=derive, create_graph=True)
        assert out.forces is not None
        return {"energy": out.energy.float(), "forces": out.forces}

    return Side(OWN, model, of_batch, adamw(model, OptimizerConfig()))


def theirs(name: str, case: str, size: str, data: list[AtomicBatch], ground: Ground) -> Side:
    torch.manual_seed(0)
    if name == "fairchem":
        model, of_batch = peers.fairchem(case, size, data)
    else:
        model, of_batch = {"pyg": peers.pyg, "schnetpack": peers.schnetpack}[name](case, size, data)
    return Side(name, model, of_batch, adamw_of_others(model, ground))


def side_of(name: str, case: str, size: str, data: list[AtomicBatch], ground: Ground) -> Side:
    return ours(case, size, data) if name == OWN else theirs(name, case, size, data, ground)


def names_of(case: str) -> list[str]:
    names = [OWN, "fairchem"]
    if not case.startswith("schnet"):
        return names
    import importlib.util

    return [*names, "pyg", *(["schnetpack"] if importlib.util.find_spec("schnetpack") else [])]


def share_weights(case: str, own: Side, others: list[Side]) -> None:
    """Give all sides the weights of matscale's SchNet, or of fairchem's GemNet."""
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


def own_command(arguments: argparse.Namespace, case: str, name: str, ground: Ground) -> list[str]:
    command = [__file__, str(arguments.structures), "--case", case, "--size", arguments.size]
    return [*command, "--ground", ground, "--serve", name]


def flops(case: str, size: str, data: list[AtomicBatch]) -> float:
    """FLOPs of a pass, by the architecture's formula."""
    architecture, config = architecture_of(case), peers.config(case, size)
    assert architecture.step_flops is not None
    shapes: list[BatchShape] = [batch.shape for batch in data]
    return sum(architecture.step_flops(config, shape) for shape in shapes)


def profiled(side: Side) -> str:
    """Table of the time that each operation takes in a step on the first batch."""
    from torch.profiler import ProfilerActivity, profile

    side.step(0), side.step(0)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        side.step(0)
    return seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=25)


def equal_seconds(case: str, data: list[AtomicBatch], arguments: argparse.Namespace) -> list[list[float]]:
    """Seconds of the passes of each side, in this process; outputs are compared first."""
    sides = [side_of(name, case, arguments.size, data, "equal") for name in names_of(case)]
    own, others = sides[0], sides[1:]
    share_weights(case, own, others)
    for other in others:
        worst = difference(own, other, len(data))
        print(f"  differs from {other.name} by " + ", ".join(f"{k} {v:.1e}" for k, v in worst.items()), flush=True)
    with heap(OWN, "equal"):
        return alternate([timed(side.step) for side in sides], len(data), arguments.passes)


def own_seconds(case: str, n_batches: int, arguments: argparse.Namespace) -> list[list[float]]:
    """Seconds of the passes of each side, which has a process of its own."""
    with ExitStack() as stack:
        commands = [own_command(arguments, case, name, "itself") for name in names_of(case)]
        works = [stack.enter_context(Process(command)).work("step") for command in commands]
        return alternate(works, n_batches, arguments.passes)


def measure(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    data = batches(arguments.structures, case, arguments.size)
    count = sum(p.numel() for p in ours(case, arguments.size, data).model.parameters())
    row: dict[str, Any] = {"case": case, "size": arguments.size, "parameters": count}
    row |= {"atoms": sum(b.n_atoms for b in data), "edges": sum(b.n_edges for b in data)}
    print(f"{case} {arguments.size}: {row['parameters']:,} parameters, {row['atoms']} atoms, {row['edges']:,} edges")
    largest = max(range(len(data)), key=lambda number: data[number].n_edges)
    for ground in arguments.ground:
        equal = ground == "equal"
        seconds = equal_seconds(case, data, arguments) if equal else own_seconds(case, len(data), arguments)
        row[ground] = {}
        for name, mine in zip(names_of(case), seconds):
            found = {"step_ms": 1e3 * statistics.median(mine), **ratios(mine, seconds[0])}
            if not arguments.no_memory:
                found["mb"] = peak_in_a_process(own_command(arguments, case, name, ground), "step", largest)
            row[ground][name] = found
            print(f"  {ground}, {name}: " + ", ".join(f"{k} {v:.4g}" for k, v in found.items()), flush=True)
    row["speeds"] = speeds()
    products_ms = flops(case, arguments.size, data) / row["speeds"]["gemm_gflop_s"] / 1e6
    row["products_share"] = products_ms / row[arguments.ground[0]][OWN]["step_ms"]
    print(f"  products at the speed of a 1024³ one: {products_ms:.0f} ms, {row['products_share']:.0%} of the step")
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown, equal ground first."""
    lines = ["| case | ground | package | step [ms] | matscale is so many times as fast | memory [MB] |"]
    lines.append("|" + 6 * "---|")
    for row in rows:
        for ground in (ground for ground in GROUNDS if ground in row):
            for name, r in row[ground].items():
                ratio = "" if name == OWN else f"{r['ratio']:.2f} ({r['least']:.2f} to {r['largest']:.2f})"
                memory = f"{r['mb']:,.0f}" if "mb" in r else ""
                lines.append(f"| {row['case']} | {ground} | {name} | {r['step_ms']:,.0f} | {ratio} | {memory} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--size", choices=("small", "published"), default="small")
    parser.add_argument("--ground", nargs="+", choices=GROUNDS, default=GROUNDS, help="both by default")
    parser.add_argument("--passes", type=int, default=7, help="timed passes over all batches, after one that is not")
    parser.add_argument("--no-memory", action="store_true", help="measure times only")
    parser.add_argument("--serve", metavar="SIDE", help="be that side, and work as told on standard input")
    parser.add_argument("--profile", action="store_true", help="print what our step spends its time on, nothing else")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    settle()
    case, ground = arguments.case[0], arguments.ground[0]
    if arguments.serve:
        data = batches(arguments.structures, case, arguments.size)
        with heap(arguments.serve, ground):
            serve(side_of(arguments.serve, case, arguments.size, data, ground))
        return
    if arguments.profile:
        data = batches(arguments.structures, case, arguments.size)
        print(profiled(ours(case, arguments.size, data)))
        return
    head = heading(arguments.ground)
    print(head, flush=True)
    rows = [measure(case, arguments) for case in arguments.case]
    print(f"\n{head}\n\n{table(rows)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": head, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
