"""Tiny models of EScAIP, and those of fairchem with their weights and outputs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.plugins.escaip.config import EScAIPConfig
from matscale.plugins.escaip.fairchem.names import config_from_fairchem, load_fairchem
from matscale.plugins.escaip.model import EScAIP, graph


@pytest.fixture(autouse=True)
def _seed() -> None:
    """torch starts with another seed in every process."""
    torch.manual_seed(0)


@dataclass(frozen=True)
class Golden:
    """A tiny model of fairchem v2 with its weights, layout and outputs."""

    kind: str
    facts: dict
    tensors: dict[str, Tensor]

    @property
    def config(self) -> EScAIPConfig:
        return config_from_fairchem(self.facts["config"])

    @property
    def weights(self) -> dict[str, Tensor]:
        prefix = f"{self.kind}.weights."
        return {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}

    def model(self, dtype: torch.dtype = torch.float64) -> EScAIP:
        model = EScAIP(self.config).eval()
        load_fairchem(model, self.weights)
        return model.to(dtype)

    def batch(self, dtype: torch.dtype = torch.float64) -> AtomicBatch:
        keys = ("numbers", "positions", "cell", "pbc")
        structures = [Structure(*(np.array(s[key]) for key in keys)) for s in self.facts["inputs"]]
        return collate(structures, graph(self.config), dtype)

    def out(self, name: str) -> Tensor:
        return self.tensors[f"{self.kind}.out32.{name}"].double()


@pytest.fixture(scope="session", params=["direct", "gradient"])
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    facts = json.loads((shared / "golden" / "escaip_tiny.json").read_text())
    facts = {**facts["variants"][request.param], "inputs": facts["inputs"]}
    return Golden(request.param, facts, load_file(shared / "golden" / "escaip_tiny.safetensors"))
