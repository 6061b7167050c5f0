"""Schedule: the learning rate as a pure function of the progress of a run.

Progress runs from 0 to 1: it is the largest used share among the limits (steps, time, FLOPs), so that the schedule is
complete when the run ends, whichever limit ends it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from matscale.core.runs.config import BudgetConfig, ScheduleConfig


@dataclass(frozen=True)
class Budget:
    """Limits of a run; None is no limit. At least one limit is set.

    >>> Budget(steps=100, max_time=60.0).progress(step=20, seconds=45.0, flops=0.0)
    0.75
    """

    steps: int | None = None
    max_time: float | None = None
    max_flops: float | None = None

    @classmethod
    def of(cls, config: BudgetConfig, steps_of_epochs: int | None) -> Budget:
        """Make a budget from a configuration; `steps_of_epochs` is the number of optimizer steps of its epochs."""
        limits = [n for n in (config.steps, steps_of_epochs) if n is not None]
        return cls(min(limits) if limits else None, config.max_time, config.max_flops)

    def progress(self, step: int, seconds: float, flops: float) -> float:
        """Progress of the run, the largest used share among its limits; the run ends at 1."""
        pairs = ((step, self.steps), (seconds, self.max_time), (flops, self.max_flops))
        return max(used / limit for used, limit in pairs if limit is not None)

    def warmup(self, share: float) -> float:
        """Length of the warm-up as a share of the run.

        If steps are limited, it is rounded down to whole steps (OMat24's rule).
        """
        if self.steps is None:
            return share
        return int(share * self.steps) / self.steps


def last_stable_step(config: ScheduleConfig, budget: Budget) -> tuple[int, ...]:
    """Last step before the cooldown of a `wsd` schedule, from which a run can be extended; an empty tuple if unknown.

    >>> last_stable_step(ScheduleConfig(kind="wsd", decay=0.2), Budget(steps=100))
    (80,)
    """
    if config.kind != "wsd" or budget.steps is None:
        return ()
    return (math.floor((1 - config.decay) * budget.steps + 1e-9),)


def lr_factor(progress: float, config: ScheduleConfig, warmup: float) -> float:
    """Learning rate at `progress` in [0, 1], as a share of the highest learning rate.

    The share rises linearly from `warmup_factor` to 1 over `warmup` (no warm-up if `warmup` is 0); then it depends on
    the kind of schedule: a cosine; constant with a decay at the end (`wsd`); or constant. The cosine is that of OMat24:
    0.01 + 0.99 (1 + cos(π progress)) / 2 with progress from the start of the run, so that the share is a little below 1
    after the warm-up.

    >>> cosine = ScheduleConfig(kind="cosine", floor=0.01)
    >>> [round(lr_factor(progress, cosine, warmup=0.0), 3) for progress in (0.0, 0.5, 1.0)]
    [1.0, 0.505, 0.01]
    """
    progress = min(max(progress, 0.0), 1.0)
    if warmup > 0 and progress <= warmup:
        risen = progress / warmup
        return config.warmup_factor * (1 - risen) + risen
    if config.kind == "cosine":
        return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * progress))
    if config.kind == "wsd":
        return config.floor + (1 - config.floor) * _decayed(progress, config)
    return 1.0


def _decayed(progress: float, config: ScheduleConfig) -> float:
    """Decay factor of `wsd`: 1, then decreasing to 0 at the end of the run.

    The shape 1 − √x is that of Hägele et al., arXiv:2405.18392.
    """
    if config.decay == 0 or progress <= 1 - config.decay:
        return 1.0
    x = (progress - (1 - config.decay)) / config.decay
    return 1 - math.sqrt(x) if config.decay_shape == "1-sqrt" else 1 - x
