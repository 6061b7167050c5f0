"""Laws of learning rates and batches: the exponents that were put in come out, and a bend is a rejection."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from matscale.core.errors import ConfigError, DataError
from matscale.core.scaling.dials.law import BATCH, LEARNING_RATE, batch_law, dial_law
from matscale.core.scaling.dials.optima import Optimum, Trial, optima
from matscale.core.scaling.dials.trials import read_trials
from matscale.core.scaling.dials.tuned_law import of_trials
from matscale.core.study.lr_law import LRLaw, Power, read_lr_law, write_lr_law

N, D = np.geomspace(1e3, 1e5, 5), np.geomspace(1e4, 1e6, 4)


def trials(rng: np.random.Generator, noise: float = 0.0) -> list[Trial]:
    """Losses around LR = 0.1 N^-0.3 D^0.2 and B = 0.05 D^0.5, with a ridge between the two."""
    found = []
    for n in N:
        for d in D:
            best = np.array([0.1 * n**-0.3 * d**0.2, 0.05 * d**0.5])
            for i in range(-3, 4):
                for j in range(-3, 4):
                    off = np.array([i, j]) * math.log(2)
                    loss = math.exp(0.03 * off[0] ** 2 + 0.02 * off[1] ** 2 - 0.02 * off[0] * off[1])
                    # A grid that does not lie on the optimum, as no grid does.
                    lr, batch = np.round(best * np.exp(off), 6) * (1.0, 1.1)
                    found.append(Trial(n, d, lr, batch, loss * math.exp(noise * rng.standard_normal())))
    return found


def test_both_exponents_and_the_batch_come_out_of_a_grid_of_trials() -> None:
    found = of_trials(trials(np.random.default_rng(0), noise=1e-3))
    assert found.lr.verdict == "law"
    assert found.lr.exponents == pytest.approx({"n": -0.3, "d": 0.2}, abs=0.02)
    assert found.batch is not None
    assert found.batch.exponents == pytest.approx({"d": 0.5}, abs=0.03)
    assert all(low <= value <= high for value, (low, high) in zip((-0.3, 0.2), found.lr.intervals.values()))
    assert found.lr_law.lr(10_000, 1e5) == pytest.approx(0.1 * 1e4**-0.3 * 1e5**0.2, rel=0.05)
    assert found.lr_law.structures(10_000, 1e5) == pytest.approx(0.05 * 1e5**0.5, rel=0.1)


def law_of(bend: float = 0.0, noise: float = 0.02, sizes: int = 8, edges: int = 0) -> str:
    rng = np.random.default_rng(1)
    found = []
    for k, n in enumerate(np.geomspace(1e3, 1e5, sizes)):
        lr = 0.1 * n**-0.3 * math.exp(bend * math.log(n / 1e4) ** 2 + noise * rng.standard_normal())
        found.append(Optimum(n, math.nan, lr, math.nan, (LEARNING_RATE,) if k < edges else ()))
    return dial_law(found, LEARNING_RATE, ("n",)).verdict


def test_a_bend_in_the_logarithm_of_the_rate_is_a_rejection() -> None:
    assert law_of() == "law"
    assert law_of(bend=0.05) == "rejected"


def test_few_sizes_and_optima_at_the_edge_are_an_incomplete_design() -> None:
    assert law_of(sizes=3) == "incomplete design"
    assert law_of(edges=3) == "incomplete design"


def test_what_sizes_have_in_common_widens_the_interval_of_their_exponent() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(60):
        found = []
        for n in N:
            shared = 0.1 * rng.standard_normal()
            rates = 0.1 * n**-0.3 * np.exp(shared + 0.02 * rng.standard_normal(len(D)))
            found += [Optimum(n, d, float(lr), math.nan) for d, lr in zip(D, rates)]
        low, high = dial_law(found, LEARNING_RATE, ("n", "d")).intervals["n"]
        held += low <= -0.3 <= high
    assert held >= 51  # 57 are expected; the same without the common part: 37


def test_a_best_rate_at_an_end_of_the_grid_is_no_optimum() -> None:
    rising = [Trial(1e4, math.nan, lr, math.nan, 1 + lr) for lr in (1e-3, 2e-3, 4e-3, 8e-3)]
    assert optima(rising)[0].at_edge == (LEARNING_RATE,)
    diverged = [Trial(1e4, math.nan, lr, math.nan, 2 - 100 * lr) for lr in (1e-3, 2e-3, 4e-3)]
    best = optima([*diverged, Trial(1e4, math.nan, 8e-3, math.nan, math.inf)])[0]
    assert best.lr == pytest.approx(4e-3)
    assert best.at_edge == (LEARNING_RATE,)  # no parabola goes through it: the true best is not known


def test_a_batch_that_moves_with_the_size_too_has_both_exponents() -> None:
    rng = np.random.default_rng(3)
    found = [
        Optimum(n, d, 0.01, 0.05 * d**0.5 * n**-0.1 * math.exp(0.02 * rng.standard_normal())) for n in N for d in D
    ]
    assert batch_law(found).exponents == pytest.approx({"d": 0.5, "n": -0.1}, abs=0.02)


def test_one_rate_for_each_size_has_no_law() -> None:
    with pytest.raises(DataError, match="The best learning rate is unknown"):
        of_trials([Trial(n, math.nan, 0.01, math.nan, 1.0) for n in N])


def test_no_batches_have_no_law() -> None:
    with pytest.raises(DataError, match="The best batch is unknown"):
        dial_law([Optimum(1e4, 1e5, 0.01, math.nan)], BATCH, ("d",))


def test_the_public_table_of_step_law_gives_its_exponents(shared: Path) -> None:
    path = shared / "data/scaling/scalebench/lr_bsz_train.csv"
    columns = {"n": "non_embedding_param_size", "d": "data_size", "loss": "lm_loss"}
    name, found = read_trials([str(path)], columns, "llm")
    laws = of_trials(found)
    assert (name, laws.lr.verdict) == ("llm", "law")
    assert laws.lr.exponents == pytest.approx({"n": -0.713, "d": 0.307}, abs=0.06)  # arXiv:2503.04715
    assert laws.batch is not None
    assert laws.batch.exponents["d"] == pytest.approx(0.571, abs=0.03)


@pytest.mark.parametrize(
    ("header", "row", "told"),
    [
        ("n,loss", "1000,2.0", "no column is known to be the learning rate"),
        ("lr,loss,d", "0.1,2.0,5", "number of parameters"),
        ("n,lr,loss", "1000,zero,2.0", "not a number"),
        ("n,lr,loss", "1000,-0.1,2.0", "a positive number is needed"),
    ],
)
def test_a_table_that_lacks_something_is_refused(tmp_path: Path, header: str, row: str, told: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"{header}\n{row}\n")
    with pytest.raises(DataError, match=told):
        read_trials([str(path)], {}, "m")


def test_a_law_with_data_reads_as_it_was_written_and_asks_for_them(tmp_path: Path) -> None:
    lr_law = LRLaw(a=0.1, b=-0.3, c=0.2, verdict="law", batch_law=Power(a=0.05, b=0.0, c=0.5))
    write_lr_law(tmp_path / "lr.toml", "fcn", lr_law)
    assert read_lr_law(tmp_path / "lr.toml", "fcn") == lr_law
    assert lr_law.lr(10_000, 1e5) == 0.0631
    assert lr_law.structures(10_000, 1e5) == 16
    with pytest.raises(ConfigError, match="budget in epochs or steps"):
        lr_law.lr(10_000)
