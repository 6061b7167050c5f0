"""Small models and structures for the tests of EquiformerV3, and published ones with their weights and outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from golden import GoldenFile
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.plugins.eqv3 import EqV3, EqV3Config, graph
from matscale.plugins.eqv3.fairchem.names import config_from_published, load_published

SMALL = {
    "channels": 6,
    "edge_channels": 4,
    "n_layers": 2,
    "lmax": 2,
    "attention_hidden": 4,
    "n_heads": 2,
    "alpha_channels": 3,
    "value_channels": 2,
    "ffn_hidden": 7,
    "n_radial": 12,
    "cutoff": 4.2,
    "mean_degree": 4.0,
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    """torch starts with another seed in every process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small() -> Callable[..., EqV3Config]:
    """Options of a small model, with some changed: small(lmax=3)."""
    return lambda **options: EqV3Config(**{**SMALL, **options})


@pytest.fixture(scope="session")
def make_model(small: Callable[..., EqV3Config]) -> Callable[..., EqV3]:
    """A small float64 model in evaluation mode whose weights have all left their initial values."""

    def make(**options: object) -> EqV3:
        torch.manual_seed(0)
        model = EqV3(small(**options)).double().eval()
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
    """A tiny published model with its weights, graph, intermediate values, outputs and gradient norms."""

    @property
    def graph(self) -> Graph:
        return graph(self.config)

    @property
    def is_direct(self) -> bool:
        return self.facts["model"]["direct_prediction"]

    @property
    def denoises(self) -> bool:
        return self.facts["model"]["name"] == "equiformer_v3_dens"

    @property
    def config(self) -> EqV3Config:
        return config_from_published(self.facts["model"], denoising=self.denoises)

    def model(self, dtype: torch.dtype = torch.float64) -> EqV3:
        model = EqV3(self.config).to(dtype).eval()
        load_published(model, {name: weight.to(dtype) for name, weight in self.weights.items()})
        return model

    def noise(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
        """Forces, noised atoms and noised structures of a denoising pass."""
        forces, atoms, structures = (self.tensors[f"dens.{n}"] for n in ("forces", "noise_mask", "dens_batch_mask"))
        return forces.to(dtype), atoms.to(dtype), structures.to(dtype)


@pytest.fixture(scope="session")
def goldens(shared: Path) -> Callable[[str], list[Golden]]:
    """Files of models in published forms whose names match a pattern."""
    folder = shared / "golden" / "eqv3"
    return lambda pattern: [
        Golden(path)
        for path in sorted(folder.glob(f"eqv3_{pattern}.json"))
        if "_opt_" not in path.name and path.with_suffix(".safetensors").exists()
    ]
