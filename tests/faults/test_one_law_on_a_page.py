"""Where a joint law with a floor stands, its slices are local slopes, and exponents are compared by joint laws."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import matscale
from matscale.cli import main
from matscale.cli.laws.text import comparison_text, fit_text
from matscale.core.hosting.host import host
from matscale.core.report.build import Report, build
from matscale.core.report.tables import verdicts
from matscale.core.report.words import pair_sentences, sentence
from matscale.core.scaling.comparison.compare import compare
from matscale.core.scaling.fit import beside
from matscale.core.scaling.tables.sources import read
from matscale.core.scaling.tables.table import Table
from synthetic_runs import ARCHITECTURES, make_study

DATA = (1e3, 3e3, 1e4, 3e4, 1e5)
TRUE = {name: exponent for name, (exponent, _) in ARCHITECTURES.items()}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sizes on four amounts of data, with a floor of 4: the slices alone look like powers of 0.12 and 0.10."""
    return make_study(tmp_path_factory.mktemp("floor"), data=(1000, 3000, 10_000, 30_000), n_validations=2)


@pytest.fixture(scope="module")
def report(study: Path) -> Report:
    return build([str(study)], samples=50)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with more sizes and seeds, so that both joint laws stand."""
    sizes = (3000, 6000, 12_000, 25_000, 50_000, 100_000, 200_000, 400_000)
    return make_study(tmp_path_factory.mktemp("wide"), sizes=sizes, seeds=2, n_validations=2)


@pytest.fixture(scope="module")
def compared(wide: Path) -> dict:
    result = CliRunner().invoke(main, ["compare", str(wide), "--axis", "n", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_slice_of_a_grid_with_a_floor_is_a_local_slope(study: Path) -> None:
    fit = matscale.fit(study, "n", architecture="schnet", samples=100)
    assert (fit.verdict, fit.is_law) == ("local slope", False)
    reason = fit.reasons[0]
    assert str(reason).startswith("i: the joint law nd has a floor of ")
    assert "alpha of n is 0.2" in reason.text
    assert matscale.fit(study, "nd", architecture="schnet", samples=100).verdict == "law with floor"


def test_a_floor_that_a_doubtful_joint_law_shows_makes_a_slope_local_too(study: Path) -> None:
    fit = replace(matscale.fit(study, "n", architecture="transformer", samples=100), verdict="law", reasons=())
    joint = matscale.fit(study, "nd", architecture="transformer", samples=100)
    found = beside(fit, replace(joint, verdict="not identifiable"))
    assert found.verdict == "local slope"
    assert "the joint law nd, itself not identifiable, has a floor" in str(found.reasons[0])


def test_the_joint_laws_hold_the_exponents_that_made_the_study(compared: dict) -> None:
    for name, exponent in TRUE.items():
        low, high = compared["joint"][name]["intervals"]["alpha"]
        assert low < exponent < high


def test_exponents_are_compared_by_the_joint_laws(compared: dict, wide: Path) -> None:
    [pair] = compared["pairs"]
    assert pair["basis"] == "alpha of the joint laws nd"
    assert pair["interval"][0] < TRUE["schnet"] - TRUE["transformer"] < pair["interval"][1]
    assert pair["verdict"] == "exponents differ"
    text = CliRunner().invoke(main, ["compare", str(wide), "--axis", "n"]).stdout
    assert "difference of exponents (alpha of the joint laws nd) 0.07" in text
    assert text.count("joint law  ") == 2
    table = read(wide)
    found = compare(table, [], [law for law in host().laws() if law.axes == ("x",)], axis="n")
    assert "(alpha of the joint laws nd) 0.07" in " ".join(pair_sentences(found.pairs[0], found))


def test_a_comparison_over_compute_is_one_of_the_joint_laws_and_says_that_its_slopes_are_local(study: Path) -> None:
    result = CliRunner().invoke(main, ["compare", str(study), "--axis", "c"])
    assert result.exit_code == 0, result.output
    assert "schnet is local slope (i: the joint law nd has a floor of" in result.stdout
    assert "difference of exponents (of C at the best n and d by the joint laws nd) 0.0" in result.stdout
    assert result.stdout.count("  joint law  ") == 2


def test_the_report_has_one_word_for_slices_and_another_for_laws(report: Report) -> None:
    for fit, row in zip(report.analysis.fits, verdicts(report.analysis).rows, strict=True):
        if fit.axes == ("n",):
            assert str(row[2]) == '<span class="chip part">local slope</span>'
        if fit.axes == ("n", "d") and fit.architecture == "schnet":
            assert str(row[2]) == '<span class="chip yes">law with floor</span>'
    [panel] = [panel for panel in report.panels if panel.name == "loss-n"]
    lines = [trace for trace in panel.figure.data if trace.name and trace.name.startswith("schnet: local slope")]
    assert {min(line.x) for line in lines} == {3000}
    assert {max(line.x) for line in lines} == {300_000}
    assert "a slope of α = 0.1" in panel.sentences[0]
    assert "not an exponent" in panel.sentences[0]


def of_grid(
    rng: np.random.Generator,
    arch: str,
    noise: float,
    data: tuple[float, ...],
    *,
    sizes: Sequence[float] = (1e4, 2.5e4, 6e4, 1.6e5, 4e5, 1e6),
    alpha: float = 0.3,
    grows: float = 1.0,
) -> list[dict[str, object]]:
    """Three seeds of each of some sizes on some amounts of data, with a floor of 0.5; c grows with d to a power."""
    return [
        {
            "arch": arch,
            "n": n,
            "d": d,
            "c": 50 * n**0.9 * d**grows,
            "seed": seed,
            "loss": float((0.5 + 30 * n**-alpha + 60 * d**-0.35) * np.exp(noise * rng.standard_normal())),
        }
        for n in sizes
        for d in data
        for seed in range(3)
    ]


@pytest.mark.parametrize(
    ("noise", "data", "axis", "why", "helps"),
    [
        (0.1, DATA, "n", "the joint law of other is not identifiable (c: ", "more seeds of other"),
        (0.005, DATA[-1:], "n", "other has no joint law, since it has no grid of n and d", "other on a grid: at least"),
        (0.005, DATA, "c", "the joint law of good has no exponent of compute: FLOPs do not grow with d", "--axis n"),
    ],
)
def test_no_difference_is_stated_from_slices_where_a_joint_law_has_a_floor(
    noise: float, data: tuple[float, ...], axis: str, why: str, helps: str
) -> None:
    rng, forms = np.random.default_rng(3), [host().law("power")]
    grows = 0.0 if axis == "c" else 1.0
    rows = of_grid(rng, "good", 0.005, DATA, grows=grows) + of_grid(rng, "other", noise, data, grows=grows)
    table = Table.of(rows)
    [pair] = compare(table, [], forms, axis=axis, margin=0.02).pairs
    assert (pair.verdict, np.isnan(pair.p), np.isnan(pair.p_equal)) == ("not comparable", True, True)
    assert np.isnan([pair.difference, *pair.interval, pair.standard_error]).all()  # what --json would show
    assert "slopes of slices are local, since the joint law nd has a floor: 0.4" in pair.reason
    assert why in pair.reason
    assert pair.settling.text.startswith(helps)


EIGHT = tuple(np.geomspace(1e4, 1e6, 8))


@pytest.fixture(scope="module")
def floored() -> Table:
    """Two architectures whose slices and joint laws all show floors; the joint exponents of compute differ by 0.016."""
    rng = np.random.default_rng(0)
    parts = (("a", 0.3), ("b", 0.24))
    return Table.of([row for arch, alpha in parts for row in of_grid(rng, arch, 0.002, DATA, sizes=EIGHT, alpha=alpha)])


FLOOR = [host().law("floor")]


def test_joint_laws_are_compared_where_both_stand_though_slices_have_floors(floored: Table) -> None:
    result = compare(floored, [], FLOOR, axis="c")
    [pair] = result.pairs
    assert pair.basis == "of C at the best n and d by the joint laws nd"
    true = 0.3 * 0.35 / (0.3 + 0.9 * 0.35) - 0.24 * 0.35 / (0.24 + 0.9 * 0.35)
    assert pair.interval[0] < true < pair.interval[1]
    assert {fit.verdict for fit in result.fits.values()} == {"local slope"}
    assert str(result.fits["a"].reasons[0]).startswith("i: the joint law nd has a floor of 0.")
    assert set(result.joint) == set(result.plain()["exponents_of_joint"]) == {"a", "b"}
    text = comparison_text(result)
    assert "law with floor  of C at the best n and d = 0.1" in text
    assert "at the best n and d of each for the same loss, by the joint law nd of each: " in text
    assert pair.multipliers[-1].plain()["laws"] == {"a": "joint law nd", "b": "joint law nd"}


def test_a_slice_with_a_floor_of_its_own_is_no_second_law(floored: Table) -> None:
    fit = matscale.fit(floored, "floor", architecture="a", axis="n", samples=100)
    assert (fit.law.name, fit.verdict) == ("floor", "local slope")
    assert "the floor of this slice, 1.5" in fit.reasons[0].text
    assert fit.reasons[0].text.endswith("and its exponent hold at d = 100,000 only")
    assert "(of this slice alone)" in fit_text(fit)
    assert "for this slice alone: the joint law nd has a floor of" in sentence(fit)


def test_the_law_of_each_side_is_named_where_they_differ() -> None:
    rng = np.random.default_rng(3)
    rows = of_grid(rng, "a", 0.005, DATA) + of_grid(rng, "b", 0.005, DATA[-1:])
    result = compare(Table.of(rows), [], [host().law("power")], axis="c")
    [told] = [line for line in comparison_text(result).split("\n") if line.strip().startswith("FLOPs of ")]
    assert "by the joint law nd of a and the law power in c of b" in told or "law power in c of b and the joint" in told
    assert set(result.joint) == {"a"}
