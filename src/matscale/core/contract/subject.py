"""Subject of the checks: an architecture, with a model whose weights have all been changed from their initial values.

Models are checked with perturbed weights, since a layer initialised with zeros would hide its faults, and inside a
potential with scales other than 1, so that a missing scale is noticed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from matscale.core.contract.structures import crystal
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.model.architecture import Architecture, ArchitectureConfig, DatasetInfo
from matscale.core.model.outputs import Outputs
from matscale.core.model.potential import Potential, Scales


class ContractError(AssertionError):
    """Error for an architecture that breaks the contract or one of its claims."""


class MalformedOutputs(ContractError):
    """Error for an architecture whose outputs have a wrong type, shape, dtype or device (values are not tested)."""


@dataclass(frozen=True)
class Subject:
    """Architecture under test, with its configuration and tolerance: the argument of every check."""

    architecture: Architecture
    config: ArchitectureConfig
    tolerance: float = 1e-6
    """Largest relative difference of values that should be equal in float64."""

    @property
    def claims(self) -> frozenset[str]:
        return self.architecture.claims_of(self.config)

    @property
    def derives(self) -> bool:
        """Whether the core derives forces and stress from the energy."""
        return self.architecture.derives_forces(self.config)

    def fresh(self, seed: int = 0, info: DatasetInfo | None = None) -> Potential:
        """Potential with initial weights, as at the start of training."""
        scales = Scales(energy=1.7, forces=2.3, stress=0.4)
        return Potential.of(self.architecture, self.config, info or DatasetInfo.any(), seed, scales=scales)

    def perturbed(self, seed: int = 0) -> Potential:
        """Potential with noise on all parameters, in float64 and evaluation mode."""
        potential = self.fresh(seed).double().eval()
        generator = torch.Generator().manual_seed(1 + seed)
        with torch.no_grad():
            for parameter in potential.parameters():
                noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
                parameter.add_(noise * _amplitude(parameter))
        return potential

    @cached_property
    def potential(self) -> Potential:
        """Potential for predictions in checks, made at first use; every check has its own."""
        return self.perturbed()

    def batch(self, *structures: Structure, dtype: torch.dtype = torch.float64) -> AtomicBatch:
        """Make a batch of structures with this architecture's edges; elements beyond its heaviest are replaced."""
        heaviest = self.architecture.max_atomic_number
        known = [replace(s, atomic_numbers=(s.atomic_numbers - 1) % heaviest + 1) for s in structures]
        return collate(known, self.architecture.graph(self.config), dtype)

    def predict(self, *structures: Structure) -> Outputs:
        """Predict `structures`, as one batch, with `potential`; outputs are detached from autograd."""
        return self.evaluate(self.batch(*structures))

    @cached_property
    def sizes(self) -> dict[str, float]:
        """Magnitudes of energy, forces and stress of an ordinary crystal, by name."""
        ordinary = self.predict(crystal())
        values = {"energy": ordinary.energy, "forces": ordinary.forces, "stress": ordinary.stress}
        return {name: value.abs().max().item() for name, value in values.items() if value is not None}

    def require_same(self, found: Outputs, expected: Outputs, what: str, tolerance: float | None = None) -> None:
        """Raise ContractError if energy, forces or stress differ by more than the tolerance."""
        for name, size in self.sizes.items():
            a, b = getattr(found, name), getattr(expected, name)
            limit = self.tolerance if tolerance is None else tolerance
            require_equal(a, b, limit, f"{what}: {name}", max(size, 1e-6))

    def evaluate(self, batch: AtomicBatch) -> Outputs:
        """Predict `batch` with `potential`; outputs are detached from autograd."""
        with torch.no_grad():
            outputs: Outputs = self.potential(batch)
            return outputs.detach()


def _amplitude(parameter: Tensor) -> float:
    """Amplitude of the noise on a parameter: 0.2 of its rms, plus 0.3/√fan-in for a matrix or 0.1 for a vector."""
    rms = float(parameter.square().mean().sqrt())
    return 0.2 * rms + (0.3 / parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else 0.1)


def require(condition: bool | Tensor, message: str) -> None:
    """Raises ContractError unless the condition holds."""
    if not bool(condition):
        raise ContractError(message)


def require_equal(found: Tensor, expected: Tensor, tolerance: float, what: str, size: float = 1e-6) -> None:
    """Raises ContractError if the largest difference is more than `tolerance` times the largest expected value.

    `size` replaces the largest expected value if that is smaller, as for forces in a perfect crystal.
    """
    require(found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}.")
    # NaN (a stress without a volume) is only equal to NaN.
    require(torch.equal(found.isnan(), expected.isnan()), f"{what}: only one of the two values is NaN.")
    difference = (found - expected).nan_to_num().abs().max().item()
    size = max(expected.nan_to_num().abs().max().item(), size)
    require(
        difference <= tolerance * size,
        f"{what}: values of up to {size:.3g} differ by {difference:.3g} (largest allowed ratio: {tolerance:g}).",
    )
