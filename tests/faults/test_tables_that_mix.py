"""Tables whose sizes differ in more than their size, and logs whose columns have unusual names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import matscale
from matscale.cli import main
from matscale.core.errors import DataError
from matscale.core.scaling.allocation.next_batch import side_of
from matscale.core.scaling.comparison.compare import compare
from matscale.core.scaling.fit import Options, fit_all
from matscale.core.scaling.law import Law
from matscale.core.scaling.means import slice_of
from matscale.core.scaling.tables.sources import read

Rows = list[dict[str, Any]]
SIZES = [10_000 * 3**k for k in range(8)]


def noisy(k: int) -> float:
    return 1 + 0.002 * (-1) ** k * (1 + k % 3)


def table(alpha: float = 0.3, **columns: Any) -> Rows:
    """One row per size; `columns` are functions of the number of the size."""
    return [
        {"n": n, **{name: of(k) for name, of in columns.items()}, "loss": 50 * n**-alpha * noisy(k)}
        for k, n in enumerate(SIZES)
    ]


def log(steps: int = 10, **columns: Any) -> Rows:
    """Rows of training logs; `columns` are functions of (number of the size, step, number of the row)."""
    rows: Rows = []
    for k, n in enumerate(SIZES):
        final = 50 * n**-0.3 * noisy(k)
        for step in range(1, steps + 1):
            own = {name: of(k, step, len(rows)) for name, of in columns.items()}
            rows.append({**own, "n": n, "loss": final * (1 + 3 * float(np.exp(-3 * step / steps)))})
    return rows


def half(k: int) -> bool:
    return k < len(SIZES) // 2


# Columns that change with the size ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["experts", "num_experts", "e", "unique"])
def test_a_variable_that_changes_with_the_size_is_no_law_of_the_size(name: str) -> None:
    rows = [{**row, name: 2**k, "loss": row["loss"] * (2**k) ** -0.15} for k, row in enumerate(table())]
    with pytest.raises(DataError, match=rf"{name} \(., .*\) changes with n: of 8 values of n, at most 1 has one value"):
        matscale.fit(rows, "power", axis="n")


def test_a_variable_with_several_values_is_held_at_that_with_most_sizes() -> None:
    rows = [{**row, "experts": e, "loss": row["loss"] * e**-0.15} for e in (1, 8) for row in table()]
    rows += [{**row, "experts": 64, "loss": row["loss"] * 64**-0.15} for row in table()[:5]]
    fit = matscale.fit(rows, "n")
    assert fit.fixed == "e = 8"
    assert fit.parameters["alpha"] == pytest.approx(0.3, abs=0.005)
    assert {one.reason for one in fit.table.excluded} == {"its e differs: the law in n is fitted at e = 8"}


def test_architectures_are_compared_at_one_value_each_of_a_further_variable() -> None:
    rows = [{"arch": a, **row, "d": 1000, "experts": e} for a in "AB" for e in (1, 8) for row in table()]
    result = compare(read(rows), [], [matscale_power()], axis="n")
    assert result.fixed == "e = 8"
    assert all(len(fit.table) == 8 for fit in result.fits.values())


def matscale_power() -> Law:
    from matscale.core.hosting.host import host

    return host().law("power")


def test_a_joint_law_names_a_variable_that_it_does_not_hold() -> None:
    rows = [
        {"n": n, "d": d, "num_experts": 1 + (i + j) % 3, "loss": 0.5 + 40 * n**-0.3 + 90 * d**-0.4}
        for i, n in enumerate(SIZES)
        for j, d in enumerate((1000, 5000, 20000, 90000))
    ]
    fit = matscale.fit(rows, "nd", samples=50)
    assert any(note.startswith("num_experts (e, experts) varies and is not held") for note in fit.notes)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *(("dataset", ("MPtrj", "OMat24")), ("functional", ("PBE", "r2SCAN")), ("loss_type", ("l1", "l2"))),
        *(("optimizer", ("adam", "muon")), ("network", ("a", "b")), ("modelType", ("x", "y")), ("ema", (True, False))),
    ],
)
def test_text_that_changes_with_the_size_is_refused_with_what_to_say(name: str, values: tuple[Any, Any]) -> None:
    rows = table(**{name: lambda k: values[not half(k)]})
    with pytest.raises(
        DataError, match=rf"{name} changes with n: it is {values[0]} for n = 10,000 to 270,000.*--where"
    ):
        matscale.fit(rows, "power")
    assert len(matscale.fit(rows, "power", where={name: str(values[0])}).table) == 4
    apart = fit_all(read(rows, {"arch": name}), "power", Options())
    assert [len(fit.table) for fit in apart] == [4, 4]


def test_one_size_with_another_text_is_refused_and_text_that_every_size_has_is_not() -> None:
    with pytest.raises(DataError, match="optimizer changes with n"):
        matscale.fit(table(optimizer=lambda k: "adam" if k < 7 else "sgd"), "power")
    both = [{**row, "optimizer": o, "loss": row["loss"] * f} for row in table() for o, f in (("a", 1.0), ("b", 1.01))]
    assert matscale.fit(both, "power").parameters["alpha"] == pytest.approx(0.3, abs=0.005)


@pytest.mark.parametrize(
    ("name", "of"),
    [
        *(("size_label", lambda k: f"{k}-layers"), ("preset", lambda k: "abcdefgh"[k])),
        *(("notes", lambda k: "rerun" if k == 3 else ""), ("gpu", lambda k: "A100" if half(k) else "H100")),
        *(("lr", lambda k: 0.01 / (k + 1)), ("batch", lambda k: 2 ** (k // 2)), ("depth", lambda k: 4 + k // 2)),
        *(("dataset", lambda k: "MPtrj"), ("created", lambda k: f"2026-01-0{1 + k // 2}"), ("time", lambda k: f"{k}h")),
    ],
)
def test_labels_of_sizes_and_numbers_that_grow_with_them_are_accepted(name: str, of: Any) -> None:
    assert matscale.fit(table(**{name: of}), "power").parameters["alpha"] == pytest.approx(0.3, abs=0.005)


def test_architectures_on_other_data_are_not_compared_and_other_differences_are_said(tmp_path: Path) -> None:
    def rows(name: str, a: str, b: str) -> Rows:
        return [{"arch": arch, name: v, **row} for arch, v in (("A", a), ("B", b)) for row in table()]

    with pytest.raises(DataError, match=r"dataset differs between the architectures \(A: MPtrj; B: OMat24\)"):
        compare(read(rows("dataset", "MPtrj", "OMat24")), [], [matscale_power()])
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows("optimizer", "adam", "muon"))))
    result = CliRunner().invoke(main, ["compare", str(path)])
    assert result.exit_code == 0
    assert "note: optimizer differs between the architectures (A: adam; B: muon)" in result.stdout
    changing = [{**row, "dataset": "MPtrj" if row["n"] < 300_000 else "OMat24"} for row in rows("x", "", "")]
    with pytest.raises(DataError, match="dataset changes with n"):
        compare(read(changing), [], [matscale_power()])


def test_next_runs_are_not_chosen_by_runs_that_mix_data() -> None:
    rows = [
        {**row, "d": d, "c": row["n"] * d, "dataset": "ab"[d > 5000]} for row in table() for d in (1000, 3000, 9000)
    ]
    rows = [{**row, "dataset": "c"} if row["n"] > 300_000 else row for row in rows]
    with pytest.raises(DataError, match="dataset changes with n"):
        side_of(read(rows))


# Logs ---------------------------------------------------------------------------------------------------------------

NAMES = [
    *("config", "series", "label", "uuid", "run_uuid", "hash", "sweep", "group", "wandb_id", "task_id", "model_id"),
    *("Trial number", "folder", "directory", "log", "file"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [3, 10])
def test_a_log_whose_runs_have_an_unusual_name_is_refused(name: str, steps: int) -> None:
    rows = log(steps, **{name: lambda k, s, r: f"x{k}y" if "number" not in name else k})
    with pytest.raises(DataError, match="--map"):
        read(rows)
    found = read(rows, columns={"run": name})
    assert len(found.ends()) == len(SIZES)
    assert sorted(found.ends()["loss"]) == sorted(row["loss"] for row in rows[steps - 1 :: steps])
    assert any("the last row of each run in the file is used" in note for note in found.notes)


@pytest.mark.parametrize("name", ["runName", "run name", "Run_Name", "runId", "experimentName"])
def test_the_name_of_a_run_may_be_written_in_any_case(name: str) -> None:
    rows = log(**{name: lambda k, s, r: f"r{k}", "globalStep": lambda k, s, r: s})
    found = read(rows)
    assert (found.names["run"], found.names["step"]) == (name, "globalStep")
    assert len(found.ends()) == len(SIZES)


@pytest.mark.parametrize(
    "name", ["index", "eval_index", "row_index", "global_index", "ep", "Ep.", "pass", "eval", "anything"]
)
def test_whole_numbers_that_count_the_rows_of_each_size_are_steps_or_have_to_be_named(name: str) -> None:
    rows = log(4, **{name: lambda k, s, r: r if "row" in name or "global" in name else s})
    with pytest.raises(DataError, match=rf"{name} counts 4 rows of one size\. .*--map 'step={name}'"):
        read(rows)
    assert len(read(rows, columns={"step": name, "run": "n"}).ends()) == len(SIZES)
    assert len(read(rows, columns={"run": name}).ends()) == len(rows)


def test_bare_rows_whose_losses_fall_in_every_size_are_a_log() -> None:
    for rows in (log(12), log(12)[::-1]):
        with pytest.raises(DataError, match=r"12 rows of one size (fall|rise) along the file, as in a log\. .*run=n"):
            read(rows)
    two = [row for n in SIZES for row in [r for r in log(12) if r["n"] == n] * 2]
    for k, row in enumerate(two):
        two[k] = {**row, "loss": row["loss"] * (1 + 1e-4 * (k % 24 >= 12))}
    with pytest.raises(DataError, match="24 rows of one size fall"):
        read(two)
    assert len(read(log(12), columns={"run": "n"}).ends()) == len(SIZES)


@pytest.mark.parametrize("extra", ["", "index", "label", "replica", "fold"])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_seeds_in_no_order_stay_runs(extra: str, seeds: int) -> None:
    rng = np.random.default_rng(1)
    rows: Rows = []
    for k, row in enumerate(table()):
        for seed in range(seeds):
            of = {"index": len(rows), "label": f"s{k}", "replica": seed, "fold": seed}
            own = {extra: of[extra]} if extra else {}
            rows.append({**row, **own, "loss": row["loss"] * (1 + 0.01 * rng.normal())})
    assert len(read(rows).ends()) == len(rows)


def test_a_run_that_ends_long_before_the_others_is_named() -> None:
    rows = log(run=lambda k, s, r: f"r{k}", step=lambda k, s, r: 100 * s)
    rows = [row for row in rows if row["run"] != "r5" or row["step"] <= 500]
    assert any(
        note.startswith(("rows: run r5 at step 500 ends early", "run r5 at step 500")) for note in read(rows).notes
    )
    grid = log(run=lambda k, s, r: f"r{k}", step=lambda k, s, r: 100 * s * (k + 1))
    assert not any("early" in note for note in read(grid).notes)


def test_two_variables_that_vary_together_are_held_as_one() -> None:
    rows = [{**row, "d": d, "u": d} for d in (1000, 5000) for row in table()]
    assert slice_of(read(rows), "n")[1] == "d = 5,000"
