"""Requests to stop a run: signals, and the end of a Slurm job's time.

After the first SIGINT, SIGTERM, SIGUSR1 or SIGHUP (the terminal was closed), the run saves at the next step boundary
and ends with exit code 5. A second signal ends it at once, unless torchrun or `--devices` has started the run. Before
the first step there is nothing to save: `Interrupted` is raised at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
SIGNALS = tuple(signal.Signals[name] for name in _NAMES if hasattr(signal, name))
AGENT = "TORCHELASTIC_RUN_ID"
"""Environment variable of processes that torchrun or `--devices` has started."""
SLURM_MARGIN = 120.0
"""Seconds before the end of a Slurm job at which a run saves and stops; a tenth of the job if that is less."""


class Interrupted(BaseException):
    """Error for a signal before the first step.

    It is not derived from Exception, so that no handler mistakes it for an error of a plugin.
    """


def caught() -> list[signal.Signals]:
    """Signals that ask a run to stop, without SIGHUP where it is ignored (`nohup`)."""
    return [n for n in SIGNALS if n.name != "SIGHUP" or signal.getsignal(n) != signal.SIG_IGN]


class StopRequest:
    """Context that catches signals. `reason` is None at first, then the name of the signal.

    The caller checks `asked` at step boundaries. With `waits` False, signals raise `Interrupted` until `begin` is
    called.
    """

    def __init__(self, waits: bool = True) -> None:
        self.reason: str | None = None
        self.waits = waits
        end = os.environ.get("SLURM_JOB_END_TIME", "")
        self.deadline = _deadline(float(end)) if end.isdigit() else None

    def __enter__(self) -> StopRequest:
        self.previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # handlers may only be set in the main thread
            self.previous = {number: signal.signal(number, self._asked) for number in caught()}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None:
            # An agent of several processes passes on what the batch system has sent to all of them already, and kills
            # by itself a process that does not end.
            if AGENT in os.environ:
                return
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.reason = signal.Signals(number).name
        if not self.waits:
            raise Interrupted(self.reason)

    def begin(self) -> None:
        """Let signals wait for the end of the step from now on, in place of raising `Interrupted`."""
        self.waits = True

    def asked(self) -> bool:
        """Whether the run should stop at this step boundary."""
        if self.reason is None and self.deadline is not None and time.time() > self.deadline:
            self.reason = "the end of the Slurm job"
        return self.reason is not None


def _deadline(end: float) -> float:
    """Time at which to stop a run in a Slurm job that ends at `end`.

    The margin of a short job is a tenth of its length: with a longer one it would be stopped and requeued for ever.
    """
    start = os.environ.get("SLURM_JOB_START_TIME", "")
    return end - (min(SLURM_MARGIN, 0.1 * (end - float(start))) if start.isdigit() else SLURM_MARGIN)
