"""Laws of a public leaderboard: Matbench-Discovery's models by parameters and by device-hours of training.

    git clone --depth 1 https://github.com/janosh/matbench-discovery
    python benchmarks/leaderboard.py matbench-discovery             its model files (takes pyyaml)
    python benchmarks/leaderboard.py models.csv                     or a table made of them

Writes leaderboard.csv (`-o`), a row per model, and prints the laws that docs/leaderboard.md shows, each below its
command. A table has the columns model, params, training_sets, mae_ev_per_atom and hardware_count_hours
(`NVIDIA H100x32x177.3h; ...`: device, how many, hours of each).
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matscale.cli import main as matscale
from matscale.core.errors import DataError, MatscaleError

COLUMNS = ("model", "params", "training_sets", "device_hours", "mae")
LAWS = (
    "--pool --law n",
    "--map arch=training_sets --law mixed --axis n",
    "--pool --law power --axis c --map c=device_hours --where device_hours=*",
    "--map arch=training_sets,c=device_hours --law mixed --axis c --where device_hours=*",
    "--pool --law power --axis c --map c=device_hours --where device_hours=*,training_sets=MPtrj",
)
_HOURS = re.compile(r".*?x\s*(\d+)\s*x\s*([\d.]+)\s*h")


def read(source: Path) -> list[dict[str, Any]]:
    """Models with an error: from the folder of a checkout, or from a table."""
    if source.is_dir():
        files = sorted(source.glob("models/*/*.yml"))
        found = [row for file in files if (row := of_file(file))]
    else:
        with source.open(newline="", encoding="utf-8") as file:
            found = [of_row(row) for row in csv.DictReader(file)]
    found = [row for row in found if is_positive(row["mae"]) and is_positive(row["params"])]
    if not found:
        raise DataError(f"{source}: no model there has parameters and an error. Give a checkout of matbench-discovery.")
    return found


def of_row(row: Mapping[str, str]) -> dict[str, Any]:
    parts = [_HOURS.fullmatch(part.strip()) for part in row["hardware_count_hours"].split(";")]
    hours = sum(int(part[1]) * float(part[2]) for part in parts if part) if all(parts) else None
    values = (row["model"], float(row["params"] or 0), row["training_sets"], hours, float(row["mae_ev_per_atom"] or 0))
    return dict(zip(COLUMNS, values))


def of_file(file: Path) -> dict[str, Any] | None:
    """One model file; None for a file that has no test on unique prototypes."""
    try:
        import yaml
    except ImportError:
        raise MatscaleError("Model files are YAML: pip install pyyaml.") from None
    model = yaml.safe_load(file.read_text(encoding="utf-8"))
    metrics = model.get("metrics") or {}
    discovery = metrics.get("discovery")
    tested = discovery.get("unique_prototypes") if isinstance(discovery, Mapping) else None
    if not isinstance(tested, Mapping):
        return None
    sets = model.get("training_sets", model.get("training_set")) or []
    names = [sets] if isinstance(sets, str) else list(sets) if isinstance(sets, list) else [sets.get("title", "")]
    trained = "+".join(sorted(map(str, names)))
    return dict(zip(COLUMNS, (model["model_name"], model.get("model_params"), trained, hours_of(model), tested["MAE"])))


def hours_of(model: Mapping[str, Any]) -> float | None:
    """Device-hours of training, as the file states them in either of its dialects; None if it does not."""
    cost = model.get("training_cost")
    if not isinstance(cost, Mapping):
        return None
    entries = cost.get("entries", list(cost.values()))
    both = [one for one in entries if isinstance(one, Mapping)]
    pairs = [(one.get("count", one.get("amount")), one.get("hours_per_device", one.get("hours"))) for one in both]
    known = bool(pairs) and all(is_positive(value) for pair in pairs for value in pair)
    return float(sum(count * hours for count, hours in pairs)) if known else None


def is_positive(value: object) -> bool:
    return isinstance(value, int | float) and value > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("leaderboard.csv"))
    arguments = parser.parse_args()
    models = read(arguments.source)
    with arguments.output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(models)
    print(f"{arguments.output}: {len(models)} models, {sum(bool(row['device_hours']) for row in models)} with a cost")
    for law in LAWS:
        words = ["fit", str(arguments.output), "--target", "mae", "--no-baselines", *law.split()]
        print(f"\n$ matscale {' '.join(words)}", flush=True)
        matscale(words, standalone_mode=False)


if __name__ == "__main__":
    main()
