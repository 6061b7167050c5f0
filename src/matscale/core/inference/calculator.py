"""ASE calculator for a trained Potential."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure, full_to_voigt
from matscale.core.errors import NonFinitePrediction
from matscale.core.inference.predict import Prediction, floating, predict_batch, prepare
from matscale.core.model.potential import Potential


class PotentialCalculator(Calculator):
    """ASE calculator of energy [eV] (= free_energy), forces [eV/Å] and stress [eV/Å³, Voigt xx yy zz yz xz xy].

    Neighbours are searched for every geometry. ASE's PropertyNotImplementedError is raised if the stress is requested,
    but the model predicts no stress, or the structure has no volume. A volume needs three lattice vectors and a
    periodic axis. An element that was not in the training data raises DataError; a prediction that is not finite raises
    NonFinitePrediction.
    """

    def __init__(self, potential: Potential, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.potential = potential.eval()
        self.has_stress = potential.derive or self._predicts_stress()
        self.implemented_properties = ["energy", "free_energy", "forces", *(["stress"] if self.has_stress else [])]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Set `results` to all predictions of the model. The arguments are those of ASE's Calculator."""
        super().calculate(atoms, properties, system_changes)
        self.results = {}
        found = self._predict(Structure.from_ase(self.atoms, source="atoms"))
        self.results = {"energy": found.energy, "free_energy": found.energy, "forces": found.forces}
        if found.stress is not None:
            self.results["stress"] = full_to_voigt(found.stress)
        elif "stress" in properties:
            raise PropertyNotImplementedError(
                "stress: it is defined only for structures with three lattice vectors and a periodic axis. Set a cell "
                "with a volume, and pbc."
            )

    def _predict(self, structure: Structure) -> Prediction:
        found = predict_batch(self.potential, [prepare(self.potential, structure)])[0]
        if not found.is_finite:
            raise NonFinitePrediction(
                f"atoms: the predictions for the structure ({structure.formula}, {len(structure)} atoms) are not "
                "finite. Look at its geometry: atoms may be too close to each other, or the dynamics may have blown up."
            )
        return found

    def _predicts_stress(self) -> bool:
        number = np.array([self.potential.elements[0]])
        atom = Structure(number, np.zeros((1, 3)), 10.0 * np.eye(3), np.ones(3, bool))
        batch = collate([atom], self.potential.graph, dtype=floating(self.potential))
        return predict_batch(self.potential, [batch])[0].stress is not None
