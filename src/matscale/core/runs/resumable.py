"""Check whether a run can continue from a checkpoint.

The state of the checkpoint must be well-formed, and its weights must be finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matscale.core.runs.checkpoint import Checkpoint, DamagedCheckpoint
from matscale.core.runs.files import METRICS
from matscale.core.runs.info import Amount, Count

Number = Annotated[float, Field(allow_inf_nan=True)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _TrainingState(_Part):
    model_config = ConfigDict(strict=True, extra="forbid")

    step: Count
    epoch: Count
    batch: Count
    structures: Count
    atoms: Count
    edges: Count
    flops: Amount
    validation_flops: Amount = 0.0
    wall_s: Amount
    skipped: Count = 0
    best: dict[str, Any] | None = None
    validated: dict[str, Any] | None = None
    since_best: Count = 0


class _Interval(_Part):
    metrics: list[list[Number]]
    objective: Number
    gradient_norm: Number
    steps: Count
    lr: Amount


class _Rows(_Part):
    rows: Count
    sha256: str


class _State(_Part):
    position: _TrainingState
    interval: _Interval
    rows: dict[str, Count | _Rows]
    scaler: dict[str, Any]


class _WithTrainingState(_Part):
    position: _TrainingState


M = TypeVar("M", bound=BaseModel)


def _parsed(kind: type[M], state: Mapping[str, Any], folder: Path) -> M:
    try:
        return kind.model_validate(state)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DamagedCheckpoint(f"{folder}: state.json is malformed ({where}: {first['msg']}).") from None


def check_training_state(state: Mapping[str, Any], folder: Path) -> None:
    """Raises DamagedCheckpoint if `state` does not hold the training state of the run: step, epoch, batch, ...

    `folder` names the checkpoint in the message.
    """
    _parsed(_WithTrainingState, state, folder)


def check_state(saved: Checkpoint, folder: Path) -> None:
    """Check that a run can continue from a checkpoint. Raises DamagedCheckpoint that says what is wrong."""
    state = _parsed(_State, saved.state, folder)
    if state.position.step != saved.step:
        raise DamagedCheckpoint(f"{folder}: state.json is that of step {state.position.step}.")
    if METRICS not in state.rows:
        raise DamagedCheckpoint(f"{folder}: state.json does not say how many rows {METRICS} had.")
    for row in (state.position.best, state.position.validated):
        if row is not None and not isinstance(row.get("step"), int):
            raise DamagedCheckpoint(f"{folder}: state.json holds a validation without its step.")
    if len({len(row) for row in state.interval.metrics} - {2}) > 0:
        raise DamagedCheckpoint(f"{folder}: state.json is malformed (interval.metrics).")
    # Only trained weights are checked; a buffer may hold infinities on purpose.
    trained = {key.rpartition(".")[0] for key in saved.optimizer}
    for group, tensors in (("model", saved.model), ("ema", saved.ema or {})):
        if bad := non_finite({name: value for name, value in tensors.items() if name in trained}):
            raise DamagedCheckpoint(f"{folder}: {group}.safetensors holds numbers that are not finite ({bad}).")


def non_finite(tensors: dict[str, torch.Tensor]) -> str:
    """List tensors that contain a NaN or an infinity: three names and the number of others; empty if none does."""
    bad = [name for name, value in tensors.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    return ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
