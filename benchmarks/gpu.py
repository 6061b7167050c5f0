"""Ten minutes on a GPU: whether every architecture computes there as on a CPU, and how fast.

    python benchmarks/gpu.py [--device cuda] [-o FOLDER]          writes gpu.json and gpu.md there
    python benchmarks/gpu.py --device cpu --quick                 the same on a CPU, with tiny models, as a test

Needs matscale and the wheels that it requires: torch built for the GPU, ase, ase-db-backends, click, e3nn, filelock,
jinja2, lmdb, markupsafe, numpy, packaging, plotly, pluggy, pooch, pydantic, requests, rich, safetensors, scipy,
tomli-w, torch-geometric, vesin. The data are made by matscale itself (`emt`). Where fairchem-core 1.10.0 is installed,
its SchNet and GemNet are timed beside matscale's, with the other files of this folder (`models.py`, `peers.py`).

Parts, each in a process of its own with a limit of time, so that one that hangs or fails does not end the others:
`machine` (versions, bandwidth, matrix products), `correct` (each architecture: loss, forces and gradient of the
readable and the fast path in every precision against float64 on the CPU; times, atoms/s, MFU, memory,
synchronisations), `resume` (bit for bit?), `nccl` (one rank), `speed` (larger models, growing batches), `fairchem`,
`compiled`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import MatscaleError
from matscale.core.estimate.bench import Bench, bench, precisions_of
from matscale.core.estimate.timing import seconds_of
from matscale.core.files import finite
from matscale.core.flops import peak_of
from matscale.core.flops.peaks import measured_peak
from matscale.core.hosting.host import host
from matscale.core.runs import checkpoint
from matscale.core.train.compute import describe, device_of, memory_bytes
from matscale.core.train.options import configuration
from matscale.core.train.processes.world import World
from matscale.core.train.session import train
from matscale.version import __version__

FORCES = {"fp64": 1e-8, "fp32": 1e-3, "tf32": 2e-2, "bf16": 0.1, "fp16": 5e-2}
GRADIENT = {"fp64": 1e-8, "fp32": 1e-2, "tf32": 0.2, "bf16": 0.6, "fp16": 0.3}
"""Largest relative errors that count as right, by precision. Gradients of new weights cancel more than forces do."""
PREDICTIONS = (
    "A launch of a kernel takes 5 to 8 µs. A step of 30,000 parameters is bound by launches, whatever the batch: "
    "3 to 5 ms (fcn), 5 to 9 ms (schnet), 12 to 19 ms (eqv2), 45 to 72 ms (gemnet-OC).",
    "Data are no limit: 50,000 structures/s are read by one core.",
    "Sums by atomic additions make two runs of one seed differ in their last digits; the resume is not bitwise then.",
)
"""Written before any GPU was measured."""
SPEED = {"schnet": "1M", "eqv2": "10M", "gemnet": "3M", "escaip": "3M"}
CASES = ("schnet", "gemnet-dT", "gemnet-OC")

Options = argparse.Namespace
Result = dict[str, Any]


def config_of(
    name: str, options: Options, *assignments: str, params: str | None = None, batch: int | None = None
) -> Any:
    """Configuration of a model on the device, and its architecture."""
    from matscale.core.units import parse_parameters

    given = {"data.path": options.data, "compute.device": options.device}
    given["batch.structures"] = batch or (4 if options.quick else 16)
    size = parse_parameters(params or ("1k" if options.quick else "30k"))
    return configuration(name, None, size, None, given, assignments, None)


# Parts ----------------------------------------------------------------------------------------------------------------


def machine(options: Options) -> Result:
    """Versions, memory bandwidth, and matrix products beside the table of peaks."""
    device = device_of(config_of("fcn", options)[0].compute, World())
    n = 1 << (20 if options.quick else 28)
    source = torch.ones(n, device=device)
    target = torch.empty_like(source)
    copied = min(seconds_of(lambda: target.copy_(source), device) for _ in range(5))
    rows = {}
    for precision in precisions_of(device):
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        stated = peak_of(device, precision)
        rows[precision] = {"measured": measured_peak(device, precision), "stated": stated.flops_per_s, "by": stated.by}
    return {
        "device": describe(device),
        "versions": {"matscale": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "cuda": torch.version.cuda,
        "copy_bytes_per_s": 8 * n / copied,
        "peaks": rows,
    }


def correct(options: Options, name: str) -> Result:
    """Errors and times of one architecture, readable and fast, in every precision."""
    config, architecture = config_of(name, options)
    steps = 1 if options.quick else 8
    found = bench(config, architecture, paths=("readable", "fast"), time_steps=steps, exact_on="cpu")
    return {**judged(found), "synchronisations": synchronisations(config, architecture)}


def compiled(options: Options, name: str) -> Result:
    """Errors and times of one architecture by torch.compile."""
    config, architecture = config_of(name, options)
    paths = ("compiled",) if not options.quick else ()
    return judged(bench(config, architecture, paths=paths, precisions=("fp32",), exact_on="cpu"))  # type: ignore[arg-type]


def judged(found: Bench) -> Result:
    """Measurements with a verdict for each row."""
    plain = found.plain()
    for row in plain["rows"]:
        if row["reason"] is None:
            bounds = ((row["forces_error"], FORCES), (row["gradient_error"], GRADIENT))
            right = all(error is None or error <= bound[row["precision"]] for error, bound in bounds)
            row["verdict"] = "right" if right else "WRONG"
        else:
            row["verdict"] = f"not measured: {row['reason']}"
    return plain


def synchronisations(config: Any, architecture: Any) -> int | None:
    """Times that the CPU waits for the GPU in a training step, counted by torch; None on a CPU."""
    if config.compute.device == "cpu" or not torch.cuda.is_available():
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            bench(config, architecture, paths=("fast",), precisions=("fp32",), time_steps=1)
        return sum("synchroniz" in str(one.message) for one in told)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def resume(options: Options) -> Result:
    """Whether a run that stopped and went on has the weights of one that did not, bit for bit."""
    steps = 2 if options.quick else 20
    with tempfile.TemporaryDirectory() as folder:
        weights = {}
        for name, limits in (("whole", (steps,)), ("again", (steps,)), ("resumed", (steps // 2, steps))):
            for limit in limits:
                same = ("schedule.kind=constant", f"budget.steps={limit}", "evaluation.samples=0")
                config, architecture = config_of("fcn" if options.quick else "schnet", options, *same)
                run = train(config, Path(folder) / name, resume=limit != limits[0], architecture=architecture)
            saved = checkpoint.load(checkpoint.folder_of(run.checkpoint_folder, steps))
            weights[name] = torch.cat([w.double().flatten() for _, w in sorted(saved.model.items())])

    def difference(name: str) -> float:
        return float((weights[name] - weights["whole"]).abs().max())

    again, resumed = difference("again"), difference("resumed")
    verdict = "bitwise" if resumed == again == 0 else "not bitwise" if resumed <= 10 * again else "WRONG"
    return {"verdict": verdict, "repeated_differs_by": again, "resumed_differs_by": resumed, "steps": steps}


def nccl(options: Options) -> Result:
    """A sum over a group of one process, by NCCL on a GPU and by gloo on a CPU."""
    import torch.distributed as dist

    device = device_of(config_of("fcn", options)[0].compute, World())
    on_gpu = device.type == "cuda"
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    own = torch.device("cuda", device.index or 0) if on_gpu else None
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, device_id=own)
    try:
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 1).to(device))
        model(torch.ones(4, 3, device=device)).sum().backward()
        x = torch.arange(4.0, device=device)
        dist.all_reduce(x)
        right = x.tolist() == [0, 1, 2, 3] and model.module.bias.grad.item() == 4
        return {"backend": backend, "verdict": "right" if right else "WRONG"}
    finally:
        dist.destroy_process_group()


def speed(options: Options, name: str) -> Result:
    """A larger model with growing batches, until the memory is full: the fast path in the precisions of training."""
    device = device_of(config_of(name, options)[0].compute, World())
    kinds = tuple(kind for kind in precisions_of(device) if kind != "fp64")
    found: list[Result] = []
    until = time.monotonic() + (0 if options.quick else 30)
    for batch in (4,) if options.quick else (16, 64, 256, 1024):
        config, architecture = config_of(name, options, params=None if options.quick else SPEED[name], batch=batch)
        steps = 1 if options.quick else 4
        found.append(bench(config, architecture, paths=("fast",), precisions=kinds, time_steps=steps).plain())
        if time.monotonic() > until or all(row["reason"] for row in found[-1]["rows"]):
            break
    return {"batches": found, "peak_memory_bytes": memory_bytes(device)}


def fairchem(options: Options, case: str) -> Result:
    """A training step of fairchem-core 1.10.0 beside matscale's, with the same weights, edges and batch."""
    here = Path(__file__).parent
    if not any(importlib.metadata.distributions(name="fairchem-core")):
        return {"verdict": "not measured: fairchem-core 1.10.0 is not installed"}
    if not (here / "models.py").exists():
        return {"verdict": f"not measured: models.py, peers.py and standins.py are not in {here}"}
    sys.path.insert(0, str(here))
    import models
    import peers
    from ground import difference

    device = device_of(config_of("fcn", options)[0].compute, World())
    size = "small" if options.quick else "published"
    graph = models.architecture_of(case).graph(peers.config(case, size))
    dataset = PackedDataset.open(options.data)
    data = [dataset.batch(list(range(8 if options.quick else 64)), graph).to(device)]
    sides = [models.side_of(name, case, size, data, "equal") for name in (models.OWN, "fairchem")]
    models.share_weights(case, sides[0], sides[1:])
    for side in sides:
        side.model.to(device)
    differs = difference(*sides, len(data))
    seconds = {one.name: median(seconds_of(partial(one.step, 0), device) for _ in range(9)) for one in sides}
    return {"case": case, "size": size, "differs_by": differs, "step_s": seconds, "atoms": data[0].n_atoms}


# All of them ----------------------------------------------------------------------------------------------------------

PARTS: dict[str, tuple[Callable[..., Result], float]] = {
    "machine": (machine, 60),
    "correct": (correct, 60),
    "compiled": (compiled, 90),
    "resume": (resume, 60),
    "nccl": (nccl, 60),
    "speed": (speed, 50),
    "fairchem": (fairchem, 60),
}
"""Function and limit of time [s] of each part."""
MINUTES = 10.0
"""Limit of all parts together [min]; parts that would begin later are left out, with a word."""


def plan() -> Iterator[tuple[str, str]]:
    """Parts in their order, each with the architecture or case that it is about."""
    architectures = [a.name for a in host().architectures()]
    yield "machine", ""
    yield from (("correct", name) for name in architectures)
    yield "resume", ""
    yield "nccl", ""
    yield from (("speed", name) for name in SPEED if name in architectures)
    yield from (("fairchem", case) for case in CASES)
    yield from (("compiled", a.name) for a in host().architectures() if a.compiles)


def done(part: str, about: str, options: Options) -> Result:
    """Result of a part, or the reason why there is none. With `--quick`, in this process."""
    function, limit = PARTS[part]
    arguments = (about,) if about else ()
    if options.quick or options.part:
        try:
            return function(options, *arguments)
        except (MatscaleError, RuntimeError, OSError, ValueError) as error:
            return {"verdict": f"FAILED: {type(error).__name__}: {str(error).splitlines()[0]}"}
    command = [sys.executable, __file__, "--device", options.device, "--data", options.data, "--part", part, about]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        return dict(json.loads(ended.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return {"verdict": f"FAILED: not done in {limit:.0f} s"}
    except (IndexError, ValueError):
        last = (ended.stderr.strip().splitlines() or ["no output"])[-1]
        return {"verdict": f"FAILED: exit code {ended.returncode}: {last}"}


def page(results: dict[str, Result], seconds: float) -> str:
    """All results in Markdown."""
    found = results.get("machine", {})
    lines = [f"# {found.get('device', 'no device')}", "", f"matscale {__version__}, {seconds:.0f} s in all.", ""]
    lines += ["Predicted before any GPU was measured:", "", *(f"- {one}" for one in PREDICTIONS), ""]
    lines += ["| part | verdict |", "|---|---|"]
    lines += [f"| {name} | {result['verdict']} |" for name, result in results.items() if "verdict" in result]
    heading = (
        "| model | path | precision | step [ms] | atoms/s | MFU | memory [MB] | loss | forces | gradient | verdict |"
    )
    lines += ["", "Errors are relative to float64 on the CPU (for `speed`: on the device).", ""]
    lines += [heading, "|" + 11 * "---|"]
    for name, result in results.items():
        for one in result.get("batches", [result] if "rows" in result else []):
            title = f"{name}, {one['parameters']['total']:,}, {one['structures']} structures"
            lines += [f"| {title} | {' | '.join(cells(row))} |" for row in one["rows"]]
    lines += ["", "| case | fairchem-core 1.10.0 [ms] | matscale [ms] | differ by |", "|---|---|---|---|"]
    for name, result in results.items():
        if "step_s" in result:
            times = [f"{1e3 * result['step_s'][side]:.1f}" for side in ("fairchem", "matscale")]
            lines.append(f"| {name} | {' | '.join(times)} | {result['differs_by']} |")
    return "\n".join(lines) + "\n"


def cells(row: Result) -> list[str]:
    forms = {"step_s": (1e3, ".1f"), "atoms_per_s": (1, ",.0f"), "mfu": (1, ".2%"), "memory_bytes": (1e-6, ",.0f")}
    forms |= dict.fromkeys(("loss_error", "forces_error", "gradient_error"), (1, ".1e"))
    values = ["" if row[key] is None else format(factor * row[key], form) for key, (factor, form) in forms.items()]
    return [row["path"], row["precision"], *values, row.get("verdict") or row["reason"] or ""]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", help="packed dataset; emt by default")
    parser.add_argument("--quick", action="store_true", help="tiny models, everything in one process")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts")
    parser.add_argument("-o", "--output", type=Path, default=Path())
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.data is None:
        from matscale.core.data.named.catalog import resolve

        options.data = str(resolve("emt"))
    if options.part:
        print(json.dumps(finite(done(*options.part, options))))
        return 0
    began, results = time.monotonic(), dict[str, Result]()
    for part, about in plan():
        if options.only and part not in options.only:
            continue
        name = f"{part} {about}".strip()
        is_late = time.monotonic() - began > 60 * MINUTES - PARTS[part][1]
        results[name] = {"verdict": "left out: no time"} if is_late else done(part, about, options)
        print(f"{time.monotonic() - began:5.0f} s  {name}  {results[name].get('verdict', '')}", flush=True)
    seconds = time.monotonic() - began
    options.output.mkdir(parents=True, exist_ok=True)
    values = finite({"predictions": PREDICTIONS, "seconds": seconds, "results": results})
    (options.output / "gpu.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
    (options.output / "gpu.md").write_text(page(values["results"], seconds), encoding="utf-8")
    bad = [n for n, r in results.items() if "WRONG" in json.dumps(r) or str(r.get("verdict", "")).startswith("FAILED")]
    print(f"{options.output / 'gpu.md'}: {len(results)} parts, {len(bad)} wrong or failed {bad or ''}")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
