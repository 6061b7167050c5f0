"""Interface of scaling laws: each is a function of logarithms, with starting points for the fit of its parameters.

All values are natural logarithms: a power law is a straight line in them, and the noise of a loss is relative. Arrays
may have any leading axes, so that one call evaluates a thousand bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

VANISHED = -12.0
"""ln of a floor relative to the typical loss; a smaller floor is reported as 0."""


@dataclass(frozen=True)
class Law:
    """Form of a scaling law: a function of parameters `theta` [..., p] and ln x, with a name and a reference.

    The last axis of `theta` has the parameters in the order of `parameters`.
    """

    name: str
    summary: str
    """Description in one line."""
    formula: str
    """Formula as text: `L = E + A x^-alpha`."""
    reference: str
    """DOI or arXiv id."""
    axes: tuple[str, ...]
    """Columns that the law needs, such as `("n", "d")`; `("x",)` for a law in any one variable."""
    parameters: tuple[str, ...]
    value: Callable[[Array, Array], Array]
    """Function that takes theta [..., p] and ln x [..., k, axes], and returns ln L [..., k]."""
    starts: Callable[[Array, Array], Array]
    """Function that takes centred ln x [k, axes] and ln L [k], and returns starts of the search [s, p], best first."""
    tangent: Callable[[Array, Array], tuple[Array, Array]] | None = None
    """Function like `value` that returns ln L and its derivatives by theta [..., k, p]; None: central differences."""
    move: Callable[[Array, Array, float], Array] | None = None
    """Function that takes theta, ln x₀ [axes], ln L₀ and returns theta of the scaled curve; None: no centre."""
    logs: frozenset[str] = frozenset()
    """Names of the parameters whose logarithms theta holds."""
    exponents: tuple[str, ...] = ()
    """Parameters that are compared between architectures; the verdict judges the first."""
    floor: str | None = None
    """Name of the parameter that is the floor: a loss that the law never falls below."""
    min_sizes: int = 4
    """Least number of distinct sizes for a fit."""
    verdict: str = "law"
    """Verdict on a good fit of this form: `law`, `law with floor`, `broken law`."""

    @property
    def n_parameters(self) -> int:
        return len(self.parameters)

    @property
    def floor_at(self) -> int | None:
        return None if self.floor is None else self.parameters.index(self.floor)

    def slopes(self, theta: Array, logx: Array) -> Array:
        """Slopes d ln L / d ln x of the law [..., k, axes], by central differences."""
        step = 1e-4
        sides = []
        for axis in range(logx.shape[-1]):
            shift = np.zeros(logx.shape[-1])
            shift[axis] = step
            sides.append((self.value(theta, logx + shift) - self.value(theta, logx - shift)) / (2 * step))
        return np.stack(sides, axis=-1)

    def derivatives(self, theta: Array, logx: Array) -> Array:
        """Derivatives of ln L by theta [..., k, p]."""
        return self.with_derivatives(theta, logx)[1]

    def with_derivatives(self, theta: Array, logx: Array) -> tuple[Array, Array]:
        """ln L [..., k] and its derivatives by theta [..., k, p]: by `tangent`, or else by central differences."""
        if self.tangent is not None:
            return self.tangent(theta, logx)
        step = 1e-6
        columns = []
        for j in range(self.n_parameters):
            shift = np.zeros(self.n_parameters)
            shift[j] = step
            columns.append((self.value(theta + shift, logx) - self.value(theta - shift, logx)) / (2 * step))
        return self.value(theta, logx), np.stack(columns, axis=-1)

    def bounded(self, theta: Array) -> Array:
        """Copy of `theta` in which ln of the floor is at least `VANISHED`."""
        if self.floor_at is None:
            return theta
        theta = theta.copy()
        theta[..., self.floor_at] = np.maximum(theta[..., self.floor_at], VANISHED)
        return theta

    def plain(self, theta: Array, frame: Frame | None = None) -> dict[str, Array]:
        """Values of the parameters by name, not their logarithms. Pass `frame` if `theta` is in centred logarithms."""
        gone = theta[..., self.floor_at or 0] <= VANISHED + 0.5
        if frame is not None and self.move is not None:
            theta = self.move(theta, frame.x, frame.y)
        with np.errstate(over="ignore"):  # a factor that the points do not limit may be larger than any float: inf
            named = {
                name: np.exp(theta[..., j]) if name in self.logs else np.asarray(theta[..., j])
                for j, name in enumerate(self.parameters)
            }
        if self.floor is not None:
            named[self.floor] = np.where(gone, 0.0, named[self.floor])
        return named


@dataclass(frozen=True)
class Frame:
    """Centre of the logarithms of x and L, which is subtracted in a fit: the search is well conditioned only near 0."""

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
    """Convert parameters of one fit to floats."""
    return {name: float(value) for name, value in values.items()}
