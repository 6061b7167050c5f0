"""Small models and structures for the tests of EquiformerV2."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.plugins.eqv2 import EqV2, EqV2Config, graph
from matscale.plugins.eqv2.fairchem.names import config_from_fairchem, load_fairchem

SMALL = {
    "channels": 8,
    "n_layers": 2,
    "edge_channels": 8,
    "attention_hidden": 8,
    "n_heads": 2,
    "alpha_channels": 8,
    "ffn_hidden": 8,
    "n_radial": 32,
    "cutoff": 5.0,
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    """torch starts with another seed in every process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small() -> Callable[..., EqV2Config]:
    """Options of a small model, with some changed: small(lmax=3)."""
    return lambda **options: EqV2Config(**{**SMALL, **options})


@pytest.fixture(scope="session")
def make_model(small: Callable[..., EqV2Config]) -> Callable[..., EqV2]:
    """A small float64 model in evaluation mode whose weights have all left their initial values."""

    def make(**options: object) -> EqV2:
        torch.manual_seed(0)
        model = EqV2(small(**options)).double().eval()
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
class Golden:
    """A tiny model of fairchem v1 with its weights, graph, intermediate values, outputs and gradient norms."""

    config: EqV2Config
    facts: dict
    tensors: dict[str, Tensor]

    @property
    def structures(self) -> list[Structure]:
        keys = ("numbers", "positions", "cell", "pbc")
        return [Structure(*(np.array(s[key]) for key in keys)) for s in self.facts["inputs"]]

    def model(self, dtype: torch.dtype = torch.float64) -> EqV2:
        model = EqV2(self.config).to(dtype).eval()
        load_fairchem(model, self.weights)
        return model

    @property
    def weights(self) -> dict[str, Tensor]:
        prefix = "weights."
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    def batch(self, dtype: torch.dtype = torch.float64) -> AtomicBatch:
        """With the edges of the file, in its order."""
        own = collate(self.structures, graph(self.config), torch.float64)
        shift = self.tensors["graph.cell_offsets"].to(torch.int32)
        return replace(own, edge_index=self.tensors["graph.edge_index"], edge_shift=shift).to(dtype=dtype)


@pytest.fixture(scope="session")
def golden(shared: Path) -> Golden:
    folder = shared / "golden"
    facts = json.loads((folder / "eqv2_tiny.json").read_text())
    return Golden(config_from_fairchem(facts["backbone"]), facts, load_file(folder / "eqv2_tiny.safetensors"))
