"""Branch: a run that starts from a checkpoint in the middle of another run and follows another schedule.

One long run at a constant learning rate (the trunk) and a cooldown from each of several of its checkpoints (the
branches) give the loss for several lengths of training, as separate runs of these lengths would (Hägele et al.,
arXiv:2405.18392). The FLOPs, structures and seconds of a branch include those of the trunk up to the step from which it
branches; run.json records the part that is shared with the trunk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from matscale.core.errors import ConfigError, DataError
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig, differences
from matscale.core.runs.files import RESUMABLE
from matscale.core.runs.record import Run
from matscale.core.runs.resumable import check_state
from matscale.core.runs.trained_potential import resolve_step
from matscale.core.train.setup import Setup

MAY_DIFFER = (*RESUMABLE, "start", "schedule", "budget", "evaluation", "log_every", "data.path")
"""Keys in which a branch may differ from its trunk, since the steps of the trunk do not depend on them.

`Branch.check` compares the data themselves, by their hash.
"""


@dataclass(frozen=True)
class Branch:
    """Branch of a run: the trunk, and the checkpoint of the trunk from which the branch starts."""

    trunk: Run
    saved: checkpoint.Checkpoint

    @classmethod
    def of(cls, config: TrainConfig) -> Branch | None:
        """Find the trunk of the run that `config` describes; None if the run is not a branch.

        Raises ConfigError if trunk and branch differ in a key other than `MAY_DIFFER`.
        """
        if config.start.run is None or not config.start.branch:
            return None
        trunk = Run.open(config.start.run)
        changed = differences(trunk.config.plain(), config.plain())
        fixed = [k for k in changed if not any(k == m or k.startswith(m + ".") for m in MAY_DIFFER)]
        if fixed:
            listed = "; ".join(f"{k} is {changed[k][0]!r} in the trunk, {changed[k][1]!r} in the branch" for k in fixed)
            raise ConfigError(
                f"{trunk.path}: a branch of this run must have the same configuration ({listed}). Only these keys may "
                f"differ: {', '.join(MAY_DIFFER)}. To start from the weights alone, leave out start.branch."
            )
        step = resolve_step(trunk, config.start.checkpoint)
        folder = checkpoint.folder_of(trunk.checkpoint_folder, step)
        saved = checkpoint.load(folder)
        check_state(saved, folder)
        return cls(trunk, _forgetful(saved))

    def check(self, setup: Setup) -> None:
        """Check that the data are those of the trunk. Raises DataError if they are not."""
        was = self.trunk.info.get("dataset", {}).get("hash")
        if was != setup.dataset.hash:
            raise DataError(
                f"{setup.dataset.path}: has changed since the run {self.trunk.path} was trained on it (its hash was "
                f"{str(was)[:12]}, is {setup.dataset.hash[:12]}). Put the old dataset back, or train the trunk again."
            )

    def facts(self) -> dict[str, Any]:
        """Facts about the trunk, for run.json."""
        position, before = self.saved.state["position"], self.trunk.info.get("start") or {}
        spent = {"flops": before["flops"]} if "flops" in before else {}
        return {
            "start": {"run": str(self.trunk.path), "step": self.saved.step, "not_taken": {}, **spent},
            "flops_shared": position["flops"],
            "wall_s_shared": position["wall_s"],
        }


def _forgetful(saved: checkpoint.Checkpoint) -> checkpoint.Checkpoint:
    """Remove the trunk's validations from a checkpoint: the branch lacks the checkpoints of these validations."""
    position = {**saved.state["position"], "best": None, "validated": None, "since_best": 0}
    return replace(saved, state={**saved.state, "position": position})
