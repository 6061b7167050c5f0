"""`matscale fit`, `compare`, `plan`: what they print, and how they refuse."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from little import Site
from matscale.cli import main
from matscale.core.scaling.text import counted, number, percent, size, with_interval
from synthetic_runs import make_run

STABLE = {"law", "parameters", "intervals", "verdict", "reasons", "range", "n_sizes", "n_seeds", "excluded", "held_out"}
MAP = "n=params,d=structures,c=flops,loss=val_loss,arch=family"


def matscale(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two architectures on a grid, with exponents 0.3 and 0.45 of the parameters."""
    rng, path = np.random.default_rng(1), tmp_path_factory.mktemp("laws") / "runs.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["family", "params", "structures", "flops", "seed", "val_loss"])
        for family, alpha in (("schnet", 0.3), ("eqv2", 0.45)):
            for n in np.geomspace(1e4, 1e6, 7).round():
                for d in np.geomspace(1e3, 1e5, 4).round():
                    for seed in (0, 1):
                        loss = (0.3 + 40 * n**-alpha + 30 * d**-0.4) * np.exp(0.004 * rng.standard_normal())
                        writer.writerow([family, n, d, 300 * n * d, seed, loss])
    return path


def test_fit_prints_the_verdict_first_and_what_was_left_out(table: Path) -> None:
    result = matscale("fit", table, "--map", MAP, "--law", "nd", "--arch", "schnet", "--samples", 60)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("schnet: loss(n, d): LAW")
    for word in ("alpha", "beta", "range: n 10,000 to 1,000,000", "held out", "56 runs"):
        assert word in result.stdout
    assert "No baselines are known for a table" in result.stderr
    sliced = matscale("fit", table, "--map", MAP, "--law", "n", "--arch", "schnet").stdout
    assert "at d = 100,000" in sliced
    assert "excluded: 42" in sliced
    assert "its d differs" in sliced


def test_fit_as_json_is_a_list_with_the_stable_keys(table: Path) -> None:
    result = matscale("fit", table, "--map", MAP, "--law", "n", "--json")
    fits = json.loads(result.stdout)
    assert [one["architecture"] for one in fits] == ["eqv2", "schnet"]
    assert all(set(one) >= STABLE for one in fits)
    low, high = fits[0]["intervals"]["alpha"]
    assert low < fits[0]["parameters"]["alpha"] < high


def test_the_checklist_is_filled_in(table: Path) -> None:
    text = matscale("fit", table, "--map", MAP, "--law", "n", "--arch", "eqv2", "--checklist").stdout
    for line in ("law: form: L = ", "data: sizes, seeds: 7 sizes, 2 seeds", "fitting: intervals: 95%", "not recorded"):
        assert line in text
    plain = json.loads(matscale("fit", table, "--map", MAP, "--law", "n", "--checklist", "--json").stdout)
    assert set(plain[0]["checklist"]) == {"law", "training", "data", "fitting"}


def test_a_baseline_file_is_what_runs_have_to_beat(table: Path, tmp_path: Path) -> None:
    file = tmp_path / "baselines.json"
    file.write_text(json.dumps({"zero": {"loss": 50.0}, "nearest": {"loss": 0.001}}))
    result = matscale("fit", table, "--map", MAP, "--law", "n", "--arch", "schnet", "--baselines", file)
    assert "NO LEARNING" in result.stdout
    assert "because a: the best loss" in result.stdout
    assert result.stderr == ""


def test_compare_says_that_exponents_differ_and_where_everything_stands(table: Path) -> None:
    result = matscale("compare", table, "--map", MAP, "--arch", "eqv2", "--arch", "schnet", "--axis", "n")
    assert result.exit_code == 0, result.output
    assert "eqv2 and schnet: EXPONENTS DIFFER" in result.stdout
    for word in (
        "difference of exponents",
        "would be seen with",
        "loss of eqv2 / schnet at n",
        "Ranking at n",
        "1. eqv2",
    ):
        assert word in result.stdout
    plain = json.loads(matscale("compare", table, "--map", MAP, "--axis", "n", "--json").stdout)
    assert plain["pairs"][0]["p"] < 0.01
    assert [rank["architecture"] for rank in plain["ranking"]] == ["eqv2", "schnet"]


def test_compare_says_why_exponents_cannot_be_compared(tmp_path: Path) -> None:
    path = tmp_path / "two.csv"
    lines = [
        f"{arch},{n:g},{10 * n ** (-0.3 if arch == 'a' else 0):g}\n" for arch in "ab" for n in np.geomspace(1e3, 1e6, 6)
    ]
    path.write_text("arch,n,loss\n" + "".join(lines))
    result = matscale("compare", path, "--axis", "n")
    assert result.exit_code == 0, result.output
    assert "a and b: NOT COMPARABLE" in result.stdout
    assert "the exponents cannot be compared: b is no learning (a: 100% of the sizes lie within 2 %" in result.stdout
    for word in ("p = ", "difference of exponents", "the laws cross", "EXPONENTS DIFFER"):
        assert word not in result.stdout
    assert "  2. a" in result.stdout or "  1. a" in result.stdout
    assert "(by a line that is no law)" in result.stdout


def test_plan_allocates_a_budget_and_counts_hours(table: Path) -> None:
    arguments = ("plan", table, "--map", MAP, "--arch", "schnet", "--samples", 60)
    result = matscale(*arguments, "--flops", "1e14", "--device", "H100", "--mfu", "0.1")
    assert result.exit_code == 0, result.output
    for word in ("parameters n", "data d", "hours on one H100 at 0.1 of its peak in fp32", "most telling next runs"):
        assert word in result.stdout
    plain = json.loads(matscale(*arguments, "--loss", "1.2", "--json").stdout)
    assert plain["flops"]["low"] <= plain["flops"]["value"] <= plain["flops"]["high"]
    assert plain["unreachable"] == 0
    assert set(plain["fit"]) >= STABLE


def test_plan_refuses_what_is_not_known(table: Path) -> None:
    arguments = ("plan", table, "--map", MAP, "--arch", "schnet", "--samples", 60)
    far = matscale(*arguments, "--flops", "1e18")
    assert far.exit_code == 2
    assert "times the largest compute seen" in far.stderr
    assert matscale(*arguments).exit_code == 2
    assert "--loss TARGET" in matscale(*arguments).stderr
    which = matscale("plan", table, "--map", MAP, "--flops", "1e14")
    assert which.exit_code == 2
    assert "--arch eqv2 or --arch schnet" in which.stderr
    device = matscale(*arguments, "--flops", "1e14", "--device", "H1000")
    assert device.exit_code == 2
    assert "Did you mean" in device.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--law", "n", "--map", "n=parms,loss=val_loss"), 2, "Did you mean 'params'"),
        (("--law", "pwoer", "--map", MAP), 2, "Did you mean 'power'"),
        (("--law", "n", "--map", "n"), 2, "is not a pair"),
        (("--law", "n", "--map", MAP, "--arch", "schnett"), 2, "Did you mean 'schnet'"),
        (("--law", "n", "--map", MAP, "--at", "7"), 3, "No runs have d = 7"),
        (("--law", "n", "--map", "n=family,loss=val_loss"), 3, "runs.csv row 1: family is 'schnet', not a number"),
    ],
)
def test_wrong_words_and_bad_rows_end_with_their_code(
    table: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = matscale("fit", table, *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""


GOOD = "1e3,9\n3e3,7.4\n1e4,5.3\n3e4,4.1\n1e5,3.1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n,loss\n1e3,3\n1e4,2\n", "2 distinct values of n (1,000, 1e+04): a law needs at least 4 sizes"),
        ("n,loss\n1e3,3\n1e3,3.1\n1e3,2.9\n", "no axis varies. Train models of several sizes."),
        (f"n,loss\n{GOOD}3e5,-2\n", "t.csv row 6: loss is -2.0; a scaling law needs positive numbers"),
        (f"n,loss\n{GOOD}3e5,much\n", "t.csv row 6: loss is 'much', not a number"),
        (f"n,loss\n{GOOD}0,2\n", "t.csv row 6: n is 0.0"),
        (f"n,loss\n{GOOD}1e5,3100\n", "t.csv row 5 and t.csv row 6 have the same sizes, but their losses 3.1 and 3100"),
        (
            "n,loss,definition\n1e3,9,train\n1e4,5,validation\n",
            "definition has the values train, validation, whose losses are not one quantity",
        ),
        (f"n,loss,run\n{GOOD.replace(chr(10), ',a' + chr(10))}1e5,3.2,a\n", "both are run 'a' at the same sizes"),
        ("n,d,loss\n1e3,10,9\n1e4,,5\n1e5,10,3\n", "t.csv row 2: has no d (d, data); the other rows have one"),
        ("n,metric\n1e3,10\n", "row 1: which column is the loss? Name it: --map loss=COLUMN. Columns: n, metric."),
        ("width,loss\n1e3,10\n", "row 1: which column is the size? Name it: --map n=COLUMN"),
        ("n,loss\n", "t.csv: has no rows"),
    ],
)
def test_a_table_that_carries_no_law_is_refused_with_the_row(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    result = matscale("fit", path)
    assert (result.exit_code, result.stdout) == (3, "")
    assert message in result.stderr


def test_diverged_runs_copies_and_rows_without_a_loss_are_left_out_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"n,loss\n{GOOD}2e5,nan\n3e5,inf\n4e5,\n1e3,9\n")
    result = matscale("fit", path)
    assert result.exit_code == 0, result.output
    assert "excluded: 4" in result.stdout
    for line in (
        "t.csv row 6, t.csv row 7: diverged: its loss is not finite",
        "t.csv row 8: has no value of the loss",
        "t.csv row 9: repeats t.csv row 1",
    ):
        assert line in result.stdout
    assert "5 sizes, 1 seed, 5 runs" in result.stdout


def test_a_table_of_which_no_run_is_left_says_why(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("n,loss\n1000,nan\n10000,nan\n")
    result = matscale("fit", path)
    assert result.exit_code == 3
    assert "t.csv row 1: diverged" in result.stderr


def test_runs_of_other_validation_parts_or_losses_are_refused_by_every_command(tmp_path: Path) -> None:
    for k, seed in enumerate((0, 1)):
        for arch in ("schnet", "transformer"):
            run = make_run(tmp_path / f"{arch}{k}", arch, size=3000 * 4**k, seed=seed)
            config = (run / "config.toml").read_text()
            (run / "config.toml").write_text(config.replace("validation_seed = 0", f"validation_seed = {k}"))
    plan = ("plan", tmp_path, "--arch", "schnet", "--flops", "1e12")
    for command in (("fit", tmp_path), ("compare", tmp_path), plan):
        result = matscale(*command, "--no-baselines")
        assert (result.exit_code, result.stdout) == (3, "")
        assert "the seed of the validation part is 0 in one and 1 in the other" in result.stderr


def test_what_could_not_be_fitted_is_said_beside_what_could(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    long = "".join(f"long,{n:g},{10 * n**-0.3:g}\n" for n in np.geomspace(1e3, 1e5, 5))
    path.write_text(f"arch,n,loss\n{long}short,1000,2\nshort,3000,1.8\nsingle,1000,3\n")
    result = matscale("fit", path)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("long: loss(n)")
    assert "Not fitted: short, n: 2 distinct values of n (1,000, 3,000)" in result.stderr
    assert "Not fitted: single: no axis varies." in result.stderr


def test_isoflop_sets_and_a_frontier_of_run_folders_are_fitted(tmp_path: Path) -> None:
    for c in np.geomspace(1e12, 1e15, 4):
        for n in np.geomspace(0.1, 10, 7) * 1e5 * (c / 3e13) ** 0.5:
            loss = c**-0.05 * float(np.exp(0.02 * np.log(n / (1e5 * (c / 3e13) ** 0.5)) ** 2))
            make_isoflop_run(tmp_path / f"{c:.0e}-{n:.0f}", round(n), c, 100 * loss + 5)  # bent: all budgets touch
    result = matscale("fit", tmp_path, "--law", "isoflop", "--no-baselines")
    assert result.exit_code == 0, result.output
    assert "N_opt(C): LAW\n  N_opt = A C^-alpha" in result.stdout
    assert "28 runs (isoflop)" in result.stdout
    [fit] = json.loads(matscale("fit", tmp_path, "--law", "isoflop", "--no-baselines", "--json").stdout)
    assert fit["parameters"]["alpha"] == pytest.approx(-0.5, abs=0.01)
    [frontier] = json.loads(matscale("fit", tmp_path, "--law", "frontier", "--no-baselines", "--json").stdout)
    assert frontier["points"] == "frontier"
    assert frontier["n_runs"] >= 4
    assert 0.02 < frontier["parameters"]["alpha"] < 0.05


def make_isoflop_run(folder: Path, n: int, c: float, loss: float) -> None:
    """A run of `n` parameters that spent `c` FLOPs and ended at `loss`."""
    run = make_run(folder, size=n, n_validations=10)
    info = json.loads((run / "run.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        share = row["step"] / info["steps"]
        row["flops"], row["loss"] = c * share, loss * share**-0.1
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "run.json").write_text(json.dumps({**info, "flops": c, "last": rows[-1], "best": rows[-1]}))


def test_a_plugin_can_supply_a_law(site: Site, table: Path) -> None:
    site.install(
        "lab-flatlaw",
        """
        import numpy as np
        from matscale import hookimpl
        from matscale.core.scaling.law import Law

        @hookimpl
        def register_laws():
            return [Law(name="flat", summary="No trend.", formula="L = E", reference="none", axes=("x",),
                        parameters=("E", "slope"), value=lambda t, x: t[..., 0, None] + t[..., 1, None] * x[..., 0],
                        starts=lambda x, y: np.zeros((1, 2)), logs=frozenset({"E"}), exponents=("slope",))]
        """,
        name="flatlaw",
    )
    result = site.run("fit", str(table), "--map", MAP, "--law", "flat", "--axis", "n", "--arch", "eqv2", "--json")
    assert result.exit_code == 0, result.output
    [fit] = json.loads(result.stdout)
    assert fit["law"] == "flat"
    assert fit["parameters"]["slope"] == pytest.approx(-0.16, abs=0.08)


def test_fitting_a_table_does_not_wait_for_torch(site: Site, table: Path) -> None:
    code = (
        "import sys; from matscale.cli import main\n"
        f"main(['fit', {str(table)!r}, '--map', {MAP!r}, '--law', 'n'], standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert site.python("-c", code).returncode == 0
    assert sys.modules["matscale"] is not None


# Digits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.34712, 0.31, 0.39, "0.35"),
        (0.34712, 0.335, 0.36, "0.347"),
        (0.34712, 0.3, 0.9, "0.3"),
        (1234.5, 1000, 1500, "1,200"),
        (4.86e7, 4.5e7, 5.2e7, "4.9e+07"),
        (2.0, 2.0, 2.0, "2"),
        (2.0, np.nan, np.nan, "-"),
        (2.0, -np.inf, np.inf, "-"),
        (320.0, 20.0, 5000.0, "~300"),
        (460.0, 0.0, 1.3e6, "~500"),
        (0.0213, 0.0, 7.0, "~0.02"),
        (0.0, 0.0, 0.4, "0"),
        (0.003, -0.1, 0.1, "0.00"),
    ],
)
def test_no_more_digits_than_the_interval_supports(value: float, low: float, high: float, shown: str) -> None:
    assert number(value, low, high) == shown


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (450.0, 0.0, 1.3e6, "undetermined (0 to 1.3e+06)"),
        (450.0, 0.021, 1.3e6, "undetermined (0.021 to 1.3e+06)"),
        (320.0, 60.0, 5000.0, "~300 (60 to 5,000)"),
        (6000.0, 20.0, 9000.0, "6,000 (20 to 9,000)"),
        (0.5, 0.0, 0.9, "0.5 (0 to 0.9)"),
        (0.003, -0.1, 0.1, "0.00 (-0.10 to 0.10)"),
        (2.0, 0.0, np.inf, "undetermined (0 to ∞)"),
    ],
)
def test_a_number_of_which_not_even_the_magnitude_is_known_is_not_printed_as_zero(
    value: float, low: float, high: float, shown: str
) -> None:
    assert with_interval(value, low, high) == shown


def test_things_are_counted_in_the_singular_and_the_plural() -> None:
    assert (counted(1, "seed"), counted(0, "run"), counted(1200, "run")) == ("1 seed", "0 runs", "1,200 runs")
    assert percent(56.0) == "+5,600 %"


def test_a_fit_that_knows_little_does_not_say_zero_and_counts_one_seed(tmp_path: Path) -> None:
    path = tmp_path / "five.csv"
    losses = (9.0, 8.7, 7.4, 7.6, 6.9)
    path.write_text("n,loss,seed\n" + "".join(f"{n},{v},0\n" for n, v in zip((1e3, 3e3, 1e4, 3e4, 1e5), losses)))
    text = matscale("fit", path, "--law", "floor", "--axis", "n").stdout
    assert "5 sizes, 1 seed, 5 runs" in text
    assert "A        undetermined (" in text
    assert " 0 (" not in text
    assert "predicted 0," not in text


def test_open_intervals_and_sizes_are_written_out() -> None:
    assert with_interval(2.0, 0.0, np.inf).endswith("(0 to ∞)")
    assert with_interval(-0.1, -0.3, 15.0) == "0 (0 to 15)"  # no minus before a nought
    assert with_interval(0.35, 0.31, 0.39) == "0.35 (0.31 to 0.39)"
    assert with_interval(0.3, 0.3, 0.3 + 1e-12) == "0.3 (no scatter)"
    assert with_interval(-0.0, 0.0, 0.0) == "0 (no scatter)"
    assert (size(12_500.0), size(3.1e15), size(0.25)) == ("12,500", "3.1e+15", "0.25")
    assert (percent(0.0123), percent(-0.31)) == ("+1.2 %", "-31 %")
