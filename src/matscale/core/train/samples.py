"""Predictions for a few fixed validation structures at every validation, to show how a model learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from matscale.core.data.batch import AtomicBatch
from matscale.core.files import write_json
from matscale.core.model.outputs import Outputs
from matscale.core.runs.record import GEOMETRIES, Run
from matscale.core.train.distributed import World, on_main
from matscale.core.train.setup import Setup


class Samples:
    """Files of samples: structures with labels (samples.json), and predictions at every validation (samples.jsonl)."""

    def __init__(self, setup: Setup, run: Run, world: World) -> None:
        self.setup, self.run, self.world = setup, run, world
        # Samples show labels and their predictions, which pre-training does not have.
        rows, wanted = setup.validation, 0 if setup.pretext else setup.config.evaluation.samples
        places = np.unique(np.linspace(0, len(rows) - 1, min(wanted, len(rows))).astype(int))
        self.rows = rows[places]

    @on_main
    def write_structures(self) -> None:
        """Write geometry and labels, once."""
        if len(self.rows):
            write_json(self.run.path / GEOMETRIES, [self._geometry(int(row)) for row in self.rows])

    def _geometry(self, row: int) -> dict[str, Any]:
        s = self.setup.dataset.structure(row)
        labels = {"energy": s.energy, "forces": s.forces, "stress": s.stress}
        arrays = {"atomic_numbers": s.atomic_numbers, "positions": s.positions, "cell": s.cell, "pbc": s.pbc, **labels}
        return {"index": row, **{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in arrays.items()}}

    @on_main
    def record(self, step: int, predictor: Callable[[AtomicBatch], Outputs]) -> None:
        """Append the predictions after `step`."""
        if not len(self.rows):
            return
        batch = self.setup.dataset.batch(self.rows, self.setup.graph, self.setup.dtype)
        outputs = predictor(batch).detach()
        forces = None if outputs.forces is None else outputs.forces.split(batch.atoms_per_structure.tolist())
        predictions = [
            {
                "index": int(row),
                "energy": float(outputs.energy[k]),
                "forces": None if forces is None else forces[k].tolist(),
                "stress": None if outputs.stress is None else outputs.stress[k].tolist(),
            }
            for k, row in enumerate(self.rows)
        ]
        self.run.samples.append({"step": step, "predictions": predictions})
