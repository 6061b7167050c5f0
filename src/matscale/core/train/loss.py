"""The training objective: weighted terms for energy, forces and the two parts of the stress.

    objective = w_E mean_s e(ΔE_s / N_s) + w_F mean_i f(ΔF_i) + w_iso mean_s g(Δσ_iso) + w_aniso mean_s g(Δσ_aniso)

Each term has a weight and a kind, chosen by name from what plugins register. The defaults are those of OMat24
(arXiv:2410.12771): 2.5 MAE, 20 L2 norm, 5 MAE, 5 MAE, here in physical units. A stress is taken apart over its six
Voigt slots: isotropic (p, p, p, 0, 0, 0) with p a third of the trace, anisotropic the rest. Structures (atoms)
without the label are left out of sum and count alike. Energies are compared in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from matscale.core.config import Config
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.structure import VOIGT
from matscale.core.errors import ConfigError
from matscale.core.model.outputs import Outputs

if TYPE_CHECKING:
    from matscale.core.train.metrics import Metrics

TERMS = ("energy", "forces", "stress_isotropic", "stress_anisotropic")
LABEL_OF = {"energy": "energy", "forces": "forces", "stress_isotropic": "stress", "stress_anisotropic": "stress"}
"""Term -> the label that it needs."""


@dataclass(frozen=True)
class Loss:
    """A way to turn residuals into a loss. Returned by the hook `register_losses`."""

    name: str
    summary: str
    per_item: Callable[[Tensor], Tensor]
    """Residuals [n, k] of n items with k components each -> [n]; the mean over items is taken by the core."""


class Term(Config):
    weight: Annotated[float, Field(ge=0)]
    """Factor in the objective; 0 leaves the term out."""
    kind: str
    """Name of a loss: mae, mse, huber, l2, or a plugin's."""


class EnergyTerm(Term):
    weight: Annotated[float, Field(ge=0)] = 2.5
    kind: str = "mae"


class ForcesTerm(Term):
    weight: Annotated[float, Field(ge=0)] = 20.0
    kind: str = "l2"


class StressTerm(Term):
    weight: Annotated[float, Field(ge=0)] = 5.0
    kind: str = "mae"


class LossConfig(Config):
    """OMat24's loss by default. Residuals are in eV/atom, eV/Å and eV/Å³."""

    energy: EnergyTerm = EnergyTerm()
    forces: ForcesTerm = ForcesTerm()
    stress_isotropic: StressTerm = StressTerm()
    stress_anisotropic: StressTerm = StressTerm()

    @model_validator(mode="after")
    def _something_to_learn(self) -> LossConfig:
        if not any(self.term(name).weight for name in TERMS):
            raise ValueError("every term has weight 0: nothing would be learned")
        return self

    def term(self, name: str) -> Term:
        """One of `TERMS`."""
        term: Term = getattr(self, name)
        return term

    def needs(self) -> set[str]:
        """Labels of the terms that count."""
        return {LABEL_OF[name] for name in TERMS if self.term(name).weight > 0}


@dataclass(frozen=True)
class Residuals:
    """Prediction minus label of every item that has the label, by term: [n, k]."""

    energy: Tensor | None
    forces: Tensor | None
    stress_isotropic: Tensor | None
    stress_anisotropic: Tensor | None

    def __getitem__(self, term: str) -> Tensor | None:
        found: Tensor | None = getattr(self, term)
        return found


@dataclass(frozen=True)
class Masks:
    """Which items have a label: [n_structures], [n_atoms], [n_structures]; None where the batch has none at all."""

    energy: Tensor | None
    forces: Tensor | None
    stress: Tensor | None

    @classmethod
    def of(cls, batch: AtomicBatch) -> Masks:
        """From the NaNs in the labels. A stress counts only where it is defined: in a cell with a volume."""
        stress = _complete(batch.stress)
        if stress is not None:
            stress = stress & batch.has_volume()
        return cls(_complete(batch.energy), _complete(batch.forces), stress)

    def count(self, term: str) -> int:
        """Items that have the label of `term`."""
        mask = getattr(self, LABEL_OF[term])
        return 0 if mask is None else int(mask.sum())


def _complete(label: Tensor | None) -> Tensor | None:
    return None if label is None else ~torch.isnan(label.reshape(len(label), -1)).any(dim=1)


def residuals(outputs: Outputs, batch: AtomicBatch) -> Residuals:
    """Prediction − label per term, for labelled items only: a missing label can reach neither value nor gradient."""
    masks = Masks.of(batch)
    energy = forces = isotropic = anisotropic = None
    if masks.energy is not None and batch.energy is not None:
        per_atom = (outputs.energy.double() - batch.energy.double()) / batch.atoms_per_structure.double()
        energy = per_atom[masks.energy][:, None]
    if masks.forces is not None and batch.forces is not None and outputs.forces is not None:
        forces = (outputs.forces - batch.forces)[masks.forces]
    if masks.stress is not None and batch.stress is not None and outputs.stress is not None:
        isotropic, anisotropic = decompose((outputs.stress - batch.stress)[masks.stress])
    return Residuals(energy, forces, isotropic, anisotropic)


def decompose(stress: Tensor) -> tuple[Tensor, Tensor]:
    """[n, 3, 3] -> isotropic and anisotropic parts [n, 6] each, in Voigt order xx yy zz yz xz xy; they add up."""
    voigt = torch.stack([0.5 * (stress[:, a, b] + stress[:, b, a]) for a, b in VOIGT], dim=1)
    pressure = voigt[:, :3].mean(dim=1, keepdim=True)
    isotropic = torch.cat([pressure.expand(-1, 3), torch.zeros_like(voigt[:, 3:])], dim=1)
    return isotropic, voigt - isotropic


class Objective:
    """The configured loss, as sums and counts per term, so that uneven batches and ranks add up exactly."""

    def __init__(self, config: LossConfig, lookup: Callable[[str], Loss]) -> None:
        """`lookup` finds a loss by name (`Host.loss`); it raises for unknown names."""
        self.config = config
        self.terms = {n: lookup(config.term(n).kind) for n in TERMS if config.term(n).weight > 0}

    def counts(self, batch: AtomicBatch) -> dict[str, int]:
        """Labelled items per term: known before the model has run."""
        masks = Masks.of(batch)
        return {name: masks.count(name) for name in self.terms}

    def sums(self, outputs: Outputs, batch: AtomicBatch) -> dict[str, Tensor]:
        """Unweighted sum over labelled items per term (float64 scalars); terms without items are left out.

        Raises ConfigError for a term that has labels and that the model does not predict.
        """
        found = residuals(outputs, batch)
        values = {}
        for name, loss in self.terms.items():
            residual = found[name]
            if residual is None and Masks.of(batch).count(name):
                raise ConfigError(
                    f"The model predicts no {LABEL_OF[name]}, but the loss weighs {name}. "
                    f"Train without it: --set loss.{name}.weight=0"
                )
            if residual is not None and len(residual):
                values[name] = loss.per_item(residual).double().sum()
        return values

    def total(self, sums: Mapping[str, Tensor], counts: Mapping[str, float]) -> Tensor:
        """Σ weight · sum / count. With the counts of a larger batch: this part's share of that batch's loss."""
        parts = [self.config.term(name).weight * value / counts[name] for name, value in sums.items()]
        return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)

    def metrics(self, device: torch.device | str) -> Metrics:
        """Errors in physical units, and the loss that is compared."""
        from matscale.core.train.metrics import Metrics  # which is made of what is above

        return Metrics(device)
