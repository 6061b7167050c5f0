r"""Plain transformer encoder: every atom of a structure attends to every other, without built-in geometry.

    summed        x = a(Z) + M(r) + M'(r cell⁻¹) + PE(k)         M: Linear(3, D, no bias), SiLU, Linear(D, D)
    concatenated  x = a(Z) ⊕ r                                   a has D − 3 channels
    n_layers times (before each part a LayerNorm, after it dropout):
        x = x + softmax(Q Kᵀ / √D_h) V                           attention among the atoms of the structure
        x = x + W₂ GELU(W₁ x)
    energy, forces, stress: three heads on LayerNorm(x), see `core.layers.heads`

r [Å] is the Cartesian position as in the file, k the index of the atom in its structure, PE its sinusoidal encoding
with base 2048. *Summed* is the encoder of the all-atom diffusion transformer (ADiT, arXiv:2503.03965) as
arXiv:2509.21811 scaled it: through PE it depends on the order of the atoms, through r on origin and orientation, so it
claims nothing. *Concatenated* is the earlier form of that work, without PE, so that the order of atoms does not matter.

Linear layers run on the flat list of atoms; only attention uses the padded layout.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from matscale.plugin import (
    Architecture,
    AtomicBatch,
    BatchShape,
    DatasetInfo,
    Graph,
    Padding,
    full_precision,
)
from matscale.plugins.transformer.encoder import DIAL, SHAPES, EncoderConfig, EncoderLayer, EncoderModel, encoder_ladder


class TransformerConfig(EncoderConfig):
    """Configuration of the transformer encoder."""

    inputs: Literal["summed", "concatenated"] = "summed"
    """Inputs of element and position: `summed` (ADiT; depends on the order of atoms) or `concatenated`."""

    @model_validator(mode="after")
    def _room_for_elements(self) -> TransformerConfig:
        if self.inputs == "concatenated" and self.width < 4:
            raise ValueError(
                f"width = {self.width}: concatenated inputs need 3 channels for x, y, z and at least 1 for the element"
            )
        return self


class SummedInputs(nn.Module):
    """Summed inputs: element, MLPs of the Cartesian and the fractional position, encoding of the atom's index."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(119, width)  # row 0 is no element
        self.cartesian = nn.Sequential(nn.Linear(3, width, bias=False), nn.SiLU(), nn.Linear(width, width))
        self.fractional = nn.Sequential(nn.Linear(3, width, bias=False), nn.SiLU(), nn.Linear(width, width))

    @full_precision  # half precision would round coordinates by up to 0.06 Å
    def forward(self, data: AtomicBatch, padding: Padding) -> Tensor:
        x: Tensor = self.embedding(data.atomic_numbers) + self.cartesian(data.positions)
        x = x + self.fractional(data.fractional())
        return x + atom_number_encoding(padding.rank, self.width).to(x.dtype)


class ConcatenatedInputs(nn.Module):
    """Concatenated inputs: element ⊕ Cartesian position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(119, width - 3)  # row 0 is no element

    def forward(self, data: AtomicBatch, padding: Padding) -> Tensor:
        return torch.cat([self.embedding(data.atomic_numbers), data.positions], dim=-1)


def atom_number_encoding(rank: Tensor, width: int, base: float = 2048.0) -> Tensor:
    """Encode the index k of each atom in its structure, `rank` [n_atoms]; returns [n_atoms, width].

    The channels are sin(kπ/base^(2c/width)) for c = 0, 1, ..., then the cosines; an odd width has one more sine.
    """
    channel = torch.arange((width + 1) // 2, dtype=torch.float64, device=rank.device)
    phase = rank[:, None] * (math.pi / base ** (2 * channel / width))
    return torch.cat([phase.sin(), phase.cos()], dim=-1)[:, :width]


class Transformer(EncoderModel):
    """Model of energy, forces and stress by attention among all atoms of a structure."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.inputs = SummedInputs(config.width) if config.inputs == "summed" else ConcatenatedInputs(config.width)
        self.add_layers(config, EncoderLayer)

    def embed(self, data: AtomicBatch) -> Tensor:
        padding = Padding.of(data)
        return self.through_layers(self.inputs(data, padding), padding)


def build(config: TransformerConfig, info: DatasetInfo) -> nn.Module:
    """Build the model. The facts in `info` have no effect."""
    return Transformer(config)


def ladder(n_params: int) -> TransformerConfig:
    """Choose a model with about `n_params` parameters: four layers, and a head for every 64 channels.

    In small models the feed-forward width is adjusted.
    """
    return encoder_ladder(n_params, TransformerConfig, build)


def step_flops(config: TransformerConfig, shape: BatchShape) -> float:
    """FLOPs of a training step: three times the FLOPs of the forward, without gradients of coordinates.

    Attention counts its two products over the pairs of atoms of each structure, without padding and without the
    recomputation that fused kernels do in their backward.
    """
    width = config.width
    products = 3.0 * config.multiply_adds(4) * shape.n_atoms + 6.0 * config.n_layers * width * shape.sum_atoms_squared
    if config.inputs == "summed":
        products += shape.n_atoms * (2 * 2 * 3 * width + 3 * 2 * width * width)
    return 2.0 * products


def claims_for(config: TransformerConfig) -> frozenset[str]:
    """Symmetries and other properties that a model of this configuration claims to have.

    A model with summed inputs claims none: these inputs depend on the order of atoms, through the encoding of the
    index.
    """
    return frozenset({"permutation"}) if config.inputs == "concatenated" else frozenset()


SIZES = {name: TransformerConfig(**shape, head_layers=3) for name, shape in SHAPES.items()}
"""Total numbers of parameters: 17,770 · 155,146 · 205,130 · 432,810 · 942,730 · 2,509,386 · 2,954,250 · 5,200,010 ·
9,309,514, with heads of three linear layers, as in the code of arXiv:2509.21811 (its text describes two).
"""


ARCHITECTURE = Architecture(
    name="transformer",
    summary="Encoder-only transformer on coordinates; no symmetry built in.",
    reference="arXiv:2509.21811",
    config=TransformerConfig,
    build=build,
    ladder=ladder,
    dial=DIAL,
    claims_for=claims_for,
    forces="direct",
    graph=lambda config: Graph.dense(),
    sizes=SIZES,
    step_flops=step_flops,
    compiles=True,
    shows_attention=True,
)
