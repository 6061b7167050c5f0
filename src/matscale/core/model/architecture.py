"""Architecture: the frozen object by which a plugin describes a family of models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from matscale.core.config import Config
from matscale.core.data.batch import BatchShape
from matscale.core.data.graph import Graph
from matscale.core.errors import ConfigError, PluginError, did_you_mean
from matscale.core.hosting.provided import shown
from matscale.core.model.buildable import buildable, check_parts

CLAIMS = {
    "permutation": "renumbering the atoms renumbers the forces and changes nothing else",
    "translation": "moving all atoms together changes nothing",
    "periodic": "moving one atom by a lattice vector, or choosing another cell of the same crystal, changes nothing",
    "rotation": "energy is invariant; forces and stress turn with the structure",
    "reflection": "energy is invariant for mirror images; forces and stress are mirrored",
    "extensive": "a supercell has energy in proportion to its size",
    "smooth": "energy and forces are continuous, also as neighbours enter and leave or edges change direction",
    "conservative": "forces and stress are derivatives of the energy",
}
"""Symmetries and properties that an architecture may claim; `matscale plugins check` tests the claimed ones."""


class ArchitectureConfig(Config):
    """Base class of an architecture's configuration: the docstring of a field is its help text, with the unit."""


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about the data that a model may use when it is built.

    The run record stores these facts, so that the same model can be built again.
    """

    elements: tuple[int, ...] = tuple(range(1, 119))
    """Atomic numbers that occur in training."""
    mean_atoms: float = 20.0
    """Mean number of atoms per structure."""
    mean_degree: float = 40.0
    """Mean number of neighbours per atom in this architecture's graph; 0 without a graph."""

    @classmethod
    def any(cls) -> DatasetInfo:
        """Facts for building a model without data: all elements, typical sizes."""
        return cls()

    def plain(self) -> dict[str, Any]:
        """Dataset facts as JSON-ready values."""
        return {"elements": list(self.elements), "mean_atoms": self.mean_atoms, "mean_degree": self.mean_degree}

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> DatasetInfo:
        """Restore facts from the result of `plain`."""
        return cls(tuple(values["elements"]), float(values["mean_atoms"]), float(values["mean_degree"]))


@dataclass(frozen=True)
class Architecture:
    """Architecture: a family of models, returned by the hook `register_architectures`."""

    name: str
    """Name on the command line: `--arch schnet`."""
    summary: str
    """Description in one line."""
    reference: str
    """DOI or arXiv id of the paper."""
    config: type[ArchitectureConfig]
    build: Callable[[Any, DatasetInfo], nn.Module]
    """Function (config, info) that returns a module whose forward maps an AtomicBatch to Outputs.

    A pure function, except that it draws weights from torch's global generator, which the core seeds
    (`Architecture.model`).
    """
    ladder: Callable[[int], Any]
    """Function (n_params) that returns the config with the nearest number of parameters. Only `dial` varies."""
    dial: str
    """Hyperparameter that the ladder varies, in a few words: "hidden channels (as many filters), 3 interactions"."""
    claims: frozenset[str] = frozenset()
    """Properties (`CLAIMS`) that hold for every config of the family.

    If they depend on the config, `claims_for` returns them, and this field defaults to those of the default config.
    """
    forces: Literal["direct", "gradient", "both"] = "direct"
    """Source of the forces: prediction (`direct`), derivative of the energy (`gradient`), or either (`both`).

    With `both`, the config has a field `forces` that chooses.
    """
    graph: Callable[[Any], Graph] = field(default=lambda config: Graph.none())
    """Function (config) that returns the neighbour rule of the model."""
    sizes: Mapping[str, ArchitectureConfig] = field(default_factory=dict)
    """Published configurations by name."""
    step_flops: Callable[[Any, BatchShape], float] | None = None
    """Function (config, shape) that returns the FLOPs of one optimiser step; None if a step is run to count them."""
    max_atomic_number: int = 118
    claims_for: Callable[[Any], frozenset[str]] | None = None
    """Function (config) that returns its claims, for a family in which a claim depends on an option."""
    rotation_tolerance: float = 1e-6
    """Largest relative error, in float64, of the claims rotation and reflection.

    Larger for a family that is only approximately equivariant, such as one with activations on a grid of the sphere.
    """

    rotates: bool = False
    """Whether training rotates structures at random by default (`augmentation.rotate`), for a family that learns
    rotations from data.
    """
    compiles: bool = False
    """Whether `compute.compile` is supported with direct forces: torch.compile gives the same numbers and does not
    compile again for each new batch size.
    """
    shows_attention: bool = False
    """Whether the layers of its models hand out their attention weights (`matscale.core.model.attention`)."""

    def __post_init__(self) -> None:
        if self.claims_for is not None and not self.claims:
            object.__setattr__(self, "claims", self.claims_of(self.config()))
        self._known(self.claims)

    def check(self) -> None:
        """Check the types of the fields, since a frozen dataclass does not. Raises PluginError."""
        config: Any = self.config
        if not isinstance(config, type) or not issubclass(config, ArchitectureConfig):
            raise PluginError(f"architecture {self.name!r}: config is {shown(config)}, not an ArchitectureConfig.")
        for name in ("build", "ladder", "graph"):
            if not callable(value := getattr(self, name)):
                raise PluginError(f"architecture {self.name!r}: {name} is {shown(value)}, not a function.")
        for size, published in self.sizes.items():
            if not isinstance(published, config):
                raise PluginError(f"architecture {self.name!r}: size {size!r} is not a {config.__name__}.")

    def _known(self, claims: frozenset[str]) -> frozenset[str]:
        """Return `claims`. Raises ConfigError for an unknown claim: a misspelt one would never be checked."""
        unknown = claims - set(CLAIMS)
        if unknown:
            raise ConfigError(
                f"Architecture {self.name!r} makes unknown claims {sorted(unknown)}. "
                f"{did_you_mean(min(unknown), CLAIMS)}"
            )
        return claims

    def claims_of(self, config: ArchitectureConfig) -> frozenset[str]:
        """Claims that hold for this config: `conservative` only if forces are gradients."""
        claims = self.claims if self.claims_for is None else self._known(self.claims_for(config))
        return claims if self.derives_forces(config) else claims - {"conservative"}

    def derives_forces(self, config: ArchitectureConfig) -> bool:
        """Whether the core derives forces and stress from the energy."""
        if self.forces == "both":
            return bool(config.forces == "gradient")  # type: ignore[attr-defined]
        return self.forces == "gradient"

    def size(self, name: str) -> ArchitectureConfig:
        """Published configuration called `name`. Raises ConfigError that suggests the nearest name."""
        if name not in self.sizes:
            raise ConfigError(f"{self.name} has no size {name!r}. {did_you_mean(name, self.sizes)}")
        return self.sizes[name]

    def model(self, config: ArchitectureConfig, info: DatasetInfo, seed: int) -> nn.Module:
        """Build a model whose weights depend only on (config, info, seed).

        The caller's random state does not change.

        Raises ConfigError for a model that is too large to build.
        """
        with torch.random.fork_rng(devices=[]):
            check_parts(self.name, config.plain(), lambda: self.build(config, info))
            torch.manual_seed(seed)
            with buildable(self.name):
                return self.build(config, info)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count parameters, with the same definitions for all models: `total`, `trainable`, `embedding` (look-up tables),
    `non_embedding`.

    An embedding is a parameter that is only indexed by element: the weight of an `nn.Embedding`, and parameters that a
    model lists in a method `element_tables()`.

    >>> count_parameters(nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 1)))
    {'total': 809, 'trainable': 809, 'embedding': 800, 'non_embedding': 9}
    """
    total = sum(p.numel() for p in model.parameters())
    declared: frozenset[str] = getattr(model, "element_tables", frozenset)()
    tables = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
    tables |= {id(p): p.numel() for name, p in model.named_parameters() if name in declared}
    embedding = sum(tables.values())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "total": total,
        "trainable": trainable,
        "embedding": embedding,
        "non_embedding": total - embedding,
    }


def graded(dial: int) -> int:
    """Width of a layer at step `dial` = 1, 2, 3, ... of a ladder of model sizes.

    From one step to the next, the width grows by 1 up to 128, by 2 up to 256, by 4 up to 512, and so on.

    From 64 on, successive widths differ by at most 1/64, and wide layers get widths that are efficient on GPUs.

    >>> [graded(dial) for dial in (1, 128, 129, 192, 193)]
    [1, 128, 130, 256, 260]
    """
    octave, rest = divmod(max(dial - 64, 0), 64)
    return (64 + rest) << octave if dial >= 64 else dial


def steps_between(a: Sequence[int], b: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """List shapes from `a` (excluded) to `b` (included), for a ladder of model sizes.

    Each raises one of the numbers by 1, and all numbers grow evenly; `b` is nowhere smaller than `a`.

    >>> list(steps_between((1, 1), (2, 3)))
    [(1, 2), (2, 2), (2, 3)]
    """
    steps = sorted(((k + 0.5) / (y - x), place) for place, (x, y) in enumerate(zip(a, b)) for k in range(y - x))
    shape = list(a)
    for _, place in steps:
        shape[place] += 1
        yield tuple(shape)


C = TypeVar("C")


def closest(
    n_params: int,
    make: Callable[[int], C],
    build: Callable[[C, DatasetInfo], nn.Module],
    fine: Callable[[C, int], C] | None = None,
) -> C:
    """Choose the config `make(dial)`, dial = 1, 2, ..., whose model has the parameter count nearest to `n_params`.

    Small models change a lot from one width to the next: if the nearest count is off by more than 2 %,
    `fine(config, dial)` varies a second, finer setting of that config. Counts must not decrease with either dial.
    Models are built on torch's `meta` device: nothing is allocated.

    >>> closest(1_000, lambda width: width, lambda width, info: nn.Linear(width, width))
    31
    """

    def count(config: C) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in build(config, DatasetInfo.any()).parameters())

    coarse = _nearest(n_params, make, count)
    if fine is None or abs(coarse[1] / n_params - 1) <= 0.02:
        return coarse[0]
    finer = _nearest(n_params, lambda dial: fine(coarse[0], dial), count)
    return min(coarse, finer, key=lambda found: abs(found[1] - n_params))[0]


def _nearest(n_params: int, make: Callable[[int], C], count: Callable[[C], int]) -> tuple[C, int]:
    """Find the config whose count is nearest to `n_params`, by bisection of the dial, and its count.

    Counts increase with the dial.
    """
    counted = cache(lambda dial: count(make(dial)))  # a model is built for each count
    low, high = 1, 2
    while counted(high) < n_params:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if counted(middle) < n_params else (low, middle)
    best = min((low, high), key=lambda dial: abs(counted(dial) - n_params))
    return make(best), counted(best)
