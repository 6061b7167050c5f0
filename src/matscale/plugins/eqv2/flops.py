r"""FLOPs of a training step, product by product. docs/flops.md has the definition.

A product is forward 1. What else it costs depends on which of its factors have gradients:

    factors                          direct forces        forces by derivative
    features × weights               3  (two gradients)   6  (+ its input gradient, and the two gradients of that)
    features × constants             2                    4
    features × frames                2  (no geometry)     9  (two gradients, each of whose products has two again)
    geometry × constants             1                    4

The tally has a row for each product of `model`, in multiply-adds of its forward per edge or per atom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from matscale.plugin import BatchShape
from matscale.plugins.eqv2.config import EqV2Config
from matscale.plugins.eqv2.so3 import kept

Row = tuple[str, str, int]
"""Per `edge`, `atom` or `structure`; the kind of product, a key of `TIMES`; multiply-adds of one forward."""

TIMES = {
    "direct": {"weights": 3, "constants": 2, "frames": 2, "geometry": 1},
    "gradient": {"weights": 6, "constants": 4, "frames": 9, "geometry": 4},
}


def step_flops(config: EqV2Config, shape: BatchShape) -> float:
    """FLOPs of forward, loss and backward; exactly what a counter finds on the readable path."""
    total = Counter[str]()
    for per, factor, products in tally(config):
        total[per] += TIMES[config.forces][factor] * products
    if config.forces == "gradient":
        # What comes into the first backward of the last product is constant: its gradient is never computed.
        total["atom"] -= config.n_coefficients * config.ffn_hidden
    products = total["edge"] * shape.n_edges + total["atom"] * shape.n_atoms + total["structure"] * shape.n_structures
    return 2.0 * products


def tally(config: EqV2Config) -> Iterator[Row]:
    """Every product of the forward."""
    yield from _rotation(config)
    yield from _edge_degree(config)
    for _ in range(config.n_layers):
        yield _norm(config)
        yield from _attention(config, config.channels)
        yield _norm(config)
        yield from _feed_forward(config, config.channels)
    yield _norm(config)
    yield from _feed_forward(config, 1)
    if config.forces == "direct":
        yield from _attention(config, 1)
        yield from _stress(config)


def _n_kept(config: EqV2Config) -> int:
    return len(kept(config.lmax, config.mmax).places)


def _degrees(config: EqV2Config) -> list[int]:
    return [config.lmax + 1 - m for m in range(config.mmax + 1)]


def _rotation(config: EqV2Config) -> Iterator[Row]:
    k, kept_ = config.n_coefficients, _n_kept(config)
    yield "edge", "geometry", (2 * config.lmax + 1) * 2 * kept_ * k
    yield "edge", "geometry", kept_ * k * k


def _radial(config: EqV2Config, n_out: int) -> Row:
    width = config.edge_channels
    return "edge", "weights", (config.n_radial + 2 * width) * width + width * width + width * n_out


def _edge_degree(config: EqV2Config) -> Iterator[Row]:
    n_out = (config.lmax + 1) * config.channels
    yield _radial(config, n_out)
    yield "edge", "frames", config.n_coefficients * n_out


def _norm(config: EqV2Config) -> Row:
    """The weighted sum of squares; `layer_norm_sh` leaves the scalars out, the others sum for every degree."""
    k = config.n_coefficients
    rows = k - 1 if config.norm == "layer_norm_sh" else (config.lmax + 1) * k
    return "atom", "constants", rows * config.channels


def _so2(config: EqV2Config, n_in: int, n_out: int, n_extra: int = 0) -> Row:
    first, *rest = _degrees(config)
    products = first * n_in * (n_extra + first * n_out) + sum(4 * n * n * n_in * n_out for n in rest)
    return "edge", "weights", products


def _attention(config: EqV2Config, n_out: int) -> Iterator[Row]:
    hidden, values = config.attention_hidden, config.n_heads * config.value_channels
    k, kept_ = config.n_coefficients, _n_kept(config)
    yield "edge", "frames", kept_ * k * 2 * config.channels
    yield _radial(config, 2 * config.channels * sum(_degrees(config)))
    yield _so2(config, 2 * config.channels, hidden, n_extra=config.n_heads * config.alpha_channels + hidden)
    yield "edge", "constants", 2 * config.n_grid_points * kept_ * hidden
    yield _so2(config, hidden, values)
    yield "edge", "frames", k * kept_ * values
    yield "atom", "weights", k * values * n_out


def _feed_forward(config: EqV2Config, n_out: int) -> Iterator[Row]:
    channels, hidden, k = config.channels, config.ffn_hidden, config.n_coefficients
    points = config.n_grid_points
    yield "atom", "weights", channels * hidden + k * channels * hidden
    yield "atom", "constants", 2 * points * k * hidden
    yield "atom", "weights", 3 * points * hidden * hidden
    yield "atom", "weights", k * hidden * n_out


def _stress(config: EqV2Config) -> Iterator[Row]:
    if config.stress_head == "equivariant":
        yield from _feed_forward(config, 1)
    elif config.stress_head == "rank2":
        width = 2 * config.channels
        yield "atom", "weights", 6 * (width * width + width)  # one scalar and five of l = 2
        yield "edge", "geometry", _norm(config)[2] // config.channels  # of the harmonics, one channel
    if config.stress_head != "none":
        yield "structure", "constants", 6 * 9
