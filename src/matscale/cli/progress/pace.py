"""Speed of work that is under way, and the time left."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

from matscale.cli.text import duration
from matscale.core.progress import StepStatus

SLOWER = 10.0
"""Ratio of a step's time to the usual time above which the step is reported as slow."""
LEAST = 1.0
"""Least time of a step that is reported as slow [s]."""


class Stage:
    """Stage of work, such as making a dataset, with its progress: `1,200 of 4,000 300/s 9 s left`."""

    def __init__(self, what: str, done: int) -> None:
        # Units that an earlier, interrupted call has done do not count for the speed.
        self.what, self.first, self.began = what, done, time.monotonic()
        self.done = self.total = 0

    def turn_to(self, done: int, total: int) -> None:
        """Set the number of finished units and the total."""
        self.done, self.total = done, total

    @property
    def counts(self) -> str:
        """Counts as text: `1,200 of 4,000`."""
        return f"{self.done:,}" + (f" of {self.total:,}" if self.total else "")

    def text(self) -> str:
        """Counts, units per second and the time left, if known, as text."""
        rate = (self.done - self.first) / max(time.monotonic() - self.began, 1e-9)
        left = f"  {duration((self.total - self.done) / rate)} left" if rate and self.total > self.done else ""
        return self.counts + (f"  {rate:,.3g}/s" if rate else "") + left


class Pace:
    """Speed of a run and the time left, averaged over the last minutes; the present step is included.

    `clock` returns seconds. Sums of time, progress and atoms decay with a time constant of a tenth of the run so far,
    but at least half a minute and at most five minutes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.share = 0.0
        self.doing = "step 1"
        self.began = self.since = clock()
        self.time = self.progress = self.step_time = self.atoms = self.waited = 0.0
        self.last: StepStatus | None = None
        self.usual: deque[float] = deque(maxlen=101)
        """Seconds of the last steps that were not slow."""
        self.told_slow = False

    def begin(self) -> None:
        """Start the clock of the first step."""
        self.began = self.since = self.clock()

    def turn_to(self, what: str) -> None:
        """Set the text for work other than a step, such as a validation."""
        self.doing = what

    def add(self, status: StepStatus) -> None:
        """Add a finished step to the averages."""
        now = self.clock()
        passed = now - self.since
        kept = math.exp(-passed / min(max((now - self.began) / 10, 30.0), 300.0))
        done = status.progress - (self.share if self.last else status.progress)
        self.time = kept * self.time + (passed if self.last else 0.0)
        self.progress = kept * self.progress + done
        self.step_time = kept * self.step_time + status.seconds
        self.atoms = kept * self.atoms + status.n_atoms
        self.waited = kept * self.waited + status.data_wait
        self.share, self.since, self.last = status.progress, now, status
        self.doing = f"step {status.step + 1}"
        if not self._is_slow(status.seconds):
            self.usual.append(status.seconds)
            self.told_slow = False

    def _is_slow(self, seconds: float) -> bool:
        return len(self.usual) >= 5 and seconds > max(SLOWER * statistics.median(self.usual), LEAST)

    def _under_way(self) -> float:
        return self.clock() - self.since

    def slower(self) -> str | None:
        """Warning if a step takes ten times as long as usual, else None.

        The warning is given once, until steps are fast again.
        """
        now = self._under_way() if self.doing.startswith("step") else 0.0
        before = self.last.seconds if self.last else 0.0
        if self.told_slow or not self._is_slow(max(now, before)):
            return None
        self.told_slow = True
        usual = statistics.median(self.usual)
        return (
            f"A step takes {max(now, before):.2g} s or longer now; before, it took {usual:.2g} s. Other programs may "
            f"be using "
            "these cores or this device. A run with fewer threads (--set compute.threads=1) suffers less from them."
        )

    def left(self) -> float | None:
        """Time to the end of the run [s]; None if unknown."""
        if self.progress <= 0:
            return None
        return (self.time + self._under_way()) / self.progress * (1 - self.share)

    def text(self) -> str:
        """Speed and time left as text: `1,200 atoms/s  data wait 3%  5 min left`."""
        left = self.left()
        time_left = "" if left is None else f"  {duration(left)} left"
        spent = max(self.step_time + (self._under_way() if self.doing.startswith("step") else 0.0), 1e-9)
        return f"{self.atoms / spent:,.0f} atoms/s  data wait {self.waited / spent:.0%}{time_left}"
