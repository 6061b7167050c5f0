"""Hooks of matscale: the functions that a plugin can implement. This is the place to start reading.

A plugin is an importable module that an entry point in the group `matscale` names:

    [project.entry-points.matscale]
    mymodel = "matscale_mymodel"

It implements any of the functions below, marked with `@matscale.hookimpl`. Hooks return values (the core joins the
lists of all plugins), so that a test can call a hook directly. To list plugins, only entry points are read. The module
of a plugin is imported when a name is used that only this plugin can provide. No hook is called inside a forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from matscale.core.data.batch import BatchShape
    from matscale.core.data.sources.reader import Reader
    from matscale.core.data.synthetic.labelers import Labeler
    from matscale.core.fairchem.importer import Importer
    from matscale.core.hosting.tracker import Tracker
    from matscale.core.model.architecture import Architecture, ArchitectureConfig
    from matscale.core.runs.record import Run
    from matscale.core.scaling.law import Law
    from matscale.core.study.launcher import Launcher
    from matscale.core.train.loss import Loss

hookspec = pluggy.HookspecMarker("matscale")
hookimpl = pluggy.HookimplMarker("matscale")


# What a plugin can supply -------------------------------------------------------------------------------------------


@hookspec
def register_architectures() -> list[Architecture]:  # type: ignore[empty-body]
    """Architectures, that is, families of models: see `matscale.core.model.architecture.Architecture`."""


@hookspec
def register_readers() -> list[Reader]:  # type: ignore[empty-body]
    """Readers of file formats. A reader recognises its files and yields their structures, one at a time."""


@hookspec
def register_labelers() -> list[Labeler]:  # type: ignore[empty-body]
    """Labelers: potentials that label structures with energy, forces and stress (`matscale data make --labeler`)."""


@hookspec
def register_losses() -> list[Loss]:  # type: ignore[empty-body]
    """Loss functions of residuals. Users choose one for each term by its name (`--set loss.forces.kind=huber`)."""


@hookspec
def register_laws() -> list[Law]:  # type: ignore[empty-body]
    """Forms of scaling laws. `matscale fit` chooses one of the laws in one variable."""


@hookspec
def register_launchers() -> list[Launcher]:  # type: ignore[empty-body]
    """Launchers: ways to start the runs of a study (`matscale sweep --launcher slurm`)."""


@hookspec
def register_importers() -> list[Importer]:  # type: ignore[empty-body]
    """Importers: each reads and writes fairchem's checkpoints of one architecture (`matscale import fairchem`)."""


@hookspec
def register_trackers() -> list[Tracker]:  # type: ignore[empty-body]
    """Trackers: programs that display the metrics of a run during training (`matscale train --track tensorboard`)."""


@hookspec
def register_commands() -> list[click.Command]:  # type: ignore[empty-body]
    """Commands of `matscale`. A command must have the name of the plugin's entry point."""


# What a plugin can know better than the core ------------------------------------------------------------------------


@hookspec(firstresult=True)
def step_flops(architecture: Architecture, config: ArchitectureConfig, shape: BatchShape) -> float | None:
    """FLOPs of one optimizer step (forward, loss, backward) on a batch of `shape`.

    `shape` has `n_structures`, `n_atoms`, `n_edges`, `sum_atoms_squared` and `n_triplets`. If the result is None, the
    core runs the step and counts its FLOPs. A multiply-add counts as two FLOPs, a table look-up as zero. See
    docs/flops.md.
    """


# What a plugin can watch: observers. One that raises is switched off for the rest of the run, with one warning -------


@hookspec
def run_started(run: Run) -> None:
    """Called before training, when the run folder exists and its configuration is complete."""


@hookspec
def step_ended(run: Run, metrics: dict[str, float]) -> None:
    """Called when a row of training metrics was written, which happens every `log_every` steps."""


@hookspec
def evaluated(run: Run, metrics: dict[str, float]) -> None:
    """Called when a row of validation metrics was written."""


@hookspec
def checkpoint_saved(run: Run, step: int) -> None:
    """Called when a checkpoint is complete on the disk."""


@hookspec
def run_ended(run: Run, status: str) -> None:
    """Called when the run has ended. `status` is `completed`, `stopped` or `failed`."""
