"""Ends of runs, predicted from their first part: how often intervals hold, what is refused, what is given up."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np

from matscale.core.scaling.curves.forecast import forecast
from matscale.core.scaling.curves.normalised import Curve
from matscale.core.scaling.curves.running import Running, forecasts, hopeless, read_running
from matscale.plugins.launchers.local import LocalPool
from synthetic_runs import make_run

SHARE = np.linspace(0.1, 1, 10)


def curve(n: float, rng: np.random.Generator, noise: float = 0.01, until: float = 1.0, **size: float) -> Curve:
    """A curve under a cosine, of which the part up to the share `until` is there."""
    clean = np.log(1 + 30 * n**-0.3 + 0.9 * SHARE**-0.4 + 0.3 * (1 + np.cos(np.pi * SHARE)))
    logs = clean + noise * rng.standard_normal(len(SHARE))
    kept = until + 1e-9 >= SHARE
    return Curve(f"{n:g}", {"n": n, **size}, SHARE[kept], logs[kept])


def part(whole: Curve, until: float) -> Curve:
    kept = whole.share <= until + 1e-9
    return Curve(whole.run, whole.size, whole.share[kept], whole.logs[kept])


def test_ninety_five_percent_of_the_intervals_hold_the_end_of_a_larger_run() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(100):
        *finished, new = (curve(n, rng) for n in np.geomspace(1e3, 1e5, 7))
        found = forecast(part(new, 0.5), finished)
        held += found.low <= np.exp(new.logs[-1]) <= found.high
    assert held >= 88  # 95 are expected


def test_finished_runs_of_another_schedule_or_none_predict_nothing() -> None:
    rng = np.random.default_rng(1)
    few = [curve(n, rng) for n in (1e3, 1e4, 1e5)]
    assert "4 are needed" in forecast(curve(3e4, rng, until=0.5), few).reason
    assert "no finished run" in forecast(curve(3e4, rng, until=0.5), []).reason
    early = forecast(Curve("", {"n": 3e4}, np.array([0.05]), np.array([1.0])), few)
    assert "forecasts begin at 10%" in early.reason


def test_a_rate_beyond_those_that_finished_is_refused() -> None:
    rng = np.random.default_rng(2)
    finished = [curve(n, rng, lr=lr) for n in np.geomspace(1e3, 1e5, 5) for lr in (1e-3, 4e-3)]
    assert not forecast(curve(3e4, rng, until=0.5, lr=2e-3), finished).reason
    assert "lr = 0.016" in forecast(curve(3e4, rng, until=0.5, lr=1.6e-2), finished).reason


def running(n: float, rng: np.random.Generator, lr: float, shift: float = 0.0, until: float = 1.0) -> Running:
    found = curve(n, rng, until=until, lr=lr)
    moved = Curve(found.run, found.size, found.share, found.logs + shift)
    return Running(Path(f"runs/{n:g}-{lr:g}"), "schnet", moved, is_finished=until == 1.0)


def test_a_run_that_ends_above_a_finished_one_with_another_rate_is_hopeless_and_another_seed_is_not() -> None:
    rng = np.random.default_rng(3)
    finished = [running(n, rng, lr) for n in np.geomspace(1e3, 1e5, 5) for lr in (1e-3, 4e-3)]
    assert [one.path.name for one in hopeless([*finished, running(1e5, rng, 2e-3, 0.3, until=0.5)])] == ["100000-0.002"]
    assert hopeless([*finished, running(1e5, rng, 2e-3, 0.0, until=0.5)]) == []
    assert hopeless([*finished[:-1], running(1e5, rng, 1e-3, 0.3, until=0.5)]) == []


def write_run(folder: Path, size: int, keep: int | None = None) -> None:
    """A run of the synthetic study with a budget of 2,000 steps; `keep`: validations there are so far."""
    state: dict[str, Any] = {} if keep is None else {"status": "stopped"}
    make_run(folder, size=size, **state)
    with (folder / "config.toml").open("a") as config:
        config.write("\n[budget]\nsteps = 2000\n\n[loss.energy]\nweight = 2.5\n")
    if keep is not None:
        rows = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        (folder / "metrics.jsonl").write_text("".join(rows[: 2 * keep]))


def test_run_folders_are_read_with_the_share_of_their_budget(tmp_path: Path) -> None:
    for size in (3000, 10_000, 30_000, 100_000, 300_000):
        write_run(tmp_path / f"r{size}", size)
    write_run(tmp_path / "new", 50_000, keep=9)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    known = read_running(sorted(tmp_path.iterdir()))
    [(run, seen)] = forecasts(known)
    rows = [json.loads(line) for line in (tmp_path / "new/metrics.jsonl").read_text().splitlines()]
    assert run.path.name == "new"
    assert seen.share == rows[-1]["step"] / 2000
    assert seen.low < seen.predicted < seen.high < seen.loss
    assert seen.n_finished == 5


def test_the_local_pool_ends_one_run_and_leaves_the_others() -> None:
    class Process:
        def __init__(self) -> None:
            self.signals: list[int] = []

        def send_signal(self, number: int) -> None:
            self.signals.append(number)

    pool = LocalPool.__new__(LocalPool)
    pool.slots, pool.fork_server = {Path("a"): 0, Path("b"): 1}, None
    pool.processes = {Path("a"): Process(), Path("b"): Process()}  # type: ignore[dict-item]
    pool.end(Path("a"))
    assert pool.processes[Path("a")].signals == [signal.SIGTERM]  # type: ignore[attr-defined]
    assert pool.processes[Path("b")].signals == []  # type: ignore[attr-defined]
