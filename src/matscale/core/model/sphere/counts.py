r"""Count FLOPs and parameters of the maps of this library, without building them (see docs/flops.md).

A model lists its maps as rows, each with the part that it belongs to; the FLOPs and parameters of `Counts` are sums
over the same rows. A product counts once in the forward pass. In a whole step it counts as often as this table says,
which depends on its factors:

    factors                          direct forces        forces by derivative
    features × weights               3  (two gradients)   6  (+ its input gradient, and the two gradients of that)
    features × constants             2                    4
    features × frames                2  (no geometry)     9  (two gradients, and two more for the product of each)
    geometry × constants             1                    4
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from matscale.core.data.batch import BatchShape
from matscale.core.model.sphere.config import SphereConfig

TIMES = {
    "direct": {"weights": 3, "constants": 2, "frames": 2, "geometry": 1},
    "gradient": {"weights": 6, "constants": 4, "frames": 9, "geometry": 4},
}


class Row(NamedTuple):
    """Row of the count, for one map of the model."""

    per: str
    """Item for which the map is computed once: `edge`, `atom` or `structure`."""
    factor: str
    """Kind of the map's product: a key of the tables in `TIMES`."""
    products: int
    """Multiply-adds of one forward pass, per item."""
    parameters: int = 0

    def times(self, n: int) -> Row:
        """Row of `n` such maps, for example one in each block."""
        return self._replace(products=n * self.products, parameters=n * self.parameters)


C = TypeVar("C", bound=SphereConfig)


@dataclass(frozen=True)
class Counts(Generic[C]):
    """FLOPs and parameters of an architecture, for its configurations."""

    tally: Callable[[C], Iterable[tuple[str, Row]]]
    """Lists every map of the model with the part that it belongs to."""
    last: Callable[[C], int]
    """Returns how many values of an atom enter the last product of the energy."""

    def step_flops(self, config: C, shape: BatchShape) -> float:
        """FLOPs of forward, loss and backward, equal to those counted while a step runs on the reference path."""
        total = Counter[str]()
        for _, row in self.tally(config):
            total[row.per] += TIMES[config.forces][row.factor] * row.products
        if config.forces == "gradient":
            # The input of the first backward of the last product is constant, so its gradient is never computed.
            total["atom"] -= self.last(config)
        of_edges, of_atoms = total["edge"] * shape.n_edges, total["atom"] * shape.n_atoms
        return 2.0 * (of_edges + of_atoms + total["structure"] * shape.n_structures)

    def parameters(self, config: C) -> dict[str, int]:
        """Number of parameters by part."""
        counts = Counter[str]()
        for part, row in self.tally(config):
            counts[part] += row.parameters
        return dict(counts)

    def total(self, config: C) -> int:
        """Number of all parameters."""
        return sum(self.parameters(config).values())


def degrees(lmax: int, mmax: int) -> list[int]:
    """Number of degrees l that have an order m, for m = 0..mmax."""
    return [lmax + 1 - m for m in range(mmax + 1)]


def n_kept(lmax: int, mmax: int) -> int:
    """Number K_r of coefficients with |m| ≤ mmax."""
    return sum(2 * min(degree, mmax) + 1 for degree in range(lmax + 1))


def linear(n_in: int, n_out: int) -> int:
    """Number of parameters of a linear map with bias."""
    return n_in * n_out + n_out


def rotations(lmax: int, mmax: int) -> Row:
    """Row of the rotations of edges, which all layers share: of `EdgeRotation`."""
    kept, k = n_kept(lmax, mmax), (lmax + 1) ** 2
    return Row("edge", "geometry", (2 * lmax + 1) * 2 * kept * k + kept * k * k)


def turns(lmax: int, mmax: int, channels: int) -> Row:
    """Row of turning `channels` channels into the frames of edges, or back."""
    return Row("edge", "frames", n_kept(lmax, mmax) * (lmax + 1) ** 2 * channels)


def edge_degree(lmax: int, channels: int) -> Row:
    """Row of the product of `EdgeDegree`, besides its radial network."""
    return Row("edge", "frames", (lmax + 1) ** 3 * channels)


def radial(n_in: int, width: int, n_out: int, n_elements: int = 0) -> Row:
    """Row of `RadialNetwork` with `n_in` inputs in all; with `n_elements`, it has tables of its own."""
    maps = linear(n_in, width) + linear(width, width) + linear(width, n_out)
    products = n_in * width + width * width + width * n_out
    return Row("edge", "weights", products, maps + 2 * n_elements * width + 4 * width)  # tables, and two norms


def norm(kind: str, lmax: int, channels: int) -> Row:
    """Row of a norm: its weighted sum of squares over all degrees, or without the scalars for `layer_norm_sh`."""
    k = (lmax + 1) ** 2
    rows = k - 1 if kind == "layer_norm_sh" else (lmax + 1) * k
    # Two parameters for scalars and one for each other degree, or one for each and a bias.
    return Row("atom", "constants", rows * channels, (lmax + 2) * channels)


def so2(lmax: int, mmax: int, n_in: int, n_out: int, n_extra: int = 0) -> Row:
    """Row of `SO2Convolution`."""
    numbers = degrees(lmax, mmax)
    first, *rest = (n * n_in for n in numbers)
    widest = n_extra + numbers[0] * n_out
    pairs = sum(2 * n * m * n_out for n, m in zip(rest, numbers[1:]))  # real and imaginary parts
    return Row("edge", "weights", first * widest + 2 * pairs, linear(first, widest) + pairs)


def so3(lmax: int, n_in: int, n_out: int) -> Row:
    """Row of `SO3Linear`: a map for each degree, and a bias of the scalars."""
    return Row("atom", "weights", (lmax + 1) ** 2 * n_in * n_out, (lmax + 1) * n_in * n_out + n_out)


def grid(per: str, n_points: int, n_coefficients: int, channels: int) -> Row:
    """Row of the transforms to a grid and back, for the same number of channels."""
    return Row(per, "constants", 2 * n_points * n_coefficients * channels)
