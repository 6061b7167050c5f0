"""Check before training that the stress is in eV/Å³.

Training would not fail with a stress that is 160 times too large, so wrong units are detected from the labels.

Stress has no natural size: compressed crystals reach 11 eV/Å³ in MPtrj, relaxed ones 1e-4. Two numbers tell units
apart. (1) The ratio of the shear virial to the forces, for each structure of N atoms with volume V and stress σ,

    R = ‖dev σ‖_F V / (f d √N),    f = rms norm of the forces, d = (V/N)^(1/3)

where dev σ is the traceless part of the stress. The lower quartile of R over a dataset is 0.1 to 0.5 for dynamics, for
rattled and for relaxing structures of any density. Strained perfect crystals have large R (21 for elastic data of
Ni-Mo), so that R alone is not enough. (2) The virial per atom, |σ|_max V/N [eV/atom]: its median is 0.03 to 6 in data
of all kinds, about the size of cohesive energies. Both numbers are 160 times larger if the stress is in GPa, and 1602
times larger if it is in kbar. Data are refused if R is above 8 and the median virial above 4 eV/atom, or, without
forces, if the median virial is above 60 eV/atom. Calibrated on six public sets (MatterSim's three of MPtrj and MPF, its
Alexandria set, mlearn, Nb-Mo-Ta-W, Ni-Mo), each with its stress in eV/Å³, in GPa and in kbar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.errors import DataError

if TYPE_CHECKING:
    from matscale.core.data.store.packed import PackedDataset

SAMPLE = 2000
"""Largest number of structures in which the stress is examined."""
_MIN_FORCE = 1e-3
"""Least rms force [eV/Å] of a structure for which R is computed; smaller forces are rounding errors."""


def check_stress(dataset: PackedDataset, indices: Any) -> None:
    """Raises DataError if the stress of the structures at `indices` looks like GPa or kbar.

    The top of this module describes how this is detected.
    """
    indices = np.asarray(indices)
    indices = indices[dataset.has("stress")[indices]]
    sample = indices[np.linspace(0, len(indices) - 1, min(SAMPLE, len(indices))).astype(int)]
    if not len(sample):
        return
    shear, virial = stress_numbers(dataset, sample)
    typical = float(np.median(virial)) if len(virial) else 0.0
    quartile = float(np.quantile(shear, 0.25)) if len(shear) else None
    if typical <= 4 or (typical <= 60 if quartile is None else quartile <= 8):
        return
    compared = "there are no forces to compare it with" if quartile is None else (
        f"relative to the forces it is {quartile:.3g} (a quarter of the structures have less; 0.1 to 0.5 is usual)"
    )  # fmt: skip
    raise DataError(
        f"{dataset.path}: the stress looks like GPa or kbar, not eV/Å³: stress × volume is {typical:.3g} eV per atom "
        f"(median; 0.03 to 6 is usual), and {compared}. Divide by 160.21766 (GPa) or 1602.1766 (kbar; VASP's sign is "
        "the opposite of ASE's as well) and pack again, or train without stress. If it is in eV/Å³, switch this check "
        "off: --set data.check_stress_unit=false."
    )


def stress_numbers(dataset: PackedDataset, indices: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute R and |σ|_max V/N [eV/atom], which the top of this module defines, for the structures at `indices`.

    Structures without a volume are left out. R is also left out for structures whose forces are only rounding errors.
    """
    forces, stress = dataset.labels(indices)
    geometry = dataset.batch(indices)
    counts = geometry.atoms_per_structure.numpy()
    volume = geometry.volume().double().numpy()
    squares = np.zeros(len(counts))
    np.add.at(squares, geometry.batch.numpy(), (forces.astype(np.float64) ** 2).sum(axis=1))
    force = np.sqrt(squares / counts)
    shear = stress - np.trace(stress, axis1=1, axis2=2)[:, None, None] / 3 * np.eye(3)
    size = np.linalg.norm(shear, axis=(1, 2)) * volume
    solid = volume > 0
    compared = solid & (force > _MIN_FORCE)
    ratio = size[compared] / (force * np.cbrt(volume / counts) * np.sqrt(counts))[compared]
    return ratio, (np.abs(stress).max(axis=(1, 2)) * volume / counts)[solid]
