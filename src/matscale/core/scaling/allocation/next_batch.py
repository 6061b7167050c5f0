"""Choose the next runs for a purpose: to know an exponent or the loss at a size, or which of two models is cheaper.

The law of each architecture gives the uncertainty (see `belief`). It is E + A N^-alpha + B D^-beta, unless another law
in n and d is given. `choose` selects the runs. For two architectures, the purpose is the ratio of the FLOPs that they
need for one loss, and runs of both reduce its uncertainty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from matscale.core.errors import ConfigError, DataError, did_you_mean
from matscale.core.files import finite
from matscale.core.hosting.host import host
from matscale.core.scaling.allocation.belief import Belief, believe
from matscale.core.scaling.allocation.choose import choose
from matscale.core.scaling.allocation.cost_law import CostLaw, measured_cost
from matscale.core.scaling.allocation.next_runs import candidates, existing
from matscale.core.scaling.allocation.plan import needed, refuse_far
from matscale.core.scaling.law import Array, Law
from matscale.core.scaling.tables.labels import refuse_confounded
from matscale.core.scaling.tables.table import Table
from matscale.core.scaling.text import counted, percent, size, with_interval
from matscale.core.units import parse_count

FORM = "nd"
EXPONENTS = ("alpha", "beta")
USAGE = "Write alpha=0.02 (or beta), loss=5%@n=1M,d=1M or cheaper@loss=1.5."


@dataclass(frozen=True)
class Purpose:
    """Purpose of the next runs: to know a number to within `within`, or to know which of two models is cheaper."""

    what: str
    """Kind of purpose: `alpha`, `beta`, `loss` or `cheaper`"""
    within: float
    """Wanted half-width of the 95 % interval: absolute for an exponent, relative for a loss; 0 for `cheaper`"""
    at: Mapping[str, float]
    """Size {n, d} at which the loss is wanted, or {loss} that both models shall reach"""

    @classmethod
    def parse(cls, text: str) -> Purpose:
        """Read a purpose from its text. Raises ConfigError, with the valid forms, if the text has none of them.

        >>> Purpose.parse("loss=5%@n=1M,d=30k")
        Purpose(what='loss', within=0.05, at={'n': 1000000.0, 'd': 30000.0})
        """
        head, _, place = text.partition("@")
        what, _, wanted = (part.strip() for part in head.partition("="))
        axes = {"loss": {"n", "d"}, "cheaper": {"loss"}}.get(what, set())
        if what not in (*EXPONENTS, "loss", "cheaper"):
            raise ConfigError(f"{text!r}: {did_you_mean(what, [*EXPONENTS, 'loss', 'cheaper'])} {USAGE}")
        try:
            within = float(wanted.removesuffix("%")) / (100 if wanted.endswith("%") else 1) if wanted else 0.0
            pairs = [part.partition("=") for part in place.split(",")] if place else []
            at = {name.strip(): float(parse_count(value)) for name, _, value in pairs}
        except (ValueError, OverflowError):
            raise ConfigError(f"{text!r} has a number that cannot be read. {USAGE}") from None
        is_sound = 0 < within < 1 if what != "cheaper" else not wanted
        if not is_sound or set(at) != axes or not all(0 < value < np.inf for value in at.values()):
            raise ConfigError(f"{text!r} is not a valid purpose. {USAGE}")
        return cls(what, within, at)


@dataclass(frozen=True)
class Side:
    """Architecture among those considered, with its fitted law, its cost law and its candidate runs."""

    name: str
    belief: Belief
    measured: CostLaw
    smallest: float
    """FLOPs of the cheapest run that the law was fitted to"""
    n: Array
    d: Array
    flops: Array

    def number(self, theta: Array, purpose: Purpose) -> Array:
        """Value [b] of the wanted number for b sets of parameters [b, p]: an exponent, or ln of a loss or of FLOPs."""
        frame, law = self.belief.solution.frame, self.belief.law
        if purpose.what == "loss":
            x = np.log([[purpose.at["n"], purpose.at["d"]]])
            return np.asarray(law.value(theta, x - frame.x)[..., 0] + frame.y)
        plain = law.plain(law.bounded(theta), frame)
        if purpose.what != "cheaper":
            return plain[purpose.what]
        laws = np.stack([plain[name] for name in ("E", "A", "B", "alpha", "beta")], axis=-1)
        with np.errstate(all="ignore"):
            flops = np.log(needed(purpose.at["loss"], laws, self.measured))
        never = np.log(self.measured.largest) + 120.0  # where needed() ends its search
        return np.nan_to_num(flops, nan=never, posinf=never)


@dataclass(frozen=True)
class NextRun:
    """Run that should be trained next, with the precision that is expected afterwards."""

    architecture: str
    n: float
    d: float
    flops: float
    leaves: float
    """Expected half-width of the 95 % interval of the wanted number after this run and all earlier ones in the list"""
    index: int
    """Index of the run among the candidates of its architecture"""


@dataclass(frozen=True)
class Batch:
    """Next runs for a purpose, and how well the wanted number is known before they are trained."""

    purpose: Purpose
    names: tuple[str, ...]
    value: float
    """The wanted number: an exponent, ln of a loss, or ln of the ratio of FLOPs (first architecture over second)"""
    half: float
    """Half-width of the 95 % interval of `value`"""
    runs: tuple[NextRun, ...]

    @property
    def is_met(self) -> bool:
        """Whether the number is known well enough already, so that no run is needed."""
        return self.half <= self.wanted

    @property
    def wanted(self) -> float:
        """Half-width of the interval at which the purpose is met."""
        return {"loss": float(np.log1p(self.purpose.within)), "cheaper": abs(self.value)}.get(
            self.purpose.what, self.purpose.within
        )

    @property
    def text(self) -> str:
        """Sentence that states the present value, its interval and the wanted precision."""
        low, high = self.value - self.half, self.value + self.half
        if self.purpose.what in EXPONENTS:
            return f"{self.purpose.what} = {with_interval(self.value, low, high)}; wanted to ±{self.purpose.within:g}"
        with np.errstate(over="ignore"):
            told = with_interval(*np.exp([self.value, low, high]).tolist())
        if self.purpose.what == "loss":
            at = ", ".join(f"{axis} = {size(value)}" for axis, value in self.purpose.at.items())
            return f"loss at {at}: {told}; wanted to ±{percent(self.purpose.within).lstrip('+')}"
        first, second = self.names
        verdict = f"{first if self.value < 0 else second} is cheaper" if self.is_met else "undecided which is cheaper"
        return f"for a loss of {self.purpose.at['loss']:g}, {first} needs {told} × the FLOPs of {second}: {verdict}"

    def plain(self) -> dict[str, Any]:
        values = {
            "purpose": vars(self.purpose),
            "architectures": list(self.names),
            "value": self.value,
            "half_width": self.half,
            "wanted": self.wanted,
            "met": self.is_met,
            "text": self.text,
            "next_runs": [vars(run) for run in self.runs],
        }
        plain: dict[str, Any] = finite(values)
        return plain


def side_of(table: Table, offered: tuple[Array, Array, Array] | None = None, law: Law | None = None) -> Side:
    """Fit a law and the cost to the runs of one architecture, and list its candidate runs.

    `offered` gives (n, d, FLOPs) of the candidate runs. Without it, the candidates are sizes in and near the range of
    the runs. `law` is a law in n and d; None means `FORM`.
    """
    runs, law = table.ends(), law or host().law(FORM)
    if law.axes != ("n", "d"):
        raise ConfigError(
            f"The law {law.name} has the variables {', '.join(law.axes)}. Next runs are sizes n on amounts of data d, "
            f"so they are chosen by a law in n and d, such as {FORM}: give one with --law, or leave --law out."
        )
    refuse_confounded(runs)
    cost = measured_cost(runs)
    if len(runs) <= law.n_parameters + 1:
        raise DataError(
            f"{counted(len(runs), 'run')} are too few to choose the next ones: the law {law.name} has "
            f"{law.n_parameters} parameters. Train {law.n_parameters + 2} small runs first, of several sizes on "
            "several amounts of data."
        )
    x = np.log(np.stack([runs["n"], runs["d"]], axis=-1))
    belief = believe(law, x, np.log(runs["loss"]), runs["c"])
    if offered is None:
        n, d = candidates(
            {axis: (float(runs[axis].min()), float(runs[axis].max())) for axis in ("n", "d")}, existing(table)
        )
        flops = cost.flops(n, d)
        cheap = flops <= 2 * cost.largest
        offered = n[cheap], d[cheap], flops[cheap]
    return Side(str(runs.words["arch"][0]), belief, cost, float(runs["c"].min()), *offered)


def next_batch(sides: Sequence[Side], purpose: Purpose, count: int, budget: float) -> Batch:
    """Choose up to `count` next runs that together cost at most `budget` FLOPs; no run if the purpose is met already.

    Raises ConfigError for a purpose that needs another number of architectures, or that lies too far from the runs.
    Also raises it if the cheapest candidate costs more than the budget.
    """
    if len(sides) != (2 if purpose.what == "cheaper" else 1):
        needs = "two architectures: --arch A --arch B" if purpose.what == "cheaper" else "one architecture: --arch A"
        raise ConfigError(f"The purpose {purpose.what} needs {needs}. Given: {', '.join(s.name for s in sides)}.")
    for side in sides:
        _refuse_unknown(side.belief.law, purpose)
        _refuse_beyond(side, purpose)
    values = [float(side.number(side.belief.solution.theta[None], purpose)[0]) for side in sides]
    signs = (1.0, -1.0)[: len(sides)]
    rows = [side.belief.deviations_of(partial(side.number, purpose=purpose)) for side in sides]
    there = np.concatenate([sign * row for sign, row in zip(signs, rows)])
    quantile = max(side.belief.quantile() for side in sides)
    now = Batch(
        purpose,
        tuple(side.name for side in sides),
        sum(sign * value for sign, value in zip(signs, values)),
        quantile * float(np.sqrt((there**2).sum())),
        (),
    )
    if now.is_met or count == 0:
        return now
    flops = np.concatenate([side.flops for side in sides])
    if not len(flops):
        raise ConfigError("No candidate run is left to train. Add sizes to the grid.")
    if budget < flops.min():
        raise ConfigError(
            f"--budget {budget:.3g} buys no run: the cheapest candidate costs {flops.min():.3g} FLOPs. "
            "Give at least as much."
        )
    chosen = choose(
        _blocks([side.belief.deviations(np.log(np.stack([side.n, side.d], axis=-1))) for side in sides]),
        there,
        np.concatenate([np.full(len(side.n), side.belief.noise) for side in sides]),
        flops,
        count=count,
        budget=budget,
        enough=(now.wanted / now.half) ** 2,
    )
    of = [(side, k) for side in sides for k in range(len(side.n))]
    runs = []
    for choice in chosen:
        side, k = of[choice.index]
        leaves = now.half * float(np.sqrt(choice.left))
        runs.append(NextRun(side.name, float(side.n[k]), float(side.d[k]), float(side.flops[k]), leaves, k))
    return Batch(purpose, now.names, now.value, now.half, tuple(runs))


def _blocks(parts: Sequence[Array]) -> Array:
    """Block-diagonal matrix of `parts`: the uncertainties of two architectures are independent."""
    rows, columns = (sum(part.shape[k] for part in parts) for k in (0, 1))
    whole, i, j = np.zeros((rows, columns)), 0, 0
    for part in parts:
        whole[i : i + part.shape[0], j : j + part.shape[1]] = part
        i, j = i + part.shape[0], j + part.shape[1]
    return whole


def _refuse_unknown(law: Law, purpose: Purpose) -> None:
    """Raises ConfigError if the law does not give the wanted number."""
    if purpose.what in EXPONENTS and purpose.what not in law.exponents:
        raise ConfigError(f"The law {law.name} has no exponent {purpose.what}. Ask for a loss: loss=5%@n=1M,d=1M.")
    if purpose.what == "cheaper" and law.name != FORM:
        raise ConfigError(f"Only the law {FORM} tells which of two models is cheaper: leave out --law {law.name}.")


def _refuse_beyond(side: Side, purpose: Purpose) -> None:
    if purpose.what == "loss":
        refuse_far(
            float(side.measured.flops(np.array(purpose.at["n"]), np.array(purpose.at["d"]))),
            side.measured,
            side.smallest,
        )
    if purpose.what == "cheaper":
        flops = float(np.exp(side.number(side.belief.solution.theta[None], purpose)[0] - np.log(side.measured.largest)))
        if flops > 1e30:
            raise ConfigError(
                f"cheaper@loss={purpose.at['loss']:g}: by its law, {side.name} never reaches this loss. Choose a loss "
                "close to those of its runs."
            )
        refuse_far(flops * side.measured.largest, side.measured, side.smallest)
