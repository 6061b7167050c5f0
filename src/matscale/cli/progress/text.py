"""Texts of progress: lines that introduce a run, errors of a run, counts of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matscale.cli.text import duration

if TYPE_CHECKING:
    from matscale.core.runs.record import Run
    from matscale.core.study.clock import Clock
    from matscale.core.study.identity import PlannedRun
    from matscale.core.study.sweep import Sweep


def errors(row: Mapping[str, Any]) -> str:
    """Format the errors of a validation: the compared loss, and errors in meV units."""
    units = (
        ("energy_mae", "energy", "meV/atom"),
        ("forces_mae", "forces", "meV/Å"),
        ("stress_mae", "stress", "meV/Å³"),
    )
    parts = [f"loss {row['loss']:.4g}"] if "loss" in row else []
    parts += [f"{word} {1e3 * row[key]:.4g} {unit}" for key, word, unit in units if key in row]
    return "  ".join(parts) or pretrained(row)


def pretrained(row: Mapping[str, Any]) -> str:
    """Format the error of a pre-training with the error of the trivial guess: `noise 0.041 Å (zero: 0.098 Å)`."""
    guesses = [key.partition("_rmse_of_") for key in row if "_rmse_of_" in key]
    return "  ".join(
        f"{term} {row[f'{term}_rmse']:.4g} Å ({guess}: {row[f'{term}_rmse_of_{guess}']:.4g} Å)"
        for term, _, guess in guesses
    )


def introduction(run: Run, facts: Mapping[str, Any]) -> list[str]:
    """Lines that introduce a run: architecture, data and device."""
    n, data = facts["parameters"], facts["dataset"]
    architecture = facts["architecture"]
    lines = [
        f"{architecture['name']}: {n['total']:,} parameters ({n['non_embedding']:,} without embeddings, the N of laws)",
        f"Data {data['path']}: {data['train']:,} structures to train on, {data['validation']:,} to validate",
    ]
    if "pretrain" in facts:
        lines.append(f"  pre-training: {facts['pretrain']}, without labels")
    for label, part in ({} if "pretrain" in facts else data["labels"]).items():
        keys = f"  from {', '.join(part['keys'])}" if part["keys"] else ""
        lines.append(f"  {label:7} on {part['train']:,} and {part['validation']:,} of them{keys}")
    if data["labels_by"] and "pretrain" not in facts:
        lines.append(f"  labels by {data['labels_by']}")
    processes = f", {facts['world_size']} processes" if facts["world_size"] > 1 else ""
    batch = ", ".join(f"{v:,} {k}" for k, v in facts["global_batch"].items())
    lines.append(f"On {facts['device']}, {facts['precision']}{processes}; a step takes up to {batch}")
    if facts["resumed_from"] is not None:
        lines.append(f"Resumed from step {facts['resumed_from']:,}")
    return [*lines, f"Run {run.path}"]


def summary(sweep: Sweep, clock: Clock) -> str:
    """Format the counts of a sweep: `12 of 120 done, 2 running, 106 waiting; about 1 h 10 min of device time left`."""
    counts = sweep.counts()
    waiting = sum(counts.get(status, 0) for status in ("planned", "stopped", "crashed"))
    parts = [f"{counts.get('completed', 0)} of {len(sweep.runs)} done"]
    parts += [f"{counts[status]} {status}" for status in ("running", "queued") if counts.get(status)]
    parts += [f"{waiting} waiting"] if waiting else []
    parts += [f"{counts[status]} {status}" for status in ("failed", "blocked") if counts.get(status)]
    left = clock.left(sweep)
    return ", ".join(parts) + ("" if left is None else f"; about {duration(left)} of device time left")


def loss_of(run: PlannedRun) -> str:
    """Text with the loss of the run's best validation; empty before the first validation."""
    from matscale.core.runs.status import read_info  # start-up: torch

    loss = ((read_info(run.path) or {}).get("best") or {}).get("loss")
    return "" if loss is None else f"  loss {loss:.4g}"
