"""The tables of docs/study.md, fitted again from the runs that are kept in studies/.

    python benchmarks/study.py            # writes docs/study.json, and its tables into docs/study.md
    python benchmarks/study.py --check    # writes nothing; code 1 if a number or a table differs

It needs neither weights nor data: a run is config.toml, run.json and metrics.jsonl, and one run of a study holds the
errors of the baselines (docs/sweeps.md). What is committed later is in the tables the next time.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import tomllib
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from matscale.core.errors import DataError, MatscaleError
from matscale.core.scaling.fit import Options, fit_all
from matscale.core.scaling.tables.baselines import with_baselines
from matscale.core.scaling.tables.from_runs import ERRORS, find_runs, read_runs
from matscale.core.study.identity import TRUNKS
from matscale.core.study.ledger import row

ROOT = Path(__file__).resolve().parents[1]
NUMBERS, PAGE = ROOT / "docs" / "study.json", ROOT / "docs" / "study.md"
BELOW, SETTLED = 0.5, 0.1
"""Rule of docs/study-plan.md for a run that counts: its loss ends below BELOW times that of the best baseline, and the
last quarter of its steps lowered it by less than SETTLED."""


ENDS = ("train", "validation")
FORMULAS = "nbmotaw-formulas"
"""Runs whose validation part was drawn by formulas, before the plan was changed."""


def axis_of(study: str) -> str:
    """Variable of the laws of a study, with which its name ends: `nbmotaw-n`, `nbmotaw-d`; `nd` for joint laws."""
    return study.rpartition("-")[2]


def studies(root: Path) -> list[Path]:
    """Studies with finished runs whose name ends with the variable of their laws."""
    folders = (root / "studies").iterdir()
    return sorted(folder for folder in folders if axis_of(folder.name) in ("n", "d", "nd") and find_runs(folder))


def numbers(root: Path) -> dict[str, Any]:
    """Study -> its fits, losses and runs; and the laws of learning rates."""
    found: dict[str, Any] = {folder.name: _study(folder) for folder in studies(root)}
    return {"studies": found, "rates": _rates(root / "studies"), "formulas": _ends(root / "studies" / FORMULAS)}


def _study(folder: Path) -> dict[str, Any]:
    axis, folders = axis_of(folder.name), find_runs(folder)
    laws, refused = [], []
    for target in ERRORS:
        table, why = with_baselines(read_runs(folders, {"loss": ERRORS[target]}))
        if why:
            raise MatscaleError(f"{folder}: {why}. Run `matscale fit {folder}` once where the data are.")
        told: list[str] = []
        with suppress(DataError):  # of every architecture, which are all among the refused then
            laws += [_law(fit.plain()) for fit in fit_all(table, axis, Options(target=target), told)]
        refused += [f"{target}: {sentence}" for sentence in told]
    best = min(errors["loss"] for errors in with_baselines(read_runs(folders, {}))[0].baselines.values())
    results = [one for one in folders if one.parent.name != TRUNKS]
    done = [one for one in map(row, results) if one["status"] == "completed"]
    return {
        "runs": len(done),
        "baseline": best,
        "laws": laws,
        "refused": refused,
        "losses": _losses(done, axis),
        "counts": _counting(results, best),
        "flops": sum(
            one["flops"] - (one["flops_shared"] or 0) for one in map(row, folders) if one["status"] == "completed"
        ),
    }


def _law(fit: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("architecture", "target", "law", "verdict", "n_sizes", "n_seeds", "n_runs", "parameters", "intervals")
    law = {key: fit[key] for key in kept} | {"range": fit["range"], "reasons": fit["reasons"], "fixed": fit["fixed"]}
    return law | {"held_out": [one["relative_error"] for one in fit["held_out"]]}


def _losses(rows: list[dict[str, Any]], axis: str) -> list[dict[str, Any]]:
    """Last loss per architecture and place in the grid (size, amount of data, or both), one a seed."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for one in rows:
        places = {"n": one["non_embedding"], "d": one["structures"] if axis == "nd" else one["train"]}
        groups[one["architecture"], *(places[name] for name in axis)].append(one)
    return [
        {
            "architecture": name,
            **dict(zip(axis, place)),
            "parameters": same[0]["parameters"],
            "lr": same[0]["lr"],
            "losses": [one["last_loss"] for one in sorted(same, key=lambda one: one["seed"])],
        }
        for (name, *place), same in sorted(groups.items())
    ]


def _counting(folders: list[Path], baseline: float) -> dict[str, dict[str, int]]:
    """Architecture -> finished runs, those that end below half of the baseline, and those that have settled.

    A run without an earlier validation does not show whether it has settled, and does not count as such.
    """
    found: dict[str, dict[str, int]] = defaultdict(lambda: {"runs": 0, "below": 0, "settled": 0})
    for folder in folders:
        one = row(folder)
        if one["status"] != "completed":
            continue
        curve = {r["step"]: r["loss"] for r in _validations(folder)}
        last = max(curve)
        before = [step for step in curve if step <= 0.75 * last]
        counts = found[one["architecture"]]
        counts["runs"] += 1
        counts["below"] += curve[last] < BELOW * baseline
        counts["settled"] += bool(before) and curve[last] > (1 - SETTLED) * curve[max(before)]
    return dict(found)


def _validations(folder: Path) -> Iterator[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return (r for r in map(json.loads, lines) if r["split"] == "validation" and r["loss"] is not None)


def _ends(folder: Path) -> list[dict[str, Any]]:
    """Training loss of the last log point of each run (a mean since the one before), and its last validation."""
    found = []
    for run in find_runs(folder):
        one, rows = row(run), [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
        train = [r["loss"] for r in rows if r["split"] == "train"]
        kept = {key: one[key] for key in ("architecture", "parameters", "lr")}
        found.append(kept | {"train": train[-1], "validation": one["last_loss"]})
    return sorted(found, key=lambda one: (one["architecture"], one["parameters"], one["lr"]))


def _rates(folder: Path) -> dict[str, Any]:
    """File and architecture -> law of its learning rate."""
    found = {}
    for path in sorted(folder.glob("*-lr-*.toml")):
        for name, law in tomllib.loads(path.read_text(encoding="utf-8")).items():
            found[f"{path.name.partition('-lr-')[0]}: {name}"] = law
    return found


# Tables --------------------------------------------------------------------------------------------------------------


def tables(found: Mapping[str, Any]) -> dict[str, str]:
    """Name of a table -> its lines."""
    made = {"rates": _rates_table(found["rates"])}
    made["formulas"] = _table(
        ["architecture", "parameters", "learning rate", "training loss", "validation loss"],
        [
            [one["architecture"], f"{one['parameters']:,}", f"{one['lr']:.3g}", *(f"{one[k]:#.4g}" for k in ENDS)]
            for one in found["formulas"]
        ],
    )
    for name, study in found["studies"].items():
        axis = axis_of(name)
        exponents = ("alpha", "beta")[: len(axis)]
        heading = ["architecture", "error", "verdict", *(f"{exponent} (95 %)" for exponent in exponents), *axis]
        made[f"laws {name}"] = _table(
            [*heading, "sizes", "runs"],
            [
                [
                    law["architecture"],
                    law["target"],
                    law["verdict"],
                    *(_exponent(law, exponent) for exponent in exponents),
                    *("{:,.0f} to {:,.0f}".format(*law["range"][variable]) for variable in axis),
                    str(law["n_sizes"]),
                    str(law["n_runs"]),
                ]
                for law in study["laws"]
            ]
            or [["none can be fitted yet", *[""] * (len(heading) + 1)]],
        )
        made[f"losses {name}"] = _table(
            ["architecture", "parameters", *axis, "learning rate", "loss of each seed"],
            [
                [
                    one["architecture"],
                    f"{one['parameters']:,}",
                    *(f"{one[variable]:,}" for variable in axis),
                    f"{one['lr']:.3g}",
                    ", ".join("not finite" if not math.isfinite(x) else f"{x:#.4g}" for x in one["losses"]),
                ]
                for one in study["losses"]
            ],
        )
        made[f"counts {name}"] = _table(
            ["architecture", "finished runs", f"end below half of the best baseline ({study['baseline']:.3g})",
             "last quarter lowers the loss by less than a tenth"],
            [[a, str(c["runs"]), str(c["below"]), str(c["settled"])] for a, c in study["counts"].items()],
        )  # fmt: skip
    return made


def _exponent(law: Mapping[str, Any], name: str) -> str:
    values = (law["parameters"][name], *law["intervals"][name])
    alpha, low, high = ("∞" if x is None else f"{x:.3f}".replace("-0.000", "0.000") for x in values)
    return f"{'undetermined' if values[0] is None else alpha} ({low} to {high})"


def _rates_table(rates: Mapping[str, Any]) -> str:
    rows = []
    for name, law in rates.items():
        interval = law.get("interval")
        shown = "-" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
        tried = "; ".join(f"{one['total']:,}: {one['lr']:.3g}" for one in law["tried"])
        rise = [f"{100 * (one[key] - 1):.0f} %" for one in law["tried"] for key in ("loss_at_half", "loss_at_double")
                if key in one]  # fmt: skip
        rows.append([name, f"{law['a']:.3g} N^{law['b']:.2f}", shown, tried, ", ".join(rise)])
    return _table(
        ["data: architecture", "LR(N)", "exponent, 95 %", "best rate of each size", "loss at half and twice it"], rows
    )


def _table(heading: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heading, ["---"] * len(heading), *rows])


def filled(page: str, made: Mapping[str, str]) -> str:
    """The page with each table between its marks, and a sentence where there is no finished run for it yet."""

    def between(mark: re.Match[str]) -> str:
        return f"{mark[1]}{made.get(mark[2], 'No finished run is kept yet.')}\n{mark[3]}"

    return re.sub(r"(<!-- table: (.+?) -->\n).*?(<!-- /table -->)", between, page, flags=re.S)


def unshown(page: str, made: Mapping[str, str]) -> list[str]:
    """Tables without marks in the page."""
    return [name for name in made if f"<!-- table: {name} -->" not in page]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Write nothing; code 1 if anything differs.")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = numbers(ROOT)
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    page = PAGE.read_text(encoding="utf-8")
    now = filled(page, tables(found))
    for name in (missing := unshown(page, tables(found))):
        print(f"{PAGE.name} has no marks for the table {name!r}.", file=sys.stderr)
    if options.check:
        return int(bool(missing) or now != page or text != NUMBERS.read_text(encoding="utf-8"))
    NUMBERS.write_text(text, encoding="utf-8")
    PAGE.write_text(now, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
