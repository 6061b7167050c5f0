"""Progress callbacks of a run. The core calls them; `matscale.cli` renders them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matscale.core.runs.record import Run


@dataclass(frozen=True)
class StepStatus:
    """Status of a run after an optimizer step."""

    step: int
    epoch: int
    batch: int
    n_batches: int
    """Number of batches of this epoch on one process."""
    progress: float
    """Share of the run that is done, 0 to 1."""
    n_atoms: int
    """Number of atoms in the step, over all processes."""
    seconds: float
    """Duration of the step [s], waiting for data included."""
    data_wait: float
    """Part of `seconds` that was spent waiting for data."""


class Progress:
    """Progress of a run, not shown. Subclasses override the methods to show it; none of them may change the run."""

    def stage(self, what: str, done: int, total: int) -> None:
        """Report work before the run starts: `done` of `total` units of `what` (0 of 0: unknown)."""

    def started(self, run: Run, facts: Mapping[str, Any]) -> None:
        """`facts` are the keys of run.json that are known before the first step, and `resumed_from` (a step)."""

    def stepped(self, status: StepStatus) -> None:
        """Report the end of an optimizer step."""

    def working(self, what: str) -> None:
        """The run does something other than a step (`validation`, `checkpoint`) until the next call of any method."""

    def logged(self, row: Mapping[str, Any]) -> None:
        """A row of training metrics was written."""

    def validated(self, row: Mapping[str, Any], is_best: bool) -> None:
        """A row of validation metrics was written."""

    def said(self, message: str) -> None:
        """Show a message that is neither a metric nor an error."""

    def ended(self, run: Run, status: str) -> None:
        """The run is over: completed, stopped, failed."""


Stages = Callable[[str, int, int], None]
"""Callback (what is being done, units done, units in total; 0 where the total is unknown)."""


def silent(what: str, done: int, total: int) -> None:
    """Ignore the report: the default where no progress is shown."""
