"""Below one pass a law is one of the structures that were seen, and every output says so."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import matscale
from matscale.cli import main
from matscale.core.errors import DataError
from matscale.core.report.build import build
from matscale.core.scaling.tables.seen import as_seen, seen_note
from matscale.core.scaling.tables.sources import read
from matscale.core.scaling.tables.table import Table
from synthetic_runs import make_run

SIZES = (3000, 10_000, 30_000, 100_000, 300_000)


def run(folder: Path, size: int, seen: int, part: int = 3600, arch: str = "schnet", **info: Any) -> Path:
    """A run that read `seen` of the `part` structures of its data."""
    made = make_run(folder, arch, size, part, **info)
    record = json.loads((made / "run.json").read_text())
    rows = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["structures"] = max(1, round(seen * row["step"] / record["steps"]))
        row["flops"] = 1e3 * size * row["structures"]
    (made / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    totals = {"structures": seen, "flops": 1e3 * size * seen, "last": rows[-1], "best": rows[-1]}
    (made / "run.json").write_text(json.dumps({**record, **totals}))
    return made


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two architectures, 60 steps of 8 structures each, on data of 3,600."""
    folder = tmp_path_factory.mktemp("steps")
    for arch in ("schnet", "transformer"):
        for size in SIZES:
            run(folder / f"{arch}-{size}", size, 480, arch=arch)
    return folder


def cli(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments), "--no-baselines"])
    assert result.exit_code == 0, result.output
    return result


def test_sixty_steps_of_eight_structures_are_a_law_at_480_structures_of_3600(study: Path) -> None:
    table = read(study)
    assert set(table["d"]) == {480}
    assert any("10 runs of 10 saw their data less than once (the least: 480 of 3,600" in note for note in table.notes)
    fit = matscale.fit(study, "n", architecture="schnet")
    assert any("5 runs of 5 saw their data less than once" in note for note in fit.notes)


def test_fit_compare_and_report_say_it_in_words_and_in_json(study: Path) -> None:
    told = "saw their data less than once (the least: 480 of 3,600 structures)"
    assert told in cli("fit", study, "--law", "n").stdout
    [first, _] = json.loads(cli("fit", study, "--law", "n", "--json").stdout)
    assert any(told in note for note in first["notes"])
    compared = cli("compare", study, "--axis", "n")
    assert f"note: schnet: 5 runs of 5 {told}" in compared.stdout
    plain = json.loads(cli("compare", study, "--axis", "n", "--json").stdout)
    assert any(told in note for note in plain["fits"]["schnet"]["notes"])
    report = build([str(study)], measure_baselines=False, samples=50)
    [panel] = [panel for panel in report.panels if panel.name == "loss-n"]
    assert any(told in sentence for sentence in panel.sentences)
    [panel] = [panel for panel in report.panels if panel.name == "exponents"]
    assert any(f"schnet: 5 runs of 5 {told}" in sentence for sentence in panel.sentences)


def test_sizes_that_saw_different_shares_are_no_slice_and_the_refusal_says_why(tmp_path: Path) -> None:
    for k, size in enumerate(SIZES):  # a budget in FLOPs: the larger, the fewer steps
        run(tmp_path / str(size), size, 3000 // 2**k)
    with pytest.raises(DataError, match=r"1 distinct value of n at d = .*5 runs of 5 saw their data .*shares differ"):
        matscale.fit(tmp_path, "n")


def test_isoflop_sets_say_that_sizes_saw_different_shares(tmp_path: Path) -> None:
    for c in np.geomspace(1e9, 1e11, 4):
        best = 3e4 * (c / 1e10) ** 0.5
        for n in best * np.array([0.1, 0.3, 1.0, 3.0, 10.0]):
            loss = c**-0.05 * np.exp(0.02 * np.log(n / best) ** 2)
            made = run(tmp_path / f"{c:.0f}-{n:.0f}", round(n), max(1, round(c / (1e3 * n))))
            record = json.loads((made / "run.json").read_text())
            record["last"]["loss"] = record["best"]["loss"] = 100 * loss
            (made / "run.json").write_text(json.dumps({**record, "flops": c}))
    fit = matscale.fit(tmp_path, "isoflop")
    assert any("saw their data less than once" in note and "shares differ" in note for note in fit.notes)


def test_a_plan_is_in_structures_that_were_seen(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"n": n, "d": 1e6, "s": s, "c": 50 * n * s, "loss": (0.5 + 30 * n**-0.3 + 60 * s**-0.35) * np.exp(e)}
        for n in np.geomspace(1e4, 1e6, 6)
        for s in np.geomspace(1e3, 1e5, 4)
        for e in [0.004 * rng.standard_normal()]
    ]
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    plain = json.loads(cli("plan", path, "--flops", "1e12", "--samples", 60, "--json").stdout)
    assert plain["d"]["value"] < 1e6
    for place in (plain, plain["fit"]):
        assert any("24 runs of 24 saw their data less than once" in note for note in place["notes"])


@pytest.mark.parametrize(
    ("row", "d"),
    [
        ({"d": 3600.0, "s": 480.0}, 480.0),
        ({"d": 3600.0, "s": 3590.0}, 3600.0),  # one pass but for the last batch
        ({"d": 3600.0, "s": 9000.0}, 3600.0),
        ({"d": 3600.0}, 3600.0),
    ],
)
def test_one_pass_or_more_is_the_size_of_the_data(row: Mapping[str, float], d: float) -> None:
    table = as_seen(Table.of([{"n": 1e4, "loss": 1.0, **row}]))
    assert table["d"].tolist() == [d]
    assert bool(seen_note(table)) == (d != row["d"])


def test_a_number_of_atoms_is_not_compared_with_one_of_structures() -> None:
    rows = [{"n": 1e4, "loss": 1.0, "d": 72_000.0, "s": 3600.0}]
    assert as_seen(Table.of(rows, names={"d": "atoms", "s": "structures"}))["d"].tolist() == [72_000]


def test_a_curve_has_the_data_that_its_run_saw_in_the_end() -> None:
    rows = [{"n": 1e4, "run": "a", "step": k, "loss": 2 / k, "d": 3600.0, "s": 240.0 * k} for k in (1.0, 2.0)]
    assert as_seen(Table.of(rows))["d"].tolist() == [480, 480]
