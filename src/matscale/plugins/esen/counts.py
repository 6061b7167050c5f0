"""Count FLOPs and parameters of a configuration, map by map, without building the model (see docs/flops.md)."""

from __future__ import annotations

from collections.abc import Iterator

from matscale.plugin import sphere
from matscale.plugins.esen.config import ESENConfig

counts = sphere.counts


def tally(config: ESENConfig) -> Iterator[tuple[str, counts.Row]]:
    """List every map of the model with the part that it belongs to; rows of `blocks` are sums over all blocks."""
    lmax, channels, width = config.lmax, config.channels, config.edge_channels
    norm = counts.norm(config.norm, lmax, channels)
    rows = config.max_atomic_number + 1
    tables = rows * (channels + 2 * width) + (channels if config.system_vector else 0)
    yield "embedding", counts.Row("atom", "weights", 0, tables)
    yield "edge_degree", counts.rotations(lmax, config.mmax)
    yield "edge_degree", counts.radial(config.n_edge_features, width, (lmax + 1) * channels)
    yield "edge_degree", counts.edge_degree(lmax, channels)
    for row in (norm, *_edge_wise(config), norm, *_atom_wise(config)):
        yield "blocks", row.times(config.n_layers)
    yield "norm", norm
    yield "energy", _mlp(config)
    if config.forces == "direct":
        yield "forces", counts.so3(1, channels, 1)
    if config.predicts_stress:
        yield "stress", _mlp(config)
        yield "stress", counts.so3(2, channels, 1)
        yield "stress", counts.Row("structure", "constants", 6 * 9)


def _edge_wise(config: ESENConfig) -> Iterator[counts.Row]:
    shape, channels, hidden = (config.lmax, config.mmax), config.channels, config.hidden
    yield counts.turns(*shape, 2 * channels)
    yield counts.radial(config.n_edge_features, config.edge_channels, 2 * channels * sum(counts.degrees(*shape)))
    yield counts.so2(*shape, 2 * channels, hidden, hidden * (config.lmax if config.activation == "gate" else 1))
    if config.activation == "s2":
        yield counts.grid("edge", config.edge_grid[0] * config.edge_grid[1], counts.n_kept(*shape), hidden)
    yield counts.so2(*shape, hidden, channels)
    yield counts.turns(*shape, channels)


def _atom_wise(config: ESENConfig) -> Iterator[counts.Row]:
    lmax, channels, hidden = config.lmax, config.channels, config.hidden
    if config.feed_forward == "spectral":
        gates = lmax * hidden
        yield counts.Row("atom", "weights", channels * gates, counts.linear(channels, gates))
        yield counts.so3(lmax, channels, hidden)
        yield counts.so3(lmax, hidden, channels)
    else:
        points, maps = config.atom_grid[0] * config.atom_grid[1], 2 * channels * hidden + hidden * hidden
        yield counts.grid("atom", points, config.n_coefficients, channels)
        yield counts.Row("atom", "weights", points * maps, maps)


def _mlp(config: ESENConfig) -> counts.Row:
    channels, hidden = config.channels, config.hidden
    maps = counts.linear(channels, hidden) + counts.linear(hidden, hidden) + counts.linear(hidden, 1)
    return counts.Row("atom", "weights", channels * hidden + hidden * hidden + hidden, maps)


COUNTS = counts.Counts(tally, last=lambda config: config.hidden)
