"""Sweep: the loop that starts the missing runs of a study, resumes interrupted ones and reports failures.

All its state is in the run folders, so it can be killed at any moment: the next sweep reads them again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from matscale.core.config import to_toml
from matscale.core.errors import MatscaleError, StoppedEarly
from matscale.core.files import DiskError, make_folder, sweep_up, write_text
from matscale.core.locks import FolderLock
from matscale.core.progress import SILENT, Reporter
from matscale.core.runs import checkpoint
from matscale.core.runs.record import CONFIG, PLANNED
from matscale.core.runs.status import State, is_at_work, state_of
from matscale.core.study import ledger
from matscale.core.study.identity import PlannedRun
from matscale.core.study.launcher import Ended, EndsOne, Job, Pool
from matscale.core.study.outcome import state_after
from matscale.core.study.plan import StudyPlan
from matscale.core.train.stop import StopRequest

PAUSE = 0.2
"""Seconds between two queries of the pool."""
EVERY = 2.0
"""Least number of seconds between two writings of the ledger."""


@dataclass
class Sweep:
    """Sweep of a plan with one pool. The pool stays open, so that several sweeps may use it one after the other."""

    plan: StudyPlan
    pool: Pool
    progress: Reporter = SILENT
    retry_failed: bool = False
    """Whether to restart also runs that failed because of an error in their training."""
    wait: bool = True
    """Whether to wait for all runs; otherwise start those that are ready and leave them to the launcher."""
    states: dict[Path, State] = field(default_factory=dict)
    """State of each run, by run folder."""
    given_up: dict[Path, str] = field(default_factory=dict)
    """Reason why a run is stopped early, by run folder; the sweep counts such a run as done."""
    _tries: Counter[Path] = field(default_factory=Counter)
    _written: float = 0.0

    def run(self) -> None:
        """Train the missing runs.

        Raises StoppedEarly when asked to stop, ConfigError if another sweep of the study is running.
        """
        make_folder(self.plan.folder)
        other = "begin another study, with another `output` in its file"
        with FolderLock(self.plan.folder, "is doing this study", other), StopRequest() as stop:
            sweep_up(self.plan.folder, alone=True)
            self._read()
            finished, left = False, ""
            try:
                finished = self._loop(stop)
            finally:
                if not finished:
                    left = self.pool.stop()
                self._write_ledger()
            if not finished:
                self._collect()
                self._write_ledger()
                told = (f"Stopped by {stop.reason}.", left, "Nothing is lost: run the same command again.")
                raise StoppedEarly(" ".join(filter(None, told)))

    @property
    def runs(self) -> list[PlannedRun]:
        return self.plan.runs

    def give_up(self, path: Path, reason: str) -> None:
        """Make a run that is in progress save and end, and do not start it again.

        The pool must be able to end a single run (`EndsOne`).
        """
        assert isinstance(self.pool, EndsOne)
        self.given_up[path] = reason
        self.pool.end(path)

    def counts(self) -> dict[str, int]:
        """Number of runs by status."""
        return dict(Counter(self.states[run.path].status for run in self.runs))

    def unfinished(self) -> list[PlannedRun]:
        return [run for run in self.runs if self.states[run.path].status != "completed"]

    # The loop ---------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Read the states of all runs before any is started."""
        held = self.pool.held()
        for run in self.runs:
            state = state_of(run.path)
            if run.path in held:
                state = State("running" if held[run.path] == "running" else "queued")
            elif state.status == "failed" and self.retry_failed:
                state = State("crashed", state.reason)
            self.states[run.path] = state

    def _loop(self, stop: StopRequest) -> bool:
        """Run the loop. Returns True if all runs are done or started, False if asked to stop."""
        while not stop.asked():
            self._collect()
            self._hand_over()
            self.progress.looked(self)
            if time.monotonic() - self._written > EVERY:
                self._write_ledger()
            if not self._goes_on():
                return True
            time.sleep(PAUSE)
        return False

    def _goes_on(self) -> bool:
        active = [run for run in self.runs if self.states[run.path].status in ("queued", "running")]
        return bool(active and self.wait) or bool(self._ready() and self._room() > 0)

    def _collect(self) -> None:
        """Update the states of runs that ended, in this sweep or in processes that an earlier sweep started."""
        for ended in self.pool.ended():
            if ended.path in self.states:
                self._over(ended)
        held = self.pool.held()
        for run in self.runs:
            state = self.states[run.path]
            if run.path in held and held[run.path] != state.status:
                self._set(run, State("running" if held[run.path] == "running" else "queued"))
            elif state.status in ("queued", "running") and run.path not in held and not is_at_work(run.path):
                self._over(Ended(run.path, None))

    def _over(self, ended: Ended) -> None:
        run = next(run for run in self.runs if run.path == ended.path)
        state = state_after(ended)
        if state.status in ("crashed", "stopped", "planned"):
            self._tries[run.path] += 1
            if not ended.retry or self._tries[run.path] > self.plan.study.retries:
                self._tries[run.path] = self.plan.study.retries + 1  # not again in this sweep
        self._set(run, state)

    def _set(self, run: PlannedRun, state: State) -> None:
        self.states[run.path] = state
        self.progress.changed(run, state)

    # What to start ----------------------------------------------------------------------------------------------------

    def _ready(self) -> list[PlannedRun]:
        return [run for run in self.runs if self._wants_to_run(run) and self._may_begin(run)]

    def _wants_to_run(self, run: PlannedRun) -> bool:
        waiting = self.states[run.path].status in ("planned", "stopped", "crashed", "blocked")
        return waiting and run.path not in self.given_up and self._tries[run.path] <= self.plan.study.retries

    def _may_begin(self, run: PlannedRun) -> bool:
        """Whether a run may start; a branch waits until its trunk has saved the checkpoint it starts from."""
        if run.need is None:
            return True
        root = run.need.run / "checkpoints"
        if (checkpoint.folder_of(root, run.need.step) / "manifest.json").exists():
            return True
        trunk = self.states[run.need.run]
        is_over = trunk.status in ("failed", "completed") or self._given_up(run.need.run)
        if self.states[run.path].status != "blocked" and is_over:
            lacks = (
                f"keeps no checkpoint of step {run.need.step}"
                if trunk.status == "completed"
                else "has not reached that step"
            )
            self._set(run, State("blocked", f"{run.need.run.name}, from which it branches, {lacks}"))
        return False

    def _given_up(self, path: Path) -> bool:
        return self._tries[path] > self.plan.study.retries

    def _room(self) -> int:
        """Number of jobs that may start now. Processes that an earlier sweep left running count as jobs."""
        held = self.pool.held()
        left = sum(state.status == "running" and run not in held for run, state in self.states.items())
        return self.pool.room() - left

    def _hand_over(self) -> None:
        ready = self._ready()[: max(self._room(), 0)]
        if not ready:
            return
        with _writing(self.plan.folder):
            for run in ready:
                lay_out(run)
        self.pool.start([Job(run.path) for run in ready])
        held = self.pool.held()
        for run in ready:
            self._set(run, State("running" if held.get(run.path) == "running" else "queued"))

    def _write_ledger(self) -> None:
        rows = [
            {**ledger.row(run.path, self.states.get(run.path), run), "path": str(self.plan.as_given(run.path))}
            for run in self.runs
        ]
        with _writing(self.plan.folder):
            ledger.write(self.plan.folder, rows)
        self._written = time.monotonic()

    # Conclusion -------------------------------------------------------------------------------------------------------

    def conclude(self) -> None:
        """Raises MatscaleError that names the runs which are not done."""
        left = [(run, self.states[run.path]) for run in self.unfinished() if run.path not in self.given_up]
        if not left:
            return
        shown = "; ".join(
            f"{run.name}: {state.status} ({state.reason or 'no reason known'})" for run, state in left[:5]
        )
        more = f"; and {len(left) - 5} more" if len(left) > 5 else ""
        raise MatscaleError(
            f"{len(left)} of {len(self.runs)} runs are not done: {shown}{more}. All of them: matscale runs list "
            f"{self.plan.folder}. Run the same sweep again to resume stopped and killed runs. For failed runs, remove "
            "the cause and add --retry-failed."
        )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Context in which a full or missing disk ends the sweep with an error; the ledger on the disk stays complete."""
    try:
        yield
    except (OSError, DiskError) as error:
        told = error if isinstance(error, DiskError) else DiskError.of(folder, error)
        raise told.told("Complete runs are kept: the same command continues the sweep.") from error


def lay_out(run: PlannedRun) -> None:
    """Write the configuration for the process that trains the run; a run that has started keeps its own."""
    make_folder(run.path)
    if not (run.path / CONFIG).exists():
        write_text(run.path / PLANNED, to_toml(run.config.plain()))
