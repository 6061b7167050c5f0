"""Run folders of a study that never was: losses of a known law, records as training writes them, no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matscale.core.config import read_toml
from matscale.core.runs.info import OF, baselines_for
from matscale.core.sealing import sealed

FLOOR = 4.0
BASELINES = {"zero": {"loss": 60.0, "energy_mae": 2.0, "forces_mae": 1.2, "stress_mae": 0.12}}
ARCHITECTURES = {"schnet": (0.24, 90.0), "transformer": (0.17, 60.0)}
"""Name -> (exponent, prefactor) of the law in n."""
CONFIG = """seed = {seed}

[architecture]
name = "{name}"

[data]
path = "{data}"
validation_seed = 0
fraction = {fraction}

[optimizer]
lr = 0.001

[schedule]
kind = "cosine"
"""


def make_study(
    folder: Path,
    *,
    architectures: Sequence[str] = tuple(ARCHITECTURES),
    sizes: Sequence[int] = (3000, 10_000, 30_000, 100_000, 300_000),
    data: Sequence[int] = (1000, 3000, 10_000),
    seeds: int = 1,
    n_validations: int = 12,
    data_path: str = "/data/salts",
) -> Path:
    """The full grid, a run each; `folder` holds them and their baselines."""
    for name in architectures:
        for size in sizes:
            for count in data:
                for seed in range(seeds):
                    make_run(
                        folder / f"{name}-{size}-{count}-{seed}", name, size, count, seed, n_validations, data_path
                    )
    largest = next(folder.glob(f"*-{max(data)}-0"))
    keep_baselines(largest, BASELINES)
    return folder


def keep_baselines(run: Path, errors: Mapping[str, Any]) -> None:
    """Write baseline errors into the folder of a run as they are kept there: sealed, with what they belong to."""
    of = baselines_for(json.loads((run / "run.json").read_text()), read_toml(run / "config.toml"))
    (run / "baseline_errors.json").write_text(json.dumps(sealed({**errors, OF: of})))


def make_run(
    folder: Path,
    architecture: str = "schnet",
    size: int = 10_000,
    count: int = 1000,
    seed: int = 0,
    n_validations: int = 12,
    data_path: str = "/data/salts",
    **info: Any,
) -> Path:
    """One run folder; `info` replaces keys of run.json."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, size, count, len(architecture)])
    steps = np.unique(np.geomspace(10, 2000, n_validations).round()).astype(int)
    rows = []
    for step in steps:
        rows.append(_row("train", int(step), architecture, size, count, int(steps[-1]), rng))
        rows.append(_row("validation", int(step), architecture, size, count, int(steps[-1]), rng))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.toml").write_text(
        CONFIG.format(seed=seed, name=architecture, data=data_path, fraction=count / 10_000)
    )
    last = rows[-1]
    values = {
        "format_version": 1,
        "name": folder.name,
        "status": "completed",
        "error": None,
        "architecture": {"name": architecture, "distribution": "matscale", "version": "0.1.0"},
        "parameters": {"total": size + 900, "trainable": size + 900, "embedding": 900, "non_embedding": size},
        "dataset": {
            "path": data_path, "hash": "ab" * 32, "structures": 11_000, "train": count, "validation": 1000,
            "elements": [11, 17], "labels_by": "surrogate: emt",
        },
        "seed": seed, "device": "cpu (1 threads)", "precision": "fp32", "world_size": 1,
        "global_batch": {"structures": 16}, "flops_counted_by": "formula",
        "versions": {"matscale": "0.1.0", "torch": "2.13.0+cpu", "python": "3.11.7"},
        "steps": int(steps[-1]), "epochs": last["epoch"], "skipped": 0,
        "best": last, "last": last,
        **{key: last[key] for key in ("structures", "atoms", "edges", "flops", "wall_s")},
        **info,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(values))
    return folder


def _row(
    split: str, step: int, architecture: str, size: int, count: int, last: int, rng: np.random.Generator
) -> dict[str, Any]:
    exponent, prefactor = ARCHITECTURES[architecture]
    end = FLOOR + prefactor * size**-exponent + 120.0 * count**-0.4
    loss = (end + (40.0 - end) * max(0.0, 1.0 - np.log(step) / np.log(last))) * np.exp(0.004 * rng.standard_normal())
    seen = 16 * step * count // 1000
    return {
        "step": step, "epoch": seen / count, "split": split, "loss": float(loss), "objective": float(loss),
        "energy_mae": float(loss * 0.02), "forces_mae": float(loss * 0.018), "stress_mae": float(loss * 0.002),
        "lr": 0.001, "flops": float(6 * size * seen * 12), "structures": seen, "atoms": 12 * seen, "edges": 400 * seen,
        "wall_s": 0.01 * step, "time": 1.8e9 + step, "atoms_per_s": 1000.0, "mfu": None, "memory_bytes": 1 << 28,
    }  # fmt: skip
