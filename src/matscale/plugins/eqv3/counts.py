"""Count FLOPs and parameters of a configuration, map by map, without building the model (see docs/flops.md)."""

from __future__ import annotations

from collections.abc import Iterator

from matscale.plugin import sphere
from matscale.plugins.eqv3.config import EqV3Config, ExactGrid

counts = sphere.counts


def tally(config: EqV3Config) -> Iterator[tuple[str, counts.Row]]:
    """List every map of the model with the part that it belongs to; rows of `blocks` are sums over all blocks."""
    lmax, channels, hidden = config.lmax, config.channels, config.ffn_hidden
    norm = counts.norm("rms_norm_sh", lmax, channels)
    yield "embedding", counts.Row("atom", "weights", 0, (config.max_atomic_number + 1) * channels)
    yield "edge_degree", counts.rotations(lmax, config.mmax)
    yield "edge_degree", _radial(config, (lmax + 1) * channels)
    yield "edge_degree", counts.edge_degree(lmax, channels)
    for row in (norm, *_attention(config, channels, gated=False), norm, *_feed_forward(config)):
        yield "blocks", row.times(config.n_layers)
    yield "norm", norm
    energy = counts.linear(channels, hidden) + counts.linear(hidden, 1)
    yield "energy", counts.Row("atom", "weights", channels * hidden + hidden, energy)
    if config.forces == "direct":
        yield from (("forces", row) for row in _attention(config, 1, gated=True))
    if config.predicts_stress:
        gates = lmax * hidden
        yield "stress", counts.Row("atom", "weights", channels * gates, counts.linear(channels, gates))
        yield "stress", counts.so3(lmax, channels, hidden)
        yield "stress", counts.so3(lmax, hidden, 1)
        yield "stress", counts.Row("structure", "constants", 6 * 9)
    if config.denoising:  # not computed in an ordinary step
        for row in (counts.so3(lmax, 1, channels), *_attention(config, 1, gated=True)):
            yield "noise", row._replace(products=0)


def _radial(config: EqV3Config, n_out: int) -> counts.Row:
    width = config.edge_channels
    return counts.radial(config.n_radial + 2 * width, width, n_out, config.max_atomic_number + 1)


def _attention(config: EqV3Config, n_out: int, *, gated: bool) -> Iterator[counts.Row]:
    hidden, values, channels = config.attention_hidden, config.n_heads * config.value_channels, config.channels
    shape, features = (config.lmax, config.mmax), config.n_heads * config.alpha_channels
    yield counts.turns(*shape, 2 * channels)
    yield _radial(config, 2 * channels * (config.lmax + 1))
    if gated:
        yield counts.so2(*shape, 2 * channels, hidden, n_extra=features + config.lmax * hidden)
    else:
        yield counts.so2(*shape, 2 * channels, 2 * hidden, n_extra=features + 3 * hidden)
        yield _product("edge", config.edge_grid, counts.n_kept(*shape), hidden)
    yield counts.Row("edge", "weights", 0, 2 * config.alpha_channels + features)  # norm and score of a head
    yield counts.so2(*shape, hidden, values)
    yield counts.turns(*shape, values)
    yield counts.so3(config.lmax, values, n_out)


def _feed_forward(config: EqV3Config) -> Iterator[counts.Row]:
    channels, hidden, k = config.channels, config.ffn_hidden, config.n_coefficients
    scalars = counts.linear(channels, 2 * hidden) + counts.linear(channels, hidden)
    yield counts.Row("atom", "weights", 3 * channels * hidden, scalars)
    yield counts.so3(config.lmax, channels, hidden)
    yield counts.Row("atom", "weights", 3 * k * hidden * hidden, 3 * hidden * hidden)
    yield _product("atom", config.atom_grid, k, hidden)
    yield counts.so3(config.lmax, hidden, channels)


def _product(per: str, grid: ExactGrid, n_coefficients: int, channels: int) -> counts.Row:
    """Row of a product of functions: two functions are transformed to the grid, and one back."""
    return counts.Row(per, "constants", 3 * grid.n_points * n_coefficients * channels)


COUNTS = counts.Counts(tally, last=lambda config: config.ffn_hidden)
