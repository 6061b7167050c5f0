"""Runs beside plugins of every fault: what a run did not ask for does not disturb it, what it asked for is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from little import Site, architecture, install_faulty
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import PluginError
from matscale.core.hosting import host
from matscale.core.hosting.observers import PluginWarning
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import Run
from matscale.core.train.session import train

TIMED = ("wall", "time", "atoms_per_s", "flops_per_s", "wait", "mfu", "memory")


@pytest.fixture(autouse=True)
def _fresh_host() -> Iterator[None]:
    host.host.cache_clear()
    yield
    host.host.cache_clear()


def run(data: PackedDataset, folder: Path, *plugins: str, architecture: str = "linear") -> Run:
    config: dict[str, Any] = {
        "architecture": {"name": architecture},
        "data": {"path": str(data.path), "validation": 0.25, "cache_graphs": False},
        "batch": {"structures": 4},
        "budget": {"steps": 12},
        "log_every": 3,
        "evaluation": {"every": 6},
        "compute": {"device": "cpu"},
        "plugins": list(plugins),
    }
    return train(TrainConfig.parse(config), folder)


def rows(run: Run) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    return [{k: v for k, v in row.items() if not any(word in k for word in TIMED)} for row in run.metrics()]


def test_plugins_that_a_run_did_not_ask_for_change_nothing_in_it(
    site: Site, alloys: PackedDataset, tmp_path: Path
) -> None:
    site.install("my-linear", architecture("linear"))
    alone = run(alloys, tmp_path / "alone")

    install_faulty(site)
    site.install("a-nonsense", "from matscale import hookimpl\n@hookimpl\ndef register_losses(): return 3\n")
    site.install("a-raiser", "from matscale import hookimpl\n@hookimpl\ndef run_started(run): 1 / 0\n")
    host.host.cache_clear()
    beside = run(alloys, tmp_path / "beside")  # a warning would be an error here

    assert beside.info["status"] == "completed"
    assert len(rows(alone)) >= 4
    assert rows(beside) == rows(alone)
    assert "a_broken" not in sys.modules


WATCHER = """
from matscale import hookimpl

seen = []

@hookimpl
def run_started(run):
    seen.append("started " + run.config.architecture.name)

@hookimpl
def step_ended(metrics):
    seen.append(("step", metrics["step"]))

@hookimpl
def evaluated(run, metrics):
    seen.append(("evaluated", metrics["step"]))
    {fault}

@hookimpl
def checkpoint_saved(step):
    seen.append(("saved", step))

@hookimpl
def run_ended(status):
    seen.append("ended " + status)
"""


def test_an_observer_is_told_of_all_that_happens_in_order(site: Site, alloys: PackedDataset, tmp_path: Path) -> None:
    site.install("my-linear", architecture("linear"))
    site.install("my-watcher", WATCHER.replace("{fault}", "pass"))
    done = run(alloys, tmp_path / "run", "watcher")
    seen = sys.modules["my_watcher"].seen
    assert (seen[0], seen[-1]) == ("started linear", "ended completed")
    assert [step for kind, step in seen[1:-1] if kind == "step"] == [3, 6, 9, 12]
    assert [step for kind, step in seen[1:-1] if kind == "evaluated"][-2:] == [6, 12]
    assert ("saved", 12) in seen
    assert done.info["status"] == "completed"


def test_the_plugin_of_the_trained_architecture_watches_without_being_named(
    site: Site, alloys: PackedDataset, tmp_path: Path
) -> None:
    site.install("my-linear", architecture("linear") + WATCHER.replace("{fault}", "pass"))
    run(alloys, tmp_path / "run")
    assert sys.modules["my_linear"].seen[-1] == "ended completed"


@pytest.mark.parametrize("fault", ["1 / 0", "raise SystemExit(1)"])
def test_an_observer_that_raises_in_mid_run_is_switched_off_and_the_run_is_the_same(
    site: Site, alloys: PackedDataset, tmp_path: Path, fault: str
) -> None:
    site.install("my-linear", architecture("linear"))
    site.install("my-watcher", WATCHER.replace("{fault}", fault))
    alone = run(alloys, tmp_path / "alone")
    with pytest.warns(PluginWarning, match="'watcher' .* in its hook evaluated .* the run goes on") as caught:
        watched = run(alloys, tmp_path / "watched", "watcher")
    assert len(caught) == 1
    assert watched.info["status"] == "completed"
    assert rows(watched) == rows(alone)
    assert "ended completed" not in sys.modules["my_watcher"].seen


def test_an_observer_that_was_asked_for_and_is_broken_stops_the_run_before_it_has_a_folder(
    site: Site, alloys: PackedDataset, tmp_path: Path
) -> None:
    site.install("my-linear", architecture("linear"))
    site.install("my-broken", "1 / 0")
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        run(alloys, tmp_path / "run", "broken")
    assert not (tmp_path / "run").exists()


def test_the_record_names_the_distribution_of_an_outsider_with_a_built_in_name(
    site: Site, alloys: PackedDataset, tmp_path: Path
) -> None:
    site.install("my-schnet", architecture("schnet"), version="3.2")
    done = run(alloys, tmp_path / "run", architecture="my-schnet:schnet")
    assert done.info["architecture"] == {"name": "my-schnet:schnet", "distribution": "my-schnet", "version": "3.2"}
