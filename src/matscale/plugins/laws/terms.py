"""Sums of powers, the form of most laws, and logarithms of sums, ln Σ_i exp(t_i)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations, product
from operator import add
from typing import Any

import numpy as np

from matscale.plugin import Array, Law, amplitudes, best_of, log_amplitudes

EXPONENTS = np.linspace(0.02, 2.0, 40)
"""Values of an exponent at which the search for a joint law begins."""


def log_sum(terms: Sequence[Array]) -> Array:
    """Compute ln Σ_i exp(terms_i) [..., k] from m terms, each [..., k] or of a shape that is broadcast to it."""
    top, parts = _exponentials(terms)
    total: Array = reduce(add, parts)
    return np.asarray(np.add(np.log(total, out=total), top, out=total))


def log_sum_and_shares(terms: Sequence[Array]) -> tuple[Array, list[Array]]:
    """Compute `log_sum` and the share of each term in the sum [..., k], which is the derivative by this term."""
    top, parts = _exponentials(terms)
    total: Array = reduce(add, parts)
    return np.log(total) + top, [np.divide(part, total, out=part) for part in parts]


def _exponentials(terms: Sequence[Array]) -> tuple[Array, list[Array]]:
    """Largest term [..., k], and the exponential of each term minus the largest."""
    top = reduce(np.maximum, terms)
    if len(terms) == 2 and np.shape(terms[0]) == np.shape(terms[1]):  # one of the two exponentials is 1
        is_first = terms[0] >= terms[1]
        lower = np.asarray(np.minimum(*terms) - top)
        np.exp(lower, out=lower)
        return top, [np.where(is_first, 1.0, lower), np.where(is_first, lower, 1.0)]
    parts = [np.asarray(term - top) for term in terms]
    return top, [np.exp(part, out=part) for part in parts]


def side_by_side(columns: Sequence[Array]) -> Array:
    """Derivatives [..., k, p] from p columns [..., k]. In memory, each column stays whole, which fits use faster."""
    return np.swapaxes(np.stack(columns, axis=-2), -1, -2)


@dataclass(frozen=True)
class Powers:
    """Form of a law that is a sum of powers, such as L = E + A N^-alpha + B D^-beta.

    The logarithm of each term is linear in its parameters. An exponent may belong to two variables and couple their
    powers: gamma of (n, e) gives a factor N^(gamma ln X).
    """

    axes: tuple[str, ...]
    parameters: tuple[str, ...]
    """Names of all parameters, in the order of theta."""
    terms: Mapping[str, tuple[str, ...]]
    """Names of the exponents in each term, by the name of the term's amplitude; `E` is the floor."""
    variables: Mapping[str, tuple[str, ...]]
    """Axes to which each exponent belongs: one axis, or two for an exponent that couples them."""

    def value(self, theta: Array, x: Array) -> Array:
        """Compute ln L [..., k] from parameters theta [..., p] and ln x [..., k, axes]."""
        terms = self._terms(theta, x)
        return terms[0] if len(terms) == 1 else log_sum(terms)

    def tangent(self, theta: Array, x: Array) -> tuple[Array, Array]:
        """Compute ln L [..., k] and its derivatives by the parameters [..., k, p]."""
        value, shares = log_sum_and_shares(self._terms(theta, x))
        of = dict(zip(self.terms, shares))
        columns = [
            of[name] if name in of else self._times(name, reduce(add, [of[a] for a in of if name in self.terms[a]]), x)
            for name in self.parameters
        ]
        return value, side_by_side(columns)

    def move(self, theta: Array, x0: Array, y0: float) -> Array:
        """Parameters of the same curve, shifted by `x0` in ln x and by `y0` in ln L."""
        moved = theta.copy()
        for amplitude, names in self.terms.items():
            moved[..., self._at(amplitude)] += y0
            places = {(): amplitude, **{self.variables[name]: name for name in names}}
            # An exponent of two variables, γ (ln n + n0)(ln e + e0), also adds to the exponents of each of them.
            for name in names:
                axes = self.variables[name]
                for kept in (kept for size in range(len(axes)) for kept in combinations(axes, size)):
                    gone = [x0[self.axes.index(axis)] for axis in axes if axis not in kept]
                    moved[..., self._at(places[kept])] += theta[..., self._at(name)] * np.prod(gone)
        return moved

    def starts(self, x: Array, y: Array, count: int, **grids: Array) -> Array:
        """Best `count` starting points of a fit: exponents from grids, each with the best amplitudes >= 0.

        `grids` has the values to try for each exponent; exponents without a grid are 0.
        """
        points = np.array(list(product(*grids.values())))
        theta = np.zeros((len(points), len(self.parameters)))
        theta[:, [self._at(name) for name in grids]] = points
        c, rss = amplitudes(np.exp(np.stack(np.broadcast_arrays(*self._terms(theta, x)), axis=-1)), y)
        best = best_of(rss, count)
        found = theta[best]
        found[:, [self._at(name) for name in self.terms]] = log_amplitudes(c[best])
        return found

    def law(self, **described: Any) -> Law:
        """Make the law of this form. `described` are fields of `Law`; the other fields follow from the form."""
        has_floor = "E" in self.terms
        of_form: dict[str, Any] = {
            "axes": self.axes,
            "parameters": self.parameters,
            "value": self.value,
            "tangent": self.tangent,
            "move": self.move,
            "logs": frozenset(self.terms),
            "floor": "E" if has_floor else None,
            "verdict": "law with floor" if has_floor else "law",
        }
        return Law(**{**of_form, **described})

    def _at(self, name: str) -> int:
        return self.parameters.index(name)

    def _times(self, name: str, value: Array, x: Array) -> Array:
        """Multiply `value` by the derivative of a term's logarithm by the exponent `name`."""
        for axis in self.variables[name]:
            value = value * -x[..., self.axes.index(axis)]
        return value

    def _terms(self, theta: Array, x: Array) -> list[Array]:
        """Logarithms of all terms [..., k]; that of a term without exponents is [..., 1]."""
        return [
            reduce(add, [self._times(name, theta[..., self._at(name), None], x) for name in names], theta[..., k, None])
            for k, names in ((self._at(amplitude), names) for amplitude, names in self.terms.items())
        ]
