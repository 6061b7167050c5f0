r"""Count FLOPs and parameters of a configuration, map by map, without building the model (see docs/flops.md).

`step_flops` gives the FLOPs that are counted in a training step, and `parameters` gives the numbers of parameters of a
built model. Both are sums over the same rows.

A product counts once in the forward, and in a whole step as often as this table says, depending on its factors:

    factors                          direct forces        forces by derivative
    features × weights               3  (two gradients)   6  (+ its input gradient, and the two gradients of that)
    features × constants             2                    4
    features × frames                2  (no geometry)     9  (two gradients, each of whose products has two again)
    geometry × constants             1                    4
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from matscale.plugin import BatchShape
from matscale.plugins.eqv2.config import EqV2Config

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


def step_flops(config: EqV2Config, shape: BatchShape) -> float:
    """FLOPs of forward, loss and backward, equal to those counted while the reference path runs."""
    total = Counter[str]()
    for _, row in tally(config):
        total[row.per] += TIMES[config.forces][row.factor] * row.products
    if config.forces == "gradient":
        # The input of the first backward of the last product is constant, so its gradient is never computed.
        total["atom"] -= config.n_coefficients * config.ffn_hidden
    products = total["edge"] * shape.n_edges + total["atom"] * shape.n_atoms + total["structure"] * shape.n_structures
    return 2.0 * products


def parameters(config: EqV2Config) -> dict[str, int]:
    """Number of parameters by part: `embedding`, `edge_degree`, `blocks`, `norm`, `energy`.

    With direct forces there are also the parts `forces` and `stress`.
    """
    counts = Counter[str]()
    for part, row in tally(config):
        counts[part] += row.parameters
    return dict(counts)


def total(config: EqV2Config) -> int:
    """Number of all parameters."""
    return sum(parameters(config).values())


def tally(config: EqV2Config) -> Iterator[tuple[str, Row]]:
    """List every map of the model with the part that it belongs to; rows of `blocks` are sums over all blocks."""
    channels = config.channels
    yield "embedding", Row("atom", "weights", 0, (config.max_atomic_number + 1) * channels)
    yield from (("edge_degree", row) for row in _edge_degree(config))
    for row in (_norm(config), *_attention(config, channels), _norm(config), *_feed_forward(config, channels)):
        n = config.n_layers
        yield "blocks", row._replace(products=n * row.products, parameters=n * row.parameters)
    yield "norm", _norm(config)
    yield from (("energy", row) for row in _feed_forward(config, 1))
    if config.forces == "direct":
        yield from (("forces", row) for row in _attention(config, 1))
        yield from (("stress", row) for row in _stress(config))


def _degrees(config: EqV2Config) -> list[int]:
    return [config.lmax + 1 - m for m in range(config.mmax + 1)]


def _n_kept(config: EqV2Config) -> int:
    """Number K_r of coefficients with |m| ≤ mmax."""
    return sum(2 * min(degree, config.mmax) + 1 for degree in range(config.lmax + 1))


def _linear(n_in: int, n_out: int) -> int:
    """Number of parameters of a linear map with bias."""
    return n_in * n_out + n_out


def _so3(config: EqV2Config, n_in: int, n_out: int) -> int:
    """Number of parameters of a linear map for each degree, with a bias of the scalars."""
    return (config.lmax + 1) * n_in * n_out + n_out


def _edge_degree(config: EqV2Config) -> Iterator[Row]:
    k, kept, n_out = config.n_coefficients, _n_kept(config), (config.lmax + 1) * config.channels
    yield Row("edge", "geometry", (2 * config.lmax + 1) * 2 * kept * k)  # the rotations, which all layers share
    yield Row("edge", "geometry", kept * k * k)
    yield _radial(config, n_out)
    yield Row("edge", "frames", k * n_out)


def _radial(config: EqV2Config, n_out: int) -> Row:
    width, rows = config.edge_channels, config.max_atomic_number + 1
    n_in = config.n_radial + 2 * width
    maps = _linear(n_in, width) + _linear(width, width) + _linear(width, n_out)
    products = n_in * width + width * width + width * n_out
    return Row("edge", "weights", products, maps + 2 * rows * width + 4 * width)  # tables of elements, two norms


def _norm(config: EqV2Config, channels: int | None = None) -> Row:
    """Row of a norm: its weighted sum of squares over all degrees, or without the scalars for `layer_norm_sh`."""
    k, channels = config.n_coefficients, channels or config.channels
    rows = k - 1 if config.norm == "layer_norm_sh" else (config.lmax + 1) * k
    # Two parameters for scalars and one for each other degree, or one for each and a bias.
    return Row("atom", "constants", rows * channels, (config.lmax + 2) * channels)


def _so2(config: EqV2Config, n_in: int, n_out: int, n_extra: int = 0) -> Row:
    first, *rest = (n * n_in for n in _degrees(config))
    widest = n_extra + _degrees(config)[0] * n_out
    pairs = sum(2 * n * m * n_out for n, m in zip(rest, _degrees(config)[1:]))  # real and imaginary parts
    return Row("edge", "weights", first * widest + 2 * pairs, _linear(first, widest) + pairs)


def _attention(config: EqV2Config, n_out: int) -> Iterator[Row]:
    hidden, values, channels = config.attention_hidden, config.n_heads * config.value_channels, config.channels
    k, kept, features = config.n_coefficients, _n_kept(config), config.n_heads * config.alpha_channels
    yield Row("edge", "frames", kept * k * 2 * channels)
    yield _radial(config, 2 * channels * sum(_degrees(config)))
    yield _so2(config, 2 * channels, hidden, n_extra=features + hidden)
    yield Row("edge", "weights", 0, 2 * config.alpha_channels + features)  # elementwise: norm and score of a head
    yield Row("edge", "constants", 2 * config.n_grid_points * kept * hidden)
    yield _so2(config, hidden, values)
    yield Row("edge", "frames", k * kept * values)
    yield Row("atom", "weights", k * values * n_out, _so3(config, values, n_out))


def _feed_forward(config: EqV2Config, n_out: int) -> Iterator[Row]:
    channels, hidden, k = config.channels, config.ffn_hidden, config.n_coefficients
    points = config.n_grid_points
    inner = _linear(channels, hidden) + _so3(config, channels, hidden)
    yield Row("atom", "weights", channels * hidden + k * channels * hidden, inner)
    yield Row("atom", "constants", 2 * points * k * hidden)
    yield Row("atom", "weights", 3 * points * hidden * hidden, 3 * hidden * hidden)
    yield Row("atom", "weights", k * hidden * n_out, _so3(config, hidden, n_out))


def _stress(config: EqV2Config) -> Iterator[Row]:
    if config.stress_head == "equivariant":
        yield from _feed_forward(config, 1)
    elif config.stress_head == "rank2":
        width = 2 * config.channels
        maps = 2 * (_linear(width, width) + _linear(width, 1))
        yield Row("atom", "weights", 6 * (width * width + width), 2 * width + maps)  # one scalar and five of l = 2
        yield _norm(config, 1)._replace(per="edge", factor="geometry")  # of the harmonics, one channel
    if config.stress_head != "none":
        yield Row("structure", "constants", 6 * 9)
