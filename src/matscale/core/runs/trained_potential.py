"""Restore a trained potential from a run folder.

Its architecture is found by name, its weights are read from a checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch

from matscale.core.errors import ConfigError, MatscaleError, NonFinitePrediction, PluginError
from matscale.core.hosting.host import host
from matscale.core.model.architecture import Architecture, DatasetInfo
from matscale.core.model.potential import Potential
from matscale.core.runs import checkpoint as checkpoints
from matscale.core.runs.config import differences
from matscale.core.runs.files import CONFIG, INFO, MOVABLE, RESUMABLE
from matscale.core.runs.info import without
from matscale.core.runs.record import Kept, Run
from matscale.core.runs.resumable import non_finite
from matscale.core.runs.status import unusable

PRETEXT_PREFIX = "pretext."
"""Prefix of the names of parameters that pre-training adds to a potential."""


def restored(run: Run, checkpoint: str | int, averaged: bool | None = None) -> Potential:
    """Restore the Potential of a run, on the CPU; see `matscale.core.inference.load.load`.

    Parameters that only pre-training needs are left out.
    """
    architecture = architecture_of(run)
    config = architecture.config.parse(run.config.architecture.config, f"{run.path}: architecture.config")
    if "dataset_info" not in run.info:
        raise ConfigError(unusable(run.path, "ended before its first step"))
    step = resolve_step(run, checkpoint)
    weights = _weights(run, step, averaged)
    info = DatasetInfo.parse(_of_the_same_model(run, step)["dataset_info"])
    if run.config.pretrain is not None:
        weights = {name: w for name, w in weights.items() if not name.startswith(PRETEXT_PREFIX)}
    potential = Potential.of(architecture, config, info, seed=run.config.seed, isolated=run.config.data.isolated)
    potential.zero_net_force = run.config.net_force == "removed"
    if any(w.dtype == torch.float64 for name, w in weights.items() if name.startswith("model.")):
        potential.model.double()
    try:
        potential.load_state_dict(weights)
    except RuntimeError as error:
        raise PluginError(
            f"{run.path}: the weights do not fit the architecture {architecture.name!r} as it is installed. "
            f"{_trained_with(run)} {error}"
        ) from None
    told = {**dict(potential.named_parameters()), "references": potential.references, "scales": potential.scales}
    if bad := non_finite(told):
        raise NonFinitePrediction(
            f"{checkpoints.folder_of(run.checkpoint_folder, step)}: weights of the model are not finite ({bad}): its "
            f"predictions for all structures would be meaningless. {_another(run, step)}"
        )
    return potential


def architecture_of(run: Run) -> Architecture:
    """Find the architecture of a run. Raises PluginError that says what to install if it is missing."""
    try:
        return host().architecture(run.config.architecture.name)
    except MatscaleError as error:
        raise PluginError(
            f"{run.path}: its architecture {run.config.architecture.name!r} is missing. {_trained_with(run)} {error}"
        ) from None


def _trained_with(run: Run) -> str:
    origin = run.info.get("architecture", {})
    name, version = origin.get("distribution"), origin.get("version")
    return f"The run was trained with {name} {version}: pip install {name}=={version}." if name and version else ""


def resolve_step(run: Run, checkpoint: str | int) -> int:
    """Find the step that `checkpoint` means: `best`, `last` or a number.

    Raises ConfigError that lists the existing checkpoints if there is no such checkpoint.
    """
    steps = run.checkpoints()
    if not steps:
        raise ConfigError(unusable(run.path, "has no checkpoint"))
    if checkpoint in ("best", "last"):
        step = run.best if checkpoint == "best" else None
        step = run.last if step is None else step
        return steps[-1] if step is None else step
    if str(checkpoint).isdecimal() and int(checkpoint) in steps:
        return int(checkpoint)
    raise ConfigError(
        f"{run.path}: has no checkpoint {checkpoint!r}. Known: best, last, {', '.join(str(s) for s in steps)}."
    )


def _weights(run: Run, step: int, averaged: bool | None) -> dict[str, torch.Tensor]:
    folder = checkpoints.folder_of(run.checkpoint_folder, step)
    if averaged and not checkpoints.has_average(folder):
        raise ConfigError(
            f"{folder}: has no averaged weights: the run was trained without an average (optimizer.ema). Choose "
            "the raw weights, or leave the choice out."
        )
    try:
        return checkpoints.load_weights(folder, averaged is not False)
    except checkpoints.DamagedCheckpoint as error:
        kind = NonFinitePrediction if isinstance(error, checkpoints.NonFiniteCheckpoint) else MatscaleError
        told = "Predictions for all structures would be meaningless. " if kind is NonFinitePrediction else ""
        raise kind(f"{error} {told}{_another(run, step)}") from None


def _another(run: Run, step: int) -> str:
    others = ", ".join(str(s) for s in run.checkpoints() if s != step)
    return f"Choose another checkpoint: {others}." if others else "There is no other one: train again."


def _of_the_same_model(run: Run, step: int) -> dict[str, Any]:
    """Return run.json, after a check that config.toml is the configuration of the checkpoint's weights.

    Raises ConfigError if it is not.
    """
    folder = checkpoints.folder_of(run.checkpoint_folder, step)
    try:
        kept = Kept.of(folder)
    except checkpoints.DamagedCheckpoint as error:
        raise MatscaleError(f"{error} {_another(run, step)}") from None
    if kept is None:  # of an older matscale
        return run.info
    was, now = (without(config.plain(), (*RESUMABLE, *MOVABLE)) for config in (kept.config, run.config))
    if changed := differences(was, now):
        listed = "; ".join(f"{key} was {before!r}, is {after!r}" for key, (before, after) in changed.items())
        raise ConfigError(
            f"{run.path / CONFIG}: has been changed since the checkpoint of step {step} was made ({listed}): its "
            "weights are those of another model or training. Undo the change, or train another run with -o."
        )
    if kept.info.get("dataset_info") != run.info["dataset_info"]:
        raise ConfigError(
            f"{run.path / INFO}: its dataset_info differs from that in the checkpoint of step {step}. Delete the "
            "file: the copy in the newest checkpoint then replaces it."
        )
    return run.info
