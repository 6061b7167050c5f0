"""Adaptive sweep: train runs of a study's grid in batches, only those that a purpose needs.

A purpose is a number to be known well enough: an exponent, the loss at a size, or the ratio of the costs of two models.
The grid holds all possible runs. The first runs are spread over its cheaper half; then each batch is chosen from the
results of all completed runs (`next_batch`), until the purpose is met or the budget is spent. Proposals are kept in a
file in the study's folder, so that a resumed sweep first trains the proposed runs that are not done.
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
"""File with a row per batch: its runs, and a sentence on what was known of the purpose before they were trained."""
FIRST = 4
"""Number of first runs of each architecture beyond the number of parameters of the law."""


@dataclass(frozen=True)
class Offer:
    """Run of the grid, with its n, d and FLOPs."""

    run: PlannedRun
    n: float
    d: float
    flops: float

    @property
    def architecture(self) -> str:
        return str(self.run.labels["architecture"])


@dataclass(frozen=True)
class Adaptive:
    """Adaptive sweep over the runs of a study's plan."""

    plan: StudyPlan
    offers: Sequence[Offer]
    purpose: Purpose
    count: int
    """Largest number of runs in a batch"""
    budget: float
    """FLOPs that all proposed runs may cost together"""

    def run(self, do: Do, said: Callable[[str], None] = lambda text: None) -> str:
        """Propose batches of runs and train each with `do` until the sweep ends; return the reason for its end.

        `said` receives a sentence per batch.
        Raises ConfigError for a budget that buys no run, and if all proposed runs failed.
        """
        least = min(offer.flops for offer in self.offers)
        if self.budget < least:
            raise ConfigError(
                f"--budget {self.budget:.3g} buys no run: the cheapest of the grid costs {least:.3g} FLOPs."
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
        """Names of the proposed runs in order, read from the file; names that are not in the grid are ignored."""
        path, known = self.plan.folder / PROPOSED, {offer.run.name for offer in self.offers}
        if not path.exists():
            return []
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return [name for row in rows for name in row["runs"] if name in known]
        except (ValueError, TypeError, KeyError):
            raise DataError(f"{path}: is damaged. Delete it: complete runs stay and are used.") from None

    def _statuses(self) -> dict[str, str]:
        return {offer.run.name: state_of(offer.run.path).status for offer in self.offers}

    def _propose(self) -> tuple[bool, str]:
        """Propose a batch if no proposed run is left, and write it to the file.

        Returns whether the sweep has ended, and a sentence: the reason for its end, or what it trains next.
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
            return True, f"{known}. Met, with {len(proposed)} proposed runs."
        if not chosen:
            why = "no run of the grid is left" if not free else f"the budget has {max(left, 0):.3g} FLOPs left"
            return True, f"{known}. Not met: {why}."
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
        """Choose first runs of an architecture: far apart in n and d, from the cheaper half of the grid."""
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
        """Raises ConfigError if all proposed runs have failed, since further runs would probably fail too."""
        status = self._statuses()
        of_them = [status[name] for name in self.proposed()]
        if of_them and set(of_them) == {"failed"}:
            raise ConfigError(
                f"All {len(of_them)} proposed runs failed. See why: `matscale runs list {self.plan.folder}`."
            )


def offers(plan: StudyPlan, flops: Mapping[Path, tuple[float, float]]) -> list[Offer]:
    """List the runs of a grid with their estimated cost. `flops` has (FLOPs, epochs) for each run folder.

    Raises ConfigError for a grid whose runs differ by more than architecture, size, data and seed, and for cooldowns,
    which cannot be trained without their trunk.
    """
    if any(run.need is not None or run.is_trunk for run in plan.runs):
        raise ConfigError(
            "--adaptive: cooldowns cannot be trained without their trunk. Give the study a budget, not [wsd]."
        )
    found, places = [], dict[tuple[object, ...], str]()
    for run in plan.runs:
        cost, epochs = flops[run.path]
        n, d = float(run.parameters["non_embedding"]), run.n_train * min(1.0, epochs)
        place = (run.labels["architecture"], n, run.n_train, run.config.seed)
        if place in places:
            raise ConfigError(
                f"--adaptive: {places[place]} and {run.name} differ by more than architecture, size, data and seed. "
                "Tune the rest first (matscale tune), and give the study one value of it."
            )
        places[place] = run.name
        found.append(Offer(run, n, d, cost))
    return found


def _of(some: Sequence[Offer], architecture: str) -> list[Offer]:
    return [offer for offer in some if offer.architecture == architecture]


def _columns(some: Sequence[Offer]) -> tuple[Array, Array, Array]:
    n, d, flops = (np.array([getattr(offer, name) for offer in some], dtype=float) for name in ("n", "d", "flops"))
    return n, d, flops
