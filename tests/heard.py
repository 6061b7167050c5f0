"""A reporter for tests."""

from __future__ import annotations

import math

from matscale.core.progress import Reporter


class Heard(Reporter):
    """A reporter that keeps the stages it is told of: (what, done, total)."""

    def __init__(self, stop_at: float = math.inf) -> None:
        self.stages, self.stop_at = list[tuple[str, int, int]](), stop_at

    def stage(self, what: str, done: int = 0, total: int = 0) -> None:
        self.stages.append((what, done, total))
        if done >= self.stop_at:
            raise KeyboardInterrupt
