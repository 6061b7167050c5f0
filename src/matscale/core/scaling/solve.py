"""Fit a law by minimising Σ ρ(ln L − law): damped Newton steps from many starts at once, then L-BFGS.

ρ is half the square, or Huber's function of width δ (Hoffmann et al., arXiv:2203.15556, use δ = 1e-3). In the five
parameters of L(N, D), the Hessian has a condition number of 1e11. Centred logarithms and coordinates scaled by the
Hessian's inverse square root ("whitening") bring it near 1; only then does L-BFGS converge to the minimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from matscale.core.scaling.law import Array, Frame, Law

HUBER = 1e-3
"""Width of Huber's function for fits to single runs, in ln L."""
TOGETHER = 16_384
"""Largest number of points, over all samples, in one step of `refine`; their arrays then fit into a core's cache."""
AHEAD = 0.1
"""Fraction of a step at which the law is evaluated to estimate its second derivative along the step."""


@dataclass(frozen=True)
class Solution:
    """Minimum of the objective of a fit: the parameters in centred logarithms, and how well the search converged."""

    theta: Array
    """Parameters [p]"""
    frame: Frame
    objective: float
    """Σ ρ over the points, in which ρ has the width δ of the fit."""
    gradient: float
    """Largest component of the gradient in whitened coordinates, relative to the objective."""
    n_agreeing: int
    """Number of starts whose search ended at this minimum, with an objective at most 1 % above it."""
    n_starts: int


def rho(residual: Array, delta: float | None) -> Array:
    """Cost of a residual: half its square or, with `delta`, Huber's function of this width.

    >>> rho(np.array([0.1, 2.0]), None).round(3).tolist(), rho(np.array([0.1, 2.0]), 0.5).round(3).tolist()
    ([0.005, 2.0], [0.005, 0.875])
    """
    if delta is None:
        return 0.5 * residual**2
    size = np.abs(residual)
    inside = np.minimum(size, delta)
    return np.asarray(inside * (size - 0.5 * inside))


def objective(law: Law, theta: Array, x: Array, y: Array, delta: float | None, weights: Array | None = None) -> Array:
    """Objective of a fit, Σ ρ over the points [...], for parameters [..., p]; infinite where the law is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _total(law.value(theta, x) - y, delta, weights)


def _total(residual: Array, delta: float | None, weights: Array | None) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        costs = rho(residual, delta)
        total = (costs if weights is None else weights * costs).sum(axis=-1)
    return np.where(np.isfinite(total), total, np.inf)


def refine(
    law: Law,
    theta: Array,
    x: Array,
    y: Array,
    *,
    delta: float | None = None,
    weights: Array | None = None,
    free: Array | None = None,
    steps: int = 60,
    tolerance: float = 1e-9,
) -> Array:
    """Minimise the objective by Levenberg–Marquardt from b starts `theta` [b, p] at once; returns the minima [b, p].

    Huber's function becomes a least-squares problem by reweighting of the points. `x` is [k, axes], `y` and `weights`
    are [k] or [b, k]. `free` [p] is 1 for parameters that may change, 0 for others.
    """
    theta = law.bounded(np.array(theta, dtype=np.float64))
    y = np.broadcast_to(y, (len(theta), y.shape[-1]))
    w = np.ones_like(y) if weights is None else np.broadcast_to(weights, y.shape)
    moving = None if free is None else free.astype(np.float64)
    # Seeds of one size share a row of x: the law is computed once for them.
    points, row = np.unique(x, axis=0, return_inverse=True)
    are_single = len(points) == len(x)
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row)
    first = np.cumsum(counts) - counts
    y, w = y[:, order], w[:, order]
    residual, cost = np.empty(y.shape), np.empty(len(theta))
    damping, pull, taken = np.full(len(theta), 1e-3), np.ones(len(theta)), np.zeros(len(theta), dtype=int)
    several = max(1, TOGETHER // len(points))

    def at(theta: Array, part: NDArray[np.intp]) -> tuple[Array, Array, Array]:
        with np.errstate(over="ignore", invalid="ignore"):
            value, slopes = law.with_derivatives(theta, points)
            off = (value if are_single else np.repeat(value, counts, axis=1)) - y[part]
        return off, _total(off, delta, w[part]), slopes if moving is None else slopes * moving

    # A batch of searches that fits into the cache; a search that ends makes room for one that waits.
    part, slopes = np.zeros(0, dtype=np.intp), np.zeros((0, len(points), law.n_parameters))
    waiting = np.arange(len(theta) if steps else 0)
    while len(part) or len(waiting):
        if len(waiting) and 4 * len(part) <= 3 * several:
            fresh, waiting = np.split(waiting, [several - len(part)])
            residual[fresh], cost[fresh], more = at(theta[fresh], fresh)
            part, slopes = np.concatenate([part, fresh]), _joined(slopes, more)
        of_runs = _weights(residual[part], w[part], delta, pull[part])
        slope, curvature = (column if are_single else np.add.reduceat(column, first, axis=1) for column in of_runs)
        now = (residual[part] + y[part]) if are_single else residual[part][:, first] + y[part][:, first]
        step = _step(law, theta[part], points, now, slopes, slope, curvature, damping[part], moving)
        trial = law.bounded(theta[part] + step)
        off, new, turned = at(trial, part)
        better, gain = new < cost[part], cost[part] - new
        done = np.where(better, gain <= tolerance * cost[part], damping[part] > 1e8)
        moved = part[better]
        theta[moved], cost[moved], residual[moved] = trial[better], new[better], off[better]
        turned[~better] = slopes[~better]
        slopes = turned
        damping[part] = np.maximum(damping[part] * np.where(better, 0.2, 8.0), 1e-12)
        pull[part] = np.clip(pull[part] * np.where(better, 0.5, 3.0), 1e-3, 1.0)
        taken[part] += 1
        stays = ~done & (taken[part] < steps)
        if not stays.all():
            part, slopes = part[stays], slopes[stays]
    return theta


def _joined(slopes: Array, more: Array) -> Array:
    """Derivatives of two batches [b, k, p] in one; in memory, each column of derivatives stays whole."""
    return np.swapaxes(np.concatenate([np.swapaxes(part, 1, 2) for part in (slopes, more)]), 1, 2)


def _weights(residual: Array, w: Array, delta: float | None, pull: Array) -> tuple[Array, Array]:
    """First and second derivative of the cost of each point, both [b, k]; the second is the one that a step assumes.

    Huber's function is straight beyond δ. With a second derivative of δ / |r| there (reweighting), no step goes too
    far, but forty are needed, since most points lie beyond δ. With 0 there (Newton's method), a few steps suffice, but
    may overshoot. The second derivative is therefore `pull` [b] times δ / |r|; `pull` falls while steps succeed and
    rises when one fails.
    """
    if delta is None:
        return w * residual, w
    size = np.abs(residual)
    inside = size <= delta
    beyond = pull[:, None] * delta / np.maximum(size, delta, out=size)
    beyond[inside] = 1.0
    return w * np.clip(residual, -delta, delta), w * beyond


def _step(
    law: Law,
    theta: Array,
    x: Array,
    now: Array,
    jacobian: Array,
    slope: Array,
    curvature: Array,
    damping: Array,
    moving: Array | None,
) -> Array:
    """Damped Newton step [b, p] with a second-order correction; `now` [b, k] has the values of the law at `theta`.

    Minima of laws with many parameters lie in narrow curved valleys, in which straight steps have to be short. The
    second derivative of the law along the step is therefore used to curve the step (Transtrum & Sethna,
    arXiv:1201.5885).
    """
    across = np.swapaxes(jacobian, 1, 2)
    hessian = across @ (jacobian * curvature[..., None])
    diagonal = np.einsum("bpp->bp", hessian)
    ridge = damping[:, None] * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300
    hessian = hessian + ridge[:, :, None] * np.eye(law.n_parameters)
    step = np.clip(-np.linalg.solve(hessian, across @ slope[..., None])[..., 0], -3.0, 3.0)
    step = step if moving is None else step * moving
    with np.errstate(over="ignore", invalid="ignore"):
        chord = (law.value(theta + AHEAD * step, x) - now) / AHEAD
        bend = (chord - (jacobian @ step[..., None])[..., 0]) / AHEAD
        bend = bend if np.isfinite(bend).all() else np.nan_to_num(bend, posinf=0.0, neginf=0.0)
        turn = -np.linalg.solve(hessian, across @ (curvature * bend)[..., None])[..., 0]
        is_small = (diagonal * turn**2).sum(axis=1) <= 0.14 * (diagonal * step**2).sum(axis=1)
    turned = np.clip(step + turn * is_small[:, None], -3.0, 3.0)
    return np.asarray(turned if moving is None else turned * moving)


def polish(law: Law, theta: Array, x: Array, y: Array, delta: float, rounds: int = 3) -> Array:
    """Minimise Huber's objective from `theta` [p] by L-BFGS in whitened coordinates.

    Least squares need no such search: Newton's method already ends at their minimum.
    """
    from scipy.optimize import minimize  # start-up: scipy

    for _ in range(rounds):
        cost = _Whitened(law, theta, x, y, delta)
        options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 500}
        found = minimize(cost, np.zeros(len(theta)), jac=True, method="L-BFGS-B", options=options)
        theta = law.bounded(theta + cost.factor @ found.x)
    return theta


class _Whitened:
    """Objective and its gradient in whitened coordinates around `theta`, divided by the objective at `theta`."""

    def __init__(
        self, law: Law, theta: Array, x: Array, y: Array, delta: float | None, weights: Array | None = None
    ) -> None:
        self.law, self.theta, self.x, self.y, self.delta = law, theta, x, y, delta
        self.weights = np.ones(len(y)) if weights is None else weights
        self.factor = _whitening(law, theta, x, y, delta)
        self.scale = max(float(objective(law, theta, x, y, delta, weights)), 1e-300)

    def __call__(self, z: Array) -> tuple[float, Array]:
        at = self.theta + self.factor @ z
        value, slopes = self.law.with_derivatives(at, self.x)
        residual = value - self.y
        slope = residual if self.delta is None else np.clip(residual, -self.delta, self.delta)
        gradient = self.factor.T @ (slopes.T @ (self.weights * slope))
        return float((self.weights * rho(residual, self.delta)).sum()) / self.scale, gradient / self.scale


def _whitening(law: Law, theta: Array, x: Array, y: Array, delta: float | None) -> Array:
    """Whitening matrix F [p, p], with F Fᵀ ≈ inverse Hessian × mean objective per point.

    A unit step in whitened coordinates is about one standard deviation.
    """
    residual = law.value(theta, x) - y
    w = np.ones_like(residual) if delta is None else np.minimum(1.0, delta / np.maximum(np.abs(residual), delta / 10))
    jacobian = law.derivatives(theta, x)
    hessian = (jacobian * w[:, None]).T @ jacobian
    values, vectors = np.linalg.eigh(hessian)
    values = np.maximum(values, 1e-10 * values.max())
    scale = np.sqrt(max(float(rho(residual, delta).sum()), 1e-300) / len(y))
    return np.asarray(vectors * (scale / np.sqrt(values)))


def solve(
    law: Law,
    logx: Array,
    logy: Array,
    delta: float | None = None,
    weights: Array | None = None,
    *,
    polishes: bool = True,
) -> Solution:
    """Fit a law to k points `logx` [k, axes] and `logy` [k], by searches from several starts.

    `weights` [k] apply to least squares. `polishes=False` leaves out the final L-BFGS: the parameters then lack digits
    that predictions do not need, and a law of nine parameters takes ten seconds less.
    """
    assert delta is None or weights is None
    frame = Frame.of(law, logx, logy)
    x, y = logx - frame.x, logy - frame.y
    ends = refine(law, law.starts(x, y), x, y, delta=delta, weights=weights)
    costs = objective(law, ends, x, y, delta, weights)
    theta = ends[int(np.argmin(costs))]
    if delta is not None and polishes:
        theta = polish(law, theta, x, y, delta)
    gradient = float(np.abs(_Whitened(law, theta, x, y, delta, weights)(np.zeros(len(theta)))[1]).max())
    least = float(objective(law, theta, x, y, delta, weights))
    agreeing = int((costs <= max(least, 1e-30) * (1 + 1e-2)).sum())
    return Solution(theta, frame, least, gradient, agreeing, len(ends))


def amplitudes(columns: Array, logy: Array) -> tuple[Array, Array]:
    """Fit the amplitudes c ≥ 0 of a sum L = Σ_i c_i columns_i at each of g grid points.

    `columns` [g, k, m] has m columns over k points for each grid point; `logy` [k] is ln L. The fit is least squares of
    relative errors. Returns c [g, m] and the residual sums of squares [g]. With m ≤ 3, all subsets of non-zero
    amplitudes are tried (Lawson & Hanson's problem, solved by enumeration), which is faster than a solver call per grid
    point.

    >>> x = np.array([1.0, 2.0, 4.0])
    >>> c, left = amplitudes(np.stack([np.ones(3), 1 / x], axis=-1)[None], np.log(2 + 3 / x))
    >>> c.round(6).tolist(), bool(left[0] < 1e-12)
    ([[2.0, 3.0]], True)
    """
    scaled = columns * np.exp(-logy)[:, None]
    n_grid, _, m = scaled.shape
    scale = np.linalg.norm(scaled, axis=1)  # [g, m]
    scaled = scaled / scale[:, None, :]
    gram = np.einsum("gki,gkj->gij", scaled, scaled)
    right = scaled.sum(axis=1)
    best, found = np.full(n_grid, np.inf), np.zeros((n_grid, m))
    for size in range(1, m + 1):
        for subset in combinations(range(m), size):
            chosen = list(subset)
            inner = gram[:, chosen][:, :, chosen] + 1e-12 * np.eye(size)
            c = np.linalg.solve(inner, right[:, chosen, None])[..., 0]
            left = ((scaled[:, :, chosen] @ c[..., None])[..., 0] - 1.0) ** 2
            rss = np.where((c > 0).all(axis=1), left.sum(axis=1), np.inf)
            better = rss < best
            best = np.where(better, rss, best)
            full = np.zeros((n_grid, m))
            full[:, chosen] = c
            found = np.where(better[:, None], full, found)
    return found / scale, best


def log_amplitudes(c: Array, smallest: float = 1e-5) -> Array:
    """ln of amplitudes, with zeros replaced by the value `smallest`, which a search can move away from."""
    return np.log(np.maximum(c, smallest))


def best_of(rss: Array, count: int) -> NDArray[np.intp]:
    """Indices of the `count` smallest values of `rss`, in ascending order of the values."""
    return np.argsort(rss, kind="stable")[:count]
