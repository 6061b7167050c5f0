"""From a table to a law with a verdict: forms, triggers, held-out sizes, joint laws, frontier and isoFLOP sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from laws_data import SIZES, grid, ladder

import matscale
from matscale.core.errors import ConfigError, DataError
from matscale.core.scaling import frontier
from matscale.core.scaling.bootstrap import Draws
from matscale.core.scaling.fit import Options, fit_all
from matscale.core.scaling.frontier import hull
from matscale.core.scaling.isoflop import optima
from matscale.core.scaling.joint_verdict import contradicted
from matscale.core.scaling.tables.table import Table
from matscale.core.scaling.verdict import VERDICTS, learning

Rng = np.random.Generator
WIDE = tuple(np.geomspace(1e3, 1e7, 12).round())


def triggers(fit: object) -> set[str]:
    return {reason.trigger for reason in fit.reasons}  # type: ignore[attr-defined]


# Verdicts -----------------------------------------------------------------------------------------------------------


def test_a_power_is_a_law(rng: Rng) -> None:
    fit = matscale.fit(ladder(rng, noise=0.005), "n")
    assert (fit.verdict, fit.law.name) == ("law", "power")
    low, high = fit.intervals["alpha"]
    assert low < 0.3 < high
    assert fit.is_law
    assert not fit.reasons


def test_a_loss_that_rises_with_size_is_no_law(rng: Rng) -> None:
    rows = [{"n": n, "loss": n**0.3 * np.exp(0.005 * rng.standard_normal())} for n in SIZES]
    fit = matscale.fit(rows, "n")
    assert fit.verdict == "not identifiable"
    assert any("the loss rises with n" in reason.text for reason in fit.reasons)


def test_a_floor_is_found_with_enough_sizes(rng: Rng) -> None:
    fit = matscale.fit(ladder(rng, WIDE, floor=0.5, noise=0.005), "floor", axis="n")
    assert fit.verdict == "law with floor"
    assert fit.intervals["E"] == pytest.approx((0.5, 0.5), abs=0.03)
    assert matscale.fit(ladder(rng, WIDE, floor=0.5, noise=0.005), "n").law.floor == "E"


def test_five_sizes_never_show_a_floor_and_the_fit_says_so(rng: Rng) -> None:
    fit = matscale.fit(ladder(rng, SIZES[:5], floor=0.5, noise=0.01, prefactor=60.0), "n")
    assert fit.law.name == "power"
    assert any("floor not identifiable" in note and "no evidence against a floor" in note for note in fit.notes)


def test_a_break_is_found_with_enough_sizes(rng: Rng) -> None:
    x = np.geomspace(1e3, 1e7, 12)
    loss = 10 * x**-0.05 * (1 + (x / 1e5) ** 2) ** (-0.4 * 0.5) * np.exp(0.003 * rng.standard_normal(12))
    fit = matscale.fit([{"arch": "m", "d": float(a), "loss": float(b)} for a, b in zip(x, loss)], "d")
    assert fit.law.name == "broken"
    assert fit.verdict in ("broken law", "not identifiable", "rejected")
    assert {c.law.name for c in fit.candidates} >= {"power", "floor", "broken"}


@pytest.mark.parametrize("sizes", [SIZES[:3], tuple(np.geomspace(1e4, 3e4, 8))])
def test_too_few_sizes_or_too_narrow_a_range_is_no_law(rng: Rng, sizes: tuple[float, ...]) -> None:
    fit = matscale.fit(ladder(rng, sizes), "n")
    assert fit.verdict == "incomplete design"
    assert triggers(fit) == {"b"}


def test_noise_without_a_trend_is_not_a_law(rng: Rng) -> None:
    fit = matscale.fit(ladder(rng, exponent=0.001, noise=0.1, scatter=0.1), "n")
    assert fit.verdict == "not identifiable"
    assert "c" in triggers(fit)


def test_losses_that_are_all_the_same_are_no_learning(rng: Rng) -> None:
    fit = matscale.fit(ladder(rng, exponent=0.0, noise=0.001), "n")
    assert fit.verdict == "no learning"


def test_runs_that_do_not_beat_the_baseline_are_no_learning(rng: Rng) -> None:
    rows = ladder(rng, noise=0.005)
    fit = matscale.fit(rows, "n", baselines={"zero": {"loss": 1e3}, "nearest": {"loss": 0.01}})
    assert fit.verdict == "no learning"
    assert "nearest" in str(fit.reasons[0])


def test_a_run_above_a_baseline_cannot_enter_the_law(rng: Rng) -> None:
    rows = [*ladder(rng, noise=0.005), {"arch": "m", "n": 1e3, "seed": 0, "loss": 5.0}]
    fit = matscale.fit(rows, "n", baselines={"mean": {"loss": 4.0}})
    assert [one.reason for one in fit.excluded] == ["does not beat the baseline mean (4)"]
    assert fit.verdict == "law"
    assert fit.baselines == {"mean": 4.0}


def test_a_baseline_of_the_loss_is_none_of_another_error(rng: Rng) -> None:
    rows = [{**row, "forces_mae": row["loss"]} for row in ladder(rng)]
    fit = matscale.fit(rows, "n", target="forces", baselines={"mean": {"loss": 1e-3}})
    assert (fit.baselines, fit.is_law) == ({}, True)
    fit = matscale.fit(rows, "n", target="forces", baselines={"mean": {"loss": 1e3, "forces_mae": 1e-3}})
    assert (fit.baselines, fit.verdict) == ({"mean": 1e-3}, "no learning")


def test_a_plateau_of_small_models_is_not_part_of_a_law(rng: Rng) -> None:
    rows = ladder(rng, SIZES[4:], noise=0.003, prefactor=400.0)
    rows += [{"arch": "m", "n": n, "seed": 0, "loss": 40.0 + 0.01 * k} for k, n in enumerate(SIZES[:4])]
    fit = matscale.fit(rows, "n")
    assert fit.verdict == "not identifiable"
    assert "a" in triggers(fit)


def test_losses_that_agree_at_a_floor_are_no_plateau() -> None:
    assert learning(np.array([9.0, 5.0, 3.0, 2.0, 1.52, 1.51, 1.5]), None) == []


def test_one_size_that_decides_the_exponent_is_named(rng: Rng) -> None:
    rows = ladder(rng, noise=0.001, seeds=1)
    rows[-1]["loss"] = float(rows[-1]["loss"]) * 2.5  # type: ignore[arg-type]
    fit = matscale.fit(rows, "power", axis="n")
    assert fit.verdict == "not identifiable"
    assert any(r.trigger == "d" and "n = 1,000,000" in str(r) for r in fit.reasons)


@pytest.mark.parametrize("seed", [4, 6])
def test_a_size_that_the_others_foretell_is_no_reason_against_a_joint_law(seed: int) -> None:
    """Without one end of five sizes, alpha changes by more than its half-width, as in one true law of seven."""
    fit = matscale.fit(grid(np.random.default_rng(seed), 5, 5, 3, 0.01), "nd", samples=100)
    assert fit.verdict == "law with floor"


def high_at(table: Table, axis: str, at: int, off: float) -> Table:
    """Copy of a table in which the losses at one value of a variable, number `at`, are higher by `off` in ln."""
    values = np.unique(table[axis])
    losses = np.where(table[axis] == values[at], table["loss"] * np.exp(off), table["loss"])
    return replace(table, numbers={**table.numbers, "loss": losses})


@pytest.mark.parametrize("off", [0.3, 0.1])
def test_a_size_off_the_others_that_decides_an_exponent_is_a_reason_against_a_joint_law(off: float) -> None:
    table = high_at(grid(np.random.default_rng(0), 9, 5, 3, 0.005), "n", 0, off)
    fit = matscale.fit(table, "nd", samples=100)
    assert [reason.trigger for reason in fit.reasons] == ["d"]
    assert str(fit.reasons[0]).startswith("d: without n = 10,000, alpha changes by -")


@pytest.mark.parametrize(("at", "off"), [(-1, 0.1), (-1, 0.05), (0, 0.1)])
def test_an_amount_of_data_off_the_others_that_decides_an_exponent_is_a_reason_too(at: int, off: float) -> None:
    table = high_at(grid(np.random.default_rng(0), 6, 5, 3, 0.005), "d", at, off)
    fit = matscale.fit(table, "nd", samples=100)
    assert not fit.is_law
    named = {-1: "d = 100,000", 0: "d = 1,000"}[at]
    assert any(r.trigger == "d" and named in str(r) and "beta changes by" in str(r) for r in fit.reasons)


def test_both_ends_of_the_data_off_are_no_joint_law() -> None:
    """A floor and a power nearly follow the bend, and leaving out one end changes no exponent by its half-width."""
    table = high_at(high_at(grid(np.random.default_rng(3), 6, 5, 2, 0.02), "d", 0, 0.1), "d", -1, 0.1)
    fit = matscale.fit(table, "nd", samples=100)
    assert fit.verdict == "rejected"
    assert [str(r)[:55] for r in fit.reasons] == ["e: runs of d = 100,000 lie +5.6 % off the law together "]


def test_each_variable_of_any_joint_law_is_tested(rng: Rng) -> None:
    rows = [
        {"n": n, "e": e, "loss": (0.5 + 30 * n**-0.3 * e**-0.2) * np.exp(0.005 * rng.standard_normal())}
        for n in np.geomspace(1e4, 1e6, 6)
        for e in (1.0, 4.0, 16.0, 64.0, 256.0)
        for _ in range(3)
    ]
    true = Table.of(rows)
    assert "d" not in triggers(matscale.fit(true, "experts", samples=100))
    high = matscale.fit(high_at(true, "e", -1, 0.1), "experts", samples=100)
    assert any(r.trigger == "d" and "e = 256" in str(r) for r in high.reasons)


def test_true_joint_laws_are_not_refused_for_an_amount_of_data() -> None:
    rng = np.random.default_rng(5)
    found = [triggers(matscale.fit(grid(rng, 6, 5, 2, 0.02), "nd", samples=50)) for _ in range(8)]
    assert sum("d" in fired for fired in found) <= 1


def test_amounts_of_data_that_are_off_but_decide_nothing_are_no_reason_against_a_joint_law() -> None:
    """A middle amount of data lies 1 % off, far beyond the noise of 60 runs, and no exponent depends on it."""
    table = high_at(grid(np.random.default_rng(0), 6, 10, 10, 0.01), "d", 5, 0.01)
    assert matscale.fit(table, "nd", samples=100).is_law


def test_points_that_bend_where_no_break_can_be_fitted_are_not_a_law(rng: Rng) -> None:
    x = np.log(np.geomspace(1e4, 1e6, 8))
    y = 2 - 0.3 * (x - x.mean()) - 0.08 * (x - x.mean()) ** 2 + 0.003 * rng.standard_normal(8)
    rows = [{"arch": "m", "n": float(np.exp(a)), "loss": float(np.exp(b))} for a, b in zip(x, y)]
    assert {"e", "f"} <= triggers(matscale.fit(rows, "power", axis="n"))


def test_true_laws_are_called_laws_most_of_the_time() -> None:
    rng, laws, reps = np.random.default_rng(8), 0, 40
    for _ in range(reps):
        laws += matscale.fit(ladder(rng, scatter=0.01), "power", axis="n").is_law
    assert laws / reps > 0.7


# What a fit holds ---------------------------------------------------------------------------------------------------


def test_the_plain_form_has_the_stable_keys_and_is_json(rng: Rng) -> None:
    plain = matscale.fit(ladder(rng), "n").plain()
    stable = "law parameters intervals verdict reasons range n_sizes n_seeds excluded held_out"
    assert set(stable.split()) <= set(plain)
    assert plain["verdict"] in VERDICTS
    assert (plain["n_sizes"], plain["n_seeds"], plain["n_runs"]) == (8, 3, 24)
    assert plain["range"]["n"] == pytest.approx([1e4, 1e6])
    json.dumps(plain, allow_nan=False)


def test_the_two_largest_of_eight_sizes_are_predicted_from_the_others(rng: Rng) -> None:
    fit = matscale.fit(ladder(rng, noise=0.002), "power", axis="n")
    assert [round(h.at["n"]) for h in fit.held_out] == [round(n) for n in SIZES[-2:]]
    assert all(abs(h.error) < 0.02 and h.covered for h in fit.held_out)


def test_predictions_are_those_of_the_printed_parameters(rng: Rng) -> None:
    fit = matscale.fit(ladder(rng), "power", axis="n")
    loss, low, high = fit.predict(np.array([1e4, 1e5]))
    np.testing.assert_allclose(loss, fit.parameters["A"] * np.array([1e4, 1e5]) ** -fit.parameters["alpha"])
    assert np.all((low < loss) & (loss < high))
    assert np.all(fit.predict(1e5, new=False)[2] < high[1])
    joint = matscale.fit(grid(rng), "nd", samples=50)
    p = joint.parameters
    at_once = joint.predict({"n": 1e5, "d": np.array([1e4, 1e5])})[0]
    np.testing.assert_allclose(
        at_once, p["E"] + p["A"] * 1e5 ** -p["alpha"] + p["B"] * np.array([1e4, 1e5]) ** -p["beta"]
    )


def test_residuals_are_what_the_law_leaves(rng: Rng) -> None:
    fit = matscale.fit(ladder(rng), "power", axis="n")
    np.testing.assert_allclose(np.exp(fit.residuals), np.exp(fit.y) / fit.predict(np.exp(fit.x[:, 0]))[0])


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_sizes_are_refused(rng: Rng, count: int) -> None:
    with pytest.raises(DataError, match="a law needs at least 4 sizes"):
        matscale.fit(ladder(rng, SIZES[:count]), "n")


def test_an_unknown_law_is_answered_with_the_nearest(rng: Rng) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'floor'"):
        matscale.fit(ladder(rng), "flor")


@pytest.mark.parametrize(
    ("law", "options"),
    [
        ("nd", {"at": 1e3}),
        ("auto", {"at": 1e3}),
        ("frontier", {"at": 1e3}),
        ("n", {"axis": "d"}),
        ("nd", {"axis": "n"}),
    ],
)
def test_an_option_that_a_law_has_no_use_for_is_refused(rng: Rng, law: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(options))} .* law {law} (are|has)"):
        matscale.fit(grid(rng), law, **options)


def test_a_law_in_data_that_nobody_has_names_what_there_is(rng: Rng) -> None:
    with pytest.raises(DataError, match=r"no column d \(data\). It has n"):
        matscale.fit(ladder(rng), "d")


def test_several_architectures_need_a_choice(rng: Rng) -> None:
    rows = [*ladder(rng, arch="a"), *ladder(rng, arch="b")]
    with pytest.raises(ConfigError, match="2 architectures: a, b"):
        matscale.fit(rows, "n")
    assert matscale.fit(rows, "n", architecture="b").architecture == "b"
    with pytest.raises(ConfigError, match="There are no runs of 'c'"):
        matscale.fit(rows, "n", architecture="c")


# Joint laws ---------------------------------------------------------------------------------------------------------


def test_a_grid_gives_the_joint_law_that_made_it(rng: Rng) -> None:
    fit = matscale.fit(grid(rng, 8, 6, 2, 0.005), samples=100)
    assert fit.law.name == "nd"  # auto: there is a grid
    assert fit.verdict == "law with floor"
    for name, truth in {"alpha": 0.3, "beta": 0.35, "E": 0.5}.items():
        low, high = fit.intervals[name]
        assert low < truth < high
    assert fit.held_out[-1].covered
    assert abs(fit.held_out[-1].error) < 0.03


def test_outliers_are_listed_with_the_exponents_without_them(rng: Rng) -> None:
    table = grid(rng, 8, 6, 2, 0.002)
    loss = table["loss"].copy()
    loss[40] *= 1.6
    fit = matscale.fit(Table({**table.numbers, "loss": loss}, table.words), "nd", samples=50)
    assert any("1 outlier beyond 5 σ kept: row 41 (+" in note and "without it alpha" in note for note in fit.notes)
    assert fit.parameters["alpha"] == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(("n", "d"), [(3, 5), (6, 2)])
def test_a_grid_that_is_too_small_is_an_incomplete_design(rng: Rng, n: int, d: int) -> None:
    fit = matscale.fit(grid(rng, n, d, 2), "nd", samples=50)
    assert fit.verdict == "incomplete design"
    assert triggers(fit) == {"b"}


def test_a_ladder_without_a_grid_cannot_carry_a_joint_law(rng: Rng) -> None:
    rows = [{**row, "d": 1000.0} for row in ladder(rng)]
    with pytest.raises(DataError, match=r"d 1\) are too few"):
        matscale.fit(rows, "nd")


def test_auto_fits_every_law_that_the_table_can_carry(rng: Rng) -> None:
    fits = fit_all(grid(rng, 6, 5, 1), options=Options(samples=50))
    assert [(fit.axes, fit.points) for fit in fits] == [
        (("n",), "size means"),
        (("d",), "size means"),
        (("n", "d"), "runs"),
        (("c",), "frontier"),
    ]


def test_a_joint_law_that_the_slices_of_the_grid_contradict_is_told_so(rng: Rng) -> None:
    fit = matscale.fit(grid(rng, noise=0.005), "nd", samples=60)
    assert isinstance(fit.spread, Draws)
    assert contradicted(fit.law, fit.spread, fit.table) == []
    steeper = np.array([0.0, 0.0, 0.0, 0.1, 0.0])  # alpha
    wrong = replace(fit.spread, theta=fit.theta + steeper, draws=fit.spread.draws + steeper)
    [reason] = contradicted(fit.law, wrong, fit.table)
    assert reason.trigger == "g"
    assert "at 5 values of d the slope in n is -0." in str(reason)


def test_repeated_epochs_are_seen_by_the_repetition_law(rng: Rng) -> None:
    rows = []
    for n in np.geomspace(1e4, 1e6, 6):
        for u in np.geomspace(1e3, 1e5, 4):
            for epochs in (1, 4, 16, 64, 256):
                useful = u + u * 15 * -np.expm1(-(epochs - 1) / 15)
                loss = (0.5 + 30 * n**-0.3 + 60 * useful**-0.35) * np.exp(0.002 * rng.standard_normal())
                sizes = {"n": float(n), "u": float(u), "s": float(u * epochs), "d": float(u)}
                rows.append({"arch": "m", **sizes, "loss": float(loss)})
    fit = matscale.fit(rows, "repetition", samples=50)
    assert fit.parameters["R*"] == pytest.approx(15, rel=0.1)
    assert fit.parameters["beta"] == pytest.approx(0.35, abs=0.02)


def test_epochs_that_harm_are_seen_by_the_overfitting_law(rng: Rng) -> None:
    rows = []
    for n in np.geomspace(1e4, 1e6, 6):
        for u in np.geomspace(1e3, 1e5, 4):
            for epochs in (1, 4, 16, 64, 256):
                penalty = 0.004 * ((epochs - 1) * n / u) ** 0.5
                loss = 0.5 + 30 * n**-0.3 + 60 * (u * epochs) ** -0.35 + penalty
                sizes = {"n": float(n), "u": float(u), "s": float(u * epochs), "d": float(u)}
                rows.append({"arch": "m", **sizes, "loss": float(loss * np.exp(0.002 * rng.standard_normal()))})
    fit = matscale.fit(rows, "overfitting", samples=100)
    assert fit.is_law
    for name, true in {"E": 0.5, "alpha": 0.3, "beta": 0.35, "P": 0.004, "kappa": 0.5}.items():
        low, high = fit.intervals[name]
        assert low < true < high, name
        assert high - low < 0.2 * true, name
    saturating = matscale.fit(rows, "repetition", samples=50)
    assert np.std(fit.residuals) < 0.2 * np.std(saturating.residuals)  # no D' rises with the number of epochs


# Compute ------------------------------------------------------------------------------------------------------------


def curves(rng: Rng, exponent: float = 0.3) -> list[dict[str, object]]:
    """Runs of 8 sizes: each follows a power of compute down to where its size stops it."""
    rows: list[dict[str, object]] = []
    for k, n in enumerate(np.geomspace(1e4, 1e6, 8)):
        end = 1e10 * (n / 1e4) ** 2
        best = 3000 * end**-exponent
        for step, c in enumerate(np.geomspace(end / 100, end, 40)):
            loss = best * (1 + 0.5 * ((end / c) ** 0.5 - 1)) * np.exp(0.002 * rng.standard_normal())
            rows.append(
                {"arch": "m", "run": f"r{k}", "step": float(step), "n": float(n), "c": float(c), "loss": float(loss)}
            )
    return rows


def test_the_frontier_of_curves_has_the_exponent_of_their_envelope(rng: Rng) -> None:
    fit = matscale.fit(curves(rng), "frontier", samples=100)
    assert fit.points == "frontier"
    low, high = fit.intervals["alpha"]
    assert low < 0.3 < high
    assert fit.parameters["alpha"] == pytest.approx(0.3, abs=0.02)


def test_a_run_that_never_touches_the_frontier_is_listed(rng: Rng) -> None:
    rows = curves(rng)
    bad = [{**row, "run": "bad", "loss": 3 * float(row["loss"])} for row in rows if row["run"] == "r3"]  # type: ignore[arg-type]
    fit = matscale.fit([*rows, *bad], "frontier", samples=60)
    assert {e.reason for e in fit.excluded} == {"is not on the compute frontier"}
    assert "bad" not in fit.table.words["run"].tolist()


def test_a_frontier_that_few_runs_touch_is_refused(rng: Rng) -> None:
    rows = [row for row in curves(rng) if row["run"] in ("r0", "r7")]
    with pytest.raises(DataError, match="Only 2 runs of 2 lie on the compute frontier; a law needs 4 runs"):
        matscale.fit(rows, "frontier")


def test_the_hull_is_convex_falls_and_lies_below_all_points(rng: Rng) -> None:
    c = np.sort(rng.uniform(0, 10, 200))
    loss = 5 - 0.4 * c + rng.exponential(0.5, 200)
    at = hull(c, loss)
    slopes = np.diff(loss[at]) / np.diff(c[at])
    assert np.all(slopes < 0)
    assert np.all(np.diff(slopes) > 0)
    inside = (c >= c[at[0]]) & (c <= c[at[-1]])
    assert np.all(loss[inside] >= np.interp(c[inside], c[at], loss[at]) - 1e-12)


def test_the_hull_of_all_curves_is_that_of_their_own_hulls(rng: Rng) -> None:
    found = frontier.curves(Table.of(curves(rng)))
    names, x, y = frontier.touching([frontier.corners(curve) for curve in found])
    wanted = frontier.touching(found)
    assert 3 < len(names) == len(wanted[0])
    np.testing.assert_array_equal(names, wanted[0])
    np.testing.assert_allclose(np.stack([x, y]), np.stack(wanted[1:]))


def isoflop_rows(rng: Rng, center: Callable[[float], float], noise: float = 0.0) -> list[dict[str, object]]:
    rows = []
    for c in np.geomspace(1e12, 1e15, 5):
        for n in np.geomspace(1e3, 1e7, 13):
            loss = c**-0.05 * np.exp(0.02 * np.log(n / center(c)) ** 2 + noise * rng.standard_normal())
            rows.append({"arch": "m", "n": float(n), "c": float(c), "loss": float(loss)})
    return rows


def test_isoflop_sets_give_the_exponent_of_the_best_size(rng: Rng) -> None:
    fit = matscale.fit(isoflop_rows(rng, lambda c: 1e5 * (c / 3e13) ** 0.5), "isoflop")
    assert fit.parameters["alpha"] == pytest.approx(-0.5, abs=0.01)
    assert fit.verdict == "law"


def test_isoflop_sets_of_runs_that_learned_nothing_have_no_best_size(rng: Rng) -> None:
    fit = matscale.fit(
        isoflop_rows(rng, lambda c: 1e5 * (c / 3e13) ** 0.5), "isoflop", baselines={"zero": {"loss": 1e-3}}
    )
    assert fit.verdict == "no learning"
    assert str(fit.reasons[0]).startswith("a: the best loss")


def test_a_budget_whose_optimum_is_at_the_edge_is_dropped_and_said(rng: Rng) -> None:
    rows = isoflop_rows(rng, lambda c: 3e5 * (c / 3e13) ** 1.1)
    table = Table.of(rows)
    assert [o.at_edge for o in optima(table)] == [False, False, False, False, True]
    fit = matscale.fit(rows, "isoflop")
    assert "h" in triggers(fit)
    assert any("at the edge" in note for note in fit.notes)


def test_runs_without_common_budgets_are_no_isoflop_sets(rng: Rng) -> None:
    rows = [{**row, "c": float(row["n"]) * 50} for row in ladder(rng)]  # type: ignore[arg-type]
    with pytest.raises(DataError, match="No compute budget has runs of 4 or more sizes"):
        matscale.fit(rows, "isoflop")


def test_a_prediction_at_a_number_is_a_number(rng: Rng) -> None:
    fit = matscale.fit(ladder(rng), "power", axis="n")
    loss, low, high = fit.predict(1e5)
    assert [type(value) for value in (loss, low, high)] == [float] * 3
    assert fit.predict(np.array([1e5]))[0].tolist() == [loss]
    assert fit.predict(np.full((2, 3), 1e5))[1].shape == (2, 3)
    joint = matscale.fit(grid(rng), "nd", samples=50)
    assert isinstance(joint.predict({"n": 1e5, "d": 1e4})[0], float)


def test_no_floor_is_spoken_of_where_no_form_with_one_was_tried(rng: Rng) -> None:
    found = matscale.fit(ladder(rng), "power", axis="n")
    assert "no form with a floor was tried" in found.notes
    assert not any("not identifiable" in note for note in found.notes)
