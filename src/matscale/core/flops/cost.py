"""FLOPs of any batch from its shape: by a formula, or by a polynomial fitted to counted batches.

FLOPs = k + a n_structures + b n_atoms + c n_edges + d Σ atoms² + e n_triplets, all coefficients >= 0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from matscale.core.data.batch import AtomicBatch, BatchShape
from matscale.core.flops.count import count_prediction, run_counted
from matscale.core.flops.probes import Probes
from matscale.core.model.potential import Potential

Formula = Callable[[BatchShape], float | None]

TOLERANCE = 0.01
"""Relative deviation from the counted FLOPs above which there is a warning."""
_EXACT = 1e-3
"""Relative deviation below which a fit needs no further term."""

TERMS: dict[str, Callable[[BatchShape], int]] = {
    "batches": lambda shape: 1,
    "structures": lambda shape: shape.n_structures,
    "atoms": lambda shape: shape.n_atoms,
    "edges": lambda shape: shape.n_edges,
    "atoms_squared": lambda shape: shape.sum_atoms_squared,
    "triplets": lambda shape: shape.n_triplets,
}


@dataclass(frozen=True)
class Polynomial:
    """Polynomial for FLOPs, with one coefficient for each term.

    Only terms with a coefficient are evaluated, since counting triplets is slow.
    """

    coefficients: dict[str, float]

    def __call__(self, shape: BatchShape) -> float:
        return sum(value * TERMS[name](shape) for name, value in self.coefficients.items())


@dataclass(frozen=True)
class Cost:
    """FLOPs of a batch as a function of its shape."""

    step: Callable[[BatchShape], float]
    """FLOPs of one training step."""
    prediction: Callable[[BatchShape], float]
    """FLOPs of one prediction in evaluation mode."""
    counted_by: str
    """`formula` (of the plugin) or `fit` (to counted steps)."""
    error: float
    """Largest relative deviation of `step` from counted FLOPs, over the batches with which it was verified."""
    elementwise_share: float = 0.0
    """Number of element-wise operations of a step divided by its FLOPs, which do not include them."""
    opaque: tuple[str, ...] = ()
    """Names of kernels without a FLOP formula, which count as zero."""

    def complaints(self, name: str) -> list[str]:
        """Warnings about the FLOPs of the architecture `name`, one sentence each."""
        found = []
        if self.error > TOLERANCE:
            what = "the formula" if self.counted_by == "formula" else "a polynomial in the sizes of a batch"
            found.append(
                f"Warning: {name}: FLOPs by {what} deviate from counted ones by up to {100 * self.error:.1f} %, more "
                f"than {100 * TOLERANCE:g} %. `matscale plugins check` says where."
            )
        if self.opaque:
            found.append(
                f"Warning: {name}: {', '.join(self.opaque)} count as zero FLOPs, because they have no formula. "
                "Register one with matscale.plugin.flops_of_kernel."
            )
        return found


def cost_of(potential: Potential, probes: Probes, formula: Formula = lambda shape: None) -> Cost:
    """Make the `Cost` of a model from `formula` if it gives a number, otherwise from a fit to `probes.fitted`.

    The largest deviation from the counts of `probes.verified` is stored in `Cost.error`.
    """
    shapes = [batch.shape for batch in probes.verified]
    counts = [run_counted(potential, batch, training=True) for batch in probes.verified]
    known = formula(shapes[0]) is not None
    step: Formula = formula if known else _fitted(potential, probes.fitted)
    error = max(deviation(_whole(step)(s), c.contractions) for s, c in zip(shapes, counts))
    opaque = tuple(sorted({name for count in counts for name in count.opaque}))
    share = counts[-1].elementwise / counts[-1].contractions if counts[-1].contractions else 0.0
    prediction = _prediction(potential, probes, step)
    return Cost(_whole(step), prediction, "formula" if known else "fit", error, share, opaque)


def deviation(stated: float, counted: float) -> float:
    """Relative deviation of stated from counted FLOPs; infinite if only the counted ones are zero."""
    if counted == 0:
        return 0.0 if stated == 0 else float("inf")
    return abs(stated - counted) / counted


def fit(shapes: Sequence[BatchShape], counts: Sequence[float]) -> Polynomial:
    """Fit a polynomial by non-negative least squares of relative deviations; triplets are used only if needed."""
    simple = [name for name in TERMS if name != "triplets"]
    found = _least_squares(simple, shapes, counts)
    if max(deviation(found(s), n) for s, n in zip(shapes, counts)) > _EXACT:
        found = _least_squares(list(TERMS), shapes, counts)
    return found


def _least_squares(terms: Sequence[str], shapes: Sequence[BatchShape], counts: Sequence[float]) -> Polynomial:
    from scipy.optimize import nnls  # start-up: scipy

    rows = np.array([[TERMS[name](shape) for name in terms] for shape in shapes], dtype=np.float64)
    flops = np.array(counts, dtype=np.float64)
    scale = np.maximum(rows.max(axis=0), 1.0)  # columns of similar size
    weights = 1 / np.maximum(flops, 1.0)
    solution = nnls(rows / scale * weights[:, None], flops * weights)[0] / scale
    shares = solution * rows.mean(axis=0) / max(flops.mean(), 1.0)
    # A tiny coefficient is a rounding error.
    return Polynomial({name: float(x) for name, x, share in zip(terms, solution, shares) if share > 1e-9})


def _fitted(potential: Potential, batches: Sequence[AtomicBatch]) -> Polynomial:
    counts = [run_counted(potential, batch, training=True).contractions for batch in batches]
    return fit([batch.shape for batch in batches], counts)


def _prediction(potential: Potential, probes: Probes, step: Formula) -> Callable[[BatchShape], float]:
    """Function for the cost of a prediction.

    It is a fixed share of the cost of a step if different batches have the same share, otherwise a fit.
    """
    shares = [_share(count_prediction(potential, batch), step(batch.shape)) for batch in probes.verified]
    if max(shares) - min(shares) <= _EXACT * max(shares):
        return _whole(lambda shape: shares[0] * (step(shape) or 0.0))
    counts = [count_prediction(potential, batch) for batch in probes.fitted]
    return _whole(fit([batch.shape for batch in probes.fitted], counts))


def _share(prediction: float, step: float | None) -> float:
    return prediction / step if step else 0.0


def _whole(flops: Formula) -> Callable[[BatchShape], float]:
    """Function that rounds FLOPs to whole numbers, so that they add up exactly."""

    def rounded(shape: BatchShape) -> float:
        value = flops(shape)
        assert value is not None
        return float(round(value))

    return rounded
