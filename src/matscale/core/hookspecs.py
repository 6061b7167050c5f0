"""All extension points (hooks) of matscale: the place to start reading.

A plugin is an importable module named by an entry point in the group `matscale`:

    [project.entry-points.matscale]
    mymodel = "matscale_mymodel"

and implements any of the functions below, marked with `@matscale.hookimpl`. Hooks return values (the core joins the
lists of all plugins), so that a test can call a hook without a host. To list plugins, only entry points are read; the
module of a plugin is imported when a name is used that only this plugin can provide. No hook is called inside a forward
pass.
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
    """Architectures, families of models: see `matscale.core.model.architecture.Architecture`."""


@hookspec
def register_readers() -> list[Reader]:  # type: ignore[empty-body]
    """Readers of file formats: a reader recognises its files and yields structures from them, one at a time."""


@hookspec
def register_labelers() -> list[Labeler]:  # type: ignore[empty-body]
    """Labelers: potentials that label structures with energy, forces and stress (`matscale data make --labeler`)."""


@hookspec
def register_losses() -> list[Loss]:  # type: ignore[empty-body]
    """Loss functions of residuals, chosen per term by name (`--set loss.forces.kind=huber`)."""


@hookspec
def register_laws() -> list[Law]:  # type: ignore[empty-body]
    """Forms of scaling laws. Laws in one variable compete when `matscale fit` chooses a form."""


@hookspec
def register_launchers() -> list[Launcher]:  # type: ignore[empty-body]
    """Launchers, which start the runs of a study (`matscale sweep --launcher slurm`)."""


@hookspec
def register_importers() -> list[Importer]:  # type: ignore[empty-body]
    """Importers, which read and write fairchem's checkpoints of an architecture (`matscale import fairchem`)."""


@hookspec
def register_trackers() -> list[Tracker]:  # type: ignore[empty-body]
    """Trackers, which display the metrics of a run during training (`matscale train --track tensorboard`)."""


@hookspec
def register_commands() -> list[click.Command]:  # type: ignore[empty-body]
    """Further commands of `matscale`. The name of a command is that of the plugin's entry point."""


# What a plugin can know better than the core ------------------------------------------------------------------------


@hookspec(firstresult=True)
def step_flops(architecture: Architecture, config: ArchitectureConfig, shape: BatchShape) -> float | None:
    """FLOPs of one optimiser step (forward, loss, backward) on a batch of `shape`.

    `shape` has `n_structures`, `n_atoms`, `n_edges`, `sum_atoms_squared` and `n_triplets`. Return None to let the core
    count the step by running it. A multiply-add is two FLOPs; a table look-up counts zero. See docs/flops.md.
    """


# What a plugin can watch: observers. One that raises is switched off for the rest of the run, with one warning -------


@hookspec
def run_started(run: Run) -> None:
    """Called when the run folder exists and its configuration is resolved, before any training."""


@hookspec
def step_ended(run: Run, metrics: dict[str, float]) -> None:
    """Called when a row of training metrics was written (every log point, not every step)."""


@hookspec
def evaluated(run: Run, metrics: dict[str, float]) -> None:
    """Called when a row of validation metrics was written."""


@hookspec
def checkpoint_saved(run: Run, step: int) -> None:
    """Called when a checkpoint is complete on disk."""


@hookspec
def run_ended(run: Run, status: str) -> None:
    """Called when the run is over: `completed`, `stopped`, `failed`."""
