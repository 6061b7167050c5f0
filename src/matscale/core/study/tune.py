"""Tune the learning rate: find the best one for a few small sizes. `scaling.dials` fits a law to the results.

Each size is trained with a grid of learning rates, each four times the one before. If the best rate lies at an end, the
grid is extended there. Then half and twice the best rate are tried. If one of them is better, the same is done around
it, until the losses at half and at twice the best rate are known. The result is the vertex of the parabola through
these three losses, in log LR. A run whose loss becomes non-finite counts as an infinite loss.

Without tuning at each size, a law in N has a wrong exponent: Porian et al., arXiv:2406.19146.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from matscale.core.data.named.catalog import resolve as locate
from matscale.core.data.store.manifest import Manifest
from matscale.core.errors import ConfigError, MatscaleError, NonFiniteLossError
from matscale.core.progress import SILENT, Reporter
from matscale.core.runs.record import validation_loss
from matscale.core.runs.status import read_info, state_of
from matscale.core.study.config import Study
from matscale.core.study.identity import PlannedRun
from matscale.core.study.lr_law import structures_seen
from matscale.core.study.plan import Do, plan, short

COARSE = 4.0
"""Ratio of neighbouring learning rates of the first grid."""
GROWTH = 3
"""Number of times that a grid may be extended at each end."""
ROUNDS = 12
"""Limit on rounds that is never reached unless there is an error in the search."""


@dataclass(frozen=True)
class Tuning:
    """Settings of a search for learning rates: architecture, sizes, range and batch sizes."""

    architecture: str
    params: tuple[int, ...]
    """Rungs of the size ladder."""
    lowest: float = 3e-4
    highest: float = 2e-2
    """Ends of the first grid of learning rates: `lowest` and `highest`."""
    batches: tuple[int, ...] = ()
    """Batch sizes in structures to choose from; empty: that of the configuration."""
    base: dict[str, Any] = field(default_factory=dict)
    """Keys of the study file: name, output, data, seeds, budget, set."""

    def __post_init__(self) -> None:
        if not self.params:
            raise ConfigError("--params: give at least one size, better three: 3k,10k,30k.")
        if len({short(n) for n in self.params}) < len(self.params):
            raise ConfigError(f"--params: {', '.join(map(str, self.params))} are not all different sizes.")
        if not 0 < self.lowest < self.highest:
            raise ConfigError(
                f"The learning rates go from {self.lowest:g} to {self.highest:g}: they must start above 0 and increase."
            )

    def within(self, folder: Path) -> Tuning:
        """Same search, whose runs are kept in `folder`."""
        return replace(self, base={**self.base, "name": folder.name, "output": str(folder)})

    def grid(self) -> list[float]:
        """Learning rates of the first grid, rounded to two digits."""
        n = max(2, math.ceil(math.log(self.highest / self.lowest) / math.log(COARSE)) + 1)
        return [_rounded(rate) for rate in np.geomspace(self.lowest, self.highest, n)]


@dataclass(frozen=True)
class Tuned:
    """Result for one size at one batch size: the rates that were tried, and the best one."""

    parameters: dict[str, int]
    batch: int | None
    losses: dict[float, float]
    """Mean loss over seeds, by learning rate."""
    lr: float
    """Best learning rate: the vertex of the parabola, or the best rate that was tried if there is no parabola."""
    loss: float
    """Loss at the best rate that was tried."""
    half: float | None
    double: float | None
    """Loss at half (`half`) and at twice (`double`) the best tried rate, divided by `loss`; None if not finite."""
    data: float | None = None
    """Number of structures that a run sees; None if unknown."""

    @property
    def is_at_edge(self) -> bool:
        """Whether the best rate is the lowest or the highest that was tried."""
        return bool(self.losses) and _best(self.losses) in (min(self.losses), max(self.losses))

    def plain(self) -> dict[str, Any]:
        """Values for the file of the learning-rate law."""
        facts = {"loss_at_half": self.half, "loss_at_double": self.double, "batch": self.batch, "data": self.data}
        known = {key: value for key, value in facts.items() if value is not None}
        return {**self.parameters, "lr": self.lr, "loss": self.loss, **known}


Key = tuple[int, int | None]
"""(rung of the ladder, structures in a batch or None)"""


def tune(tuning: Tuning, do: Do) -> list[Tuned]:
    """Find the best learning rate of every size (and batch size).

    `do` trains runs; runs that exist already are only read. Raises MatscaleError if no rate of a size gave a finite
    loss, or if a run is not done for another reason.
    """
    keys: list[Key] = [(n, batch) for n in tuning.params for batch in (tuning.batches or (None,))]
    rates = {key: tuning.grid() for key in keys}
    for _ in range(ROUNDS):
        runs = _trained(tuning, rates, do)
        losses = {key: _losses(runs[key]) for key in keys}
        further = {key: _further(tuning, losses[key]) for key in keys}
        if not any(further.values()):
            return [_concluded(runs[key][0], key[1], losses[key]) for key in keys]
        rates = {key: sorted({*rates[key], *further[key]}) for key in keys}
    raise AssertionError(f"the search for a learning rate did not end within {ROUNDS} rounds")


def _trained(tuning: Tuning, rates: dict[Key, list[float]], do: Do) -> dict[Key, list[PlannedRun]]:
    """Train all sizes in one study, so that no worker waits for one of the sizes."""
    grids = [_grid(tuning.architecture, *key, lrs) for key, lrs in rates.items()]
    values = {"name": "tune", **tuning.base, "architectures": grids}
    planned = plan(Study.parse(values, "tune"))
    do(planned)
    return {key: [run for run in planned.runs if _is_of(run, *key)] for key in rates}


def _is_of(run: PlannedRun, n: int, batch: int | None) -> bool:
    return run.labels["size"] == short(n) and batch in (None, run.config.batch.structures)


def _grid(architecture: str, n: int, batch: int | None, rates: list[float]) -> dict[str, Any]:
    fixed = {} if batch is None else {"batch": {"structures": batch}}
    return {"name": architecture, "params": [n], "lr": rates, "set": fixed}


def _losses(runs: Sequence[PlannedRun]) -> dict[float, float]:
    """Mean loss over the seeds, for each learning rate."""
    losses: dict[float, list[float]] = {}
    for run in runs:
        losses.setdefault(run.config.optimizer.lr, []).append(_loss(run))
    means = {lr: float(np.mean(values)) for lr, values in sorted(losses.items())}
    if not any(map(math.isfinite, means.values())):
        tried = ", ".join(f"{rate:g}" for rate in means)
        raise MatscaleError(
            f"{runs[0].name} and the other runs of its size: no learning rate of {tried} gave a finite loss. See "
            "`matscale runs list "
            f"{runs[0].path.parent}`; take a lower --from."
        )
    return means


def _loss(run: PlannedRun) -> float:
    """Loss of the last validation, at the end of the schedule; infinite if the training became non-finite."""
    state = state_of(run.path)
    last = (read_info(run.path) or {}).get("last")
    if state.status == "completed" and last:
        return validation_loss(last)
    if state.status == "failed" and state.reason.startswith(NonFiniteLossError.__name__):
        return math.inf
    raise MatscaleError(
        f"{run.path}: is not done ({state.status}; {state.reason or 'no reason known'}). Remove the cause, "
        "then run the same command again: finished runs are kept."
    )


def _further(tuning: Tuning, losses: dict[float, float]) -> list[float]:
    """Rates to try next: beyond the end if the best rate lies there, otherwise half and twice the best rate."""
    best, rates = _best(losses), sorted(losses)
    first = tuning.grid()
    if best == rates[-1] and best < first[-1] * COARSE**GROWTH:
        return [_rounded(best * COARSE)]
    if best == rates[0] and best > first[0] / COARSE**GROWTH:
        return [_rounded(best / COARSE)]
    wanted = (_rounded(best / 2), _rounded(best * 2))
    return [rate for rate in wanted if _near(rate, losses) is None]


def _best(losses: dict[float, float]) -> float:
    return min(losses, key=lambda rate: losses[rate])


def _near(rate: float, losses: dict[float, float]) -> float | None:
    """Tried rate within a fifth of `rate`; None if there is none."""
    close = [tried for tried in losses if abs(math.log(tried / rate)) < math.log(1.2)]
    return min(close, key=lambda tried: abs(tried - rate)) if close else None


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def _concluded(run: PlannedRun, batch: int | None, losses: dict[float, float]) -> Tuned:
    best = _best(losses)
    below, above = (_near(best * factor, losses) for factor in (0.5, 2.0))
    half, double = (None if rate is None else losses[rate] / losses[best] for rate in (below, above))
    points = [(math.log(r), losses[r]) for r in (below, best, above) if r is not None and math.isfinite(losses[r])]
    lr = math.exp(_vertex(points)) if len(points) == 3 else best
    finite = [None if x is None or not math.isfinite(x) else x for x in (half, double)]
    rate = float(f"{lr:.3g}")
    structures = run.config.batch.structures
    of_a_step = None if structures is None else structures * run.config.batch.accumulate
    seen = structures_seen(run.config.budget, run.n_train, of_a_step)
    return Tuned(run.parameters, batch, losses, rate, losses[best], finite[0], finite[1], seen)


def _vertex(points: Sequence[tuple[float, float]]) -> float:
    """Lowest point of the parabola through three points, of which the middle one is the lowest."""
    (x0, y0), (x1, y1), (x2, y2) = points
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (right - left) / (x2 - x0)
    return x1 if curvature <= 0 else min(max((x0 + x1) / 2 - left / (2 * curvature), x0), x2)


def best_batch(results: Sequence[Tuned]) -> int | None:
    """Batch size with the lowest loss over all model sizes, each size with equal weight (mean of log loss)."""
    batches = {result.batch for result in results}

    def mean(batch: int | None) -> float:
        return float(np.mean([math.log(result.loss) for result in results if result.batch == batch]))

    return min(batches, key=mean)


def default_output(architecture: str, data: str, progress: Reporter = SILENT) -> Path:
    """Default folder for the runs of a tuning; the next tuning on the same data trains only missing runs in it.

    The name ends with the first digits of the dataset's hash, so that no two datasets share a folder. A dataset that is
    given by name is made or downloaded first. Raises DataError if there is no such dataset.
    """
    located = locate(data, progress)
    called = Path(data).name or located.resolve().name
    return Path("studies") / f"tune-{architecture.replace(':', '-')}-{called}-{Manifest.read(located).hash[:8]}"
