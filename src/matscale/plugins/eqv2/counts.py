"""Number of parameters of a configuration, without building it: sums of the sizes of its maps and tables.

Makes the ladder cheap to search, and says where the parameters are. A test compares it with built models.
"""

from __future__ import annotations

from matscale.plugins.eqv2.config import EqV2Config


def parameters(config: EqV2Config) -> dict[str, int]:
    """Parameters of `embedding`, `edge_degree`, `blocks`, `norm`, `energy`, and of `forces` and `stress` if direct."""
    counts = {
        "embedding": (config.max_atomic_number + 1) * config.channels,
        "edge_degree": _radial(config, (config.lmax + 1) * config.channels),
        "blocks": config.n_layers * _block(config),
        "norm": _norm(config, config.channels),
        "energy": _feed_forward(config, 1),
    }
    if config.forces == "direct":
        counts["forces"] = _attention(config, 1)
        if config.stress_head != "none":
            counts["stress"] = _stress(config)
    return counts


def total(config: EqV2Config) -> int:
    """All parameters."""
    return sum(parameters(config).values())


def _linear(n_in: int, n_out: int) -> int:
    return n_in * n_out + n_out


def _so3(config: EqV2Config, n_in: int, n_out: int) -> int:
    return (config.lmax + 1) * n_in * n_out + n_out


def _norm(config: EqV2Config, channels: int) -> int:
    return (config.lmax + 2) * channels  # two for scalars and one for each other degree, or one for each and a bias


def _radial(config: EqV2Config, n_out: int) -> int:
    width, rows = config.edge_channels, config.max_atomic_number + 1
    first = _linear(config.n_radial + 2 * width, width)
    return 2 * rows * width + first + _linear(width, width) + 4 * width + _linear(width, n_out)


def _so2(config: EqV2Config, n_in: int, n_out: int, n_extra: int = 0) -> int:
    n_degrees = [config.lmax + 1 - m for m in range(config.mmax + 1)]
    return _linear(n_degrees[0] * n_in, n_extra + n_degrees[0] * n_out) + sum(
        2 * n * n * n_in * n_out for n in n_degrees[1:]
    )


def _attention(config: EqV2Config, n_out: int) -> int:
    hidden, features = config.attention_hidden, config.n_heads * config.alpha_channels
    n_weights = 2 * config.channels * sum(config.lmax + 1 - m for m in range(config.mmax + 1))
    values = config.n_heads * config.value_channels
    return (
        _so2(config, 2 * config.channels, hidden, n_extra=features + hidden)
        + _so2(config, hidden, values)
        + _radial(config, n_weights)
        + 2 * config.alpha_channels
        + features
        + _so3(config, values, n_out)
    )


def _feed_forward(config: EqV2Config, n_out: int) -> int:
    channels, hidden = config.channels, config.ffn_hidden
    return (
        _linear(channels, hidden) + _so3(config, channels, hidden) + 3 * hidden * hidden + _so3(config, hidden, n_out)
    )


def _block(config: EqV2Config) -> int:
    channels = config.channels
    return 2 * _norm(config, channels) + _attention(config, channels) + _feed_forward(config, channels)


def _stress(config: EqV2Config) -> int:
    if config.stress_head == "equivariant":
        return _feed_forward(config, 1)
    width = 2 * config.channels
    return _norm(config, 1) + 2 * width + 2 * (_linear(width, width) + _linear(width, 1))
