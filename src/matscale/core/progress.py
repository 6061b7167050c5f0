"""What a run tells whoever watches it. The core calls; `matscale.cli` renders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matscale.core.runs.record import Run


@dataclass(frozen=True)
class StepStatus:
    """After an optimizer step."""

    step: int
    epoch: int
    batch: int
    n_batches: int
    """Of this epoch, on one process."""
    progress: float
    """Share of the run that is done, 0 to 1."""
    n_atoms: int
    """In the step, over all processes."""
    seconds: float
    """Of the step, waiting for data included."""
    data_wait: float
    """Of them, spent waiting for data."""


class Progress:
    """Silent. Subclasses show what they like; none of the methods may change the run."""

    def stage(self, what: str, done: int, total: int) -> None:
        """Before the run starts: `what` is being done, so much of so much (0 of 0: unknown)."""

    def started(self, run: Run, facts: Mapping[str, Any]) -> None:
        """`facts` are the keys of run.json that are known before the first step, and `resumed_from` (a step)."""

    def stepped(self, status: StepStatus) -> None:
        """After every optimizer step."""

    def working(self, what: str) -> None:
        """The run does something other than a step (`validation`, `checkpoint`) until the next call of any method."""

    def logged(self, row: Mapping[str, Any]) -> None:
        """A row of training metrics was written."""

    def validated(self, row: Mapping[str, Any], is_best: bool) -> None:
        """A row of validation metrics was written."""

    def said(self, message: str) -> None:
        """Something to know that is neither a metric nor an error."""

    def ended(self, run: Run, status: str) -> None:
        """The run is over: completed, stopped, failed."""


Stages = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, how much there is; 0 where that is unknown)"""


def silent(what: str, done: int, total: int) -> None:
    """Nobody listens."""
