"""Make a table for laws from run folders; all numbers come from run.json and metrics.jsonl.

| column | default | may be mapped to |
|---|---|---|
| n | `non_embedding` | `total`, `trainable` |
| d | `unique` structures of the training part, or those seen if fewer | `structures`, `atoms`, `edges` seen |
| c | `flops` of training | `gpu_hours` (wall time × processes) |
| loss | the compared `loss`, last validation | `energy_mae`, `forces_mae`, `stress_mae`, any key of such a row |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matscale.core.config import read_toml
from matscale.core.errors import ConfigError, DataError, MatscaleError, did_you_mean
from matscale.core.runs.files import CONFIG, INFO, METRICS, Rows, called
from matscale.core.runs.info import changed_config, changed_rows, read_info
from matscale.core.scaling.tables.seen import as_seen
from matscale.core.scaling.tables.table import Excluded, Table

COLUMNS = {"n": "non_embedding", "d": "unique", "c": "flops", "loss": "loss", "u": "unique", "s": "structures"}
PARAMETERS = ("total", "trainable", "embedding", "non_embedding")
SEEN = ("structures", "atoms", "edges", "flops", "gpu_hours")
ERRORS = {"loss": "loss", "energy": "energy_mae", "forces": "forces_mae", "stress": "stress_mae"}
"""Key of a validation row for each value of `--target`."""
NEEDED = frozenset({*SEEN, *ERRORS.values(), "step", "split", "wall_s"})
"""Keys of a validation row that a table needs, unless columns are mapped."""


def find_runs(path: Path) -> list[Path]:
    """Find all run folders at or below `path`, sorted by path."""
    if (path / INFO).exists():
        return [path]
    return sorted(info.parent for info in path.rglob(INFO) if not info.parent.name.startswith("."))


@dataclass(frozen=True)
class Known:
    """Records of a run that were read before, so that thousands of files are read only once."""

    info: Mapping[str, Any]
    config: Mapping[str, Any]
    validations: Sequence[Mapping[str, Any]]
    """Rows of metrics.jsonl, each with at least the keys `NEEDED`"""


def read_runs(
    folders: Sequence[Path],
    columns: Mapping[str, str],
    curves: bool = False,
    known: Mapping[Path, Known] | None = None,
) -> Table:
    """Read run folders into a table: one row per run or, with `curves`, one row per validation.

    Runs are excluded, with the reason, if they failed, stopped or still run; if they were imported, are pre-training or
    overfit checks, or lack the error asked for; and if their files are damaged or were changed. Raises DataError if the
    losses of two runs are different quantities, since they differ in dataset, validation part (share, seed, rule of the
    split), labels, or weights in training.
    """
    names = {**COLUMNS, **columns}
    rows, excluded, facts = [], [], []
    for folder in folders:
        held = (known or {}).get(folder)
        try:
            info = held.info if held else read_info(folder)
            config = held.config if held else config_of(folder, info)
            altered = changed_rows(folder, info) if curves else ""
        except (MatscaleError, OSError) as error:
            excluded.append(Excluded(str(folder), f"cannot be used: {error}"))
            continue
        if reason := _unfit(info) or _unfit_config(config) or altered:
            excluded.append(Excluded(str(folder), reason))
            continue
        validations = () if not curves else held.validations if held else validations_of(folder)
        fact = {"folder": str(folder), "info": info, "config": config}
        try:
            found = list(_rows(folder, info, names, validations, curves))
            _definition(fact)
            _facts([fact])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
            told = f"cannot be used: its records are incomplete or damaged ({type(error).__name__}: {error})"
            excluded.append(Excluded(str(folder), told))
            continue
        rows += found
        facts.append(fact)
    _refuse_mixture(facts)
    for row in rows:
        row["loss"] = float("nan") if row["loss"] == "diverged" else row["loss"]
    table = Table.of(rows, names=names, facts=_facts(facts)) if rows else _nothing(folders, excluded)
    table = table.with_known_compute()
    return as_seen(replace(table, excluded=(*excluded, *table.excluded)))


def _nothing(folders: Sequence[Path], excluded: Sequence[Excluded]) -> Table:
    listed = "; ".join(f"{e.row}: {e.reason}" for e in excluded[:5])
    raise DataError(f"None of the {len(folders)} runs can be fitted. {listed}. `matscale train` makes a run.")


def config_of(folder: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    """Read config.toml of a run. Raises ConfigError if the file was changed after the training."""
    config = read_toml(folder / CONFIG)
    if reason := changed_config(folder, info, config):
        raise ConfigError(reason)
    return config


def _unfit_config(config: Mapping[str, Any]) -> str:
    if not all(isinstance(config.get(key, {}), dict) for key in ("data", "loss", "optimizer", "schedule")):
        return "cannot be used: a section of its config.toml is not a table"
    if config.get("data", {}).get("overfit"):
        return "is an overfit check: it is validated on its training structures"
    return ""


def unfit_role(role: object, task: str = "") -> str:
    """Reason why a law cannot use a run that has this role in a study; empty if the law can use it."""
    if role == "trunk":
        return "is the trunk of cooldowns: its learning rate is constant; use its branches"
    if role == "pretrain":
        return f"is pre-training{task}: its loss is another quantity; use the runs that begin with it"
    return ""


def not_complete(status: object) -> str:
    """Reason why a law cannot use a run with this status; empty if the law can use it."""
    return "" if status == "completed" else f"is not complete (status: {status})"


def _unfit(info: Mapping[str, Any]) -> str:
    """Reason why a law cannot use a run, from its run.json; empty if the law can use it."""
    status, role = info.get("status"), (info.get("labels") or {}).get("role")
    if reason := unfit_role(role) or ("pretrain" in info and unfit_role("pretrain", f" ({info['pretrain']})")):
        return reason
    if "imported" in info:
        return "was not trained here (imported)"
    if status == "failed" and "NonFinite" in str(info.get("error")):
        return f"diverged: {info['error']}"
    return not_complete(status) or ("" if info.get("last") else "was never validated")


def validations_of(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the validation rows of metrics.jsonl; other rows, which are often far more, are not parsed."""
    return (row for row in Rows(folder / METRICS, holding='"validation"') if row.get("split") == "validation")


def _rows(
    folder: Path,
    info: Mapping[str, Any],
    names: Mapping[str, str],
    validations: Iterable[Mapping[str, Any]],
    curves: bool,
) -> Iterator[dict[str, Any]]:
    parameters = {k: float(v) for k, v in info["parameters"].items()}
    if curves:
        validations = (row for row in validations if row.get("structures", 0) > 0)
    else:
        # The best model costs as much as the whole run, since its schedule depends on the full length.
        best, last = info.get("best") or info["last"], info["last"]
        validations = (last,) if best["step"] == last["step"] else (best, last)
    before = (info.get("start") or {}).get("flops", 0.0)
    for row in validations:
        cost = row if curves else {**row, **{k: info[k] for k in ("structures", "atoms", "edges", "flops", "wall_s")}}
        known = {
            **parameters,
            **{k: float(cost[k]) for k in SEEN if k in cost},
            "unique": float(info["dataset"]["train"]),
            "gpu_hours": float(cost["wall_s"]) * int(info.get("world_size", 1)) / 3600.0,
        }
        if before is None:
            known["flops"] = 0.0  # not known: the run began with an imported model
        elif "flops" in known:
            known["flops"] += before
        errors = {k: v for k, v in row.items() if k not in known and k not in ("epoch", "time", "split")}
        found = {ours: _value(folder, ours, theirs, known, errors) for ours, theirs in names.items()}
        extra = {key: _finite(row[key]) for key in ERRORS.values() if row.get(key) is not None}
        yield {
            **extra,
            **{k: v for k, v in found.items() if v is not None},
            "loss": found["loss"],
            "arch": called(info["architecture"]["name"], (info.get("labels") or {}).get("variant")),
            "seed": info["seed"],
            "run": str(folder),
            "step": float(row["step"]),
            "source": str(folder) if not curves else f"{folder} step {row['step']}",
        }


def _finite(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _value(folder: Path, ours: str, theirs: str, known: Mapping[str, float], errors: Mapping[str, Any]) -> Any:
    if ours != "loss":
        if theirs not in known:
            raise ConfigError(
                f"--map {ours}={theirs}: records of runs have no such number. {did_you_mean(theirs, known)}"
            )
        return known[theirs] or None
    if theirs in errors:
        return "diverged" if errors[theirs] is None else float(errors[theirs])
    if theirs in ERRORS.values():
        return None
    raise ConfigError(f"{folder}: the run has no error named {theirs!r}. {did_you_mean(theirs, errors)}")


def _definition(run: Mapping[str, Any]) -> dict[str, str]:
    """All that defines a validation loss, apart from the model: structures, labels and weights, by name."""
    data, info = run["config"].get("data", {}), run["info"]
    drawn_by = data.get("validation_seed")
    return {
        "dataset": str(info["dataset"]["hash"])[:12],
        "validation share": str(data.get("validation", 0.1)),
        "seed of the validation part": str(info["seed"] if drawn_by is None else drawn_by),
        "rule of the split": str(data.get("split_by", "group")),
        "training loss": json.dumps(run["config"].get("loss", {}), sort_keys=True),
        "labels": str(info["dataset"].get("labels_by")),
    }


def _refuse_mixture(runs: Sequence[Mapping[str, Any]]) -> None:
    """Raises DataError if the losses of two runs are different quantities, with the differences."""
    if not runs:
        return
    kinds: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        kinds.setdefault(tuple(_definition(run).values()), []).append(run)
    if len(kinds) == 1:
        return
    (a, first), (b, second) = list(kinds.items())[:2]
    names = list(_definition(runs[0]))
    told = "; ".join(f"the {name} is {x} in one and {y} in the other" for name, x, y in zip(names, a, b) if x != y)
    counts = " and ".join(str(len(same)) for same in kinds.values())
    seeds = " With data.validation_seed set, runs of other seeds share it." if "seed of the" in told else ""
    raise DataError(
        f"{first[0]['folder']} and {second[0]['folder']}: their losses are not the same quantity: {told}. "
        f"Of {len(runs)} runs, {counts} belong together; fit each such set separately, by naming its folders.{seeds}"
    )


def _facts(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Facts for the checklist, from the configurations of runs; most are lists of distinct values."""

    def values(pick: Any) -> list[Any]:
        return sorted({json.dumps(pick(run), sort_keys=True) for run in runs})

    return {
        "folders": [run["folder"] for run in runs],
        "schedule": values(lambda run: run["config"].get("schedule", {}).get("kind")),
        "learning rates": values(lambda run: run["config"].get("optimizer", {}).get("lr")),
        "global batch": values(lambda run: run["info"].get("global_batch")),
        "epochs": [float(run["info"]["structures"]) / float(run["info"]["dataset"]["train"]) for run in runs],
        "devices": values(lambda run: run["info"].get("device")),
        "dataset": values(lambda run: run["info"]["dataset"].get("path")),
        "training structures": max((_of_dataset(run["info"]["dataset"]) for run in runs), default=0),
        "labels by": values(lambda run: run["info"]["dataset"].get("labels_by")),
        "flops counted by": values(lambda run: run["info"].get("flops_counted_by")),
        "speeds": [_speed(run["folder"], run["info"]) for run in runs if run["info"].get("device")],
    }


def _of_dataset(dataset: Mapping[str, Any]) -> int:
    """Number of structures of the run's dataset that are not for validation, and so could be for training."""
    train = int(dataset["train"])
    if "structures" not in dataset or "validation" not in dataset:
        return train
    return max(train, int(dataset["structures"]) - int(dataset["validation"]))


def _speed(folder: str, info: Mapping[str, Any]) -> dict[str, Any]:
    """Training speed of a run in FLOP/s per device, averaged over the whole run."""
    return {
        "run": folder,
        "n": float(info["parameters"]["non_embedding"]),
        "device": info["device"],
        "precision": info.get("precision"),
        "flops_per_s": info["flops"] / max(float(info["wall_s"]), 1e-9) / int(info.get("world_size", 1)),
    }
