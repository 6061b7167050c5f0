"""Origin of a run: its own last checkpoint, the model of another run, a checkpoint of a trunk, or new weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from matscale.core.model.potential import Potential
from matscale.core.runs import checkpoint
from matscale.core.runs.record import Run
from matscale.core.train.origin.branch import Branch
from matscale.core.train.origin.resume import Say, check_same_data, latest
from matscale.core.train.origin.source import Source, prepare_model
from matscale.core.train.processes.world import World
from matscale.core.train.setup import Setup


@dataclass(frozen=True)
class Origin:
    """State from which training of `run` starts or goes on; `branch`, `source` and `saved` are None for new weights."""

    run: Run
    branch: Branch | None
    source: Source | None
    saved: checkpoint.Checkpoint | None = None
    """Newest sound checkpoint of the run itself, filled in by `resumed`."""

    @classmethod
    def of(cls, run: Run) -> Origin:
        """Find the origin that the configuration names. Raises ConfigError if it cannot be used."""
        return cls(run, Branch.of(run.config), Source.of(run.config.start))

    @property
    def checkpoint(self) -> checkpoint.Checkpoint | None:
        """Checkpoint from which training goes on, of the run itself or of its trunk; None for a start at step 0."""
        return self.saved or (self.branch.saved if self.branch else None)

    @property
    def rows(self) -> Mapping[str, Any]:
        """Numbers of rows in the run's files at the checkpoint `saved`."""
        rows: Mapping[str, Any] = self.saved.state["rows"] if self.saved else {}
        return rows

    def continued(self, setup: Setup) -> Setup:
        """Replace the references, scales and dataset facts of `setup` by those of the source (`Source.continued`)."""
        return self.source.continued(setup) if self.source else setup

    def potential(self, setup: Setup, say: Say) -> Potential:
        """Make a potential with new weights, or with those of the source."""
        return self.source.begin(setup, say) if self.source else setup.potential()

    def resumed(self, say: Say) -> Origin:
        """Find the newest sound checkpoint from which the run can go on; return an origin with this checkpoint."""
        saved = latest(self.run, say)
        if not saved and self.run.checkpoints():
            say(f"{self.run.path}: all its checkpoints are damaged. The run starts again from its beginning.")
        return replace(self, saved=saved)

    def settled(self, setup: Setup, potential: Potential, device: torch.device, world: World, say: Say) -> Setup:
        """Prepare `setup` and `potential` for the first step, and return the setup.

        A new run measures the factors that the model needs. A run with a source corrects its element references.
        """
        if not self.checkpoint:
            prepare_model(potential, setup, device)
        if self.source and self.saved:
            return self.source.resumed(setup, self.saved.model["references"])
        return self.source.corrected(setup, potential, device, world, say) if self.source else setup

    def check_data(self, setup: Setup) -> None:
        """Check that the dataset is unchanged. Raises DataError if a resumed run or a branch would use another one."""
        if self.saved or "dataset" in self.run.info:
            check_same_data(self.run, setup)
        if self.branch:
            self.branch.check(setup)

    def facts(self, potential: Potential) -> dict[str, Any]:
        """Facts about the run from which this one starts, for run.json."""
        if self.branch:
            return self.branch.facts()
        return {"start": self.source.facts(potential)} if self.source else {}
