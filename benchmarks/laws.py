"""How fast laws are fitted, and how often their intervals, tests and verdicts are right, by simulation.

    python benchmarks/laws.py speed
    python benchmarks/laws.py coverage --reps 2000       laws in one variable
    python benchmarks/laws.py noise --reps 400           the same where noise is not even, or not independent
    python benchmarks/laws.py joint --reps 400           L(N, D), bootstrap intervals
    python benchmarks/laws.py compare --reps 2000        type-I error and power
    python benchmarks/laws.py joint_compare --reps 200   the same of exponents of joint laws, that of compute included
    python benchmarks/laws.py equal --reps 2000          the same of equality within a margin
    python benchmarks/laws.py multipliers --reps 400     what one needs against another for the same loss
    python benchmarks/laws.py verdicts --reps 300        what becomes of true laws, and of none
    python benchmarks/laws.py joint_verdicts --reps 100  the same of joint laws
    python benchmarks/laws.py mixed --reps 400           one exponent of several groups, and their offsets

Every row of docs/laws.md is printed by one of these. Noise is that of ln L: between seeds, and between sizes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from machine import machine
from numpy.typing import NDArray
from simulation import Outcomes, main

from matscale.core.hosting.host import host
from matscale.core.scaling.allocation.cost_law import measured_cost
from matscale.core.scaling.bootstrap import bootstrap
from matscale.core.scaling.comparison.cheaper import Multiplier
from matscale.core.scaling.comparison.difference import Pair, welch
from matscale.core.scaling.comparison.equivalence import equality
from matscale.core.scaling.comparison.joint_pairs import JointExponent, exponent_along, tested_jointly
from matscale.core.scaling.comparison.multipliers import ArchitectureLaws
from matscale.core.scaling.comparison.multipliers import multipliers as turned_round
from matscale.core.scaling.comparison.power_of_test import Settling, power, power_of_equality
from matscale.core.scaling.intervals import profile, quantile, spread, t_intervals
from matscale.core.scaling.joint import fit_joint
from matscale.core.scaling.law import Array, Frame, Law
from matscale.core.scaling.means import Means, size_means
from matscale.core.scaling.one_variable import fit_means
from matscale.core.scaling.pooled.mixed import Points, fit_mixed, rows
from matscale.core.scaling.solve import HUBER, solve
from matscale.core.scaling.tables.table import Table, groups

TRUE_ND = {"E": 0.5, "A": 30.0, "B": 60.0, "alpha": 0.3, "beta": 0.35}


@dataclass(frozen=True)
class Noise:
    """Noise of ln L in a table of one variable: between seeds, between sizes, uneven or dependent."""

    sizes: int = 8
    decades: float = 2.0
    seeds: int = 3
    seed: float = 0.01
    """Between seeds, at the smallest size"""
    size: float = 0.0
    """Between sizes"""
    growth: float = 1.0
    """Noise of seeds at the largest size over that at the smallest"""
    correlation: float = 0.0
    """Correlation of the misfit of neighbouring sizes"""
    slopes: float = 0.0
    """Scatter of the exponents of seeds"""
    outliers: float = 0.0
    """Share of runs that are 60 % off, up or down"""

    def __str__(self) -> str:
        said = [f"{self.sizes} sizes, {self.seeds} seeds, {self.seed}, {self.size}"]
        said += [f"{self.decades:g} decades"] if self.decades != 2 else []
        said += [f"growth {self.growth:g}"] if self.growth != 1 else []
        said += [f"correlation {self.correlation:g}"] if self.correlation else []
        said += [f"slopes {self.slopes:g}"] if self.slopes else []
        said += [f"outliers {self.outliers:.0%}"] if self.outliers else []
        return ", ".join(said)


def simulated(rng: np.random.Generator, noise: Noise, **law: float) -> Means:
    """Size means of runs of L = E + A x^-alpha; ln L of the `smallest` and the `largest` size may be off by so much."""
    k, m = noise.sizes, noise.seeds
    x = np.linspace(0.0, noise.decades * np.log(10.0), k) + np.log(1e4)
    clean = np.log(law.get("floor", 0.0) + 20.0 * np.exp(-law.get("alpha", 0.3) * x))
    clean[0] += law.get("smallest", 0.0)
    clean[-1] += law.get("largest", 0.0)
    apart = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    misfit = np.linalg.cholesky(noise.correlation**apart) @ rng.standard_normal(k)
    of_seeds = noise.seed * noise.growth ** (np.arange(k) / (k - 1))
    y = (clean + noise.size * misfit)[:, None] + of_seeds[:, None] * rng.standard_normal((k, m))
    y += noise.slopes * rng.standard_normal(m) * (x - x.mean())[:, None]
    y += (rng.random((k, m)) < noise.outliers) * rng.choice([-1, 1], (k, m)) * np.log(1.6)
    names, n = np.full(k * m, "m"), np.repeat(np.exp(x), m)
    seeds = np.tile(np.arange(m).astype(str), k)
    words = {"arch": names, "run": np.full(k * m, ""), "seed": seeds, "source": np.arange(k * m).astype(str)}
    return size_means(Table({"n": n, "loss": np.exp(y).ravel()}, words), "n")


def grid(
    rng: np.random.Generator, n: int, d: int, seeds: int, noise: float, scatter: float, growth: float = 1.0
) -> tuple[Array, Array]:
    """ln(N, D) and ln L on a grid over two decades each; `growth` is the noise at the largest D over the smallest."""
    sizes, data = np.geomspace(1e4, 1e6, n), np.geomspace(1e3, 1e5, d)
    x = np.log([(a, b) for a in sizes for b in data for _ in range(seeds)])
    e, a, b, alpha, beta = TRUE_ND.values()
    clean = np.log(e + a * np.exp(-alpha * x[:, 0]) + b * np.exp(-beta * x[:, 1]))
    effects = scatter * rng.standard_normal(n)
    of_runs = noise * growth ** ((x[:, 1] - x[:, 1].min()) / np.ptp(x[:, 1]))
    return x, clean + effects[groups(np.exp(x[:, 0]))] + of_runs * rng.standard_normal(len(x))


def speed(reps: int) -> None:
    """200 runs jointly; 1,000 bootstrap samples; a law in one variable; fits of all joint forms, whole, to 500 runs."""
    law, rng = host().law("nd"), np.random.default_rng(0)
    x, y = grid(rng, 8, 5, 5, 0.02, 0.01)
    solve(law, x, y, HUBER)  # imports
    fit = timed(lambda: solve(law, x, y, HUBER), 5)
    found = solve(law, x, y, HUBER)
    boot = timed(lambda: bootstrap(law, found, x, y, groups(np.exp(x[:, 0])), samples=1000), 2)
    forms = [form for form in host().laws() if form.axes == ("x",)]
    one = timed(lambda: fit_means(simulated(rng, Noise(10, size=0.01), floor=0.3), forms, "loss"), 5)
    print(machine())
    print(
        f"{len(y)} runs jointly: {fit:.3f} s; 1,000 bootstrap samples: {boot:.1f} s; ten sizes, all forms: {one:.2f} s"
    )
    table = many(rng)
    for form in (form for form in host().laws() if len(form.axes) > 1):
        whole = timed(partial(fit_joint, table, form), 1)
        print(f"{form.name} to {len(table)} runs, bootstrap and verdict included: {whole:.1f} s", flush=True)


def many(rng: np.random.Generator) -> Table:
    """500 runs of ten sizes on five amounts of unique data, for one to 30 epochs, with one to 64 experts."""
    n, u = (v.ravel() for v in np.meshgrid(np.geomspace(1e5, 1e8, 10), np.geomspace(1e4, 1e6, 5), indexing="ij"))
    n, u, epochs = np.repeat(n, 10), np.repeat(u, 10), np.tile(np.repeat([1.0, 2.0, 5.0, 12.0, 30.0], 2), 50)
    useful = u + u * 15 * (1 - np.exp(-(epochs - 1) / 15))
    loss = (1.0 + 30 * n**-0.25 + 60 * useful**-0.35) * np.exp(0.01 * rng.standard_normal(len(n)))
    numbers = {"n": n, "d": u, "u": u, "s": u * epochs, "e": rng.choice(4.0 ** np.arange(4), len(n)), "loss": loss}
    table = table_of(np.log(n), np.log(loss), np.full(len(n), "m"))
    return replace(table, numbers={**table.numbers, **numbers})


def timed(task: Callable[[], object], times: int) -> float:
    """Least processor seconds of some: what others do to the machine does not count."""
    found = []
    for _ in range(times):
        start = time.process_time()
        task()
        found.append(time.process_time() - start)
    return min(found)


def coverage(reps: int) -> None:
    """Share of 95 % intervals that hold the true exponent (and floor)."""
    print("form sizes decades seeds noise scatter | alpha E | a new size")
    for k, decades, seeds, noise, scatter, floor in (
        (5, 2.0, 3, 0.03, 0.0, 0.0),
        (8, 2.0, 3, 0.03, 0.0, 0.0),
        (5, 2.0, 3, 0.01, 0.03, 0.0),
        (8, 2.0, 3, 0.01, 0.03, 0.0),
        (8, 1.5, 1, 0.02, 0.02, 0.0),
        (8, 2.0, 3, 0.01, 0.01, 0.4),
        (10, 3.0, 3, 0.01, 0.02, 0.4),
        (12, 3.0, 1, 0.02, 0.0, 0.4),
    ):
        law = host().law("floor" if floor else "power")
        told = Outcomes(reps if not floor else max(reps // 5, 50), seed=1)
        for rng in told:
            means = simulated(rng, Noise(k, decades, seeds, noise, scatter), floor=floor)
            found = solve(law, means.x, means.y, weights=means.weights)
            around = spread(law, found.theta, found.frame, means.x, means.y, means.noise, means.weights)
            if floor:
                x, y = means.x - found.frame.x, means.y - found.frame.y
                ends = {name: profile(around, name, x, y) for name in ("alpha", "E")}
            else:
                ends = t_intervals(around, means.x, means.y)
            told.saw(alpha=ends["alpha"][0] <= 0.3 <= ends["alpha"][1])
            if floor:
                told.saw(E=ends["E"][0] <= floor <= ends["E"][1])
            new_x = means.x[-1:] + 0.5 * np.log(10.0)
            new_y = np.log(floor + 20.0 * np.exp(-0.3 * new_x[0, 0]))
            new_y += np.hypot(scatter, noise / np.sqrt(seeds)) * rng.standard_normal()
            low, high = around.band(new_x)
            told.saw(new=low[0] <= new_y <= high[0])
        of_floor = f"{told.percent('E'):.1f}" if floor else "-"
        setting = f"{law.name} {k} {decades} {seeds} {noise} {scatter}"
        print(f"{setting} | {told.percent('alpha'):.1f} {of_floor} | {told.percent('new'):.1f}", flush=True)


def noise(reps: int) -> None:
    """Coverage of the exponent by fits, its half-width, and true laws refused (i alone: called a local slope)."""
    law = host().law("power")
    print("noise | alpha | half-width | equal weights, t | refused, with f, local slope")
    for kind in (
        Noise(seed=0.03),
        Noise(size=0.03),
        Noise(growth=6.5),
        Noise(growth=20.0),
        Noise(seed=0.02, outliers=0.02),
        Noise(size=0.03, correlation=0.5),
        Noise(seed=0.02, slopes=0.01),
        Noise(5, seed=0.02, slopes=0.01),
        Noise(5, growth=20.0),
    ):
        told = Outcomes(reps, seed=6)
        for rng in told:
            means = simulated(rng, kind)
            fit = fit_means(means, [law], "loss")
            low, high = fit.intervals["alpha"]
            told.saw(held=low <= 0.3 <= high, width=(high - low) / 2)
            raw = means.with_outliers or means
            found = solve(law, raw.x, raw.y)
            ends = t_intervals(spread(law, found.theta, found.frame, raw.x, raw.y), raw.x, raw.y)["alpha"]
            triggers = {reason.trigger for reason in fit.reasons}
            told.saw(before=ends[0] <= 0.3 <= ends[1], refused=bool(triggers - {"i"}))
            told.saw(f="f" in triggers, i=triggers == {"i"})
        held, before, refused, f, i = map(told.percent, ("held", "before", "refused", "f", "i"))
        width = told.median("width")
        print(f"{kind} | {held:.1f} | {width:.4f} | {before:.1f} | {refused:.0f} {f:.0f} {i:.0f}", flush=True)


def joint(reps: int) -> None:
    """Share of 95 % bootstrap intervals that hold the true parameter."""
    law = host().law("nd")
    print("N D seeds noise scatter | alpha beta E | rep")
    for n, d, seeds, noise, scatter in (
        (6, 5, 2, 0.02, 0.0),
        (6, 5, 2, 0.01, 0.02),
        (8, 5, 1, 0.02, 0.0),
        (8, 5, 2, 0.01, 0.03),
        (10, 6, 3, 0.01, 0.01),
    ):
        told = Outcomes(reps, seed=2)
        for rng in told:
            x, y = grid(rng, n, d, seeds, noise, scatter)
            found = solve(law, x, y, HUBER)
            ends = bootstrap(law, found, x, y, groups(np.exp(x[:, 0])), samples=300).intervals()
            told.saw(**{name: low <= TRUE_ND[name] <= high for name, (low, high) in ends.items()})
        shares = " ".join(f"{told.percent(name):.1f}" for name in ("alpha", "beta", "E"))
        print(f"{n} {d} {seeds} {noise} {scatter} | {shares} | {reps}", flush=True)


def compare(reps: int) -> None:
    """How often equal exponents are called different at 5 %, and true differences are seen."""
    law = host().law("power")
    print("first; second | type I | seen 0.02 0.04 | stated power at 0.04")
    even = [Noise(k, seed=seed, size=size) for k, seed, size in ((5, 0.03, 0), (5, 0.01, 0.03), (8, 0.01, 0.03))]
    for a, b, differences in (
        *((kind, kind, (0.0, 0.02, 0.04)) for kind in (*even, Noise(12, size=0.03))),
        (Noise(5, seed=0.06), Noise(8, seed=0.02), (0.0,)),
        (Noise(5, seed=0.03), Noise(10, seed=0.03), (0.0,)),
        (Noise(4, seeds=1, seed=0.03), Noise(10, seed=0.03), (0.0,)),
        (Noise(8, growth=6.5), Noise(8, seed=0.03), (0.0,)),
        (Noise(8, growth=20.0), Noise(8, growth=20.0), (0.0,)),
        (Noise(8, seed=0.02, outliers=0.02), Noise(8, seed=0.02, outliers=0.02), (0.0,)),
        (Noise(5, seed=0.02, outliers=0.02), Noise(10, seed=0.02, outliers=0.02), (0.0,)),
        (Noise(8, seeds=1, seed=0.02, outliers=0.02), Noise(8, seeds=1, seed=0.02, outliers=0.02), (0.0,)),
        (Noise(8, size=0.03, correlation=0.5), Noise(8, size=0.03, correlation=0.5), (0.0,)),
    ):
        found = [_apart(_pairs(reps, gap == 0), 3, a, b, gap, law, 0.04) for gap in differences]
        shares = [one.percent("seen") for one in found]
        told = f" | {shares[1]:.0f} {shares[2]:.0f} | {found[2].percent('stated'):.0f}" if len(shares) > 1 else ""
        print(f"{a}; {b if a != b else 'the same'} | {shares[0]:.1f}{told}", flush=True)


def joint_compare(reps: int) -> None:
    """Share of 95 % intervals that hold the exponents of n, d and compute; equal ones called different at 5 %."""
    law, rng = host().law("nd"), np.random.default_rng(0)
    cost = measured_cost(_table(*grid(rng, 6, 5, 1, 0.0, 0.0)))  # exact: the cost is a product of powers
    alpha, beta = TRUE_ND["alpha"], TRUE_ND["beta"]
    truth = {"n": alpha, "d": beta, "c": alpha * beta / (cost.q * alpha + cost.p * beta)}
    nan = float("nan")
    untested = Pair("", "", nan, (nan, nan), nan, nan, "", "", (), None, nan, nan, Settling(None, None, ""))
    print("sizes x data x seeds, noise, scatter | n, d, c held, half-width | type I of n, d, c | tables without c")
    for design in ((6, 5, 2, 0.02, 0.0), (8, 5, 1, 0.02, 0.0), (8, 5, 3, 0.01, 0.005), (8, 5, 4, 0.02, 0.0)):
        told = Outcomes(reps, seed=12)
        for rng in told:
            fits = [fit_joint(_table(*grid(rng, *design)), law, samples=300) for _ in range(2)]
            for axis, value in truth.items():
                found = [one for fit in fits if isinstance(one := exponent_along(fit, axis), JointExponent)]
                for one in found:
                    held = one.low <= value <= one.high
                    told.saw(**{f"{axis} held": held, f"{axis} width": (one.high - one.low) / 2})
                told.saw(**{f"{axis} unsaid": len(found) < 2})
                if len(found) == 2:
                    told.saw(**{f"{axis} differs": tested_jointly(untested, *found, law.name).p < 0.05})
        held, differs = (
            " ".join(f"{told.percent(f'{axis} {key}'):.1f}" for axis in truth) for key in ("held", "differs")
        )
        width = told.median("c width")
        print(f"{design} | {held}, {width:.4f} | {differs} | {told.percent('c unsaid'):.0f} %", flush=True)


def _pairs(reps: int, is_error: bool) -> int:
    """Number of pairs: `reps` for the share of errors, which is small; a power needs no more than 300."""
    return reps if is_error else min(reps, 300)


def _apart(reps: int, seed: int, a: Noise, b: Noise, difference: float, law: Law, margin: float) -> Outcomes:
    """Tests of two laws whose exponents are `difference` apart: seen to differ, called equal; and the stated powers."""
    found = Outcomes(reps, seed)
    for rng in found:
        first, second, freedom = welch(simulated(rng, a, alpha=0.3), simulated(rng, b, alpha=0.3 + difference), law)
        error = float(np.sqrt(first.covariance[1, 1] + second.covariance[1, 1]))
        gap = float(first.theta[1] - second.theta[1])
        found.saw(
            seen=abs(gap) > quantile(0.95, freedom) * error,
            stated=power(0.04, error, freedom),
            equal=equality(gap, margin, error, freedom) < 0.05,
            sure=power_of_equality(margin, error, freedom),
        )
    return found


def equal(reps: int) -> None:
    """How often exponents that are a margin apart are called equal within it at 5 %, and equal ones are."""
    law = host().law("power")
    print("first; second | margin | type I | equal seen | stated power")
    for a, b, margin in (
        (Noise(5, seed=0.03), Noise(5, seed=0.03), 0.04),
        (Noise(5, size=0.03), Noise(5, size=0.03), 0.04),
        (Noise(8, size=0.03), Noise(8, size=0.03), 0.02),
        (Noise(8, size=0.03), Noise(8, size=0.03), 0.04),
        (Noise(12, size=0.03), Noise(12, size=0.03), 0.02),
        (Noise(8), Noise(8), 0.02),
        (Noise(5, seed=0.06), Noise(8, seed=0.02), 0.04),
        (Noise(5, seed=0.03), Noise(10, seed=0.03), 0.04),
        (Noise(4, seeds=1, seed=0.03), Noise(10, seed=0.03), 0.04),
        (Noise(8, growth=20.0), Noise(8, growth=20.0), 0.04),
        (Noise(8, seed=0.02, outliers=0.02), Noise(8, seed=0.02, outliers=0.02), 0.02),
    ):
        wrong, right = (_apart(_pairs(reps, gap > 0), 7, a, b, gap, law, margin) for gap in (margin, 0.0))
        told = f"{margin} | {wrong.percent('equal'):.1f} | {right.percent('equal'):.0f} | {right.percent('sure'):.0f}"
        print(f"{a}; {b if a != b else 'the same'} | {told}", flush=True)


def multipliers(reps: int) -> None:
    """Share of 95 % intervals that hold the true multiplier: lowest common loss and middle, the form known."""
    print("first; second | lowest middle loss | half-width in the middle | unsaid")
    even = {"alpha": 0.3}, {"alpha": 0.34}
    for a, b, laws in (
        (Noise(5, seed=0.03), Noise(5, seed=0.03), even),
        (Noise(5, size=0.03), Noise(5, size=0.03), even),
        (Noise(8, size=0.03), Noise(8, size=0.03), even),
        (Noise(5, seed=0.06), Noise(8, seed=0.02), even),
        (Noise(8, seeds=1, seed=0.02, size=0.02), Noise(8, seeds=1, seed=0.02, size=0.02), even),
        (Noise(8, growth=6.5), Noise(8, growth=6.5), even),
        (Noise(8, size=0.01), Noise(8, size=0.01), ({"floor": 0.4}, {"floor": 0.4, "alpha": 0.34})),
        (Noise(10, 3.0, size=0.02), Noise(10, 3.0, size=0.02), ({"floor": 0.4}, {"floor": 0.3})),
        (Noise(10, 3.0, size=0.01), Noise(8, size=0.01), ({"floor": 0.3}, {"alpha": 0.2})),
    ):
        told = Outcomes(reps, seed=8)
        for rng in told:
            one, two = (
                _subject(simulated(rng, kind, **law), k, "floor" if "floor" in law else "power")
                for k, kind, law in zip((0, 1), (a, b), laws)
            )
            [found] = turned_round(one, two, "n", "", ())
            held_true(told, found, lambda loss, laws=laws: needs_of(loss, **laws[0]) / needs_of(loss, **laws[1]))
        print(f"{a}; {b if a != b else 'the same'}; {laws} | {multipliers_text(told)}", flush=True)
    law = host().law("nd")
    for n, d, seeds, noise, scatter in ((6, 5, 2, 0.02, 0.0), (6, 5, 2, 0.01, 0.02), (8, 5, 1, 0.02, 0.0)):
        at_d, at_best = (Outcomes(max(reps // 4, 1), seed=9) for _ in range(2))
        for rng in at_d:
            subjects = []
            for number in range(2):
                x, y = grid(rng, n, d, seeds, noise, scatter)
                table = _table(x, y)
                means = size_means(table.take(table["d"] > 0.99e5), "c", "d = 100,000")
                subjects.append(replace(_subject(means, number), joint=fit_joint(table, law, samples=300)))
            at_n = [replace(one, is_floored=True, known={}, means=size_means(one.means.table, "n")) for one in subjects]
            by_n = turned_round(at_n[0], at_n[1], "n", "", ())
            held_true(at_d, by_n[-1], lambda loss: 1.0)
            held_true(at_best, turned_round(subjects[0], subjects[1], "c", "", ())[-1], lambda loss: 1.0)
        setting = f"{n} x {d} x {seeds}, {noise}, {scatter}"
        ways = f"n at one d: {multipliers_text(at_d)} | c at best: {multipliers_text(at_best)}"
        print(f"joint {setting} | {ways}", flush=True)


def held_true(told: Outcomes, found: Multiplier, truth: Callable[[float], float]) -> None:
    """Add whether the intervals of a multiplier hold the truth, at the lowest common loss and in the middle."""
    told.saw(unsaid=not found.points)
    if found.points:
        lowest, middle = found.points[0], found.points[len(found.points) // 2]
        told.saw(lowest=lowest.low <= truth(lowest.loss) <= lowest.high)
        width = 0.5 * np.log(middle.high / middle.low) if middle.low > 0 else np.inf
        told.saw(middle=middle.low <= truth(middle.loss) <= middle.high, width=width)


def multipliers_text(told: Outcomes) -> str:
    held = f"{told.percent('lowest'):.1f} {told.percent('middle'):.1f}"
    return f"{held} | {told.median('width'):.3f} | {told.percent('unsaid'):.0f} %"


def needs_of(loss: float, floor: float = 0.0, alpha: float = 0.3) -> float:
    """x at which 20 x^-alpha above the floor is `loss`; infinite below the floor."""
    return float(((loss - floor) / 20.0) ** (-1 / alpha)) if loss > floor else float("inf")


def _subject(means: Means, number: int, form: str = "power") -> ArchitectureLaws:
    own = fit_means(means, [host().law(form)], "loss")
    return ArchitectureLaws(own, means, None, False, number)


def _table(x: Array, y: Array) -> Table:
    """Runs of one architecture on a grid, with C = 50 N^0.9 D."""
    n, d = np.exp(x).T
    numbers = {"n": n, "d": d, "c": 50 * n**0.9 * d, "loss": np.exp(y), "step": np.full(len(y), np.nan)}
    words = {name: np.full(len(y), "") for name in ("run", "seed")}
    words |= {"arch": np.full(len(y), "m"), "source": np.arange(len(y)).astype(str)}
    return Table(numbers, words)


def verdicts(reps: int) -> None:
    """Print the verdicts on true laws, on laws with one size off, and on noise; and the laws that miss alpha."""
    forms = [host().law("power"), host().law("floor")]
    off = [(kind, fault) for kind in (Noise(5, seed=0.02), Noise(8, seed=0.02), Noise(8, size=0.02)) for fault in ENDS]
    for title, kind, options in (
        ("power, 5 sizes", Noise(5, seed=0.02), {}),
        ("power, 8 sizes", Noise(8, size=0.02), {}),
        ("power, 12 sizes", Noise(12, 3.0, size=0.02), {}),
        ("floor, 5 sizes", Noise(5), {"floor": 0.4}),
        ("floor, 8 sizes", Noise(8, size=0.01), {"floor": 0.4}),
        ("floor, 12 sizes", Noise(12, 3.0, size=0.01), {"floor": 0.4}),
        ("no trend, 8 sizes", Noise(8, seed=0.02, size=0.02), {"alpha": 0.0}),
        ("half a decade", Noise(6, 0.5), {}),
        *((f"power, {kind}; {fault}", kind, ENDS[fault]) for kind, fault in off),
    ):
        found, triggers = Outcomes(reps, seed=4), Counter[str]()
        for rng in found:
            fit = fit_means(simulated(rng, kind, **options), forms, "loss")
            found.words[fit.verdict] += 1
            low, high = fit.intervals["alpha"]
            found.saw(missing=fit.is_law and not low <= options.get("alpha", 0.3) <= high)
            triggers.update({reason.trigger for reason in fit.reasons})
        why = ", ".join(f"{name} {100 * n / reps:.0f} %" for name, n in sorted(triggers.items()))
        missing = f"{found.percent('missing'):.0f} %"
        print(f"{title}: {found.said()}; laws that miss {missing} (triggers {why or 'none'})", flush=True)


ENDS = {
    "the smallest size 10 % high": {"smallest": np.log(1.1)},
    "the largest size 10 % high": {"largest": np.log(1.1)},
    "the largest size 5 % high": {"largest": np.log(1.05)},
}
"""Fault of a table of one variable -> what `simulated` adds."""


def joint_verdicts(reps: int) -> None:
    """Print the verdicts on true joint laws and on tables of no joint law, and the laws that miss alpha or beta."""
    law = host().law("nd")
    print("sizes x data x seeds, noise, scatter; what is wrong | verdicts | laws that miss alpha or beta | triggers")
    usual, large = (6, 5, 2, 0.02, 0.0), ((8, 5, 4, 0.02, 0.0), (10, 10, 5, 0.02, 0.0))
    true = ((5, 5, 3, 0.01, 0.0), usual, (8, 5, 1, 0.02, 0.0), (8, 5, 3, 0.01, 0.005), (6, 5, 2, 0.01, 0.02))
    uneven = (6, 5, 2, 0.01, 0.0, 5.0)
    for design, fault in (
        *((design, "") for design in (*true, *large, uneven)),
        *((usual, fault) for fault in FAULTS),
        *((design, "the largest amount of data 5 % high") for design in ((8, 5, 1, 0.02, 0.0), *large)),
    ):
        told, triggers = Outcomes(reps, seed=11), Counter[str]()
        for rng in told:
            x, y = grid(rng, *design)
            fit = fit_joint(_table(x, y + FAULTS[fault](x) if fault else y), law, samples=300)
            held = [
                low <= TRUE_ND[name] <= high for name, (low, high) in fit.intervals.items() if name in ("alpha", "beta")
            ]
            told.words[fit.verdict] += 1
            told.saw(missing=fit.is_law and not all(held))
            triggers.update({reason.trigger for reason in fit.reasons})
        why = ", ".join(f"{name} {100 * n / reps:.0f} %" for name, n in sorted(triggers.items()))
        print(f"{design}; {fault} | {told.said()} | {told.percent('missing'):.0f} % | {why or 'none'}", flush=True)


def _of_size(x: Array, k: int, off: float, axis: int = 0) -> Array:
    """`off` at the k-th size (or amount of data, with `axis` 1), 0 at the others."""
    return off * (x[:, axis] == np.unique(x[:, axis])[k])


def _without_trend(x: Array) -> Array:
    """Addition to ln L that turns the law of `grid` into a loss that is the same for all sizes."""
    e, a, b, alpha, beta = TRUE_ND.values()
    rest = e + b * np.exp(-beta * x[:, 1])
    term = a * np.exp(-alpha * x[:, 0])
    return np.asarray(np.log((rest + term.mean()) / (rest + term)))


FAULTS: dict[str, Callable[[Array], Array]] = {
    "the largest size 5 % high": lambda x: _of_size(x, -1, 0.05),
    "the largest size 15 % high": lambda x: _of_size(x, -1, 0.15),
    "the smallest size 10 % high": lambda x: _of_size(x, 0, 0.1),
    "a middle size 10 % high": lambda x: _of_size(x, 2, 0.1),
    "no trend but the smallest size 50 % high": lambda x: _without_trend(x) + _of_size(x, 0, 0.4),
    "no trend": _without_trend,
    "a slope that is 0.1 flatter from the middle on": lambda x: 0.1 * np.maximum(x[:, 0] - x[:, 0].mean(), 0),
    "the largest amount of data 10 % high": lambda x: _of_size(x, -1, 0.1, axis=1),
    "the smallest amount of data 10 % high": lambda x: _of_size(x, 0, 0.1, axis=1),
    "a slope in d that is 0.1 flatter from the middle on": lambda x: 0.1 * np.maximum(x[:, 1] - x[:, 1].mean(), 0),
    "the largest amount of data 5 % high": lambda x: _of_size(x, -1, 0.05, axis=1),
    "a middle amount of data 10 % high": lambda x: _of_size(x, 2, 0.1, axis=1),
    "a slope in n that is 0.07 flatter at the largest d than at the smallest": lambda x: (
        0.015 * np.prod(x - x.mean(axis=0), axis=1)
    ),
    "both ends of d 10 % high": lambda x: _of_size(x, 0, 0.1, axis=1) + _of_size(x, -1, 0.1, axis=1),
}
"""Fault of a table of no joint law -> addition to ln L at ln (n, d)."""


def mixed(reps: int) -> None:
    """Coverage of the exponent and the offsets of a mixed law, and of a new size; beside it, one law without groups."""
    power = host().law("power")
    print("groups points alone tau sigma | alpha half-width | offsets | a new size | pooled alpha | refused local")
    for counts, tau, sigma in (
        ([5] * 3, 0.3, 0.1),
        ([4] * 5, 0.3, 0.1),
        ([4] * 5, 0.05, 0.1),
        ([3] * 8, 0.2, 0.1),
        ([5] * 12, 0.2, 0.1),
        ([5] * 12, 0.0, 0.1),
        ([5] * 6 + [1] * 6, 0.2, 0.1),
        ([2] * 12, 0.2, 0.1),
        ([19, 20, 6, 3, *[1] * 10], 0.4, 0.15),
    ):
        told = Outcomes(reps, seed=7)
        for k, rng in enumerate(told):
            x, y, names, offsets = groups_of(rng, counts, tau, sigma)
            points, frame = Points(x, y, names), Frame.of(power, x[:, None], y)
            found, new = points.fit(frame), x.max() + 0.5 * np.log(10)
            (low,), (high,) = found.of_line(np.array([[0.0, 1.0]]), 0.95)
            lows, highs = found.of_offsets(0.95)
            are_held = (lows <= offsets - offsets.mean()) & (offsets - offsets.mean() <= highs)
            told.saw(alpha=low <= 0.3 <= high, width=(high - low) / 2, offsets=are_held.mean())
            (low_new,), (high_new,) = found.of_line(rows(np.array([new]), frame), 0.95, 0, new=True)
            value = 3.0 - 0.3 * new + offsets[0] + sigma * rng.standard_normal() - frame.y
            line = solve(power, x[:, None], y)
            ends = t_intervals(spread(power, line.theta, line.frame, x[:, None], y), x[:, None], y)["alpha"]
            told.saw(new=low_new <= value <= high_new, pooled=ends[0] <= 0.3 <= ends[1])
            if k % 3 == 0:  # leaving out each group takes time
                triggers = {reason.trigger for reason in fit_mixed(table_of(x, y, names), power, "n").reasons}
                told.saw(refused=bool(triggers - {"i"}), i=triggers == {"i"})
        keys = ("alpha", "offsets", "new", "pooled", "refused", "i")
        held, off, new, pooled, refused, i = map(told.percent, keys)
        setting = f"{len(counts)} {sum(counts)} {counts.count(1)} {tau} {sigma}"
        shares = f"{held:.1f} {told.median('width'):.3f} | {off:.1f} | {new:.1f} | {pooled:.1f}"
        print(f"{setting} | {shares} | {refused:.0f} {i:.0f}", flush=True)


def groups_of(
    rng: np.random.Generator, counts: list[int], tau: float, sigma: float
) -> tuple[Array, Array, NDArray[np.str_], Array]:
    """(ln n, ln L, group of each, offset of each group) of L = e^3 n^-0.3 e^b, sizes anywhere in two decades."""
    number, offsets = np.repeat(np.arange(len(counts)), counts), tau * rng.standard_normal(len(counts))
    x = np.log(1e4) + rng.uniform(0, 2 * np.log(10), len(number))
    y = 3.0 - 0.3 * x + offsets[number] + sigma * rng.standard_normal(len(number))
    return x, y, np.array([f"g{k:02d}" for k in number]), offsets


def table_of(x: Array, y: Array, names: NDArray[np.str_]) -> Table:
    empty = np.full(len(x), "")
    words = {"arch": names, "run": empty, "seed": empty, "source": np.arange(len(x)).astype(str)}
    return Table({"n": np.exp(x), "loss": np.exp(y), "step": np.full(len(x), np.nan)}, words)


if __name__ == "__main__":
    every = (speed, coverage, noise, joint, compare, joint_compare, equal, multipliers, verdicts, joint_verdicts, mixed)
    main(__doc__, {task.__name__: task for task in every}, reps=200)
