r"""FLOPs of a training step, product by product. docs/flops.md has the definition.

The layout has W slots for every atom, filled or empty, and all products run over all slots, so that the cost of a step
does not depend on the number of neighbours. The published models have the same cost, so empty slots count.

A product counts once in the forward, and in a whole step as often as this table says, depending on its factors:

    factors                             direct forces       forces by derivative
    features × weights                  3                   6
    geometry × weights                  2                   6
    features × features                 3                   9
    geometry × geometry                 1                   9
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from matscale.plugin import BatchShape
from matscale.plugins.escaip.config import EScAIPConfig

Row = tuple[str, int]
"""Kind of a product, a key of the tables in `TIMES`, and its multiply-adds per atom in one forward pass."""

TIMES = {
    "direct": {"weights": 3, "inputs": 2, "features": 3, "angles": 1},
    "gradient": {"weights": 6, "inputs": 6, "features": 9, "angles": 9},
}


def step_flops(config: EScAIPConfig, shape: BatchShape) -> float:
    """FLOPs of forward, loss and backward."""
    total = Counter[str]()
    for kind, products in tally(config):
        total[kind] += products
    per_atom = sum(TIMES[config.forces][kind] * products for kind, products in total.items())
    if config.is_direct:
        stress = 2 * 9 * config.max_neighbors if config.predicts_stress else 0  # n nᵀ, with a gradient of one factor
        return 2.0 * (per_atom + stress) * shape.n_atoms
    # The input of the first backward of the last product is constant, so its gradient is never computed.
    return 2.0 * (per_atom - config.hidden) * shape.n_atoms


def tally(config: EScAIPConfig) -> Iterator[Row]:
    """List every product of the forward pass."""
    hidden, slots = config.hidden, config.max_neighbors
    yield "angles", 3 * slots * slots
    yield from _attributes(config)
    yield "weights", slots * _feed_forward(config, 1)
    for k in range(config.n_layers):
        atoms_only = not config.is_direct and k == config.n_layers - 1
        yield from _attributes(config)
        yield from _attention(config, 1 if atoms_only else slots)
        yield "weights", (1 if atoms_only else 1 + slots) * _feed_forward(config, config.ffn_factor)
    stage = _feed_forward(config, config.ffn_factor) + hidden * hidden
    yield "weights", (config.n_layers + 1) * stage * ((1 + slots) if config.is_direct else 1)
    yield from _heads(config)


def _feed_forward(config: EScAIPConfig, factor: int) -> int:
    return 2 * factor * config.hidden * config.hidden


def _attributes(config: EScAIPConfig) -> Iterator[Row]:
    slots, distance = config.max_neighbors, config.distance_channels
    yield "inputs", 2 * config.n_order * config.order_channels + slots * config.n_radial * distance
    of_atoms = 2 * (config.order_channels + config.atom_channels)
    yield "weights", (slots * distance + of_atoms) * config.hidden


def _attention(config: EScAIPConfig, asking: int) -> Iterator[Row]:
    hidden, slots = config.hidden, config.max_neighbors
    # For each slot: the edge, the message of three parts, key and value; for query slots: query and output.
    yield "weights", (2 + 6 * slots + 2 * asking) * hidden * hidden
    yield "features", 2 * asking * slots * hidden


def _heads(config: EScAIPConfig) -> Iterator[Row]:
    feed_forward, hidden, slots = _feed_forward(config, config.ffn_factor), config.hidden, config.max_neighbors
    yield "weights", feed_forward + hidden  # energy
    if config.is_direct:
        yield "weights", feed_forward + hidden + slots * (feed_forward + 3 * hidden)
    if config.predicts_stress:
        yield "weights", (1 + slots) * (feed_forward + hidden)
