"""Small models and structures for the tests of eSEN, and the models of fairchem with their weights and outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from golden import GoldenFile
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.plugins.esen import ESEN, ESENConfig, graph
from matscale.plugins.esen.fairchem.names import config_from_fairchem, load_fairchem

SMALL = {"channels": 6, "hidden": 5, "edge_channels": 4, "n_layers": 2, "lmax": 2, "n_radial": 12, "cutoff": 4.2}


@pytest.fixture(autouse=True)
def _seed() -> None:
    """torch starts with another seed in every process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small() -> Callable[..., ESENConfig]:
    """Options of a small model, with some changed: small(lmax=3)."""
    return lambda **options: ESENConfig(**{**SMALL, **options})


@pytest.fixture(scope="session")
def make_model(small: Callable[..., ESENConfig]) -> Callable[..., ESEN]:
    """A small float64 model in evaluation mode whose weights have all left their initial values."""

    def make(**options: object) -> ESEN:
        torch.manual_seed(0)
        model = ESEN(small(**options)).double().eval()
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
        return model

    return make


@pytest.fixture(scope="session")
def oxide() -> Structure:
    """A rattled perovskite in a triclinic cell."""
    rng = np.random.default_rng(3)
    cell = 3.9 * (np.eye(3) + 0.03 * rng.standard_normal((3, 3)))
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    positions = sites @ cell + 0.05 * rng.standard_normal((5, 3))
    return Structure(np.array([38, 22, 8, 8, 8]), positions, cell, np.array([True] * 3))


@pytest.fixture(scope="session")
def batch_of() -> Callable[..., AtomicBatch]:
    """A float64 batch of structures with the edges that a model asks for."""
    return lambda model, *structures: collate(structures, graph(model.config), torch.float64)


@dataclass(frozen=True)
class Golden(GoldenFile):
    """A tiny model of fairchem with its weights, graph, intermediate values, outputs and gradient norms."""

    @property
    def graph(self) -> Graph:
        return graph(self.config)

    @property
    def is_direct(self) -> bool:
        return self.facts["direct"]

    @property
    def has_default_grid(self) -> bool:
        """Whether messages pass through a grid so coarse that the angle of a frame about its edge shows."""
        return "defaultgrid" in self.path.stem

    @property
    def config(self) -> ESENConfig:
        return config_from_fairchem(self.facts["backbone"], system_vector=True, stress_head="equivariant")

    def model(self, dtype: torch.dtype = torch.float64) -> ESEN:
        model = ESEN(self.config).to(dtype).eval()
        charge, spin = (int(self.facts.get(name) or 0) for name in ("charge", "spin"))
        load_fairchem(model, {name: weight.to(dtype) for name, weight in self.weights.items()}, charge, spin)
        return model


@pytest.fixture(scope="session")
def goldens(shared: Path) -> Callable[[str], list[Golden]]:
    """Files whose names match a pattern."""
    return lambda pattern: [Golden(path) for path in sorted((shared / "golden" / "esen").glob(f"{pattern}.json"))]
