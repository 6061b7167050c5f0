"""Adaptive sweep: train runs of a study's grid in batches, and only the runs that a purpose needs.

A purpose is a number to be known to a given precision: an exponent, the loss at a size, or the ratio of the costs of
two models. The grid holds all possible runs. The first runs are spread over the cheaper half of the grid. Each later
batch is chosen from the results of all completed runs (see `next_batch`), until the number is known well enough or the
budget is spent. A file in the study's folder lists the chosen runs, so that a resumed sweep first trains those that are
not done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from matscale.core.errors import ConfigError, DataError
from matscale.core.files import make_folder, write_text
from matscale.core.hosting.host import host
from matscale.core.runs.status import state_of
from matscale.core.scaling.allocation.next_batch import FORM, Batch, Purpose, next_batch, side_of
from matscale.core.scaling.allocation.simulate import spread_out
from matscale.core.scaling.law import Array
from matscale.core.scaling.tables.sources import read
from matscale.core.study.identity import PlannedRun
from matscale.core.study.plan import Do, StudyPlan

PROPOSED = "adaptive.jsonl"
"""File with one row per batch: the runs of the batch, and a sentence on what was known before they were trained."""
FIRST = 4
"""First runs of each architecture: the number of parameters of the law, plus this number."""


@dataclass(frozen=True)
class Offer:
    """Candidate run: one run of the study's grid, with its parameters n, structures d and estimated FLOPs."""

    run: PlannedRun
    n: float
    d: float
    flops: float

    @property
    def architecture(self) -> str:
        return str(self.run.labels["architecture"])


@dataclass(frozen=True)
class Adaptive:
    """Sweep that trains only a part of a study's grid: it chooses a batch of runs, trains them, and chooses again."""

    plan: StudyPlan
    offers: Sequence[Offer]
    purpose: Purpose
    count: int
    """Largest number of runs in a batch"""
    budget: float
    """FLOPs that all proposed runs may cost together"""

    def run(self, do: Do, said: Callable[[str], None] = lambda text: None) -> str:
        """Choose batches of runs and train each batch with `do` until the sweep ends; return the reason for its end.

        Before each training, `said` is called with a sentence on the batch. Raises ConfigError if the budget is less
        than the cost of the cheapest run, or if all chosen runs have failed.
        """
        least = min(offer.flops for offer in self.offers)
        if self.budget < least:
            raise ConfigError(
                f"--budget {self.budget:.3g} buys no run: the cheapest run of the grid costs {least:.3g} FLOPs. "
                "Give at least as much."
            )
        while True:
            ended, told = self._propose()
            if ended:
                return told
            said(told)
            proposed = set(self.proposed())
            do(replace(self.plan, runs=[run for run in self.plan.runs if run.name in proposed]))
            self._refuse_stuck()

    def proposed(self) -> list[str]:
        """Names of all runs chosen so far, read from the file; names of runs that are not in the grid are ignored."""
        path, known = self.plan.folder / PROPOSED, {offer.run.name for offer in self.offers}
        if not path.exists():
            return []
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return [name for row in rows for name in row["runs"] if name in known]
        except (ValueError, TypeError, KeyError):
            raise DataError(f"{path}: the file is damaged. Delete it; completed runs are kept and used.") from None

    def _statuses(self) -> dict[str, str]:
        return {offer.run.name: state_of(offer.run.path).status for offer in self.offers}

    def _propose(self) -> tuple[bool, str]:
        """Choose the next batch and write it to the file, unless chosen runs are still to be trained.

        Returns whether the sweep has ended, and a sentence: why it has ended, or which runs are trained next.
        """
        proposed, status = self.proposed(), self._statuses()
        open_runs = [name for name in proposed if status[name] not in ("completed", "failed")]
        if open_runs:
            return False, f"{len(open_runs)} runs proposed before"
        left = self.budget - sum(offer.flops for offer in self.offers if offer.run.name in proposed)
        over = ("completed", "failed")
        free = [one for one in self.offers if one.run.name not in proposed and status[one.run.name] not in over]
        batch, chosen = self._chosen(
            free, left, [offer for offer in self.offers if status[offer.run.name] == "completed"]
        )
        known = batch.text if batch else "nothing yet"
        if batch is not None and batch.is_met:
            return True, f"{known}. The purpose is met, with {len(proposed)} proposed runs."
        if not chosen:
            why = "no run of the grid is left" if not free else f"the budget has {max(left, 0):.3g} FLOPs left"
            return True, f"{known}. The purpose is not met: {why}."
        self._write_down([offer.run.name for offer in chosen], known)
        return False, f"{known}; {len(chosen)} more for {sum(offer.flops for offer in chosen):.3g} FLOPs"

    def _chosen(self, free: list[Offer], left: float, done: list[Offer]) -> tuple[Batch | None, list[Offer]]:
        names = sorted({offer.architecture for offer in self.offers})
        n_least = host().law(FORM).n_parameters + 2
        short = [name for name in names if sum(one.architecture == name for one in done) < n_least]
        if short:
            share = left / len(short)
            return None, [offer for name in short for offer in self._first(_of(free, name), _of(done, name), share)]
        table = read([str(offer.run.path) for offer in done], {})
        mine = {name: _of(free, name) for name in names}
        sides = [side_of(table.of_architecture(name), _columns(mine[name])) for name in names]
        # A batch of 0 runs still states what is known: the purpose may be met without runs that can be bought.
        count = self.count if any(offer.flops <= left for offer in free) else 0
        batch = next_batch(sides, self.purpose, count, left)
        return batch, [mine[run.architecture][run.index] for run in batch.runs]

    def _first(self, free: list[Offer], done: list[Offer], left: float) -> list[Offer]:
        """Choose the first runs of an architecture, from the cheaper half of the grid and far apart in n and d."""
        if not free:
            return []
        offers = [*done, *free]
        n, d, flops = _columns(offers)
        taken = np.arange(len(done))
        wanted = host().law(FORM).n_parameters + FIRST - len(done)
        dearest = float(np.sort(flops)[max(len(flops) // 2, min(wanted, len(flops) - 1))])
        picked = spread_out(np.log(np.stack([n, d], axis=-1)), flops, taken, left, dearest)[:wanted]
        return [offers[k] for k in picked]

    def _write_down(self, names: list[str], known: str) -> None:
        path = self.plan.folder / PROPOSED
        make_folder(path.parent)
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        write_text(path, before + json.dumps({"runs": names, "known": known}, ensure_ascii=False) + "\n")

    def _refuse_stuck(self) -> None:
        status = self._statuses()
        of_them = [status[name] for name in self.proposed()]
        if of_them and set(of_them) == {"failed"}:
            raise ConfigError(
                f"All {len(of_them)} proposed runs failed. See why: `matscale runs list {self.plan.folder}`."
            )


def offers(plan: StudyPlan, flops: Mapping[Path, tuple[float, float]]) -> list[Offer]:
    """List the runs of a study as candidates with their cost; `flops` gives (FLOPs, epochs) for each run folder.

    Raises ConfigError if two runs have the same architecture, size, data and seed, since they then differ in another
    setting. Also raises it for cooldowns, which cannot be trained without their trunk.
    """
    if any(run.need is not None or run.is_trunk for run in plan.runs):
        raise ConfigError(
            "--adaptive: the study has cooldowns, which cannot be trained without their trunk. Replace [wsd] in the "
            "study file by a budget."
        )
    found, places = [], dict[tuple[object, ...], str]()
    for run in plan.runs:
        cost, epochs = flops[run.path]
        n, d = float(run.parameters["non_embedding"]), run.n_train * min(1.0, epochs)
        place = (run.labels["architecture"], n, run.n_train, run.config.seed)
        if place in places:
            raise ConfigError(
                f"--adaptive: the runs {places[place]} and {run.name} have the same architecture, size, data and seed, "
                "so they differ in another setting. Tune that setting first (matscale tune), then give the study one "
                "value of it."
            )
        places[place] = run.name
        found.append(Offer(run, n, d, cost))
    return found


def _of(some: Sequence[Offer], architecture: str) -> list[Offer]:
    return [offer for offer in some if offer.architecture == architecture]


def _columns(some: Sequence[Offer]) -> tuple[Array, Array, Array]:
    n, d, flops = (np.array([getattr(offer, name) for offer in some], dtype=float) for name in ("n", "d", "flops"))
    return n, d, flops
