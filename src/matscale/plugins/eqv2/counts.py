"""Count FLOPs and parameters of a configuration, map by map, without building the model (see docs/flops.md)."""

from __future__ import annotations

from collections.abc import Iterator

from matscale.plugin import sphere
from matscale.plugins.eqv2.config import EqV2Config

counts = sphere.counts


def tally(config: EqV2Config) -> Iterator[tuple[str, counts.Row]]:
    """List every map of the model with the part that it belongs to; rows of `blocks` are sums over all blocks."""
    channels, norm = config.channels, counts.norm(config.norm, config.lmax, config.channels)
    yield "embedding", counts.Row("atom", "weights", 0, (config.max_atomic_number + 1) * channels)
    yield "edge_degree", counts.rotations(config.lmax, config.mmax)
    yield "edge_degree", _radial(config, (config.lmax + 1) * channels)
    yield "edge_degree", counts.edge_degree(config.lmax, channels)
    for row in (norm, *_attention(config, channels), norm, *_feed_forward(config, channels)):
        yield "blocks", row.times(config.n_layers)
    yield "norm", norm
    yield from (("energy", row) for row in _feed_forward(config, 1))
    if config.forces == "direct":
        yield from (("forces", row) for row in _attention(config, 1))
        yield from (("stress", row) for row in _stress(config))


def _radial(config: EqV2Config, n_out: int) -> counts.Row:
    width = config.edge_channels
    return counts.radial(config.n_radial + 2 * width, width, n_out, config.max_atomic_number + 1)


def _attention(config: EqV2Config, n_out: int) -> Iterator[counts.Row]:
    hidden, values, channels = config.attention_hidden, config.n_heads * config.value_channels, config.channels
    shape, features = (config.lmax, config.mmax), config.n_heads * config.alpha_channels
    yield counts.turns(*shape, 2 * channels)
    yield _radial(config, 2 * channels * sum(counts.degrees(*shape)))
    yield counts.so2(*shape, 2 * channels, hidden, n_extra=features + hidden)
    yield counts.Row("edge", "weights", 0, 2 * config.alpha_channels + features)  # norm and score of a head
    yield counts.grid("edge", config.n_grid_points, counts.n_kept(*shape), hidden)
    yield counts.so2(*shape, hidden, values)
    yield counts.turns(*shape, values)
    yield counts.so3(config.lmax, values, n_out)


def _feed_forward(config: EqV2Config, n_out: int) -> Iterator[counts.Row]:
    channels, hidden, points = config.channels, config.ffn_hidden, config.n_grid_points
    yield counts.Row("atom", "weights", channels * hidden, counts.linear(channels, hidden))
    yield counts.so3(config.lmax, channels, hidden)
    yield counts.grid("atom", points, config.n_coefficients, hidden)
    yield counts.Row("atom", "weights", 3 * points * hidden * hidden, 3 * hidden * hidden)
    yield counts.so3(config.lmax, hidden, n_out)


def _stress(config: EqV2Config) -> Iterator[counts.Row]:
    if config.stress_head == "equivariant":
        yield from _feed_forward(config, 1)
    elif config.stress_head == "rank2":
        width = 2 * config.channels
        maps = 2 * (counts.linear(width, width) + counts.linear(width, 1))
        yield counts.Row(
            "atom", "weights", 6 * (width * width + width), 2 * width + maps
        )  # one scalar and five of l = 2
        harmonics = counts.norm(config.norm, config.lmax, 1)
        yield harmonics._replace(per="edge", factor="geometry")  # one channel
    if config.stress_head != "none":
        yield counts.Row("structure", "constants", 6 * 9)


COUNTS = counts.Counts(tally, last=lambda config: config.n_coefficients * config.ffn_hidden)
