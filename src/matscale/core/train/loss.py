"""Training objective: weighted terms for energy, forces and the two parts of the stress.

    objective = w_E mean_s e(ΔE_s / N_s) + w_F mean_i f(ΔF_i) + w_iso mean_s g(Δσ_iso) + w_aniso mean_s g(Δσ_aniso)

e, f and g are functions of the residuals Δ, such as a mean absolute error; s numbers structures, i atoms. Each term has
a weight and a kind, the name of a function that a plugin registers. The defaults are those of OMat24
(arXiv:2410.12771): 2.5 MAE, 20 L2 norm, 5 MAE, 5 MAE, here of residuals in eV/atom, eV/Å and eV/Å³. The six Voigt
components of a stress are split into an isotropic part (p, p, p, 0, 0, 0), with p a third of the trace, and the
anisotropic rest. Means are over the structures or atoms that have the label. Energies are compared in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from matscale.core.data.batch import AtomicBatch
from matscale.core.errors import ConfigError
from matscale.core.model.outputs import Outputs
from matscale.core.runs.config import LABEL_OF, TERMS, LossConfig
from matscale.core.train.metrics import Metrics, Sums
from matscale.core.train.residuals import Masks, residuals


@dataclass(frozen=True)
class Loss:
    """Loss function of residuals. Returned by the hook `register_losses`."""

    name: str
    summary: str
    per_item: Callable[[Tensor], Tensor]
    """Function that maps residuals [n, k], n items with k components each, to the loss of each item [n].

    The core takes the mean over the items.
    """


class Objective(Protocol):
    """Objective of training, given by a sum and a count for each term.

    Sums and counts of uneven batches, or of several processes, can be added without error.
    """

    @property
    def terms(self) -> Collection[str]:
        """Names of the terms."""

    def counts(self, batch: AtomicBatch) -> dict[str, int]:
        """Count the items of each term, before the model is run."""

    def sums(self, outputs: Outputs, batch: AtomicBatch) -> dict[str, Tensor]:
        """Sum each term over its items (float64 scalars); terms without items are left out."""

    def total(self, sums: Mapping[str, Tensor], counts: Mapping[str, float]) -> Tensor:
        """Compute the total loss from the sums and counts of a batch.

        With the counts of a larger batch, the result is the part that `sums` contribute to the loss of the larger
        batch.
        """

    def metrics(self, device: torch.device | str) -> Sums:
        """Make empty sums of the errors that go to metrics.jsonl."""


class LabelObjective:
    """Loss on labels, with the terms that the configuration sets. Each term is computed as a sum and a count."""

    def __init__(self, config: LossConfig, lookup: Callable[[str], Loss]) -> None:
        """Set up the terms. `lookup` returns a loss function by its name (`Host.loss`) and raises for unknown names."""
        self.config = config
        self.terms = {n: lookup(config.term(n).kind) for n in TERMS if config.term(n).weight > 0}

    def counts(self, batch: AtomicBatch) -> dict[str, int]:
        """Count the labelled items of each term, before the model is run."""
        masks = Masks.of(batch)
        return {name: masks.count(name) for name in self.terms}

    def sums(self, outputs: Outputs, batch: AtomicBatch) -> dict[str, Tensor]:
        """Sum each term over its labelled items, without its weight (float64 scalars).

        Terms without items are left out.

        Raises ConfigError for a term that has labels but is not predicted by the model.
        """
        found = residuals(outputs, batch)
        values = {}
        for name, loss in self.terms.items():
            residual = found[name]
            if residual is None and Masks.of(batch).count(name):
                raise ConfigError(
                    f"The model predicts no {LABEL_OF[name]}, but the loss has a term for {name}. "
                    f"Train without it: --set loss.{name}.weight=0"
                )
            if residual is not None and len(residual):
                values[name] = loss.per_item(residual).double().sum()
        return values

    def total(self, sums: Mapping[str, Tensor], counts: Mapping[str, float]) -> Tensor:
        """Total loss of a batch, Σ weight · sum / count over the terms.

        With the counts of a larger batch, the result is the part that `sums` contribute to the loss of the larger
        batch.
        """
        parts = [self.config.term(name).weight * value / counts[name] for name, value in sums.items()]
        return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)

    def metrics(self, device: torch.device | str) -> Metrics:
        """Make empty sums of the errors in physical units and of the loss that compares models."""
        return Metrics(device)
