"""Files of reference models of `../shared/golden` that several architectures have in one format."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure


@dataclass(frozen=True)
class GoldenFile:
    """A tiny reference model: its weights, structures, graph, intermediate values, outputs and gradient norms."""

    path: Path

    @property
    def graph(self) -> Graph:
        """Graph that the model asks for."""
        raise NotImplementedError

    @cached_property
    def facts(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path.with_suffix(".safetensors"))

    @property
    def weights(self) -> dict[str, Tensor]:
        prefix = "weights."
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    @property
    def structures(self) -> list[Structure]:
        keys = ("numbers", "positions", "cell", "pbc")
        return [Structure(*(np.array(s[key]) for key in keys)) for s in self.facts["inputs"]]

    def own_batch(self, dtype: torch.dtype = torch.float64) -> AtomicBatch:
        """With edges of our own rule."""
        return collate(self.structures, self.graph, dtype)

    def batch(self, dtype: torch.dtype = torch.float64) -> AtomicBatch:
        """With the edges of the file, in its order."""
        shift = self.tensors["graph.cell_offsets"].to(torch.int32)
        return replace(self.own_batch(), edge_index=self.tensors["graph.edge_index"], edge_shift=shift).to(dtype=dtype)
