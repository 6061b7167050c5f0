"""Tiny models of EScAIP, and those of fairchem with their weights and outputs."""

from __future__ import annotations

import json
import re
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
from matscale.plugins.escaip.model import EScAIP, graph

RENAMED = [
    (r"backbone\.input_block\.", "input."),
    (r"input_layer\.edge_ffn\.", "feed_forward."),
    (r"input_layer\.", "attributes."),
    (r"backbone\.transformer_blocks\.", "blocks."),
    (r"graph_attention\.(?=source|target|edge_distance|edge_attr)", "attention.attributes."),
    (r"graph_attention\.", "attention."),
    (r"atomic_embedding", "element"),
    (r"direction_embedding\.0", "order"),
    (r"edge_distance_embedding\.0", "distance"),
    (r"edge_attr_linear\.0", "mix"),
    (r"(edge_attr|message)_norm", "norm"),
    (r"node_hidden_linear\.0", "atoms"),
    (r"edge_hidden_linear\.0", "edge"),
    (r"message_linear\.0", "message"),
    (r"attn_in_proj_q", "query"),
    (r"attn_in_proj_k", "key"),
    (r"attn_in_proj_v", "value"),
    (r"attn_out_proj", "out"),
    (r"\bnorm_(?:attn_)?(node|edge)\b", r"\1_norm"),
    (r"norm_ffn_(node|edge)", r"\1_ffn_norm"),
    (r"feedforward\.mlp_(node|edge)", r"\1_ffn"),
    (r"backbone\.readout_layers\.(\d+)\.(node|edge)_ffn", r"\2_readout.feed_forwards.\1"),
    (r"backbone\.readout_layers\.(\d+)\.pre_(node|edge)_norm", r"\2_readout.norms.\1"),
    (r"backbone\.output_projection\.(node|edge)_projection\.0", r"\1_readout.projection"),
    (r"backbone\.output_projection\.output_norm_(node|edge)", r"\1_readout.norm"),
    (r"output_heads\.(?:energy|efs)\.node_norm", "energy.mlp.norm"),
    (r"output_heads\.(?:energy|efs)\.energy_layer", "energy.mlp"),
    (r"output_heads\.forces\.force_direction_layer", "forces.components"),
    (r"output_heads\.forces\.force_magnitude_layer", "forces.magnitude"),
    (r"output_heads\.", ""),
    (r"ffn\.0\.0|feed_forward\.0\.0|(feed_forwards\.\d+)\.0\.0", lambda m: (m[1] or m[0][: -len(".0.0")]) + ".0"),
    (r"ffn\.1\.0|feed_forward\.1\.0|(feed_forwards\.\d+)\.1\.0", lambda m: (m[1] or m[0][: -len(".1.0")]) + ".2"),
    (r"mlp\.ffn|(components|magnitude)\.ffn", lambda m: (m[1] or "mlp") + ".feed_forward"),
    (r"final_output\.0", "out"),
    (r"\bnode_", "atom_"),
]
"""fairchem's names -> ours, in this order."""


def our_name(name: str) -> str:
    """Of a tensor of fairchem's model."""
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


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
        theirs = self.facts["config"]
        return EScAIPConfig(
            hidden=theirs["hidden_size"],
            n_layers=theirs["num_layers"],
            n_heads=theirs["atten_num_heads"],
            degree_channels=theirs["freequency_list"],
            atom_channels=theirs["atom_embedding_size"],
            order_channels=theirs["node_direction_embedding_size"],
            n_order=theirs["node_direction_expansion_size"],
            distance_channels=theirs["edge_distance_embedding_size"],
            n_radial=theirs["edge_distance_expansion_size"],
            cutoff=theirs["max_radius"],
            n_neighbors=theirs["knn_k"],
            max_neighbors=theirs["knn_pad_size"],
            rank_width=theirs["knn_sigmoid_scale"],
            rank_sharpness=theirs["knn_lse_scale"],
            forces=self.kind,
            stress_head="none",
            max_atomic_number=theirs["max_num_elements"] - 1,
        )

    @property
    def weights(self) -> dict[str, Tensor]:
        """Under our names. Their gradient models keep the norm of the energy head, and never use it."""
        prefix = f"{self.kind}.weights."
        named = {our_name(n.removeprefix(prefix)): t for n, t in self.tensors.items() if n.startswith(prefix)}
        return {n: t for n, t in named.items() if self.kind == "direct" or n != "energy.mlp.norm.weight"}

    def model(self, dtype: torch.dtype = torch.float64) -> EScAIP:
        model = EScAIP(self.config).eval()
        model.load_state_dict(self.weights, strict=True)
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
