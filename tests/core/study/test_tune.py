"""Tuning the learning rate: with losses that are known, the rates and the law that were put in come out."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matscale.core.errors import ConfigError, MatscaleError
from matscale.core.scaling.dials.tuned_law import of_tuned
from matscale.core.study.lr_law import LRLaw, read_lr_law, write_lr_law
from matscale.core.study.plan import StudyPlan
from matscale.core.study.sweep import lay_out
from matscale.core.study.tune import Tuned, Tuning, best_batch, default_output, tune
from studies import completed

EXPONENT, AT_ONE = -0.3, 0.1


def ideal(n: int) -> float:
    return AT_ONE * n**EXPONENT


class Parabolas:
    """Trains nothing: the loss is a parabola in log LR around the ideal rate of a size; infinite far above it."""

    def __init__(self, batch: int | None = None) -> None:
        self.rounds, self.trained = 0, 0
        self.batch = batch

    def __call__(self, plan: StudyPlan) -> None:
        self.rounds += 1
        for run in plan.runs:
            if (run.path / "config.toml").exists():
                continue
            self.trained += 1
            lay_out(run)
            distance = math.log(run.config.optimizer.lr / ideal(run.parameters["non_embedding"]))
            off = 0.0 if self.batch is None else 0.1 * abs(math.log((run.config.batch.structures or 1) / self.batch))
            if distance > math.log(10):
                completed(run.path, status="failed", error="NonFiniteLossError: step 2: the loss is nan")
            else:
                loss = 1 + off + 0.2 * distance**2
                completed(run.path, last={"step": 6, "loss": loss, "objective": loss})


def tuning(folder: Path, data: Path, **values: object) -> Tuning:
    base = {"output": str(folder / "tuning"), "data": {"path": str(data)}, "budget": {"steps": 6}, "seeds": [0]}
    return Tuning(**{"architecture": "fcn", "params": (2000, 4000, 8000), "base": base, **values})  # type: ignore[arg-type]


def test_the_best_rates_and_their_law_come_out(tmp_path: Path, data: Path) -> None:
    results = tune(tuning(tmp_path, data), Parabolas())
    for result in results:
        assert result.lr == pytest.approx(ideal(result.parameters["non_embedding"]), rel=0.02)
    found = of_tuned(results).lr_law
    assert found.b == pytest.approx(EXPONENT, abs=0.02)
    assert found.lr(2000) == pytest.approx(ideal(2000), rel=0.03)
    assert found.interval is not None
    assert found.interval[0] < EXPONENT < found.interval[1]


def test_the_sensitivity_is_the_loss_at_half_and_at_twice_the_rate(tmp_path: Path, data: Path) -> None:
    result = tune(tuning(tmp_path, data, params=(2000,)), Parabolas())[0]
    assert result.half is not None
    assert result.double is not None
    best = min(result.losses, key=lambda lr: result.losses[lr])
    for factor, change in ((0.5, result.half), (2.0, result.double)):
        lr = min(result.losses, key=lambda lr: abs(math.log(lr / (factor * best))))
        assert lr == pytest.approx(factor * best, rel=0.1)
        assert change == pytest.approx(result.losses[lr] / result.losses[best])
        assert change > 1


@pytest.mark.parametrize(("lowest", "highest"), [(1e-5, 1e-4), (0.1, 0.4)])
def test_a_grid_that_lies_beside_the_best_rate_grows_towards_it(
    tmp_path: Path, data: Path, lowest: float, highest: float
) -> None:
    result = tune(tuning(tmp_path, data, params=(2000,), lowest=lowest, highest=highest), Parabolas())[0]
    assert result.lr == pytest.approx(ideal(result.parameters["non_embedding"]), rel=0.02)


def test_what_was_trained_before_is_not_trained_again(tmp_path: Path, data: Path) -> None:
    first, second = Parabolas(), Parabolas()
    assert tune(tuning(tmp_path, data), first) == tune(tuning(tmp_path, data), second)
    assert first.trained > 10
    assert second.trained == 0


def test_two_datasets_of_one_name_do_not_share_the_folder_of_a_tuning(tmp_path: Path, data: Path, alloys: Any) -> None:
    first, second = tmp_path / "a" / "packed", tmp_path / "b" / "packed"
    shutil.copytree(data, first)
    shutil.copytree(alloys.path, second)
    folders = [default_output("fcn", str(path)) for path in (first, second)]
    assert [folder.name[:16] for folder in folders] == ["tune-fcn-packed-"] * 2
    assert folders[0] != folders[1]
    assert default_output("fcn", str(shutil.copytree(first, tmp_path / "c" / "packed"))) == folders[0]
    assert default_output("other:fcn", str(first)) != folders[0]


def test_the_best_batch_is_found_and_stands_in_the_law(tmp_path: Path, data: Path) -> None:
    results = tune(tuning(tmp_path, data, params=(2000, 4000), batches=(2, 8)), Parabolas(batch=8))
    assert best_batch(results) == 8
    assert of_tuned(results).lr_law.batch == 8
    assert {result.batch for result in results} == {2, 8}


def test_the_interval_of_the_exponent_is_students() -> None:
    ns, noise = np.array([1e3, 1e4, 1e5, 1e6]), np.array([0.1, -0.1, -0.1, 0.1])
    results = [
        Tuned({"total": int(n), "non_embedding": int(n)}, None, {}, float(0.1 * n**-0.2 * math.exp(e)), 1.0, None, None)
        for n, e in zip(ns, noise)
    ]
    found = of_tuned(results).lr_law
    x = np.log(ns) - np.log(ns).mean()
    error = math.sqrt(float(noise @ noise) / 2 / float(x @ x))
    assert found.b == pytest.approx(-0.2, abs=1e-12)
    assert found.interval is not None
    assert found.interval[1] - found.b == pytest.approx(4.302653 * error, rel=1e-6)  # t(0.975, 2)


def test_fewer_than_three_sizes_have_no_interval_and_one_gives_a_constant() -> None:
    one = Tuned({"total": 10, "non_embedding": 10}, None, {}, 0.01, 1.0, None, None)
    two = Tuned({"total": 20, "non_embedding": 20}, None, {}, 0.005, 1.0, None, None)
    assert of_tuned([one]).lr_law.b == 0
    assert of_tuned([one]).lr_law.lr(12345) == 0.01
    assert of_tuned([one, two]).lr_law.interval is None
    assert of_tuned([one, two]).lr_law.b == pytest.approx(-1)


def test_a_law_reads_as_it_was_written_and_keeps_those_of_others(tmp_path: Path) -> None:
    first, second = LRLaw(a=0.1, b=-0.3, interval=(-0.4, -0.2)), LRLaw(a=0.2, b=0.0)
    write_lr_law(tmp_path / "lr.toml", "fcn", first)
    write_lr_law(tmp_path / "lr.toml", "schnet", second)
    assert read_lr_law(tmp_path / "lr.toml", "fcn") == first
    assert read_lr_law(tmp_path / "lr.toml", "schnet") == second


def test_a_size_without_a_finite_loss_is_an_error_that_says_what_to_do(tmp_path: Path, data: Path) -> None:
    with pytest.raises(MatscaleError, match=r"gave a finite loss.*lower --from"):
        tune(tuning(tmp_path, data, params=(2000,), lowest=10.0, highest=100.0), Parabolas())


def test_a_run_that_is_not_done_is_no_infinite_loss(tmp_path: Path, data: Path) -> None:
    with pytest.raises(MatscaleError, match=r"is not done \(planned"):
        tune(tuning(tmp_path, data, params=(2000,)), lambda plan: None)


@pytest.mark.parametrize("values", [{"params": ()}, {"params": (3000, 3001)}, {"lowest": 0.1, "highest": 0.01}])
def test_a_grid_without_rates_or_sizes_is_refused(tmp_path: Path, data: Path, values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        tuning(tmp_path, data, **values)
