"""Allocation of a training budget: model size N and data D, from the joint law and the measured cost C(N, D).

    minimise  E + A N^-alpha + B D^-beta   with   k N^p D^q = C

k, p, q are fitted to the runs' counted FLOPs: the cost of models of atoms depends on edges and atoms, so that 6 N D is
wrong by a factor that changes with N. The condition alpha A N^-alpha / p = beta B D^-beta / q gives N in closed form.
Each bootstrap sample of the law gives its own N; the intervals are quantiles of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from matscale.core.errors import ConfigError, MatscaleError
from matscale.core.files import finite
from matscale.core.scaling.allocation.cost_law import CostLaw, _refuse_flat, measured_cost
from matscale.core.scaling.allocation.next_runs import Proposal, existing, propose
from matscale.core.scaling.allocation.speed import Speed
from matscale.core.scaling.bootstrap import Draws
from matscale.core.scaling.intervals import LEVEL
from matscale.core.scaling.law import Array
from matscale.core.scaling.means import not_held
from matscale.core.scaling.result import Fit
from matscale.core.scaling.tables.seen import seen_note
from matscale.core.scaling.verdict import REFUSED

FURTHEST = 30.0
"""Largest factor between a budget and the compute of the runs: below the smallest or above the largest."""


@dataclass(frozen=True)
class Quantity:
    """Planned value with the ends of its interval."""

    value: float
    low: float
    high: float

    @property
    def is_given(self) -> bool:
        """Whether the user gave the value, so that it has no interval."""
        return self.low == self.high


@dataclass(frozen=True)
class Plan:
    """Plan for a training budget: model size, amount of data, and the loss to expect."""

    flops: Quantity
    """Budget: the given one, or the one that the target loss needs"""
    n: Quantity
    d: Quantity
    loss: Quantity
    """Expected loss of a new run; the target loss if one was given"""
    unreachable: float
    """Share of bootstrap samples in which no budget reaches the target loss; 0 if no target was given"""
    cost: CostLaw
    speed: Speed | None
    """Training speed of the given device; None if no device was given"""
    beyond: float
    """Budget divided by the largest compute of the runs"""
    proposals: tuple[Proposal, ...]
    notes: tuple[str, ...]

    @property
    def device_hours(self) -> float | None:
        """Hours of training on one device of the given kind; None if no device was given."""
        return None if self.speed is None else self.flops.value / self.speed.flops_per_s / 3600.0

    def plain(self) -> dict[str, Any]:
        quantities = {name: vars(getattr(self, name)) for name in ("flops", "n", "d", "loss")}
        values = {
            **quantities,
            "unreachable": self.unreachable,
            "cost": vars(self.cost),
            "device_hours": self.device_hours,
            "speed": self.speed.plain() if self.speed else None,
            "beyond": self.beyond,
            "next_runs": [vars(p) for p in self.proposals],
            "notes": list(self.notes),
        }
        plain: dict[str, Any] = finite(values)
        return plain


def make_plan(
    fit: Fit,
    *,
    flops: float | None = None,
    loss: float | None = None,
    speed: Callable[[float], Speed] | None = None,
    despite: str = "",
) -> Plan:
    """Divide a training budget between model size and data: the budget `flops`, or the one that `loss` needs.

    `speed` gives the training speed of a model for its number of parameters. `despite` names a verdict: a law refused
    with this verdict is used nevertheless, with uncertainties widened by its misfit. Raises MatscaleError, with the
    reasons, if the joint law is refused with another verdict. Raises ConfigError for a budget too far from the runs, or
    a loss that the law never reaches.
    """
    if (flops is None) == (loss is None):
        raise ConfigError("Say what to plan for: either --flops BUDGET or --loss TARGET.")
    if loss is not None and not 0 < loss < np.inf:
        raise ConfigError(f"--loss {loss:g}: the target loss must be above 0 and finite.")
    cost = measured_cost(fit.table)
    if not fit.is_law:
        if fit.verdict != despite or despite not in REFUSED:
            raise MatscaleError(refusal(fit, cost))
        fit = fit.allowing_for_misfit
    _refuse_flat(cost)
    assert isinstance(fit.spread, Draws)
    draws = sampled_laws(fit.spread)
    if 2 * len(draws) < len(fit.spread.draws):
        raise MatscaleError(
            f"No plan: in only {len(draws)} of {len(fit.spread.draws)} bootstrap samples, widened by the misfit of the "
            f"law, the loss falls with both N and D, so that there is a best model size. {_advice(fit, cost)}"
        )
    best = np.array([[fit.parameters[name] for name in ("E", "A", "B", "alpha", "beta")]])
    if flops is None:
        assert loss is not None
        budget, unreachable = _for_loss(loss, best, draws, cost, fit)
    else:
        budget, unreachable = np.full(1 + len(draws), flops), 0.0
    refuse_far(float(budget[0]), cost, float(np.nanmin(fit.table["c"])))
    laws = np.concatenate([best, draws])
    reachable = np.isfinite(budget)
    n = optimal_size(laws[reachable], budget[reachable], cost)
    d = cost.data(budget[reachable], n)
    expected = _predicted(fit, float(n[0]), float(d[0])) if loss is None else Quantity(loss, loss, loss)
    return Plan(
        flops=_quantity(budget[reachable]),
        n=_quantity(n),
        d=_quantity(d),
        loss=expected,
        unreachable=unreachable,
        cost=cost,
        speed=speed(float(n[0])) if speed else None,
        beyond=float(budget[0]) / cost.largest,
        proposals=tuple(propose(fit, cost, (float(n[0]), float(d[0])))),
        notes=(
            *_despite(fit),
            *filter(None, [seen_note(fit.table)]),
            *not_held(fit.table, fit.axes),
            *_notes(fit, float(n[0]), float(d[0])),
        ),
    )


def refusal(fit: Fit, cost: CostLaw) -> str:
    """Text that says why there is no plan, what can still be said, and which runs would help."""
    reasons = "; ".join(str(reason) for reason in fit.reasons)
    still = f" Still, {fit.still}. --despite {option(fit.verdict)} plans with this uncertainty." if fit.still else ""
    return f"No plan: the joint law is {fit.verdict} ({reasons}).{still} {_advice(fit, cost)}".rstrip()


def option(verdict: str) -> str:
    """Write a verdict as an argument of `--despite`: `incomplete-design`."""
    return verdict.replace(" ", "-")


def _advice(fit: Fit, cost: CostLaw) -> str:
    best = ", ".join(f"n = {p.n:,.0f} on d = {p.d:,.0f}" for p in propose(fit, cost, None)[:3])
    return f"The most informative next runs: {best}." if best else ""


def _despite(fit: Fit) -> list[str]:
    """Note on a plan that uses a refused law: its verdict, the reasons, and how much the uncertainty was widened."""
    if fit.is_law:
        return []
    reasons = "; ".join(str(reason) for reason in fit.reasons)
    wider = f"; its uncertainty is therefore {fit.widening:.2g} times wider" if fit.widening > 1 else ""
    return [f"the law is {fit.verdict} ({reasons}){wider}"]


def optimal_size(laws: Array, c: Array, cost: CostLaw) -> Array:
    """Model size N [b] of least loss for budgets `c` [b] under b laws with parameters (E, A, B, alpha, beta) [b, 5]."""
    _, a, b, alpha, beta = laws.T
    left = np.log(alpha * a * cost.q) - np.log(beta * b * cost.p)
    return np.asarray(np.exp((left + beta * (np.log(c) - cost.log_k) / cost.q) / (alpha + beta * cost.p / cost.q)))


def reached(laws: Array, c: Array, cost: CostLaw) -> Array:
    """Least loss [b] that budgets `c` [b] can reach under b laws (E, A, B, alpha, beta) [b, 5]."""
    n = optimal_size(laws, c, cost)
    e, a, b, alpha, beta = laws.T
    return np.asarray(e + a * n**-alpha + b * cost.data(c, n) ** -beta)


def needed(loss: float, laws: Array, cost: CostLaw) -> Array:
    """Least compute [b] that reaches `loss` under b laws; infinite if the floor is above `loss`.

    It is found by bisection in ln C.
    """
    low, high = np.full(len(laws), np.log(cost.largest) - 60.0), np.full(len(laws), np.log(cost.largest) + 120.0)
    with np.errstate(over="ignore", under="ignore"):
        for _ in range(80):
            middle = (low + high) / 2
            above = reached(laws, np.exp(middle), cost) > loss
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.where(laws[:, 0] < loss, np.exp(high), np.inf)


def sampled_laws(spread: Draws, samples: Array | None = None) -> Array:
    """Laws (E, A, B, alpha, beta) [b, 5] whose loss falls with both N and D, among samples of a joint law [b, 5].

    Default: its bootstrap samples, widened to Student's t.
    """
    samples = spread.widened() if samples is None else samples
    plain = spread.law.plain(spread.law.bounded(samples), spread.frame)
    laws = np.stack([plain[name] for name in ("E", "A", "B", "alpha", "beta")], axis=-1)
    return laws[(laws[:, 1:] > 0).all(axis=1) & np.isfinite(laws).all(axis=1)]


def _for_loss(loss: float, best: Array, draws: Array, cost: CostLaw, fit: Fit) -> tuple[Array, float]:
    budgets = needed(loss, np.concatenate([best, draws]), cost)
    unreachable = float(np.isinf(budgets[1:]).mean())
    if np.isinf(budgets[0]):
        low, high = fit.intervals["E"]
        raise ConfigError(
            f"--loss {loss:g}: the floor of the law is {best[0, 0]:.3g} ({low:.3g} to {high:.3g}), so no budget "
            f"reaches it (in {unreachable:.0%} of the bootstrap samples). Choose a target above the floor."
        )
    return budgets, unreachable


def refuse_far(c: float, cost: CostLaw, smallest: float) -> None:
    """Raises ConfigError for a budget `c` too far from the runs; `smallest` is the compute of the cheapest run."""
    if c * FURTHEST < smallest:
        raise ConfigError(
            f"{c:.2g} FLOPs are less than a {FURTHEST:.0f}th of the smallest compute seen ({smallest:.2g}); the law is "
            "not known there. Plan for more FLOPs, or for a lower loss."
        )
    if c > FURTHEST * cost.largest:
        raise ConfigError(
            f"{c:.2g} FLOPs are {c / cost.largest:,.3g} times the largest compute seen ({cost.largest:.2g}); the law "
            f"is not known beyond {FURTHEST:.0f} times. Plan for {FURTHEST * cost.largest:.2g} at most, train there, "
            "fit again."
        )


def _quantity(values: Array) -> Quantity:
    """Make a quantity from `values`: the first belongs to the fit, the others to the bootstrap samples."""
    low, high = np.quantile(values, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Quantity(float(values[0]), float(min(low, values[0])), float(max(high, values[0])))


def _predicted(fit: Fit, n: float, d: float) -> Quantity:
    return Quantity(*fit.predict({"n": n, "d": d}))


def _notes(fit: Fit, n: float, d: float) -> list[str]:
    notes = []
    for axis, value in (("n", n), ("d", d)):
        low, high = fit.range[axis]
        if not low <= value <= high:
            notes.append(f"{axis} = {value:,.0f} lies outside the runs ({low:,.0f} to {high:,.0f})")
    if d > (most := existing(fit.table)):
        notes.append(
            f"d = {d:,.0f} is more than the dataset has: {most:,.0f} training structures. Pack or make more "
            "(matscale data), or plan for fewer FLOPs"
        )
    return notes
