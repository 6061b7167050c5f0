"""Checks that can fail, names of what was fitted, runs listed once, and notes beside every badge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from markupsafe import escape

import matscale
from matscale.cli.laws.text import fit_text, plan_text
from matscale.core.report.build import Report, build
from matscale.core.report.page import page
from matscale.core.report.tables import verdicts
from matscale.core.scaling.allocation.cost_law import measured_cost
from matscale.core.scaling.allocation.next_runs import propose
from matscale.core.scaling.allocation.plan import make_plan
from matscale.core.scaling.result import Fit
from matscale.core.scaling.tables.table import Table
from synthetic_runs import make_study


def ladder(losses: list[float]) -> list[dict[str, object]]:
    return [{"arch": "m", "n": float(n), "loss": loss} for n, loss in zip(np.geomspace(1e3, 1e6, len(losses)), losses)]


def test_four_sizes_whose_check_cannot_fail_are_no_law() -> None:
    fit = matscale.fit(ladder([10.0, 6.5, 3.0, 1.9]), "power", axis="n")
    [held] = fit.held_out
    assert held.covered
    assert not held.can_fail
    assert fit.verdict == "incomplete design"
    assert any(str(reason).startswith("b: no check: at n = ") for reason in fit.reasons)
    assert "inside the 95 % interval, which is too wide to be a test" in fit_text(fit)
    assert fit.plain()["held_out"][0]["can_fail"] is False


def test_four_sizes_whose_check_can_fail_are_a_law() -> None:
    fit = matscale.fit(ladder([10.0, 5.01, 2.512, 1.259]), "power", axis="n")
    assert fit.held_out[0].can_fail
    assert fit.verdict == "law"


def test_the_law_of_the_best_size_has_its_own_name_and_formula() -> None:
    rows = [
        {"arch": "m", "n": n, "c": c, "loss": c**-0.05 * np.exp(0.02 * np.log(n / (1e5 * (c / 3e13) ** 0.5)) ** 2)}
        for c in np.geomspace(1e12, 1e15, 5)
        for n in np.geomspace(1e3, 1e7, 13)
    ]
    fit = matscale.fit(rows, "isoflop")
    text = fit_text(fit)
    assert text.startswith("m: N_opt(C): LAW\n  N_opt = A C^-alpha\n")
    assert "loss(c)" not in text
    assert "L = A x^-alpha" not in text
    assert (fit.plain()["quantity"], fit.plain()["formula"]) == ("N_opt(C)", "N_opt = A C^-alpha")


@pytest.fixture(scope="module")
def joint() -> Fit:
    """343 points that scatter, without a floor."""
    rng = np.random.default_rng(0)
    rows = [
        {"arch": "m", "n": n, "d": d, "c": 6 * n * d, "seed": k,
         "loss": (30 * n**-0.3 + 60 * d**-0.35) * np.exp(0.03 * rng.standard_normal())}
        for n in np.geomspace(1e4, 1e6, 7) for d in np.geomspace(1e3, 1e5, 7) for k in range(7)
    ]  # fmt: skip
    return matscale.fit(Table.of(rows), "nd", samples=50)


def test_points_that_scatter_are_never_said_not_to(joint: Fit) -> None:
    assert "(no scatter)" not in fit_text(joint)
    stuck = replace(joint, parameters={**joint.parameters, "E": 0.0}, intervals={**joint.intervals, "E": (0.0, 0.0)})
    assert "E        0 (at the bound of the search; no interval)" in fit_text(stuck)
    exact = matscale.fit(ladder([10.0, 5.0, 2.5, 1.25]), "power", axis="n")
    assert "(no scatter)" in fit_text(exact)


def test_a_run_is_proposed_once(joint: Fit) -> None:
    proposals = propose(joint, measured_cost(joint.table), None, count=12)
    assert len({(p.n, p.d) for p in proposals}) == len(proposals) == 12


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_a_run_never_takes_away_more_than_the_whole_variance(noise: float) -> None:
    chance = np.random.default_rng(0)
    rows = [
        {"arch": "m", "n": n, "d": d, "c": 6 * n * d, "loss": (30 * n**-0.3 + 60 * d**-0.35) * np.exp(noise * z)}
        for n in np.geomspace(1e4, 1e6, 5) for d in np.geomspace(1e3, 1e5, 5) for z in chance.standard_normal(1)
    ]  # fmt: skip
    fit = matscale.fit(Table.of(rows), "nd", samples=50)
    assert all(0 <= p.gain <= 1 for p in propose(fit, measured_cost(fit.table), (1e7, 1e6)))
    plan = make_plan(fit, flops=6e11)
    assert ("no next run is proposed" in plan_text(plan, fit)) is not bool(plan.proposals)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return build([str(make_study(tmp_path_factory.mktemp("study")))], samples=50)


def test_every_reason_and_note_stands_beside_its_badge_in_the_report(report: Report) -> None:
    text = page(report)
    said = [str(sentence) for panel in report.panels for sentence in panel.sentences]
    for fit, row in zip(report.analysis.fits, verdicts(report.analysis).rows, strict=True):
        assert str(row[-1]) in text
        for told in (*fit.notes, *(reason.text for reason in fit.reasons)):
            assert escape(told) in row[-1]
            beside = [sentence for sentence in said if escape(told) in sentence]
            assert any(f"<b>{fit.architecture}</b>" in sentence for sentence in beside)
    for note in ("one run per size: the effect of the seed is unknown", "floor not identifiable with 5 sizes"):
        assert any(note in row[-1] for row in verdicts(report.analysis).rows)
