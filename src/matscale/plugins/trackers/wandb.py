"""Tracker Weights & Biases, offline: files in the folder `wandb` of a run, which `wandb sync` uploads on demand.

No connection is opened unless the environment says `WANDB_MODE=online`; only then does wandb send reports of its
errors. `WANDB_PROJECT`, `WANDB_ENTITY` and the like have their usual effect.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from matscale.plugin import Tracker, hookimpl, make_folder, write_text

if TYPE_CHECKING:
    from matscale.plugin import Run

FOLDER, IDENTITY = "wandb", "run-id"
"""Folder of wandb, and the file with the id of its run: all sessions of a run belong to one run of wandb."""
MODE, REPORTS = "WANDB_MODE", "WANDB_ERROR_REPORTING"


class Session:
    """Session of a run in wandb; all sessions of a run have the same id there."""

    def __init__(self, run: Run, step: int) -> None:
        import wandb  # optional: wandb

        mode = os.environ.get(MODE, "offline")
        quiet = wandb.Settings(silent=True, console="off", root_dir=str(run.path), program=None)
        with _reporting(mode):
            self.run = wandb.init(
                mode=cast(Any, mode),
                project=os.environ.get("WANDB_PROJECT", "matscale"),
                name=run.name,
                group=run.info.get("labels", {}).get("study"),
                config={**run.config.plain(), "parameters": run.info.get("parameters", {})},
                id=_identity(run),
                resume=None if mode == "offline" else "allow",  # for offline runs, wandb appends on upload
                settings=quiet,
            )

    def log(self, step: int, time: float, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self, status: str) -> None:
        self.run.finish(exit_code=0 if status == "completed" else 1)


def _identity(run: Run) -> str:
    file = run.path / FOLDER / IDENTITY
    if not file.exists():
        make_folder(file.parent)
        write_text(file, f"{uuid4().hex[:12]}\n")
    return file.read_text(encoding="utf-8").strip()


@contextmanager
def _reporting(mode: str) -> Iterator[None]:
    """Context in which wandb reports errors of its own only if it is online.

    By default wandb starts a process for these reports, even offline.
    """
    before = os.environ.get(REPORTS)
    if mode in ("offline", "disabled"):
        os.environ[REPORTS] = "false"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(REPORTS, None)
        else:
            os.environ[REPORTS] = before


@hookimpl
def register_trackers() -> list[Tracker]:
    return [Tracker("wandb", "Weights & Biases, offline unless WANDB_MODE says otherwise", Session, modules=("wandb",))]
