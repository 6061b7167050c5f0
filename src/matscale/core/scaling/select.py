"""Select the form of a law by two criteria: AICc on the means of sizes, and the predictions of the next size.

A form with more parameters is chosen only if both criteria prefer it. AICc alone judges only the points that were
fitted, and a few extrapolations alone decide little. Five sizes are too few to show a floor, which is no evidence
against a floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from matscale.core.scaling.law import Law
from matscale.core.scaling.means import Means
from matscale.core.scaling.solve import Solution, solve

MOST_ORIGINS = 6
"""Largest number of sizes that are predicted from the smaller ones; the largest sizes are taken."""


@dataclass(frozen=True)
class Candidate:
    """Form of a law, fitted to the means of sizes, with its values of the two criteria of selection."""

    law: Law
    solution: Solution
    aicc: float
    """Akaike's information criterion, corrected for few points. Lower is better; infinite for too few sizes."""
    extrapolation: float
    """Root mean square of ln(predicted / measured) for the next larger size; NaN if there are too few sizes."""
    n_extrapolations: int

    def plain(self) -> dict[str, float | str | int | None]:
        return {
            "law": self.law.name,
            "aicc": _finite(self.aicc),
            "extrapolation_error": _finite(self.extrapolation),
            "n_extrapolations": self.n_extrapolations,
        }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def aicc(squares: float, n_points: int, n_parameters: int) -> float:
    """Akaike's information criterion, corrected for few points (Hurvich & Tsai 1989).

    The variance of the noise counts as one more parameter.

    >>> round(aicc(squares=0.02, n_points=8, n_parameters=2), 2), round(aicc(0.02, 8, 3), 2)
    (-35.93, -26.6)
    """
    p = n_parameters + 1
    if n_points - p - 1 <= 0:
        return float("inf")
    return n_points * float(np.log(max(squares, 1e-30) / n_points)) + 2 * p + 2 * p * (p + 1) / (n_points - p - 1)


def candidates(means: Means, laws: Sequence[Law]) -> list[Candidate]:
    """Fit all forms for which there are enough sizes, in the given order; the first form is fitted in any case."""
    fitting = [law for k, law in enumerate(laws) if k == 0 or len(means) >= law.min_sizes]
    first = max(law.n_parameters for law in fitting) + 1
    origins = range(max(first, len(means) - MOST_ORIGINS), len(means))
    return [_candidate(means, law, origins) for law in fitting]


def _candidate(means: Means, law: Law, origins: range) -> Candidate:
    solution = solve(law, means.x, means.y, weights=means.weights)
    errors = np.array([_next_error(means, law, k) for k in origins])
    score = float(np.sqrt((errors**2).mean())) if len(errors) else float("nan")
    return Candidate(law, solution, aicc(2 * solution.objective, len(means), law.n_parameters), score, len(errors))


def _next_error(means: Means, law: Law, k: int) -> float:
    """Error ln(predicted / measured) of size number `k`, predicted by a fit to the smaller sizes."""
    weights = None if means.weights is None else means.weights[:k]
    found = solve(law, means.x[:k], means.y[:k], weights=weights)
    predicted = law.value(found.theta, means.x[k : k + 1] - found.frame.x)[0] + found.frame.y
    return float(predicted - means.y[k])


def choose(found: Sequence[Candidate]) -> tuple[Candidate, str]:
    """Choose the form to report; also return a sentence, empty unless the two criteria disagree."""
    plain = found[0]
    rivals = [c for c in found[1:] if c.aicc < plain.aicc]
    agreed = [c for c in rivals if c.n_extrapolations > 0 and c.extrapolation < plain.extrapolation]
    if agreed:
        best = min(agreed, key=lambda c: c.aicc)
        return best, ""
    if rivals:
        rival = min(rivals, key=lambda c: c.aicc)
        return plain, (
            f"form not decided: AICc prefers {rival.law.name} by {plain.aicc - rival.aicc:.1f}, "
            f"but it predicts the next size no better ({rival.extrapolation:.1%} against {plain.extrapolation:.1%})"
        )
    return plain, ""
