"""Advice during a sweep: find runs that will end above the loss of a finished run of the same size."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from matscale.core.progress import Reporter
from matscale.core.runs.status import State
from matscale.core.scaling.curves.running import Hopeless, Running, hopeless, read_running
from matscale.core.study.identity import PlannedRun
from matscale.core.study.sweep import Sweep

EVERY = 15.0
"""Least time between two checks of the training curves [s]."""


class Advice(Reporter):
    """Reporter that adds advice to another reporter: it reports each run that can be stopped, once.

    With `stops`, it also stops such runs.
    """

    def __init__(self, inner: Reporter, stops: bool) -> None:
        self.inner, self.stops = inner, stops
        self.named: set[Path] = set()
        self.known: dict[Path, Running] = {}
        """Finished runs that were read already"""
        self.last = time.monotonic()

    def changed(self, run: PlannedRun, state: State) -> None:
        self.inner.changed(run, state)

    def looked(self, sweep: Sweep) -> None:
        self.inner.looked(sweep)
        if time.monotonic() - self.last < EVERY or not _has_rivals(sweep.runs):
            return
        self.last = time.monotonic()
        running = {run.path for run in sweep.runs if sweep.states[run.path].status == "running"}
        for one in advice(sweep.runs, self.known):
            if one.path in running and one.path not in self.named:
                self.named.add(one.path)
                told = "It is stopped." if self.stops else "--stop-hopeless would stop it."
                self.inner.said(f"hopeless {one.text}. {told}")
                if self.stops:
                    sweep.give_up(one.path, one.text)


def advice(runs: Iterable[PlannedRun], known: dict[Path, Running]) -> list[Hopeless]:
    """Find runs of a plan that can be stopped early, from the records in their folders.

    Finished runs are kept in `known`, so that they are read once.
    """
    found = read_running([run.path for run in runs if not run.is_trunk and run.path not in known])
    known |= {run.path: run for run in found if run.is_finished}
    return hopeless([*known.values(), *(run for run in found if not run.is_finished)])


def _has_rivals(runs: Iterable[PlannedRun]) -> bool:
    """Whether some runs of one size and data have different learning rates or batch sizes."""
    dials: dict[tuple[str, int, int], tuple[float, int | None]] = {}
    return any(
        dials.setdefault((run.config.architecture.name, run.parameters["total"], run.n_train), chosen) != chosen
        for run in runs
        for chosen in [(run.config.optimizer.lr, run.config.batch.structures)]
    )
