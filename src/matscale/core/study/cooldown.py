"""Cooldowns: one long run at a constant learning rate, the trunk, and a branch that cools down for each length.

The branch of length n starts from the state of the trunk after (1 − decay) n steps. It ends with the model that a run
of n steps with a warm-up–stable–decay schedule would have; the steps of the trunk are computed only once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from matscale.core.errors import ConfigError
from matscale.core.runs.config import BudgetConfig, ScheduleConfig, StartConfig, TrainConfig
from matscale.core.study.config import CooldownGrid
from matscale.core.study.identity import TRUNKS, Need, PlannedRun


def row(
    grid: CooldownGrid, run: PlannedRun, identified: Callable[..., PlannedRun], as_given: Callable[[Path], Path]
) -> Iterator[PlannedRun]:
    """Make the trunk and its branches from `run`, which has all their common settings except the length.

    `identified(run, trunk=None)` adds identity and folder to a run; `as_given(folder)` is the path under which a branch
    stores its trunk. Raises ConfigError for lengths that are too short for a warm-up, a stable part and a cooldown.
    """
    lengths = sorted(set(grid.steps))
    leaves = {n: n - max(1, round(grid.decay * n)) for n in lengths}
    warmup = max(1, round(0.01 * lengths[-1])) if grid.warmup is None else grid.warmup
    if warmup >= leaves[lengths[0]]:
        raise ConfigError(
            f"wsd: of {lengths[0]} steps, {warmup} are warm-up and {lengths[0] - leaves[lengths[0]]} cooldown: no step "
            "is left between them. Give longer runs, or smaller wsd.warmup or wsd.decay."
        )
    stem = replace(run, config=_trunk(run.config, leaves, warmup), path=run.path.parent.parent / TRUNKS / "-")
    trunk = identified(replace(stem, labels={**run.labels, "role": "trunk"}))
    yield trunk
    for n in lengths:
        config = _branch(run.config, as_given(trunk.path), n, leaves[n], warmup, grid.decay)
        branch = replace(run, config=config, labels={**run.labels, "steps": n}, need=Need(trunk.path, leaves[n]))
        yield identified(branch, trunk)


def _warmup(steps: int, of: int) -> float:
    """Warm-up of `steps` as a share of a run of `of` steps.

    Half a step is added, since the trainer rounds down.
    """
    return (steps + 0.5) / of if steps else 0.0


def _trunk(config: TrainConfig, leaves: dict[int, int], warmup: int) -> TrainConfig:
    steps = max(leaves.values())
    schedule = ScheduleConfig(
        kind="constant", warmup=_warmup(warmup, steps), warmup_factor=config.schedule.warmup_factor
    )
    saved = config.checkpoint.model_copy(update={"at": tuple(sorted(set(leaves.values())))})
    budget = BudgetConfig(steps=steps)
    return config.model_copy(update={"schedule": schedule, "budget": budget, "checkpoint": saved})


def _branch(config: TrainConfig, trunk: Path, steps: int, leaves: int, warmup: int, decay: float) -> TrainConfig:
    cooldown = {"kind": "wsd", "warmup": _warmup(warmup, steps), "decay": (steps - leaves) / steps}
    start = StartConfig(run=str(trunk), checkpoint=str(leaves), branch=True)
    return config.model_copy(
        update={
            "schedule": config.schedule.model_copy(update=cooldown),
            "budget": BudgetConfig(steps=steps),
            "start": start,
        }
    )
