"""Trackers are told what metrics.jsonl is told, and can harm no run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from little import Site
from matscale.core.errors import ConfigError, PluginError, StoppedEarly
from matscale.core.hosting import host
from matscale.core.hosting.observers import PluginWarning
from matscale.core.runs.files import Rows
from matscale.core.runs.record import TIMINGS, Run
from matscale.core.study.identity import identity
from matscale.core.train.session import train
from tiny import StopAt, architecture, configured

DIARY = """
import json
from matscale import hookimpl
from matscale.core.hosting.tracker import Tracker

class Diary:
    def __init__(self, run, step):
        self.file = run.path / "diary.jsonl"
        self.write({"opened after": step, "name": run.name})

    def write(self, row):
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\\n")

    def log(self, step, time, values):
        FAULT
        self.write({"step": step, "time": time, **values})

    def close(self, status):
        self.write({"closed": status})

@hookimpl
def register_trackers():
    return [Tracker("diary", "rows in a file", Diary, modules=MODULES)]
"""


@pytest.fixture(autouse=True)
def _fresh_host() -> Iterator[None]:
    host.host.cache_clear()
    yield
    host.host.cache_clear()


def install(site: Site, fault: str = "pass", modules: tuple[str, ...] = (), **options: Any) -> None:
    source = DIARY.replace("FAULT", fault).replace("MODULES", repr(modules))
    site.install("my-diary", source, **options)


def trained(data: Path, folder: Path, *assignments: str, stop: int | None = None, resume: bool = False) -> Run:
    progress = None if stop is None else StopAt(stop)
    config = configured(data, *assignments)
    return train(config, folder, resume=resume, architecture=architecture(), progress=progress)


def diary(run: Run) -> list[dict[str, Any]]:
    return list(Rows(run.path / "diary.jsonl"))


def as_told(run: Run) -> list[dict[str, Any]]:
    """metrics.jsonl in the words of a tracker."""
    place = ("step", "split", "time")
    return [
        {"step": row["step"], "time": row["time"]}
        | {f"{row['split']}/{key}": value for key, value in row.items() if key not in place}
        for row in run.metrics()
    ]


def test_a_tracker_is_told_the_rows_of_metrics_jsonl_under_their_names(site: Site, data: Path, tmp_path: Path) -> None:
    install(site)
    run = trained(data, tmp_path / "run", 'trackers=["diary"]')
    opened, *rows, closed = diary(run)
    assert opened == {"opened after": 0, "name": "run"}
    assert closed == {"closed": "completed"}
    assert {"train/loss", "train/lr", "train/flops"} <= set(rows[0])
    assert any("validation/forces_mae" in row for row in rows)
    assert rows == as_told(run)


def test_a_resumed_run_goes_on_in_the_log_that_it_had(site: Site, data: Path, tmp_path: Path) -> None:
    install(site)
    with pytest.raises(StoppedEarly):
        trained(data, tmp_path / "run", 'trackers=["diary"]', stop=7)
    run = trained(data, tmp_path / "run", 'trackers=["diary"]', resume=True)
    entries = diary(run)
    assert [row for row in entries if "opened after" in row][1]["opened after"] == 6  # a row at every other step
    assert [row["closed"] for row in entries if "closed" in row] == ["stopped", "completed"]
    assert [row for row in entries if "step" in row] == as_told(run)


def test_a_tracker_may_be_added_to_a_run_and_left_out_of_it_when_it_is_resumed(
    site: Site, data: Path, tmp_path: Path
) -> None:
    install(site)
    with pytest.raises(StoppedEarly):
        trained(data, tmp_path / "run", stop=4)
    with pytest.raises(StoppedEarly):
        trained(data, tmp_path / "run", 'trackers=["diary"]', resume=True, stop=9)
    run = trained(data, tmp_path / "run", resume=True)
    steps = [row["step"] for row in diary(run) if "step" in row]
    assert (min(steps), max(steps)) == (6, 8)


@pytest.mark.parametrize("fault", ["1 / 0", "raise SystemExit(1)"])
def test_a_tracker_that_raises_in_mid_run_is_switched_off_with_one_warning_and_the_run_is_the_same(
    site: Site, data: Path, tmp_path: Path, fault: str
) -> None:
    install(site, f"if step == 6: {fault}")
    alone = trained(data, tmp_path / "alone")
    with pytest.warns(PluginWarning, match=r"Tracker 'diary' \(my-diary 1.0\) .* the run goes on") as caught:
        run = trained(data, tmp_path / "run", 'trackers=["diary"]')
    assert len(caught) == 1
    assert run.info["status"] == "completed"
    assert [row["step"] for row in diary(run) if "step" in row] == [2, 4]
    without_clock = [[{k: v for k, v in row.items() if k not in TIMINGS} for row in r.metrics()] for r in (alone, run)]
    assert without_clock[0] == without_clock[1]


def test_a_module_that_is_missing_is_told_before_there_is_a_run_with_what_to_install(
    site: Site, data: Path, tmp_path: Path
) -> None:
    install(site, modules=("not_there",), requires=("not-there>=2; extra == 'draw'",))
    with pytest.raises(PluginError, match=r"no module 'not_there'\. .*pip install \"my-diary\[draw\]\""):
        trained(data, tmp_path / "run", 'trackers=["diary"]')
    assert not (tmp_path / "run").exists()


def test_a_wrong_name_is_answered_with_the_nearest(site: Site, data: Path, tmp_path: Path) -> None:
    install(site)
    with pytest.raises(ConfigError, match=r"no tracker 'dairy'\. Did you mean 'diary'\?"):
        trained(data, tmp_path / "run", 'trackers=["dairy"]')
    assert not (tmp_path / "run").exists()


def test_a_run_is_the_same_whoever_is_told_of_it(data: Path) -> None:
    assert identity(configured(data, 'trackers=["trackio"]'), "data") == identity(configured(data), "data")
