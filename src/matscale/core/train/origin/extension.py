"""Extension of a run to a larger budget.

If the schedule permits it, the result equals that of a run that had the larger budget from its start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matscale.core.errors import ConfigError
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import Kept, Run
from matscale.core.runs.resumable import check_training_state
from matscale.core.train.optimizer.schedule import Budget


def continues(kept: Kept, config: TrainConfig) -> bool:
    """Whether all steps up to the checkpoint `kept` would be the same with the budget of `config`."""
    was = kept.config
    if _limits(was) == _limits(config):
        return True
    if was.schedule.kind == "cosine":
        return False
    position = kept.state["position"]
    for one in (was, config):
        budget = _budget(one, was, kept.state)
        done = budget.progress(position["step"], position["wall_s"], position["flops"])
        if done < budget.warmup(one.schedule.warmup):
            return False
        if one.schedule.kind == "wsd" and one.schedule.decay and done > 1 - one.schedule.decay + 1e-9:
            return False
    return True


def _limits(config: TrainConfig) -> dict[str, Any]:
    """Limits of a budget, except the time limit, which may differ in every session."""
    return {key: value for key, value in config.budget.plain().items() if key != "max_time"}


def _budget(config: TrainConfig, was: TrainConfig, state: dict[str, Any]) -> Budget:
    """Budget of `config` in steps. Epochs are converted with the number of steps per epoch that the run counted."""
    epochs, counted = config.budget.epochs, state.get("steps_of_epochs")
    if epochs is None:
        steps = None
    elif counted is not None and was.budget.epochs is not None:
        steps = round(counted * epochs / was.budget.epochs)
    else:  # an older checkpoint, or one of a run whose epochs were no limit: as many as an epoch had so far
        steps = round(state["position"]["step"] * epochs / max(state["position"]["epoch"], 1))
    return Budget.of(config.budget, steps)


def check(run: Run, config: TrainConfig) -> None:
    """Check that the run can go on from a checkpoint with the budget of `config`.

    Raises ConfigError with advice if it cannot.
    """
    stories = [kept for step in run.checkpoints() if (kept := _kept(run.checkpoint_folder, step)) is not None]
    if stories and not any(continues(kept, config) for kept in stories):
        raise refusal(run, stories[-1].config)


def refusal(run: Run, was: TrainConfig) -> ConfigError:
    given = ", ".join(f"{key} = {value}" for key, value in _limits(was).items())
    reason = {
        "cosine": "its learning rate follows a cosine over that budget",
        "wsd": "its cooldown has begun, and no checkpoint from before it is left",
    }.get(was.schedule.kind, "its warm-up depends on the budget")
    return ConfigError(
        f"{run.path}: cannot go on with another budget than {given}: {reason}. Start a run with its weights instead: "
        f"matscale train --from {run.path} -o ... with the budget that you want. A run can be extended by --resume if "
        "it has --set schedule.kind=constant, or wsd, whose last checkpoint before the cooldown is kept."
    )


def _kept(root: Path, step: int) -> Kept | None:
    folder = checkpoint.folder_of(root, step)
    try:
        check_training_state(checkpoint.read_state(folder), folder)
        return Kept.of(folder)
    except checkpoint.DamagedCheckpoint:
        return None
