r"""Per-atom network: a baseline architecture in which atoms do not interact.

    x⁰ = P (a(Z) ⊕ r) + p                            [n_atoms, H]
    xⁿ⁺¹ = xⁿ + LeakyReLU(LayerNorm(Q xⁿ + q))       depth times
    energy, forces, stress: three heads, see `core.layers.heads`

a is an embedding, r the Cartesian position [Å] as given in the file. Atoms do not interact, and r depends on the
origin, the orientation and the choice of cell: the only symmetry of this model is that the order of atoms does not
matter. It learns effects of the composition, and accidental patterns of the coordinates.

The network of arXiv:2509.21811's code, with its seven published shapes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from matscale.plugin import (
    Architecture,
    ArchitectureConfig,
    AtomicBatch,
    BatchShape,
    DatasetInfo,
    DirectHeads,
    Outputs,
    Positive,
    closest,
    full_precision,
    graded,
    head_widths,
    hookimpl,
)


class FCNConfig(ArchitectureConfig):
    """Configuration of the per-atom network."""

    embedding: Positive = 60
    """Channels of the element embedding."""
    hidden: Positive = 108
    """Channels H of an atom."""
    depth: Positive = 8
    """Number of residual blocks."""
    head_width: Positive = 128
    """Channels of the last hidden layer of each head."""
    head_layers: Literal[2, 3] = 3
    """Number of linear layers of each head: 2 for hidden → head_width → out; 3 with hidden → hidden in front."""


class Block(nn.Module):
    """Block x + LeakyReLU(LayerNorm(Linear(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.activation = nn.LeakyReLU(0.01)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.activation(self.norm(self.linear(x)))
        return x + change


class FCN(nn.Module):
    """Model of energy, forces and stress from each atom's element and position, without interactions."""

    def __init__(self, config: FCNConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(119, config.embedding)  # row 0 is no element
        self.project = nn.Linear(config.embedding + 3, config.hidden)
        self.blocks = nn.Sequential(*(Block(config.hidden) for _ in range(config.depth)))
        self.heads = DirectHeads(head_widths(config.hidden, config.head_width, config.head_layers))

    def forward(self, data: AtomicBatch) -> Outputs:
        outputs: Outputs = self.heads(self.embed(data), data)
        return outputs

    def embed(self, data: AtomicBatch) -> Tensor:
        """Features of atoms, [n_atoms, H]: the input of the heads."""
        found: Tensor = self.blocks(self._inputs(data))
        return found

    @full_precision
    def _inputs(self, data: AtomicBatch) -> Tensor:
        """Inputs [n_atoms, H] in full precision: half precision would round coordinates by up to 0.06 Å."""
        found: Tensor = self.project(torch.cat([self.embedding(data.atomic_numbers), data.positions], dim=-1))
        return found


def build(config: FCNConfig, info: DatasetInfo) -> nn.Module:
    """Build the model. The facts in `info` have no effect."""
    return FCN(config)


def ladder(n_params: int) -> FCNConfig:
    """Choose a model with about `n_params` parameters: four blocks, and an embedding half as wide as `hidden`.

    Heads are as wide as `hidden`, up to 128.

    Then the width of the embedding is adjusted, so that the number of parameters is closer to `n_params`.
    """
    return closest(
        n_params,
        lambda dial: _shape(graded(dial), (graded(dial) + 1) // 2),
        build,
        fine=lambda config, embedding: _shape(config.hidden, embedding),
    )


def _shape(hidden: int, embedding: int) -> FCNConfig:
    return FCNConfig(embedding=embedding, hidden=hidden, depth=4, head_width=min(hidden, 128))


def step_flops(config: FCNConfig, shape: BatchShape) -> float:
    """FLOPs of a training step: three times the FLOPs of the forward.

    Each product of the forward has two of the same size in the backward, for the gradients of weights and inputs.
    """
    hidden = config.hidden
    forward = (config.embedding + 3) * hidden + config.depth * hidden * hidden
    forward += DirectHeads.multiply_adds(head_widths(hidden, config.head_width, config.head_layers))
    return 6.0 * shape.n_atoms * forward


SIZES = {
    f"ladder-{k:02}": FCNConfig(embedding=embedding, hidden=hidden, depth=depth)
    for k, (embedding, hidden, depth) in enumerate(
        [(8, 16, 2), (24, 48, 4), (60, 108, 8), (96, 192, 12), (128, 256, 15), (256, 512, 16), (384, 768, 18)], 1
    )
}
"""Numbers of non-embedding parameters: 9,434 · 38,298 · 181,278 · 655,050 · 1,325,706 · 5,338,250 · 13,024,650."""


@hookimpl
def register_architectures() -> list[Architecture]:
    return [
        Architecture(
            name="fcn",
            summary="Per-atom network on element and coordinates; atoms do not interact.",
            reference="arXiv:2509.21811",
            config=FCNConfig,
            build=build,
            ladder=ladder,
            dial="hidden channels (half as many in the embedding), 4 blocks",
            claims=frozenset({"permutation"}),
            forces="direct",
            sizes=SIZES,
            step_flops=step_flops,
            compiles=True,
        )
    ]
