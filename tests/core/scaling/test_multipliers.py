"""What one architecture needs of another's compute, hours, parameters or data for the same loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from laws_data import grid, ladder

from matscale.core.hosting.host import host
from matscale.core.report import laws_figures
from matscale.core.report.words import cheaper
from matscale.core.scaling.comparison.cheaper import BEST, Multiplier, Point, details, sentences
from matscale.core.scaling.comparison.compare import Comparison, compare
from matscale.core.scaling.comparison.multipliers import Needs, _between
from matscale.core.scaling.tables.table import Table

Rng = np.random.Generator
LAWS = [host().law("power")]
BOTH = [host().law("power"), host().law("floor")]
EIGHT = tuple(np.geomspace(1e3, 1e6, 8).round())


def table(
    *parts: Sequence[dict[str, object]], per_hour: dict[str, float] | None = None, devices: Sequence[str] = ()
) -> Table:
    """Runs of several ladders, with C = 50 n^0.9; with hours where `per_hour` says the FLOPs in one."""
    rows = [{**row, "c": 50 * float(str(row["n"])) ** 0.9, "run": f"{k}"} for k, row in enumerate(chain(*parts))]
    arch = sorted({str(row["arch"]) for row in rows})
    speeds = [
        {
            "run": row["run"], "n": row["n"], "device": dict(zip(arch, devices))[str(row["arch"])], "precision": "fp32",
            "flops_per_s": per_hour[str(row["arch"])] / 3600,
        }
        for row in rows
        if per_hour is not None
    ]  # fmt: skip
    return Table.of(rows, names={"c": "flops", "loss": "loss"}, facts={"speeds": speeds})


def by_axis(result: Comparison) -> dict[str, Multiplier]:
    return {one.axis: one for one in result.pairs[0].multipliers if one.basis != BEST}


PREFACTORS = {"a": 30.0, "b": 36.0}
ONE_DEVICE = {"per_hour": {"a": 1e6, "b": 2e6}, "devices": ["cpu (2 threads)"] * 2}


@pytest.fixture(scope="module")
def parallel() -> Comparison:
    """Two laws of one exponent, scattered by 2 %; `b` needs 1.84 times the parameters of `a`."""
    rng = np.random.default_rng(0)
    parts = [ladder(rng, arch=arch, prefactor=p, scatter=0.02) for arch, p in PREFACTORS.items()]
    return compare(table(*parts, **ONE_DEVICE), [], LAWS, axis="n", at_loss=[1.0, 1.5])  # type: ignore[arg-type]


def test_parallel_laws_need_the_same_multiple_at_every_loss(parallel: Comparison) -> None:
    found = by_axis(parallel)
    true = 1.2 ** (1 / 0.3)
    assert list(found) == ["c", "hours", "n"]
    assert all(1 / point.high < true < 1 / point.low for point in found["n"].points)
    assert all(1 / point.high < true**0.9 < 1 / point.low for point in found["c"].points)
    losses = [point.loss for point in found["n"].points]
    assert losses == sorted(losses)


def test_hours_follow_the_speed_of_the_runs(parallel: Comparison) -> None:
    found = by_axis(parallel)
    assert found["hours"].points[5].value == pytest.approx(2 * found["c"].points[5].value, rel=0.02)


def test_the_interval_of_two_powers_is_that_of_linear_theory(parallel: Comparison) -> None:
    middle = by_axis(parallel)["n"].points[10]
    variance = 0.0
    for fit in parallel.fits.values():
        alpha = fit.parameters["alpha"]
        at = np.array([[(np.log(middle.loss) - np.log(fit.parameters["A"])) / -alpha]])
        variance += (float(fit.spread.half_width(at, new=False)[0]) / alpha) ** 2  # type: ignore[union-attr]
    assert 0.5 * np.log(middle.high / middle.low) == pytest.approx(np.sqrt(variance), rel=0.15)


def test_laws_that_cross_need_more_on_one_side_and_less_on_the_other(rng: Rng) -> None:
    rows = table(
        ladder(rng, arch="a", exponent=0.2, prefactor=8.0), ladder(rng, arch="b", exponent=0.3, prefactor=24.0)
    )
    found = by_axis(compare(rows, [], LAWS, axis="n"))["n"]
    assert found.points[0].low > 1 > found.points[-1].high


def test_below_the_higher_floor_there_is_no_answer(rng: Rng) -> None:
    rows = table(
        ladder(rng, EIGHT, arch="a", floor=1.0, exponent=0.4, prefactor=30.0, noise=0.003),
        ladder(rng, EIGHT, arch="b", exponent=0.3, noise=0.003),
    )
    result = compare(rows, [], BOTH, axis="n")
    found = by_axis(result)["n"]
    assert found.floor is not None
    name, loss, low, high = found.floor
    assert name == "a"
    assert low < 1.0 < high
    assert loss < found.points[0].loss
    assert found.points[0].value > found.points[10].value, "a needs more and more towards its floor"
    assert "no answer below a loss of 1.0" in " ".join(details(result.pairs[0].multipliers, "loss"))


def test_hours_are_compared_on_one_device_only(rng: Rng) -> None:
    parts = (ladder(rng, arch="a"), ladder(rng, arch="b"))
    speeds = {"a": 1e6, "b": 2e6}
    devices = ["cpu (1 threads)", "cpu (2 threads)"]
    other = by_axis(compare(table(*parts, per_hour=speeds, devices=devices), [], LAWS, axis="n"))["hours"]
    assert other.points == ()
    assert other.reason == (
        "hours were spent on different devices, threads or arithmetic: a on cpu (1 threads), fp32; "
        "b on cpu (2 threads), fp32"
    )


def test_hours_that_were_mapped_to_compute_are_hours(rng: Rng) -> None:
    parts = (ladder(rng, arch="a"), ladder(rng, arch="b"))
    rows = table(*parts, per_hour={"a": 1.0, "b": 1.0}, devices=["cpu (1 threads)", "cpu (2 threads)"])
    found = by_axis(compare(replace(rows, names={"c": "gpu_hours"}), [], LAWS))["c"]
    assert found.what == "hours"
    assert "hours were spent on different devices" in found.reason


def test_losses_that_only_one_has_points_for_are_not_compared(rng: Rng) -> None:
    rows = table(ladder(rng, arch="a"), ladder(rng, arch="b", prefactor=3000.0))
    result = compare(rows, [], LAWS, axis="n")
    assert "there is no loss that both have points for: a 0.4" in by_axis(result)["n"].reason
    assert result.cheaper[0].startswith(
        "For the same loss, it is unknown how much a needs, compared with b: there is no loss"
    )
    assert laws_figures.cheaper(result) is None


def test_what_is_known_is_said_before_what_is_not(rng: Rng) -> None:
    flat = ladder(rng, arch="b", exponent=0.0, noise=1e-3)
    rows = table(ladder(rng, arch="a"), flat, ladder(rng, arch="c", prefactor=35.0))
    told = compare(rows, [], LAWS, axis="n").cheaper
    assert ["it is unknown" in one for one in told] == [False, True]


def test_an_architecture_that_learned_nothing_needs_no_multiple(rng: Rng) -> None:
    rows = table(ladder(rng, arch="a"), ladder(rng, arch="b", exponent=0.0, noise=1e-3))
    [told] = compare(rows, [], LAWS, axis="n").cheaper
    assert "compared with b: b is no learning (a: " in told


def test_the_data_multiplier_holds_the_size_of_each(rng: Rng) -> None:
    parts = [ladder(rng, axis="d", arch=arch, prefactor=p) for arch, p in (("a", 30.0), ("b", 36.0))]
    rows = [{**row, "n": 1e4 if row["arch"] == "a" else 2e4} for row in chain(*parts)]
    result = compare(Table.of(rows), [], LAWS, axis="d")
    [found] = result.pairs[0].multipliers
    assert found.what == "data"
    assert found.points[5].low < 1.2 ** (-1 / 0.3) < found.points[5].high


@pytest.fixture(scope="module")
def grids() -> Table:
    """Two architectures with one law on a grid, so that every multiplier is 1."""
    parts = [grid(np.random.default_rng(k), 6, 5, 2, 0.01, arch=arch) for k, arch in enumerate("ab")]
    numbers = {key: np.concatenate([part[key] for part in parts]) for key in parts[0].numbers}
    return Table(numbers, {key: np.concatenate([part.words[key] for part in parts]) for key in parts[0].words})


def test_joint_laws_say_what_the_best_n_and_d_of_each_cost(grids: Table) -> None:
    result = compare(grids, [], LAWS, axis="c")
    [best] = [one for one in result.pairs[0].multipliers if one.basis == BEST]
    assert all(point.low < 1 < point.high and point.high / point.low < 3 for point in best.points)
    assert best.floor is not None
    assert best.floor[2] < 0.5 < best.floor[3]
    assert result.cheaper[-1].endswith("the best n and d of each)")
    # At fixed data, too, the joint law counts, since its slice is bent by B D^-beta.
    floor = by_axis(result)["c"].floor
    assert floor is not None
    assert floor[2] < 0.5 + 60.0 * 1e5**-0.35 < floor[3]


def test_few_sizes_on_both_sides_are_not_counted_twice() -> None:
    """The interval of a ratio of two laws alike is that of Student's t with the degrees of freedom of both."""
    rng = np.random.default_rng(0)
    normal = [np.concatenate([[0.0], rng.standard_normal(20_000)])[:, None] for _ in range(2)]
    a, b = (
        Needs((0.0, 1.0), lambda losses, one=one: np.tile(one, len(losses)), np.full(20_001, -np.inf), 3.0)
        for one in normal
    )
    found = _between(Multiplier("a", "b", "n", "parameters", ""), [a, b], "", (), ())
    assert np.log(found.points[3].high) == pytest.approx(2.447 * 2**0.5, rel=0.03)  # t at 6 degrees of freedom


def test_joint_laws_replace_a_slice_that_their_floor_bends(grids: Table) -> None:
    result = compare(grids, [], LAWS, axis="n")
    assert set(result.joint) == {"a", "b"}
    found = by_axis(result)
    floor = 0.5 + 60.0 * 1e5**-0.35
    assert found["n"].floor is not None
    assert found["n"].floor[2] < floor < found["n"].floor[3]
    assert found["n"].points[0].value ** 0.9 == pytest.approx(found["c"].points[0].value, rel=0.01)


# In words -------------------------------------------------------------------------------------------------------------


def test_the_sentence_begins_with_the_dearer_one(parallel: Comparison) -> None:
    first, second = parallel.cheaper
    assert first.startswith("For the same loss, b needs 1.")
    assert first.endswith(" the parameters of a (at 1)")
    assert " the FLOPs, 0.9" in first
    assert " the hours and " in first
    assert second.endswith("(at 1.5)")
    assert [point.loss for point in by_axis(parallel)["n"].asked] == [1.0, 1.5]


def test_with_many_architectures_each_is_set_against_the_best(rng: Rng) -> None:
    rows = table(*(ladder(rng, arch=arch, prefactor=p) for arch, p in (("a", 30.0), ("b", 36.0), ("c", 33.0))))
    result = compare(rows, [], LAWS, axis="n")
    assert len(result.pairs) == 3
    assert [told.split(" the parameters of ")[1][0] for told in result.cheaper] == ["a", "a"]
    figure, (*_, said) = laws_figures.cheaper(result), cheaper(result)
    assert figure is not None
    assert {str(trace.name)[-5:] for trace in figure.data if trace.name} == {"b / a", "c / a"}
    assert said == "Each is compared with a, the first of the ranking; matscale compare has all pairs."


def test_a_multiple_that_is_not_known_is_called_so() -> None:
    one = Multiplier("a", "b", "c", "FLOPs", "", points=(Point(2.0, 3.0, 0.01, float("inf")),))
    [told] = sentences([one], "forces")
    assert told == (
        "For the same forces error, a needs an unknown multiple (0.010 to ∞) of the FLOPs of b "
        "(at 2, the lowest that both have points for)"
    )


def test_a_multiplier_turned_round_is_its_inverse() -> None:
    point = Point(2.0, 0.5, 0.25, 0.8).turned
    assert (point.value, point.low, point.high) == (2.0, 1.25, 4.0)
    assert Point(2.0, 0.5, 0.0, 1.0).turned.high == float("inf")


def test_json_and_the_report_hold_the_curve_with_its_band(parallel: Comparison) -> None:
    result = parallel
    plain = json.loads(json.dumps(result.plain(), allow_nan=False))
    [pair] = plain["pairs"]
    flops = pair["multipliers"][0]
    assert (flops["axis"], flops["what"], len(flops["points"])) == ("c", "FLOPs", 21)
    assert set(flops["points"][0]) == {"loss", "value", "low", "high"}
    assert plain["cheaper"] == result.cheaper
    figure = laws_figures.cheaper(result)
    assert figure is not None
    assert {t.name for t in figure.data if t.name} == {f"{what} of b / a" for what in ("FLOPs", "hours", "parameters")}
    assert sum(t.fill == "toself" for t in figure.data) == 3
    [told] = cheaper(result)
    assert told.startswith("For the same loss, b needs ")
