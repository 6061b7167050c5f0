r"""Normalizers and element references of fairchem's models, which convert outputs to physical units.

    E = rmsd_E · model + Σ_atoms reference(Z),    F = rmsd_F · model,    σ_part = rmsd_part · model + mean_part

so `references` and `scales` of the Potential take the values for energy and forces. A stress head takes the scale and
shift of its two parts. If forces (and stress) are derivatives of the model's energy, their scale must equal that of the
energy.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matscale.core.errors import DataError
from matscale.core.fairchem.checkpoint import FairchemCheckpoint
from matscale.core.model.potential import Scales

_TARGETS = {"target": "energy", "grad_target": "forces"}
"""Names of normalizers in new files, by their names in old ones."""
_DIRECT = ("energy", "forces", "stress_isotropic", "stress_anisotropic")
_DERIVED = ("energy", "forces", "stress")


def normalisers(checkpoint: FairchemCheckpoint, *, derived: bool) -> tuple[Scales, Tensor]:
    """Read the scales of energy [eV], forces [eV/Å], stress [eV/Å³], and scale and shift of both stress parts [2, 2].

    The scale of the stress is that of its anisotropic part; scales and shifts of the parts are relative to it.
    `derived` says that forces and stress are derivatives. Raises DataError for a normalizer that is unknown or cannot
    be expressed in a Potential.
    """
    path, known = checkpoint.path, _DERIVED if derived else _DIRECT
    found = {_TARGETS.get(name, name): value for name, value in checkpoint.section("normalizers").items()}
    if unknown := sorted(set(found) - set(known)):
        raise DataError(f"{path}: unknown normalizer {unknown[0]!r}. Known: {', '.join(known)}.")
    pairs = {name: _scale_and_shift(path, name, found.get(name, {})) for name in known}
    for name in ("energy", "forces", "stress") if derived else ("energy", "forces"):
        if pairs[name][1]:
            raise DataError(
                f"{path}: the normalizer of {name} adds {pairs[name][1]:g}, once for each "
                f"{'structure' if name == 'energy' else 'component'}. Such a model is not extensive or not equivariant "
                "and is not imported."
            )
    energy = pairs["energy"][0]
    if derived:
        _check_derivatives(path, energy, {name: pairs[name][0] for name in known if name in found or name == "forces"})
        return Scales(energy=energy), torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    stress = pairs["stress_anisotropic"][0]
    parts = torch.tensor([pairs["stress_isotropic"], pairs["stress_anisotropic"]], dtype=torch.float64) / stress
    return Scales(energy=energy, forces=pairs["forces"][0], stress=stress), parts


def _check_derivatives(path: Path, energy: float, scales: dict[str, float]) -> None:
    for name, scale in scales.items():
        if not math.isclose(scale, energy, rel_tol=1e-6):
            raise DataError(
                f"{path}: the scale of the energy is {energy:g}, that of the {name} {scale:g}. The model derives the "
                f"{name} from its energy, so both scales must be equal. Such a model is not imported."
            )


def _scale_and_shift(path: Path, name: str, values: dict[str, Any]) -> tuple[float, float]:
    known = {"rmsd", "std", "mean"}
    if not isinstance(values, dict) or set(values) - known:
        raise DataError(f"{path}: the normalizer of {name} has other entries than {', '.join(sorted(known))}.")
    scale, shift = _number(values.get("rmsd", values.get("std", 1.0))), _number(values.get("mean", 0.0))
    if not (0 < scale < math.inf and math.isfinite(shift)):
        raise DataError(f"{path}: the normalizer of {name} is {values!r}: a positive scale and a shift are expected.")
    return scale, shift


def _number(value: Any) -> float:
    """Value of a tensor of one element or of a plain number; NaN for anything else."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    return float(value) if isinstance(value, float | int) else math.nan


def references(checkpoint: FairchemCheckpoint, max_atomic_number: int) -> tuple[Tensor, tuple[int, ...]]:
    """Read the element references [119] eV, and list the elements that have one (all elements if the file has none)."""
    found = checkpoint.section("elementrefs")
    if unknown := sorted(set(found) - {"energy"}):
        raise DataError(f"{checkpoint.path}: has element references of {unknown[0]!r}; only the energy may have them.")
    table = range(1, max_atomic_number + 1)
    if not found:
        return torch.zeros(119), tuple(table)
    values = checkpoint.section("elementrefs", "energy").get("element_references")
    if not isinstance(values, Tensor) or values.dim() != 1 or len(values) > 119 or not values.isfinite().all():
        raise DataError(
            f"{checkpoint.path}: elementrefs.energy is not a row of at most 119 finite energies by element."
        )
    row = torch.zeros(119, dtype=torch.float64)
    row[: len(values)] = values.double()
    return row, tuple(z for z in table if row[z] != 0) or tuple(table)
