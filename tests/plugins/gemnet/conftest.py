"""Small models and structures for the tests of GemNet, and fairchem's golden numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from matscale.core.contract.structures import crystal, metal, molecule
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.plugins.gemnet import GemNet, GemNetConfig, graph
from matscale.plugins.gemnet.fairchem.names import state_from_fairchem
from matscale.plugins.gemnet.fairchem.options import config_from_fairchem

SMALL = {
    "n_layers": 2,
    "atom_channels": 8,
    "edge_channels": 10,
    "triplet_in": 4,
    "triplet_out": 5,
    "quadruplet_in": 3,
    "quadruplet_out": 4,
    "pair_in": 4,
    "pair_out": 3,
    "n_radial": 12,
    "n_spherical": 4,
    "radial_embedding": 5,
    "circular_embedding": 4,
    "spherical_embedding": 6,
    "n_atom": 1,
    "n_after_skip": 1,
    "cutoff": 3.5,
}
OC = {
    "quadruplets": True,
    "atom_edge": True,
    "edge_atom": True,
    "atom_atom": True,
    "n_joint_layers": 1,
    "n_atom_before": 1,
    "n_output_after": 1,
    "always_project": False,
    "cutoff_quadruplets": 3.2,
    "cutoff_atom_edge": 4.0,
    "cutoff_atom_atom": 5.0,
}


@pytest.fixture(scope="session")
def small() -> Callable[..., GemNetConfig]:
    """Options of a small GemNet-dT, with some changed: small(forces="gradient")."""
    return lambda **options: GemNetConfig(**{**SMALL, **options})


@pytest.fixture(scope="session")
def small_oc() -> Callable[..., GemNetConfig]:
    """The same of a GemNet-OC."""
    return lambda **options: GemNetConfig(**{**SMALL, **OC, **options})


@pytest.fixture(scope="session")
def make_model() -> Callable[[GemNetConfig], GemNet]:
    """A float64 model in evaluation mode whose scale factors and last layers matter."""

    def make(config: GemNetConfig) -> GemNet:
        torch.manual_seed(0)
        model = GemNet(config).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
            for name, buffer in model.named_buffers():
                if name.endswith("factor"):
                    buffer.fill_(float(0.7 + 0.6 * torch.rand(())))
        return model

    return make


@pytest.fixture
def batch() -> Callable[[GemNetConfig], AtomicBatch]:
    """A crystal, a metal whose atom is its own neighbour, and a molecule, with the edges that a config asks for."""
    return lambda config: collate([crystal(), metal(), molecule()], graph(config), torch.float64)


@dataclass(frozen=True)
class Golden:
    """One model of fairchem's: options, weights, structures and outputs."""

    facts: dict
    structures: list[Structure]
    tensors: dict[str, Tensor]

    @property
    def config(self) -> GemNetConfig:
        return config_from_fairchem(self.facts["config"])

    @property
    def weights(self) -> dict[str, Tensor]:
        return {k.removeprefix("weights."): v for k, v in self.tensors.items() if k.startswith("weights.")}

    def model(self, dtype: torch.dtype) -> GemNet:
        model = GemNet(self.config)
        model.load_state_dict(state_from_fairchem(model, self.weights))
        return model.to(dtype).eval()

    def batch(self, dtype: torch.dtype) -> AtomicBatch:
        return collate(self.structures, graph(self.config), dtype)


@pytest.fixture(scope="session")
def golden(shared: Path) -> Callable[[str, str], Golden]:
    """golden("t", "gradient"): of the file gemnet_t_tiny."""

    def load(name: str, variant: str) -> Golden:
        file = shared / "golden" / f"gemnet_{name}_tiny.json"
        facts, tensors = json.loads(file.read_text()), load_file(file.with_suffix(".safetensors"))
        structures = [
            Structure(np.array(s["numbers"]), np.array(s["positions"]), np.array(s["cell"]), np.ones(3, dtype=bool))
            for s in facts["inputs"]
        ]
        own = {k.removeprefix(variant + "."): v for k, v in tensors.items() if k.startswith(variant + ".")}
        return Golden(facts["variants"][variant], structures, own)

    return load
