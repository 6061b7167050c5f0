"""Cost of a run as a function of parameters N and data D, C = k N^p D^q, fitted to the counted FLOPs of runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from matscale.core.errors import DataError
from matscale.core.scaling.law import Array
from matscale.core.scaling.tables.table import Table

ROUGH = 0.15
"""Largest relative error of C = k N^p D^q with which this formula is used."""

FLAT = 0.2
"""Least power of N or D in C; below it, a budget would not limit N or D."""


@dataclass(frozen=True)
class CostLaw:
    """Cost of a run in FLOPs, C = k N^p D^q, with constants fitted to runs.

    >>> cost = CostLaw(log_k=np.log(6.0), p=1.0, q=1.0, error=0.0, largest=1e18)
    >>> float(cost.flops(1e6, 1e9).round(-10)), float(cost.data(6e15, 1e6).round(-2))
    (6000000000000000.0, 1000000000.0)
    """

    log_k: float
    p: float
    q: float
    error: float
    """Root mean square of ln(counted FLOPs / FLOPs by this formula)"""
    largest: float
    """FLOPs of the largest run"""

    def flops(self, n: Array, d: Array) -> Array:
        return np.asarray(np.exp(self.log_k + self.p * np.log(n) + self.q * np.log(d)))

    def data(self, c: Array, n: Array) -> Array:
        """Amount of data D on which a model of `n` parameters can be trained for `c` FLOPs."""
        return np.asarray(np.exp((np.log(c) - self.log_k - self.p * np.log(n)) / self.q))


def measured_cost(table: Table) -> CostLaw:
    """Fit C = k N^p D^q to the counted FLOPs of runs. Raises DataError if FLOPs are missing or do not fit this form."""
    if not table.has("n", "d", "c"):
        raise DataError(
            "A plan needs n, d and c of every run: the cost is fitted to c rather than taken as 6 N D. Map the columns "
            "with --map."
        )
    columns = np.column_stack([np.ones(len(table)), np.log(table["n"]), np.log(table["d"])])
    y = np.log(table["c"])
    (log_k, p, q), _, rank, _ = np.linalg.lstsq(columns, y, rcond=1e-9)
    if rank < 3:
        raise DataError(
            "The cost C(N, D) cannot be fitted to these runs: n and d must vary independently. Train each size n on "
            "several amounts of data d."
        )
    error = float(np.sqrt(((y - columns @ [log_k, p, q]) ** 2).mean()))
    if error > ROUGH:
        raise DataError(
            f"The FLOPs of these runs do not follow from n and d alone (C = k N^p D^q is off by {error:.0%}): runs of "
            "one size made different numbers of passes over their data. Let d be the structures seen: --map "
            "d=structures."
        )
    return CostLaw(float(log_k), float(p), float(q), error, float(table["c"].max()))


def _refuse_flat(cost: CostLaw) -> None:
    """Raises DataError if C does not grow with n or with d.

    This happens, for instance, if all runs make the same number of steps.
    """
    for axis, power, how in (
        ("n", cost.p, ""),
        ("d", cost.q, ": the number of steps is the same for any amount of data"),
    ):
        if power < FLAT:
            raise DataError(
                f"FLOPs do not grow with {axis} in these runs (C ~ n^{cost.p:.2f} d^{cost.q:.2f}){how}. A budget "
                f"therefore does not limit {axis}. Train runs whose cost depends on {axis} (for d: set epochs, not "
                "steps)."
            )
