"""Cost of a run as a function of parameters N and data D, C = k N^p D^q, fitted to the counted FLOPs of runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from matscale.core.errors import DataError
from matscale.core.scaling.law import Array
from matscale.core.scaling.tables.table import Table

ROUGH = 0.15
"""Relative error of C = k N^p D^q above which it does not describe the runs."""

FLAT = 0.2
"""Least power of N or D in C; below it, a budget would not limit N or D."""


@dataclass(frozen=True)
class CostLaw:
    """Cost of a run, C = k N^p D^q, fitted to runs.

    >>> cost = CostLaw(log_k=np.log(6.0), p=1.0, q=1.0, error=0.0, largest=1e18)
    >>> float(cost.flops(1e6, 1e9).round(-10)), float(cost.data(6e15, 1e6).round(-2))
    (6000000000000000.0, 1000000000.0)
    """

    log_k: float
    p: float
    q: float
    error: float
    """Root mean square of ln(found / law)"""
    largest: float
    """FLOPs of the largest run"""

    def flops(self, n: Array, d: Array) -> Array:
        return np.asarray(np.exp(self.log_k + self.p * np.log(n) + self.q * np.log(d)))

    def data(self, c: Array, n: Array) -> Array:
        """D at which a model of size `n` costs `c`."""
        return np.asarray(np.exp((np.log(c) - self.log_k - self.p * np.log(n)) / self.q))


def measured_cost(table: Table) -> CostLaw:
    """Fit C(N, D) to the runs. Raises DataError without compute, or if C is no product of powers."""
    if not table.has("n", "d", "c"):
        raise DataError(
            "A plan needs n, d and c of every run: costs are fitted to c, not taken as 6 N D. Map the columns with "
            "--map."
        )
    columns = np.column_stack([np.ones(len(table)), np.log(table["n"]), np.log(table["d"])])
    y = np.log(table["c"])
    (log_k, p, q), _, rank, _ = np.linalg.lstsq(columns, y, rcond=1e-9)
    if rank < 3:
        raise DataError("The cost C(N, D) cannot be fitted to these runs: n and d have to vary independently.")
    error = float(np.sqrt(((y - columns @ [log_k, p, q]) ** 2).mean()))
    if error > ROUGH:
        raise DataError(
            f"FLOPs are no function of n and d alone here (C = k N^p D^q misses by {error:.0%}): runs of one size made "
            "different numbers of passes over their data. Map d to what was seen: --map d=structures."
        )
    return CostLaw(float(log_k), float(p), float(q), error, float(table["c"].max()))


def _refuse_flat(cost: CostLaw) -> None:
    """Raises DataError if C does not grow with n or with d, as when all runs make the same number of steps."""
    for axis, power, how in (
        ("n", cost.p, ""),
        ("d", cost.q, ": the number of steps is the same for any amount of data"),
    ):
        if power < FLAT:
            raise DataError(
                f"FLOPs do not grow with {axis} in these runs (C ~ n^{cost.p:.2f} d^{cost.q:.2f}){how}. So no budget "
                f"determines {axis}: train runs whose cost depends on it (for d, by epochs, not steps)."
            )
