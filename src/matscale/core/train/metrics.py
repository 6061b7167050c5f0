"""Metrics: errors in physical units and the loss that compares models, as exact sums and counts.

A mean over a dataset is (Σ over items) / (number of items) and does not depend on the batches: sums and counts are
added in float64, over batches and processes, and divided once.

| key | unit | mean over |
|---|---|---|
| energy_mae, energy_rmse | eV/atom | structures |
| forces_mae, forces_rmse | eV/Å | components |
| forces_l2 | eV/Å | atoms: length of the error |
| forces_cos | | atoms: cosine between prediction and label |
| stress_mae, stress_isotropic_mae, stress_anisotropic_mae | eV/Å³ | structures, over six Voigt slots |
| loss_energy, loss_forces, loss_stress_isotropic, loss_stress_anisotropic | | OMat24's weight × the term |
| loss | | their sum: the loss that is compared, the same for every architecture |

If no structure has a certain label, the keys of this label are absent and `loss` is the sum of the other terms. A model
that does not predict one of the labels (a direct model without stress) has no `loss`, because its loss could not be
compared with that of others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from matscale.core.data.batch import AtomicBatch
from matscale.core.model.outputs import Outputs
from matscale.core.runs.config import LossConfig
from matscale.core.train.residuals import Masks, residuals

SUMS = (
    "energy_mae",
    "energy_rmse",
    "forces_mae",
    "forces_rmse",
    "forces_l2",
    "forces_cos",
    "stress_mae",
    "stress_isotropic_mae",
    "stress_anisotropic_mae",
    "unpredicted",  # no mean: counts of labelled atoms and structures without a prediction
)
"""Metrics by their place in the sums."""
_COMPARED = {
    "energy": "energy_mae",
    "forces": "forces_l2",
    "stress_isotropic": "stress_isotropic_mae",
    "stress_anisotropic": "stress_anisotropic_mae",
}
"""Metric in each term of the loss that compares models. The weights of the terms are the defaults of `LossConfig`."""


class Sums(ABC):
    """Running sums and counts: call `update` with every batch, then `values`."""

    def __init__(self, n: int, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(n, 2, dtype=torch.float64, device=device)
        """Sum and count of each metric, [n, 2]."""

    @abstractmethod
    def update(self, outputs: Outputs, batch: AtomicBatch) -> None:
        """Add the errors of a batch."""

    @abstractmethod
    def values(self) -> dict[str, float]:
        """Compute the mean of each metric, by its key."""

    def state(self) -> list[list[float]]:
        """Exact, JSON-ready state of the sums."""
        rows: list[list[float]] = self.sums.tolist()
        return rows

    def load(self, state: Sequence[Sequence[float]]) -> None:
        """Load the sums from the result of `state`."""
        self.sums.copy_(torch.tensor(state, dtype=torch.float64))


class Metrics(Sums):
    """Running sums of the errors of energy, forces and stress."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__(len(SUMS), device)

    @torch.no_grad()
    def update(self, outputs: Outputs, batch: AtomicBatch) -> None:
        """Add the errors of a batch. Structures and atoms without a label are left out."""
        found = residuals(outputs, batch)
        zero = self.sums.new_zeros(())
        rows: list[tuple[Tensor, int]] = [(zero, 0)] * len(SUMS)
        if found.energy is not None:
            e, n = found.energy.double(), len(found.energy)
            rows[0:2] = [(e.abs().sum(), n), (e.square().sum(), n)]
        if found.forces is not None:
            f, n = found.forces.double(), len(found.forces)
            cosine = _cosines(outputs, batch).sum()
            rows[2:4] = [(f.abs().sum(), 3 * n), (f.square().sum(), 3 * n)]
            rows[4:6] = [(torch.linalg.vector_norm(f, dim=1).sum(), n), (cosine, n)]
        if found.stress_isotropic is not None and found.stress_anisotropic is not None:
            iso, aniso = found.stress_isotropic.double(), found.stress_anisotropic.double()
            rows[6:9] = [(part.abs().mean(dim=1).sum(), len(iso)) for part in (iso + aniso, iso, aniso)]
        masks, silent = Masks.of(batch), [k for k in ("forces", "stress") if getattr(outputs, k) is None]
        rows[9] = (zero + sum(int(mask.sum()) for k in silent if (mask := getattr(masks, k)) is not None), 0)
        counts = torch.tensor([float(n) for _, n in rows], dtype=torch.float64)
        sums = torch.stack([value for value, _ in rows])
        self.sums += torch.stack([sums, counts.to(sums.device)], dim=1)

    def values(self) -> dict[str, float]:
        """Compute the metrics in the table at the top of this module, by their keys."""
        pairs = zip(SUMS, self.sums.tolist())
        means = {name: total / count for name, (total, count) in pairs if count > 0}
        for name in means:
            if name.endswith("_rmse"):
                means[name] = means[name] ** 0.5
        weights = LossConfig()
        terms = {f"loss_{t}": weights.term(t).weight * means[key] for t, key in _COMPARED.items() if key in means}
        comparable = bool(terms) and self.sums[-1, 0] == 0
        return {**({"loss": sum(terms.values())} if comparable else {}), **terms, **means}


@torch.no_grad()
def by_item(outputs: Outputs, batch: AtomicBatch) -> tuple[Tensor, Tensor]:
    """Sums and counts of `Metrics` item by item, for errors of parts of a dataset; 0 where a label is missing.

    Returns values for structures (energy, stress) [n_structures, n, 2], and for atoms (forces) [n_atoms, n, 2]. Sums
    over some of the items, given to `Metrics.load`, are the metrics of these items.
    """
    found, masks = residuals(outputs, batch), Masks.of(batch)
    of_structures, of_atoms = (
        torch.zeros(n, len(SUMS), 2, dtype=torch.float64, device=batch.positions.device)
        for n in (batch.n_structures, batch.n_atoms)
    )

    def put(items: Tensor, mask: Tensor | None, first: int, columns: Sequence[Tensor], counts: Sequence[int]) -> None:
        places = slice(first, first + len(columns))
        items[mask, places, 0] = torch.stack(list(columns), dim=1)
        items[mask, places, 1] = torch.tensor(counts, dtype=items.dtype, device=items.device)

    if found.energy is not None:
        e = found.energy[:, 0].double()
        put(of_structures, masks.energy, 0, (e.abs(), e.square()), (1, 1))
    if found.forces is not None:
        f = found.forces.double()
        sums = (f.abs().sum(dim=1), f.square().sum(dim=1), torch.linalg.vector_norm(f, dim=1), _cosines(outputs, batch))
        put(of_atoms, masks.forces, 2, sums, (3, 3, 1, 1))
    if found.stress_isotropic is not None and found.stress_anisotropic is not None:
        iso, aniso = found.stress_isotropic.double(), found.stress_anisotropic.double()
        means = [part.abs().mean(dim=1) for part in (iso + aniso, iso, aniso)]
        put(of_structures, masks.stress, 6, means, (1, 1, 1))
    if outputs.forces is None and masks.forces is not None:
        of_atoms[masks.forces, -1, 0] = 1.0
    if outputs.stress is None and masks.stress is not None:
        of_structures[masks.stress, -1, 0] = 1.0
    return of_structures, of_atoms


def _cosines(outputs: Outputs, batch: AtomicBatch) -> Tensor:
    """Cosine between predicted and labelled force, for each atom with a label."""
    mask = Masks.of(batch).forces
    assert mask is not None
    assert outputs.forces is not None
    assert batch.forces is not None
    predicted, label = outputs.forces[mask].double(), batch.forces[mask].double()
    return torch.nn.functional.cosine_similarity(predicted, label, dim=1)
