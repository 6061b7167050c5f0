"""Tables as other people write them: the right law, or a refusal that says why; never another number."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import matscale
from matscale.cli import main
from matscale.core.errors import ConfigError, DataError
from matscale.core.scaling.tables.baselines import read_baselines
from matscale.core.scaling.tables.sources import read

SIZES = [int(n) for n in np.round(10 ** np.linspace(6, 9, 7))]
LOSSES = [round(30 * n**-0.2 * f, 6) for n, f in zip(SIZES, (1.002, 0.998, 1.001, 1.0, 0.999, 1.002, 0.998))]
STEPS = list(range(100, 1100, 100))
Rows = list[dict[str, Any]]


def curve(final: float) -> list[float]:
    return [round(final * (1 + 3 * float(np.exp(-step / 150))), 6) for step in STEPS[:-1]] + [final]


def log(**ours: Callable[[int, int], Any]) -> Rows:
    """Ten steps of seven runs; `ours` are further columns, functions of (size, step)."""
    return [
        {**{name: of(n, step) for name, of in ours.items()}, "n": n, "val_loss": loss}
        for n, final in zip(SIZES, LOSSES)
        for step, loss in zip(STEPS, curve(final))
    ]


def written(path: Path, rows: Rows, by: str = ",") -> Path:
    lines = [by.join(rows[0]), *(by.join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def ends(source: Any, **options: Any) -> dict[float, float]:
    table = read(source, **options).ends()
    assert len(set(table["n"].tolist())) == len(table)
    return dict(zip(table["n"].tolist(), table["loss"].tolist()))


TRUTH = dict(zip(map(float, SIZES), LOSSES))

# Logs are no tables of runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step", ["step", "_step", "global_step", "Global Step", "iteration", "iter", "trainer/global_step", "epoch"]
)
@pytest.mark.parametrize("run", ["", "run", "run_id", "run_name", "name", "id", "Name", "ID", "experiment"])
def test_only_the_last_step_of_a_run_is_a_point(step: str, run: str) -> None:
    names = {run: lambda n, step: f"r{n}"} if run else {}
    rows = [{step: row.pop("at"), **row} for row in log(at=lambda n, step: step, **names)]
    table = read(rows)
    assert ends(rows) == TRUTH
    assert any("70 rows with a loss are 7 runs" in note for note in table.notes)


def test_a_log_gives_the_law_of_its_ends_in_every_command(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", log(name=lambda n, step: f"r{n}", _step=lambda n, step: step))
    fit = matscale.fit(path, "power")
    assert fit.parameters["alpha"] == pytest.approx(0.2, abs=0.002)
    assert len(fit.table) == 7
    result = CliRunner().invoke(main, ["fit", str(path), "--law", "power", "--json"])
    (plain,) = json.loads(result.stdout)
    assert plain["columns"] == {"n": "n", "loss": "val_loss", "run": "name", "step": "_step"}
    assert plain["n_runs"] == 7
    assert any("the last step of each counts" in sentence for sentence in plain["reading"])
    assert "run = name, step = _step" in result.stderr


def test_columns_that_are_constant_along_steps_tell_runs_apart() -> None:
    rows = [
        {**row, "lr": lr, "val_loss": row["val_loss"] * (1 if lr == 0.01 else 1.1), "grad_norm": k + lr}
        for k, row in enumerate(log(step=lambda n, step: step))
        for lr in (0.01, 0.1)
    ]
    table = read(rows).ends()
    assert len(table) == 14
    assert sorted(table["loss"][table["loss"] < 1.0001 * max(LOSSES)])[-1] == max(LOSSES)
    assert any("that share n, lr" in note for note in read(rows).notes)


def test_one_name_for_all_runs_is_no_run() -> None:
    rows = log(experiment=lambda n, step: "scaling", step=lambda n, step: step)
    assert ends(rows) == TRUTH
    assert any("several runs have the same experiment; they are told apart by n" in note for note in read(rows).notes)


def test_a_column_that_numbers_the_rows_is_no_run() -> None:
    rows = [{"id": k, **row} for k, row in enumerate(log(step=lambda n, step: step))]
    assert ends(rows) == TRUTH


@pytest.mark.parametrize("axis", ["tokens", "flops"])
def test_rows_that_may_be_steps_or_runs_are_refused_with_what_to_say(axis: str) -> None:
    rows = log(step=lambda n, step: step, **{axis: lambda n, step: step * 1e6})
    with pytest.raises(
        DataError,
        match=r"a log of 7 runs, or are its rows 70 separate runs\?.* all rows of one n are one run, say --map run=n",
    ):
        read(rows)
    assert ends(rows, columns={"run": "n"}) == TRUTH


def test_several_losses_at_one_step_without_a_run_are_refused() -> None:
    rows = log(step=lambda n, step: step)
    with pytest.raises(DataError, match="Some steps have several losses"):
        read([*rows, *({**row, "val_loss": 1.1 * row["val_loss"]} for row in rows)])


def test_a_curve_without_steps_is_refused() -> None:
    rows = log(run=lambda n, step: f"r{n}", tokens=lambda n, step: step * 1e6)
    with pytest.raises(DataError, match="If these rows are steps of the run, say --map step=tokens"):
        read(rows)
    assert ends(rows, columns={"step": "tokens"}) == TRUTH


@pytest.mark.parametrize("column", ["tokens_seen", "consumed_samples", "Relative Time (Wall)", "batch"])
def test_a_log_whose_progress_has_another_name_is_refused(column: str) -> None:
    rows = log(**{column: lambda n, step: 1000 * step})
    with pytest.raises(
        DataError, match=r"10 rows of one size\. Are they steps of one run, or separate runs\? .*--map step="
    ):
        read(rows)
    assert ends(rows, columns={"step": column}) == TRUTH
    assert len(read(rows, columns={"run": column}).ends()) == len(rows)


@pytest.mark.parametrize("column", ["gradient_step", "optimizer_step", "ckpt", "tokens_seen"])
@pytest.mark.parametrize("order", ["newest first", "shuffled", "resumed", "one cell is no number"])
def test_a_log_in_any_order_is_refused(column: str, order: str) -> None:
    rows = log(**{column: lambda n, step: step})
    if order == "newest first":
        rows = rows[::-1]
    elif order == "shuffled":
        rows = [rows[k] for k in np.random.default_rng(0).permutation(len(rows))]
    elif order == "resumed":
        rows = [
            row for k, row in enumerate(rows) for row in ([rows[k - 2], rows[k - 1], row] if k % 10 == 7 else [row])
        ]
    else:
        rows[3][column] = "-"
    with pytest.raises(DataError, match=rf"{column} differs along 1[02] rows of one size\. .*--map step={column}"):
        read(rows)


@pytest.mark.parametrize("values", [range(10, 0, -1), [f"2026-01-01T00:{k:02d}:00" for k in range(10)]])
def test_a_log_with_times_alone_is_refused(values: Sequence[Any]) -> None:
    rows = log(wall_time=lambda n, step: values[step // 100 - 1])
    with pytest.raises(DataError, match="wall_time differs along 10 rows"):
        read(rows)


DATES = [
    *("%Y-%m-%d %H:%M:%S", "%m/%d/%Y %I:%M:%S %p", "%d.%m.%Y %H:%M", "%Y-%m-%d", "%a, %d %b %Y %H:%M:%S"),
    *("%b %d %Y %H:%M", "%d-%b-%Y", "%s"),
]


@pytest.mark.parametrize("column", ["date", "time", "datetime", "created", "createdAt", "Logged on", "stamp"])
@pytest.mark.parametrize("form", DATES)
def test_a_log_with_dates_alone_is_refused(column: str, form: str) -> None:
    if (column, form) == ("stamp", "%s"):
        pytest.skip("a number under a name that speaks of no time is no date")

    def date(n: int, step: int) -> str:
        moment = datetime(2026, 1, 29, 7, tzinfo=UTC) + step // 100 * timedelta(hours=29)
        return str(moment.timestamp()) if form == "%s" else moment.strftime(form)

    rows = log(**{column: date})
    with pytest.raises(DataError, match=rf"{column} differs along 10 rows of one size\. .*--map step="):
        read(rows)
    assert len(read(rows, columns={"run": column}).ends()) > 7


def test_dates_in_no_order_are_those_of_seeds() -> None:
    days = (3, 1, 2, 5)
    rows = [{"n": n, "date": f"2026-01-0{d}", "loss": loss + 0.001 * d} for n, loss in TRUTH.items() for d in days]
    assert len(read(rows).ends()) == len(rows)


def test_two_amounts_of_one_size_are_averaged_with_a_word() -> None:
    rows = [{"n": n, "steps_done": k, "loss": loss * (1 + 1 / k)} for n, loss in TRUTH.items() for k in (100, 200)]
    assert any("differ in steps_done are averaged" in note for note in read(rows).notes)
    rows = [{"n": n, "warmup_steps": k, "loss": loss + k / 1e6} for n, loss in TRUTH.items() for k in (10, 20, 30)]
    assert any("differ in warmup_steps are averaged" in note for note in read(rows).notes)


@pytest.mark.parametrize("column", ["stage", "data_split", "kind", "run_name"])
@pytest.mark.parametrize("values", [("train", "val"), ("Validation", "test")])
def test_parts_of_the_data_are_known_by_their_names(column: str, values: tuple[str, str]) -> None:
    rows = [{"n": n, column: part, "loss": loss} for n, loss in TRUTH.items() for part in values]
    with pytest.raises(
        DataError, match=f"{column} has the values {', '.join(values)}, whose losses are not one quantity"
    ):
        read(rows)
    assert ends(rows, where={column: values[1]}) == TRUTH


@pytest.mark.parametrize(
    ("column", "units"), [("unit", ("eV", "meV")), ("params_unit", ("k", "M")), ("params_unit", ("M", "M"))]
)
def test_units_in_a_column_of_their_own_are_refused(column: str, units: tuple[str, str]) -> None:
    rows = [{"params": n, column: units[n > 1e7], "loss": loss} for n, loss in TRUTH.items()]
    with pytest.raises(DataError, match=f"column {column} has the units .*, which are not applied"):
        read(rows)
    assert ends([{**row, column: "eV"} for row in rows]) == TRUTH


def test_a_column_that_does_not_rise_along_rows_is_no_progress() -> None:
    rows = [
        {"n": n, "wall_time": 5 - k % 2, "loss": loss + 0.001 * k} for n, loss in zip(SIZES, LOSSES) for k in range(4)
    ]
    assert len(read(rows).ends()) == len(rows)


def test_runs_of_one_row_each_stay_runs() -> None:
    rows = [{"n": n, "step": 2000, "val_loss": f * loss} for n, loss in TRUTH.items() for f in (1.0, 1.01)]
    assert len(read(rows).ends()) == 14
    named = [{"run": f"r{k}", **row} for k, row in enumerate(rows)]
    assert len(read(named).ends()) == 14


def test_a_missing_step_or_run_is_refused_by_row() -> None:
    rows = log(run=lambda n, step: f"r{n}", step=lambda n, step: step)
    for key in ("step", "run"):
        with pytest.raises(DataError, match=rf"row 12: has no {key}"):
            read([{**row, key: None} if k == 11 else row for k, row in enumerate(rows)])


def test_losses_of_training_and_validation_are_not_mixed() -> None:
    rows = [{**row, "split": s} for row in log(step=lambda n, step: step) for s in ("train", "val")]
    with pytest.raises(DataError, match="--where 'split=val'"):
        read(rows)
    assert ends(rows, where={"split": "val"}) == TRUTH


def test_steps_that_a_resumed_run_wrote_again_count_once_and_are_listed() -> None:
    rows = log(run=lambda n, step: f"r{n}", step=lambda n, step: step)
    first = [{**row, "val_loss": 1.3 * row["val_loss"]} for row in rows if row["n"] == SIZES[2] and row["step"] > 600]
    at = next(k for k, row in enumerate(rows) if row["n"] == SIZES[2] and row["step"] == 700)
    resumed = [*rows[:at], *first, *rows[at:]]
    assert ends(resumed) == TRUTH
    reasons = [one.reason for one in read(resumed).excluded]
    assert len(reasons) == 4
    assert all("was resumed and wrote step" in reason for reason in reasons)


def test_two_runs_under_one_name_are_refused() -> None:
    rows = log(run=lambda n, step: f"r{n}", step=lambda n, step: step)
    with pytest.raises(DataError, match=r"both are run 'r1000000' at step 100.*Give each run a name of its own"):
        read([*rows, *({**row, "val_loss": 1.1 * row["val_loss"]} for row in rows)])


# NaN ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["NaN", "nan", ""])
@pytest.mark.parametrize("ending", [True, False])
def test_nan_in_training_rows_is_not_divergence(tmp_path: Path, missing: str, ending: bool) -> None:
    rows: Rows = []
    for row in log(run=lambda n, step: f"r{n}", step=lambda n, step: step):
        train = {**row, "step": row["step"] - 50, "train_loss": row["val_loss"], "val_loss": missing}
        rows += [train, {**row, "train_loss": row["val_loss"]}]
        if ending and row["step"] == STEPS[-1]:
            rows.append({**train, "step": row["step"] + 10})
    keys = ("run", "n", "step", "train_loss", "val_loss")
    path = written(tmp_path / "t.csv", [{key: row[key] for key in keys} for row in rows])
    assert ends(path) == TRUTH
    assert not any("diverged" in one.reason for one in read(path).excluded)


@pytest.mark.parametrize("end", [float("nan"), float("inf")])
def test_a_run_that_ends_without_a_finite_loss_diverged(end: float) -> None:
    rows = log(run=lambda n, step: f"r{n}", step=lambda n, step: step)
    bad = [{**row, "val_loss": end} if row["n"] == SIZES[0] and row["step"] > 800 else row for row in rows]
    assert set(ends(bad)) == set(TRUTH) - {float(SIZES[0])}
    assert {one.reason for one in read(bad).excluded} == {"its run diverged later", "diverged: its loss is not finite"}
    middle = [{**row, "val_loss": float("nan")} if row["step"] == 500 else row for row in rows]
    assert ends(middle) == TRUTH


# Columns ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["non_embedding", "N (non-embedding)", "Non-Embedding Params", "params_excl_embeddings", "n_non_emb"]
)
def test_parameters_without_embeddings_are_taken_before_all(name: str, tmp_path: Path) -> None:
    rows = [{"params": 4 * n + 5_000_000, name: n, "loss": loss} for n, loss in TRUTH.items()]
    fit = matscale.fit(written(tmp_path / "t.csv", rows), "power")
    assert fit.parameters["alpha"] == pytest.approx(0.2, abs=0.002)
    assert fit.plain()["columns"]["n"] == name
    assert f"n = {name} (params is there too)" in fit.plain()["reading"][0]
    assert set(read(rows, {"n": "params"})["n"]) == {4 * n + 5_000_000 for n in TRUTH}


@pytest.mark.parametrize("embeddings", ["embedding_params", "n_embeddings", "emb"])
def test_parameters_with_embeddings_beside_those_of_embeddings_are_refused(embeddings: str) -> None:
    rows: Rows = [{"params": n + 50_000_000, embeddings: 50_000_000, "loss": loss} for n, loss in zip(SIZES, LOSSES)]
    with pytest.raises(DataError, match=f"params and {embeddings}; .* without embeddings"):
        read(rows)
    assert len(read(rows, columns={"n": "params"})) == len(rows)
    assert ends([{**row, "non_embedding": row["params"] - row[embeddings]} for row in rows]) == TRUTH


@pytest.mark.parametrize("column", ["n_tokens", "num_structures", "training_tokens", "train_size"])
def test_amounts_of_data_are_not_overlooked(column: str) -> None:
    table = read([{"n": n, column: 20 * n, "loss": loss} for n, loss in zip(SIZES, LOSSES)])
    assert table["d"].tolist() == [20.0 * n for n in SIZES]


def test_the_validation_loss_is_taken_before_the_training_loss() -> None:
    rows = [{"n": n, "loss": 0.9 * loss, "eval_loss": loss, "best_val_loss": 0.95 * loss} for n, loss in TRUTH.items()]
    assert ends(rows) == TRUTH


@pytest.mark.parametrize(
    ("heading", "factor"),
    [
        *(("params (M)", 1e6), ("N [millions]", 1e6), ("params_B", 1e9), ("params (1e3)", 1e3)),
        *(("params (B params)", 1e9), ("params (x1000)", 1e3), ("N [1000000]", 1e6), ("params (100)", 1e2)),
        *(("params (10⁶)", 1e6), ("N (10^3)", 1e3)),
    ],
)
def test_units_in_headings_are_converted(heading: str, factor: float) -> None:
    rows = [{heading: n / factor, "loss (eV/atom)": loss} for n, loss in TRUTH.items()]
    assert {round(n) for n in ends(rows)} == set(SIZES)
    assert any(f"{heading} is in units of {factor:g}" in note for note in read(rows).notes)


def test_units_that_are_not_known_or_stated_twice_are_refused() -> None:
    with pytest.raises(DataError, match=r"the unit in the heading 'params \(furlongs\)' is not known"):
        read([{"params (furlongs)": n, "loss": loss} for n, loss in TRUTH.items()])
    with pytest.raises(DataError, match="both the cell and the heading have a unit"):
        read([{"params (M)": "20M", "loss": 1.0}])
    with pytest.raises(DataError, match="holds a multiple"):
        read([{"n": n, "loss (x1e3)": loss} for n, loss in TRUTH.items()])


@pytest.mark.parametrize("heading", ["loss (x1e-3)", "val_loss [10⁻³]", "val_loss (log10)", "loss (ln)", "-loss"])
def test_a_loss_that_its_heading_changes_is_refused_unless_it_is_mapped(heading: str) -> None:
    rows = [{"n": n, heading: loss} for n, loss in TRUTH.items()]
    with pytest.raises(DataError, match="a multiple, the negative or the logarithm of the loss"):
        read(rows)
    assert ends(rows, columns={"loss": heading}) == TRUTH


@pytest.mark.parametrize("heading", ["{} - val_loss", "{}/val_loss", "{}_val_loss", "val_loss/{}"])
def test_a_column_per_run_is_refused_with_a_command_that_melts_it(heading: str, tmp_path: Path) -> None:
    heads = [f'"{heading.format(f"r{n}")}{end}"' for n in SIZES for end in ("", "__MIN", "__MAX")]
    heads = heads if " - " in heading else heads[::3]
    repeats = 3 if " - " in heading else 1
    lines = [",".join(['"Step"', *heads])]
    curves = [curve(loss) for loss in LOSSES]
    for k, step in enumerate(STEPS):
        lines.append(",".join([str(step), *(f"{c[k]}" for c in curves for _ in range(repeats))]))
    path = tmp_path / "wide.csv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        DataError, match=r"has a column per run \(r1000000, .*Melt it with this command, then add a column n"
    ) as error:
        read(path)
    command = shlex.split(str(error.value).partition("each run: ")[2])
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    head, *rows = (tmp_path / "long.csv").read_text().splitlines()
    long = [f"{head},n", *(f"{row},{row.split(',')[0][1:]}" for row in rows)]
    (tmp_path / "long.csv").write_text("\n".join(long))
    assert ends(tmp_path / "long.csv") == TRUTH


@pytest.mark.parametrize("by", [",", ";"])
def test_a_column_per_run_with_bare_names_is_refused_with_a_command_that_melts_it(tmp_path: Path, by: str) -> None:
    path = tmp_path / "wide.csv"
    lines = [",".join(["Step", *(f"run {n}" for n in SIZES)])]
    lines += [",".join(map(str, [step, *(curve(loss)[k] for loss in LOSSES)])) for k, step in enumerate(STEPS)]
    path.write_text("\n".join(lines).replace(",", by) + "\n")
    with pytest.raises(
        DataError, match=r"If each run has a column with its loss \(run 1000000, .*melt the table"
    ) as error:
        read(path)
    command = shlex.split(str(error.value).partition("each run: ")[2])
    if by == ",":
        subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
        head, *rows = (tmp_path / "long.csv").read_text().splitlines()
        long = [f"{head},n", *(f"{row},{row.split(',')[0].split()[1]}" for row in rows)]
        (tmp_path / "long.csv").write_text("\n".join(long))
        assert ends(tmp_path / "long.csv") == TRUTH


@pytest.mark.parametrize("axis", ["tokens", "flops", "n_tokens", "tokens_seen (B)"])
def test_rows_whose_tokens_rise_evenly_are_runs_or_steps_and_have_to_be_named(axis: str) -> None:
    rows = log(**{axis: lambda n, step: step * 1e6})
    with pytest.raises(DataError, match=r"--map step="):
        read(rows)
    assert ends(rows, columns={"step": axis}) == TRUTH
    assert len(read(rows, columns={"c" if axis == "flops" else "d": axis})) == len(rows)


def test_what_rising_tokens_were_taken_for_is_said() -> None:
    rows = [{"n": n, "tokens": 10**9 * 4**k, "val_loss": loss + 2.0**-k} for n, loss in TRUTH.items() for k in range(4)]
    table = read(rows)
    assert len(table.ends()) == len(rows)
    assert any("--map step=tokens" in note for note in table.notes)
    assert not any("--map step" in note for note in read(rows, columns={"d": "tokens"}).notes)


@pytest.mark.parametrize("name", ["lr", "batch_size", "weight_decay", "width", "flavour"])
@pytest.mark.parametrize("extra", [{}, {"seed": 0}, {"step": 1000}])
def test_runs_that_differ_in_another_setting_are_averaged_with_a_word(name: str, extra: dict[str, int]) -> None:
    rows = [{"n": n, **extra, name: v, "loss": loss * (1 + v)} for n, loss in TRUTH.items() for v in (0.01, 0.03, 0.1)]
    told = [note for note in read(rows).notes if "averaged as if they were seeds" in note]
    assert told
    assert f"differ in {name}" in told[0]
    assert not read(rows, where={name: "0.01"}).notes


def test_seeds_repeats_and_measurements_are_no_settings() -> None:
    for name in ("seed", "repeat", "accuracy_mae"):
        rows = [{"n": n, name: k, "loss": loss + 0.001 * k} for n, loss in TRUTH.items() for k in range(3)]
        assert not [note for note in read(rows).notes if "averaged" in note]


@pytest.mark.parametrize("active", ["active_params", "n_active_params", "params_active"])
def test_all_parameters_beside_active_ones_are_refused(active: str) -> None:
    rows = [{"params": 8 * n, active: n, "loss": loss} for n, loss in TRUTH.items()]
    with pytest.raises(DataError, match=rf"has the columns params and {active}\. .* Say which: --map 'n={active}'"):
        read(rows)
    assert ends(rows, columns={"n": active}) == TRUTH


def test_the_state_of_a_trainer_says_how_to_make_a_table_of_it(tmp_path: Path) -> None:
    for n, loss in TRUTH.items():
        (tmp_path / f"{n:.0f}").mkdir()
        history = [{"step": s, "loss": v} for s, v in zip(STEPS, curve(loss))]
        history += [{"step": s, "eval_loss": v} for s, v in zip(STEPS, curve(loss))]
        path = tmp_path / f"{n:.0f}" / "trainer_state.json"
        path.write_text(json.dumps({"best_metric": None, "log_history": history, "total_flos": 1.0}))
    with pytest.raises(DataError, match="Hugging Face trainer") as error:
        read(path)
    command = shlex.split(str(error.value).partition("each run: ")[2])
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    rows = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert ends([{**row, "n": int(row["run"].split("/")[0])} for row in rows]) == TRUTH


def test_rows_below_a_key_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"about": "x", "runs": [{"n": 1, "loss": 2}]}))
    with pytest.raises(DataError, match="its rows are under the key 'runs'"):
        read(tmp_path / "t.json")


# Dialects -----------------------------------------------------------------------------------------------------------


def grouped(n: int, mark: str) -> str:
    return f"{n:,}".replace(",", mark)


def cells(n: int, loss: float, thousands: str = "", decimal: str = ".") -> tuple[str, str]:
    return grouped(n, thousands), str(loss).replace(".", decimal)


def text(rows: Sequence[Sequence[str]], by: str = ",", head: str = "n{by}loss") -> str:
    return "\n".join([head.format(by=by), *(by.join(row) for row in rows)]) + "\n"


def human(n: int) -> str:
    return f"{n / 1e6:.9g}M"


Written = Callable[[Sequence[tuple[int, float]]], str | bytes]
DIALECTS: dict[str, Written] = {
    "plain": lambda t: text([cells(*row) for row in t]),
    "semicolon": lambda t: text([cells(*row) for row in t], ";"),
    "blank after comma": lambda t: text([cells(*row) for row in t], ", "),
    "decimal comma": lambda t: text([cells(*row, decimal=",") for row in t], ";"),
    "decimal comma in quotes": lambda t: text([(f'"{n}"', f'"{str(loss).replace(".", ",")}"') for n, loss in t]),
    "Excel in German": lambda t: text([cells(*row, ".", ",") for row in t], ";"),
    "Excel in German, tabs": lambda t: text([cells(*row, ".", ",") for row in t], "\t"),
    "sep=": lambda t: "sep=;\n" + text([cells(*row, decimal=",") for row in t], ";"),
    "thousands": lambda t: text([(f'"{n:,}"', str(loss)) for n, loss in t]),
    "blanks between thousands": lambda t: text([cells(*row, "\u202f") for row in t]),
    "apostrophes": lambda t: text([cells(*row, "'") for row in t]),
    "tab": lambda t: text([cells(*row) for row in t], "\t"),
    "pipe": lambda t: text([cells(*row) for row in t], "|"),
    "savetxt": lambda t: text([(f"{n:.18e}", f"{loss:.18e}") for n, loss in t], " ", "# n loss"),
    "hash": lambda t: "# made by hand\n# " + text([cells(*row) for row in t]),
    "BOM": lambda t: "\ufeff" + text([cells(*row) for row in t]),
    "UTF-16": lambda t: text([cells(*row) for row in t], "\t").encode("utf-16"),
    "UTF-16 without BOM": lambda t: text([cells(*row) for row in t]).encode("utf-16-le"),
    "human": lambda t: text([(human(n), str(loss)) for n, loss in t], head="params{by}loss"),
    "human, exponent": lambda t: text([(f"{n:.9e}", f"{loss:.9e}") for n, loss in t]),
    "trailing commas": lambda t: text([(*cells(*row), "", "") for row in t], head="n,loss,,"),
    "index of pandas": lambda t: text([(str(k), *cells(*row)) for k, row in enumerate(t)], head="{by}n{by}loss"),
    "Unnamed": lambda t: text([(str(k), *cells(*row)) for k, row in enumerate(t)], head="Unnamed: 0{by}n{by}loss"),
    "quoted": lambda t: text([(f'"{n}"', f'"{loss}"') for n, loss in t], head='"n"{by}"loss"'),
    "formula": lambda t: text([(f'"=""{n}"""', f'"=""{loss}"""') for n, loss in t]),
    "units": lambda t: text([(f"{n / 1e6:.9g}", str(loss)) for n, loss in t], head="params (M){by}loss [eV]"),
    "old Mac": lambda t: text([cells(*row) for row in t]).replace("\n", "\r"),
    "Windows": lambda t: text([cells(*row) for row in t]).replace("\n", "\r\n"),
    "comments": lambda t: text([cells(*row) for row in t]).replace("\n", "\n# a comment\n", 3),
    "two ways": lambda t: text([(f'"{n:,}"', str(loss).replace(".", ",")) for n, loss in t], ";"),
    "decimal comma, commas": lambda t: text([cells(*row, decimal=",") for row in t]),
}
SHARP = {"two ways", "decimal comma, commas"}
"""Those that no reader can understand."""


def judged(path: Path, truth: Sequence[tuple[int, float]]) -> str:
    """`right` or `refused`; anything else is an error."""
    try:
        table = read(path)
    except DataError:
        return "refused"
    np.testing.assert_allclose(table["n"], [n for n, _ in truth], rtol=1e-6)
    np.testing.assert_allclose(table["loss"], [loss for _, loss in truth], rtol=1e-6)
    return "right"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_table_in_any_dialect_is_read_alike_or_refused(dialect: str, tmp_path: Path) -> None:
    path, truth = tmp_path / "t.csv", list(zip(SIZES, LOSSES))
    content = DIALECTS[dialect](truth)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert judged(path, truth) == ("refused" if dialect in SHARP else "right")
    if judged(path, truth) == "right":
        assert matscale.fit(path, "power").parameters["alpha"] == pytest.approx(0.2, abs=0.002)


def test_a_number_with_two_readings_is_refused_unless_another_cell_decides(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("n;loss\n1,000;4\n3,000;3\n")
    with pytest.raises(
        DataError, match=r"row 1: n is '1,000', which may mean 1000 or 1\.000\. No other cell shows what a comma means"
    ):
        read(path)
    for loss, n in (("3.25", 1000), ("3,25", 1)):
        path.write_text(f"n;loss\n1,000;4\n3,000;{loss}\n")
        assert read(path)["n"].tolist() == [n, 3 * n]


EXAMPLES = int(os.environ.get("MATSCALE_FUZZ", "0")) or 60
"""Inputs per property; MATSCALE_FUZZ=100000 is the long mode."""


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    dialect=st.sampled_from(sorted(DIALECTS)),
    a=st.floats(0.05, 5000),
    alpha=st.floats(0.05, 0.6),
    decimals=st.integers(1, 6),
    smallest=st.integers(3, 10**9),
)
def test_no_dialect_changes_a_number(
    tmp_path: Path, dialect: str, a: float, alpha: float, decimals: int, smallest: int
) -> None:
    truth = [(n := smallest * 3**k, max(round(a * n**-alpha, decimals), 10.0**-decimals)) for k in range(5)]
    if any("e" in str(loss) for _, loss in truth):
        return
    content = DIALECTS[dialect](truth)
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    judged(path, truth)


def test_json_and_parquet_go_the_same_way(tmp_path: Path) -> None:
    rows = log(name=lambda n, step: f"r{n}", global_step=lambda n, step: step)
    (tmp_path / "t.json").write_text(json.dumps(rows))
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = [tmp_path / "t.json", tmp_path / "t.jsonl"]
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra tables)")
    from pyarrow import parquet

    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    for source in (*sources, tmp_path / "t.parquet"):
        assert ends(source) == TRUTH


# Hostile values -----------------------------------------------------------------------------------------------------

PYARROW = importlib.util.find_spec("pyarrow") is not None  # an extra: without it, parquet ends in the command for it
GOOD = "n,loss,notes\n1000,3.5,a\n3000,2.25,b\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", GOOD.encode() + b"9000,1.5," + b"x" * 200_000, r"row 3, column 'notes' has 200,000 characters"),
        ("t.csv", GOOD.encode() + b"9000,1.5,\xff\n", r"not UTF-8 text \(row 3, column 'notes': byte 0xFF\)"),
        ("t.csv", GOOD.encode() + b"9000,1.\x005,c\n", r"row 3, column 'loss' has a NUL"),
        ("t.csv", GOOD.encode() + b"1" + b"0" * 400 + b",1.5,c\n", r"row 3: n is '1000.*, not a number"),
        ("t.csv", GOOD.encode() + b"9000,1.5e400,c\n", r"row 3: loss is '1.5e400', not a number"),
        (
            "t.csv",
            GOOD.encode() + b"1e300,1.5,c\n",
            r"row 3: n is 1e\+300, outside the plausible range of 1e-40 to 1e\+40",
        ),
        ("t.csv", GOOD.encode() + b"9000,1e-300,c\n", r"row 3: loss is 1e-300, outside"),
        ("t.csv", GOOD.encode() + b'9000,1.5,"never closed\n8000,1,d\n', r"\(row 3\) is not CSV .*Close every"),
        ("t.csv", GOOD.encode() + b"9000,1.5,c,,,,7\n", r"row 3: has more cells than the 3 columns"),
        ("t.csv", GOOD.encode() + b"#9000,1.5,c\n", r"row 3: begins with '#', so it may be a comment"),
        ("t.csv", b"1000,3.5\n3000,2.5\n", r"numbers, no names of columns"),
        ("t.csv", b"\x00" * 500, r"t\.csv"),
        ("t.csv", b"", r"t\.csv: has no rows"),
        ("t.csv", b"n loss\n1 2 3\n", r"the separator of the columns is unclear"),
        ("t.jsonl", b'{"n": 1' + b"0" * 400 + b', "loss": 1}\n', r"row 1: n is 1000.*characters\), not a number"),
        ("t.jsonl", b'{"n": 1' + b"0" * 5000 + b', "loss": 1}\n', r"line 1 is not JSON"),
        ("t.jsonl", b'{"n": ' + b"[" * 100_000, r"line 1 is not JSON"),
        ("t.jsonl", b'{"n": 1, "loss": 2, "run": "\\u0000"}', r"row 1, column 'run' has a NUL"),
        ("t.jsonl", b'{"n": 1, "loss": 2, "run": "\\ud800"}', r"row 1, column 'run': half a character"),
        ("t.jsonl", b'{"n": 1, "n": 5, "loss": 2}', r"line 1 has two values of the key 'n'"),
        ("t.jsonl", b'{"n": {"a": 1}, "loss": 2}', r"row 1: n is {'a': 1}, not a number"),
        ("t.jsonl", b"\xff\xff\n", r"not UTF-8 text \(line 1: byte 0xFF\)"),
        ("t.json", b'{"n": [1, 2]}', r"is not a list of objects.*orient='records'"),
    ],
)
def test_a_hostile_value_is_an_error_with_its_place(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


LEDGER = {"identity": "a", "role": "run", "status": "completed", "non_embedding": 10, "train": 5, "flops": 1.0}
LEDGER |= {"structures": 5, "last_loss": 1.0, "architecture": "m", "seed": 0, "path": "r", "steps": 3}


@pytest.mark.parametrize("change", [{"path": 5}, {"role": None}, {"flops": None, "flops_before": 1}, {"seed": [1]}])
def test_a_ledger_with_values_of_other_types_is_read(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text(json.dumps({**LEDGER, **change}))
    assert len(read(tmp_path / "runs.jsonl")) == 1


@settings(max_examples=2 * EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    position=st.integers(0, 200),
    inserted=st.one_of(
        st.binary(max_size=12), st.sampled_from([b'"', b",", b";", b"\n", b"#", b"1e999", b"-", b"nan"])
    ),
    suffix=st.sampled_from([".csv", ".tsv", ".txt", ".json", ".jsonl", *([".parquet"] if PYARROW else [])]),
)
def test_a_damaged_table_never_ends_in_another_error(
    tmp_path: Path, position: int, inserted: bytes, suffix: str
) -> None:
    rows = log(run=lambda n, step: f"r{n}", step=lambda n, step: step)[:8]
    content = "\n".join(map(json.dumps, rows)) if "json" in suffix else ""
    path = written(tmp_path / f"t{suffix}", rows, "\t" if suffix == ".tsv" else ",")
    data = content.encode() if content else path.read_bytes()
    path.write_bytes(data[:position] + inserted + data[position:])
    try:
        table = read(path)
    except (DataError, ConfigError):
        return
    assert np.isfinite(table["loss"]).all()


@pytest.mark.parametrize("value", ["NaN", "1e999", "-Infinity", "-1", "true"])
def test_a_baseline_that_is_no_error_is_refused_by_name(tmp_path, value):
    path = tmp_path / "baselines.json"
    path.write_text(f'{{"mean": {{"loss": {value}}}}}')
    with pytest.raises(DataError, match=r"baselines\.json: baseline 'mean' has "):
        read_baselines(path)


def test_a_cosine_of_a_baseline_may_be_negative(tmp_path):
    (tmp_path / "baselines.json").write_text('{"zero": {"loss": 1.5, "forces_cos": -0.25}}')
    assert read_baselines(tmp_path / "baselines.json") == {"zero": {"loss": 1.5, "forces_cos": -0.25}}


@pytest.mark.parametrize("command", ["fit", "report"])
def test_more_bootstrap_samples_than_memory_holds_are_refused(tmp_path, command):
    (tmp_path / "t.csv").write_text("params,loss\n1000,2\n")
    result = CliRunner().invoke(main, [command, str(tmp_path / "t.csv"), "--samples", "1000000000000"])
    assert (result.exit_code, "<=100000" in result.stderr) == (2, True)


def test_a_run_that_its_tracker_calls_crashed_is_left_out(tmp_path: Path) -> None:
    rows = "".join(f"r{n},finished,{n},{30 * n**-0.2}\n" for n in (1000, 3000, 9000, 27000, 81000))
    (tmp_path / "t.csv").write_text("Name,State,n,loss\n" + rows + "bad,crashed,250000,9.0\n")
    table = read(tmp_path / "t.csv")
    assert sorted(table.numbers["n"]) == [1000, 3000, 9000, 27000, 81000]
    assert any("did not finish (State: crashed)" in excluded.reason for excluded in table.excluded)


@pytest.mark.parametrize(
    ("column", "bad"),
    [
        *(("Status", "FAILED"), ("run_state", "Cancelled"), ("job status", "Out of memory"), ("diverged", True)),
        *(("finished", False), ("state", "PRUNED"), ("trial_status", "ERROR")),
    ],
)
def test_a_run_that_did_not_finish_is_left_out_whatever_the_column_is_called(column: str, bad: Any) -> None:
    good = {"diverged": False, "finished": True}.get(column, "FINISHED")
    rows: Rows = [{"n": n, column: good, "loss": loss} for n, loss in TRUTH.items()]
    table = read([*rows, {"n": 4e9, column: bad, "loss": 9.0}])
    assert dict(zip(table["n"].tolist(), table["loss"].tolist())) == TRUTH
    assert any(excluded.reason.startswith(f"did not finish ({column}: ") for excluded in table.excluded)
