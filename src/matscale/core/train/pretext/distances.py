"""Pre-training on distances: predict the minimum-image distance of two atoms from their embeddings.

    h_i = P embed(batch)_i,     d_ij = mean + spread · MLP((h_i + h_j) ⊕ (h_i − h_j)²)

P is a linear layer, and ⊕ concatenates. The model needs a method `embed(batch)` that returns features of atoms before
the output heads, [n_atoms, width]. Each atom is paired with `partners` others of its structure, evenly spread in the
order of the atoms; in a small structure these are all others, some more than once. The head is only used in
pre-training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import minimum_image_distance
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.layers.heads import mlp
from matscale.core.model.layers.padding import Padding
from matscale.core.model.outputs import Outputs
from matscale.core.model.potential import Potential
from matscale.core.runs.config import PretrainConfig
from matscale.core.train.pretext.base import Pretext

HIDDEN = 64
"""Channels of the pair head."""
_SAMPLE = 256
"""Number of structures whose distances give the mean and the spread."""


class Distances(Pretext):
    """Distance task: predict minimum-image distances of pairs of atoms. The trivial guess is their mean."""

    term, guess = "distance", "mean"

    def __init__(self, partners: int, mean: float, spread: float) -> None:
        """Set `mean` and `spread` [Å] of the distances in the training part."""
        super().__init__(spread)
        self.partners, self.mean = partners, mean

    @classmethod
    def of(cls, config: PretrainConfig, dataset: PackedDataset, rows: NDArray[np.int64]) -> Self:
        assert config.partners is not None
        sample = rows[np.unique(np.linspace(0, len(rows) - 1, _SAMPLE).astype(int))]
        batch = dataset.batch(sample, dtype=torch.float64)
        i, j = others(*pairs(batch, config.partners))
        if not len(i):
            raise ConfigError(
                f"{dataset.path}: all training structures have a single atom, so there are no distances. "
                "Pre-training on distances needs structures of several atoms."
            )
        distance = minimum_image_distance(batch, i, j)
        spread = float(distance.std(unbiased=False))
        return cls(config.partners, float(distance.mean()), spread if spread > 1e-6 else 1.0)

    def around(self, potential: Potential, architecture: str, example: AtomicBatch) -> Potential:
        if not hasattr(potential.model, "embed"):
            raise ConfigError(
                f"{architecture}: has no embeddings of atoms (a method embed), from which distances could be "
                f"predicted. Architectures that have them: {', '.join(_embedding())}. Or use --pretrain denoise, "
                "which any architecture can learn."
            )
        reader = DistanceReader.around(potential)
        with torch.no_grad():
            width = embeddings(potential.eval(), example).shape[1]
        potential.train()
        reader.pretext = PairHead(width, self.mean, self.spread)
        reader.partners = self.partners
        return reader

    def compared(self, outputs: Outputs, batch: AtomicBatch) -> tuple[Tensor, Tensor]:
        i, j = pairs(batch, self.partners)
        true = minimum_image_distance(batch, *others(i, j))
        return outputs.extras["distance"][i != j][:, None], true[:, None]

    def n_items(self, batch: AtomicBatch) -> int:
        return len(others(*pairs(batch, self.partners))[0])


def pairs(batch: AtomicBatch, partners: int) -> tuple[Tensor, Tensor]:
    """Choose pairs of atoms within structures: indices i and j, each [n_atoms · partners].

    All atoms have equally many partners, so that the cost per atom is constant. A single atom is paired with itself;
    such pairs do not count in the loss.
    """
    n_others = (batch.atoms_per_structure - 1)[batch.batch][:, None]  # [n_atoms, 1]
    k = torch.arange(partners, device=batch.batch.device)
    few = 1 + k % n_others.clamp(min=1)
    steps = torch.where(n_others > partners, 1 + k * n_others // partners, torch.where(n_others > 0, few, 0))
    rank = Padding.of(batch).rank[:, None]
    number = torch.arange(batch.n_atoms, device=batch.batch.device)[:, None]
    j = number - rank + (rank + steps) % (n_others + 1)
    return number.expand_as(j).flatten(), j.flatten()


def others(i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Drop pairs of an atom with itself."""
    return i[i != j], j[i != j]


class PairHead(nn.Module):
    """Head that predicts the distance [Å] of two atoms from their embeddings, symmetric in the two."""

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int, mean: float, spread: float) -> None:
        super().__init__()
        self.project = nn.Linear(width, HIDDEN)
        self.pair = mlp((2 * HIDDEN, HIDDEN, 1))
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("spread", torch.tensor(spread))

    def forward(self, x: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Predict distances [n_pairs] from embeddings `x` [n_atoms, width] and indices `i`, `j` [n_pairs] of atoms."""
        h = self.project(x)
        a, b = h.index_select(0, i), h.index_select(0, j)
        found: Tensor = self.pair(torch.cat([a + b, (a - b).square()], dim=-1)).squeeze(-1)
        return self.mean + self.spread * found


class DistanceReader(Potential):
    """Potential that runs the pair head on its embeddings, without its own output heads."""

    pretext: PairHead
    partners: int

    def forward(self, batch: AtomicBatch) -> Outputs:
        i, j = pairs(batch, self.partners)
        distance = self.pretext(embeddings(self, batch), i, j).to(batch.positions.dtype)
        nothing = torch.zeros(batch.n_structures, dtype=torch.float64, device=distance.device)
        return Outputs(energy=nothing, extras={"distance": distance})


def embeddings(potential: Potential, batch: AtomicBatch) -> Tensor:
    """Embeddings [n_atoms, width] of a model that has them."""
    embed = cast(Callable[[AtomicBatch], Tensor], potential.model.embed)
    return embed(batch)


def _embedding() -> list[str]:
    """Names of architectures whose models have embeddings, except models that need data to be built."""
    from matscale.core.hosting.host import host  # start-up: plugins

    names = []
    for architecture in host().architectures():
        try:
            with torch.device("meta"):
                model = architecture.build(architecture.ladder(10_000), DatasetInfo.any())
        except Exception:  # a plugin may raise any error, and this list is only advice
            continue
        if hasattr(model, "embed"):
            names.append(architecture.name)
    return names
