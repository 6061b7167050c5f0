"""Pre-training by denoising: atoms are displaced at random, and the model's forces learn to point back.

    r' = r + ε,   ε ~ N(0, σ²), its mean over a structure is 0;     forces(r') -> −ε [Å], read as eV/Å

Any architecture can learn this task. Direct forces are trained as outputs; forces by derivative are trained through the
energy, which gets its minimum at the original positions. The learned forces resemble springs. Zaidi et al.,
arXiv:2206.00133.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from matscale.core.data.augment import Noise
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError
from matscale.core.model.outputs import Outputs
from matscale.core.model.potential import Potential, Scales
from matscale.core.runs.config import PretrainConfig
from matscale.core.train.pretext.base import Pretext


class Denoise(Pretext):
    """Denoising task: forces learn to equal minus the displacement of every atom. The trivial guess is zero."""

    term, guess = "noise", "zero"

    def __init__(self, sigma: float) -> None:
        """Set the standard deviation `sigma` [Å] of each component of the noise."""
        super().__init__(sigma)
        self.noise = Noise(sigma)

    @classmethod
    def of(cls, config: PretrainConfig, dataset: PackedDataset, rows: NDArray[np.int64]) -> Self:
        assert config.sigma is not None
        if not (dataset.n_atoms[rows] > 1).any():
            raise ConfigError(
                f"{dataset.path}: all training structures have a single atom, which noise cannot displace relative to "
                "others. Denoising needs structures of several atoms."
            )
        return cls(config.sigma)

    @property
    def scales(self) -> Scales:
        return Scales(energy=self.spread, forces=self.spread)

    def around(self, potential: Potential, architecture: str, example: AtomicBatch) -> Potential:
        return Denoiser.around(potential)

    def compared(self, outputs: Outputs, batch: AtomicBatch) -> tuple[Tensor, Tensor]:
        assert outputs.forces is not None
        assert batch.forces is not None
        several = self._displaced(batch)
        return outputs.forces[several], batch.forces[several]

    def n_items(self, batch: AtomicBatch) -> int:
        return int(self._displaced(batch).sum())

    @staticmethod
    def _displaced(batch: AtomicBatch) -> Tensor:
        """Whether each atom [n_atoms] is displaced; the only atom of a structure is not (its noise equals the mean)."""
        return (batch.atoms_per_structure > 1)[batch.batch]


class Denoiser(Potential):
    """Potential that is trained by its forces only."""

    def forward(self, batch: AtomicBatch) -> Outputs:
        outputs = super().forward(batch)
        return Outputs(energy=outputs.energy.detach(), forces=outputs.forces)
