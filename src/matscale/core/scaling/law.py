"""Interface of a scaling law: a function of logarithms, and starting points for the fit of its parameters.

Everything is done in natural logarithms, because a law is a straight line there as long as nothing saturates and
because the relative error is what noise of a loss looks like. Arrays carry any leading axes, so that a thousand
bootstrap samples are one call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

VANISHED = -12.0
"""A floor below e^-12 of the typical loss is none: it is reported as 0."""


@dataclass(frozen=True)
class Law:
    """One form of law. `theta` [..., p] holds its parameters in the order of `parameters`."""

    name: str
    summary: str
    """Description in one line."""
    formula: str
    """Formula for people: `L = E + A x^-alpha`."""
    reference: str
    """DOI or arXiv id."""
    axes: tuple[str, ...]
    """`("x",)`: one variable, whichever it is. Else the columns that it needs: `("n", "d")`."""
    parameters: tuple[str, ...]
    value: Callable[[Array, Array], Array]
    """(theta [..., p], ln x [..., k, axes]) -> ln L [..., k]"""
    starts: Callable[[Array, Array], Array]
    """(ln x [k, axes], ln L [k]) -> starts [s, p] for the search, best guess first; both come with mean 0."""
    jacobian: Callable[[Array, Array], Array] | None = None
    """Derivatives of `value` by theta [..., k, p]; None: by central differences."""
    move: Callable[[Array, Array, float], Array] | None = None
    """(theta, ln x₀ [axes], ln L₀) -> theta of the same curve after x → x x₀ and L → L L₀. None: do not centre."""
    logs: frozenset[str] = frozenset()
    """Parameters of which theta holds the logarithm."""
    exponents: tuple[str, ...] = ()
    """Parameters that are compared between architectures; the verdict is on the first."""
    floor: str | None = None
    """The parameter below which the loss never falls."""
    min_sizes: int = 4
    """Least number of distinct sizes for a fit."""
    verdict: str = "law"
    """Verdict of a good fit of this form: `law`, `law with floor`, `broken law`."""

    @property
    def n_parameters(self) -> int:
        return len(self.parameters)

    @property
    def floor_at(self) -> int | None:
        return None if self.floor is None else self.parameters.index(self.floor)

    def slopes(self, theta: Array, logx: Array) -> Array:
        """d ln L / d ln x [..., k, axes], by central differences."""
        step = 1e-4
        sides = []
        for axis in range(logx.shape[-1]):
            shift = np.zeros(logx.shape[-1])
            shift[axis] = step
            sides.append((self.value(theta, logx + shift) - self.value(theta, logx - shift)) / (2 * step))
        return np.stack(sides, axis=-1)

    def derivatives(self, theta: Array, logx: Array) -> Array:
        """Derivatives of `value` by theta: `jacobian`, or central differences without one."""
        if self.jacobian is not None:
            return self.jacobian(theta, logx)
        step = 1e-6
        columns = []
        for j in range(self.n_parameters):
            shift = np.zeros(self.n_parameters)
            shift[j] = step
            columns.append((self.value(theta + shift, logx) - self.value(theta - shift, logx)) / (2 * step))
        return np.stack(columns, axis=-1)

    def bounded(self, theta: Array) -> Array:
        """Theta with a vanishing floor kept finite."""
        if self.floor_at is None:
            return theta
        theta = theta.copy()
        theta[..., self.floor_at] = np.maximum(theta[..., self.floor_at], VANISHED)
        return theta

    def plain(self, theta: Array, frame: Frame | None = None) -> dict[str, Array]:
        """Parameter -> values, logarithms undone; `theta` is that of centred logarithms if `frame` says so."""
        gone = theta[..., self.floor_at or 0] <= VANISHED + 0.5
        if frame is not None and self.move is not None:
            theta = self.move(theta, frame.x, frame.y)
        with np.errstate(over="ignore"):  # a factor that nothing holds down may lie beyond the largest number: inf
            named = {
                name: np.exp(theta[..., j]) if name in self.logs else np.asarray(theta[..., j])
                for j, name in enumerate(self.parameters)
            }
        if self.floor is not None:
            named[self.floor] = np.where(gone, 0.0, named[self.floor])
        return named


@dataclass(frozen=True)
class Frame:
    """Where the logarithms are centred: the search is well conditioned only near 0."""

    x: Array
    """ln x₀ [axes]"""
    y: float
    """ln L₀"""

    @classmethod
    def of(cls, law: Law, logx: Array, logy: Array) -> Frame:
        if law.move is None:
            return cls(np.zeros(logx.shape[-1]), 0.0)
        return cls(logx.mean(axis=0), float(logy.mean()))


def named(values: Mapping[str, Array]) -> dict[str, float]:
    """Plain floats of one fit."""
    return {name: float(value) for name, value in values.items()}
