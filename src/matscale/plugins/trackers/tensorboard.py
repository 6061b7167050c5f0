"""Tracker TensorBoard: event files in the folder `tensorboard` of a run. `tensorboard --logdir runs` shows all runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from matscale.plugin import Tracker, hookimpl, to_toml

if TYPE_CHECKING:
    from matscale.plugin import Run

FOLDER = "tensorboard"
FLUSH = 10
"""Longest time until a number is written to the file [s]."""


class Events:
    """Writer of one event file per session.

    It marks entries of older files as invalid if they belong to steps after `step`.
    """

    def __init__(self, run: Run, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # optional: tensorboard

        purge = step + 1 if step else None
        self.writer = SummaryWriter(str(run.path / FOLDER), purge_step=purge, flush_secs=FLUSH)
        if not step:
            self.writer.add_text("config", f"```toml\n{to_toml(run.config.plain())}```", 0)

    def log(self, step: int, time: float, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step, walltime=time)

    def close(self, status: str) -> None:
        self.writer.close()


@hookimpl
def register_trackers() -> list[Tracker]:
    return [Tracker("tensorboard", "event files for TensorBoard", Events, modules=("tensorboard",))]
