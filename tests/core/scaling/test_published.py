"""Tables of other people's work: the numbers that are known for them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import matscale
from matscale.core.hosting.host import host
from matscale.core.scaling.solve import solve
from matscale.core.scaling.tables.from_table import read_table

GEMSTONES = {"n": "params_active_precise", "d": "tokens", "loss": "final_loss", "run": "run_name", "step": "step"}
PUBLISHED = [
    ("hot", 1e-3, 0.2929, 0.7129, 0.0019816129),
    ("cool_end", 1e-3, 0.3003, 0.5802, 0.0019640865),
    ("lr_ablation_hot", 1e-3, 0.3255, 0.6513, 0.0019728624),
    ("hot", 1e-4, 0.2928, 0.7289, 0.0002076018),
    ("cool_end", 1e-4, 0.3006, 0.5860, 0.0002059406),
    ("lr_ablation_hot", 1e-4, 0.3296, 0.6468, 0.0002059023),
]
"""Table, Huber's δ, alpha, beta of the lowest objective known, and the objective that was published."""


@pytest.mark.parametrize(("name", "delta", "alpha", "beta", "objective"), PUBLISHED)
def test_gemstones_exponents_and_an_objective_as_low_as_published(
    shared: Path, name: str, delta: float, alpha: float, beta: float, objective: float
) -> None:
    table = read_table(shared / f"data/scaling/gemstones/wandb_df_for_fitting_{name}.jsonl", GEMSTONES)
    law = host().law("nd")
    x = np.log(np.stack([table["n"], table["d"]], axis=-1))
    found = solve(law, x, np.log(table["loss"]), delta)
    values = law.plain(found.theta, found.frame)
    assert float(values["alpha"]) == pytest.approx(alpha, abs=0.003)
    assert float(values["beta"]) == pytest.approx(beta, abs=0.003)
    assert found.objective <= objective * (1 + 1e-6)
    assert found.gradient < 1e-6
    assert found.n_agreeing >= 2


@pytest.mark.parametrize("name", ["hot", "cool_end", "cool_begin", "lr_ablation_hot"])
def test_gemstones_are_a_joint_law_that_its_slices_do_not_contradict(shared: Path, name: str) -> None:
    """Slopes in d of single models scatter by a third: that of the largest alone contradicts nothing."""
    path = shared / f"data/scaling/gemstones/wandb_df_for_fitting_{name}.jsonl"
    fit = matscale.fit(path, "nd", columns=GEMSTONES, checkpoint="all", samples=200)
    assert (fit.verdict, fit.reasons) == ("law with floor", ())
    low, high = fit.intervals["alpha"]
    assert low < 0.30 < high


NMT = ["6Enc-6Dec", "28Enc-6Dec", "6Enc-28Dec", "Dec-only", "TEnc-LSTM"]


@pytest.mark.parametrize("model", NMT)
def test_translation_curves_have_a_floor_by_held_out_error(shared: Path, model: str) -> None:
    path = shared / "data/scaling/nmt/nmt.csv"
    train = read_table(path, {"d": "seen_examples", "arch": "model"}, {"model": model, "train": "1"})
    test = read_table(path, {"d": "seen_examples", "arch": "model"}, {"model": model, "train": "0"})
    x, y = np.log(train["d"])[:, None], np.log(train["loss"])
    errors = {}
    for name in ("power", "floor"):
        law = host().law(name)
        found = solve(law, x, y)
        log_l = law.value(found.theta, np.log(test["d"])[:, None] - found.frame.x) + found.frame.y
        errors[name] = float(np.exp(log_l - np.log(test["loss"])).mean() - 1)
    assert -0.07 < errors["floor"] < -0.01
    assert -0.24 < errors["power"] < -0.15


def test_translation_selects_the_floor_five_times_of_five(shared: Path) -> None:
    for model in NMT:
        path = shared / "data/scaling/nmt/nmt.csv"
        fit = matscale.fit(path, "d", columns={"d": "seen_examples", "arch": "model"}, architecture=model)
        assert fit.law.name == "floor", model
        scores = {c.law.name: c for c in fit.candidates}
        assert scores["floor"].aicc < scores["power"].aicc - 5
        assert scores["floor"].extrapolation < 0.06 < 0.12 < scores["power"].extrapolation


ROUTING = {
    "S-Base": (-0.0835, -0.119, 0.0102, 1.116),
    "RL-R": (-0.0829, -0.122, 0.0112, 1.106),
    "Hash": (-0.0874, -0.138, 0.0126, 1.159),
}


@pytest.mark.parametrize("router", ROUTING)
def test_routing_coefficients(shared: Path, router: str) -> None:
    columns = {"n": "dense_parameter_count", "e": "num_experts", "loss": "loss_validation", "arch": "router_type"}
    where = {"router_type": router, "k": "1", "routing_frequency": "0.5"}
    table = read_table(shared / "data/scaling/routing/final.csv", columns, where)
    law = host().law("routing")
    x = np.log(np.stack([table["n"], table["e"]], axis=-1))
    found = solve(law, x, np.log(table["loss"]))
    values = law.plain(found.theta, found.frame)
    tolerances = (0.0005, 0.002, 0.0005, 0.004)
    for name, wanted, tolerance in zip("abcd", ROUTING[router], tolerances):
        assert float(values[name]) == pytest.approx(wanted, abs=tolerance), name
    rms = np.sqrt(2 * found.objective / len(x)) / np.log(10)
    assert rms == pytest.approx(0.0033, abs=0.0003)


def test_the_dense_models_of_routing_follow_a_power(shared: Path) -> None:
    columns = {"n": "dense_parameter_count", "loss": "loss_validation", "arch": "router_type", "seed": "seed"}
    fit = matscale.fit(
        shared / "data/scaling/routing/final.csv", "power", columns=columns, where={"router_type": "Dense"}, axis="n"
    )
    low, high = fit.intervals["alpha"]
    assert low < 0.0788 < high


def published() -> list[tuple[str, float, float]]:
    return [("n", 776.0, 0.383), ("c", 4.99e5, 0.339), ("d", 64.7, 0.242)]


TRIKHA = [
    ("figure_grid_train_loss.csv", {"n": "num_params", "d": "dataset_size", "loss": "train_loss"}),
    (
        "interactive_runs.csv",
        {
            "n": "num_params",
            "d": "dataset_size",
            "c": "final_cumulative_flops",
            "loss": "best_val_loss",
            "run": "model_name",
        },
    ),
]


@pytest.mark.parametrize(("name", "columns"), TRIKHA)
@pytest.mark.parametrize("axis", ["n", "d"])
def test_trikha_no_slice_gives_a_law_with_the_published_exponent_and_prefactor(
    shared: Path, name: str, columns: dict[str, str], axis: str
) -> None:
    table = read_table(shared / "data/trikha2025" / name, columns)
    wanted = {law: (a, b) for law, a, b in published()}[axis]
    other = {"n": "d", "d": "n"}[axis]
    for at in sorted(set(table[other].tolist())):
        try:
            fit = matscale.fit(table, axis, at=at, architecture=table.architectures[0])
        except matscale.core.errors.DataError:
            continue
        a, b = fit.parameters["A"], fit.parameters["alpha"]
        assert not (abs(b - wanted[1]) < 0.005 and abs(a / wanted[0] - 1) < 0.05), at


def test_trikha_interactive_sizes_are_no_law(shared: Path) -> None:
    name, columns = TRIKHA[1]
    table = read_table(shared / "data/trikha2025" / name, columns)
    fit = matscale.fit(table, "n", at=100_810, architecture=table.architectures[0])
    assert fit.verdict == "not identifiable"
    assert [run.reason for run in table.excluded] == ["did not finish (status: interrupted)"]
    assert {r.trigger for r in fit.reasons} >= {"c", "d"}  # with that run it was a plateau at 40.1 and a jump


@pytest.mark.parametrize("at", [10_050, 30_150, 100_450, 301_300])
def test_trikha_figure_sizes_hang_on_one_point(shared: Path, at: float) -> None:
    name, columns = TRIKHA[0]
    fit = matscale.fit(read_table(shared / "data/trikha2025" / name, columns), "n", at=at)
    assert fit.verdict == "not identifiable"
    assert {r.trigger for r in fit.reasons} & {"c", "d"}


def test_trikha_without_the_plateau_point_the_exponent_is_a_quarter(shared: Path) -> None:
    name, columns = TRIKHA[0]
    table = read_table(shared / "data/trikha2025" / name, columns)
    fit = matscale.fit(table.take(table["n"] > 10_000), "n", at=100_450)
    assert fit.parameters["alpha"] == pytest.approx(0.238, abs=0.003)
    assert fit.parameters["A"] == pytest.approx(101, rel=0.03)


def test_files_of_published_tables_are_what_the_tests_think(shared: Path) -> None:
    with (shared / "data/trikha2025/published_laws.csv").open() as file:
        rows = [(r["variable"].lower(), float(r["prefactor_a"]), float(r["exponent_b"])) for r in csv.DictReader(file)]
    assert [(a, b) for _, a, b in rows] == [(a, b) for _, a, b in published()]
    first = (shared / "data/scaling/gemstones/wandb_df_for_fitting_hot.jsonl").read_text().splitlines()[0]
    assert set(GEMSTONES.values()) <= set(json.loads(first))
