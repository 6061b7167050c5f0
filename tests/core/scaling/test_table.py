"""The table: what enters, what is left out by name, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import matscale
from matscale.core.errors import DataError
from matscale.core.scaling.means import size_means, slice_of
from matscale.core.scaling.tables.table import Table, groups

ROW = {"arch": "m", "n": 1000.0, "loss": 2.0}


def test_a_diverged_run_is_left_out_and_listed() -> None:
    table = Table.of([ROW, {**ROW, "n": 2000.0, "loss": float("nan")}, {**ROW, "n": 3000.0, "loss": float("inf")}])
    assert len(table) == 1
    assert [(e.row, "diverged" in e.reason) for e in table.excluded] == [("row 2", True), ("row 3", True)]


def test_a_run_that_diverged_at_its_end_is_not_taken_for_what_it_was_before() -> None:
    losses = {"a": (3.0, 2.0), "b": (3.0, float("nan")), "c": (float("nan"), 2.5)}
    rows = [
        {**ROW, "run": run, "step": step, "loss": loss}
        for run, both in losses.items()
        for step, loss in enumerate(both)
    ]
    table = Table.of(rows)
    assert table.ends().words["run"].tolist() == ["a", "c"]
    assert [one.reason for one in table.excluded] == [
        "its run diverged later",
        "diverged: its loss is not finite",
        "has no validation: later losses are finite",
    ]


def test_a_missing_loss_is_left_out_for_another_reason() -> None:
    table = Table.of([ROW, {**ROW, "n": 2000.0, "loss": None}])
    assert [(e.row, e.reason) for e in table.excluded] == [("row 2", "has no value of the loss")]


@pytest.mark.parametrize(
    ("key", "value"), [("loss", -1.0), ("loss", 0.0), ("n", 0), ("n", -5.0), ("n", float("nan")), ("loss", "good")]
)
def test_an_absurd_number_is_refused_with_its_row(key: str, value: object) -> None:
    with pytest.raises(DataError, match=rf"row 2: {key} is"):
        Table.of([ROW, {**ROW, key: value}])


def test_a_copy_of_a_run_counts_once() -> None:
    runs = [{**ROW, "run": "a", "seed": 0, "step": 5.0}, {**ROW, "run": "copy of a", "seed": 0, "step": 5.0}]
    table = Table.of(runs)
    assert len(table) == 1
    assert table.excluded[0].reason == "repeats row 1"


def test_seeds_with_other_losses_are_no_copies() -> None:
    assert len(Table.of([{**ROW, "seed": s, "loss": 2.0 + s / 100} for s in range(3)])) == 3


def test_a_run_that_says_two_things_is_refused() -> None:
    with pytest.raises(DataError, match="row 1 and row 2: both are run 'a'"):
        Table.of([{**ROW, "run": "a"}, {**ROW, "run": "a", "loss": 2.5}])


def test_a_curve_is_reduced_to_its_last_or_best_step() -> None:
    losses = [5.0, 2.0, 3.0]
    table = Table.of([{**ROW, "run": "a", "step": float(k), "loss": loss} for k, loss in enumerate(losses)])
    assert table.has_curves
    assert table.ends()["loss"].tolist() == [3.0]
    assert table.ends("best")["loss"].tolist() == [2.0]
    assert len(table.ends("all")) == 3


def test_sizes_that_differ_by_less_than_a_percent_are_one() -> None:
    assert groups(np.array([100.0, 1000.0, 100.5, 999.0])).tolist() == [0, 1, 0, 1]


def test_a_law_in_n_is_fitted_at_one_amount_of_data_and_the_others_are_listed() -> None:
    rows = [{**ROW, "n": n, "d": d, "loss": 1 / n + 1 / d} for d in (10.0, 50.0) for n in (1.0, 2.0, 4.0)]
    part, fixed = slice_of(Table.of([*rows, {**ROW, "n": 8.0, "d": 10.0}]), "n")
    assert fixed == "d = 10"  # four sizes there, three at d = 50
    assert len(part) == 4
    assert len(part.excluded) == 3
    assert part.excluded[0].reason == "its d differs: the law in n is fitted at d = 10"


def test_the_other_value_can_be_chosen_and_an_unknown_one_is_refused() -> None:
    table = Table.of([{**ROW, "n": n, "d": d, "loss": 1 / n + 1 / d} for d in (10.0, 50.0) for n in (1.0, 2.0, 4.0)])
    assert slice_of(table, "n", at=10)[1] == "d = 10"
    with pytest.raises(DataError, match="No runs have d = 20"):
        slice_of(table, "n", at=20)


def test_means_are_taken_per_size_in_logarithms() -> None:
    rows = [{**ROW, "n": n, "loss": loss} for n, loss in ((10.0, 1.0), (10.0, 4.0), (5.0, 8.0))]
    means = size_means(Table.of(rows), "n")
    np.testing.assert_allclose(np.exp(means.x[:, 0]), [5, 10])
    np.testing.assert_allclose(np.exp(means.y), [8, 2])
    assert means.counts.tolist() == [1, 2]
    assert means.seed_noise == pytest.approx(np.log(4) / np.sqrt(2))


def test_one_model_for_several_computes_is_as_many_points() -> None:
    rows = [{"n": 1000.0, "c": c, "loss": 10 * c**-0.1} for c in (1e9, 1e10, 1e11)]
    assert np.exp(size_means(Table.of(rows), "c").x[:, 0]) == pytest.approx([1e9, 1e10, 1e11])


def test_seeds_that_differ_a_little_in_compute_are_one_point() -> None:
    rows = [{"n": n, "c": n * c, "seed": c, "loss": 1 / n} for n in (1000.0, 2000.0) for c in (100.0, 103.0)]
    assert size_means(Table.of(rows), "c").counts.tolist() == [2, 2]


def test_several_models_for_several_computes_are_no_points_of_a_law_in_compute() -> None:
    rows = [{"n": n, "c": c, "loss": 10 * n**-0.1 + c**-0.1} for n in (1e3, 1e4, 1e5, 1e6) for c in (1e9, 1e10, 1e11)]
    with pytest.raises(DataError, match=r"more than one amount of compute.*--law frontier"):
        matscale.fit(rows, "power", axis="c")


def test_a_budget_is_no_wider_than_its_tolerance_however_dense_the_values_are() -> None:
    labels = groups(np.array([1.0, 1.05, 1.1, 1.16, 1.22, 5.0, 1.0]), 0.1)
    assert labels.tolist() == [0, 0, 0, 1, 1, 2, 0]


def test_the_best_step_of_a_curve_costs_what_the_whole_run_did() -> None:
    rows = [
        {"n": 1e4, "c": c, "loss": loss, "run": "a", "step": step, "source": f"a {step}"}
        for step, c, loss in ((10, 1e9, 4.0), (20, 2e9, 3.0), (30, 3e9, 3.5))
    ]
    best = Table.of(rows).ends("best")
    assert (best["loss"].tolist(), best["c"].tolist()) == ([3.0], [3e9])
