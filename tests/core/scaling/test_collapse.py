"""Normalised curves: sizes that fall on one are left in peace, and the size that does not is named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from matscale.core.scaling.checklist import checklist
from matscale.core.scaling.curves.collapse import collapse, collapses
from matscale.core.scaling.fit import fit
from matscale.core.scaling.tables.table import Table

SIZES = tuple(np.geomspace(1e3, 1e5, 8).round())


def sweep(
    rng: np.random.Generator,
    sizes: Sequence[float] = SIZES,
    *,
    off: Mapping[int, float] | None = None,
    noise: float = 0.01,
    floor: float = 1.0,
    validations: int = 10,
) -> list[dict[str, object]]:
    """Curves of E + A N^-alpha + B t^-beta under a cosine; `off`: size -> excess of its loss at the beginning."""
    share = np.linspace(0.1, 1, validations)
    rows: list[dict[str, object]] = []
    for k, n in enumerate(sizes):
        clean = floor + 30 * n**-0.3 + 0.9 * share**-0.4 + 0.3 * (1 + np.cos(np.pi * share))
        start, end = noise * rng.standard_normal(2)
        logs = np.log(clean) + start * (1 - share) + end * share + (off or {}).get(k, 0.0) * (1 - share)
        rows += [
            {"arch": "m", "n": n, "run": f"r{k}", "step": float(100 * t), "loss": float(np.exp(y))}
            for t, y in zip(share, logs)
        ]
    return rows


def test_the_size_whose_curve_does_not_fall_on_the_others_is_named() -> None:
    found = collapse(Table.of(sweep(np.random.default_rng(0), off={5: 0.4})))
    assert [one.size["n"] for one in found.off] == pytest.approx([SIZES[5]])
    assert found.off[0].excess > 0.1
    assert f"n = {SIZES[5]:,.0f} deviates" in found.text


def test_two_sizes_that_are_off_do_not_hide_each_other() -> None:
    found = collapse(Table.of(sweep(np.random.default_rng(1), off={2: 0.5, 6: 0.5}, noise=0.005)))
    assert sorted(one.size["n"] for one in found.off) == pytest.approx([SIZES[2], SIZES[6]])


def test_a_size_is_named_in_one_sweep_of_twenty_that_has_no_fault() -> None:
    rng = np.random.default_rng(2)
    named = sum(bool(collapse(Table.of(sweep(rng, validations=6))).off) for _ in range(60))
    assert named <= 9  # 3 are expected; 9 are in 0.3 % of such tests


def test_the_drift_of_floors_and_another_exponent_in_time_is_no_fault() -> None:
    found = collapse(Table.of(sweep(np.random.default_rng(3), floor=3.0, noise=1e-3)))
    assert found.off == ()
    assert "agree to" in found.text


def test_runs_of_other_lengths_are_compared_at_the_same_share() -> None:
    rows = sweep(np.random.default_rng(4))
    for row in rows:
        row["step"] = float(row["step"]) * (1 + SIZES.index(row["n"]))  # type: ignore[arg-type]
    assert collapse(Table.of(rows)).off == ()


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (sweep(np.random.default_rng(5), SIZES[:4]), "4 sizes .* 5 are needed"),
        (sweep(np.random.default_rng(5), validations=3), "no run has three validations"),
    ],
)
def test_what_cannot_be_tested_is_said(rows: list[dict[str, object]], reason: str) -> None:
    found = collapse(Table.of(rows))
    assert re.search(f"not tested: {reason}", found.text)
    assert found.off == ()


def test_the_checklist_names_the_size_and_tables_without_curves_have_no_answer() -> None:
    table = Table.of(sweep(np.random.default_rng(6), off={5: 0.4}))
    found = fit(table, "n")
    assert "deviates" in checklist(found, collapses(table)["m"])["training"]["curves"]
    assert collapses(table.ends()) == {}
    assert checklist(found)["training"]["curves"] == "not recorded"
