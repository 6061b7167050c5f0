"""Recipe of a synthetic dataset: which parents it has, and how structures are made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from matscale.core.config import Config
from matscale.core.data.synthetic.labelers import Labeler
from matscale.core.data.synthetic.prototypes import PROTOTYPES, check
from matscale.core.errors import ConfigError

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Recipe(Config):
    """Settings of a synthetic dataset, except the labeler. Equal recipes give equal datasets.

    >>> Recipe(n=1000, per_parent=30).n_parents
    34
    """

    n: Count = 4000
    """Number of structures."""
    elements: tuple[str, ...] = ()
    """Symbols of the elements; default: all elements that the labeler knows."""
    prototypes: tuple[str, ...] = PROTOTYPES
    """Prototypes of the parents, taken in turn."""
    files: tuple[str, ...] = ()
    """Files whose structures are the parents, in place of prototypes."""
    max_atoms: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Largest number of atoms of a parent that is made from a prototype."""
    per_parent: Annotated[int, Field(ge=1, le=100_000)] = 20
    """Number of structures made from one parent. They are in memory at the same time."""
    rattle_temperatures: tuple[Positive, ...] = (300.0, 500.0, 1000.0)
    """Temperatures of rattled structures [K]; one of them is drawn for each structure."""
    dynamics_temperatures: tuple[Positive, ...] = (300.0, 1000.0, 3000.0)
    """Temperatures of Langevin runs [K]; one of them is drawn for each run."""
    dynamics: Share = 0.25
    """Share of structures that are frames of Langevin runs."""
    strained: Share = 0.15
    """Share of structures that are only strained, by twice `strain`.

    All others, except frames of Langevin runs, are rattled and strained.
    """
    strain: Share = 0.02
    """Standard deviation of each strain component."""
    spring: Positive = 3.0
    """Spring constant from which displacements at a temperature follow [eV/Å²]."""
    closeness: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Least distance of two atoms, relative to the sum of their radii; closer structures are drawn again."""
    forces_max: Positive = 30.0
    """Largest force component [eV/Å]; structures with a larger one are drawn again."""
    stress_max: Positive = 1.0
    """Largest stress component [eV/Å³]; structures with a larger one are drawn again."""
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def n_parents(self) -> int:
        """Number of parents from which `n` structures are made."""
        return -(-self.n // self.per_parent)

    def of(self, labeler: Labeler) -> Recipe:
        """Return the recipe with the elements of the labeler filled in.

        Raises ConfigError if settings of the recipe contradict each other.
        """
        elements = labeler.choose(self.elements)
        if self.dynamics + self.strained > 1:
            raise ConfigError(
                f"dynamics = {self.dynamics} and strained = {self.strained}: the sum is above 1. Lower one of them."
            )
        if not self.rattle_temperatures or not self.dynamics_temperatures:
            raise ConfigError(
                "A recipe needs at least one rattle temperature and one dynamics temperature (--temperatures 300,1000)."
            )
        if self.files:
            missing = [file for file in self.files if not Path(file).exists()]
            if missing:
                raise ConfigError(f"{missing[0]}: no such file, so no parents can be taken from it.")
        elif not self.prototypes:
            raise ConfigError("A recipe needs prototypes (--prototypes fcc,bcc) or files (--from FILE) as parents.")
        else:
            check(self.prototypes, elements)
        return self.model_copy(update={"elements": elements})
