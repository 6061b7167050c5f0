"""Seconds an epoch and memory of each architecture on one and more devices, with and without what saves time or memory.

    python benchmarks/devices.py                                     # a small table, on the cores of this machine
    python benchmarks/devices.py --arch schnet,eqv2,gemnet --params 1M --data DIR --devices 1,2,8 --steps 20
    python benchmarks/devices.py --json devices.json

The table of arXiv:2509.21811, section 2.2.6. Every row is a group of processes of its own that makes `--steps` steps
after `--warm` others on the same batches (global: they do not depend on the number of processes). Seconds an epoch are
those of a step times the steps of an epoch; memory is the peak of one process, resident on a CPU and allocated on a
GPU. One process per GPU where there are GPUs, else on the cores, which the processes share. What a model refuses is
told in its row. The rows:

    plain               fp32, cached edges
    bf16                products of matrices in bf16
    compile             torch.compile; the warm-up has the compilation
    checkpoint          activation checkpointing
    no cache            edges searched for in every batch
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import time
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from machine import machine

from matscale.core.errors import MatscaleError
from matscale.core.threads import usable_cores
from matscale.core.train.compute import configured, describe, device_of, memory_bytes
from matscale.core.train.learner import Learner
from matscale.core.train.optimizer.accumulation import Accumulation
from matscale.core.train.options import configuration, given
from matscale.core.train.processes.world import World
from matscale.core.train.setup import prepare
from matscale.core.units import parse_parameters

ROWS = {
    "plain": (),
    "bf16": ("compute.precision=bf16",),
    "compile": ("compute.compile=true",),
    "checkpoint": ("compute.checkpoint_activations=true",),
    "no cache": ("data.cache_graphs=false",),
}
PATIENCE = 1800.0
"""Time after which a row is given up [s]."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--arch", default="schnet,escaip", help="names, separated by commas")
    options.add_argument("--params", default="30k")
    options.add_argument("--data", default="emt")
    options.add_argument("--batch", type=int, default=32, help="structures in a step, over all processes")
    options.add_argument("--devices", default="1,2", help="numbers of processes, separated by commas")
    options.add_argument("--rows", default=",".join(ROWS))
    options.add_argument("--steps", type=int, default=5)
    options.add_argument("--warm", type=int, default=2)
    options.add_argument("--json", type=Path)
    asked = options.parse_args()
    gpus = torch.cuda.device_count()
    print(f"{machine()}; {gpus} GPUs{f' ({torch.cuda.get_device_name(0)})' if gpus else ''}; torch {torch.__version__}")
    print(f"{'model':<22}{'row':<12}{'devices':>8}{'s an epoch':>12}{'GB each':>9}{'atoms/s':>10}{'efficiency':>12}")
    found = []
    for arch in asked.arch.split(","):
        for row in asked.rows.split(","):
            first: dict[str, Any] | None = None
            for n in map(int, asked.devices.split(",")):
                measured = {"arch": arch, "row": row, "devices": n, **measure(arch, row, n, asked)}
                found.append(measured)
                first = first or measured
                print(told(measured, first), flush=True)
    if asked.json:
        facts = {"machine": machine(), "torch": torch.__version__, "options": vars(asked) | {"json": None}}
        asked.json.write_text(json.dumps({**facts, "rows": found}, indent=1) + "\n", encoding="utf-8")


def told(measured: dict[str, Any], first: dict[str, Any]) -> str:
    head = f"{measured['arch']:<22}{measured['row']:<12}{measured['devices']:>8}"
    if "error" in measured:
        return f"{head}  {measured['error']}"
    efficiency = ""
    if "error" not in first and measured is not first:
        ideal = first["epoch_s"] * first["devices"] / measured["devices"]
        efficiency = f"{ideal / measured['epoch_s']:.0%}"
    numbers = f"{measured['epoch_s']:>12.1f}{measured['memory_bytes'] / 1e9:>9.2f}{measured['atoms_per_s']:>10.0f}"
    return f"{head}{numbers}{efficiency:>12}"


def measure(arch: str, row: str, n: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Measure one row of the table in `n` new processes."""
    kind = multiprocessing.get_context("spawn")
    answers = kind.Queue()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    os.environ["OMP_NUM_THREADS"] = str(max(1, usable_cores() // n))  # read by the new processes
    processes = [kind.Process(target=work, args=(rank, n, port, arch, row, asked, answers)) for rank in range(n)]
    for process in processes:
        process.start()
    try:
        end = time.monotonic() + PATIENCE
        while answers.empty() and any(p.is_alive() for p in processes) and time.monotonic() < end:
            time.sleep(0.05)
        return answers.get(timeout=5)
    except Exception:
        return {"error": "ended without a result"}
    finally:
        for process in processes:
            process.join(60)
            process.kill()


def work(rank: int, n: int, port: int, arch: str, row: str, asked: argparse.Namespace, answers: Any) -> None:
    warnings.simplefilter("ignore")
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    try:
        result = trained(World(rank, n, rank), arch, ROWS[row], asked)
    except MatscaleError as error:
        result = {"error": str(error).partition(". ")[0][:100]}
    if rank == 0:
        answers.put(result)


def trained(world: World, arch: str, changes: Sequence[str], asked: argparse.Namespace) -> dict[str, Any]:
    options = given({"data": asked.data, "batch": asked.batch, "epochs": 1})
    params = parse_parameters(asked.params)
    config, architecture = configuration(arch, None, params, None, options, changes, None)
    device = device_of(config.compute, world)
    with configured(config.compute, device), world.connected(device, PATIENCE):
        setup = prepare(config, architecture)
        learner = Learner(setup.potential(), config, setup.objective(), device, world)
        loader = setup.training_loader()
        groups = Accumulation(loader, 1, device, learner.objective, world).groups(0, 0)
        seconds, atoms = 0.0, 0.0
        for step, group in enumerate(islice(groups, asked.warm + asked.steps), start=1):
            world.barrier()
            began = time.perf_counter()
            learner.update(learner.gradient(group.batches, world.sums(group.labelled)), 1e-4, step)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if step > asked.warm:
                seconds += time.perf_counter() - began + group.waited
                atoms += sum(shape.n_atoms for shape in group.shapes)
        total = world.sums({"atoms": atoms, "memory": float(memory_bytes(device))})
        return {
            "parameters": sum(p.numel() for p in learner.parameters),
            "step_s": seconds / asked.steps,
            "epoch_s": seconds / asked.steps * loader.n_batches(0),
            "memory_bytes": total["memory"] / world.size,
            "atoms_per_s": total["atoms"] / seconds,
            "gradient_bytes": sum(p.numel() * p.element_size() for p in learner.parameters),
            "device": describe(device),
        }


if __name__ == "__main__":
    main()
