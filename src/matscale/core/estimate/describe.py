"""Description of a model of a given architecture and size, as `matscale models` prints it.

FLOPs are those of one training step (forward, loss, backward; the double backward of derived forces included) on a
reference crystal, per atom: fcc with 20 atoms in the cell, scaled so that a radius graph gives every atom its first
three shells of neighbours (42 atoms). In a graph of the k nearest neighbours, an atom has k neighbours; in a model
without a graph, it has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from matscale.core.config import override
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.errors import ConfigError
from matscale.core.flops import measure_step, measure_step_flops
from matscale.core.hosting.host import Host
from matscale.core.model.architecture import Architecture, ArchitectureConfig, DatasetInfo, count_parameters
from matscale.core.model.buildable import without_weights

ALUMINIUM = 13


@dataclass(frozen=True)
class Description:
    """Description of a model without its weights."""

    name: str
    size: str | None
    """Name of the published configuration that equals this one; None if there is no such configuration."""
    config: ArchitectureConfig
    parameters: dict[str, int]
    flops_per_atom: float | None
    """FLOPs per atom of one training step on the reference crystal; None if there is no formula and no step was run."""
    neighbors_per_atom: float
    """Neighbours of an atom in the reference crystal."""
    claims: list[str]
    reference: str
    """DOI or arXiv id of the paper."""

    def plain(self) -> dict[str, Any]:
        """Description as JSON-ready values, under the stable keys of the command line."""
        return vars(self) | {"config": self.config.plain()}


def configuration(
    architecture: Architecture, size: str | None = None, n_params: int | None = None, assignments: Sequence[str] = ()
) -> ArchitectureConfig:
    """Choose a configuration, and set the keys in `assignments` (`a.b=c`) to other values.

    The configuration is a published size, the one with about `n_params` parameters (`Architecture.ladder`), or the
    default. Raises ConfigError for an unknown size or key, with the nearest valid one.
    """
    if size is not None and n_params is not None:
        raise ConfigError(f"size {size!r} and {n_params:,} parameters both choose a configuration; give one of them.")
    if size is not None:
        start = architecture.size(size)
    elif n_params is not None:
        start = architecture.ladder(n_params)
    else:
        return architecture.config.parse(override({}, assignments), f"configuration of {architecture.name}")
    return architecture.config.parse(override(start.plain(), assignments), f"configuration of {architecture.name}")


def describe(architecture: Architecture, config: ArchitectureConfig, host: Host, measure: bool = True) -> Description:
    """Count the parameters and FLOPs of a model.

    FLOPs come from a formula if a plugin has one; otherwise, if `measure` is True, a step is run to count them.
    """
    counted = parameters(architecture, config)  # first, since it refuses what cannot be built
    batch = reference_crystal(architecture.graph(config), min(ALUMINIUM, architecture.max_atomic_number))
    flops = host.step_flops(architecture, config, batch.shape)
    if flops is None and measure:
        flops = measure_step_flops(architecture, config, batch)
    return Description(
        name=architecture.name,
        size=next((size for size, published in architecture.sizes.items() if published == config), None),
        config=config,
        parameters=counted,
        flops_per_atom=None if flops is None else flops / batch.n_atoms,
        neighbors_per_atom=batch.n_edges / batch.n_atoms,
        claims=sorted(architecture.claims_of(config)),
        reference=architecture.reference,
    )


def counted_per_atom(architecture: Architecture, config: ArchitectureConfig) -> dict[str, float]:
    """Counted FLOPs per atom of a training step on the reference crystal: `contractions` and `elementwise`."""
    batch = reference_crystal(architecture.graph(config), min(ALUMINIUM, architecture.max_atomic_number))
    count = measure_step(architecture, config, batch)
    return {"contractions": count.contractions / batch.n_atoms, "elementwise": count.elementwise / batch.n_atoms}


@dataclass(frozen=True)
class Rung:
    """Rung of a size ladder: the configuration whose number of parameters is nearest to a wanted number."""

    wanted: int
    """Wanted number of parameters."""
    description: Description

    @property
    def deviation(self) -> float:
        """Relative deviation of the number of parameters from the wanted one."""
        return self.description.parameters["total"] / self.wanted - 1

    def plain(self) -> dict[str, Any]:
        """Rung as JSON-ready values."""
        return {"wanted": self.wanted, "deviation": self.deviation, **self.description.plain()}


def rungs(architecture: Architecture, host: Host, smallest: int, largest: int, n: int) -> list[Rung]:
    """Choose `n` models of the ladder, evenly spaced in the logarithm of their parameters, both ends included.

    Raises ConfigError for an empty range, and for several models in a range of a single value.
    """
    if n < 1 or largest < smallest or (n > 1 and largest == smallest):
        raise ConfigError(
            f"{n} rungs from {smallest:,} to {largest:,} parameters: at least one rung and a growing range are needed."
        )
    wanted = [round(smallest * (largest / smallest) ** (k / max(n - 1, 1))) for k in range(n)]
    return [Rung(count, describe(architecture, architecture.ladder(count), host, measure=False)) for count in wanted]


def parameters(architecture: Architecture, config: ArchitectureConfig) -> dict[str, int]:
    """Count the parameters of a model.

    If possible, the model is built on torch's `meta` device, which allocates no memory.
    """
    try:
        return count_parameters(
            without_weights(architecture.name, lambda: architecture.build(config, DatasetInfo.any()))
        )
    except (NotImplementedError, RuntimeError):  # the model reads values of tensors, which meta tensors do not have
        return count_parameters(architecture.model(config, DatasetInfo.any(), seed=0))


@lru_cache(maxsize=32)
def reference_crystal(graph: Graph, atomic_number: int) -> AtomicBatch:
    """Make the reference crystal for which FLOPs are stated: see the top of this module."""
    from ase.build import bulk  # start-up: ase

    # The third shell of fcc is at a √(3/2), the fourth at a √2; the cutoff falls between the two.
    lattice_constant = graph.cutoff / math.sqrt(math.sqrt(1.5 * 2)) if graph.has_edges else 4.05
    atoms = bulk("Al", "fcc", a=lattice_constant, cubic=True) * (5, 1, 1)
    atoms.numbers[:] = atomic_number
    return collate([Structure.from_ase(atoms, source="reference crystal")], graph)
