"""Recorder of a run: writes the run folder and predictions for samples, informs observers, shows progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.references import References
from matscale.core.errors import StoppedEarly
from matscale.core.files import DiskError, remove, write_json, write_text
from matscale.core.hosting.observers import Observers
from matscale.core.model.outputs import Outputs
from matscale.core.progress import Reporter
from matscale.core.runs import checkpoint
from matscale.core.runs.record import GEOMETRIES, Run
from matscale.core.train.background import BackgroundWriter
from matscale.core.train.processes.world import World, on_main
from matscale.core.train.setup import Setup
from matscale.core.train.stop import Interrupted


class Recorder:
    """Recorder of one process: run folder, observers and progress. Only the first process writes.

    On the other processes, `observers`, `progress` and the methods that write do nothing.
    """

    def __init__(self, run: Run, world: World, observers: Observers, progress: Reporter) -> None:
        self.run, self.world, self.observers, self.progress = run, world, observers, progress
        self.writer = BackgroundWriter()

    # End of a session -------------------------------------------------------------------------------------------------

    @contextmanager
    def session(self) -> Iterator[None]:
        """Context that records in run.json how the session ended."""
        self.update({"status": "running", "error": None})

        def ended(status: str, error: BaseException | None) -> None:
            told = f"{type(error).__name__}: {error}" if status == "failed" else None
            self._update_at_the_end({"status": status, "error": told, "ended": now()}, told)
            self.progress.ended(self.run, status)

        with _telling(ended):
            yield

    @contextmanager
    def training(self, totals: Callable[[], dict[str, Any]]) -> Iterator[None]:
        """Context for the steps of a session; `totals` are written at its end, normal or not."""

        def ended(status: str, error: BaseException | None) -> None:
            self._update_at_the_end(totals(), error)
            self.observers.run_ended(run=self.run, status=status)

        self.observers.run_started(run=self.run)
        with _telling(ended), self.writer:
            yield

    @on_main
    def _update_at_the_end(self, facts: Mapping[str, Any], error: object) -> None:
        """Write `facts` to run.json at the end of a session.

        A disk error here does not replace the error that ended the session.
        """
        try:
            self.run.update(facts)
        except DiskError:
            if error is None:
                raise

    # Before the first step --------------------------------------------------------------------------------------------

    @on_main
    def begin(self, references: References, facts: Mapping[str, Any], rows: Mapping[str, Any]) -> None:
        """Write run.json and references before the first step, and remove the rows that training will write again.

        `rows` is the number of rows of each file at the checkpoint from which the run continues. The rows after it are
        removed, so that the files will equal those of an uninterrupted run.
        """
        kept = self.run.cut(rows)
        write_text(self.run.path / "references.json", references.to_json() + "\n")
        self.run.seal()
        self.run.update({**facts, **kept})

    @on_main
    def update(self, facts: Mapping[str, Any]) -> None:
        """Set keys of run.json."""
        self.run.update(facts)

    @on_main
    def forget_after(self, step: int) -> None:
        """Delete the checkpoints after `step`: damaged ones, and those of a cooldown that an extended run omits."""
        root = self.run.checkpoint_folder
        for later in self.run.checkpoints():
            if later > step:
                remove(checkpoint.folder_of(root, later))
        if checkpoint.pointer(root, "last") != step:
            write_text(root / "last", f"{step}\n")

    # Between steps ----------------------------------------------------------------------------------------------------

    @on_main
    def logged(self, row: dict[str, Any]) -> None:
        """Write a row of training metrics."""
        self.run.rows.append(row)
        self.observers.step_ended(run=self.run, metrics=row)
        self.progress.logged(row)

    @on_main
    def validated(self, row: dict[str, Any], is_best: bool) -> None:
        """Write a row of validation metrics."""
        self.run.rows.append(row)
        self.observers.evaluated(run=self.run, metrics=row)
        self.progress.validated(row, is_best)

    @on_main
    def saved(
        self,
        made: checkpoint.Checkpoint,
        best: int | None,
        totals: Mapping[str, Any],
        kept_for_good: Collection[int],
    ) -> None:
        """Copy a checkpoint, with counts of rows and the entries of run.json, and write it in the background.

        `self.writer.conclude` raises an error of the disk and tells the observers.
        """
        written = self.run.rows_written()
        totals = {**totals, "rows": written}
        made = replace(made, state={**made.state, "rows": written, "run": self.run.kept(totals)})
        self.writer.conclude()  # before another copy is made
        made = checkpoint.on_host(made)

        def write() -> None:
            checkpoint.save(self.run.checkpoint_folder, made)
            self.settle(made.step, best, kept_for_good)

        def then() -> None:
            self.run.update(totals)
            self.observers.checkpoint_saved(run=self.run, step=made.step)

        self.writer.begin(write, then)

    @on_main
    def settle(self, last: int, best: int | None, kept_for_good: Collection[int]) -> None:
        """Update `last` and `best` for the checkpoint of the step `last`, and delete those that are not kept.

        If the process is killed after writing a checkpoint and before this is done, the next session does it, even if
        no step is left to train.
        """
        root = self.run.checkpoint_folder
        wanted = {"last": last, **({} if best is None else {"best": best})}
        for name, step in wanted.items():
            if checkpoint.pointer(root, name) != step:
                write_text(root / name, f"{step}\n")
        checkpoint.prune(root, self.run.config.checkpoint.keep, tuple(kept_for_good))


class Samples:
    """Files of samples: structures with labels (samples.json), and predictions at every validation (samples.jsonl).

    Predictions for a few fixed validation structures show how a model learns.
    """

    def __init__(self, setup: Setup, run: Run, world: World) -> None:
        self.setup, self.run, self.world = setup, run, world
        # Samples show labels and their predictions, which pre-training does not have.
        rows, wanted = setup.validation, 0 if setup.pretext else setup.config.evaluation.samples
        places = np.unique(np.linspace(0, len(rows) - 1, min(wanted, len(rows))).astype(int))
        self.rows = rows[places]

    @on_main
    def write_structures(self) -> None:
        """Write geometry and labels of the samples, once per run."""
        if len(self.rows):
            write_json(self.run.path / GEOMETRIES, [self._geometry(int(row)) for row in self.rows])

    def _geometry(self, row: int) -> dict[str, Any]:
        s = self.setup.dataset.structure(row)
        labels = {"energy": s.energy, "forces": s.forces, "stress": s.stress}
        arrays = {"atomic_numbers": s.atomic_numbers, "positions": s.positions, "cell": s.cell, "pbc": s.pbc, **labels}
        return {"index": row, **{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in arrays.items()}}

    @on_main
    def record(self, step: int, predictor: Callable[[AtomicBatch], Outputs]) -> None:
        """Append the predictions for the samples after `step`."""
        if not len(self.rows):
            return
        batch = self.setup.dataset.batch(self.rows, self.setup.graph, self.setup.dtype)
        outputs = predictor(batch).detach()
        forces = None if outputs.forces is None else outputs.forces.split(batch.atoms_per_structure.tolist())
        predictions = [
            {
                "index": int(row),
                "energy": float(outputs.energy[k]),
                "forces": None if forces is None else forces[k].tolist(),
                "stress": None if outputs.stress is None else outputs.stress[k].tolist(),
            }
            for k, row in enumerate(self.rows)
        ]
        self.run.samples.append({"step": step, "predictions": predictions})


@contextmanager
def _telling(ended: Callable[[str, BaseException | None], None]) -> Iterator[None]:
    """Context that calls `ended` at its end with the status (completed, stopped, failed) and the error."""
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        stopped = isinstance(error, StoppedEarly | Interrupted)
        ended("completed" if error is None else "stopped" if stopped else "failed", error)


def now() -> str:
    """Local time for run.json."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
