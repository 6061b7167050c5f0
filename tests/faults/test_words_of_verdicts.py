"""Verdicts that are no law say which of three faults it is, what can still be said, and allow a plan on request."""

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
from matscale.cli.laws.text import fit_text
from matscale.core.errors import MatscaleError
from matscale.core.hosting.host import host
from matscale.core.report.words import sentence
from matscale.core.scaling.allocation.plan import make_plan
from matscale.core.scaling.result import Fit
from matscale.core.scaling.tables.table import Table
from matscale.core.scaling.verdict import VERDICTS, Reason, verdict

SIZES = np.geomspace(1e4, 1e6, 8)
POWER = host().law("power")


def rows(losses: Sequence[float] | np.ndarray, sizes: np.ndarray = SIZES) -> list[dict[str, object]]:
    return [{"arch": "m", "n": float(n), "loss": float(loss)} for n, loss in zip(sizes, losses)]


def bent(strength: float = 0.03) -> Fit:
    x = np.log(SIZES / 1e5)
    noise = 0.003 * np.random.default_rng(0).standard_normal(len(x))
    return matscale.fit(rows(np.exp(2 - 0.3 * x - strength * x**2 + noise)), "power", axis="n")


def grid(bend: float = 0.0, sizes: int = 7) -> Table:
    """E + A N^-alpha + B D^-beta with 1 % noise; `bend` adds a term in (ln N)² that the law does not have."""
    rng, found = np.random.default_rng(1), []
    for n in np.geomspace(1e4, 1e6, sizes):
        for d in np.geomspace(1e3, 1e5, 5):
            clean = (0.5 + 30 * n**-0.3 + 60 * d**-0.35) * np.exp(-bend * np.log(n / 1e5) ** 2)
            loss = clean * np.exp(0.003 * rng.standard_normal())
            found.append({"arch": "m", "n": float(n), "d": float(d), "c": float(50 * n * d), "loss": float(loss)})
    return Table.of(found)


@pytest.fixture(scope="module")
def rejected() -> Fit:
    fit = matscale.fit(grid(bend=0.005), "nd", samples=100)
    assert fit.verdict == "rejected"
    return fit


@pytest.mark.parametrize(
    ("triggers", "word"),
    [
        ("", "law"),
        ("i", "local slope"),
        ("b", "incomplete design"),
        ("h", "incomplete design"),
        ("e", "rejected"),
        ("f", "rejected"),
        ("g", "rejected"),
        ("hf", "rejected"),
        ("a", "not identifiable"),
        ("c", "not identifiable"),
        ("d", "not identifiable"),
        ("ibfd", "rejected"),
        ("ibfc", "not identifiable"),
        ("bd", "not identifiable"),
    ],
)
def test_the_weightiest_reason_gives_the_verdict_its_word(triggers: str, word: str) -> None:
    reasons = [Reason(letter, "") for letter in triggers]
    assert verdict(POWER, reasons, {}) == word
    assert verdict(POWER, [*reasons, Reason("a", "", is_no_learning=True)], {}) == "no learning"
    assert word in VERDICTS


def test_a_law_that_misses_a_bend_says_which_slopes_the_range_has() -> None:
    fit = bent()
    assert fit.verdict == "rejected"
    low, high = fit.allowing_for_misfit.intervals["alpha"]
    reach = 2 * 0.03 * np.log(10)  # slope at the ends less the mean slope, over a decade to either side
    assert low < 0.3 - reach < fit.intervals["alpha"][0]
    assert high > 0.3 + reach > fit.intervals["alpha"][1]
    assert high - low < 6 * reach


def test_every_output_says_what_can_still_be_said_of_a_refused_law() -> None:
    fit = bent()
    assert fit.still.startswith("within the range of the points, allowing for the misfit of the law: alpha 0.3")
    plain = fit.plain()
    assert plain["still"] == fit.still
    assert plain["intervals_with_misfit"]["alpha"][0] < plain["intervals"]["alpha"][0]
    assert plain["widening"] == pytest.approx(fit.widening)
    for text in (fit_text(fit), sentence(fit)):
        assert fit.still in text
        assert "not to be used" not in text
    assert "n: REJECTED" in fit_text(fit).replace("loss(n)", "n")
    assert '<span class="chip no">rejected</span>' in sentence(fit)


def test_a_law_has_no_wider_interval_and_nothing_to_add() -> None:
    noise = 0.01 * np.random.default_rng(3).standard_normal(len(SIZES))
    fit = matscale.fit(rows(30 * SIZES**-0.3 * np.exp(noise)), "power", axis="n")
    assert (fit.verdict, fit.still, fit.widening) == ("law", "", 1.0)
    assert fit.allowing_for_misfit is fit
    assert fit.plain()["still"] is None


def test_a_missed_size_widens_the_interval_until_the_size_is_inside() -> None:
    losses = 30 * SIZES**-0.3 * np.exp(0.004 * np.random.default_rng(2).standard_normal(len(SIZES)))
    losses[-1] *= 1.03
    fit = matscale.fit(rows(losses), "power", axis="n")
    assert "f" in {reason.trigger for reason in fit.reasons}
    held = fit.held_out[-1]
    assert held.predicted * (held.low / held.predicted) ** held.widening == pytest.approx(
        held.found, rel=1e-6
    ) or held.predicted * (held.high / held.predicted) ** held.widening == pytest.approx(held.found, rel=1e-6)
    assert fit.widening >= held.widening > 1


def test_a_design_with_three_sizes_says_what_holds_if_the_law_does() -> None:
    fit = matscale.fit(rows(30 * np.array([1e4, 1e5, 1e6]) ** -0.3 * [1.01, 0.99, 1.0], np.array([1e4, 1e5, 1e6])), "n")
    assert fit.verdict == "incomplete design"
    assert fit.still.startswith("if the law holds, which these runs cannot test: alpha 0.3")


def test_a_rejected_law_gives_a_plan_on_request_with_a_wider_uncertainty(rejected: Fit) -> None:
    with pytest.raises(MatscaleError, match=r"is rejected \(.*\)\. Still, within the range .*--despite rejected"):
        make_plan(rejected, flops=1e12)
    with pytest.raises(MatscaleError, match="the joint law is rejected"):
        make_plan(rejected, flops=1e12, despite="incomplete design")
    wide = make_plan(rejected, flops=1e12, despite="rejected")
    narrow = make_plan(replace(rejected, verdict="law"), flops=1e12)
    assert wide.n.value == pytest.approx(narrow.n.value)
    assert wide.n.low < narrow.n.low < narrow.n.high < wide.n.high
    assert wide.loss.low < narrow.loss.low < narrow.loss.high < wide.loss.high
    assert any(note.startswith("the law is rejected (") and "times wider" in note for note in wide.notes)


def test_nothing_learned_is_never_planned_by(rejected: Fit) -> None:
    nothing = replace(rejected, verdict="no learning")
    with pytest.raises(MatscaleError, match="the joint law is no learning") as caught:
        make_plan(nothing, flops=1e12, despite="no learning")
    assert "--despite" not in str(caught.value)


def test_the_command_plans_despite_a_verdict_that_it_is_given(tmp_path: Path) -> None:
    table, path = grid(sizes=3), tmp_path / "t.csv"
    lines = [f"{n},{d},{c},{loss}" for n, d, c, loss in zip(table["n"], table["d"], table["c"], table["loss"])]
    path.write_text("\n".join(["n,d,c,loss", *lines]))
    arguments = ["plan", str(path), "--flops", "1e12", "--samples", "60"]
    refused = CliRunner().invoke(main, arguments)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "is incomplete design (b: 3 sizes in n" in refused.stderr
    planned = CliRunner().invoke(main, [*arguments, "--despite", "incomplete-design", "--json"])
    assert planned.exit_code == 0, planned.output
    plain = json.loads(planned.stdout)
    assert plain["fit"]["verdict"] == "incomplete design"
    assert plain["notes"][0].startswith("the law is incomplete design (b: 3 sizes in n")


def test_a_public_table_with_one_missed_prediction_is_rejected_and_its_exponent_known(shared: Path) -> None:
    fit = matscale.fit(shared / "data/scaling/scalebench/farseer_train.csv", "nd", samples=50)
    assert (fit.verdict, {reason.trigger for reason in fit.reasons}) == ("rejected", {"f"})
    low, high = fit.allowing_for_misfit.intervals["alpha"]
    assert low < fit.intervals["alpha"][0] < fit.intervals["alpha"][1] < high
    assert high - low < fit.parameters["alpha"]
