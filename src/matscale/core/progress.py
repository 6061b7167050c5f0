"""Progress of long work: the core reports it to a `Reporter`.

`matscale.cli.progress` has reporters that show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matscale.core.runs.record import Run
    from matscale.core.runs.status import State
    from matscale.core.study.identity import PlannedRun
    from matscale.core.study.sweep import Sweep


@dataclass(frozen=True)
class StepStatus:
    """Status of a run after an optimizer step."""

    step: int
    epoch: int
    batch: int
    n_batches: int
    """Number of batches of the present epoch on one process."""
    progress: float
    """Share of the run that is done, 0 to 1."""
    n_atoms: int
    """Number of atoms in the step, over all processes."""
    seconds: float
    """Duration of the step [s], including the wait for data."""
    data_wait: float
    """Part of `seconds` spent waiting for data."""


class Reporter:
    """Receiver of reports on progress, which does nothing with them.

    Subclasses override methods to show progress. No method may affect the work.
    """

    def stage(self, what: str, done: int = 0, total: int = 0) -> None:
        """Report that `done` of `total` units of the work `what` are done. `total` is 0 if it is unknown."""

    def said(self, message: str) -> None:
        """Show a message that is neither a metric nor an error."""

    # A run

    def started(self, run: Run, facts: Mapping[str, Any]) -> None:
        """Report the start of a run.

        `facts` has the values of run.json that are known before the first step. It also has `resumed_from`, the step
        from which a run is resumed (None for a new run), and the `budget`.
        """

    def stepped(self, status: StepStatus) -> None:
        """Report the end of an optimizer step."""

    def working(self, what: str) -> None:
        """Report the start of work that is not a step, such as `validation` or `checkpoint`.

        It lasts until the next call of any method.
        """

    def logged(self, row: Mapping[str, Any]) -> None:
        """Report that a row of training metrics was written."""

    def validated(self, row: Mapping[str, Any], is_best: bool) -> None:
        """Report that a row of validation metrics was written."""

    def ended(self, run: Run, status: str) -> None:
        """Report that the run has ended. `status` is `completed`, `stopped` or `failed`."""

    # A sweep

    def changed(self, run: PlannedRun, state: State) -> None:
        """Report that a run of the sweep started or ended, or that it will be tried again."""

    def looked(self, sweep: Sweep) -> None:
        """Report that the sweep has looked at the status of its runs."""


SILENT = Reporter()
"""Default reporter: it shows nothing."""
