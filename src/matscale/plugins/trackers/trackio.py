"""Tracker Trackio: a local database in the folder `trackio` of a run.

`TRACKIO_DIR=RUN/trackio trackio show` opens its dashboard. If `TRACKIO_DIR` is set during training, all runs go to that
folder, and a study has one dashboard. Nothing is sent to other machines unless the environment names a server
(`TRACKIO_SERVER_URL`, `TRACKIO_SPACE_ID`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matscale.plugin import PluginError, Tracker, hookimpl

if TYPE_CHECKING:
    from matscale.plugin import Run

FOLDER, WHERE = "trackio", "TRACKIO_DIR"
PROJECT = "matscale"


class Session:
    """Session of a run in trackio; a later session of the run continues the same entry there."""

    def __init__(self, run: Run, step: int) -> None:
        self.trackio = trackio = _imported(Path(os.environ.get(WHERE) or (run.path / FOLDER).resolve()))
        labels = run.info.get("labels", {})
        with redirect_stdout(io.StringIO()):  # it prints a long greeting
            self.run = trackio.init(
                project=PROJECT,
                name=run.name,
                group=labels.get("study"),
                config={**run.config.plain(), "parameters": run.info.get("parameters", {})},
                resume="allow" if step else "never",
                auto_log_gpu=False,
                auto_log_cpu=False,
                embed=False,
            )

    def log(self, step: int, time: float, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self, status: str) -> None:
        with redirect_stdout(io.StringIO()):
            self.trackio.finish()  # rather than the run's own method, which would be called again at the exit


def _imported(folder: Path) -> Any:
    """Import trackio so that it writes to `folder`; it reads the name of its folder from the environment on import."""
    before = os.environ.get(WHERE)
    os.environ[WHERE] = str(folder)
    try:
        import trackio  # optional: trackio
        from trackio.utils import TRACKIO_DIR
    finally:
        if before is None:
            del os.environ[WHERE]
        else:
            os.environ[WHERE] = before
    if folder != TRACKIO_DIR:
        raise PluginError(
            f"trackio writes to one folder per process, and this one writes to {TRACKIO_DIR}, not {folder}. Set "
            f"{WHERE} to one folder for all runs, or train each in a separate process."
        )
    return trackio


@hookimpl
def register_trackers() -> list[Tracker]:
    return [Tracker("trackio", "a local database for Trackio", Session, modules=("trackio",))]
