"""Training with two threads while other processes keep the cores busy: with sleeping and with spinning OpenMP threads.

    taskset -c 0,1 python benchmarks/busy.py --arch schnet --steps 40 --rounds 3

Each round trains the same run four times, in turn: without and beside one busy loop per core, with OpenMP's threads
asleep while they wait (what matscale sets) and spinning (OpenMP's default). Printed are medians of the wall seconds of
the steps (run.json's, without start-up) and of the processor seconds of the process, and the ratio of busy to idle.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import machine

LOOP = "while True: pass"


def measured(options: argparse.Namespace, data: str, policy: str, busy: int, folder: Path) -> tuple[float, float]:
    """(wall seconds of the steps, processor seconds of the process) of one training."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    # A setting of Intel's OpenMP has matscale leave the waiting alone, and does nothing to GNU's, which torch uses.
    own = {"KMP_BLOCKTIME": "200"} if policy == "spins" else {}
    environment |= {"OMP_NUM_THREADS": str(options.threads), **own}
    command = [sys.executable, "-m", "matscale", "train", "--arch", options.arch, "--params", options.params]
    command += ["--data", data, "--steps", str(options.steps), "-q", "--no-baselines", "-o", str(folder)]
    command += ["--set", "evaluation.every=100000"]
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(busy)]
    try:
        process = subprocess.Popen(command, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    if status:
        raise SystemExit(f"{' '.join(command)}: ended with {os.waitstatus_to_exitcode(status)}")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["split"] == "train"]
    return trained[-1]["wall_s"], usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="schnet")
    parser.add_argument("--params", default="30k")
    parser.add_argument("--data", default="emt")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    times: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for k in range(options.rounds):
            for policy in ("sleeps", "spins"):
                for busy in (0, cores):
                    got = measured(options, options.data, policy, busy, Path(scratch) / f"{policy}-{busy}-{k}")
                    times.setdefault((policy, busy), []).append(got)
    print(machine())
    print(f"{options.arch} {options.params}, {options.steps} steps, {options.threads} threads, {cores} cores")
    print(f"{'threads':8} {'idle [s]':>9} {'busy [s]':>9} {'ratio':>6} {'processor, idle [s]':>20} {'busy [s]':>9}")
    for policy in ("sleeps", "spins"):
        (idle, idle_cpu), (full, full_cpu) = (
            [statistics.median(column) for column in zip(*times[policy, busy])] for busy in (0, cores)
        )
        print(f"{policy:8} {idle:9.1f} {full:9.1f} {full / idle:6.2f} {idle_cpu:20.1f} {full_cpu:9.1f}")


if __name__ == "__main__":
    main()
