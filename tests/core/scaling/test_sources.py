"""Reading tables and run folders: maps, filters, refusals, exclusions."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import matscale
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError, DataError, MatscaleError
from matscale.core.files import write_json
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import Run
from matscale.core.scaling.tables.baselines import FILE, measured, read_baselines, with_baselines
from matscale.core.scaling.tables.from_table import read_table
from matscale.core.scaling.tables.sources import read
from matscale.core.study import ledger
from matscale.core.train.session import train
from synthetic_runs import keep_baselines, make_study
from synthetic_runs import make_run as make_synthetic


def csv(path: Path, *lines: str, head: str = "model,params,val_loss") -> Path:
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


# Tables -------------------------------------------------------------------------------------------------------------


def test_usual_names_need_no_map(tmp_path: Path) -> None:
    table = read_table(csv(tmp_path / "t.csv", "m,1k,3.0", "m,2000,2.0"), {})
    assert table["n"].tolist() == [1000, 2000]
    assert table.names == {"n": "params", "loss": "val_loss", "arch": "model"}


def test_a_map_says_what_the_columns_are(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", "9,8,7", head="a,b,c")
    table = read_table(path, {"n": "a", "c": "b", "loss": "c"})
    assert (table["n"][0], table["c"][0], table["loss"][0]) == (9, 8, 7)


def test_a_map_with_a_name_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", "m,1k,3.0")
    with pytest.raises(ConfigError, match="'params' is not a name of matscale's"):
        read(path, {"params": "n"})


def test_a_number_too_large_for_any_machine_is_refused_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"n": 1' + 400 * "0" + ', "loss": 1}\n')
    with pytest.raises(DataError, match=r"t\.jsonl row 1"):
        read(path)


def test_json_lines_are_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps({"params": n, "val_loss": 1 / n}) for n in (10, 20)))
    assert read_table(path, {})["loss"].tolist() == [0.1, 0.05]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("m,2000,-1", r"t.csv row 2: loss is -1.0; a scaling law needs positive"),
        ("m,many,2", r"t.csv row 2: params is 'many', not a number"),
        ("m,0,2", r"t.csv row 2: n is 0.0"),
    ],
)
def test_an_absurd_cell_is_refused_with_its_row(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(csv(tmp_path / "t.csv", "m,1000,3.0", line), {})


def test_nan_is_a_run_that_diverged_and_an_empty_cell_is_no_value(tmp_path: Path) -> None:
    table = read_table(csv(tmp_path / "t.csv", "m,1000,3.0", "m,2000,nan", "m,3000,"), {})
    assert [e.reason for e in table.excluded] == ["diverged: its loss is not finite", "has no value of the loss"]


@pytest.mark.parametrize("lines", [["m,1000,3,5", "m,2000,2"], ["m,1000,3", "m,2000,2,5"]])
def test_a_row_with_more_cells_than_columns_is_refused(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(DataError, match=r"t.csv row \d: has more cells than the 3 columns"):
        read_table(csv(tmp_path / "t.csv", *lines), {})


def test_a_key_that_the_first_line_lacks_is_read_from_the_others(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"n": 1000}\n{"n": 2000, "loss": 2.0, "seed": 7}\n')
    table = read_table(path, {})
    assert (table["loss"].tolist(), table.words["seed"].tolist()) == ([2.0], ["7"])
    assert table.excluded[0].reason == "has no value of the loss"


def test_a_column_that_is_not_there_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no column 'parms' \(for n\). Did you mean 'params'"):
        read_table(csv(tmp_path / "t.csv", "m,1000,3.0"), {"n": "parms"})


def test_a_table_without_a_loss_or_a_size_says_what_to_map(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--map loss=COLUMN"):
        read_table(csv(tmp_path / "t.csv", "1,2", head="params,x"), {})
    with pytest.raises(DataError, match="--map n=COLUMN"):
        read_table(csv(tmp_path / "t.csv", "1,2", head="loss,x"), {})


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"two columns 'n', of which one would be lost"):
        read_table(csv(tmp_path / "t.csv", "1,2,3.0", head="n,n,loss"), {})


def test_a_value_to_hold_where_there_is_nothing_to_hold_is_refused() -> None:
    rows = [{"n": float(n), "loss": 3.0 * n**-0.1} for n in (1000, 3000, 10_000, 30_000)]
    with pytest.raises(DataError, match="a law in n has no other variable that could be held"):
        matscale.fit(rows, "n", at=3.0)


@pytest.mark.parametrize("text", ["[1, 2]", '{"status": "completed", "architecture": "schnet"}'])
def test_a_run_json_of_another_shape_is_refused_by_path(tmp_path: Path, text: str) -> None:
    (make_synthetic(tmp_path / "runs" / "a") / "run.json").write_text(text)
    with pytest.raises(MatscaleError, match=r"run\.json: is damaged"):
        read(tmp_path / "runs")


def test_losses_in_two_units_are_refused(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", "m,1000,0.030", "m,1000,31", "m,2000,0.02")
    with pytest.raises(
        DataError, match=r"row 1 and t.csv row 2 have the same sizes, but their losses .* in eV and the other in meV"
    ):
        read_table(path, {})


def test_losses_of_two_definitions_are_refused_by_name(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", "1000,3,mae", "2000,2,rmse", head="n,loss,definition")
    with pytest.raises(DataError, match=r"row 1 and t.csv row 2: .* not the same quantity \(mae; rmse\)"):
        read_table(path, {})


def test_rows_are_chosen_by_value(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", "a,1000,3", "b,1000,4", "a,2000,2")
    assert len(read_table(path, {}, {"model": "a"})) == 2
    assert len(read_table(path, {}, {"params": "1e3"})) == 2
    with pytest.raises(ConfigError, match="Did you mean 'model'"):
        read_table(path, {}, {"modle": "a"})
    with pytest.raises(DataError, match="no row has model = z"):
        read_table(path, {}, {"model": "z"})


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MatscaleError, match=r"pip install \"matscale\[tables\]\""):
        read_table(path, {})


def test_parquet_is_read_like_any_table(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra tables)")
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    columns = {
        "model": arrow.array(["m", "m", "m", "k"]).dictionary_encode(),
        "params": arrow.array([1000, 2000, 4000, 3000], arrow.int64()),
        "val_loss": arrow.array([3.0, float("nan"), 2.5, None], arrow.float32()),
        "seed": arrow.array([0, 1, 2, 3], arrow.int32()),
    }
    parquet.write_table(arrow.table(columns), path)
    table = read_table(path, {})
    assert table["loss"].tolist() == [3.0, 2.5]
    assert table["n"].tolist() == [1000, 4000]
    assert [e.reason for e in table.excluded] == ["diverged: its loss is not finite", "has no value of the loss"]
    assert len(read_table(path, {}, {"model": "m", "params": "1000"})) == 1
    parquet.write_table(arrow.table({"n": [1.0, 2.0], "loss": [1.0, -2.0]}), path)
    with pytest.raises(DataError, match=r"t.parquet row 2: loss is -2.0"):
        read_table(path, {})


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra tables)")
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 it is not")
    with pytest.raises(DataError, match=r"t.parquet: is not a readable parquet file"):
        read_table(path, {})


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("n,loss,größe\n1,2,3\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"t.csv: is not UTF-8 text"):
        read_table(path, {})


def test_a_broken_line_of_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"n": 1, "loss": 2}\n{"n": \n')
    with pytest.raises(DataError, match="line 2 is not JSON"):
        read_table(path, {})


def test_rows_of_a_program_are_mapped_and_chosen_like_those_of_a_file() -> None:
    rows = [{"size": np.int64(n), "forces_mae": 1 / n, "kind": kind} for n in (10, 20) for kind in ("a", "b")]
    table = read(rows, {"n": "size"}, target="forces", where={"kind": "a"})
    assert (table["n"].tolist(), table["loss"].tolist()) == ([10, 20], [0.1, 0.05])
    with pytest.raises(DataError, match="row 1: which column is the size"):
        read(rows, target="forces")
    with pytest.raises(ConfigError, match="cannot be read again with loss=energy_mae"):
        read(table, target="energy")


def test_rows_of_a_program_in_two_units_are_refused() -> None:
    with pytest.raises(DataError, match="as if one were in eV and the other in meV"):
        read([{"n": 10, "loss": 0.02, "seed": 0}, {"n": 10, "loss": 21.0, "seed": 1}])


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such run, folder or table"):
        read(tmp_path / "none")
    with pytest.raises(DataError, match="there is no run folder"):
        read(tmp_path)


# Runs ---------------------------------------------------------------------------------------------------------------

Recorded = Callable[..., Path]


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    """recorded(name, n, loss, ...): a run folder as training leaves it, without the training."""

    def make(name: str, n: float = 1000, loss: float | None = 2.0, **changes: Any) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        seen = {"structures": 400, "atoms": 4000, "edges": 80_000, "flops": 1e9 * n, "wall_s": 3600.0}
        row = {
            "step": 50,
            "epoch": 4.0,
            "split": "validation",
            "loss": loss,
            "energy_mae": 0.1,
            "forces_mae": 0.2,
            **seen,
        }
        best = {**row, "step": 30, "loss": None if loss is None else loss * 0.9}
        info = {
            "name": name,
            "status": "completed",
            "architecture": {"name": "schnet"},
            "parameters": {"total": n + 500, "trainable": n + 500, "embedding": 500, "non_embedding": n},
            "dataset": {"path": "emt", "hash": "abc", "train": 100, "validation": 10, "labels_by": "surrogate: emt"},
            "seed": 0,
            "world_size": 2,
            **seen,
            "last": row,
            "best": best,
            **changes.pop("info", {}),
        }
        write_json(folder / "run.json", info)
        share = changes.pop("validation", 0.1)
        data = changes.pop("data", "")
        weight = changes.pop("weight", 20.0)
        (folder / "config.toml").write_text(
            f'[architecture]\nname = "schnet"\n[data]\nvalidation = {share}\n{data}\n[loss.forces]\nweight = {weight}\n'
            f"[optimizer]\nlr = 0.001\n"
        )
        rows = [{**row, "step": k, "flops": 1e8 * n * (k + 1), "loss": 3.0 - 0.1 * k} for k in range(5)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        assert not changes
        return folder

    return make


def test_a_run_is_its_last_validation_and_its_whole_cost(recorded: Recorded, tmp_path: Path) -> None:
    recorded("a", 1000, 2.0)
    table = read(tmp_path / "runs")
    last, best = table.ends(), table.ends("best")
    assert (last["loss"].tolist(), best["loss"].tolist()) == ([2.0], [1.8])
    for ends in (last, best):
        assert (ends["n"][0], ends["d"][0], ends["c"][0]) == (1000, 100, 1e12)
    assert last.words["arch"].tolist() == ["schnet"]


def test_other_counts_can_be_the_axes(recorded: Recorded, tmp_path: Path) -> None:
    recorded("a", 1000)
    table = read(tmp_path / "runs", {"n": "total", "d": "atoms", "c": "gpu_hours"}, target="forces").ends()
    assert (table["n"][0], table["d"][0], table["c"][0], table["loss"][0]) == (1500, 4000, 2.0, 0.2)
    with pytest.raises(ConfigError, match=r"--map d=atmos: records of runs have no such number. Did you mean 'atoms'"):
        read(tmp_path / "runs", {"d": "atmos"})
    with pytest.raises(ConfigError, match=r"has no error named 'energy_mea'. Did you mean 'energy_mae'"):
        read(tmp_path / "runs", target="energy_mea")


def test_variants_are_architectures_of_their_own(recorded: Recorded, tmp_path: Path) -> None:
    recorded("a", info={"labels": {"variant": "OC"}})
    recorded("b")
    assert read(tmp_path / "runs").architectures == ["schnet", "schnet-OC"]


def test_compute_includes_what_a_run_began_with(recorded: Recorded, tmp_path: Path) -> None:
    recorded("new", 1000)
    recorded("tuned", 1000, info={"start": {"run": "runs/first", "flops": 5e11}})
    for curves, own in ((False, 1e12), (True, 1e11)):
        table = read(tmp_path / "runs", curves=curves)
        new, tuned = (table["c"][table.words["run"] == str(tmp_path / "runs" / n)][0] for n in ("new", "tuned"))
        assert (new, tuned) == (own, own + 5e11)


def test_a_run_whose_compute_is_not_known_is_left_out_beside_those_whose_is(tmp_path: Path) -> None:
    tuned = make_synthetic(tmp_path / "runs" / "tuned", start={"run": "runs/imported", "flops": None})
    assert not read(tmp_path / "runs").has("c")
    new = make_synthetic(tmp_path / "runs" / "new", size=20_000)
    ledger.write(tmp_path, [{**ledger.row(run), "identity": run.name, "study": "s"} for run in (tuned, new)])
    for source in ("runs", "runs.csv", "runs.jsonl"):
        table = read(tmp_path / source)
        assert table.ends()["n"].tolist() == [20_000]
        reasons = {e.row: e.reason for e in table.excluded}
        assert reasons == {str(tuned): "began with an imported model: the compute of that model is unknown"}


def test_curves_are_the_validations_of_a_run(recorded: Recorded, tmp_path: Path) -> None:
    recorded("a")
    table = read(tmp_path / "runs", curves=True)
    assert table.has_curves
    assert table["loss"].tolist() == pytest.approx([3.0, 2.9, 2.8, 2.7, 2.6])
    assert np.all(np.diff(table["c"]) > 0)


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"status": "running"}, "not complete"),
        ({"status": "stopped"}, "not complete"),
        ({"status": "failed", "error": "NonFiniteLossError: loss"}, "diverged"),
        ({"imported": {}}, "was not trained here"),
        ({"labels": {"role": "trunk"}}, "trunk of cooldowns"),
        ({"last": None}, "never validated"),
    ],
)
def test_runs_that_are_no_points_are_listed(
    recorded: Recorded, tmp_path: Path, info: dict[str, Any], reason: str
) -> None:
    recorded("good")
    recorded("bad", 2000, info=info)
    table = read(tmp_path / "runs")
    assert [(Path(e.row).name, reason in e.reason) for e in table.excluded] == [("bad", True)]
    assert len(table.ends()) == 1


def test_a_run_whose_last_loss_is_not_finite_diverged(recorded: Recorded, tmp_path: Path) -> None:
    recorded("good")
    recorded("bad", 2000, loss=None)
    table = read(tmp_path / "runs")
    assert {"diverged" in e.reason for e in table.excluded} == {True}
    assert len(table.ends()) == 1


def test_a_copied_run_counts_once(recorded: Recorded, tmp_path: Path) -> None:
    recorded("a")
    recorded("b")
    table = read(tmp_path / "runs")
    assert len(table.ends()) == 1
    assert all("repeats" in e.reason for e in table.excluded)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"validation": 0.2}, "the validation share is 0.1 in one and 0.2"),
        ({"weight": 5.0}, "the training loss is"),
        ({"info": {"dataset": {"path": "x", "hash": "other", "train": 100}}}, "the dataset is abc in one and other"),
        ({"info": {"seed": 3}}, "the seed of the validation part is 0 in one and 3"),
        ({"data": "validation_seed = 7"}, "the seed of the validation part is 0 in one and 7"),
        ({"data": 'split_by = "structure"'}, "the rule of the split is group in one and structure"),
        (
            {"validation": 0.3, "weight": 1.0},
            r"the validation share is 0.1 in one and 0.3 in the other; the training loss is .* in the other\. "
            "Of 2 runs, 1 and 1 belong together",
        ),
    ],
)
def test_losses_that_are_not_the_same_quantity_are_refused_by_name(
    recorded: Recorded, tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    recorded("a")
    recorded("b", 2000, **changes)
    with pytest.raises(DataError, match=f"runs/a and .*runs/b: their losses are not the same quantity: {what}"):
        read(tmp_path / "runs")


def test_seeds_that_share_their_validation_part_are_fitted_together(recorded: Recorded, tmp_path: Path) -> None:
    for seed in range(3):
        recorded(f"s{seed}", 1000, 2.0 + seed / 100, info={"seed": seed}, data="validation_seed = 0")
    assert len(read(tmp_path / "runs").ends()) == 3


def test_an_overfit_check_is_no_point_of_a_law(recorded: Recorded, tmp_path: Path) -> None:
    recorded("good")
    recorded("check", 2000, data="overfit = 8")
    table = read(tmp_path / "runs")
    assert [(Path(e.row).name, "overfit check" in e.reason) for e in table.excluded] == [("check", True)]


def test_runs_are_found_by_folder_glob_and_name(recorded: Recorded, tmp_path: Path) -> None:
    for k in range(3):
        recorded(f"s{k}", 1000 * (k + 1), 2.0 - 0.1 * k)
    assert len(read(tmp_path / "runs").ends()) == 3
    assert len(read(str(tmp_path / "runs" / "s[01]")).ends()) == 2
    assert len(read([tmp_path / "runs" / "s0", tmp_path / "runs"]).ends()) == 3


def test_runs_and_tables_are_not_mixed(recorded: Recorded, tmp_path: Path) -> None:
    run = recorded("a")
    table = csv(tmp_path / "t.csv", "m,1000,3.0")
    with pytest.raises(ConfigError, match="cannot be mixed"):
        read([run, table])


def test_runs_without_a_law_in_them_are_refused_or_judged(recorded: Recorded, tmp_path: Path) -> None:
    recorded("only", info={"status": "failed"})
    with pytest.raises(DataError, match="None of the 1 runs can be fitted"):
        read(tmp_path / "runs")


def test_a_fit_of_run_folders_needs_nothing_but_their_records(recorded: Recorded, tmp_path: Path) -> None:
    for k, n in enumerate((1000, 3000, 10_000, 30_000, 100_000)):
        recorded(f"r{k}", n, 30 * n**-0.3)
    keep_baselines(tmp_path / "runs" / "r0", {"zero": {"loss": 9.0}, "mean": {"loss": 8.0}})
    fit = matscale.fit(tmp_path / "runs", "n")
    assert fit.parameters["alpha"] == pytest.approx(0.3)
    assert fit.baselines == {"zero": 9.0, "mean": 8.0}


# Baselines ----------------------------------------------------------------------------------------------------------


def test_baselines_of_runs_are_measured_once_and_kept(make_run: Callable[..., Run]) -> None:
    run = make_run("schnet", hidden=8, filters=8, n_radial=8, n_layers=1, cutoff=4.0)
    errors = measured(run.path)
    assert list(errors) == ["zero", "mean", "composition", "nearest"]
    assert errors["zero"]["loss"] > 0
    keep_baselines(run.path, {"mine": 3.0})
    assert measured(run.path) == {"mine": {"loss": 3.0}}


def test_baselines_that_cannot_be_had_are_a_sentence_not_an_error(recorded: Recorded, tmp_path: Path) -> None:
    recorded("a", info={"dataset": {"path": str(tmp_path / "gone"), "hash": "abc", "train": 100}})
    table, why = with_baselines(read(tmp_path / "runs"))
    assert not table.baselines
    assert why.startswith("no baselines: ")


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": "b"}'])
def test_a_file_that_holds_no_baselines_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"b\.json"):
        read_baselines(path)


# Real records -------------------------------------------------------------------------------------------------------


def test_what_training_writes_is_what_a_fit_reads(alloys: PackedDataset, tmp_path: Path) -> None:
    for hidden in (2, 4, 8, 16):
        model = {"hidden": hidden, "filters": hidden, "n_radial": 4, "n_layers": 1, "cutoff": 3.0}
        config = {
            "architecture": {"name": "schnet", "config": model},
            "data": {"path": str(alloys.path), "validation": 0.25, "cache_graphs": False},
            "budget": {"steps": 2},
        }
        train(TrainConfig.parse(config), tmp_path / "runs" / f"h{hidden}")
    table = read(tmp_path / "runs", target="energy").ends()
    infos = [json.loads((tmp_path / "runs" / f"h{h}" / "run.json").read_text()) for h in (16, 2, 4, 8)]
    assert table["n"].tolist() == [info["parameters"]["non_embedding"] for info in infos]
    assert table["c"].tolist() == [info["flops"] for info in infos]
    assert table["d"].tolist() == [info["dataset"]["train"] for info in infos]
    assert table["loss"].tolist() == [info["last"]["energy_mae"] for info in infos]
    fit = matscale.fit(tmp_path / "runs", "n", "energy")
    assert set(fit.baselines) == {"zero", "mean", "composition", "nearest"}
    assert fit.verdict in ("no learning", "not identifiable")  # two steps teach nothing
    assert len(list(tmp_path.glob(f"runs/*/{FILE}"))) == 1


def test_the_ledger_of_a_study_gives_the_law_of_its_folders(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study" / "runs", architectures=("schnet",), sizes=(3000, 10_000, 30_000, 100_000))
    unfinished = make_synthetic(study / "unfinished", status="stopped")
    trunk = make_synthetic(study / "trunk", labels={"role": "trunk"})
    rows = [{**ledger.row(run), "identity": run.name, "study": "s"} for run in sorted(study.iterdir()) if run.is_dir()]
    ledger.write(tmp_path / "study", rows)
    for law in ("n", "d", "nd"):
        by_folder = matscale.fit(study, law, samples=50)
        for name in ("runs.csv", "runs.jsonl"):
            by_ledger = matscale.fit(tmp_path / "study" / name, law, samples=50)
            assert by_ledger.parameters == pytest.approx(by_folder.parameters)
            assert by_ledger.baselines == by_folder.baselines
            reasons = {e.reason.partition(":")[0].partition(" of ")[0] for e in by_ledger.excluded}
            assert {"is not complete (status", "is the trunk"} <= reasons
    assert (unfinished.name, trunk.name) == ("unfinished", "trunk")
    moved = tmp_path / "elsewhere.csv"
    moved.write_text((tmp_path / "study" / "runs.csv").read_text().replace(str(study), "/gone"))
    assert matscale.fit(moved, "n").baselines == {}
    assert read(moved, {"n": "parameters"})["n"].tolist() != read(moved)["n"].tolist()


def test_the_ledger_of_a_study_has_the_variants_and_the_compute_of_its_folders(tmp_path: Path) -> None:
    changes = {"labels": {"variant": "OC"}, "start": {"run": "runs/first", "flops": 1e15}}
    runs = [make_synthetic(tmp_path / "runs" / "a"), make_synthetic(tmp_path / "runs" / "b", **changes)]
    ledger.write(tmp_path, [{**ledger.row(run), "identity": run.name, "study": "s"} for run in runs])
    for table in (read(tmp_path / "runs.csv"), read(tmp_path / "runs.jsonl"), read(tmp_path / "runs").ends()):
        plain, variant = (table.of_architecture(name) for name in ("schnet", "schnet-OC"))
        assert variant["c"].tolist() == [plain["c"][0] + 1e15]


def test_a_law_of_compute_looks_at_whole_runs_of_folders_like_the_frontier(tmp_path: Path) -> None:
    study = make_study(tmp_path / "runs", architectures=("schnet",))
    by_c, frontier = (matscale.fit(study, law, samples=60) for law in ("c", "frontier"))
    assert by_c.points == frontier.points == "frontier"
    assert by_c.parameters == frontier.parameters
    names = [e.row for e in by_c.excluded if e.reason == "is not on the compute frontier"]
    assert names
    assert len(names) == len(set(names))
    assert set(names) < {str(run) for run in study.iterdir()}  # runs, not each of their validations


def test_all_checkpoints_of_run_folders_are_all_their_validations(tmp_path: Path) -> None:
    study = make_study(tmp_path / "runs", architectures=("schnet",), sizes=(3000, 10_000, 30_000, 100_000))
    points = {
        at: len(matscale.fit([str(study)], "nd", checkpoint=at, samples=50).table) for at in ("last", "best", "all")
    }
    assert points["last"] == points["best"] == 12
    assert points["all"] > 24


def test_a_target_is_a_column_of_the_table_by_its_short_name_too() -> None:
    rows = [{"n": n, "forces": 3 * n**-0.2} for n in (1e3, 1e4, 1e5)]
    assert read(rows, target="forces").names["loss"] == "forces"
    assert read([{**row, "forces_mae": 1.0} for row in rows], target="forces").names["loss"] == "forces_mae"
