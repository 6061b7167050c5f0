"""How near `matscale estimate` comes to the run that follows: FLOPs, memory, time and disk of four architectures.

    python benchmarks/estimate.py [--data emt] [--steps 60] [--device cpu] [--only schnet]

Every estimate and every run is a process of its own, one after the other. Wanted: FLOPs to 2 %, memory to 20 %, time
to 25 %. Time is the run's own `wall_s`, which begins with the first step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import machine

CASES = {
    "fcn": ("300k", 256),
    "transformer": ("300k", 64),
    "schnet": ("30k", 16),
    "eqv2": ("10k", 8),
}
"""Architecture -> (parameters, structures in a batch)."""


def matscale(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "matscale", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def compare(name: str, data: str, steps: int, device: str, folder: Path) -> list[str]:
    params, batch = CASES[name]
    chosen = ["--arch", name, "--params", params, "--data", data, "--batch", str(batch), "--device", device]
    chosen += ["--steps", str(steps), "--set", f"evaluation.every={max(steps // 2, 1)}"]
    guess = json.loads(matscale("estimate", *chosen, "--json"))
    matscale("train", *chosen, "-q", "-o", str(folder / name))
    info = json.loads((folder / name / "run.json").read_text())
    rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    pairs = {
        "training FLOPs": (guess["flops"], info["flops"]),
        "validation FLOPs": (guess["validation_flops"], info["validation_flops"]),
        "memory [MB]": (guess["memory_bytes"] / 1e6, max(row["memory_bytes"] for row in rows) / 1e6),
        "time [s]": (guess["seconds"], info["wall_s"]),
        "disk [MB]": (guess["disk_bytes"] / 1e6, disk(folder / name) / 1e6),
    }
    cells = [f"{a:.4g} / {b:.4g} ({100 * (a / b - 1):+.1f} %)" for a, b in pairs.values()]
    return [f"`{name}` {params}, batches of {batch}", *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="emt")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", action="append", choices=CASES)
    arguments = parser.parse_args()
    print(f"{machine()}\n")
    print("| estimated / real | training FLOPs | validation FLOPs | memory [MB] | time [s] | disk [MB] |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only or CASES:
            cells = compare(name, arguments.data, arguments.steps, arguments.device, Path(folder))
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
