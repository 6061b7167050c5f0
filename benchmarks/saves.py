"""Time that a checkpoint takes: the copy, for which training waits, and the writing in the background.

    python benchmarks/saves.py --parameters 250M             # 4 GB on disk, and 4 GB for the copy
    python benchmarks/saves.py --parameters 1G --folder /scratch

Weights, their average and both moments of AdamW, in fp32: 16 bytes for each parameter on disk, as many for the copy, as
many for training itself. The bytes are flushed to the disk before the time is taken. A size without enough memory is
refused.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from matscale.core.estimate.probe import available
from matscale.core.runs import checkpoint
from matscale.core.units import parse_count

WIDTH = 4096
"""Rows and columns of each weight matrix."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--parameters", type=parse_count, default=parse_count("250M"))
    options.add_argument("--folder", type=Path, default=Path(), help="Folder on the disk to measure.")
    options.add_argument("--repeat", type=int, default=2)
    arguments = options.parse_args()
    n = max(1, round(float(arguments.parameters) / WIDTH**2))
    n_bytes = 16 * n * WIDTH**2
    if 2.1 * n_bytes > available():
        raise SystemExit(f"{2 * n_bytes / 1e9:.0f} GB are needed, and {available() / 1e9:.0f} GB are free: give fewer.")
    names = [f"layers.{k}.weight" for k in range(n)]

    def tensors() -> dict[str, torch.Tensor]:
        return {name: torch.rand(WIDTH, WIDTH) for name in names}

    moments = {f"{name}.{moment}": torch.rand(WIDTH, WIDTH) for name in names for moment in ("exp_avg", "exp_avg_sq")}
    made = checkpoint.Checkpoint(1, tensors(), tensors(), moments, {})
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for _ in range(arguments.repeat):
            start = time.perf_counter()
            copied = checkpoint.on_host(made)
            middle = time.perf_counter()
            checkpoint.save(Path(folder), copied)
            end = time.perf_counter()
            rows.append({"copy_s": middle - start, "write_s": end - middle, "GB_per_s": n_bytes / 1e9 / (end - middle)})
            del copied
    best = min(rows, key=lambda row: row["write_s"])
    for_a_billion = 1e9 / (n * WIDTH**2) * best["write_s"]
    facts = {"parameters": n * WIDTH**2, "GB": n_bytes / 1e9, **best, "write_s_of_1e9_parameters": for_a_billion}
    print(json.dumps({name: round(value, 3) for name, value in facts.items()}))


if __name__ == "__main__":
    main()
