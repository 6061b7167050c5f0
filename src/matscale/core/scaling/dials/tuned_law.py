"""Learning-rate law of an architecture, in the form in which a study reads it from a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matscale.core.errors import DataError
from matscale.core.scaling.dials.law import LEARNING_RATE, DialLaw, batch_law, dial_law
from matscale.core.scaling.dials.optima import Optimum, Trial, optima
from matscale.core.study.lr_law import LRLaw
from matscale.core.study.tune import Tuned, best_batch


@dataclass(frozen=True)
class Dials:
    """Laws of the learning rate and batch size of one architecture, and the learning-rate law that a study reads."""

    lr: DialLaw
    batch: DialLaw | None
    """Law of the batch size; None if all sizes have one batch size"""
    lr_law: LRLaw

    @property
    def told(self) -> list[str]:
        """Description of the laws in lines of text."""
        return [*self.lr.told, *(self.batch.told if self.batch else [])]


def of_trials(trials: Sequence[Trial]) -> Dials:
    """Fit the laws of learning rate and batch size to trials. Raises DataError if no trial has a finite loss."""
    if not any(math.isfinite(trial.loss) for trial in trials):
        raise DataError("No trial has a finite loss. Try lower learning rates.")
    found = optima(trials)
    law = dial_law(found, LEARNING_RATE, _axes(found))
    batches = batch_law(found) if any(not math.isnan(one.batch) for one in found) else None
    tried = tuple(_told(one) for one in found)
    return Dials(law, batches, _lr_law(law, batches, batch=None, tried=tried))


def of_tuned(results: Sequence[Tuned], count: str = "non_embedding") -> Dials:
    """Fit the laws of learning rate and batch size to the runs of `matscale tune`.

    If both the batch size and the amount of data varied, there is a law of each. Otherwise there is only a law of the
    learning rate, at the batch size that is best over all model sizes.
    """
    batches = {result.batch for result in results}
    has_lengths = any(len({result.data for result in results if result.batch == one}) > 1 for one in batches)
    if has_lengths and len(batches) > 1:
        trials = [
            Trial(result.parameters[count], result.data or math.nan, lr, result.batch or math.nan, loss)
            for result in results
            for lr, loss in result.losses.items()
        ]
        return of_trials(trials)
    batch = best_batch(results)
    found = [
        Optimum(r.parameters[count], r.data or math.nan, r.lr, math.nan, (LEARNING_RATE,) if r.is_at_edge else ())
        for r in results
        if r.batch == batch
    ]
    law = dial_law(found, LEARNING_RATE, _axes(found) if has_lengths else ("n",))
    tried = tuple(result.plain() for result in results)
    return Dials(law, None, _lr_law(law, None, batch, tried, count))


def _axes(found: Sequence[Optimum]) -> tuple[str, ...]:
    return ("n",) if any(math.isnan(one.d) for one in found) else ("n", "d")


def _told(one: Optimum) -> dict[str, Any]:
    values = {"n": one.n, "d": one.d, "lr": one.lr, "batch": one.batch}
    known: dict[str, Any] = {key: value for key, value in values.items() if not math.isnan(value)}
    return known | ({"at_edge": list(one.at_edge)} if one.at_edge else {})


def _lr_law(
    law: DialLaw, batches: DialLaw | None, batch: int | None, tried: Sequence[Any], count: str = "non_embedding"
) -> LRLaw:
    values = {**_power(law), "parameters": count, "batch": batch, "tried": tuple(tried)}
    return LRLaw.parse({**values, "batch_law": None if batches is None else _power(batches)})


def _power(law: DialLaw) -> dict[str, Any]:
    def interval(axis: str) -> tuple[float, float] | None:
        low, high = law.intervals.get(axis, (-math.inf, math.inf))
        return (low, high) if math.isfinite(low) else None

    return {
        "a": law.a,
        "b": law.exponents.get("n", 0.0),
        "c": law.exponents.get("d", 0.0),
        "interval": interval("n"),
        "interval_c": interval("d"),
        "verdict": law.verdict,
        "reasons": tuple(map(str, law.reasons)),
    }
